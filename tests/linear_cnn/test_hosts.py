"""One run of several processes, over loopback: the same bits, and the same checkpoints,
as one process has."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from linear_cnn import train, train_seeds
from linear_cnn.training import _loop
from tests.linear_cnn.test_devices import (
    IMAGES,
    KEYS,
    ROOT,
    SETTINGS,
    SGD,
    interrupted,
    leaves,
)

pytestmark = pytest.mark.slow


# First, since the modules of tests compute as they are imported.
SCRIPT = """
import sys
from pathlib import Path
import jax
port, index, what, folder = sys.argv[1:]
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.distributed.initialize(
    f"127.0.0.1:{port}", 2, int(index), heartbeat_timeout_seconds=20
)
assert (jax.device_count(), jax.local_device_count()) == (8, 4)
from tests.linear_cnn import test_hosts as here
getattr(here, what)(Path(folder))
"""


@contextmanager
def started(what, folder):
    """Two processes of 4 devices each, whose output goes to files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        processes = []
        for index in (0, 1):
            log = stack.enter_context((folder / f"{index}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(port), str(index), what, folder],
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            processes.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield processes


def whole_batch(mesh=None):
    settings = {"images": IMAGES, "key": KEYS[0], "optimizer": SGD} | SETTINGS["deep"]
    return train(mesh=mesh, **settings)


def results(folder):
    """What each process has, and a checkpoint that is left in the middle."""
    spread = whole_batch(Mesh(jax.devices(), ("batch",)))
    name = folder / f"process {jax.process_index()}.npz"
    np.savez(name, **leaves(), spread=spread.conv1, loss=spread.loss)
    interrupted(folder / "checkpoints", 3)


@pytest.mark.long
def test_results_and_checkpoints_are_those_of_one_process(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_STRETCH_SECONDS", "_CHECKPOINT_SECONDS"):
            patch.setattr(_loop, name, 0.0)
        interrupted(tmp_path / "checkpoints", 2)
        with started("results", tmp_path) as processes:
            for index, process in enumerate(processes):
                said = tmp_path / f"{index}.log"
                assert process.wait(timeout=200) == 0, said.read_text()
        moved = leaves(tmp_path / "checkpoints")
    expected = leaves()
    chex.assert_trees_all_equal(moved, expected)
    alone = whole_batch()
    for index in (0, 1):
        found = dict(np.load(tmp_path / f"process {index}.npz"))
        spread, loss = found.pop("spread"), found.pop("loss")
        chex.assert_trees_all_equal(found, expected)
        np.testing.assert_allclose(spread, alone.conv1, rtol=0, atol=1e-5)
        np.testing.assert_allclose(loss, alone.loss, rtol=1e-5)


LONG = {"images": IMAGES, "keys": KEYS, "optimizer": SGD} | SETTINGS["deep"]
LONG |= {"epochs": 120}


def long(folder):
    """Ends only if it is left alone."""
    _loop._STRETCH_SECONDS = _loop._CHECKPOINT_SECONDS = 0.0
    train_seeds(checkpoint_dir=folder / "checkpoints", **LONG)


@pytest.mark.long
def test_a_killed_process_ends_the_other_and_the_run_continues(tmp_path):
    with started("long", tmp_path) as processes:
        while not list((tmp_path / "checkpoints").glob("[0-9]*")):
            assert processes[0].poll() is None, (tmp_path / "0.log").read_text()
            time.sleep(0.2)
        processes[1].send_signal(signal.SIGKILL)
        assert processes[0].wait(timeout=60) != 0
    begun = max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert 0 <= begun < 120 * 3
    continued = train_seeds(checkpoint_dir=tmp_path / "checkpoints", **LONG)
    chex.assert_trees_all_equal(continued, train_seeds(**LONG))
