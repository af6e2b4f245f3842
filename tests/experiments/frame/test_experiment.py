"""The way from settings to results: what stops it before any work, what it prints, and
which results count as finished."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import catalogue, frame
from experiments.frame import Preset, disk
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


# --- an experiment that takes no time ---

NOTHING = "smoke run: means nothing"


def run(out: Path, preset: Preset | None = None, *, redraw: bool = False) -> None:
    def summary(arrays: frame.Arrays) -> dict[str, Any]:
        value = arrays["value"]
        return {
            "checks": [
                frame.check("large", value, at_least=1, wrong={"half": 0}),
                frame.check("small", value, at_most=1, caveat="few networks"),
                frame.check("flat", value, at_most=1, reached=False, caveat="longer"),
                frame.check("seen", value),
            ]
        }

    def draw(folder: Path, arrays: frame.Arrays) -> None:
        Image.new("RGB", (30, 20)).save(folder / "a.png")

    frame.run(
        "fake",
        frame.Settings(preset=preset, out=out, redraw=redraw),
        lambda settings: {"value": np.array(2.0)},
        summary,
        draw,
        lambda summary: None,
    )


def verdicts(printed: str) -> list[str]:
    """What stands before the numbers of the checks."""
    lines = printed.split("value  bound", 1)[1].splitlines()
    return [line.split("2.00")[0].strip() for line in lines if "2.00" in line]


def test_what_is_printed(tmp_path: Path, capsys) -> None:
    run(tmp_path, "cpu")
    printed = capsys.readouterr().out
    assert verdicts(printed) == ["ok", "FAIL", "not reached"]
    assert printed.splitlines() == [
        "",
        "                 value  bound                 check",
        "ok                2.00  >= 1                  large",
        "                                              wrong formula half: 0",
        "FAIL              2.00  <= 1                  small",
        "                                              few networks",
        "not reached       2.00  <= 1                  flat",
        "                                              longer",
        "1 of 2 checks passed, 1 not reached",
        "",
        f"written to {tmp_path / 'fake' / 'photographs'}",
    ]


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper", None])
def test_a_smoke_run_says_beside_each_verdict_that_it_means_nothing(
    tmp_path: Path, capsys, preset: Preset | None
) -> None:
    run(tmp_path, preset)
    printed = capsys.readouterr().out
    says = f" ({NOTHING})" if preset == "smoke" else ""
    assert verdicts(printed) == [f"ok{says}", f"FAIL{says}", f"not reached{says}"]
    assert "wrong formula half: 0" in printed
    file = tmp_path / "fake" / "photographs" / "summary.json"
    caveats = [row["caveat"] for row in json.loads(file.read_text())["checks"]]
    own = ["", "few networks", "longer", ""]
    assert caveats == ([NOTHING] * 4 if preset == "smoke" else own)
    # Whatever the preset is that is named when they are drawn again.
    for named in ("smoke", "cpu", None):
        run(tmp_path, named, redraw=True)
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize("content", [None, "{", "[]", '{"settings": 3}', "{}"])
def test_of_a_redraw_nobody_knows_the_preset(
    tmp_path: Path, capsys, content: str | None
) -> None:
    run(tmp_path, "smoke")
    file = tmp_path / "fake" / "photographs" / "config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    capsys.readouterr()
    run(tmp_path, "smoke", redraw=True)
    assert verdicts(capsys.readouterr().out) == ["ok", "FAIL", "not reached"]


# --- which results are finished ---


# As 26045d5 wrote them, but for where things lie.
WRITTEN_BEFORE = {
    "iterations": {
        "dataset": "cifar10",
        "data_dir": None,
        "images": None,
        "out": "results",
        "redraw": False,
        "kernel_size": 3,
        "decades": 7,
        "rate": 0.8,
    },
    "random_labels": {
        "preset": "smoke",
        "dataset": "photographs",
        "data_dir": None,
        "images": 256,
        "validation": 64,
        "hold_out": 5,
        "network": "SmallCNN",
        "width": 0.0625,
        "first_features": 12,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "batch_size": 32,
        "epochs": 3,
        "seeds": 3,
        "seed": 0,
        "out": "/tmp/results",
        "store": "/tmp/results/runs",
        "fresh": False,
        "redraw": False,
        "shuffled_epochs": 4,
    },
}
NEW_CHECK = asdict(frame.check("name", 1, at_least=0))
OLD_CHECK = {"check": "name", "value": 1.0, "bound": ">= 0", "passed": True}


@pytest.mark.parametrize("name", WRITTEN_BEFORE)
@pytest.mark.parametrize(
    ("change", "check", "finished"),
    [
        ({}, NEW_CHECK, True),
        ({"preset": "paper"}, NEW_CHECK, True),
        ({"images": 7}, NEW_CHECK, False),
        ({"size": None, "upright": False}, NEW_CHECK, True),
        ({"size": 32}, NEW_CHECK, False),
        ({"another": 1}, NEW_CHECK, False),
        ({}, OLD_CHECK, False),
    ],
)
def test_results_of_before(
    tmp_path: Path, name: str, change: dict, check: dict, finished: bool
) -> None:
    """They count if all values are the same, whatever the preset; not if their checks
    cannot be read."""
    config = {"settings": WRITTEN_BEFORE[name] | change}
    disk.write_json(tmp_path / "config.json", config)
    disk.write_json(tmp_path / "summary.json", {"checks": [check]})
    disk.write_arrays(tmp_path / "arrays.npz", {"a": 1})
    (tmp_path / "a.png").touch()
    module = catalogue.module(name)
    settings = module.PRESETS["cpu" if name == "iterations" else "smoke"]
    wanted = catalogue.resolved(name, replace(settings, out=tmp_path))
    assert frame.finished(tmp_path, wanted) is finished


@pytest.mark.parametrize("name", WRITTEN_BEFORE)
def test_the_settings_of_before_are_all_there(name: str) -> None:
    module = catalogue.module(name)
    fields = asdict(module.Settings()).keys()
    assert fields - WRITTEN_BEFORE[name].keys() <= {"preset", "size", "upright"}
