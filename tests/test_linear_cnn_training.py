"""The compiled training loop against Python loops over explicit gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from linear_cnn_twins import batch_indices, patches_by_loop, training_by_loop

from linear_cnn import LinearCNN, Trajectory, train

RANDOM = np.random.default_rng(11)
# Images in float32, targets and network in float64: nothing may be rounded to float32 on the way.
IMAGES = RANDOM.normal(size=(12, 5, 5, 2)).astype(np.float32)
TARGETS = RANDOM.normal(size=(12, 2))
HEAD = RANDOM.normal(size=(3, 2))
PATCHES = patches_by_loop(IMAGES.astype(np.float64), (2, 3), (1, 2))
KEYS = jax.random.split(jax.random.key(5), 3)
SGD = optax.sgd(0.1)
MOMENTUM = optax.sgd(0.05, momentum=0.9)
ADAM = optax.adam(0.01)
RECORDS = (0, 1, 2, 5, 12)  # tests share programs, and so the number of records


def linear(key):
    return LinearCNN(2, 3, (2, 3), strides=(1, 2), head=HEAD, init_std=0.3, dtype=jnp.float64, rngs=nnx.Rngs(key))


# For all runs of one kind: new keys, data values, steps and records must not trace it again.
TRACED_ONCE = chex.assert_max_traces(lambda key: linear(key), n=1)


def train_linear(init=TRACED_ONCE, images=IMAGES, targets=TARGETS, **settings):
    settings = {"optimizer": SGD, "steps": 12, "key": KEYS[0], "record_steps": RECORDS} | settings
    return train(init, images, targets, **settings)


def assert_same_training(trajectory, expected, tolerance=1e-12):
    """Kernels and losses agree relative to how far they moved, and they moved far."""
    kernels, losses = expected
    moved = np.abs(kernels - kernels[0]).max()
    assert moved > 0.1 * np.abs(kernels[0]).max()
    assert np.abs(losses - losses[0]).max() > 0.05 * losses[0]
    np.testing.assert_allclose(trajectory.conv1, kernels, rtol=0, atol=tolerance * moved)
    np.testing.assert_allclose(trajectory.loss, losses, rtol=tolerance)


def test_gradients_accumulated_over_the_batches_of_an_epoch_are_those_of_the_full_batch():
    optimizer = optax.MultiSteps(SGD, 3, accumulator_dtype=jnp.float64)
    batches = train_linear(
        linear, optimizer=optimizer, batch_size=4, steps=36, record_steps=[3 * step for step in RECORDS]
    )
    full = train_linear()
    assert_same_training(batches, (np.asarray(full.conv1), np.asarray(full.loss)))


@pytest.mark.parametrize("records", [RECORDS, [3, 7, 8, 9], np.array([1, 4, 10, 11], np.uint8)])
def test_full_batch_gradient_descent(records):
    trajectory = train_linear(record_steps=records)
    steps = sorted({0, *map(int, records)})
    np.testing.assert_array_equal(trajectory.steps, steps)
    assert trajectory.conv1.shape == (5, 2, 3, 2, 3)
    assert trajectory.conv1.dtype == trajectory.loss.dtype == jnp.float64
    np.testing.assert_allclose(
        trajectory.conv1[0], linear(jax.random.split(KEYS[0])[0]).conv1.kernel[...], rtol=0, atol=1e-15
    )
    expected = training_by_loop(trajectory.conv1[0], PATCHES, TARGETS, HEAD, optimizer=SGD, record_steps=steps)
    assert_same_training(trajectory, expected)


def test_it_is_pure_in_its_key():
    first, again, other = (train_linear(key=key) for key in (KEYS[0], KEYS[0], KEYS[1]))
    chex.assert_trees_all_equal(first, again)
    assert np.abs(first.conv1[0] - other.conv1[0]).max() > 0.1


def test_later_steps_leave_no_trace():
    chex.assert_trees_all_equal(train_linear(), train_linear(steps=10**15))


def test_a_trajectory_is_a_pytree():
    trajectory = train_linear()
    assert len(jax.tree.leaves(trajectory)) == 3
    assert isinstance(jax.tree.map(np.asarray, trajectory), Trajectory)


def test_minibatches_with_momentum():
    trajectory = train_linear(linear, optimizer=MOMENTUM, batch_size=5)
    expected = training_by_loop(
        trajectory.conv1[0],
        PATCHES,
        TARGETS,
        HEAD,
        optimizer=MOMENTUM,
        record_steps=RECORDS,
        key=KEYS[0],
        batch_size=5,
    )
    assert_same_training(trajectory, expected)


def test_every_epoch_shows_every_image_once_in_a_new_order():
    # The one patch of image n is the n-th unit vector, so weight n moves when image n is in the batch.
    images = np.eye(12).reshape(12, 3, 4, 1)

    def blank(key):
        return LinearCNN(1, 1, (3, 4), init_std=0, dtype=jnp.float64, rngs=nnx.Rngs(key))

    trajectory = train(
        blank,
        images,
        np.ones(12),
        optimizer=SGD,
        steps=12,
        key=KEYS[0],
        record_steps=range(13),
        batch_size=4,
    )
    shown = [np.flatnonzero(change) for change in np.diff(np.asarray(trajectory.conv1).reshape(13, 12), axis=0)]
    assert all(len(batch) == 4 for batch in shown)
    epochs = [shown[start : start + 3] for start in range(0, 12, 3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(12))
    assert len({str(epoch) for epoch in epochs}) == 4


@pytest.mark.float32
def test_adam_in_float32():
    head = HEAD.astype(np.float32)

    def single(key):
        return LinearCNN(2, 3, (2, 3), strides=(1, 2), head=head, init_std=0.3, rngs=nnx.Rngs(key))

    trajectory = train_linear(single, optimizer=ADAM)
    assert trajectory.conv1.dtype == trajectory.loss.dtype == jnp.float32
    expected = training_by_loop(
        trajectory.conv1[0], PATCHES.astype(np.float32), TARGETS, head, optimizer=ADAM, record_steps=RECORDS
    )
    assert_same_training(trajectory, expected, tolerance=1e-4)


def waves(key, shape, dtype, out_sharding=None):
    """Initial weights that are quick to compile."""
    return jnp.cos(jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape) / 2


class Nonlinear(nnx.Module):
    """Trained in all its layers, with batch statistics and a random stream as state, in float32."""

    def __init__(self, key):
        rngs = nnx.Rngs(key)
        settings = {"kernel_init": waves, "rngs": rngs}
        self.conv1 = nnx.Conv(2, 3, (3, 3), padding="VALID", **settings)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(27, 2, **settings)

    def __call__(self, images):
        hidden = self.dropout(nnx.relu(self.norm(self.conv1(images))))
        return self.dense(hidden.reshape(images.shape[0], -1))


@pytest.mark.float32
def test_a_nonlinear_network_with_state():
    targets = TARGETS.astype(np.float32)
    trajectory = train_linear(Nonlinear, targets=targets, optimizer=MOMENTUM, batch_size=5)

    def loss(model, x, y):
        return jnp.mean(jnp.sum((model(x) - y) ** 2, axis=1))

    @nnx.jit
    def evaluate_and_step(model, moments, x, y):
        # In batches of the training's size, each of which the layers see as it is; 12 = 5 + 5 + 2.
        parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
        before = sum(loss(nnx.clone(model), IMAGES[part], targets[part]) * len(IMAGES[part]) for part in parts) / 12
        gradients = nnx.grad(loss)(model, x, y)
        parameters = nnx.state(model, nnx.Param)
        updates, moments = MOMENTUM.update(gradients, moments, parameters)
        nnx.update(model, optax.apply_updates(parameters, updates))
        return before, moments

    model = Nonlinear(jax.random.split(KEYS[0])[0])
    moments = MOMENTUM.init(nnx.state(model, nnx.Param))
    kernels, losses = [], []
    for index in range(13):
        if index in RECORDS:
            kernels.append(np.asarray(model.conv1.kernel[...]))
        batch = batch_indices(KEYS[0], 12, 5, index)
        before, moments = evaluate_and_step(model, moments, IMAGES[batch], targets[batch])
        if index in RECORDS:
            losses.append(before)
    assert_same_training(trajectory, (np.stack(kernels), np.array(losses)), tolerance=1e-4)


def test_one_trace_serves_all_calls():
    for key in KEYS:
        train_linear(key=key)
    train_linear(images=IMAGES + 1, targets=-TARGETS, steps=1000, record_steps=[10, 20, 300, 1000])
    with pytest.raises(AssertionError, match="traced > 1 times"):  # the counter counts
        train_linear(images=IMAGES[:6], targets=TARGETS[:6])


@pytest.mark.float32
def test_outputs_must_match_the_targets():
    def single(key):
        return LinearCNN(2, 3, (2, 3), head=np.ones((3, 2)), rngs=nnx.Rngs(key))

    with pytest.raises(ValueError, match=r"outputs have shape \(12, 2\), but the targets \(12, 1\).*one_hot"):
        train_linear(single, targets=TARGETS[:, 0])
    with pytest.raises(ValueError, match=r"outputs have shape \(12, 2\), but the targets \(12, 3\)"):
        train_linear(single, targets=np.ones((12, 3)), batch_size=4)


def test_the_network_needs_its_first_layer():
    class Dense(nnx.Module):
        def __init__(self, key):
            self.dense = nnx.Linear(50, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(key))

        def __call__(self, images):
            return self.dense(images.reshape(images.shape[0], -1))

    with pytest.raises(ValueError, match=r"attribute `conv1`.*\['dense'\]"):
        train_linear(Dense, IMAGES.astype(np.float64))


def test_init_must_return_a_module():
    with pytest.raises(TypeError, match=r"init must return a flax\.nnx\.Module"):
        train_linear(lambda key: jnp.zeros(3))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        train_linear(linear, IMAGES[:, :1])
