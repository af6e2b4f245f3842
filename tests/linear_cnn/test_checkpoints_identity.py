"""Another result implies another identity of a checkpoint, and the same call has the
same one in every process."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import patch_convolution
from linear_cnn.training import _identity
from tests.linear_cnn.test_checkpoints import IMAGES, KEYS, Network, run

ROOT = str(Path(__file__).parents[2])


def noisy(seed):
    return optax.chain(optax.add_noise(0.1, 0.5, seed), optax.sgd(0.05))


def scaled(at, value):
    """Gradients times constants that the program holds, which differ in one entry."""
    constants = np.ones((3, 3, 3, 4), np.float32)
    constants.flat[at] = value

    def update(gradients, state, parameters=None):
        return jax.tree.map(
            lambda g: g * constants if g.shape == constants.shape else g, gradients
        ), state

    return optax.chain(
        optax.GradientTransformation(lambda _: optax.EmptyState(), update),
        optax.sgd(0.05),
    )


class Judged(Network):
    """Networks that train alike and are recorded differently."""

    def __init__(self, key, temperature):
        super().__init__(key)
        self.temperature, self.training = temperature, True

    def train(self, **attributes):
        super().train(**attributes)
        self.training = True

    def eval(self, **attributes):
        super().eval(**attributes)
        self.training = False

    def __call__(self, images):
        outputs = super().__call__(images)
        return outputs if self.training else outputs * self.temperature


def judged(temperature):
    return lambda key: Judged(key, temperature)


def constant_after(last):
    """A schedule that is the same in its text but for its last entry."""
    rates = np.full(6, 0.05, np.float32)  # 3 epochs of 2 steps
    rates[-1] = last
    return optax.sgd(lambda count: jnp.asarray(rates)[count])


# Pairs of calls whose results differ.
PAIRS = {
    "injected rate": [
        {"optimizer": optax.inject_hyperparams(optax.sgd)(rate)}
        for rate in (0.01, 0.02)
    ],
    "seed of noise": [{"optimizer": noisy(seed)} for seed in (0, 1)],
    "adagrad": [
        {"optimizer": optax.adagrad(0.05, initial_accumulator_value=value)}
        for value in (0.1, 0.5)
    ],
    "rmsprop": [
        {"optimizer": optax.rmsprop(0.05, initial_scale=value)} for value in (0.0, 1.0)
    ],
    "rate": [{"optimizer": optax.sgd(rate)} for rate in (0.01, 0.02)],
    "one constant of many": [{"optimizer": scaled(107, value)} for value in (1.0, 1.5)],
    "last step of a schedule": [
        {"optimizer": constant_after(last)} for last in (0.05, 0.5)
    ],
    "recorded in inference mode": [{"init": judged(value)} for value in (1.0, 2.0)],
    "initial key": [{"key": key} for key in KEYS[:2]],
    "generator of the key": [
        # The same numbers in the key.
        {"key": jax.random.wrap_key_data(np.full(4, 7, np.uint32), impl=impl)}
        for impl in ("rbg", "unsafe_rbg")
    ],
    "one bit of an image": [{}, {"images": np.nextafter(IMAGES, np.float32(9))}],
    "half of the images": [{}, {"images": np.where(IMAGES > 0, IMAGES, -IMAGES)}],
    "validation": [{}, {"validation": None}],
    "order of the images": [{}, {"images": IMAGES[::-1]}],
}


@pytest.mark.parametrize("name", PAIRS)
def test_another_result_is_another_run(name, tmp_path):
    """Asserts first that the results differ."""
    first, second = PAIRS[name]
    settings = {"epochs": 3}
    results = [run(**settings | one) for one in (first, second)]
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(*results)
    run(tmp_path, **settings | first)
    with pytest.raises(ValueError, match="holds a checkpoint of another run: its"):
        run(tmp_path, **settings | second)
    # The same call finds its own.
    chex.assert_trees_all_equal(run(tmp_path, **settings | first), results[0])


def test_precision_is_a_part_of_it(tmp_path):
    run(tmp_path, epochs=1)
    with (
        jax.default_matmul_precision("highest"),
        pytest.raises(ValueError, match="another run"),
    ):
        run(tmp_path, epochs=1)


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_versions_are_a_part_of_it(tmp_path, monkeypatch, package):
    run(tmp_path, epochs=1)
    known = _identity.version
    monkeypatch.setattr(
        _identity, "version", lambda name: "0.0" if name == package else known(name)
    )
    with pytest.raises(ValueError, match="its kind of device, versions"):
        run(tmp_path, epochs=1)


def test_flags_of_the_compiler_are_a_part_of_it(tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(ValueError, match="its kind of device, versions"):
        run(tmp_path, epochs=1)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import jax, optax
from linear_cnn.training import _loop
from tests.linear_cnn import test_checkpoints as here
made = _loop._identity
def shown(*arguments):
    identity = made(*arguments)
    print(identity, flush=True)
    return identity
_loop._identity = shown
for before in range({before}):
    # What else a process has traced does not matter.
    here.run(optimizer=optax.adam(0.1 + before), epochs=1, batch_size=4)
for optimizer in (here.MOMENTUM, optax.inject_hyperparams(optax.adam)(0.01)):
    here.run({folder!r} + str(optimizer is here.MOMENTUM), optimizer=optimizer)
    here.run({folder!r} + f"s{{optimizer is here.MOMENTUM}}", optimizer=optimizer,
             seeds=3)
"""


@pytest.mark.slow
def test_the_same_call_in_another_process_is_the_same_run(tmp_path):
    shown = []
    for seed, before in (("0", 0), ("1", 2)):
        code = SCRIPT.format(root=ROOT, folder=str(tmp_path / "run_"), before=before)
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        shown.append(done.stdout)
    assert len(shown[0].splitlines()) == 4
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": np.zeros(3)}, {"b": np.zeros(3)}),
        ({"a": np.zeros(3)}, {"a": np.zeros(3, np.float32)}),
        ({"a": np.zeros((3, 1))}, {"a": np.zeros((1, 3))}),
        ({"a": np.zeros(())}, {"a": np.zeros(1)}),
        ({"a": np.zeros(3)}, {"a": np.array([0.0, -0.0, 0.0])}),
        ({"a": np.zeros(1), "b": np.ones(1)}, {"a": np.ones(1), "b": np.zeros(1)}),
        ({"a": None, "b": np.ones(1)}, {"a": np.ones(1), "b": None}),
        ({"a": jnp.zeros(3, jnp.bfloat16)}, {"a": jnp.ones(3, jnp.bfloat16)}),
        ({"a": jnp.zeros(3, jnp.bfloat16)}, {"a": jnp.zeros(3, jnp.float16)}),
    ],
)
def test_digests_tell_trees_apart(first, second):
    assert _identity.digest(first) != _identity.digest(second)
    assert _identity.digest(first) == _identity.digest(dict(first))


def test_digests_do_not_depend_on_the_devices():
    values = np.arange(8.0).reshape(4, 2)
    devices = jax.local_devices()
    for count in {1, len(devices)}:
        mesh = jax.sharding.Mesh(np.array(devices[:count]), ("x",))
        spec = jax.sharding.PartitionSpec("x" if 4 % count == 0 else None)
        spread = jax.device_put(values, jax.sharding.NamedSharding(mesh, spec))
        assert _identity.digest(spread) == _identity.digest(values)


def test_bfloat16_is_kept(tmp_path):
    """NumPy knows no buffer of it."""

    class Small(nnx.Module):
        def __init__(self, key):
            rngs = nnx.Rngs(key)
            kinds = {"param_dtype": jnp.bfloat16, "dtype": jnp.bfloat16}
            convolve = {"conv_general_dilated": patch_convolution}
            self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs, **kinds, **convolve)
            self.dense = nnx.Linear(4, 2, rngs=rngs, **kinds)

        def __call__(self, images):
            return self.dense(self.conv1(images).mean(axis=(1, 2)))

    settings = {"init": Small, "images": jnp.asarray(IMAGES, jnp.bfloat16)}
    settings["validation"] = None
    expected = run(**settings)
    for _ in range(2):
        chex.assert_trees_all_equal(run(tmp_path, **settings), expected)
