"""The compiled training loop against Python loops over explicit gradients."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import (
    LinearCNN,
    SmallCNN,
    TrainingDiverged,
    Trajectory,
    patch_convolution,
    train,
    train_seeds,
)
from linear_cnn.training import _loop
from tests.linear_cnn.twins import batch_indices, patches_by_loop, training_by_loop

RANDOM = np.random.default_rng(11)
# Images in float32, targets and network in float64: nothing may be rounded to float32
# on the way.
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
    return LinearCNN(
        2,
        3,
        (2, 3),
        stride=(1, 2),
        head=HEAD,
        init_std=0.3,
        dtype=jnp.float64,
        rngs=nnx.Rngs(key),
    )


# For all runs of one kind: new keys, data values, steps and records must not trace it
# again.
TRACED_ONCE = chex.assert_max_traces(lambda key: linear(key), n=1)


def train_linear(init=TRACED_ONCE, images=IMAGES, targets=TARGETS, **settings):
    settings = {
        "optimizer": SGD,
        "steps": 12,
        "key": KEYS[0],
        "record_steps": RECORDS,
    } | settings
    return train(init, images, targets, **settings)


def assert_same_training(trajectory, expected, tolerance=1e-12):
    """Kernels and losses agree relative to how far they moved, and they moved far."""
    kernels, losses = expected
    moved = np.abs(kernels - kernels[0]).max()
    assert moved > 0.1 * np.abs(kernels[0]).max()
    assert np.abs(losses - losses[0]).max() > 0.05 * losses[0]
    np.testing.assert_allclose(
        trajectory.conv1, kernels, rtol=0, atol=tolerance * moved
    )
    np.testing.assert_allclose(trajectory.loss, losses, rtol=tolerance)


def test_gradients_accumulated_over_batches_of_an_epoch_are_those_of_the_full_batch():
    optimizer = optax.MultiSteps(SGD, 3, accumulator_dtype=jnp.float64)
    batches = train_linear(
        linear,
        optimizer=optimizer,
        batch_size=4,
        steps=36,
        record_steps=[3 * step for step in RECORDS],
    )
    full = train_linear()
    assert_same_training(batches, (np.asarray(full.conv1), np.asarray(full.loss)))


@pytest.mark.parametrize(
    "records", [RECORDS, [3, 7, 8, 9], np.array([1, 4, 10, 11], np.uint8)]
)
def test_full_batch_gradient_descent(records):
    trajectory = train_linear(record_steps=records)
    steps = sorted({0, *map(int, records)})
    np.testing.assert_array_equal(trajectory.steps, steps)
    assert trajectory.conv1.shape == (5, 2, 3, 2, 3)
    assert trajectory.conv1.dtype == trajectory.loss.dtype == jnp.float64
    np.testing.assert_allclose(
        trajectory.conv1[0],
        linear(jax.random.split(KEYS[0])[0]).conv1.kernel[...],
        rtol=0,
        atol=1e-15,
    )
    expected = training_by_loop(
        trajectory.conv1[0], PATCHES, TARGETS, HEAD, optimizer=SGD, record_steps=steps
    )
    assert_same_training(trajectory, expected)


def test_it_is_pure_in_its_key():
    first, again, other = (train_linear(key=key) for key in (KEYS[0], KEYS[0], KEYS[1]))
    chex.assert_trees_all_equal(first, again)
    assert np.abs(first.conv1[0] - other.conv1[0]).max() > 0.1


def test_later_steps_leave_no_trace():
    kept = dataclasses.replace(train_linear(), state=None)
    more = train_linear(steps=10**15, keep_state=False)
    chex.assert_trees_all_equal(kept, more)


def test_a_trajectory_is_a_pytree():
    trajectory = train_linear(keep_state=False)
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
    # The one patch of image n is the n-th unit vector, so weight n moves when image n
    # is in the batch.
    images = np.eye(12).reshape(12, 3, 4, 1)

    def blank(key):
        return LinearCNN(
            1, 1, (3, 4), init_std=0, dtype=jnp.float64, rngs=nnx.Rngs(key)
        )

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
    shown = [
        np.flatnonzero(change)
        for change in np.diff(np.asarray(trajectory.conv1).reshape(13, 12), axis=0)
    ]
    assert all(len(batch) == 4 for batch in shown)
    epochs = [shown[start : start + 3] for start in range(0, 12, 3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(12))
    assert len({str(epoch) for epoch in epochs}) == 4


@pytest.mark.float32
def test_the_loss_over_many_images_does_not_overflow_float16():
    def half(key):
        return LinearCNN(
            2,
            3,
            (2, 3),
            stride=(1, 2),
            init_std=0,
            dtype=jnp.float16,
            rngs=nnx.Rngs(key),
        )

    # 12 x 90^2 is more than float16's largest number.
    images, targets = IMAGES.astype(np.float16), np.full(12, 90.0)
    trajectory = train(half, images, targets, optimizer=SGD, key=KEYS[0], steps=0)
    assert trajectory.conv1.dtype == jnp.float16
    np.testing.assert_array_equal(trajectory.loss, [8100])


@pytest.mark.float32
def test_adam_in_float32():
    head = HEAD.astype(np.float32)

    def single(key):
        return LinearCNN(
            2, 3, (2, 3), stride=(1, 2), head=head, init_std=0.3, rngs=nnx.Rngs(key)
        )

    trajectory = train_linear(single, optimizer=ADAM)
    assert trajectory.conv1.dtype == trajectory.loss.dtype == jnp.float32
    expected = training_by_loop(
        trajectory.conv1[0],
        PATCHES.astype(np.float32),
        TARGETS,
        head,
        optimizer=ADAM,
        record_steps=RECORDS,
    )
    assert_same_training(trajectory, expected, tolerance=1e-4)


def waves(key, shape, dtype, out_sharding=None):
    """Initial weights that are quick to compile."""
    return jnp.cos(jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape) / 2


class Nonlinear(nnx.Module):
    """Trained in all its layers, with batch statistics and a random stream as state, in
    float32."""

    def __init__(self, key):
        rngs = nnx.Rngs(key)
        settings = {"kernel_init": waves, "rngs": rngs}
        convolve = {"conv_general_dilated": patch_convolution}
        self.conv1 = nnx.Conv(2, 3, (3, 3), padding="VALID", **settings, **convolve)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(27, 2, **settings)

    def __call__(self, images):
        hidden = self.dropout(nnx.relu(self.norm(self.conv1(images))))
        return self.dense(hidden.reshape(images.shape[0], -1))


@pytest.mark.float32
def test_a_nonlinear_network_with_state():
    targets = TARGETS.astype(np.float32)
    trajectory = train_linear(
        Nonlinear, targets=targets, optimizer=MOMENTUM, batch_size=5
    )

    def loss(model, x, y):
        return jnp.mean(jnp.sum((model(x) - y) ** 2, axis=1))

    @nnx.jit
    def evaluate_and_step(model, moments, x, y):
        before = loss(
            nnx.view(model, use_running_average=True, deterministic=True),
            IMAGES,
            targets,
        )
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
        before, moments = evaluate_and_step(
            model, moments, IMAGES[batch], targets[batch]
        )
        if index in RECORDS:
            losses.append(before)
    assert_same_training(
        trajectory, (np.stack(kernels), np.array(losses)), tolerance=1e-4
    )


LABELS = RANDOM.integers(0, 2, size=12).astype(np.int32)
VALIDATION = (
    RANDOM.normal(size=(7, 5, 5, 2)).astype(np.float32),
    RANDOM.integers(0, 2, size=7).astype(np.int32),
)
CLASSIFY = {
    "targets": LABELS,
    "loss": "cross_entropy",
    "optimizer": MOMENTUM,
    "batch_size": 5,
}


@pytest.fixture(scope="module")
def classified():
    return train_linear(Nonlinear, validation=VALIDATION, **CLASSIFY)


@pytest.mark.float32
def test_cross_entropy_with_validation_in_inference_mode(classified):
    """Against a Python loop with the loss written out, twelve images in batches of
    five, seven to validate."""

    def loss(model, x, y):
        return -jnp.mean(
            jnp.sum(
                jnp.eye(2, dtype=jnp.float32)[y] * jax.nn.log_softmax(model(x)), axis=1
            )
        )

    @nnx.jit
    def step(model, moments, x, y):
        gradients = nnx.grad(loss)(model, x, y)
        parameters = nnx.state(model, nnx.Param)
        updates, moments = MOMENTUM.update(gradients, moments, parameters)
        nnx.update(model, optax.apply_updates(parameters, updates))
        return moments

    model = Nonlinear(jax.random.split(KEYS[0])[0])
    moments = MOMENTUM.init(nnx.state(model, nnx.Param))
    expected = {
        name: []
        for name in (
            "conv1",
            "loss",
            "accuracy",
            "validation_loss",
            "validation_accuracy",
        )
    }
    for index in range(13):
        if index in RECORDS:
            expected["conv1"].append(model.conv1.kernel[...])
            still = nnx.view(model, use_running_average=True, deterministic=True)
            for prefix, x, y in (("", IMAGES, LABELS), ("validation_", *VALIDATION)):
                expected[f"{prefix}loss"].append(loss(still, x, y))
                expected[f"{prefix}accuracy"].append(
                    np.mean(np.argmax(np.asarray(still(x)), axis=1) == y)
                )
        batch = batch_indices(KEYS[0], 12, 5, index)
        moments = step(model, moments, IMAGES[batch], LABELS[batch])
    assert_same_training(
        classified,
        tuple(np.asarray(expected[name]) for name in ("conv1", "loss")),
        tolerance=1e-4,
    )
    for name in ("accuracy", "validation_loss", "validation_accuracy"):
        assert np.ptp(expected[name]) > 0
        np.testing.assert_allclose(getattr(classified, name), expected[name], rtol=1e-4)


def test_validation_leaves_the_training_alone(classified):
    without = train_linear(Nonlinear, **CLASSIFY)
    assert without.validation_loss is without.validation_accuracy is None
    chex.assert_trees_all_equal(without.conv1, classified.conv1)
    chex.assert_trees_all_equal(without.accuracy, classified.accuracy)


@pytest.mark.parametrize("name", ["conv1", "conv1.kernel"])
def test_a_frozen_first_layer_stays_while_the_rest_learns(classified, name):
    frozen = train_linear(Nonlinear, frozen=[name], **CLASSIFY)
    np.testing.assert_array_equal(
        frozen.conv1, np.repeat(classified.conv1[:1], 5, axis=0)
    )
    assert frozen.loss[-1] < 0.9 * frozen.loss[0]
    assert np.abs(frozen.loss[1:] - classified.loss[1:]).min() > 1e-3


def test_a_kernel_is_frozen_without_its_bias():
    def init(key):  # no batch norm, under which a bias would not matter
        return SmallCNN(2, in_features=2, features=(3,), rngs=nnx.Rngs(key))

    layer, kernel, both = (
        train_linear(init, frozen=names, **CLASSIFY)
        for names in (["conv1"], ["conv1.kernel"], ["conv1.kernel", "conv1.bias"])
    )
    np.testing.assert_array_equal(kernel.conv1, layer.conv1)
    np.testing.assert_array_equal(both.loss, layer.loss)
    assert np.abs(kernel.loss[1:] - layer.loss[1:]).min() > 1e-4


def test_other_layers_can_be_frozen(classified):
    frozen = train_linear(Nonlinear, frozen=("dense", "norm"), **CLASSIFY)
    assert np.abs(frozen.conv1[-1] - frozen.conv1[0]).max() > 1e-3
    assert np.abs(frozen.conv1[-1] - classified.conv1[-1]).max() > 1e-3


def test_weight_decay_is_the_optimizers():
    """Without a gradient, w(t) = (1 - rate * decay)^t w(0)."""
    decay = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    trajectory = train_linear(linear, images=np.zeros_like(IMAGES), optimizer=decay)
    for step, kernel in zip(RECORDS, trajectory.conv1, strict=True):
        np.testing.assert_allclose(kernel, 0.95**step * trajectory.conv1[0], rtol=1e-13)


def test_epochs_and_their_records():
    by_epochs = train_linear(
        linear, batch_size=5, steps=None, epochs=3, record_steps=None
    )
    # Ten of the twelve images make an epoch.
    np.testing.assert_array_equal(by_epochs.steps, [0, 2, 4, 6])
    by_steps = train_linear(linear, batch_size=5, steps=6, record_steps=[2, 4, 6])
    chex.assert_trees_all_equal(by_epochs, by_steps)
    with pytest.raises(
        TypeError, match="either steps or epochs, got steps=12, epochs=3"
    ):
        train_linear(epochs=3)
    with pytest.raises(
        TypeError, match="either steps or epochs, got steps=None, epochs=None"
    ):
        train_linear(steps=None)


def test_long_stretches_are_the_same_run_as_short_ones(monkeypatch):
    expected = train_linear()
    monkeypatch.setattr(_loop, "_STRETCH_SECONDS", 0.0)  # one step a call
    chex.assert_trees_all_equal(train_linear(), expected)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(
        TrainingDiverged,
        match=r"the loss is inf at step (\d+); lower the learning rate",
    ) as caught:
        train_linear(images=1e4 * IMAGES, steps=200, record_steps=[1, 2, 3, 200])
    kept = caught.value.trajectory
    np.testing.assert_array_equal(kept.steps, [0, 1, 2, 3])
    assert kept.conv1.shape == (4, 2, 3, 2, 3)
    assert np.isfinite(kept.loss).all()
    # The step that is named is the first: a run until there is sound, and its next loss
    # is not.
    step = int(re.search(r"step (\d+)", str(caught.value))[1])
    assert np.isfinite(
        train_linear(
            images=1e4 * IMAGES, record_steps=[1, 2, 3, step - 1], steps=step
        ).loss
    ).all()
    with pytest.raises(TrainingDiverged, match=f"recorded loss is inf at step {step}"):
        train_linear(images=1e4 * IMAGES, record_steps=[1, 2, 3, step], steps=step)


def test_a_validation_loss_that_is_not_finite_stops_the_run():
    validation = np.full_like(IMAGES, 1e30), np.full(TARGETS.shape, 1e200)
    with pytest.raises(
        TrainingDiverged, match="the recorded validation loss is inf at step 0"
    ):
        train_linear(linear, validation=validation)


@pytest.mark.parametrize(
    ("size", "optimizer", "what"),
    [
        (1e200, SGD, "the recorded loss of seed 1 is inf at step 0"),
        (1e150, optax.sgd(1e5), "the loss of seed 1 is"),
    ],
)
def test_the_seed_that_diverges_is_named(size, optimizer, what):
    targets = np.stack([TARGETS[:, 0], size * TARGETS[:, 0], TARGETS[:, 1]])

    def one_output(key):
        return LinearCNN(
            2,
            3,
            (2, 3),
            head=np.ones(3),
            init_std=0.3,
            dtype=jnp.float64,
            rngs=nnx.Rngs(key),
        )

    with pytest.raises(TrainingDiverged, match=what) as caught:
        train_seeds(
            one_output,
            IMAGES,
            targets,
            optimizer=optimizer,
            keys=KEYS[:3],
            steps=200,
            record_steps=[0, 200],
        )
    if size == 1e150:  # there was a record before
        assert caught.value.trajectory.conv1.shape[:2] == (3, 1)


def test_every_layer_that_is_named_is_frozen():
    trajectory = train_linear(Nonlinear, frozen=("dense", "conv1"), **CLASSIFY)
    np.testing.assert_array_equal(
        trajectory.conv1, np.repeat(trajectory.conv1[:1], 5, axis=0)
    )
    assert (trajectory.loss[1:] != trajectory.loss[0]).any()  # the rest learns


def test_the_progress_bar_names_loss_accuracy_and_rate(capsys):
    train_linear(Nonlinear, validation=VALIDATION, progress=True, **CLASSIFY)
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(
        r"12/12 .*loss=\d.*, accuracy=0\.\d+, validation accuracy=0\.\d+, images/s=",
        last,
    )


def test_inside_jit_and_vmap():
    def kernels(key):
        return train_linear(linear, key=key).conv1

    both = jax.jit(jax.vmap(kernels))(KEYS[:2])
    for key, kernel in zip(KEYS[:2], both, strict=True):
        np.testing.assert_allclose(
            kernel, train_linear(linear, key=key).conv1, rtol=1e-12
        )


def test_one_trace_serves_all_calls():
    for key in KEYS:
        train_linear(key=key)
    train_linear(
        images=IMAGES / 2,
        targets=-TARGETS,
        steps=1000,
        record_steps=[10, 20, 300, 1000],
    )
    with pytest.raises(AssertionError, match="traced > 1 times"):  # the counter counts
        train_linear(images=IMAGES[:6], targets=TARGETS[:6])


@pytest.mark.float32
def test_outputs_must_match_the_targets():
    def single(key):
        return LinearCNN(2, 3, (2, 3), head=np.ones((3, 2)), rngs=nnx.Rngs(key))

    with pytest.raises(
        ValueError,
        match=r"outputs have shape \(12, 2\), but the targets \(12, 1\).*one_hot",
    ):
        train_linear(single, targets=TARGETS[:, 0])
    with pytest.raises(
        ValueError, match=r"outputs have shape \(12, 2\), but the targets \(12, 3\)"
    ):
        train_linear(single, targets=np.ones((12, 3)), batch_size=4)


class WithoutOutputAxis(Nonlinear):
    def __call__(self, images):
        return super().__call__(images)[:, 0]


@pytest.mark.parametrize("settings", [{"targets": TARGETS[:, 0]}, CLASSIFY])
def test_outputs_have_an_axis_of_their_own(settings):
    message = (
        r"outputs must be \(N, M\), a row for each image, got shape \(12,\); return"
        r" outputs\[:, None\] if"
    )
    with pytest.raises(ValueError, match=message):
        train_linear(WithoutOutputAxis, **settings)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("labels", "found"),
    [([0, 1, 2] * 4, "from 0 to 2"), ([-1, 1, 0] * 4, "from -1 to 1")],
)
def test_labels_must_be_classes_of_the_network(labels, found):
    message = (
        r"must lie between 0 and 1, since the network has 2 outputs, but they run"
        rf" {found}; give the network more"
    )
    with pytest.raises(ValueError, match=f"^targets {message}"):
        train_linear(Nonlinear, **CLASSIFY | {"targets": np.array(labels)})
    validation = (IMAGES, np.array(labels))
    with pytest.raises(ValueError, match=f"^validation targets {message}"):
        train_linear(Nonlinear, validation=validation, **CLASSIFY)


def test_layers_to_freeze_must_exist_and_leave_some():
    with pytest.raises(
        ValueError,
        match=(
            r"frozen names 'conv', which the network does not have; .*: nearest are"
            r" 'conv1', 'conv1\.bias', 'conv1\.kernel', "
        ),
    ):
        train_linear(Nonlinear, frozen=["norm", "conv"], **CLASSIFY)
    with pytest.raises(
        ValueError, match="leaves no parameter of the network to train; freeze fewer"
    ):
        train_linear(linear, frozen=["conv1"])


def test_the_network_needs_its_first_layer():
    class Dense(nnx.Module):
        def __init__(self, key):
            self.dense = nnx.Linear(50, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(key))

        def __call__(self, images):
            return self.dense(images.reshape(images.shape[0], -1))

    with pytest.raises(ValueError, match=r"no attribute 'conv1'.*\['dense\.kernel'\]"):
        train_linear(Dense, IMAGES.astype(np.float64))


def test_init_must_return_a_module():
    with pytest.raises(
        TypeError,
        match=r"init must return a flax\.nnx\.Module, got .*flax\.linen are none",
    ):
        train_linear(lambda key: jnp.zeros(3))
    for network in (linear(jax.random.key(0)), "LinearCNN"):
        with pytest.raises(
            TypeError,
            match=(
                r"init must be a function key -> network, got a (LinearCNN|str);"
                r" pass one"
            ),
        ):
            train_linear(network)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        train_linear(linear, IMAGES[:, :1])
