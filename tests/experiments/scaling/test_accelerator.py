"""The script of `make accelerator`: its plan, its JSON, and its parts at tiny size."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.benchmark import growth
from experiments.benchmark.training import VGGRun
from experiments.scaling import accelerator, parts
from experiments.scaling.accelerator import PLAN, Part

TINY = parts.SMALL._replace(images=20, steps=(2, 5), seeds=(2,))


def test_the_plan_has_every_part_once_and_the_one_that_continues_last():
    assert [part.name for part in PLAN] == list(parts.PARTS)
    assert PLAN[-1].name == "trained_networks"
    assert all(0 < part.share <= 1 for part in PLAN)
    # Whatever the parts before it take, some of the time is left for the last one.
    assert sum(part.share for part in PLAN[:-1]) < 1
    assert set(parts.FULL.seeds) >= {1, 4096}
    assert parts.FULL.preset == "paper"


def test_one_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(accelerator, "_GRACE", 0.0)
    plan = [
        Part("fails", "one that fails", 1.0),
        Part("crashes", "one that crashes", 1.0),
        Part("sleeps", "one that does not end", 0.01),
        Part("works", "one that works", 1.0),
    ]
    module = "tests.experiments.scaling.fake_parts"
    started = time.perf_counter()
    report = accelerator.run(plan, tmp_path, 100, True, module)
    assert time.perf_counter() - started < 20
    assert json.loads(json.dumps(report)) == report
    assert report["environment"] == {"backend": "cpu"}
    assert report["small"]
    fails, crashes, sleeps, works = report["parts"]
    assert fails["error"] == "ValueError: so it is"
    assert crashes["error"] == "exit status 1: Segmentation fault"
    assert sleeps["error"] == "killed after 1 s"
    assert works["numbers"] == {"folder": str(tmp_path), "small": True}
    assert works["title"] == "one that works"
    assert works["seconds"] >= 0
    assert capfd.readouterr().out == ""


def test_what_the_time_does_not_suffice_for_is_skipped(tmp_path, monkeypatch):
    calls = []

    def never(command, limit):
        calls.append(limit)
        time.sleep(0.2)
        return {"numbers": {}}

    monkeypatch.setattr(accelerator, "_in_process", never)
    monkeypatch.setattr(accelerator, "_LEAST", 0.9)
    report = accelerator.run(PLAN[:3], tmp_path, 1.0, False)
    assert [set(part) - {"name", "title"} for part in report["parts"]] == [
        {"seconds", "numbers"},
        {"skipped"},
        {"skipped"},
    ]
    assert calls == [pytest.approx(PLAN[0].share)]
    assert report["parts"][1]["skipped"] == "1 of 1 seconds were left"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--only must be of float32_tests, .*, got .'seeds'", {"only": ("seeds",)}),
        ("--minutes must be positive, got 0", {"minutes": 0}),
    ],
)
def test_bad_settings(tmp_path, message, changes):
    with pytest.raises(SystemExit, match=message):
        accelerator.main(accelerator.Settings(out=tmp_path / "out", **changes))
    assert not list(tmp_path.iterdir())


# --- parts, at tiny size ---


def test_exact_dynamics(tmp_path):
    found = parts.exact_dynamics(TINY, tmp_path, 100)
    assert found.pop("steps") == [2, 5]
    assert len(found) == 4
    for errors in found.values():
        assert len(errors) == 2
        assert 0 < max(errors) < 1e-4  # float32


def test_linear_cnns(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "STEPS", 3)
    found = parts.linear_cnns(TINY, tmp_path, 100)
    assert found["seeds"] == [2]
    assert found["steps"] == 3
    assert len(found["first_call"]) == len(found["second_call"]) == 1
    assert found["first_call"][0] > found["second_call"][0] > 0


def test_the_rate_is_that_of_more_steps():
    slept = []

    def method(images, run):
        assert run.batch_size == 50

        def compute():
            slept.append(run.steps)
            time.sleep(0.1 + 0.01 * run.steps)

        return compute

    sizes = TINY._replace(vgg=VGGRun(1.0, batch_size=50), vgg_steps=(2, 12))
    assert parts._rate(sizes, method) == pytest.approx(5000, rel=0.3)
    assert slept == 4 * [2] + 4 * [12]


def test_outcomes_of_pytest():
    text = """collected 4 items
tests/theory/test_a.py::test_b[1 - x] PASSED                     [ 25%]
tests/theory/test_a.py::test_c FAILED                            [ 50%]
tests/theory/test_a.py::test_d ERROR                             [ 75%]
tests/theory/test_a.py::test_e SKIPPED (no device)               [ 99%]
FAILED tests/theory/test_a.py::test_c - ValueError
"""
    found = parts.outcomes(text, finished=True)
    assert found["passed"] == 1
    assert found["failed"] == [
        "tests/theory/test_a.py::test_c",
        "tests/theory/test_a.py::test_d",
    ]
    with pytest.raises(ChildProcessError, match="pytest ran no test:\nno module"):
        parts.outcomes("no module", finished=False)


def test_networks_that_take_too_long_are_stopped_and_what_is_there_is_said(
    tmp_path, monkeypatch
):
    """By a command that saves what it has when it is told to stop."""
    program = """
import json, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1]) / "runs" / "one"
place.mkdir(parents=True)
run = {"shuffled_labels": None, "epochs": 3}
def save(*_):
    (place / "config.json").write_text(json.dumps({"run": run, "seconds": 1.5}))
    sys.exit("interrupted")
signal.signal(signal.SIGTERM, save)
time.sleep(60)
"""
    started = subprocess.Popen

    def start(command, **others):
        return started([sys.executable, "-c", program, str(tmp_path)], **others)

    monkeypatch.setattr(subprocess, "Popen", start)
    found = parts.trained_networks(TINY, tmp_path, 3.0)
    runs = {"true": {"seconds": 1.5, "epochs": 3}}
    assert found == {"finished": False, "runs": runs}


@pytest.mark.slow
def test_networks_that_cannot_be_trained_say_why(tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path))
    sizes = TINY._replace(preset="paper")
    with pytest.raises(
        ChildProcessError, match=r"^error: .*cifar10.* does not exist; "
    ):
        parts.trained_networks(sizes, tmp_path / "out", 100)


def test_a_part_prints_json_whatever_happens(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "keep_compiled_programs", lambda: None)
    for part, expected in (
        (lambda *_: {"a": [1.23456, np.inf], "b": {"c": 2}}, {"a": [1.235, None]}),
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
    ):
        monkeypatch.setitem(parts.PARTS, "one", part)
        parts.main(["one", str(tmp_path), "10"])
        content = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert content["environment"]["backend"]
        if isinstance(expected, str):
            assert content["error"] == expected
        else:
            assert content["numbers"] == expected | {"b": {"c": 2}}


@pytest.mark.long
def test_parts_in_processes_of_their_own(tmp_path, capfd):
    only = ("float32_tests", "trained_networks")
    settings = accelerator.Settings(out=tmp_path, small=True, only=only)
    with pytest.raises(SystemExit) as stopped:
        accelerator.main(settings)
    output = capfd.readouterr()
    report = json.loads(output.out)
    assert stopped.value.code == 0, output.err
    assert report == json.loads((tmp_path / accelerator.FILE).read_text())
    assert sys.version.startswith(report["environment"]["python"])
    tests, networks = (part["numbers"] for part in report["parts"])
    assert (tests["failed"], tests["finished"]) == ([], True)
    assert tests["passed"] >= 2
    assert networks["finished"]
    assert set(networks["runs"]) == {"true", "shuffled"}
    # Where another command finds them.
    assert len(list((tmp_path / "runs").glob("*/arrays.npz"))) == 2
