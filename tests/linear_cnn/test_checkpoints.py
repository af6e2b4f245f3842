"""Runs that are killed and started again end bit-identical; checkpoints of other runs
are refused."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import (
    SmallCNN,
    TrainingDiverged,
    patch_convolution,
    train,
    train_seeds,
)
from linear_cnn.training import _checkpoints, _loop

RANDOM = np.random.default_rng(17)
IMAGES = RANDOM.normal(size=(12, 6, 6, 3)).astype(np.float32)
LABELS = RANDOM.integers(0, 2, size=12).astype(np.int32)
MOMENTUM = optax.sgd(0.05, momentum=0.9)
KEYS = jax.random.split(jax.random.key(3), 3)


class Network(nnx.Module):
    """All kinds of state: parameters, batch statistics and a random stream."""

    def __init__(self, key, features=4):
        rngs = nnx.Rngs(key)
        self.conv1 = nnx.Conv(
            *(3, features, (3, 3)),
            padding="VALID",
            conv_general_dilated=patch_convolution,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(features, 2, rngs=rngs)

    def __call__(self, images):
        return self.dense(
            self.dropout(nnx.relu(self.norm(self.conv1(images)))).mean(axis=(1, 2))
        )


def run(folder=None, *, init=Network, seeds=None, **settings):
    settings = {
        "images": IMAGES,
        "targets": LABELS,
        "optimizer": MOMENTUM,
        "epochs": 6,
        "batch_size": 5,
        "loss": "cross_entropy",
        "validation": (IMAGES[:4], LABELS[:4]),
        "checkpoint_dir": folder,
    } | settings
    images, targets = settings.pop("images"), settings.pop("targets")
    if seeds is not None:
        return train_seeds(init, images, targets, keys=KEYS[:seeds], **settings)
    return train(init, images, targets, **{"key": KEYS[0]} | settings)


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr(_loop, "_STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(_loop, "_CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def undisturbed():
    return run()


class Stopped(Exception):
    pass


class Calls:
    """The program that trains, with its calls counted and, after some of them, an
    interruption."""

    def __init__(self, monkeypatch, allowed=1000):
        self.program, self.calls, self.allowed = _loop._advance_all, 0, allowed
        self.lower = self.program.lower
        monkeypatch.setattr(_loop, "_advance_all", self)

    def __call__(self, *arguments):
        if self.calls == self.allowed:
            raise Stopped
        self.calls += 1
        return self.program(*arguments)


@pytest.mark.parametrize("seeds", [None, 3])
@pytest.mark.usefixtures("at_every_step")
def test_an_interrupted_run_ends_bit_identical(
    tmp_path, monkeypatch, seeds, undisturbed
):
    expected = undisturbed if seeds is None else run(seeds=seeds)
    for allowed in (1, 4, 2):  # in the middle of epochs and at their ends
        with monkeypatch.context() as patch:
            Calls(patch, allowed)
            with pytest.raises(Stopped):
                run(tmp_path, seeds=seeds)
    rest = Calls(monkeypatch)
    chex.assert_trees_all_equal(run(tmp_path, seeds=seeds), expected)
    assert rest.calls == 12 - 1 - 4 - 2
    # Finished: read, not trained.
    chex.assert_trees_all_equal(run(tmp_path, seeds=seeds), expected)
    assert rest.calls == 12 - 1 - 4 - 2
    # The last two are kept, lest the last one be damaged; nothing else is left behind.
    assert {path.name for path in tmp_path.iterdir()} == {"11", "12"}


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import jax
jax.config.update("jax_num_cpu_devices", 2)
from linear_cnn.training import _loop
from tests.linear_cnn import test_checkpoints as here
_loop._STRETCH_SECONDS = _loop._CHECKPOINT_SECONDS = 0.0
print("ready", flush=True)
here.run({folder!r}, epochs=150)
print("finished", flush=True)
"""


@pytest.mark.long
def test_killed_at_any_moment(tmp_path, undisturbed):
    """SIGKILL, whatever it is doing then, some of the times in the middle of writing a
    checkpoint."""
    folder = tmp_path / "checkpoints"
    code = SCRIPT.format(root=str(Path(__file__).parents[2]), folder=str(folder))
    kills = 0
    for delay in (0.0, 0.21, 0.5, None):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        before = newest(folder)
        while delay is not None and newest(folder) == before and process.poll() is None:
            time.sleep(0.01)
        if delay is not None:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills >= 2
    assert process.returncode == 0
    assert newest(folder) == 300
    chex.assert_trees_all_equal(run(folder, epochs=150), run(epochs=150))


def newest(folder):
    """The step of the newest finished checkpoint."""
    steps = (
        [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
        if folder.exists()
        else []
    )
    return max(steps, default=-1)


def larger(key):
    """The same network and key, with other initial values."""
    network = Network(key)
    network.conv1.kernel[...] = 2 * network.conv1.kernel[...]
    return network


def wider(key):
    return Network(key, features=5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"init": wider},
            (
                r"another network: conv1\.bias is float32\[4\] there and float32\[5\]"
                r" in this one"
            ),
        ),
        ({"init": larger}, "another run: its initial weights differ"),
        (
            {"frozen": ["conv1"]},
            (
                r"another network: conv1\.bias is float32\[4\] there and absent in"
                r" this one"
            ),
        ),
        (
            {"optimizer": optax.sgd(0.06, momentum=0.9)},
            "another run: its optimizer, batch size, loss.*differ",
        ),
        (
            {
                "batch_size": 6,
                "epochs": None,
                "steps": 12,
                "record_steps": range(0, 13, 2),
            },
            "optimizer, batch size",
        ),
        ({"key": KEYS[1]}, "its keys differ"),
        ({"images": 1.5 * IMAGES}, "its images differ"),
        ({"targets": 1 - LABELS}, "its targets differ"),
        ({"validation": (IMAGES[:4], 1 - LABELS[:4])}, "its validation differ"),
        ({"validation": (IMAGES[4:8], LABELS[:4])}, "its validation differ"),
        ({"epochs": 7}, "its record_steps differ"),
    ],
)
def test_checkpoints_of_another_run_are_refused(finished, changed, message):
    with pytest.raises(
        ValueError,
        match=f"{message}.*[cC]hoose another checkpoint_dir, or delete this folder",
    ):
        run(finished, **changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    run(folder)
    return folder


def test_the_last_step_is_kept(finished):
    assert newest(finished) == 12


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_generator_are_kept(generator):
    state = {
        "keys": jax.random.split(jax.random.key(5, impl=generator), 2),
        "weights": jax.numpy.ones(3),
    }
    outline = jax.eval_shape(lambda: state)
    restored = _checkpoints._unkept(outline, _checkpoints._kept(state))
    assert restored["keys"].dtype == state["keys"].dtype
    np.testing.assert_array_equal(
        jax.random.key_data(restored["keys"]), jax.random.key_data(state["keys"])
    )
    np.testing.assert_array_equal(restored["weights"], 1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError,
        match=(
            r"cannot write checkpoints to .*file/below.*choose another checkpoint_dir"
        ),
    ):
        run(tmp_path / "file" / "below")


def test_not_inside_a_trace(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_dir must be None inside jax"):
        jax.jit(lambda key: run(tmp_path, key=key).conv1)(KEYS[0])


@pytest.mark.usefixtures("at_every_step")
def test_a_diverged_run_stops_again_at_the_same_step(tmp_path):
    steps = {
        "steps": 100,
        "epochs": None,
        "record_steps": [1, 100],
        "optimizer": optax.sgd(1e9),
        "validation": None,
    }
    found = []
    for _ in range(2):
        with pytest.raises(TrainingDiverged) as caught:
            run(tmp_path, init=small, **steps)
        found.append(str(caught.value))
    assert found[0] == found[1]


def small(key):
    return SmallCNN(2, features=(4,), rngs=nnx.Rngs(key))
