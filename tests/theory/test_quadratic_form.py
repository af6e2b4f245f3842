"""Quantiles of sums of squares of Gaussians: against scipy, numerical convolution and
sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from theory import quadratic_form_quantile

PROBABILITIES = np.array([1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 1e-6])


@jax.jit
def compiled(variances, means, degrees):
    return quadratic_form_quantile(
        PROBABILITIES, variances=variances, means=means, degrees=degrees
    )


def quantiles(*terms):
    """At all PROBABILITIES; five terms always, the last ones zero, so that one program
    is compiled."""
    return np.asarray(
        compiled(
            *(np.pad(np.asarray(term, float), (0, 5 - len(term))) for term in terms)
        )
    )


@pytest.mark.parametrize(
    ("degrees", "noncentrality", "variance"),
    [
        (1, 0, 2.5),
        (2, 0, 1e-8),
        (15, 0, 1e8),
        (500, 0, 1),
        (1, 0.1, 2.5),
        (1, 10, 2.5),
        (1, 1e6, 2.5),
        (3, 4, 0.3),
    ],
)
def test_one_term_is_a_chi_square(degrees, noncentrality, variance):
    x = quantiles([variance], [np.sqrt(noncentrality * variance)], [degrees])
    z = x / variance
    if degrees == 1:  # scipy's noncentral chi-square is not exact enough
        reached = stats.norm.cdf(np.sqrt(z) - np.sqrt(noncentrality)) - stats.norm.cdf(
            -np.sqrt(z) - np.sqrt(noncentrality)
        )
    else:
        reached = (
            stats.ncx2.cdf(z, degrees, noncentrality)
            if noncentrality
            else stats.chi2.cdf(z, degrees)
        )
    assert np.abs(reached - PROBABILITIES).max() < 1e-12
    assert np.abs(reached / PROBABILITIES - 1).max() < 1e-9
    # A term that is not random shifts the sum.
    np.testing.assert_allclose(
        quantiles([variance, 0], [np.sqrt(noncentrality * variance), 1], [degrees, 1]),
        x + 1,
    )


def test_two_terms_against_a_numerical_convolution():
    x = quantiles([1, 10], [0, 0], [15, 1])
    for q, value in zip(PROBABILITIES, x, strict=True):
        root = np.sqrt(value / 10)

        def integrand(angle, root=root, value=value):
            density = 2 * root * np.cos(angle) * stats.norm.pdf(root * np.sin(angle))
            return density * stats.chi2.cdf(value * np.cos(angle) ** 2, 15)

        reached, _ = integrate.quad(integrand, 0, np.pi / 2, epsabs=1e-15)
        assert abs(reached - q) < 1e-13


def test_many_terms_against_sampling():
    random = np.random.default_rng(0)
    variances, means, degrees = (
        [1, 10, 0.3, 2, 0.01],
        [0, 1, 3, 0.5, 4],
        [15, 1, 1, 2, 1],
    )
    samples = 400_000
    total = variances[0] * random.chisquare(15, samples) + variances[
        3
    ] * random.chisquare(1, samples)
    for v, m in zip(variances[1:], means[1:], strict=True):
        total += (np.sqrt(v) * random.normal(size=samples) + m) ** 2
    below = (total[:, None] <= quantiles(variances, means, degrees)).mean(axis=0)
    standard_errors = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / samples)
    assert (np.abs(below - PROBABILITIES) < 4 * standard_errors + 1e-5).all()


def test_terms_that_are_not_random():
    np.testing.assert_array_equal(quantiles([0, 0], [3, 4], [1, 1]), 25)
    np.testing.assert_array_equal(quantiles([0, 0], [0, 0], [1, 1]), 0)
    # No degrees of freedom.
    np.testing.assert_array_equal(quantiles([2, 0], [0, 5], [0, 1]), 25)


def test_scales_do_not_matter():
    v, m, n = np.array([1.0, 1e-9]), np.array([0.5, 2.0]), np.array([3.0, 1.0])
    x = quantiles(v, m, n)
    assert (np.diff(x) > 0).all()
    for scale in (1e-200, 1e100):
        scaled = quantiles(scale * v, np.sqrt(scale) * m, n)
        np.testing.assert_allclose(scaled / scale, x, rtol=1e-11)


@pytest.mark.float32
def test_float32():
    q = np.array([1e-3, 0.05, 0.5, 0.95, 0.999], np.float32)
    terms = [
        np.array(values, np.float32) for values in ([2.0, 0.0], [0.0, 1.0], [15.0, 1.0])
    ]
    x = quadratic_form_quantile(
        q, **dict(zip(("variances", "means", "degrees"), terms, strict=True))
    )
    assert x.dtype == np.float32
    np.testing.assert_allclose(
        x, 1 + 2 * stats.chi2.ppf(q.astype(float), 15), rtol=1e-4
    )


def test_derivatives_are_those_of_the_implicit_function():
    """Bisection itself would return numbers, but not derivatives."""
    n = np.array([3.0, 1.0])
    point = jnp.array([0.3, 1.0, 10.0, 0.5, 2.0])

    @jax.jit
    @jax.value_and_grad
    def both(point):
        return quadratic_form_quantile(
            point[0], variances=point[1:3], means=point[3:], degrees=n
        )

    difference = [
        (both(point + step)[0] - both(point - step)[0]) / 2e-5
        for step in 1e-5 * np.eye(5)
    ]
    np.testing.assert_allclose(both(point)[1], difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("q must lie strictly between 0 and 1, got 0.0 to 0.5", {"q": [0, 0.5]}),
        ("q must lie strictly between 0 and 1, got 1.5", {"q": 1.5}),
        (
            "variances must be finite and >= 0, smallest entry -1.0",
            {"variances": [1, -1.0]},
        ),
        (
            "degrees must be finite and >= 0, smallest entry nan",
            {"degrees": [1, np.nan]},
        ),
        (
            r"must end in the same axis of terms.* \(2,\), \(3,\) and \(2,\)",
            {"means": [1, 2, 3.0]},
        ),
        (
            r"must end in the same axis of terms",
            {"variances": 1.0, "means": 1.0, "degrees": 1.0},
        ),
    ],
)
def test_bad_arguments(message, changed):
    arguments = {
        "q": 0.5,
        "variances": [1.0, 2.0],
        "means": [0.0, 0.0],
        "degrees": [1.0, 1.0],
    } | changed
    with pytest.raises(ValueError, match=message):
        quadratic_form_quantile(arguments.pop("q"), **arguments)
