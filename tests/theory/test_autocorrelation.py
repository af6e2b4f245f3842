"""Autocorrelation of responses from cross moments: against loops over pairs and against
a real convolution."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.theory.twins import (
    all_patches,
    entry_error,
    mean_and_covariance,
    patch_rows,
    relative_error,
)
from theory import (
    CrossMoments,
    autocorrelation,
    cross_moments,
    pair_sums,
    patch_moments,
)

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.normal(size=(3, 6, 8, 2)).cumsum(axis=1).cumsum(axis=2) + 1
KERNEL = RANDOM.normal(size=(2, 3, 2, 4))
DISTANCES = [0, 1, 3, 4]


def correlation_of_responses(responses, distances):
    """Mean over pairs of locations of the product of all filters' responses, both
    directions averaged."""
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
    return np.array(result) / np.mean(
        [(image**2).sum(axis=-1).mean() for image in responses]
    )


@pytest.mark.parametrize("center", [True, False])
def test_it_equals_the_correlation_of_a_real_convolution(center):
    images, kernel = jnp.asarray(IMAGES), jnp.asarray(KERNEL)
    responses = np.asarray(
        lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
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


def explicit_cross_moments(images, distances, center):
    """Loops over all pairs of patches of 2x3 pixels."""
    patches = all_patches(images, (2, 3))
    n, rows, columns, _ = patches.shape
    mean = patches.mean(axis=(0, 1, 2))
    cross, pair_mean = [], []
    for step in distances:
        places = [
            (i, y, x)
            for i in range(n)
            for y in range(rows)
            for x in range(columns - step)
        ]
        across = [(patches[i, y, x], patches[i, y, x + step]) for i, y, x in places]
        places = [
            (i, y, x)
            for i in range(n)
            for y in range(rows - step)
            for x in range(columns)
        ]
        down = [(patches[i, y, x], patches[i, y + step, x]) for i, y, x in places]
        taken = mean if center else np.zeros_like(mean)
        both = sum(
            np.mean([np.outer(p - taken, q - taken) for p, q in pairs], axis=0) / 2
            for pairs in (across, down)
        )
        cross.append((both + both.T) / 2)
        pair_mean.append(
            sum(
                np.mean([(p + q) / 2 for p, q in pairs], axis=0) / 2
                for pairs in (across, down)
            )
        )
    about = (patches - mean if center else patches).reshape(-1, patches.shape[-1])
    return CrossMoments(
        about.T @ about / len(about),
        np.array(cross),
        mean,
        np.array(pair_mean),
        tuple(distances),
        n,
        (rows, columns),
        (2, 3, images.shape[3]),
        center,
    )


def assert_equal(moments, expected, bound=1e-13):
    for field in dataclasses.fields(CrossMoments):
        value, other = getattr(moments, field.name), getattr(expected, field.name)
        if field.metadata.get("static"):
            assert value == other
        else:
            assert relative_error(value, other) < bound, field.name


# The narrowest strips, and a single wide one.
@pytest.mark.parametrize("overhead", [0, 10**6])
@pytest.mark.parametrize("center", [True, False])
def test_cross_moments_equal_loops_over_pairs(monkeypatch, center, overhead):
    """Distances of which the patches overlap, touch, and are as far apart as the image
    allows."""
    monkeypatch.setattr(pair_sums, "_OVERHEAD_ENTRIES", overhead)
    jax.clear_caches()  # of programs with other strips
    distances = [2, 0, 4, 1, 3]
    assert_equal(
        cross_moments(IMAGES, (2, 3), distances, center=center),
        explicit_cross_moments(IMAGES, distances, center),
    )
    traced = jax.jit(
        lambda images: cross_moments(images, (2, 3), [2, 1], center=center)
    )
    assert_equal(traced(IMAGES), explicit_cross_moments(IMAGES, [2, 1], center))


def test_a_large_mean_costs_no_digits_of_centered_moments():
    images = IMAGES + np.array([1e3, -1e6])
    moments, near = (
        cross_moments(images, (2, 3), [0, 2]),
        cross_moments(IMAGES, (2, 3), [0, 2]),
    )
    assert (
        entry_error(moments.second, mean_and_covariance(patch_rows(images, (2, 3)))[1])
        < 100
    )
    assert relative_error(moments.cross[0], moments.second) < 1e-14
    # The images themselves are rounded, to 1e-10.
    assert relative_error(moments.cross, near.cross) < 1e-9


@pytest.mark.parametrize("center", [True, False])
def test_cross_moments_of_parts_add_up(center):
    images = np.concatenate([IMAGES, IMAGES[::-1, ::-1] * 2 + 3, IMAGES[:1] - 5])
    whole = explicit_cross_moments(images, [0, 1, 3], center)
    parts = [
        explicit_cross_moments(part, [0, 1, 3], center)
        for part in np.split(images, [1, 3])
    ]
    a, b, c = parts
    for total in (a + b + c, a + (b + c), c + b + a, (c + a) + b):
        assert_equal(total, whole)
    assert_equal(
        functools.reduce(
            operator.add, map(functools.partial(jax.tree.map, jnp.asarray), parts)
        ),
        whole,
    )


def test_moments_that_do_not_fit_cannot_be_added():
    moments = cross_moments(IMAGES, (2, 3), [0, 2])
    for field, other in (
        ("distances", (0, 1)),
        ("locations", (5, 7)),
        ("kernel_shape", (3, 2, 2)),
        ("centered", False),
    ):
        with pytest.raises(
            ValueError, match=f"moments of different {field} cannot be added: .* and "
        ):
            moments + dataclasses.replace(moments, **{field: other})
    with pytest.raises(
        TypeError, match=r"of one kind .* got CrossMoments and PatchMoments"
    ):
        moments + patch_moments(IMAGES, (2, 3))


def test_a_known_case():
    """Stripes one pixel wide correlate perfectly along and oppositely across them;
    pixels are the patches."""
    stripes = np.tile([1.0, -1.0], (1, 6, 3))[..., None]
    measured = autocorrelation(
        np.ones((1, 1, 1, 1)), cross_moments(stripes, 1, [0, 1, 2, 3, 4, 5])
    )
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


@pytest.mark.parametrize(
    ("error", "message", "distances"),
    [
        (
            ValueError,
            (
                r"distances must lie between 0 and 4 pixels .*leave \(5, 6\)"
                r" locations\), got \[0, 5\]"
            ),
            [0, 5],
        ),
        (ValueError, "distances must lie between 0 and 4 pixels", -1),
        (TypeError, r"distances must be a list of integers, got \[1.5\]", [1.5]),
        (TypeError, r"distances must be a list of integers, got \[\]", []),
        (TypeError, r"distances must be a list of integers", [[1, 2]]),
    ],
)
def test_bad_distances(error, message, distances):
    for images in (IMAGES, iter([IMAGES])):
        with pytest.raises(error, match=message):
            cross_moments(images, (2, 3), distances)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda images: cross_moments(images, (2, 3), distances), IMAGES)


def test_bad_images_and_kernels():
    with pytest.raises(TypeError, match="images must be floating point, got int64"):
        cross_moments(IMAGES.astype(int), (2, 3), 1)
    with pytest.raises(ValueError, match="smaller than kernel_size 7x2"):
        cross_moments(IMAGES, (7, 2), 1)
    with pytest.raises(
        ValueError,
        match=(
            r"kernel of shape \(3, 2, 2, 4\) does not match .* patches of shape \(2,"
            r" 3, 2\)"
        ),
    ):
        autocorrelation(np.ones((3, 2, 2, 4)), cross_moments(IMAGES, (2, 3), 1))
