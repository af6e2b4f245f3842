"""One process at a time trains into a folder of checkpoints."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chex
import pytest

from linear_cnn import TrainingDiverged
from linear_cnn.training import _checkpoints, _loop
from tests.linear_cnn.test_checkpoints import run

ROOT = str(Path(__file__).parents[2])
LOCK = _checkpoints.LOCK
SETTINGS = {"epochs": 3}

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from linear_cnn.training._checkpoints import in_use
with in_use(Path({folder!r})):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    code = HOLDER.format(root=ROOT, folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_process_is_refused_before_it_computes(
    tmp_path, holder, monkeypatch
):
    monkeypatch.setattr(_loop, "_advance_all", None)
    message = (
        rf"the checkpoint folder {re.escape(str(tmp_path))} is in use by process"
        rf" {holder.pid} on {socket.gethostname()}; wait for its end, or choose another"
        rf" checkpoint_dir. If that process has ended, delete .*/{LOCK}"
    )
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **SETTINGS)
    assert (tmp_path / LOCK).exists()
    assert holder.poll() is None


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    chex.assert_trees_all_equal(run(tmp_path, **SETTINGS), run(**SETTINGS))
    assert not (tmp_path / LOCK).exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs start times")
def test_a_number_that_another_process_has_now(tmp_path, holder):
    """The pid of the lock is alive, but not the process that wrote it."""
    lock = tmp_path / LOCK
    pid, host, start = lock.read_text().splitlines()
    lock.write_text(f"{pid}\n{host}\n{int(start) - 1}\n")
    run(tmp_path, **SETTINGS)
    lock.write_text(f"{pid}\n{host}\n{start}\n")
    with pytest.raises(ValueError, match=f"in use by process {pid}"):
        run(tmp_path, **SETTINGS)


def test_a_process_of_another_host_is_believed(tmp_path):
    """Whether it has ended cannot be known from here."""
    (tmp_path / LOCK).write_text("1234567\nelsewhere\n17\n")
    with pytest.raises(ValueError, match="in use by process 1234567 on elsewhere; "):
        run(tmp_path, **SETTINGS)
    (tmp_path / LOCK).unlink()
    run(tmp_path, **SETTINGS)


def test_a_process_does_not_exclude_itself_twice(tmp_path):
    with _checkpoints.in_use(tmp_path):
        with pytest.raises(
            ValueError, match=rf"in use by process {os.getpid()} \(this one\) on"
        ):
            run(tmp_path, **SETTINGS)
        assert (tmp_path / LOCK).exists()
    run(tmp_path, **SETTINGS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, TrainingDiverged])
def test_the_lock_goes_with_the_run(tmp_path, monkeypatch, error):
    """Also when it ends in an error, of whatever kind."""

    def fail(*arguments):
        assert (tmp_path / LOCK).exists()
        raise error(*("stop", None)[: 1 + (error is TrainingDiverged)])

    fail.lower = _loop._advance_all.lower
    with monkeypatch.context() as patch:
        patch.setattr(_loop, "_advance_all", fail)
        with pytest.raises(error):
            run(tmp_path, **SETTINGS)
    assert not (tmp_path / LOCK).exists()
    run(tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match="another run"):
        run(tmp_path, epochs=4)
    assert not (tmp_path / LOCK).exists()
