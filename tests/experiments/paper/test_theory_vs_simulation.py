"""Closed forms against trained linear CNNs at a small size: files, redrawing, bad
settings; wrong results fail."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.frame import disk
from experiments.paper import theory_vs_simulation
from experiments.paper.theory_vs_simulation import Settings, experiment
from experiments.paper.theory_vs_simulation.single_runs import record_steps
from experiments.paper.theory_vs_simulation.verdicts import simulated_profiles

pytestmark = pytest.mark.slow
SMALL = {
    "seeds": 64,
    "steps": 2000,
    "images": 256,
    "full_steps": 3,
    "exact_steps": 100,
    "filters": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    theory_vs_simulation.main(Settings(out=out, **SMALL))
    return out / "theory_vs_simulation" / "photographs"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> dict[str, np.ndarray]:
    return disk.read_arrays(folder / "arrays.npz")


def test_files(folder: Path) -> None:
    names = {"profiles", "errors", "decorrelation_ratio", "autocorrelation"}
    expected = {f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")}
    assert {file.name for file in folder.iterdir()} == expected | {
        "config.json",
        "arrays.npz",
        "summary.json",
    }
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
    verdicts = {row["title"]: row["passed"] for row in checks}
    assert verdicts.pop("e_i lambda_i constant at the last step (theorem)") is None
    assert not [title for title, passed in verdicts.items() if passed is not True]
    assert len(checks) == 25
    exact = [row for row in checks if row["title"].startswith("exact form")]
    assert len(exact) == 8
    assert [len(row["wrong_formulas"]) for row in exact] == [2, 1, 2, 2, 1, 1, 1, 1]


def failures(arrays: dict[str, np.ndarray]) -> set[str]:
    checks = theory_vs_simulation.judge(arrays)
    return {one.title for one in checks if one.passed is False}


@pytest.mark.parametrize(
    ("field", "change", "failing"),
    [
        (
            "full/simulated",
            lambda w: np.repeat(w[:, :1], w.shape[1], axis=1),
            "exact form, all images, full",
        ),
        # The other network's labels.
        ("full/predicted", lambda w: w[::-1], "exact form, all images, full"),
        (
            "classes/predicted",
            lambda w: np.roll(w, 1, axis=0),
            "exact form, all mean patches, each class",
        ),
        ("few/predicted", lambda w: w * (1 + 1e-6), "exact form, 32 images, full"),
        ("permutations/expected", lambda e: e * (1 + 1e-6), "shuffled law"),
        ("compressed/simulated", lambda w: w + 1e-8, "all mean patches, vs compressed"),
        (
            "raw_drawn/expected_change",
            lambda e: e * 2,
            "expected profile, raw images, drawn targets, change",
        ),
        (
            "raw_shuffled/expected_weights",
            lambda e: e * 2,
            "expected profile, raw images, shuffled labels, W",
        ),
        (
            "patches_drawn/quantiles_change",
            lambda q: q * 0.5,
            "90 % band, patch-shuffled images, drawn targets, ch",
        ),
        ("patches_drawn/theorem", lambda e: e * 1.6, "Theorem 4.2, patch-shuffled"),
        ("raw_drawn/theorem", None, "Theorem 4.2 fails on raw images"),
        (
            "autocorrelation/shortcut",
            lambda c: c + 1e-5,
            "autocorrelation from cross moments",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(arrays, field, change, failing) -> None:
    if change is None:  # a theorem that held on raw images, though it must not
        rms = np.sqrt(
            (simulated_profiles(arrays, "raw_drawn", "change") ** 2).mean(axis=0)
        )
        wrong = arrays | {field: rms}
    else:
        wrong = arrays | {field: change(arrays[field])}
    with np.errstate(divide="ignore", invalid="ignore"):
        new = failures(wrong) - failures(arrays)
    assert any(name.startswith(failing) for name in new)


WHITENED = "e_i lambda_i constant at the last step (theorem)"


def test_a_run_that_is_too_short_to_whiten(folder: Path, arrays) -> None:
    """Its check is not reached; with as many steps as it takes, and the profile of
    fewer, it fails."""
    rows = json.loads((folder / "summary.json").read_text())["checks"]
    (row,) = (row for row in rows if row["title"] == WHITENED)
    assert row["passed"] is None
    assert "of the slowest component is left, more steps are needed" in row["caveat"]
    assert WHITENED not in failures(arrays)
    steps = arrays["patches_drawn/steps"].copy()
    steps[-1] = 10**9
    assert WHITENED in failures(arrays | {"patches_drawn/steps": steps})


def test_a_smoke_run_means_nothing(
    arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(experiment, "compute", lambda settings: dict(arrays))
    smoke = dataclasses.replace(theory_vs_simulation.PRESETS["smoke"], out=tmp_path)
    theory_vs_simulation.main(smoke)
    printed = capsys.readouterr().out
    assert printed.count("(smoke run: means nothing)") == 25
    place = tmp_path / "theory_vs_simulation" / "photographs"
    summary = json.loads((place / "summary.json").read_text())
    assert {row["caveat"] for row in summary["checks"]} == {"smoke run: means nothing"}
    assert summary["seconds"]["few"] == arrays["few/seconds"]
    assert json.loads((place / "config.json").read_text())["seconds"] < 1000
    theory_vs_simulation.main(Settings(out=tmp_path, redraw=True))
    assert capsys.readouterr().out == printed


def test_redraw_uses_the_arrays_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for file in folder.glob("*.p*"):
        file.unlink()
    monkeypatch.setattr(
        experiment, "compute", lambda settings: pytest.fail("computed again")
    )
    theory_vs_simulation.main(Settings(out=folder.parents[1], redraw=True))
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert before.keys() == after.keys()
    same = [name for name in before if before[name] == after[name]]
    assert set(same) >= {name for name in before if not name.endswith(".pdf")}


def test_redraw_of_damaged_arrays(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "theory_vs_simulation" / "photographs"
    target.mkdir(parents=True)
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
        ({"images": 3}, "--images"),
        (
            {"kernel_size": 11},
            "--kernel-size must be at most 10, for 3x3 patches in an image of 32x32",
        ),
        ({"label": 6}, "--label must be one of 0 astronaut, .* 5 rocket; got 6"),
        (
            {"dataset": "cifar"},
            "there is no image set 'cifar'; choose one of photographs, cifar10",
        ),
        ({"dataset": "cifar10"}, "python -m experiments data cifar10"),
    ],
)
def test_bad_settings(tmp_path: Path, monkeypatch, change: dict, message: str) -> None:
    monkeypatch.setattr(
        experiment, "exact_run", lambda *args, **settings: pytest.fail("work started")
    )
    settings = dataclasses.replace(
        Settings(out=tmp_path, data_dir=tmp_path / "none"), **change
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        theory_vs_simulation.main(settings)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_record_steps() -> None:
    assert record_steps(100).tolist() == [0, 1, 2, 5, 10, 20, 50, 100]
    assert record_steps(70).tolist() == [0, 1, 2, 5, 10, 20, 50, 70]
    assert record_steps(1).tolist() == [0, 1]
