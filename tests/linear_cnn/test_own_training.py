"""What a researcher brings to training: a loss, metrics, an augmentation, an optimizer
that looks at the loss; and the trained network that comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import linear_cnn
from linear_cnn import LinearCNN, SmallCNN, train, train_seeds, trained_network

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.normal(size=(12, 6, 6, 2)).astype(np.float32)
LABELS = RANDOM.integers(3, size=12)
SOFT = RANDOM.dirichlet(np.ones(3), size=12).astype(np.float32)
KEYS = jax.random.split(jax.random.key(7), 3)
SGD = optax.sgd(0.1)
FAST = {"conv_general_dilated": linear_cnn.patch_convolution}


def small(key):
    return SmallCNN(
        3, in_features=2, features=(4, 5), batch_norm=True, rngs=nnx.Rngs(key)
    )


def linear(key):
    return LinearCNN(2, 3, head=np.eye(3), init_std=0.3, rngs=nnx.Rngs(key))


def huber(outputs, targets):
    return optax.losses.huber_loss(outputs, targets).sum(axis=-1)


def cross_entropy(outputs, targets):
    return optax.softmax_cross_entropy(outputs, targets)


SETTINGS = {"optimizer": SGD, "steps": 6, "record_steps": [2, 4], "batch_size": 4}


def test_the_trained_network_is_that_of_the_last_step():
    """Its filters, batch statistics and loss are those that a run records there."""
    settings = SETTINGS | {"loss": "cross_entropy"}
    run = train(small, IMAGES, LABELS, key=KEYS[0], **settings)
    whole = settings | {"record_steps": [2, 4, 6]}
    recorded = train(small, IMAGES, LABELS, key=KEYS[0], **whole)
    network = trained_network(small, run)
    np.testing.assert_array_equal(network.conv1.kernel[...], recorded.conv1[-1])
    logits = network(jnp.asarray(IMAGES))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
    np.testing.assert_allclose(loss, recorded.loss[-1], rtol=1e-5)
    assert np.abs(np.asarray(run.conv1[-1] - recorded.conv1[-1])).max() > 1e-4
    # As it began, no batch statistics.
    fresh = small(KEYS[0])
    fresh.eval()
    assert np.abs(np.asarray(fresh(jnp.asarray(IMAGES)) - logits)).max() > 1e-2
    # It can be trained on: nothing is bound to the run.
    network.train()
    network(jnp.asarray(IMAGES))


def test_networks_of_many_seeds():
    settings = SETTINGS | {"loss": "cross_entropy"}
    runs = train_seeds(small, IMAGES, LABELS, keys=KEYS, **settings)
    for index in (0, 2, -1):
        alone = train(small, IMAGES, LABELS, key=KEYS[index], **settings)
        one, many = trained_network(small, alone), trained_network(small, runs, index)
        for found, expected in zip(
            jax.tree.leaves(nnx.state(many)),
            jax.tree.leaves(nnx.state(one)),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, atol=2e-5)
    for seed, message in ((None, "which of the 3 networks"), (3, "from 0 to 2, got 3")):
        with pytest.raises(ValueError, match=message):
            trained_network(small, runs, seed)
    with pytest.raises(ValueError, match="leave out seed = 0"):
        trained_network(small, alone, 0)
    with pytest.raises(ValueError, match="init makes another network"):
        trained_network(linear, alone)
    without = train_seeds(
        small, IMAGES, LABELS, keys=KEYS, keep_state=False, **settings
    )
    with pytest.raises(ValueError, match="train with keep_state=True"):
        trained_network(small, without, 0)


def with_dropout(key):
    class Dropping(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(2, 3, (3, 3), rngs=rngs, **FAST)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, images):
            return self.dropout(self.conv1(images).mean(axis=(1, 2)))

    return Dropping(nnx.Rngs(key))


def test_random_streams_come_back_and_a_resumed_run_has_the_same_state(tmp_path):
    settings = SETTINGS | {"loss": "cross_entropy", "key": KEYS[1]}
    whole = train(with_dropout, IMAGES, LABELS, **settings)
    kept = settings | {"checkpoint_dir": tmp_path / "run"}
    train(with_dropout, IMAGES, LABELS, **kept)
    read = train(with_dropout, IMAGES, LABELS, **kept)
    for run in (whole, read):
        network = trained_network(with_dropout, run)
        assert int(network.dropout.rngs.count[...]) > 0
    for one, other in zip(
        jax.tree.leaves(whole.state), jax.tree.leaves(read.state), strict=True
    ):
        assert bool((one == other).all())


def test_the_state_can_be_asked_for_inside_vmap():
    def final(key):
        run = train(linear, IMAGES, SOFT, key=key, optimizer=SGD, steps=3)
        return run.state["conv1"]["kernel"], run.conv1[-1]

    state, recorded = jax.vmap(final)(KEYS)
    np.testing.assert_array_equal(state, recorded)


def test_a_loss_of_ones_own_is_what_optax_does_with_it():
    """Soft labels through a function, against the same steps by hand; a metric beside
    it, on both sets."""
    validation = (IMAGES[:5], SOFT[:5])
    run = train(
        linear,
        IMAGES,
        SOFT,
        key=KEYS[0],
        optimizer=SGD,
        steps=4,
        loss=cross_entropy,
        metrics={"huber": huber},
        validation=validation,
    )
    network = linear(jax.random.split(KEYS[0])[0])
    graph, weights, rest = nnx.split(network, nnx.Param, ...)

    def loss(weights, images=IMAGES, targets=SOFT, function=cross_entropy):
        outputs = nnx.merge(graph, weights, rest)(jnp.asarray(images))
        return function(outputs, targets).mean()

    for step in range(5):
        for found, arguments in (
            (run.loss, {}),
            (run.metrics["huber"], {"function": huber}),
            (run.validation_loss, {"images": validation[0], "targets": validation[1]}),
            (
                run.validation_metrics["huber"],
                {
                    "images": validation[0],
                    "targets": validation[1],
                    "function": huber,
                },
            ),
        ):
            np.testing.assert_allclose(
                found[step], loss(weights, **arguments), rtol=1e-5
            )
        gradient = jax.grad(loss)(weights)
        weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient)
    assert abs(float(run.loss[-1] - run.loss[0])) > 1e-3
    assert run.accuracy is None


def test_outputs_and_targets_can_be_trees():
    """Two heads, one of them of classes; shared by seeds, or a set a seed."""

    class TwoHeads(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(2, 3, (3, 3), rngs=rngs, **FAST)

        def __call__(self, images):
            pooled = self.conv1(images).mean(axis=(1, 2))
            return {"class": pooled, "size": pooled[:, 0]}

    def init(key):
        return TwoHeads(nnx.Rngs(key))

    def both(outputs, targets):
        labels = optax.softmax_cross_entropy_with_integer_labels(
            outputs["class"], targets["class"]
        )
        return labels + (outputs["size"] - targets["size"]) ** 2

    targets = {"class": LABELS, "size": SOFT[:, 0]}
    settings = SETTINGS | {"loss": both}
    shared = train_seeds(init, IMAGES, targets, keys=KEYS, **settings)
    own = jax.tree.map(lambda leaf: np.stack([leaf] * 3), targets)
    of_each = train_seeds(init, IMAGES, own, keys=KEYS, **settings)
    np.testing.assert_allclose(shared.loss, of_each.loss, rtol=1e-6)
    assert (np.asarray(shared.loss[:, -1]) < np.asarray(shared.loss[:, 0])).all()


def test_augmentation_changes_training_and_nothing_that_is_recorded():
    settings = SETTINGS | {"loss": "cross_entropy", "key": KEYS[0]}

    def mirrored(key, images):
        return images[:, :, ::-1]

    plain = train(linear, IMAGES, LABELS, **settings)
    changed = train(linear, IMAGES, LABELS, augment=mirrored, **settings)
    by_hand = train(linear, IMAGES[:, :, ::-1], LABELS, **settings)
    np.testing.assert_allclose(changed.conv1, by_hand.conv1, atol=1e-6)
    assert np.abs(np.asarray(plain.conv1 - changed.conv1)).max() > 1e-4
    np.testing.assert_allclose(plain.loss[0], changed.loss[0], rtol=1e-6)

    # Another key in each step: a constant one would give the same images each time.
    def noisy(key, images):
        return images + 10 * jax.random.normal(key, (), images.dtype)

    seen = train(linear, 0 * IMAGES, LABELS, augment=noisy, **settings).conv1
    steps = np.diff(np.asarray(seen), axis=0)
    assert np.abs(steps).max() > 0
    again = train(linear, 0 * IMAGES, LABELS, augment=noisy, **settings).conv1
    np.testing.assert_array_equal(seen, again)
    other = settings | {"key": KEYS[1]}
    third = train(linear, 0 * IMAGES, LABELS, augment=noisy, **other).conv1
    change, changes = (np.asarray(run)[1] - np.asarray(run)[0] for run in (seen, third))
    assert np.abs(change - changes).max() > 1e-5


def test_random_crop_and_flip():
    images = jnp.arange(1.0, 2 * 6 * 5 + 1).reshape(2, 6, 5, 1)
    images = jnp.concatenate([images] * 100)
    found = np.asarray(
        linear_cnn.random_crop_and_flip(jax.random.key(3), images, padding=2)
    )
    framed = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    kinds = set()
    for index, image in enumerate(found):
        matches = [
            (down, right, flip)
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            if (
                image
                == framed[index, down : down + 6, right : right + 5][
                    :, :: -1 if flip else 1
                ]
            ).all()
        ]
        assert len(matches) == 1
        kinds.add(matches[0])
    assert {flip for *_, flip in kinds} == {False, True}
    assert (
        {down for down, *_ in kinds}
        == {right for _, right, _ in kinds}
        == set(range(5))
    )


def test_optimizers_that_look_at_the_loss():
    """They get that of the batch: a plateau lowers the rate at once where there is
    patience for none."""
    optimizer = optax.chain(
        optax.sgd(0.0), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)
    )
    run = train(linear, IMAGES, SOFT, key=KEYS[0], optimizer=optimizer, steps=5)
    np.testing.assert_array_equal(run.conv1[0], run.conv1[-1])
    step = optax.polyak_sgd(max_learning_rate=0.5)
    found = train(linear, IMAGES, SOFT, key=KEYS[0], optimizer=step, steps=20)
    assert float(found.loss[-1]) < 0.9 * float(found.loss[0])
    with pytest.raises(TypeError, match=r"optimizer cannot be used here.*value_fn"):
        train(linear, IMAGES, SOFT, key=KEYS[0], optimizer=optax.lbfgs(), steps=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": lambda o, t: huber(o, t).mean()},
            r"loss must give one real number .* got float32\[\]",
        ),
        (
            {"loss": lambda o, t: (o - t) ** 2},
            r"one real number for each image, \(12,\)",
        ),
        ({"loss": 3}, "or a function"),
        ({"metrics": {"loss": huber}}, "recorded as it is; give it another name"),
        (
            {"metrics": {"size": lambda o, t: o}},
            r"metrics\['size'\] must give one real",
        ),
        ({"metrics": [huber]}, "metrics must be functions"),
        ({"augment": lambda key, x: x[:, 1:]}, "augment must keep the shape and type"),
        ({"augment": 3}, "augment must be a function"),
    ],
)
def test_bad_functions(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(linear, IMAGES, SOFT, key=KEYS[0], optimizer=SGD, steps=2, **settings)


def test_targets_of_ones_own_have_a_leading_axis():
    for targets, message in (
        ({"a": SOFT[:5]}, r"leading axis N = \(12,\).*\(5, 3\)"),
        ({}, "got shapes"),
        ({"a": SOFT * np.nan}, "targets must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            train(
                linear,
                IMAGES,
                targets,
                key=KEYS[0],
                optimizer=SGD,
                steps=2,
                loss=lambda outputs, targets: outputs[:, 0],
            )


def test_a_loss_that_is_not_finite_at_the_start():
    with pytest.raises(linear_cnn.TrainingDiverged, match="nan at step 0"):
        train(
            linear,
            IMAGES,
            SOFT,
            key=KEYS[0],
            optimizer=SGD,
            steps=2,
            loss=lambda outputs, targets: jnp.log(-1 - outputs[:, 0] ** 2),
        )


def test_metrics_over_many_images_do_not_overflow_float16():
    def init(key):
        return LinearCNN(
            2, 3, head=np.eye(3), init_std=0.0, dtype=jnp.float16, rngs=nnx.Rngs(key)
        )

    def large(outputs, targets):
        return outputs[:, 0] + 30_000

    run = train(
        init,
        IMAGES.astype(np.float16),
        SOFT,
        key=KEYS[0],
        optimizer=SGD,
        steps=0,
        metrics={"large": large},
    )
    np.testing.assert_allclose(run.metrics["large"], 30_000, rtol=1e-3)


@pytest.mark.parametrize("batch_size", [2.0, 0, 100])
def test_a_bad_batch_size_is_named_before_the_augmentation_is_tried(batch_size):
    def augment(key, images):
        raise AssertionError

    with pytest.raises((ValueError, TypeError), match="batch_size must be"):
        train(
            linear,
            IMAGES,
            SOFT,
            key=KEYS[0],
            optimizer=SGD,
            steps=1,
            batch_size=batch_size,
            augment=augment,
        )
