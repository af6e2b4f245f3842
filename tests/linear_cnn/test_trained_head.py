"""A head that is trained: against the recursion of both layers, over many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import theory
from linear_cnn import LinearCNN, compress, mean_patch_images, photographs, train

RANDOM = np.random.default_rng(31)
IMAGES = RANDOM.normal(size=(30, 6, 6, 2)).cumsum(axis=1) / 3
TARGETS = RANDOM.normal(size=(30, 2)) + 2 * IMAGES[:, 2:4, 2:4].mean(axis=(1, 2))
HEAD = RANDOM.normal(size=(3, 2))
STEPS = [0, 1, 10, 1000, 20_000]


def network(key=0, **settings):
    return LinearCNN(
        2,
        3,
        **{
            "head": HEAD,
            "train_head": True,
            "init_std": 0.2,
            "dtype": jnp.float64,
            "rngs": nnx.Rngs(key),
        }
        | settings,
    )


def test_both_layers_are_parameters_only_if_asked_for():
    for settings in ({}, {"read_out": "dense", "head": None, "image_size": 4}):
        both, fixed = network(**settings), network(**settings, train_head=False)
        names = [sorted(nnx.as_pure(nnx.state(n, nnx.Param))) for n in (both, fixed)]
        assert names == [["conv1", "head"], ["conv1"]]
        # They start alike.
        images = jnp.asarray(IMAGES[:, :4, :4])
        np.testing.assert_array_equal(both(images), fixed(images))


def test_a_head_that_is_trained_may_start_at_zero():
    assert not network(head=np.zeros(3)).head[...].any()
    with pytest.raises(ValueError, match=r"head must be finite\."):
        network(head=[1, np.nan, 0])
    with pytest.raises(ValueError, match="not all zeros, or no gradient reaches"):
        network(head=np.zeros(3), train_head=False)


def trained(train_head, images=None, targets=None):
    seen = mean_patch_images(jnp.asarray(IMAGES), 3)
    seen, projected = compress(seen, TARGETS)
    return train(
        lambda key: network(key, train_head=train_head),
        seen if images is None else images,
        projected if targets is None else targets,
        optimizer=optax.sgd(RATE),
        key=jax.random.key(3),
        steps=STEPS[-1],
        record_steps=STEPS,
    )


MOMENTS = theory.mean_patch_moments(IMAGES, TARGETS, 3)
# Of larger rates the end is chaotic: the head grows, and with it the curvature.
RATE = 0.1 * float(theory.largest_stable_learning_rate(MOMENTS, HEAD))


def test_training_is_the_recursion_of_both_layers():
    run = trained(train_head=True)
    kernels = np.asarray(run.conv1)
    theirs = theory.two_layer_descent(MOMENTS, HEAD, kernels[0], RATE, STEPS)
    # Both layers moved far.
    assert np.abs(kernels[-1] - kernels[0]).max() > 0.3
    assert np.abs(theirs.head[-1] - HEAD).max() > 0.3
    np.testing.assert_allclose(theirs.kernel, kernels, rtol=0, atol=1e-9)
    # The loss, of the compressed data too, tells of the head.
    small, values = compress(mean_patch_images(jnp.asarray(IMAGES), 3), TARGETS)
    products = np.asarray(theirs.kernel).reshape(5, -1, 3) @ np.asarray(theirs.head)
    errors = np.asarray(small).reshape(len(small), -1) @ products - np.asarray(values)
    losses = (errors**2).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(run.loss, losses, rtol=0, atol=1e-9)
    # A fixed head is another matter, by training and by its closed form.
    fixed = np.asarray(trained(train_head=False).conv1)
    closed = theory.gradient_descent(MOMENTS, HEAD, RATE).kernel(STEPS, kernels[0])
    np.testing.assert_allclose(closed, fixed, rtol=0, atol=1e-9)
    assert np.abs(fixed - kernels).max() > 0.05


def test_where_a_fixed_head_describes_the_filters_of_photographs():
    """Where the head changes little, and the filters start small against it."""
    images, labels, _ = photographs()
    moments = theory.mean_patch_moments(images, 2.0 * (labels == 2) - 1, 3)
    components = theory.patch_spectrum(images, 3).components
    start, steps = RANDOM.normal(size=(3, 3, 3, 16)), [1, 100, 10_000]

    def profile(change):
        return np.asarray(theory.energy_profile(change, components))

    found = []
    for init_std in (1e-3, 0.1, 0.3):
        kernel = init_std * start
        for square in (1.0, 16.0, 256.0, 4096.0):
            head = np.full(16, np.sqrt(square / 16))
            rate = 0.5 * float(theory.largest_stable_learning_rate(moments, head))
            fixed = np.asarray(
                theory.gradient_descent(moments, head, rate).kernel(steps, kernel)
            )
            both = theory.two_layer_descent(moments, head, kernel, rate, steps)
            of_fixed, of_both = (
                profile(fixed - kernel),
                profile(np.asarray(both.kernel) - kernel),
            )
            gap = np.linalg.norm(of_fixed - of_both, axis=1)
            change = np.asarray(theory.head_change(head, kernel, fixed))
            ratio = (kernel**2).sum() / square
            found += zip(
                np.maximum(change, ratio),
                gap / np.linalg.norm(of_both, axis=1),
                strict=True,
            )
    measure, error = np.array(found).T
    assert (measure < 0.1).sum() > 10
    assert error[measure < 0.1].max() < 0.05
    assert error[measure > 1].max() > 0.2


def test_a_dense_read_out_learns_too():
    """One step against the gradients by hand."""
    start = network(3, read_out="dense", head=None, image_size=4, outputs=2)
    w = np.asarray(start.conv1.kernel[...]).reshape(-1, 3)
    a = np.asarray(start.head[...])
    images = IMAGES[:, :4, :4]
    patches = np.stack(
        [
            images[:, i : i + 3, j : j + 3].reshape(30, -1)
            for i in (0, 1)
            for j in (0, 1)
        ],
        axis=1,
    )
    error = np.einsum("njd,dk,kjm->nm", patches, w, a) - TARGETS
    w = w - 0.1 * 2 / 30 * np.einsum("njd,kjm,nm->dk", patches, a, error)
    a = a - 0.1 * 2 / 30 * np.einsum("njd,dk,nm->kjm", patches, w_before(start), error)
    graph, parameters, rest = nnx.split(start, nnx.Param, ...)

    def loss(parameters):
        outputs = nnx.merge(graph, parameters, rest)(jnp.asarray(images))
        return ((outputs - TARGETS) ** 2).sum(axis=1).mean()

    after = jax.tree.map(
        lambda p, g: p - 0.1 * g, parameters, jax.jit(jax.grad(loss))(parameters)
    )
    pure = nnx.as_pure(after)
    np.testing.assert_allclose(
        pure["conv1"]["kernel"].reshape(-1, 3), w, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(pure["head"], a, rtol=0, atol=1e-12)


def w_before(network):
    return np.asarray(network.conv1.kernel[...]).reshape(-1, 3)
