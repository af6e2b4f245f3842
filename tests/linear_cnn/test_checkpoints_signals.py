"""SIGINT and SIGTERM: what is under way is finished and saved, and the error says how
to go on."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import chex
import optax
import pytest

from linear_cnn import TrainingDiverged
from linear_cnn.training import _checkpoints, _loop
from tests.linear_cnn.test_checkpoints import run

ROOT = str(Path(__file__).parents[2])
BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    """Fails if one is not put back."""
    before = [signal.getsignal(kind) for kind in BOTH]
    yield
    after = [signal.getsignal(kind) for kind in BOTH]
    for kind, handler in zip(BOTH, before, strict=True):
        signal.signal(kind, handler)
    assert after == before


@pytest.fixture
def signalled(monkeypatch):
    """Signals that come while a step is under way; the third of twelve."""
    monkeypatch.setattr(_loop, "_STRETCH_SECONDS", 0.0)
    program, calls = _loop._advance_all, []

    def send(*kinds, at=3):
        def advance(*arguments):
            calls.append(arguments)
            if len(calls) == at:
                for kind in kinds:
                    os.kill(os.getpid(), kind)
            return program(*arguments)

        advance.lower = program.lower
        calls.clear()
        monkeypatch.setattr(_loop, "_advance_all", advance)
        return calls

    return send


def steps(folder):
    return {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}


@pytest.mark.parametrize(
    ("kind", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_the_stretch_is_finished_and_saved(tmp_path, signalled, capsys, kind, error):
    calls = signalled(kind)
    with pytest.raises(error) as raised:
        run(tmp_path)
    assert len(calls) == 3
    assert max(steps(tmp_path)) == 3
    said = str(raised.value) if kind == signal.SIGINT else capsys.readouterr().err
    assert said.strip() == (
        f"training was stopped by {kind.name} after step 3 of 12; called again with the"
        f" same arguments it continues from the checkpoint in {tmp_path}"
    )
    if kind == signal.SIGTERM:
        assert raised.value.code == 143
    assert not (tmp_path / _checkpoints.LOCK).exists()
    calls = signalled()
    chex.assert_trees_all_equal(run(tmp_path), run())
    assert len(calls) == 12 - 3 + 12


def test_the_last_step_too(tmp_path, signalled):
    """Nothing is swallowed, though all is there already."""
    signalled(signal.SIGINT, at=12)
    with pytest.raises(KeyboardInterrupt, match="after step 12 of 12"):
        run(tmp_path)
    calls = signalled()
    run(tmp_path)
    assert not calls


def test_a_second_signal_stops_at_once(tmp_path, signalled, monkeypatch):
    """Here while the checkpoint is written that the first one asked for."""
    went_on = []

    def save(*arguments):
        signal.raise_signal(signal.SIGINT)
        went_on.append(arguments)

    monkeypatch.setattr(_checkpoints.Checkpoints, "save", save)
    monkeypatch.setattr(_loop, "_CHECKPOINT_SECONDS", float("inf"))
    signalled(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path)
    assert not went_on
    assert not str(raised.value)
    assert not (tmp_path / _checkpoints.LOCK).exists()


def test_without_checkpoints_nothing_waits(signalled):
    calls = signalled(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised:
        run()
    assert not str(raised.value)
    assert len(calls) == 3


def test_handlers_of_the_program_have_the_last_word(tmp_path, signalled):
    class Own(Exception):
        pass

    def handle(number, frame):
        assert max(steps(tmp_path)) == 3  # saved before
        assert not (tmp_path / _checkpoints.LOCK).exists()
        raise Own(number)

    before = signal.signal(signal.SIGTERM, handle)
    signalled(signal.SIGTERM)
    try:
        with pytest.raises(Own):
            run(tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_signals_stay_ignored(tmp_path, signalled):
    """As SIGINT in a job that a shell has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signalled(signal.SIGINT)
    try:
        chex.assert_trees_all_equal(run(tmp_path), run())
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_does_not_swallow_a_signal(tmp_path, signalled):
    signalled(signal.SIGINT, at=1)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path, optimizer=optax.sgd(float("nan")), record_steps=[12])
    chain = raised.value.__context__
    while chain is not None and not isinstance(chain, TrainingDiverged):
        chain = chain.__context__
    # One step later at most the loss is not finite.
    assert chain is not None or "after step" in str(raised.value)


def test_other_threads_train_too(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    thread.join()
    chex.assert_trees_all_equal(results[0], run())


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from linear_cnn.training import _loop
from tests.linear_cnn import test_checkpoints as here
_loop._STRETCH_SECONDS = 0.0
program = _loop._advance_all
class Said:
    lower = program.lower
    def __call__(self, *arguments):
        print("step", flush=True)
        return program(*arguments)
_loop._advance_all = Said()
here.run({folder!r}, epochs=5000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH)
def test_a_script(tmp_path, kind):
    """Its exit status is the one that shells know; the message is on its stderr."""
    folder = tmp_path / "checkpoints"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(root=ROOT, folder=str(folder))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(5):
        assert process.stdout.readline() == "step\n"
    process.send_signal(kind)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGINT if kind == signal.SIGINT else 143)
    assert f"training was stopped by {kind.name} after step" in said.splitlines()[-1]
    assert ("Traceback" in said) == (kind == signal.SIGINT)
    assert steps(folder)
    assert not (folder / _checkpoints.LOCK).exists()
