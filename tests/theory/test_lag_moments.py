"""Second moments of patches at all lags: against loops over pairs of locations, and
between the two moments that they join."""

import functools
import sys

import jax
import numpy as np
import pytest

from tests.theory.twins import all_patches, relative_error
from theory import (
    batch_sums,
    cross_moments,
    lag_moments,
    mean_patch_moments,
    patch_moments,
    patches,
)

RANDOM = np.random.default_rng(12)
IMAGES = RANDOM.normal(size=(5, 7, 6, 2)).cumsum(axis=1).cumsum(axis=2) + 1

# kernel, largest lag, stride, padding
GEOMETRIES = [
    ((3, 2), 2, 1, "SAME"),
    ((2, 3), 6, 1, "SAME"),  # all lags: of a grid of 7 x 6
    ((7, 2), 4, 1, "VALID"),  # a grid of one row
    (2, 1, (2, 1), "VALID"),
    ((3, 3), 3, (1, 2), "SAME_LOWER"),
    ((3, 2), 2, 3, ((1, 2), (0, 3))),
    (1, 0, 1, "VALID"),
]
geometries = pytest.mark.parametrize(
    ("kernel", "largest", "stride", "padding"), GEOMETRIES
)


def by_loops(images, kernel, largest, stride, padding):
    patch = all_patches(images, kernel, stride, padding)
    count, rows, columns, d = patch.shape
    size = 2 * largest + 1
    result = np.zeros((size, size, d, d))
    for y in range(rows):
        for x in range(columns):
            for down in range(-largest, largest + 1):
                for across in range(-largest, largest + 1):
                    if 0 <= y + down < rows and 0 <= x + across < columns:
                        other = patch[:, y + down, x + across]
                        result[largest + down, largest + across] += (
                            patch[:, y, x].T @ other / count
                        )
    return result


@geometries
def test_it_is_the_sum_over_pairs(kernel, largest, stride, padding):
    expected = by_loops(IMAGES, kernel, largest, stride, padding)
    settings = {"stride": stride, "padding": padding}
    found = lag_moments(IMAGES, kernel, largest, **settings)
    assert relative_error(found, expected) < 1e-14
    # Every lag by its own size, also where it is small.
    nearest = np.abs(found - expected).max(axis=(2, 3))
    assert (nearest <= 1e-13 * np.abs(expected).max(axis=(2, 3))).all()
    np.testing.assert_allclose(
        found, np.asarray(found)[::-1, ::-1].swapaxes(2, 3), rtol=1e-12
    )


@pytest.mark.parametrize("case", [GEOMETRIES[0], GEOMETRIES[4]])
def test_within_a_transformation(case):
    kernel, largest, stride, padding = case
    take = jax.jit(
        lambda images: lag_moments(
            images, kernel, largest, stride=stride, padding=padding
        )
    )
    assert relative_error(take(IMAGES), by_loops(IMAGES, *case)) < 1e-13


# One column at a time, and all at once.
@pytest.mark.parametrize("overhead", [0, 10**6])
def test_blocks_of_any_width_give_the_same(monkeypatch, overhead):
    module = sys.modules[lag_moments.__module__]
    monkeypatch.setattr(module, "_OVERHEAD_ENTRIES", overhead)
    images = RANDOM.normal(size=(2, 4, 19, 1))
    where = patches.window(images.shape, 2, 1, "SAME")
    blocks = module._blocks(where, 3, 1, one=False)
    assert len(blocks) == (1 if overhead else 20)
    found = lag_moments(images, 2, 2, padding="SAME")
    assert relative_error(found, by_loops(images, 2, 2, 1, "SAME")) < 1e-14


@geometries
def test_its_ends_are_the_moments_of_patches_and_of_mean_patches(
    kernel, largest, stride, padding
):
    settings = {"stride": stride, "padding": padding}
    single = patch_moments(IMAGES, kernel, **settings)
    means = mean_patch_moments(IMAGES, np.zeros(5), kernel, **settings)
    locations = means.patches_per_image
    second = single.covariance + np.outer(single.mean, single.mean)
    found = lag_moments(IMAGES, kernel, largest, **settings)
    zero = found[largest, largest]
    assert relative_error(zero, locations * np.asarray(second)) < 1e-13
    all_lags = max(all_patches(IMAGES, kernel, **settings).shape[1:3]) - 1
    total = lag_moments(IMAGES, kernel, all_lags, **settings).sum(axis=(0, 1))
    assert relative_error(total, locations**2 * np.asarray(means.second)) < 1e-13
    if locations > 1:
        assert relative_error(locations * zero, total) > 0.01


def test_a_stationary_gradient():
    """The covariance of sum_j delta(j) p(j), location by location."""
    fall = np.exp(-0.3 * np.arange(7) ** 2) * np.cos(np.arange(7))
    patch = all_patches(IMAGES, 2, 1, "SAME")
    rows, columns = (
        fall[np.abs(np.subtract.outer(np.arange(n), np.arange(n)))]
        for n in patch.shape[1:3]
    )
    spread = np.einsum("yY,xX,nYXe->nyxe", rows, columns, patch)
    expected = np.einsum("nyxd,nyxe->de", patch, spread) / len(patch)
    lags = lag_moments(IMAGES, 2, 6, padding="SAME")
    by_lag = fall[np.abs(np.arange(-6, 7))]
    found = np.einsum("y,x,yxde->de", by_lag, by_lag, lags)
    assert relative_error(found, expected) < 1e-13


def test_cross_moments_are_means_of_these_sums():
    lags = np.asarray(lag_moments(IMAGES, (3, 2), 2))
    cross = cross_moments(IMAGES, (3, 2), [0, 2], center=False)
    rows, columns = cross.locations
    means = [
        (lags[2, 2] / columns + lags[2, 2] / columns) / rows,
        lags[2, 4] / (rows * (columns - 2)) + lags[4, 2] / ((rows - 2) * columns),
    ]
    for mean, expected in zip(means, cross.cross, strict=True):
        assert relative_error((mean + mean.T) / 4, expected) < 1e-13


# --- images in parts ---


def test_batches_are_the_whole():
    take = functools.partial(lag_moments, kernel_size=(3, 2), largest_lag=3)
    whole = take(IMAGES)
    parts = np.split(IMAGES, [1, 3])
    assert relative_error(take(iter(parts)), whole) < 1e-14
    assert relative_error(take(parts), whole) < 1e-14
    sums = sum(len(part) * np.asarray(take(part)) for part in parts)
    assert relative_error(sums / len(IMAGES), whole) < 1e-14


def test_chunks_are_the_whole(monkeypatch):
    images = RANDOM.normal(size=(11, 4, 5, 1))
    whole = lag_moments(images, 2, 2)
    monkeypatch.setattr(batch_sums, "_chunk_size", lambda shape, where: 3)
    assert relative_error(lag_moments(images, 2, 2), whole) < 1e-14
    traced = jax.jit(lambda images: lag_moments(images, 2, 2))(images)
    assert relative_error(traced, whole) < 1e-13


@pytest.mark.float32
def test_float32_images_are_summed_in_float64():
    images = IMAGES.astype(np.float32)
    found = lag_moments(images, 2, 2)
    assert found.dtype == np.float64
    exact = by_loops(images, 2, 2, 1, "VALID")
    assert relative_error(found, exact) < 1e-14
    inside = jax.jit(lambda images: lag_moments(images, 2, 2))(images)
    assert inside.dtype == np.float32
    assert relative_error(inside, exact) < 1e-5


# --- bad input ---


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (
            ValueError,
            r"largest_lag must lie between 0 and 5 .*leave \(5, 6\) .* got 6",
            (IMAGES, (3, 1), 6),
        ),
        (ValueError, "largest_lag must lie between 0 and 5", (IMAGES, 2, -1)),
        (TypeError, "largest_lag must be an integer, got 1.0", (IMAGES, 2, 1.0)),
        (TypeError, r"largest_lag must be an integer, got \[1\]", (IMAGES, 2, [1])),
        (ValueError, "smaller than kernel_size 8x2", (IMAGES, (8, 2), 1)),
        (ValueError, "images has 420 entries that are NaN", (IMAGES * np.nan, 2, 1)),
        (TypeError, "images must be floating", (IMAGES.astype(int), 2, 1)),
    ],
)
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        lag_moments(*arguments)
    images, *others = arguments
    with pytest.raises(error, match=message):
        lag_moments(iter([images]), *others)
