"""The batch of a network spread over devices: the same training up to rounding."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linear_cnn import (
    LinearCNN,
    patch_convolution,
    random_crop_and_flip,
    train,
    train_seeds,
)

RANDOM = np.random.default_rng(29)
IMAGES = RANDOM.normal(size=(30, 7, 6, 3)) + RANDOM.normal(size=(30, 1, 1, 1))
LABELS = RANDOM.integers(0, 2, size=30)
KEYS = jax.random.split(jax.random.key(2), 3)
SGD = optax.sgd(0.2, momentum=0.9)
TWO = jax.make_mesh((2,), ("batch",))  # its axis is explicit
SETTINGS = {
    "optimizer": SGD,
    "epochs": 3,
    "batch_size": 8,  # the last batch of a record reaches back
    "loss": "cross_entropy",
    "metrics": {"size": lambda outputs, labels: (outputs**2).sum(axis=1)},
}


class Network(nnx.Module):
    """With batch statistics and a random stream."""

    def __init__(self, key, dtype):
        rngs, of = nnx.Rngs(key), {"dtype": dtype, "param_dtype": dtype}
        fast = {"conv_general_dilated": patch_convolution}
        self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs, **of, **fast)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs, **of)
        # Which nnx.BatchNorm has in float32.
        self.norm.mean, self.norm.var = map(
            nnx.BatchStat, (jnp.zeros(4, dtype), jnp.ones(4, dtype))
        )
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(4, 2, rngs=rngs, **of)

    def __call__(self, images):
        # Of nnx.BatchNorm's own arithmetic.
        with jax.numpy_dtype_promotion("standard"):
            images = nnx.relu(self.norm(self.conv1(images)))
        return self.dense(self.dropout(images).mean(axis=(1, 2)))


DOUBLE, SINGLE = (functools.partial(Network, dtype=dtype) for dtype in ("f8", "f4"))


def run(mesh=None, dtype="f8", **settings):
    init = DOUBLE if dtype == "f8" else SINGLE
    images, settings = IMAGES.astype(dtype), SETTINGS | settings
    settings["validation"] = images[:7], LABELS[:7]  # which 2 do not divide
    if "keys" in settings:
        return train_seeds(init, images, LABELS, mesh=mesh, **settings)
    return train(init, images, LABELS, key=KEYS[0], mesh=mesh, **settings)


def recorded(trajectory):
    """What is floating point, without random streams."""
    return [
        leaf
        for leaf in jax.tree.leaves(trajectory)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]


def assert_close(ours, expected, tolerance):
    chex.assert_trees_all_close(
        recorded(ours), recorded(expected), rtol=tolerance, atol=tolerance
    )


@pytest.fixture(scope="module")
def alone():
    return run(augment=random_crop_and_flip)


def test_a_spread_batch_trains_alike(alone):
    assert np.abs(alone.conv1[-1] - alone.conv1[0]).max() > 0.1
    spread = run(TWO, augment=random_crop_and_flip)
    assert_close(spread, alone, 1e-10)
    # Each half for itself would have other statistics, and another training.
    halves = run(batch_size=4, augment=random_crop_and_flip)
    assert np.abs(halves.conv1[-1] - alone.conv1[-1]).max() > 0.01


@pytest.mark.float32
def test_a_spread_batch_in_float32():
    assert_close(run(TWO, "f4"), run(dtype="f4"), 1e-4)


def test_every_step_is_spread():
    """Looks at where the images are that a loss sees."""
    seen = []

    def loss(outputs, targets):
        jax.debug.inspect_array_sharding(outputs, callback=seen.append)
        return (outputs[:, 0] - targets) ** 2

    def init(key):
        return LinearCNN(3, 2, dtype=jnp.float64, rngs=nnx.Rngs(key))

    settings = {"optimizer": SGD, "steps": 1, "loss": loss, "key": KEYS[0]}
    train(init, IMAGES, IMAGES[:, 3, 3, 0], mesh=TWO, **settings)
    assert seen
    assert {sharding.num_devices for sharding in seen} == {2}
    assert not any(sharding.is_fully_replicated for sharding in seen)


@pytest.mark.parametrize("axes", [("seeds",), ("batch",), ("batch", "seeds")])
def test_seeds_on_any_mesh(axes):
    expected = run(keys=KEYS)
    mesh = Mesh(np.reshape(jax.devices(), (2, 1)[: len(axes)]), axes)
    ours = run(mesh, keys=KEYS)
    if axes == ("seeds",):
        chex.assert_trees_all_equal(ours, expected)
    assert_close(ours, expected, 1e-10)


def test_a_checkpoint_goes_from_one_mesh_to_another(tmp_path, alone):
    settings = {"augment": random_crop_and_flip, "checkpoint_dir": tmp_path}

    def first(step, record):
        if step == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(TWO, on_record=first, **settings)
    assert_close(run(**settings), alone, 1e-10)


@pytest.mark.float32
def test_seeds_begin_with_the_same_bits_on_any_mesh(tmp_path):
    """Which their checkpoint must agree with."""

    def init(key):
        return LinearCNN(3, 3, kernel_size=3, rngs=nnx.Rngs(key))

    def ours(mesh, on_record=None, folder=None):
        images, targets = IMAGES.astype("f4"), np.ones((30, 1), "f4")
        steps = {"steps": 6, "record_steps": [1, 6], "batch_size": 8}
        return train_seeds(
            init,
            images,
            targets,
            keys=KEYS,
            optimizer=optax.sgd(0.01),
            mesh=mesh,
            checkpoint_dir=folder,
            on_record=on_record,
            **steps,
        )

    def first(step, record):
        if step == 1:
            raise InterruptedError

    expected = ours(None)
    for number, (before, after) in enumerate([(TWO, None), (None, TWO)]):
        with pytest.raises(InterruptedError):
            ours(before, first, tmp_path / str(number))
        found = ours(after, lambda step, record: None, tmp_path / str(number))
        np.testing.assert_array_equal(found.conv1[:, 0], expected.conv1[:, 0])
        np.testing.assert_allclose(found.conv1, expected.conv1, rtol=1e-5, atol=1e-6)


def test_inside_of_jit(alone):
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)

    @jax.jit
    def conv1(key):
        settings = SETTINGS | {"augment": random_crop_and_flip}
        return train(DOUBLE, images, labels, key=key, mesh=TWO, **settings).conv1

    chex.assert_trees_all_close(conv1(KEYS[0]), alone.conv1, rtol=1e-10)


@pytest.mark.parametrize("active", [TWO, Mesh(jax.devices(), ("other",))])
@pytest.mark.parametrize(
    ("mesh", "settings"),
    [
        (None, {"augment": random_crop_and_flip}),
        (TWO, {"augment": random_crop_and_flip}),
        (None, {"keys": KEYS}),
    ],
)
def test_a_mesh_that_is_active_changes_nothing(active, mesh, settings):
    expected = run(mesh, **settings)
    with jax.set_mesh(active):
        found = run(mesh, **settings)
        assert jax.sharding.get_mesh() == active
    chex.assert_trees_all_equal(recorded(found), recorded(expected))


def explicit(values, *spec):
    return jax.device_put(values, NamedSharding(TWO, PartitionSpec(*spec)))


@pytest.mark.parametrize("spec", [("batch",), (None, None, "batch")])
def test_data_on_explicit_axes(spec, alone):
    settings = SETTINGS | {"augment": random_crop_and_flip}
    found = train(
        DOUBLE,
        explicit(IMAGES, *spec),
        explicit(LABELS, "batch"),
        key=explicit(KEYS[0]),
        validation=(explicit(IMAGES[:8]), explicit(LABELS[:8], "batch")),
        **settings,
    )
    np.testing.assert_allclose(found.conv1, alone.conv1, rtol=1e-10)


def test_keys_on_explicit_axes():
    keys = jax.random.split(KEYS[0], 4)
    chex.assert_trees_all_equal(
        recorded(run(keys=explicit(keys, "batch"))), recorded(run(keys=keys))
    )


def test_annotated_parameters_are_whole_on_every_device():
    """Flax asks for an active mesh where it finds one that is annotated."""
    kernel_init = nnx.initializers.ones

    class Annotated(nnx.Module):
        def __init__(self, key, kernel_init):
            self.conv1 = nnx.Conv(
                3,
                2,
                (3, 3),
                kernel_init=kernel_init,
                dtype=jnp.float64,
                param_dtype=jnp.float64,
                conv_general_dilated=patch_convolution,
                rngs=nnx.Rngs(key),
            )

        def __call__(self, images):
            return self.conv1(images).mean(axis=(1, 2))

    annotated = nnx.with_partitioning(kernel_init, (None, None, None, "batch"))
    settings = {"optimizer": SGD, "steps": 2, "key": KEYS[0]}
    targets = IMAGES[:, 3, 3, :2]
    expected, found = (
        train(
            functools.partial(Annotated, kernel_init=own), IMAGES, targets, **settings
        )
        for own in (kernel_init, annotated)
    )
    np.testing.assert_array_equal(found.conv1, expected.conv1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda images: train(DOUBLE, images, LABELS, key=KEYS[0], **SETTINGS).conv1,
            r"shape \(30, 7, 6, 3\) is being traced on the explicit or inactive mesh"
            r" {'batch': 2}.* outside of jax.jit",
        ),
        (
            lambda images: (
                train_seeds(DOUBLE, IMAGES, LABELS, keys=KEYS, **SETTINGS).conv1
            ),
            r"the active mesh {'batch': 2} cannot be left .* without jax.set_mesh",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused(function, message):
    with jax.set_mesh(TWO), pytest.raises(ValueError, match=message):
        jax.jit(function)(explicit(IMAGES, "batch"))


@pytest.mark.parametrize(
    ("mesh", "settings", "message"),
    [
        (2, {}, r"mesh must be a jax.sharding.Mesh, got int; jax.make_mesh\(\(8,\)"),
        (
            Mesh(jax.devices(), ("data",)),
            {},
            r"mesh has the axes \('data',\), but may have batch alone: jax.make_mesh",
        ),
        (
            Mesh(jax.devices(), ("seeds",)),
            {},
            r"may have batch alone; only train_seeds has seeds to spread",
        ),
        (
            Mesh(np.reshape(jax.devices(), (2, 1)), ("seeds", "images")),
            {"keys": KEYS},
            r"may have seeds and batch alone: jax.make_mesh\(\(2, 4\)",
        ),
        (
            Mesh(jax.devices()[:1] * 2, ("batch",)),
            {},
            r"mesh has CpuDevice\(id=0\) 2 times; each device may stand there once",
        ),
        (
            TWO,
            {"batch_size": 9},
            r"spreads the 9 images of a step over 2 devices, which do not divide them;"
            r" choose a batch_size that is a multiple of 2",
        ),
    ],
)
def test_a_mesh_that_cannot_be_used_is_refused(mesh, settings, message):
    kind = ValueError if isinstance(mesh, Mesh) else TypeError
    with pytest.raises(kind, match=message):
        run(mesh, **settings)
