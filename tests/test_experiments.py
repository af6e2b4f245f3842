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

from experiments import inputs, iterations, label_correlation, store, theory_vs_simulation
from experiments.theory_vs_simulation import Settings

pytestmark = pytest.mark.slow

SMALL = {"seeds": 64, "steps": 2000, "images": 256, "full_steps": 3, "exact_steps": 100, "filters": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    theory_vs_simulation.main(Settings(out=out, **SMALL))
    return out / "theory_vs_simulation" / "photographs"


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
    assert len(checks) == 25
    exact = [row for row in checks if row["check"].startswith("exact form")]
    assert len(exact) == 8
    assert [len(row["wrong_formulas"]) for row in exact] == [2, 1, 2, 2, 1, 1, 1, 1]


def failures(arrays: dict[str, np.ndarray]) -> set[str]:
    checks = theory_vs_simulation.judge(arrays)
    return {row["check"] for row in checks if not row["passed"]}


@pytest.mark.parametrize(
    ("field", "change", "failing"),
    [
        ("full/simulated", lambda w: np.repeat(w[:, :1], w.shape[1], axis=1), "exact form, all images, full"),
        ("full/predicted", lambda w: w[::-1], "exact form, all images, full"),  # the other network's labels
        ("classes/predicted", lambda w: np.roll(w, 1, axis=0), "exact form, all mean patches, each class"),
        ("few/predicted", lambda w: w * (1 + 1e-6), "exact form, 32 images, full"),
        ("permutations/expected", lambda e: e * (1 + 1e-6), "shuffled law"),
        ("compressed/simulated", lambda w: w + 1e-8, "all mean patches, vs compressed"),
        ("raw_drawn/expected_change", lambda e: e * 2, "expected profile, raw images, drawn targets, change"),
        ("raw_shuffled/expected_weights", lambda e: e * 2, "expected profile, raw images, shuffled labels, W"),
        ("patches_drawn/quantiles_change", lambda q: q * 0.5, "90 % band, patch-shuffled images, drawn targets, ch"),
        ("patches_drawn/theorem", lambda e: e * 1.6, "Theorem 4.2, patch-shuffled"),
        ("raw_drawn/theorem", None, "Theorem 4.2 fails on raw images"),
        ("autocorrelation/shortcut", lambda c: c + 1e-5, "autocorrelation from cross moments"),
    ],
)  # fmt: skip
def test_a_wrong_array_fails_its_check(arrays, field, change, failing) -> None:
    if change is None:  # a theorem that held on raw images, though it must not
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
    theory_vs_simulation.main(Settings(out=folder.parents[1], redraw=True))
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert before.keys() == after.keys()
    same = [name for name in before if before[name] == after[name]]
    assert set(same) >= {name for name in before if not name.endswith(".pdf")}


def test_redraw_without_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without --redraw"):
        theory_vs_simulation.main(Settings(out=tmp_path, redraw=True))
    assert not list(tmp_path.iterdir())


def test_redraw_of_another_data_set_names_those_with_results(tmp_path: Path) -> None:
    for dataset in ("cifar10", "mine"):
        (tmp_path / "iterations" / dataset).mkdir(parents=True)
        store.write_arrays(tmp_path / "iterations" / dataset / "arrays.npz", {"a": 1})
    with pytest.raises(FileNotFoundError, match=r"without --redraw, or .* with --dataset: cifar10, mine\.$"):
        iterations.main(iterations.Settings(out=tmp_path, redraw=True))
    assert {path.name for path in (tmp_path / "iterations").iterdir()} == {"cifar10", "mine"}


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
        ({"kernel_size": 11}, "--kernel-size must be at most 10, for 3x3 patches in an image of 32x32"),
        ({"label": 6}, "--label must be one of 0 astronaut, .* 5 rocket; got 6"),
        ({"dataset": "cifar"}, "there is no image set 'cifar'; choose one of photographs, cifar10"),
        ({"dataset": "cifar10"}, "python -m experiments data cifar10"),
    ],
)
def test_bad_settings(tmp_path: Path, monkeypatch, change: dict, message: str) -> None:
    monkeypatch.setattr(theory_vs_simulation, "exact_run", lambda *args, **settings: pytest.fail("work started"))
    settings = dataclasses.replace(Settings(out=tmp_path, data_dir=tmp_path / "none"), **change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        theory_vs_simulation.main(settings)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_images_of_an_experiment(tmp_path: Path) -> None:
    images = np.arange(10 * 5 * 5 * 3, dtype=np.uint8).reshape(10, 5, 5, 3)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(10) % 2)
    some = inputs.load(str(tmp_path / "mine.npz"), None, 4)
    assert some.images.dtype == np.float32
    np.testing.assert_array_equal(some.images, images[[0, 3, 6, 9]].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(some.labels, [0, 1, 0, 1])
    assert len(inputs.load(str(tmp_path / "mine.npz"), None, 11).images) == 10
    assert inputs.folder(tmp_path, "iterations", "cifar10") == tmp_path / "iterations" / "cifar10"
    # Paths that end alike have folders of their own, inside the experiment's.
    folders = [
        inputs.folder(tmp_path, "iterations", path) for path in ("/a/mine.npz", "/b/mine.npz", "/a/mine.v2", "..")
    ]
    assert len(set(folders)) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "iterations"}
    assert folders[0].name.startswith("mine-")
    assert folders[2].name.startswith("mine.v2-")


SHORT = {
    "iterations": (iterations, iterations.Settings, {"decades": 3, "images": 300}),
    "label_correlation": (label_correlation, label_correlation.Settings, {"images": 300}),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_experiments(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    module, settings, small = SHORT[name]
    module.main(settings(out=tmp_path, **small))
    folder = tmp_path / name / "photographs"
    printed = capsys.readouterr().out
    assert {file.name for file in folder.iterdir()} == {
        "arrays.npz", "config.json", "summary.json", f"{name}.png", f"{name}.pdf"
    }  # fmt: skip
    before = (folder / f"{name}.png").read_bytes()
    (folder / f"{name}.png").unlink()
    monkeypatch.setattr(module, "compute", lambda settings: pytest.fail("computed again"))
    module.main(settings(out=tmp_path, redraw=True))
    assert (folder / f"{name}.png").read_bytes() == before
    assert capsys.readouterr().out == printed
    with pytest.raises(ValueError, match="--kernel-size must be at least 1"):
        module.main(settings(out=tmp_path, kernel_size=0))


def test_iterations_show_what_the_paper_says(tmp_path: Path) -> None:
    """Sensitivity moves to later components, and each t whitens further (Fig. 4)."""
    arrays = iterations.compute(iterations.Settings(images=300))
    rows = iterations.summary(arrays)["results"]
    largest, whitened = ([row[key] for row in rows] for key in ("largest_component", "whitened_components"))
    assert largest == sorted(largest)
    assert whitened == sorted(whitened)
    assert (largest[0], largest[-1]) == (1, 27)
    assert whitened[0] <= 1
    assert whitened[-1] == 27
    # Where the assumption fails, so does the order.
    exact = [row["largest_component_exact"] for row in rows]
    assert exact != largest
    np.testing.assert_allclose(
        arrays["theorem"][0] / arrays["theorem"][0, 0], np.sqrt(arrays["variance"] / arrays["variance"][0])
    )


def test_label_correlation_of_shuffled_labels_is_noise() -> None:
    arrays = label_correlation.compute(label_correlation.Settings(images=600))
    rows = label_correlation.summary(arrays)["results"]
    size = {(row["labels"], row["coefficients"]): row["rms_in_noise"] for row in rows}
    assert 0.8 < size["shuffled", "patch"] < 1.2
    assert 0.8 < size["shuffled", "mean patch"] < 1.2
    assert size["true", "patch"] > 3


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
