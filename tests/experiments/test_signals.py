"""The command line is told to stop: exit status, and one line of what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Sends itself the signal where an experiment has begun to compute, or trains.
SCRIPT = """
import os, signal, sys
from experiments import __main__, catalogue
from linear_cnn.training import _loop
kind = int(sys.argv.pop(1))
place = sys.argv.pop(1)
def stop():
    os.kill(os.getpid(), kind)
if place == "training":
    program, calls = _loop._advance_all, []
    class Signalled:
        lower = program.lower
        def __call__(self, *arguments):
            calls.append(arguments)
            if len(calls) == 2:
                stop()
            return program(*arguments)
    _loop._advance_all = Signalled()
else:
    from experiments.frame import experiment
    experiment.draw_in_style = lambda *arguments: stop()
__main__.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words", "kind"),
    [
        ("training", ["random_labels", "--preset", "smoke"], signal.SIGTERM),
        ("drawing", ["iterations", "--preset", "smoke"], signal.SIGINT),
    ],
)
def test_status_and_one_line(
    tmp_path: Path, kind: signal.Signals, place: str, words: list[str]
) -> None:
    words = [*words, "--out", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(kind)), place, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + kind, done.stderr
    *_, last = done.stderr.splitlines()
    assert last == (
        f"interrupted by {kind.name}; no result was left half-written, and training"
        " continues when started again without --fresh"
    )
    assert "Traceback" not in done.stderr
    # The library's own advice would be a second one.
    assert "called again with the same arguments" not in done.stderr
    if place == "training":
        assert list((tmp_path / "results").glob("runs/*/checkpoints/*/[0-9]*"))
    assert not list((tmp_path / "results").rglob("*.lock"))
    assert not list((tmp_path / "results").rglob("summary.json"))
