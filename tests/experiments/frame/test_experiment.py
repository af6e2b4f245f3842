"""The way from settings to results: what stops it before any work."""

from pathlib import Path

import pytest

from experiments.frame import disk
from experiments.paper import iterations, theory_vs_simulation
from experiments.paper.theory_vs_simulation import Settings, experiment


@pytest.mark.slow
def test_redraw_without_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without --redraw"):
        theory_vs_simulation.main(Settings(out=tmp_path, redraw=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_redraw_of_another_data_set_names_those_with_results(tmp_path: Path) -> None:
    for dataset in ("cifar10", "mine"):
        (tmp_path / "iterations" / dataset).mkdir(parents=True)
        disk.write_arrays(tmp_path / "iterations" / dataset / "arrays.npz", {"a": 1})
    with pytest.raises(
        FileNotFoundError,
        match=r"without --redraw, or .* with --dataset: cifar10, mine\.$",
    ):
        iterations.main(iterations.Settings(out=tmp_path, redraw=True))
    assert {path.name for path in (tmp_path / "iterations").iterdir()} == {
        "cifar10",
        "mine",
    }


@pytest.mark.slow
def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(
        experiment, "compute", lambda settings: pytest.fail("work started")
    )
    with pytest.raises(OSError, match="--out"):
        theory_vs_simulation.main(Settings(out=tmp_path / "file"))
