"""The store of finished runs: what a run's folder is named by, when it is trained, and
what becomes of damage."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import linear_cnn
from experiments.frame import disk
from experiments.trained import Network, Run, store
from experiments.trained import data as trained_data


class Training:
    """In the place of `linear_cnn.train_seeds`: counts how often it starts, and stops
    when told to."""

    def __init__(self) -> None:
        self.started = 0
        self.continued = 0
        self.killed = False

    def __call__(
        self, init, images, targets, *, keys, record_steps, checkpoint_dir, **arguments
    ):
        self.started += 1
        self.continued += checkpoint_dir.exists()
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        if self.killed:
            raise KeyboardInterrupt
        self.arguments = arguments | {
            "images": images,
            "targets": targets,
            "keys": keys,
            "record_steps": record_steps,
        }
        self.float64 = jax.config.jax_enable_x64
        self.network = init(jax.random.key(0))
        records = (len(keys), 1 + len(record_steps))
        some = np.random.default_rng(self.started).random(records, np.float32)
        validated = (
            {}
            if arguments["validation"] is None
            else {"validation_loss": some, "validation_accuracy": some}
        )
        conv1 = np.ones((*records, 3, 3, 3, 4))
        return linear_cnn.Trajectory(
            np.array([0, *record_steps]), conv1, some, some, **validated
        )


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    trained_data._image_set.cache_clear()
    fake = Training()
    monkeypatch.setattr(linear_cnn, "train_seeds", fake)
    return fake


def recorded(run: Run, folder: Path, **options):
    return store.recorded(run, trained_data.load(run), folder, **options)


def test_training_takes_what_the_run_says(
    run: Run, training: Training, tmp_path: Path
) -> None:
    run = dataclasses.replace(run, seed=3, frozen=("conv1",), weight_decay=0.5)
    arrays = recorded(run, tmp_path / "store")
    given = training.arguments
    # 24 images are 4 batches of 5.
    np.testing.assert_array_equal(given["record_steps"], [4, 20])
    np.testing.assert_array_equal(arrays["epochs"], [0, 1, 5])
    assert (given["epochs"], given["batch_size"], given["frozen"]) == (5, 5, ("conv1",))
    assert given["loss"] == "cross_entropy"
    keys = jax.random.split(jax.random.key(3), 2)
    np.testing.assert_array_equal(
        jax.random.key_data(given["keys"]), jax.random.key_data(keys)
    )
    # Weights decay towards 0, and the step is the learning rate times that.
    weights = {"w": np.ones(2, np.float32)}
    optimizer = given["optimizer"]
    updates, _ = optimizer.update(
        {"w": np.zeros(2, np.float32)}, optimizer.init(weights), weights
    )
    np.testing.assert_allclose(updates["w"], -0.01 * 0.5)
    # Whatever JAX's flag says, here on.
    assert jax.config.jax_enable_x64
    assert not training.float64
    assert given["images"].dtype == np.float32
    assert given["targets"].dtype == np.int32
    assert training.network.conv1.kernel.dtype == np.float32
    assert training.network.conv1.kernel.shape == (3, 3, 3, 4)


def test_a_finished_run_is_read(run: Run, training: Training, tmp_path: Path) -> None:
    first = recorded(run, tmp_path / "store")
    again = recorded(dataclasses.replace(run), tmp_path / "store")
    assert training.started == 1
    assert first.keys() == again.keys() == {*store.RECORDED, "epochs"}
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    [place] = (tmp_path / "store").iterdir()
    assert {file.name for file in place.iterdir()} == {"arrays.npz", "config.json"}
    content = json.loads((place / "config.json").read_text())
    assert content["run"]["learning_rate"] == 0.01
    assert content["run"]["network"]["features"] == [4, 2, 2]
    assert content["environment"]["versions"]["jax"]
    assert content["seconds"] > 0
    assert content["continued_from_checkpoint"] is False
    assert content["first_networks_from"] is None


def test_more_seeds_extend_a_run(run: Run, training: Training, tmp_path: Path) -> None:
    """Only the networks that no finished run has are trained, and those of the largest
    one come first."""

    def content(seeds: int) -> dict:
        more = dataclasses.replace(run, seeds=seeds)
        name = store.identifier(store.configuration(more, trained_data.load(more)))
        return {"name": name} | json.loads(
            (tmp_path / "store" / name / "config.json").read_text()
        )

    parts = {}
    for seeds, trained_now in ((2, 2), (3, 1), (7, 4)):
        arrays = recorded(dataclasses.replace(run, seeds=seeds), tmp_path / "store")
        keys = jax.random.key_data(jax.random.split(jax.random.key(run.seed), seeds))
        np.testing.assert_array_equal(
            jax.random.key_data(training.arguments["keys"]), keys[seeds - trained_now :]
        )
        for name, array in arrays.items():
            if name in ("steps", "epochs"):
                np.testing.assert_array_equal(array, parts.get(name, array))
            else:
                assert len(array) == seeds
                assert len(np.unique(array[:, -1].reshape(seeds, -1)[:, 0])) == (
                    1 if name == "conv1" else seeds
                )
                np.testing.assert_array_equal(
                    array[: seeds - trained_now], parts.get(name, array[:0])
                )
        parts = arrays
    assert content(7)["first_networks_from"] == content(3)["name"]
    assert content(3)["first_networks_from"] == content(2)["name"]
    assert training.started == 3
    # Not a run that differs in more than its seeds, nor any if all is to be trained
    # afresh.
    recorded(dataclasses.replace(run, seeds=8, seed=1), tmp_path / "store")
    assert len(training.arguments["keys"]) == 8
    recorded(dataclasses.replace(run, seeds=7), tmp_path / "store", fresh=True)
    assert len(training.arguments["keys"]) == 7
    assert content(7)["first_networks_from"] is None


def test_fewer_seeds_are_read_from_a_larger_run(
    run: Run, training: Training, tmp_path: Path
) -> None:
    """From the one that is just large enough; nothing is written."""
    largest = recorded(dataclasses.replace(run, seeds=7), tmp_path / "store")
    shutil.rmtree(
        next((tmp_path / "store").iterdir()) / "checkpoints", ignore_errors=True
    )
    five = recorded(dataclasses.replace(run, seeds=5), tmp_path / "store", fresh=True)
    before = sorted((tmp_path / "store").rglob("*"))
    few = recorded(dataclasses.replace(run, seeds=2), tmp_path / "store")
    assert few.keys() == five.keys() == largest.keys()
    for name, array in few.items():
        np.testing.assert_array_equal(
            array, five[name] if name in ("steps", "epochs") else five[name][:2]
        )
    assert (few["loss"] != largest["loss"][:2]).any()
    assert sorted((tmp_path / "store").rglob("*")) == before
    assert training.started == 2


def test_a_run_in_a_folder_of_another_name_is_not_used(
    run: Run, training: Training, tmp_path: Path
) -> None:
    recorded(run, tmp_path / "store")
    [place] = (tmp_path / "store").iterdir()
    place.rename(place.with_name("0123456789abcdef"))
    (tmp_path / "store" / "damaged").mkdir()
    for number, text in enumerate(
        ("{", "[]", "{}", '{"run": 1}', '{"run": {"seeds": "many"}}')
    ):
        (tmp_path / "store" / f"damaged_{number}").mkdir()
        (tmp_path / "store" / f"damaged_{number}" / "config.json").write_text(text)
    recorded(dataclasses.replace(run, seeds=3), tmp_path / "store")
    assert len(training.arguments["keys"]) == 3


def test_a_killed_run_continues_as_it_began(
    run: Run, training: Training, tmp_path: Path
) -> None:
    """Whatever was finished in the meantime, and also if it was to be trained
    afresh."""
    more = dataclasses.replace(run, seeds=5)
    training.killed = True
    with pytest.raises(KeyboardInterrupt):
        recorded(more, tmp_path / "store")  # all 5
    training.killed = False
    recorded(run, tmp_path / "store")
    recorded(dataclasses.replace(run, seeds=9), tmp_path / "store")  # 7 beside these 2
    recorded(more, tmp_path / "store")
    assert len(training.arguments["keys"]) == 5
    assert (training.started, training.continued) == (4, 1)
    training.killed = True
    with pytest.raises(KeyboardInterrupt):
        recorded(more, tmp_path / "store", fresh=True)
    training.killed = False
    recorded(more, tmp_path / "store")
    assert len(training.arguments["keys"]) == 5
    assert (training.started, training.continued) == (6, 2)
    # One that took networks over continues with the same ones.
    most = dataclasses.replace(run, seeds=12)
    training.killed = True
    with pytest.raises(KeyboardInterrupt):
        recorded(most, tmp_path / "store")  # the last 3
    training.killed = False
    recorded(dataclasses.replace(run, seeds=11), tmp_path / "store")
    recorded(most, tmp_path / "store")
    assert len(training.arguments["keys"]) == 3
    assert (training.started, training.continued) == (9, 3)
    assert not list((tmp_path / "store").glob("*/checkpoints"))


def test_divergence_says_how_networks_are_counted(
    run: Run, training: Training, tmp_path: Path, monkeypatch
) -> None:
    recorded(run, tmp_path / "store")

    def diverge(*arguments, **options):
        raise linear_cnn.TrainingDiverged(
            "the loss of seed 0 is nan at step 1", "what was recorded"
        )

    monkeypatch.setattr(linear_cnn, "train_seeds", diverge)
    with pytest.raises(
        linear_cnn.TrainingDiverged,
        match=r"seed 0 is nan .* after the first 2 networks",
    ) as raised:
        recorded(dataclasses.replace(run, seeds=4), tmp_path / "store")
    assert raised.value.trajectory == "what was recorded"
    with pytest.raises(
        linear_cnn.TrainingDiverged, match=r"^the loss of seed 0 is nan at step 1$"
    ):
        recorded(dataclasses.replace(run, seed=9), tmp_path / "store")


def test_a_run_is_not_extended_if_it_is_damaged(
    run: Run, training: Training, tmp_path: Path
) -> None:
    recorded(run, tmp_path / "store")
    [place] = (tmp_path / "store").iterdir()
    (place / "arrays.npz").unlink()
    more = dataclasses.replace(run, seeds=3)
    with pytest.raises(
        FileNotFoundError,
        match=rf"{place.name}.*does not exist; train the run again with --fresh",
    ):
        recorded(more, tmp_path / "store")
    assert training.started == 1
    assert len(recorded(more, tmp_path / "store", fresh=True)["loss"]) == 3


def test_networks_of_an_extended_run_are_those_of_one_run(
    run: Run, tmp_path: Path
) -> None:
    trained_data._image_set.cache_clear()
    more = dataclasses.replace(run, seeds=3)
    together = recorded(more, tmp_path / "one")
    recorded(run, tmp_path / "two")
    extended = recorded(more, tmp_path / "two")
    assert together.keys() == extended.keys()
    for name, array in together.items():
        np.testing.assert_allclose(extended[name], array, rtol=1e-4, atol=1e-6)


def test_the_optimizer_has_momentum_and_weight_decay() -> None:
    """Two steps at weights of 2 and gradients of 1: 0.9 of the first is in the
    second."""
    optimizer = store._optimizer(0.1, 0.9, 0.25)
    weights, gradient = np.full(3, 2.0, np.float32), np.ones(3, np.float32)
    state = optimizer.init(weights)
    for expected in (-0.15, -0.15 * 1.9):
        update, state = optimizer.update(gradient, state, weights)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_a_cosine_lets_the_rate_fall_to_zero_by_the_end(
    run: Run, training: Training, tmp_path: Path
) -> None:
    recorded(run, tmp_path / "store")
    constant = training.arguments["optimizer"]
    recorded(dataclasses.replace(run, schedule="cosine"), tmp_path / "store")
    assert training.started == 2  # another run
    for optimizer, expected in (
        (constant, np.full(20, 0.01)),
        # 5 epochs of 4 steps.
        (
            training.arguments["optimizer"],
            0.01 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2,
        ),
    ):
        state, rates = optimizer.init(np.zeros(1, np.float32)), []
        with jax.numpy_dtype_promotion("standard"):  # Optax divides integers by floats
            for _ in range(20):
                update, state = optimizer.update(np.ones(1, np.float32), state)
                rates.append(-float(update[0]))
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_runs_from_before_there_were_schedules_are_found(run: Run) -> None:
    data = trained_data.load(run)
    assert "schedule" not in store.configuration(run, data)
    assert (
        store.configuration(dataclasses.replace(run, schedule="cosine"), data)[
            "schedule"
        ]
        == "cosine"
    )


def test_runs_of_another_format_are_others(
    run: Run, training: Training, tmp_path: Path, monkeypatch
) -> None:
    recorded(run, tmp_path / "store")
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    recorded(run, tmp_path / "store")
    assert training.started == 2


def test_fresh_that_is_killed_while_it_removes_leaves_no_finished_run(
    run: Run, training: Training, tmp_path: Path, monkeypatch
) -> None:
    recorded(run, tmp_path / "store")

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            recorded(run, tmp_path / "store", fresh=True)
    recorded(run, tmp_path / "store")
    assert training.started == 2


def test_fresh_replaces_a_run(run: Run, training: Training, tmp_path: Path) -> None:
    first = recorded(run, tmp_path / "store")
    again = recorded(run, tmp_path / "store", fresh=True)
    assert (training.started, training.continued) == (2, 0)
    assert (first["loss"] != again["loss"]).all()
    np.testing.assert_array_equal(
        recorded(run, tmp_path / "store")["loss"], again["loss"]
    )
    # Nor does it continue what was left unfinished.
    training.killed = True
    with pytest.raises(KeyboardInterrupt):
        recorded(run, tmp_path / "store", fresh=True)
    training.killed = False
    recorded(run, tmp_path / "store", fresh=True)
    assert (training.started, training.continued) == (4, 0)


def test_a_killed_run_continues(
    run: Run, training: Training, tmp_path: Path, monkeypatch
) -> None:
    training.killed = True
    with pytest.raises(KeyboardInterrupt):
        recorded(run, tmp_path / "store")
    training.killed = False
    # Killed again, between the two files: the checkpoints must still be there.
    with monkeypatch.context() as patch:
        patch.setattr(
            disk,
            "write_json",
            lambda *content: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            recorded(run, tmp_path / "store")
    recorded(run, tmp_path / "store")
    assert (training.started, training.continued) == (3, 2)
    [place] = (tmp_path / "store").iterdir()
    assert (
        json.loads((place / "config.json").read_text())["continued_from_checkpoint"]
        is True
    )
    assert not (place / "checkpoints").exists()
    # Killed while the checkpoints were removed.
    (place / "checkpoints").mkdir()
    recorded(run, tmp_path / "store")
    assert training.started == 3
    assert not (place / "checkpoints").exists()


CHANGES = {
    "network": Network("SmallCNN", features=(4, 2, 3)),
    "images": 22,
    "validation": 4,
    "hold_out": 3,
    "epochs": 6,
    "record_epochs": (2, 5),
    "batch_size": 6,
    "learning_rate": 0.02,
    "seeds": 3,
    "seed": 1,
    "schedule": "cosine",
    "momentum": 0.9,
    "weight_decay": 0.1,
    "classes": ("1", "0"),
    "shuffled_labels": 0,
    "energy_component": 2,
    "scaled_component": (2, 3.0),
    "size": 4,
    "upright": True,
    "frozen": ("conv1",),
}


def test_every_part_of_the_configuration_makes_another_run(
    run: Run, images: Path, tmp_path: Path
) -> None:
    trained_data._image_set.cache_clear()
    shutil.copy(images, tmp_path / "copy.npz")
    changes = CHANGES | {"dataset": str(tmp_path / "copy.npz")}
    # Ten classes of energy need ten images.
    run = dataclasses.replace(run, validation=0)
    assert changes.keys() == {field.name for field in dataclasses.fields(Run)}

    def name(run: Run) -> str:
        file = dataclasses.replace(run, size=None, upright=False)  # as it is no folder
        return store.identifier(store.configuration(run, trained_data.load(file)))

    names = {
        name(dataclasses.replace(run, **{field: value}))
        for field, value in changes.items()
    }
    assert len(names | {name(run)}) == len(changes) + 1
    assert all(len(name) == 16 for name in names)


def without(name: str, path: Path) -> None:
    with np.load(path) as stored:
        content = {key: stored[key] for key in stored.files if key != name}
    np.savez(path, **content)


def fewer_seeds(path: Path) -> None:
    with np.load(path) as stored:
        content = {key: stored[key][:1] for key in stored.files}
    np.savez(path, **content)


def encrypted(path: Path) -> None:
    """By one bit in the headers of its first member."""
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", lambda path: path.write_text("{"), "config.json is damaged"),
        (
            "config.json",
            lambda path: path.write_bytes(b"\xff"),
            "config.json is damaged",
        ),
        (
            "config.json",
            lambda path: path.write_text("[]"),
            "config.json is of another run",
        ),
        (
            "config.json",
            lambda path: path.write_text(path.read_text().replace("0.01", "0.1")),
            "of another run",
        ),
        (
            "arrays.npz",
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            "arrays.npz is damaged",
        ),
        ("arrays.npz", lambda path: path.unlink(), "arrays.npz does not exist"),
        *(
            (
                "arrays.npz",
                partial(without, name),
                "arrays.npz is damaged: arrays of 2 networks are missing",
            )
            for name in ("epochs", *store.RECORDED)
        ),
        ("arrays.npz", encrypted, "arrays.npz is damaged"),
        (
            "arrays.npz",
            fewer_seeds,
            "arrays.npz is damaged: arrays of 2 networks are missing",
        ),
    ],
)
def test_damage(
    run: Run, training: Training, tmp_path: Path, file: str, damage, message: str
) -> None:
    recorded(run, tmp_path / "store")
    [place] = (tmp_path / "store").iterdir()
    damage(place / file)
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=rf"{message}.*train the run again with --fresh",
    ):
        recorded(run, tmp_path / "store")
    assert training.started == 1
    recorded(run, tmp_path / "store", fresh=True)
    assert training.started == 2


def test_an_unusable_store(run: Run, training: Training, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(OSError, match="--store"):
        recorded(run, tmp_path / "store")
    assert training.started == 0
