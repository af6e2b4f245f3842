"""The command line as one job of several processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments import distributed

ROOT = Path(__file__).parents[2]
TOLD = ["--coordinator", "host:1234", "--processes=2", "--process", "1"]


def test_options_are_taken_out() -> None:
    words = ["iterations", "--distributed", *TOLD, "--seeds", "3"]
    assert distributed.requested(words) == {
        "coordinator_address": "host:1234",
        "num_processes": 2,
        "process_id": 1,
    }
    assert words == ["iterations", "--seeds", "3"]
    assert distributed.requested(words) is None
    assert distributed.requested(["iterations", "--distributed"]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TOLD, "--coordinator is for --distributed, which is missing"),
        (["--distributed", *TOLD[:2]], "go together: the host of the first process"),
        (["--distributed", "--process", "one"], "--process takes a number, got 'one'"),
        (["--distributed", "--coordinator"], "--coordinator takes HOST:PORT, got ''"),
    ],
)
def test_options_that_cannot_be_used(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distributed.requested(words)


@contextmanager
def started(folder: Path, words: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """The command in two processes, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        processes = []
        for index in ("0", "1"):
            log = stack.enter_context((folder / f"{index}.log").open("w"))
            job = ["--distributed", "--coordinator", address, "--processes", "2"]
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "experiments", *words, *job),
                    *("--process", index),
                ],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
            processes.append(process)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield processes


def last_line(folder: Path, index: int) -> str:
    return (folder / f"{index}.log").read_text().splitlines()[-1]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
def test_killed_and_started_again(tmp_path: Path) -> None:
    words = ["random_labels", "--preset", "smoke", "--epochs", "30", "--out"]
    together = [*words, str(tmp_path / "together")]
    with started(tmp_path, together) as processes:
        while not list((tmp_path / "together").glob("runs/*/checkpoints/*/[0-9]*")):
            assert processes[0].poll() is None, last_line(tmp_path, 0)
            time.sleep(0.1)
        parent = processes[1].pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        for index, process in enumerate(processes):
            assert process.wait(timeout=60) == 1
            assert "another process of the job is lost" in last_line(tmp_path, index)
            assert "start the same command again" in last_line(tmp_path, index)
    assert "Traceback" not in (tmp_path / "0.log").read_text()
    assert not list((tmp_path / "together").rglob("arrays.npz"))
    with started(tmp_path, together) as processes:
        for index, process in enumerate(processes):
            assert process.wait(timeout=200) == 0, last_line(tmp_path, index)
    alone = [sys.executable, "-m", "experiments", *words, str(tmp_path / "alone")]
    subprocess.run(alone, cwd=ROOT, check=True, capture_output=True)
    files = sorted((tmp_path / "alone").rglob("arrays.npz"))
    assert len(files) == 3  # two runs, and what is shown of them
    for file in files:
        other = tmp_path / "together" / file.relative_to(tmp_path / "alone")
        expected, found = np.load(file), np.load(other)
        assert set(expected) == set(found)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], name)
    assert not list((tmp_path / "together").rglob("*.lock"))
