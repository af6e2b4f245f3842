"""Damaged checkpoints are named and never used: the one before is, or none."""

import errno
import json
import os
import shutil
import warnings

import chex
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from linear_cnn.training import _checkpoints, _loop
from tests.linear_cnn.test_checkpoints import run

ANEW = "[cC]hoose another checkpoint_dir, or delete this folder to start anew"
SETTINGS = {"epochs": 3, "optimizer": optax.adam(0.05)}


@pytest.fixture(scope="module")
def expected():
    return run(**SETTINGS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A finished run of 6 steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_loop, "_STRETCH_SECONDS", 0.0)
        patch.setattr(_loop, "_CHECKPOINT_SECONDS", 0.0)
        run(folder, **SETTINGS)
    assert names(folder) == {"5", "6"}
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def checked(folder, expected, name):
    """Go on: the same result bit for bit, or an error of one line that names the
    folder. Says which, and whether a checkpoint was skipped, which must be named."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result, error = run(folder, **SETTINGS), None
        except ValueError as raised:
            error = str(raised)
    if error is not None:
        assert "\n" not in error
        assert len(error) < 500
        assert str(folder) in error
        return "refused"
    chex.assert_trees_all_equal(result, expected)
    # Orbax has some of its own to say.
    said = [str(one.message) for one in caught if "damaged" in str(one.message)]
    assert all(str(folder / name) in text for text in said)
    return "skipped" if said else "the same"


@pytest.mark.slow
def test_flipped_bits_in_every_file(two, tmp_path, expected):
    """Of two checkpoints the newest: skipped; of the only one: refused."""
    random = np.random.default_rng(5)
    outcomes = []
    for name in files(two / "6"):
        content = (two / "6" / name).read_bytes()
        bits = random.choice(8 * len(content), min(4, 8 * len(content)), replace=False)
        for number, bit in enumerate(bits):
            folder = shutil.copytree(two, tmp_path / "damaged")
            if number % 2:
                shutil.rmtree(folder / "5")
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (folder / "6" / name).write_bytes(damaged)
            outcome = checked(folder, expected, "6")
            assert outcome == ("refused" if number % 2 else "skipped"), (name, bit)
            outcomes.append(outcome)
            shutil.rmtree(folder)
    # Also where Orbax would not have noticed.
    assert outcomes.count("skipped") == outcomes.count("refused") > 30


@pytest.mark.parametrize("only", [False, True])
@pytest.mark.parametrize("damage", ["emptied", "cut", "removed", "zeros"])
def test_damaged_files(two, tmp_path, expected, damage, only):
    for name in files(two / "6"):
        folder = shutil.copytree(two, tmp_path / "damaged")
        if only:
            shutil.rmtree(folder / "5")
        path = folder / "6" / name
        content = path.read_bytes()
        if damage == "removed":
            path.unlink()
        else:
            path.write_bytes(
                {
                    "emptied": b"",
                    "cut": content[: len(content) // 2],
                    "zeros": bytes(len(content)),  # as a crash may leave them
                }[damage]
            )
        outcome = checked(folder, expected, "6")
        if content:  # some that Orbax writes are empty
            assert outcome == ("refused" if only else "skipped"), name
        shutil.rmtree(folder)


def test_every_value_is_compared(folder, expected, monkeypatch):
    """One bit of one entry, changed after Orbax has read it: of every array."""
    read = _checkpoints.Checkpoints._read
    kept = _checkpoints._kept
    state = {}
    monkeypatch.setattr(
        _checkpoints, "_kept", lambda outline: state.update(kept(outline)) or state
    )
    run(folder, **SETTINGS)
    places = [("state", name) for name in state]
    places += [("rows", name) for name in ("conv1", "loss", "validation_loss")]
    assert len(places) > 12
    for item, name in places:

        def flipped(self, step, item=item, name=name, **items):
            found = read(self, step, **items)
            if item in found and step == 6:
                array = found[item][name] = np.array(found[item][name])
                array.reshape(-1).view(np.uint8)[0] ^= 1
            return found

        monkeypatch.setattr(_checkpoints.Checkpoints, "_read", flipped)
        with pytest.warns(UserWarning, match="/6 is damaged .*arrays do not match"):
            result = run(folder, **SETTINGS)
        chex.assert_trees_all_equal(result, expected)


def test_a_skipped_checkpoint_is_written_again(folder, expected):
    (folder / "6" / "run.json").write_text("{")
    with pytest.warns(
        UserWarning,
        match=(
            r"checkpoints/6 is damaged \(its run\.json is missing, damaged or of an"
            r" older version\); training continues from the checkpoint before, of step"
            r" 5\."
        ),
    ):
        chex.assert_trees_all_equal(run(folder, **SETTINGS), expected)
    assert names(folder) == {"5", "6"}
    chex.assert_trees_all_equal(run(folder, **SETTINGS), expected)


def renamed(step):
    def rename(folder):
        (folder / "6").rename(folder / step)

    return rename


def emptied(folder):
    shutil.rmtree(folder / "6")
    (folder / "6").mkdir()


def without(item):
    return lambda folder: shutil.rmtree(folder / "6" / item)


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (emptied, "6", r"its run\.json is missing, damaged or of an older version"),
        (without("state"), "6", r"its state/\S+ is missing"),
        (without("rows"), "6", r"its rows/\S+ is missing"),
        (renamed("600"), "600", "it is the one of step 6"),
        (renamed("4"), "4", "it is the one of step 6"),
        (renamed("0"), "0", "it is the one of step 6"),
        (
            lambda folder: (folder / "6" / "run.json").write_text('{"a": 1}'),
            "6",
            r"its run\.json is missing, damaged or of an older version",
        ),
        (
            lambda folder: (folder / "6" / "run.json").write_text(
                (folder / "5" / "run.json").read_text()
            ),
            "6",
            "it is the one of step 5",
        ),
    ],
)
def test_step_folders(folder, expected, damage, name, reason):
    damage(folder)
    alone = shutil.copytree(folder, folder.parent / "alone")
    shutil.rmtree(alone / "5")
    with pytest.raises(
        ValueError,
        match=(
            rf"no checkpoint in .*alone is whole: the checkpoint .*alone/{name} is"
            rf" damaged \({reason}\)\. {ANEW}"
        ),
    ):
        run(alone, **SETTINGS)
    if int(name) > 5:
        with pytest.warns(UserWarning, match=rf"/{name} is damaged \({reason}\)"):
            chex.assert_trees_all_equal(run(folder, **SETTINGS), expected)
    else:
        chex.assert_trees_all_equal(run(folder, **SETTINGS), expected)


def test_a_checkpoint_of_no_step_of_the_run(folder):
    """Whatever its checksums say: there is no way on from there."""
    shutil.rmtree(folder / "5")
    path = folder / "6" / "run.json"
    content = json.loads(path.read_text())
    del content["digest"]
    content |= {"step": 3, "digest": _checkpoints._of_json(content | {"step": 3})}
    path.write_text(json.dumps(content))
    (folder / "6").rename(folder / "3")
    with pytest.raises(ValueError, match="it is of no step of this run"):
        run(folder, **SETTINGS)


def test_what_an_interruption_leaves_is_removed(folder, expected):
    for name in ("7.unfinished", "4.unfinished.orbax-checkpoint-tmp", "3.removed"):
        shutil.copytree(folder / "6", folder / name)
    (folder / "notes").mkdir()  # someone else's
    chex.assert_trees_all_equal(run(folder, **SETTINGS), expected)
    assert names(folder) == {"5", "6", "notes"}


def test_a_full_disk(tmp_path, full):
    """The error says what is left, and with room again training continues."""
    folder = tmp_path / "checkpoints"
    full.after(0)
    with pytest.raises(
        OSError,
        match=r"cannot write the checkpoint .*/0 \(OSError: .*No space left.*\)\. Make"
        r" room and start again.*: training continues from the start",
    ):
        run(folder, **SETTINGS)
    full.after(3)
    with pytest.raises(
        OSError,
        match=r"/3 \(.*training continues from the one of step 2, which is whole",
    ):
        run(folder, **SETTINGS)
    assert {"1", "2"} <= names(folder)
    full.after(1000)
    chex.assert_trees_all_equal(run(folder, **SETTINGS), run(**SETTINGS))
    assert names(folder) == {"5", "6"}


class Full:
    """Of the writes of Orbax so many are allowed, and the next one stops half-way."""

    def after(self, writes):
        self.left = writes


@pytest.fixture
def full(monkeypatch):
    monkeypatch.setattr(_loop, "_STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(_loop, "_CHECKPOINT_SECONDS", 0.0)
    disk = Full()
    handler = ocp.StandardCheckpointHandler
    save = handler.async_save

    async def limited(self, directory, *arguments, **options):
        if disk.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await save(self, directory, *arguments, **options)

    monkeypatch.setattr(handler, "async_save", limited)
    write = ocp.Checkpointer.save

    def counted(self, *arguments, **options):
        write(self, *arguments, **options)
        disk.left -= 1

    monkeypatch.setattr(ocp.Checkpointer, "save", counted)
    return disk


def test_long_errors_are_cut():
    text = _checkpoints._short(ValueError("a\n" * 5000))
    assert "\n" not in text
    assert len(text) < 220


def test_a_folder_that_is_read_only_is_named(tmp_path, monkeypatch):
    """Root may write everywhere, so that this is simulated."""
    opened = os.open

    def refuse(path, flags, *arguments, **options):
        if str(tmp_path) in str(path) and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(_loop, "_advance_all", None)  # nothing is computed
    with pytest.raises(
        OSError,
        match=r"cannot write checkpoints to .*checkpoints: .*; choose another",
    ):
        run(tmp_path / "checkpoints", **SETTINGS)
