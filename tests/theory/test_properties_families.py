"""Properties of families of profiles over time, of the profile that a curvature makes,
and of the schedule that whitens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory
from tests.theory.properties import (
    assert_close,
    orthogonal,
    seeds,
    variances,
    wide_scales,
)

D, K = 6, 3
exponents = st.floats(-0.5, 2.5)  # of the time, in units of 1 / the largest variance
criteria = st.sampled_from(["correlation", "likelihood"])


def theorem(variance, time):
    return -np.expm1(-np.multiply.outer(time, variance)) / np.sqrt(variance)


def noise(variance, time):
    return np.sqrt(-np.expm1(-2 * np.multiply.outer(time, variance)))


FAMILIES = {
    "theorem": (theory.theorem_family, theorem),
    "noise": (theory.noise_family, noise),
}
families = pytest.mark.parametrize(
    ("family", "formula"), FAMILIES.values(), ids=FAMILIES
)


def assert_same_fit(fit, other, unit=1.0):
    """The other with its time in that unit."""
    assert_close(other.correlation, fit.correlation, scale=1, rtol=1e-10)
    assert_close(other.log_ratio_std, fit.log_ratio_std, scale=1, rtol=1e-5)
    # The time is one of the two ends, or known.
    if np.isfinite(fit.time):
        np.testing.assert_allclose(other.time / unit, fit.time, rtol=1e-4)
    else:
        assert other.time == fit.time


# Families and their fits


@families
@given(variance=variances(smallest=1e-3), exponent=exponents, criterion=criteria)
def test_a_family_finds_its_time(family, formula, variance, exponent, criterion):
    tau = 10**exponent / variance.max()
    exact = 7 * formula(variance, tau)
    fit = theory.fit_profile(exact, family(variance), criterion=criterion)
    np.testing.assert_allclose(fit.time, tau, rtol=1e-5)
    np.testing.assert_allclose(fit.correlation, 1, atol=1e-12)
    np.testing.assert_allclose(fit.profile, exact, rtol=1e-5)
    assert fit.log_ratio_std < 1e-5


@families
@given(
    variance=variances(smallest=1e-3),
    exponent=st.floats(0, 2),
    criterion=criteria,
    scale=wide_scales,
    seed=seeds,
)
def test_a_fit_knows_no_unit_order_or_kind_of_array(
    family, formula, variance, exponent, criterion, scale, seed
):
    random = np.random.default_rng(seed)
    rough = formula(variance, 10**exponent / variance.max())
    rough = rough * random.uniform(0.8, 1.25, size=D)

    def fit(profile, variance):
        return theory.fit_profile(profile, family(variance), criterion=criterion)

    found, order = fit(rough, variance), random.permutation(D)
    scaled = fit(scale * rough[order], scale**2 * variance[order])
    assert_same_fit(found, scaled, scale**-2.0)
    assert_same_fit(found, fit(jnp.array(rough), jnp.array(variance)))
    early = theory.profile_correlation(rough, np.sqrt(variance))
    late = theory.profile_correlation(rough, formula(variance, 1e9 / variance.min()))
    assert_close(found.correlation_at_zero, early, scale=1)
    np.testing.assert_allclose(found.correlation_at_infinity, late, atol=1e-10)
    if criterion == "correlation":
        ends = (found.correlation_at_zero, found.correlation_at_infinity)
        assert found.correlation >= np.nanmax(ends) - 1e-12
        return
    # Components without variance tell the likelihood nothing.
    with_zero = fit(np.append(rough, 0.0), np.append(variance, 0.0))
    np.testing.assert_allclose(with_zero.time, found.time, rtol=1e-6)
    np.testing.assert_allclose(with_zero.profile[:D], found.profile, rtol=1e-5)
    assert with_zero.profile[D] == 0


@given(
    variance=variances(smallest=1e-3),
    share=st.floats(0.01, 0.9),
    exponent=st.floats(0, 2),
)
def test_the_theorems_family_with_a_learning_rate(variance, share, exponent):
    rate, steps = share / variance.max(), np.rint(10**exponent)
    exact = theory.iteration_profile(variance, steps, rate)
    fit = theory.fit_profile(exact, theory.theorem_family(variance, rate))
    np.testing.assert_allclose(fit.time, rate * steps, rtol=1e-5)
    np.testing.assert_allclose(fit.correlation, 1, atol=1e-12)
    named = theory.fit_profile(exact, variance, learning_rate=rate)
    jax.tree.map(np.testing.assert_array_equal, fit, named)
    # Without a rate it is another formula, which small rates approach.
    continuous = theory.fit_profile(exact, theory.theorem_family(variance))
    slow = theory.theorem_family(variance, 1e-9 * rate)
    assert_same_fit(continuous, theory.fit_profile(exact, slow))


@given(
    variance=variances(smallest=1e-3), exponent=exponents, seed=seeds, scale=wide_scales
)
def test_families_that_are_one(variance, exponent, seed, scale):
    """Of one filter, or of a function that says the same in another unit."""
    random, rotation = (
        np.random.default_rng(seed),
        orthogonal(np.random.default_rng(seed), D),
    )
    variance = variance / variance.max()
    rough = theorem(variance, 10**exponent) * random.uniform(0.8, 1.25, size=D)
    fit = theory.fit_profile(rough, theory.theorem_family(variance))
    turned = (rotation * variance) @ rotation.T
    turned = np.stack([(turned + turned.T) / 2] * K)
    for curvature, components in (
        (np.diag(variance)[None], np.eye(D)),
        (turned, rotation),
    ):
        family = theory.curvature_family(scale * curvature, components)
        assert_same_fit(fit, theory.fit_profile(rough, family), 1 / scale)

    def own(times):
        """In another unit at any time, of a size that changes with it."""
        values = theorem(variance, times * scale)
        return values * (1 + np.sin(np.log(times))[..., None] ** 2)

    family = theory.profile_family(
        own,
        times=(1e-4 / scale, 1e7 / scale),
        at_zero=3 * np.sqrt(variance),
        at_infinity=5 / np.sqrt(variance),
    )
    assert_same_fit(fit, theory.fit_profile(rough, family), 1 / scale)
    with_jax = theory.profile_family(
        lambda times: jnp.asarray(own(np.asarray(times))),
        times=(1e-4 / scale, 1e7 / scale),
        at_zero=jnp.sqrt(variance),
        at_infinity=jnp.array(1 / np.sqrt(variance)),
    )
    assert_same_fit(fit, theory.fit_profile(rough, with_jax), 1 / scale)


@given(variance=variances(smallest=1e-3), exponent=exponents, share=st.floats(1e-3, 1))
def test_the_noise_of_small_steps_is_of_the_noise_family(variance, exponent, share):
    rate, t = share / variance.max(), 10**exponent / share
    dynamics = theory.quadratic_descent(
        np.diag(variance)[None], np.zeros((1, D)), rate, continuous=True
    )
    profile = theory.gradient_noise_profile(dynamics, t, np.eye(D), batch_size=4)
    fit = theory.fit_profile(profile, theory.noise_family(variance))
    np.testing.assert_allclose(fit.time, rate * t, rtol=1e-5)
    np.testing.assert_allclose(fit.correlation, 1, atol=1e-12)


# The profile of a curvature


@st.composite
def curvatures(draw):
    """Of independent filters (K, D, D), sometimes singular along the same directions;
    the largest is about one."""
    random = np.random.default_rng(draw(seeds))
    axes = np.stack([orthogonal(random, D) for _ in range(K)])
    if draw(st.booleans()):
        axes = np.stack([axes[0]] * K)
    values = np.exp(random.uniform(-9, 0, size=(K, D)))
    values[:, 4:] *= draw(st.sampled_from([0, 1]))
    matrices = np.einsum("kde,ke,kfe->kdf", axes, values, axes)
    return (matrices + matrices.swapaxes(1, 2)) / 2, values, axes, random


TIMES = np.array([0, 1e-6, 1.0, 50.0, np.inf])


@given(problem=curvatures(), scale=wide_scales)
def test_curvature_profile(problem, scale):
    curvature, values, axes, random = problem
    basis = orthogonal(random, D)

    def of(curvature=curvature, times=TIMES, basis=basis):
        return np.asarray(theory.curvature_profile(curvature, times, basis))

    found = of()
    assert not found[0].any()
    assert (np.diff(found, axis=0) >= -1e-9 * found[1:]).all()
    # By definition, in modes.
    moved = -np.expm1(-TIMES[1:-1, None, None] * values)
    moved = np.concatenate([moved, np.ones((1, K, D))])
    kept = np.where(values > 0, moved**2 / np.where(values > 0, values, 1), 0)
    along = np.einsum("kde,di->kei", axes, basis) ** 2
    expected = np.sqrt(np.einsum("tke,kei->ti", kept, along) / K)
    for row, wanted in zip(found[1:], expected, strict=True):
        assert_close(row, wanted, rtol=1e-7)
    # At first along the curvature.
    first = np.einsum("di,kde,ei->i", basis, curvature, basis) / K
    assert_close(found[1], 1e-6 * np.sqrt(np.maximum(first, 0)), rtol=1e-5)
    # Units, axes, filters, and the energy of all components.
    scaled = of(scale * curvature, TIMES / scale)
    for row, wanted in zip(scaled, found, strict=True):
        assert_close(row * np.sqrt(scale), wanted, rtol=1e-9)
    turn, order = orthogonal(random, D), random.permutation(K)
    turned = turn @ curvature[order] @ turn.T
    turned = of((turned + turned.swapaxes(1, 2)) / 2, basis=turn @ basis)
    other = of(basis=orthogonal(random, D))
    together = np.zeros((K, D, K, D))
    together[np.arange(K), :, np.arange(K)] = curvature
    whole = of(together)
    for n, row in enumerate(found):
        assert_close(turned[n], row, rtol=1e-6)
        assert_close((other[n] ** 2).sum(), (row**2).sum(), rtol=1e-6)
        # Across filters the largest curvature sets what is rounding.
        assert_close(whole[n], row, rtol=1e-6)
    small = [jnp.array(x, np.float32) for x in (curvature, TIMES, basis)]
    assert_close(of(*small)[:-1], found[:-1], rtol=1e-3)


@given(variance=variances(), exponent=exponents)
def test_curvature_profile_of_one_filter_is_the_theorem(variance, exponent):
    times = 10**exponent / variance.max() * np.array([0, 1, 2, 1e3, np.inf])
    found = theory.curvature_profile(np.diag(variance)[None], times, np.eye(D))
    rate = 1e-9 / variance.max()
    expected = theory.iteration_profile(variance, times[:4] / rate, rate)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-6)
    np.testing.assert_allclose(found[4], theory.whitening_profile(variance), rtol=1e-12)


# The schedule that whitens


@given(
    variance=variances(),
    count=st.integers(1, D),
    tolerance=st.floats(1e-300, 1e-3) | st.floats(1e-3, 0.999),
    share=st.floats(1e-6, 0.99),
    scale=wide_scales,
)
def test_whitening_schedule(variance, count, tolerance, share, scale):
    rate, steps = theory.whitening_schedule(variance, count, tolerance)
    first = np.sort(variance)[::-1][:count]

    def left(rate, steps):
        """Logarithm of what is left of the slowest."""
        with np.errstate(divide="ignore"):
            return (steps * np.log1p(-np.minimum(rate * first, 2 - rate * first))).max()

    wanted = np.log(tolerance)
    assert left(rate, steps) <= wanted * (1 - 1e-6)
    if steps > 1:  # one fewer would not do
        assert left(rate, steps - 1) > wanted * (1 + 1e-6)
    # No other rate is faster; and what it gives is enough for any.
    for other in (share * 2 / first[0], 0.97 * rate, 1.03 * rate):
        if other * first[0] < 1.999:
            same, others = theory.whitening_schedule(
                variance, count, tolerance, effective_learning_rate=other
            )
            assert same == other
            assert others >= steps
            assert left(other, others) <= wanted * (1 - 1e-6)
    profile = np.asarray(theory.iteration_profile(variance, steps, rate))
    short = np.abs(profile * np.sqrt(variance) - 1)
    within = short[variance >= first[-1]] <= tolerance * (1 + 1e-6) + 1e-9
    assert within.all()
    # Fewer components, or a coarser tolerance, take no longer.
    for easier in ((max(count - 1, 1), tolerance), (count, np.sqrt(tolerance))):
        assert theory.whitening_schedule(variance, *easier)[1] <= steps
    # Units, order, and components of no variance.
    changed = scale**2 * np.append(0, variance[::-1])
    again = theory.whitening_schedule(changed, count, tolerance)
    np.testing.assert_allclose(again[0] * scale**2, rate, rtol=1e-15)
    assert again[1] == steps
    with pytest.raises(ValueError, match="beyond the 6 components"):
        theory.whitening_schedule(changed, D + 1, tolerance)
    with pytest.raises(ValueError, match="border of stability"):
        theory.whitening_schedule(
            variance, count, tolerance, effective_learning_rate=2 / first[0]
        )


SCHEDULE = jax.jit(lambda variance: theory.whitening_schedule(variance, 4, 0.01))


@given(variance=variances())
def test_whitening_schedule_in_float32(variance):
    rate, steps = SCHEDULE(np.float32(variance))
    assert rate.dtype == steps.dtype == np.float32
    exact = theory.whitening_schedule(np.float64(np.float32(variance)), 4, 0.01)
    np.testing.assert_allclose(rate, exact[0], rtol=1e-5)
    np.testing.assert_allclose(steps, exact[1], rtol=1e-5, atol=1)
