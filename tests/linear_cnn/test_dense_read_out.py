"""A read-out of every location, against loops, and its training against the closed form
of a quadratic loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import theory
from linear_cnn import LinearCNN, tangent_moments, train
from tests.linear_cnn.twins import patches_by_loop

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.normal(size=(9, 5, 6, 2))
LOCATIONS = 4 * 4  # of kernels of 2x3
HEAD = RANDOM.normal(size=(3, LOCATIONS, 2))
TARGETS = RANDOM.normal(size=(9, 2))
KEY = jax.random.key(0)


def network(head=HEAD, **settings):
    return LinearCNN(
        2,
        3,
        (2, 3),
        read_out="dense",
        head=head,
        **{"init_std": 0.5, "dtype": jnp.float64, "rngs": nnx.Rngs(1)} | settings,
    )


def patches():
    """(N, J, d)"""
    return patches_by_loop(IMAGES, (2, 3), (1, 1), "VALID").reshape(9, LOCATIONS, -1)


def test_outputs_equal_an_explicit_loop():
    model = network()
    filters = np.asarray(model.conv1.kernel[...]).reshape(-1, 3)
    expected = np.zeros((9, 2))
    for n, of_image in enumerate(patches()):
        for j, patch in enumerate(of_image):
            for k in range(3):
                expected[n] += HEAD[k, j] * (filters[:, k] @ patch)
    np.testing.assert_allclose(model(jnp.asarray(IMAGES)), expected, atol=1e-12)
    one = network(HEAD[..., 0])(jnp.asarray(IMAGES))
    np.testing.assert_allclose(one, expected[:, :1], atol=1e-12)


def test_the_same_weights_at_all_locations_are_the_mean():
    mean = LinearCNN(
        2,
        3,
        (2, 3),
        head=HEAD[:, 0],
        init_std=0.5,
        dtype=jnp.float64,
        rngs=nnx.Rngs(1),
    )
    dense = network(np.repeat(HEAD[:, :1], LOCATIONS, axis=1) / LOCATIONS)
    np.testing.assert_allclose(
        dense(jnp.asarray(IMAGES)), mean(jnp.asarray(IMAGES)), atol=1e-13
    )


def test_a_drawn_head_is_gaussian_of_variance_one_over_locations():
    settings = {"image_size": (20, 15), "outputs": 50, "padding": "SAME"}
    head = np.asarray(network(None, **settings).head[...])
    assert head.shape == (3, 300, 50)
    z = head.ravel() * np.sqrt(300)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)
    other = np.asarray(network(None, **settings, rngs=nnx.Rngs(2)).head[...])
    assert abs(np.corrcoef(z, other.ravel())[0, 1]) < 5 / np.sqrt(z.size)
    # The filters do not know of it.
    pooled = LinearCNN(2, 3, (2, 3), init_std=0.5, dtype=jnp.float64, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(
        network(None, **settings).conv1.kernel[...], pooled.conv1.kernel[...]
    )
    assert network(None, image_size=7).head.shape == (3, 6 * 5, 1)


def test_training_is_the_closed_form_of_its_quadratic_loss():
    """Curvature and gradient measured on the network, and by the formula."""
    measured = tangent_moments(network(), IMAGES, TARGETS, loss="mse", batch_size=4)
    reads = np.einsum("kjm,njd->nmkd", HEAD, patches())
    curvature = 2 * np.einsum("nmkd,nmle->kdle", reads, reads) / 9
    np.testing.assert_allclose(measured.curvature, curvature, rtol=0, atol=1e-11)

    rate = 0.9 / np.linalg.eigvalsh(curvature.reshape(36, 36))[-1]
    steps = [0, 1, 2, 10, 100, 3000]

    def init(key):
        return network()

    kernels = train(
        init,
        IMAGES,
        TARGETS,
        optimizer=optax.sgd(rate),
        key=KEY,
        steps=steps[-1],
        record_steps=steps,
    ).conv1.reshape(len(steps), -1, 3)
    change = np.swapaxes(kernels - kernels[:1], 1, 2)
    closed = theory.quadratic_descent(measured.curvature, measured.drive, rate)
    expected = np.asarray(closed.change(np.array(steps)))
    assert np.abs(change[-1]).max() > 0.5  # it moved far
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-9)
    wrong = theory.quadratic_descent(measured.curvature, measured.drive, rate / 2)
    assert np.abs(np.asarray(wrong.change(np.array(steps))) - change).max() > 1e-3


def test_the_mean_curvature_is_that_of_single_patches():
    """2 M times the second moment of the patches, for each filter, over heads."""
    draws = np.array(
        [
            tangent_moments(
                network(RANDOM.normal(size=(3, LOCATIONS, 2)) / np.sqrt(LOCATIONS)),
                IMAGES,
                TARGETS,
                loss="mse",
                batch_size=9,
            ).curvature
            for _ in range(200)
        ]
    )
    of_patches = np.einsum("njd,nje->de", patches(), patches()) / (9 * LOCATIONS)
    expected = 4 * np.einsum("kl,de->kdle", np.eye(3), of_patches)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert error.max() < 0.1 * np.abs(expected).max()
    assert np.abs((draws.mean(axis=0) - expected) / error).max() < 5  # of 1,296


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read_out": "max"}, "read_out must be 'mean' or 'dense', got 'max'"),
        ({"head": None}, "read_out='dense' needs image_size"),
        (
            {"image_size": 5},
            "image_size=5 and outputs=None are of a drawn head",
        ),
        (
            {"read_out": "mean", "head": None, "outputs": 2},
            "outputs=2 are of a drawn head",
        ),
        (
            {"head": HEAD[0]},
            r"head must have shape \(3, J\) or \(3, J, M\).*got \(16, 2\)",
        ),
        ({"head": HEAD[:, 0, 0]}, r"got \(3,\)"),
        ({"head": 0 * HEAD}, "head must be finite and not all zeros"),
        ({"head": None, "image_size": (5, 6), "outputs": 0}, "outputs must be >= 1"),
        ({"head": None, "image_size": (5, 2)}, "smaller than the kernel"),
        ({"head": None, "image_size": (5, 2, 1)}, "image_size must be an integer or a"),
    ],
)
def test_malformed_settings_are_refused(settings, message):
    arguments = {"read_out": "dense", "head": HEAD} | settings
    with pytest.raises(ValueError, match=message):
        LinearCNN(2, 3, (2, 3), rngs=nnx.Rngs(0), **arguments)


def test_images_of_other_locations_are_refused():
    with pytest.raises(ValueError, match="have 20 locations, but the dense head 16"):
        network()(jnp.zeros((1, 6, 6, 2)))
