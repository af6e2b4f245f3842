"""The same bits on any number of devices, also where a run moves from one number to
another."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import LinearCNN, train_seeds
from linear_cnn.training import _loop, _seeds, _step
from tests.linear_cnn.test_checkpoints import Calls, Network, Stopped

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(23)
IMAGES = RANDOM.normal(size=(30, 8, 8, 3)).astype(np.float32)
LABELS = RANDOM.integers(0, 2, size=30).astype(np.int32)
KEYS = jax.random.split(jax.random.key(5), 11)
SGD = optax.sgd(0.05, momentum=0.9)


def linear(key):
    return LinearCNN(3, 2, rngs=nnx.Rngs(key))


SETTINGS = {
    "linear": {
        "init": linear,
        "targets": RANDOM.normal(size=(11, 30)).astype(np.float32),
        "steps": 12,
        "record_steps": [3, 5, 12],
        "metrics": {"size": lambda outputs, targets: outputs[:, 0] ** 2},
    },
    # With batch statistics, dropout and minibatches.
    "deep": {
        "init": Network,
        "targets": LABELS,
        "epochs": 3,
        "batch_size": 8,
        "loss": "cross_entropy",
        "validation": (IMAGES[:7], LABELS[:7]),
    },
}


def trained(name, folder=None):
    settings = {"images": IMAGES, "keys": KEYS, "optimizer": SGD} | SETTINGS[name]
    return train_seeds(checkpoint_dir=folder, **settings)


def interrupted(folder, allowed):
    """Of both kinds, after a few steps."""
    _loop._STRETCH_SECONDS = _loop._CHECKPOINT_SECONDS = 0.0
    for name in SETTINGS:
        with pytest.MonkeyPatch.context() as patch:
            Calls(patch, allowed)
            with pytest.raises(Stopped):
                trained(name, folder / name)


def leaves(folder=None):
    """All arrays of both kinds of run, by their places."""
    runs = {name: trained(name, folder and folder / name) for name in SETTINGS}
    found = jax.tree_util.tree_leaves_with_path(runs)
    return {
        jax.tree_util.keystr(path): jax.random.key_data(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for path, leaf in found
    }


def main(folder, continued, allowed):
    """Train, and train on what another process has left, which is left in turn after
    some steps or, with none, at the end."""
    np.savez(folder / f"{jax.device_count()}.npz", **leaves())
    if allowed:
        interrupted(continued, allowed)
    else:
        np.savez(folder / "moved.npz", **leaves(continued))


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bits(tmp_path):
    """8, 1 and 3 in processes of their own, since JAX takes their number once; here 2.
    A checkpoint goes through all three."""
    for count, allowed in ((8, 2), (1, 3), (3, 0)):
        done = subprocess.run(
            [sys.executable, "-m", __name__, tmp_path, str(allowed)],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(count)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    expected = {name: np.asarray(leaf) for name, leaf in leaves().items()}
    assert len(expected) > 20
    for kernels in (expected["['linear'].conv1"], expected["['deep'].conv1"]):
        assert len(np.unique(kernels[:, -1], axis=0)) == 11
        assert np.abs(kernels[:, -1] - kernels[:, 0]).max() > 0.01
    for name in ("1", "3", "8", "moved"):
        found = dict(np.load(tmp_path / f"{name}.npz"))
        chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("seeds", [1, 5, 20, 64, 67, 200])
@pytest.mark.parametrize("images", [10, 300, 5000, 20_000])
def test_the_size_of_a_block_knows_nothing_of_the_devices(monkeypatch, seeds, images):
    program = _step._Program(linear, SGD, None, "mse", ())
    shape = jax.ShapeDtypeStruct((images, 4, 5, 3), np.float64)
    keys = jax.random.split(KEYS[0], seeds)
    sizes = set()
    plan = SimpleNamespace(images=shape, targets_of_each=False)
    monkeypatch.setattr(_seeds, "Mesh", AnyMesh)
    for count in (1, 2, 3, 8):
        mesh = AnyMesh(np.arange(count), ("seeds",))
        layout = _seeds._layout(program, keys, plan, mesh)
        sizes.add(layout.size)
        used = layout.mesh.shape["seeds"]
        total = used * layout.blocks * layout.size
        # At most one block a device too many.
        assert seeds <= total < seeds + used * layout.size
    assert len(sizes) == 1


class AnyMesh:
    """Of devices that are not there."""

    def __init__(self, devices, axis_names):
        self.devices, self.axis_names = devices, axis_names
        self.shape = dict(zip(axis_names, devices.shape, strict=True))


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    target = Path(sys.argv[1])
    main(target, target, int(sys.argv[2]))
