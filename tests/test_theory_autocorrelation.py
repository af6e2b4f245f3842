"""Autocorrelation of responses from cross moments: against loops over pairs and against a real convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from theory_twins import all_patches, recompose, relative_error

from theory import autocorrelation, cross_moments, patch_spectrum, patches

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.normal(size=(3, 6, 8, 2)).cumsum(axis=1).cumsum(axis=2) + 1
KERNEL = RANDOM.normal(size=(2, 3, 2, 4))
DISTANCES = [0, 1, 3, 4]


def correlation_of_responses(responses, distances):
    """Mean over pairs of locations of the product of all filters' responses, both directions averaged."""
    _, rows, columns, _ = responses.shape
    result = []
    for step in distances:
        across = [
            (image[y, x] * image[y, x + step]).sum()
            for image in responses
            for y in range(rows)
            for x in range(columns - step)
        ]
        down = [
            (image[y, x] * image[y + step, x]).sum()
            for image in responses
            for y in range(rows - step)
            for x in range(columns)
        ]
        result.append((np.mean(across) + np.mean(down)) / 2)
    return np.array(result) / np.mean([(image**2).sum(axis=-1).mean() for image in responses])


@pytest.mark.parametrize("center", [True, False])
def test_it_equals_the_correlation_of_a_real_convolution(center):
    images, kernel = jnp.asarray(IMAGES), jnp.asarray(KERNEL)
    responses = np.asarray(
        lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    if center:
        responses = responses - responses.mean(axis=(0, 1, 2))
    expected = correlation_of_responses(responses, DISTANCES)
    moments = cross_moments(IMAGES, (2, 3), DISTANCES, center=center)
    assert moments.centered is center
    assert moments.distances == tuple(DISTANCES)
    measured = autocorrelation(KERNEL, moments)
    assert abs(measured[0] - 1) < 1e-14
    assert np.abs(measured - expected).max() < 1e-12
    assert np.abs(expected[1:]).max() > 0.05  # there is something to measure
    other = cross_moments(IMAGES, (2, 3), DISTANCES, center=not center)
    assert np.abs(autocorrelation(KERNEL, other) - expected).max() > 1e-3


def test_cross_moments_equal_loops_over_pairs(monkeypatch):
    monkeypatch.setattr(patches, "_CHUNK_ENTRIES", 1000)  # two images at a time and one left
    explicit = all_patches(IMAGES, (2, 3))
    explicit = explicit - explicit.mean(axis=(0, 1, 2))
    _, rows, columns, _ = explicit.shape
    moments = cross_moments(IMAGES, (2, 3), [2])
    pairs = [(image[y, x], image[y, x + 2]) for image in explicit for y in range(rows) for x in range(columns - 2)]
    across = np.mean([np.outer(a, b) for a, b in pairs], axis=0)
    pairs = [(image[y, x], image[y + 2, x]) for image in explicit for y in range(rows - 2) for x in range(columns)]
    down = np.mean([np.outer(a, b) for a, b in pairs], axis=0)
    both = (across + down) / 2
    assert relative_error(moments.cross[0], (both + both.T) / 2) < 1e-12
    spectrum = patch_spectrum(IMAGES, (2, 3))
    assert relative_error(moments.second, recompose(spectrum.variance, spectrum.components)) < 1e-12


def test_a_known_case():
    """Stripes one pixel wide correlate perfectly along and oppositely across them; pixels are the patches."""
    stripes = np.tile([1.0, -1.0], (1, 6, 3))[..., None]
    measured = autocorrelation(np.ones((1, 1, 1, 1)), cross_moments(stripes, 1, [0, 1, 2, 3, 4, 5]))
    np.testing.assert_allclose(measured, [1, 0, 1, 0, 1, 0], atol=1e-14)


@pytest.mark.float32
def test_batches_of_banks_and_dtypes():
    moments = cross_moments(IMAGES.astype(np.float32), (2, 3), 1)
    assert moments.second.dtype == moments.cross.dtype == np.float64
    banks = RANDOM.normal(size=(3, 2, *KERNEL.shape)).astype(np.float32)
    measured = autocorrelation(banks, moments)
    assert measured.shape == (3, 2, 1)
    assert measured.dtype == np.float64
    assert relative_error(measured[2, 1], autocorrelation(banks[2, 1], moments)) < 1e-12
    mapped = jax.jit(jax.vmap(autocorrelation, (0, None)))(banks[0], moments)
    assert relative_error(mapped, measured[0]) < 1e-5


def test_the_moments_of_traced_images():
    traced = jax.jit(lambda images: cross_moments(images, (2, 3), [0, 2]))(IMAGES)
    moments = cross_moments(IMAGES, (2, 3), [0, 2])
    assert relative_error(traced.cross, moments.cross) < 1e-13
    assert (traced.distances, traced.kernel_shape) == ((0, 2), (2, 3, 2))


@pytest.mark.parametrize(
    ("error", "message", "distances"),
    [
        (ValueError, r"distances must lie between 0 and 4 pixels .*leave \(5, 6\) locations\), got \[0, 5\]", [0, 5]),
        (ValueError, "distances must lie between 0 and 4 pixels", -1),
        (TypeError, r"distances must be a list of integers, got \[1.5\]", [1.5]),
        (TypeError, r"distances must be a list of integers, got \[\]", []),
        (TypeError, r"distances must be a list of integers", [[1, 2]]),
    ],
)
def test_bad_distances(error, message, distances):
    with pytest.raises(error, match=message):
        cross_moments(IMAGES, (2, 3), distances)


def test_bad_images_and_kernels():
    with pytest.raises(TypeError, match="images must be floating point, got int64"):
        cross_moments(IMAGES.astype(int), (2, 3), 1)
    with pytest.raises(ValueError, match="smaller than kernel_size 7x2"):
        cross_moments(IMAGES, (7, 2), 1)
    with pytest.raises(
        ValueError, match=r"kernel of shape \(3, 2, 2, 4\) does not match .* patches of shape \(2, 3, 2\)"
    ):
        autocorrelation(np.ones((3, 2, 2, 4)), cross_moments(IMAGES, (2, 3), 1))
