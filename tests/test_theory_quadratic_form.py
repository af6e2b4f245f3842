"""Quantiles of sums of squares of Gaussians: against scipy, numerical convolution and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from theory import quadratic_form_quantile

PROBABILITIES = np.array([1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 1e-6])


@jax.jit
def quantile(q, variances, means, degrees):
    return quadratic_form_quantile(q, variances=variances, means=means, degrees=degrees)


def test_one_term_is_a_chi_square():
    """Many degrees of freedom and non-centralities in one call; a term that is not random shifts the sum."""
    degrees = np.array([1, 2, 15, 500, 1, 1, 1, 3.0])
    noncentrality = np.array([0, 0, 0, 0, 0.1, 10, 1e6, 4])
    variance = np.array([2.5, 1e-8, 1e8, 1, 2.5, 2.5, 2.5, 0.3])
    x = quantile(
        PROBABILITIES[:, None],
        np.stack([variance, 0 * variance], axis=-1),
        np.stack([np.sqrt(noncentrality * variance), np.full(8, 3e-5)], axis=-1),
        np.stack([degrees, np.ones(8)], axis=-1),
    )
    assert x.shape == (9, 8)
    for column, (v, n, m2) in enumerate(zip(variance, degrees, noncentrality, strict=True)):
        z = (np.asarray(x[:, column]) - 9e-10) / v
        if n == 1:  # scipy's noncentral chi-square is not exact enough
            reached = stats.norm.cdf(np.sqrt(z) - np.sqrt(m2)) - stats.norm.cdf(-np.sqrt(z) - np.sqrt(m2))
        else:
            reached = stats.ncx2.cdf(z, n, m2) if m2 else stats.chi2.cdf(z, n)
        small = np.minimum(PROBABILITIES, 1 - PROBABILITIES)
        assert np.abs((reached - PROBABILITIES) / small).max() < 2e-7, column
        assert np.abs(reached - PROBABILITIES).max() < 1e-12, column


def test_two_terms_against_a_numerical_convolution():
    x = quantile(PROBABILITIES, np.array([1.0, 10.0]), np.zeros(2), np.array([15.0, 1.0]))
    for q, value in zip(PROBABILITIES, x, strict=True):
        root = np.sqrt(value / 10)

        def integrand(angle, root=root, value=value):
            density = 2 * root * np.cos(angle) * stats.norm.pdf(root * np.sin(angle))
            return density * stats.chi2.cdf(value * np.cos(angle) ** 2, 15)

        reached, _ = integrate.quad(integrand, 0, np.pi / 2, epsabs=1e-15)
        assert abs(reached - q) < 1e-13


def test_many_terms_against_sampling():
    random = np.random.default_rng(0)
    variances, means = np.array([1, 10, 0.3, 2, 0.01]), np.array([0, 1, 3, 0.5, 4])
    degrees = np.array([15, 1, 1, 2, 1.0])
    samples = 400_000
    total = variances[0] * random.chisquare(15, samples) + variances[3] * random.chisquare(1, samples)
    for v, m in zip(variances[1:], means[1:], strict=True):
        total += (np.sqrt(v) * random.normal(size=samples) + m) ** 2
    q = np.array([0.01, 0.05, 0.3, 0.5, 0.9, 0.99])
    below = (total[:, None] <= np.asarray(quantile(q, variances, means, degrees))).mean(axis=0)
    assert (np.abs(below - q) < 4 * np.sqrt(q * (1 - q) / samples)).all()


def test_terms_that_are_not_random():
    q = np.array([0.1, 0.9])
    cases = [
        ([0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [25, 25]),  # a constant
        ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0, 0]),
        ([2.0, 0.0], [0.0, 5.0], [0.0, 1.0], [25, 25]),  # no degrees of freedom
        ([2.0, 0.0], [0.0, 5.0], [1.0, 1.0], 25 + 2 * stats.chi2.ppf(q, 1)),
    ]
    for variances, means, degrees, expected in cases:
        x = quantile(q, np.array(variances), np.array(means), np.array(degrees))
        np.testing.assert_allclose(x, expected, rtol=1e-12)


def test_scales_do_not_matter():
    v, m, n = np.array([1.0, 1e-9]), np.array([0.5, 2.0]), np.array([3.0, 1.0])
    x = quantile(PROBABILITIES, v, m, n)
    assert (np.diff(x) > 0).all()
    for scale in (1e-200, 1e100):
        scaled = quantile(PROBABILITIES, scale * v, np.sqrt(scale) * m, n)
        np.testing.assert_allclose(scaled / scale, x, rtol=1e-11)


@pytest.mark.float32
def test_float32():
    q = np.array([1e-3, 0.05, 0.5, 0.95, 0.999], np.float32)
    terms = [np.array(values, np.float32) for values in ([2.0, 0.0], [0.0, 1.0], [15.0, 1.0])]
    x = quantile(q, *terms)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, 1 + 2 * stats.chi2.ppf(q.astype(float), 15), rtol=1e-4)


def test_derivatives_are_those_of_the_implicit_function():
    """Bisection itself would return numbers, but not derivatives."""
    n = np.array([3.0, 1.0])
    point = jnp.array([0.3, 1.0, 10.0, 0.5, 2.0])

    @jax.jit
    def value(point):
        return quadratic_form_quantile(point[0], variances=point[1:3], means=point[3:], degrees=n)

    steps = 1e-5 * np.eye(5)
    difference = jax.vmap(value)(point[None] + steps) - jax.vmap(value)(point[None] - steps)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(point), difference / 2e-5, rtol=1e-7)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("q must lie strictly between 0 and 1, got 0.0 to 0.5", {"q": [0, 0.5]}),
        ("q must lie strictly between 0 and 1, got 1.5", {"q": 1.5}),
        ("variances must be finite and >= 0, smallest entry -1.0", {"variances": [1, -1.0]}),
        ("degrees must be finite and >= 0, smallest entry nan", {"degrees": [1, np.nan]}),
        (r"must end in the same axis of terms.* \(2,\), \(3,\) and \(2,\)", {"means": [1, 2, 3.0]}),
        (r"must end in the same axis of terms", {"variances": 1.0, "means": 1.0, "degrees": 1.0}),
    ],
)
def test_bad_arguments(message, changed):
    arguments = {"q": 0.5, "variances": [1.0, 2.0], "means": [0.0, 0.0], "degrees": [1.0, 1.0]} | changed
    with pytest.raises(ValueError, match=message):
        quadratic_form_quantile(arguments.pop("q"), **arguments)
