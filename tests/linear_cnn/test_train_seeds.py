"""Many seeds in one program against one seed at a time."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import LinearCNN, Trajectory, train, train_seeds
from linear_cnn.training import _seeds, _step

RANDOM = np.random.default_rng(13)
IMAGES = RANDOM.normal(size=(10, 4, 5, 2))
TARGETS = RANDOM.normal(size=(67, 10, 2))  # one set a seed
HEAD = RANDOM.normal(size=(3, 2))
KEYS = jax.random.split(jax.random.key(9), 67)
SGD = optax.sgd(0.1)
MOMENTUM = optax.sgd(0.05, momentum=0.9)
SETTINGS = {"steps": 9, "record_steps": [1, 4, 9]}


def two_outputs(key):
    return LinearCNN(
        2, 3, (2, 3), head=HEAD, init_std=0.3, dtype=jnp.float64, rngs=nnx.Rngs(key)
    )


def one_output(key):
    return LinearCNN(2, 3, (2, 3), init_std=0.3, dtype=jnp.float64, rngs=nnx.Rngs(key))


def one_by_one(init, targets, keys, **settings):
    """The trajectories of `train`, stacked; targets (S, ...)."""
    runs = [
        train(init, IMAGES, y, key=key, **SETTINGS, **settings)
        for key, y in zip(keys, targets, strict=True)
    ]
    return Trajectory(
        runs[0].steps,
        np.stack([run.conv1 for run in runs]),
        np.stack([run.loss for run in runs]),
        state=jax.tree.map(
            lambda *leaves: np.stack(leaves), *(run.state for run in runs)
        ),
    )


def assert_same_trajectories(ours, expected):
    # Each moved.
    assert (
        np.abs(expected.conv1 - expected.conv1[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()
        > 0.1
    )
    assert np.ptp(expected.conv1[:, 0], axis=0).max() > 0.1  # and they differ
    chex.assert_trees_all_equal_shapes_and_dtypes(
        ours, jax.tree.map(jnp.asarray, expected)
    )
    chex.assert_trees_all_close(ours, expected, rtol=1e-13, atol=1e-13)


@pytest.fixture(scope="module")
def five_seeds():
    return train_seeds(
        two_outputs, IMAGES, TARGETS[0], optimizer=SGD, keys=KEYS[:5], **SETTINGS
    )


def test_shared_targets(five_seeds):
    expected = one_by_one(two_outputs, [TARGETS[0]] * 5, KEYS[:5], optimizer=SGD)
    np.testing.assert_array_equal(five_seeds.steps, [0, 1, 4, 9])
    assert five_seeds.conv1.shape == (5, 4, 2, 3, 2, 3)
    assert_same_trajectories(five_seeds, expected)


def test_targets_of_each_seed():
    seeds = train_seeds(
        two_outputs, IMAGES, TARGETS[:5], optimizer=SGD, keys=KEYS[:5], **SETTINGS
    )
    assert_same_trajectories(
        seeds, one_by_one(two_outputs, TARGETS[:5], KEYS[:5], optimizer=SGD)
    )


def test_keys_of_another_generator():
    """A vmap over them draws all numbers from the first one."""
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 5)
    settings = {"optimizer": SGD, "batch_size": 4}
    assert_same_trajectories(
        train_seeds(two_outputs, IMAGES, TARGETS[0], keys=keys, **settings, **SETTINGS),
        one_by_one(two_outputs, [TARGETS[0]] * 5, keys, **settings),
    )


def test_several_blocks_of_minibatches_in_one_trace():
    """67 seeds divide neither by the devices nor into blocks, and every seed shuffles
    by itself."""
    # Once to see its size.
    init = chex.assert_max_traces(lambda key: one_output(key), n=2)
    settings = {"optimizer": MOMENTUM, "batch_size": 4}
    first = train_seeds(
        init, IMAGES, TARGETS[..., 0], keys=KEYS, **settings, **SETTINGS
    )
    assert_same_trajectories(
        first, one_by_one(one_output, TARGETS[..., 0], KEYS, **settings)
    )
    again = train_seeds(
        init, IMAGES, TARGETS[..., 0], keys=KEYS, **settings, **SETTINGS
    )
    chex.assert_trees_all_equal(first, again)
    other = train_seeds(
        init,
        -IMAGES,
        TARGETS[..., 1],
        keys=KEYS[::-1],
        **settings,
        steps=500,
        record_steps=[2, 3, 99],
    )
    np.testing.assert_allclose(
        other.conv1[:, 0], first.conv1[::-1, 0], rtol=0, atol=1e-15
    )
    np.testing.assert_array_equal(other.steps, [0, 2, 3, 99])


def test_one_seed_and_data_on_any_device(five_seeds):
    """Results can be used together, and with data that lie on one of several
    devices."""
    assert jax.device_count() == 2
    targets = jax.device_put(jnp.asarray(TARGETS[0]), jax.devices()[1])
    one = train_seeds(
        two_outputs, IMAGES, targets, optimizer=SGD, keys=KEYS[:1], **SETTINGS
    )
    np.testing.assert_allclose(one.conv1 - five_seeds.conv1[:1], 0, rtol=0, atol=1e-13)
    np.testing.assert_allclose(one.loss - five_seeds.loss[:1], 0, rtol=0, atol=1e-13)
    images, keys = jax.device_put((IMAGES, KEYS[:5]), jax.devices()[1])
    chex.assert_trees_all_equal(
        train_seeds(two_outputs, images, targets, optimizer=SGD, keys=keys, **SETTINGS),
        five_seeds,
    )


@pytest.mark.parametrize(
    ("targets", "keys", "outputs"),
    [
        ((10,), 4, 1),
        ((10, 1), 4, 1),
        ((4, 10), 4, 1),
        ((4, 10, 1), 4, 1),
        ((10, 2), 4, 2),
        ((4, 10, 2), 4, 2),
        ((10, 10, 2), 10, 2),
        ((10, 10, 1), 10, 1),
    ],
)
def test_shapes_of_targets(targets, keys, outputs):
    """Traced only; raw keys are as good as typed ones."""
    init = one_output if outputs == 1 else two_outputs

    def run(keys, targets):
        return train_seeds(init, IMAGES, targets, optimizer=SGD, keys=keys, **SETTINGS)

    raw = jax.random.key_data(KEYS[:keys])
    trajectory = jax.eval_shape(run, raw, np.ones(targets))
    assert trajectory.conv1.shape == (keys, 4, 2, 3, 2, 3)
    assert trajectory.loss.shape == (keys, 4)


@pytest.mark.parametrize(
    ("targets", "keys", "message"),
    [
        (
            (10, 10),
            10,
            (
                r"targets of shape \(10, 10\) could be 10 outputs or 10 seeds; give one"
                r" set a seed as \(S, N, 1\)"
            ),
        ),
        (
            (5, 10, 2),
            4,
            r"targets of shape \(5, 10, 2\) hold 5 sets, but there are 4 seeds",
        ),
        (
            (5, 10),
            4,
            r"targets must have shape \(N,\) or \(N, M\) with N = 10.*got \(5, 10\)",
        ),
        ((4, 9, 2), 4, r"N = 10.*got \(4, 9, 2\)"),
        ((10, 2), 4, r"outputs have shape \(10, 1\), but the targets \(10, 2\)"),
        ((4, 10, 3), 4, r"outputs have shape \(10, 1\), but the targets \(10, 3\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets, keys, message):
    with pytest.raises(ValueError, match=message):
        train_seeds(
            one_output,
            IMAGES,
            np.ones(targets),
            optimizer=SGD,
            keys=KEYS[:keys],
            **SETTINGS,
        )


@pytest.mark.parametrize(
    ("backend", "images", "batch_size", "least", "most"),
    [
        ("cpu", 10, None, 32, 32),
        ("cpu", 2000, None, 2, 7),
        ("cpu", 2000, 40, 8, 32),
        ("cpu", 20_000, None, 1, 1),
        ("gpu", 10, None, 4096, 4096),
        ("gpu", 250_000, None, 2, 7),
        ("gpu", 2_500_000, None, 1, 1),
    ],
)
def test_as_many_seeds_in_a_block_as_fit_the_backend(
    monkeypatch, backend, images, batch_size, least, most
):
    """4 MB hold the patches, responses, means and outputs of 2,000 images for about
    seven networks."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = _step._Program(two_outputs, SGD, batch_size, "mse", ())
    shape = jax.ShapeDtypeStruct((images, 4, 5, 2), np.float64)
    assert _seeds._bounds(program, KEYS[0], shape) == (least, most)


@pytest.mark.parametrize(
    ("seeds", "least", "most", "size"),
    [
        (5, 32, 32, 5),  # all in one
        (20, 1, 1, 1),
        (20, 2, 7, 3),
        (40, 2, 7, 2),
        (64, 8, 32, 8),
        (20, 8, 32, 10),  # 2 devices have one block each
        (100, 32, 32, 32),
    ],
)
def test_blocks_leave_few_devices_idle(seeds, least, most, size):
    assert _seeds._size(seeds, least, most) == size
