"""The experiments end to end at a small size: what they write, redraw and refuse, and that wrong results fail."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import store, theory_vs_simulation
from experiments.theory_vs_simulation import Settings

pytestmark = pytest.mark.slow

SMALL = {"seeds": 64, "steps": 2000, "tiles": 256, "full_steps": 3, "exact_steps": 100, "filters": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    theory_vs_simulation.main(Settings(out=out, **SMALL))
    return out / "theory_vs_simulation"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> dict[str, np.ndarray]:
    return store.read_arrays(folder / "arrays.npz")


def test_files(folder: Path) -> None:
    names = {"profiles", "errors", "decorrelation_ratio", "autocorrelation"}
    expected = {f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")}
    assert {file.name for file in folder.iterdir()} == expected | {"config.json", "arrays.npz", "summary.json"}
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["seeds"] == SMALL["seeds"]
    assert config["environment"]["versions"]["jax"]
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_checks_pass(folder: Path) -> None:
    checks = json.loads((folder / "summary.json").read_text())["checks"]
    # So few steps do not whiten; everything else holds at this size too.
    failed = [row["check"] for row in checks if not row["passed"] and "constant at the last step" not in row["check"]]
    assert not failed
    assert len(checks) == 24
    exact = [row for row in checks if row["check"].startswith("exact form")]
    assert len(exact) == 7
    assert [len(row["wrong_formulas"]) for row in exact] == [2, 2, 2, 1, 1, 1, 1]


def failures(arrays: dict[str, np.ndarray]) -> set[str]:
    checks = theory_vs_simulation.judge(arrays)
    return {row["check"] for row in checks if not row["passed"]}


@pytest.mark.parametrize(
    ("field", "change", "failing"),
    [
        ("full/simulated", lambda w: np.repeat(w[:1], len(w), axis=0), "exact form, an eighth"),  # never trained
        ("few/predicted", lambda w: w * (1 + 1e-6), "exact form, 32 tiles, full"),
        ("permutations/expected", lambda e: e * (1 + 1e-6), "shuffled law"),
        ("compressed/simulated", lambda w: w + 1e-8, "all mean patches, vs compressed"),
        ("raw_drawn/expected_change", lambda e: e * 2, "expected profile, raw tiles, drawn targets, change"),
        ("raw_shuffled/expected_weights", lambda e: e * 2, "expected profile, raw tiles, shuffled labels, W"),
        ("patches_drawn/quantiles_change", lambda q: q * 0.5, "90 % band, patch-shuffled tiles, drawn targets, change"),
        ("patches_drawn/theorem", lambda e: e * 1.6, "Theorem 4.2, patch-shuffled"),
        ("raw_drawn/theorem", None, "Theorem 4.2 fails on raw tiles"),
        ("autocorrelation/shortcut", lambda c: c + 1e-5, "autocorrelation from cross moments"),
    ],
)  # fmt: skip
def test_a_wrong_array_fails_its_check(arrays, field, change, failing) -> None:
    if change is None:  # a theorem that held on raw tiles, though it must not
        rms = np.sqrt((theory_vs_simulation.simulated_profiles(arrays, "raw_drawn", "change") ** 2).mean(axis=0))
        wrong = arrays | {field: rms}
    else:
        wrong = arrays | {field: change(arrays[field])}
    with np.errstate(divide="ignore", invalid="ignore"):
        new = failures(wrong) - failures(arrays)
    assert any(name.startswith(failing) for name in new)


def test_redraw_uses_the_arrays_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for file in folder.glob("*.p*"):
        file.unlink()
    monkeypatch.setattr(theory_vs_simulation, "compute", lambda settings: pytest.fail("computed again"))
    theory_vs_simulation.main(Settings(out=folder.parent, redraw=True))
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert before.keys() == after.keys()
    same = [name for name in before if before[name] == after[name]]
    assert set(same) >= {name for name in before if not name.endswith(".pdf")}


def test_redraw_without_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without --redraw"):
        theory_vs_simulation.main(Settings(out=tmp_path, redraw=True))


def test_redraw_of_damaged_arrays(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "theory_vs_simulation"
    target.mkdir()
    (target / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        theory_vs_simulation.main(Settings(out=tmp_path, redraw=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"exact_steps": -1}, "--exact-steps"),
        ({"rate": 2.0}, "--rate must lie between 0 and 2"),
        ({"init_std": -1.0}, "--init-std"),
        ({"tiles": 3}, "--tiles"),
        ({"kernel_size": 11}, "--kernel-size"),
    ],
)
def test_bad_settings(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        theory_vs_simulation.main(dataclasses.replace(Settings(out=tmp_path), **change))
    assert not any(tmp_path.iterdir())


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(theory_vs_simulation, "compute", lambda settings: pytest.fail("work started"))
    with pytest.raises(OSError, match="--out"):
        theory_vs_simulation.main(Settings(out=tmp_path / "file"))


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    store.write_arrays(path, {"a": np.arange(3)})

    def interrupted(file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_whole(path, interrupted)
    assert [file.name for file in tmp_path.iterdir()] == ["arrays.npz"]
    np.testing.assert_array_equal(store.read_arrays(path)["a"], np.arange(3))


def test_record_steps() -> None:
    assert theory_vs_simulation.record_steps(100).tolist() == [0, 1, 2, 5, 10, 20, 50, 100]
    assert theory_vs_simulation.record_steps(70).tolist() == [0, 1, 2, 5, 10, 20, 50, 70]
    assert theory_vs_simulation.record_steps(1).tolist() == [0, 1]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments], capture_output=True, text=True, cwd=root, env=os.environ
    )


def test_command_line() -> None:
    shown = command("theory_vs_simulation", "--help")
    assert shown.returncode == 0
    assert "--seeds" in shown.stdout
    refused = command("theory_vs_simulation", "--rate", "2.5")
    assert refused.returncode != 0
    assert "--rate must lie between 0 and 2" in refused.stderr
    assert "Traceback" not in refused.stderr
