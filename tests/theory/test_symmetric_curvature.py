"""Closed forms of a filter's curvature: against gated sums over symmetric patches, an
independent quadrature, and draws of filters."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from tests.theory.twins import relative_error
from theory import (
    PatchMoments,
    filter_curvature,
    mean_filter_curvature,
    patch_moments,
    symmetric_filter_curvature,
)

RANDOM = np.random.default_rng(11)
FILTERS = RANDOM.normal(size=(2, 3, 2, 4))
WIDE = np.geomspace(1, 1e-5, 27)  # as patches of photographs have


def test_it_is_the_gated_moment_of_symmetric_patches():
    """Exactly, of any images that come with their negatives."""
    half = RANDOM.exponential(size=(6, 5, 5, 2)).cumsum(axis=2)
    images = np.concatenate([half, -half])
    moments = patch_moments(images, (2, 3), padding="SAME")
    found = symmetric_filter_curvature(moments.covariance, FILTERS)
    summed = filter_curvature(images, FILTERS, epsilon=0)
    assert relative_error(found, summed) < 1e-12
    w = FILTERS.reshape(12, 4)
    assert np.abs(np.einsum("kde,ek->kd", found, w)).max() < 1e-12
    # The gate is not symmetric in half of the images, nor with a pool.
    for other in (
        filter_curvature(half, FILTERS, epsilon=0),
        filter_curvature(images, FILTERS, epsilon=0, pool=2),
    ):
        assert relative_error(other, found) > 0.05


def test_patches_have_no_unit_and_filters_keep_theirs():
    """Products of both overflowed, or were lost."""
    covariance = np.cov(RANDOM.normal(size=(12, 40)))
    found = np.asarray(symmetric_filter_curvature(covariance, FILTERS))
    for patches in (1e-250, 1e-100, 1e200):
        for filters in (1e-100, 1.0, 1e100):
            other = symmetric_filter_curvature(patches * covariance, filters * FILTERS)
            assert relative_error(np.asarray(other) * filters * filters, found) < 1e-12


def test_draws_of_symmetric_patches():
    """Patches that are not Gaussian: a scale of their own each, and one pixel, so that
    they are independent."""
    mixing, batches, size = RANDOM.normal(size=(5, 5)), 60, 2000
    scale = RANDOM.exponential(size=(batches, size, 1)) ** 0.5  # of mean square 1
    signs = RANDOM.choice([-1.0, 1.0], size=(batches, size, 5))
    images = ((scale * signs) @ mixing.T)[:, :, None, None]
    covariance = mixing @ mixing.T
    moments = PatchMoments(
        np.zeros(5), covariance, 1, (1, 1, 5), (1, 1), ((0, 0), (0, 0))
    )
    filters = RANDOM.normal(size=(1, 1, 5, 3))
    means = np.array(
        [filter_curvature(part, filters, epsilon=0, moments=moments) for part in images]
    )
    found = symmetric_filter_curvature(covariance, filters)
    error = means.std(axis=0, ddof=1) / batches**0.5
    assert (error > 0).all()
    assert (np.abs(means.mean(axis=0) - found) < 4 * error).all()
    # Without the projection it would be far off.
    variance = np.einsum("dk,de,ek->k", filters[0, 0], covariance, filters[0, 0])
    wrong = covariance[None] / (2 * variance[:, None, None])
    assert (np.abs(means.mean(axis=0) - wrong) > 8 * error).any()


@pytest.mark.parametrize("d", [3, 4, 10, 200])
def test_equal_variances_have_a_closed_form(d):
    """The direction of a filter is independent of its length, and the mean of 1 over
    chi-square is 1 / (d - 2)."""
    found = mean_filter_curvature(np.full(d, 3.7))
    np.testing.assert_allclose(found, (1 - 1 / d) / (2 * (d - 2)), rtol=1e-13)


def by_mpmath(variance, components):
    """The plain integral, two decades at a time, and its tail in s^(-1/2), by 25
    digits."""
    with mpmath.workdps(25):
        v = [mpmath.mpf(float(x)) for x in variance]
        last = int(-np.log10(np.sort(variance)[-3])) + 2
        ends = [0, *(mpmath.mpf(10) ** k for k in range(-3, last, 2))]

        def integrand(s, x):
            product = mpmath.fprod(1 + 2 * s * y for y in v)
            return (1 + s * x) / (1 + 2 * s * x) / mpmath.sqrt(product)

        def integral(x):
            tail = mpmath.quad(
                lambda t: 2 * integrand(t**-2, x) / t**3, [0, ends[-1] ** -0.5]
            )
            return x / 2 * (mpmath.quad(lambda s: integrand(s, x), ends) + tail)

        return [float(integral(v[i])) for i in components]


@pytest.mark.parametrize(
    ("variance", "components"),
    [
        (WIDE, [0, 13, 26]),
        ([1.0, 1e-2, 1e-5], [0, 1, 2]),
        ([2.0, 2.0, 1e-5, 1e-5, 0.0], [0, 2]),
        ([1.0, 1e-25, 1e-50], [0, 1, 2]),
    ],
    ids=["photographs", "three", "pairs", "far"],
)
def test_the_mean_equals_another_quadrature(variance, components):
    found = np.asarray(mean_filter_curvature(variance))[components]
    np.testing.assert_allclose(found, by_mpmath(variance, components), rtol=1e-13)


def test_draws_of_filters():
    """Of enough variances for the mean square to exist."""
    variance = np.geomspace(1, 1e-2, 9)
    draws = RANDOM.normal(size=(9, 1, 1, 40_000)).swapaxes(0, 2)
    squares = draws[0, 0] ** 2
    sigma = variance @ squares
    found = mean_filter_curvature(variance)
    # The diagonal alone: entries off it have either sign.
    single = variance[:, None] / 2 * (1 - variance[:, None] * squares / sigma) / sigma
    error = single.std(axis=1, ddof=1) / 200
    assert (np.abs(single.mean(axis=1) - found) < 4 * error).all()
    few = symmetric_filter_curvature(np.diag(variance), draws[..., :50])
    diagonal = np.einsum("kdd->dk", few)
    np.testing.assert_allclose(diagonal, single[:, :50], rtol=1e-9)
    # Another exponent of the determinant, or no second term, is seen.
    assert (np.abs(single.mean(axis=1) - 2 * found) > 8 * error).all()
    plain = (variance[:, None] / (2 * sigma)).mean(axis=1)
    assert (np.abs(plain - found) > 8 * error)[0]


def test_the_mean_does_not_see_units_or_order():
    found = np.asarray(mean_filter_curvature(WIDE))
    for scale in (1e-200, 3.0, 1e200):
        np.testing.assert_allclose(
            mean_filter_curvature(scale * WIDE), found, rtol=1e-13
        )
    np.testing.assert_allclose(
        mean_filter_curvature(WIDE[::-1])[::-1], found, rtol=1e-13
    )
    with_zeros = mean_filter_curvature(np.append(WIDE, [0, 0]))
    np.testing.assert_allclose(with_zeros[:-2], found, rtol=1e-13)
    np.testing.assert_array_equal(with_zeros[-2:], 0)


@pytest.mark.float32
def test_dtypes_and_transformations():
    variance = WIDE.astype(np.float32)
    found = mean_filter_curvature(variance)
    assert found.dtype == np.float64
    both = jax.jit(mean_filter_curvature)(jnp.stack([variance, variance[::-1]]))
    assert both.dtype == np.float32
    np.testing.assert_allclose(both[0], found, rtol=1e-4)
    np.testing.assert_allclose(both[1][::-1], found, rtol=1e-4)
    covariance = np.diag(variance)
    filters = RANDOM.normal(size=(2, 3, 3, 3, 4)).astype(np.float32)
    single = symmetric_filter_curvature(covariance, filters)
    assert (single.shape, single.dtype) == ((2, 4, 27, 27), np.float64)
    inside = jax.jit(symmetric_filter_curvature)(covariance, filters)
    assert inside.dtype == np.float32
    assert relative_error(inside, single) < 1e-5


def test_the_mean_is_differentiable():
    variance = np.array([3.0, 1.0, 0.2, 0.01])
    jacobian = jax.jacobian(mean_filter_curvature)(variance)
    for i in range(4):
        step = 1e-5 * variance[i] * np.eye(4)[i]
        ends = [mean_filter_curvature(variance + sign * step) for sign in (1, -1)]
        slope = (np.asarray(ends[0]) - ends[1]) / (2 * step[i])
        np.testing.assert_allclose(jacobian[:, i], slope, rtol=1e-6)


# --- bad input ---


@pytest.mark.parametrize(
    "variance", [[1.0, 2.0], [1.0, 2.0, 0.0, 0.0], [[1.0, 2, 3], [1, 2, 0]], [0.0] * 4]
)
def test_the_mean_needs_three_variances(variance):
    with pytest.raises(ValueError, match=r"variance must have .*does not exist"):
        mean_filter_curvature(variance)


def test_the_mean_of_two_variances_grows_without_limit():
    """Their logarithm: what the third one saves from that."""
    small = [mean_filter_curvature([1.0, 1.0, 10.0**-k])[0] for k in (4, 8, 12)]
    steps = np.diff(small)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3)
    assert steps[0] > 0.5


@pytest.mark.parametrize(
    ("message", "covariance", "filters"),
    [
        (r"covariance must have shape .*\(12, 12\)", np.eye(11), FILTERS),
        ("covariance has 1 entries", np.diag([np.nan, *range(1, 12)]), FILTERS),
        ("covariance must be symmetric", np.eye(12) + np.eye(12, k=1), FILTERS),
        ("filters must have Flax's axes", np.eye(12), np.ones((12, 4))),
        ("filters has 48 entries", np.eye(12), FILTERS * np.inf),
        (r"filters \[2\] respond alike", np.eye(12), FILTERS * [1, 1, 0, 1]),
        (
            r"filters \[0, 1\] respond alike",  # in either bank
            np.diag([0.0, 1, 1]),
            np.eye(3)[[0, 1, 1, 0]].reshape(2, 1, 1, 2, 3).swapaxes(-1, -2),
        ),
    ],
)
def test_bad_input(message, covariance, filters):
    with pytest.raises(ValueError, match=message):
        symmetric_filter_curvature(covariance, filters)
