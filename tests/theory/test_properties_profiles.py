"""Properties of profiles, of the theorems, and of fits."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import theory
from tests.theory.properties import (
    assert_close,
    image_sets,
    orthogonal,
    scales,
    seeds,
    variances,
)

D = 6
SHAPE = (3, 2, 1)  # of filters with D entries
steps = st.integers(0, 10**6) | st.sampled_from([0, 1, 2, np.inf])
ratios = st.floats(0, 2, exclude_max=True) | st.floats(0, 1e-300)


# The geometric sum


@given(rate=ratios, t=st.integers(0, 80))
def test_geometric_sum_is_that_of_fractions(rate, t):
    x = Fraction(rate)
    exact = sum((1 - x) ** s for s in range(t))
    found = Fraction(float(theory.geometric_sum(rate, t)))
    assert abs(found - exact) <= Fraction(1, 10**12) * exact


@given(
    rates=st.lists(st.floats(0, 1.99, allow_subnormal=False), min_size=4, max_size=4),
    s=st.integers(0, 1000),
    t=st.integers(0, 1000),
)
def test_geometric_sum_of_steps_after_steps(rates, s, t):
    x = np.array(rates)
    first, then, both = np.asarray(
        theory.geometric_sum(x, np.array([[s], [t], [s + t]]))
    )
    size = np.maximum(both, first)  # above 1, where the power alternates
    assert (np.abs(first + (1 - x) ** s * then - both) <= 1e-11 * size).all()
    limit = np.asarray(theory.geometric_sum(x[x > 0], np.inf))
    np.testing.assert_allclose(limit, 1 / x[x > 0], rtol=1e-15)
    assert (both <= s + t).all()
    assert not np.signbit(both).any()
    np.testing.assert_allclose(
        theory.geometric_sum(x, np.array([[0], [1]])), [0 * x, 1 + 0 * x], rtol=1e-14
    )


SUM = jax.jit(theory.geometric_sum)
SLOPE = jax.jit(jax.vmap(jax.grad(theory.geometric_sum), in_axes=(0, None)))


@given(
    rates=st.lists(st.floats(0, 1.875, width=32), min_size=4, max_size=4),
    t=st.integers(0, 1000),
)
def test_geometric_sum_in_float32_and_its_derivative(rates, t):
    x = np.array(rates, np.float32)
    exact = np.asarray(theory.geometric_sum(x.astype(np.float64), t))
    np.testing.assert_allclose(SUM(x, np.float32(t)), exact, rtol=1e-5)
    # The recurrence phi_{t+1} = 1 + (1 - x) phi_t, differentiated.
    y = x.astype(np.float64)
    slope, after = (np.asarray(SLOPE(y, float(n))) for n in (t, t + 1))
    size = np.abs(after) + np.abs(slope) + exact
    assert (np.abs((1 - y) * slope - exact - after) <= 1e-11 * size).all()


# Profiles


@given(seed=seeds, scale=scales)
def test_energy_profile(seed, scale):
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(2, *SHAPE, 4))
    u = orthogonal(random, D)
    profile = np.asarray(theory.energy_profile(kernel, u))
    np.testing.assert_array_equal(
        theory.energy_profile(scale * kernel, u), scale * profile
    )
    mixed = kernel @ orthogonal(random, 4)
    assert_close(theory.energy_profile(mixed, u), profile)
    order = random.permutation(D)
    turned = u[:, order] * random.choice([-1.0, 1.0], size=D)
    assert_close(theory.energy_profile(kernel, turned), profile[:, order])
    energy = (kernel**2).sum(axis=(1, 2, 3, 4)) / 4
    assert_close((profile**2).sum(axis=-1), energy)
    # Of both banks together the squares are the mean of the squares.
    together = theory.energy_profile(np.concatenate(kernel, axis=-1), u)
    assert_close(together, np.sqrt((profile**2).mean(axis=0)))
    each = [theory.energy_profile(one, u) for one in kernel]
    assert_close(np.stack(each), profile)
    assert_close(MAPPED_PROFILE(kernel, u), profile)
    in_float32 = COMPILED_PROFILE(*(jnp.float32(value) for value in (kernel, u)))
    assert in_float32.dtype == np.float32
    assert_close(in_float32, profile, rtol=1e-5)


COMPILED_PROFILE = jax.jit(theory.energy_profile)
MAPPED_PROFILE = jax.jit(jax.vmap(theory.energy_profile, in_axes=(0, None)))


@given(images=image_sets(channels=(1,)), seed=seeds)
def test_filters_with_a_profile_have_it(images, seed):
    spectrum = theory.patch_spectrum(images, (3, 2))
    profile = np.random.default_rng(seed).exponential(size=(2, D))
    kernel = theory.filters_with_profile(profile, spectrum)
    assert kernel.shape == (2, *SHAPE, D)
    assert_close(theory.energy_profile(kernel, spectrum.components), profile)
    # Whitened patches are uncorrelated, where they vary.
    whitening = theory.whitening_profile(spectrum.variance)
    w = np.asarray(theory.filters_with_profile(whitening, spectrum)).reshape(D, D)
    covariance = w.T @ theory.patch_moments(images, (3, 2)).covariance @ w
    seen = np.asarray(spectrum.variance) > 1e-6 * spectrum.variance[0]
    off = covariance - D * np.eye(D)
    assert np.abs(off[np.ix_(seen, seen)]).max() < 1e-7


@given(seed=seeds, scale=scales, offset=st.floats(-100, 100))
def test_profile_correlation(seed, scale, offset):
    random = np.random.default_rng(seed)
    a, b = random.exponential(size=(2, 3, D))
    found = np.asarray(theory.profile_correlation(a, b))
    assert (np.abs(found) <= 1).all()
    each = [np.corrcoef(*pair)[0, 1] for pair in zip(a, b, strict=True)]
    assert_close(found, each, scale=1)
    assert_close(theory.profile_correlation(b, a), found, scale=1)
    assert_close(theory.profile_correlation(scale * a, b), found, scale=1)
    assert_close(theory.profile_correlation(a + offset, b), found, scale=1, rtol=1e-9)
    assert_close(theory.profile_correlation(a, -b), -found, scale=1)
    order = random.permutation(D)
    reordered = theory.profile_correlation(a[:, order], b[:, order])
    assert_close(reordered, found, scale=1)
    among = np.asarray(theory.profile_correlation(a[:, None], a[None]))
    assert_close(np.diagonal(among), np.ones(3))
    assert np.linalg.eigvalsh(among)[0] > -1e-12
    assert np.isnan(theory.profile_correlation(np.full(D, offset), b)).all()
    in_float32 = COMPILED_CORRELATION(*(jnp.float32(value) for value in (a, b)))
    assert_close(in_float32, found, scale=1, rtol=1e-5)


COMPILED_CORRELATION = jax.jit(theory.profile_correlation)


# The theorems


@given(variance=variances(), share=st.floats(1e-6, 1.9), t=steps, data=st.data())
def test_iteration_profile(variance, share, t, data):
    rate = share / variance.max()
    at_start, first, profile, limit = np.asarray(
        theory.iteration_profile(variance, [0, 1, t, np.inf], rate)
    )
    assert not at_start.any()
    np.testing.assert_allclose(first, rate * np.sqrt(variance), rtol=1e-13)
    np.testing.assert_allclose(limit, 1 / np.sqrt(variance), rtol=1e-13)
    np.testing.assert_allclose(limit, theory.whitening_profile(variance), rtol=1e-15)
    assert (profile <= 2 * limit).all()
    if (
        share < 1 and t > 0
    ):  # it grows towards the limit, and never faster than at first
        assert (profile >= first * (1 - 1e-12)).all()
        assert (profile <= np.minimum(limit, t * first) * (1 + 1e-12)).all()
    order = np.random.default_rng(data.draw(seeds)).permutation(D)
    reordered = theory.iteration_profile(variance[order], t, rate)
    np.testing.assert_allclose(reordered, profile[order], rtol=1e-14)
    scale = data.draw(scales)
    scaled = theory.iteration_profile(scale**2 * variance, t, rate / scale**2)
    np.testing.assert_allclose(scaled, profile / scale, rtol=1e-14)
    with_zero = theory.iteration_profile(np.append(variance, 0), t, rate)
    np.testing.assert_allclose(with_zero, np.append(profile, 0), rtol=1e-14)
    single = COMPILED_ITERATION(
        np.float32(variance), np.float32(min(t, 1e6)), np.float32(rate)
    )
    if np.isfinite(single).all() and share < 1:
        assert_close(
            single, theory.iteration_profile(variance, min(t, 1e6), rate), rtol=1e-3
        )


COMPILED_ITERATION = jax.jit(theory.iteration_profile)


@given(variance=variances(), seed=seeds, share=st.floats(1e-3, 1.9), t=steps)
def test_theorem_profile(variance, seed, share, t):
    random = np.random.default_rng(seed)
    counts = {"patches_per_image": 9, "count": 50}
    a = random.normal(size=(4, 2))
    largest = np.linalg.norm(a, ord=2) ** 2
    rate = share * 9 / (2 * largest * variance.max())

    def of(head, rate=rate, tau=1.0, variance=variance, **changed):
        return np.asarray(
            theory.theorem_profile(
                variance,
                [t, 1],
                learning_rate=rate,
                head=head,
                target_std=tau,
                **{**counts, **changed},
            )
        )

    profile = of(a)
    assert (profile[1] > 0).all()
    assert_close(of(a, tau=3.0), 3 * profile)
    # A head and its rotation drive filters that are each other's rotation.
    assert_close(of(orthogonal(random, 4) @ a @ orthogonal(random, 2)), profile)
    assert_close(of(2 * a, rate=rate / 4), profile / 2)
    assert_close(of(a, rate=rate / 4, variance=4 * variance), profile / 2)
    assert_close(of(a, count=200), profile / 2)
    # Of one output it is the formula of `iteration_profile`, with its constants.
    one = a[:, :1]
    h = (one**2).sum()
    shape = theory.iteration_profile(variance, [t, 1], 2 * rate * h / 9)
    assert_close(of(one), np.sqrt(9 / (h * 4 * 50)) * np.asarray(shape))
    np.testing.assert_array_equal(of(one[:, 0]), of(one))
    # Orthogonal outputs add up in squares.
    both = of(np.diag([1.0, 1.5, 0, 0])[:, :2] * np.sqrt(largest) / 2)
    apart = [of(np.eye(4)[i] * s * np.sqrt(largest) / 2) for i, s in ((0, 1), (1, 1.5))]
    assert_close(both, np.hypot(*apart))


# Fits


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
@given(variance=variances(smallest=1e-3), data=st.data())
def test_a_fit_finds_the_time_of_the_formula(criterion, variance, data):
    random = np.random.default_rng(data.draw(seeds))
    exponent = data.draw(st.floats(0.0, 2.0))
    tau = 10**exponent / variance.max()
    exact = -np.expm1(-tau * variance) / np.sqrt(variance)
    fit = theory.fit_profile(3 * exact, variance, criterion=criterion)
    np.testing.assert_allclose(fit.time, tau, rtol=1e-5)
    np.testing.assert_allclose(fit.correlation, 1, atol=1e-12)
    np.testing.assert_allclose(fit.profile, 3 * exact, rtol=1e-5)
    # Of any profile, each alone or all at once.
    profiles = np.stack([exact, exact * random.uniform(0.5, 2, D), np.sqrt(variance)])
    fits = theory.fit_profile(profiles, variance, criterion=criterion)
    for number, profile in enumerate(profiles):
        alone = theory.fit_profile(profile, variance, criterion=criterion)
        np.testing.assert_allclose(
            alone.correlation, fits.correlation[number], rtol=1e-10
        )
        np.testing.assert_allclose(alone.profile, fits.profile[number], rtol=1e-5)
    correlation = theory.profile_correlation(profiles, fits.profile)
    np.testing.assert_allclose(fits.correlation, correlation, atol=1e-10)
    if criterion == "correlation":
        ends = np.maximum(fits.correlation_at_zero, fits.correlation_at_infinity)
        assert (fits.correlation >= ends - 1e-12).all()
    np.testing.assert_allclose(
        fits.correlation_at_infinity,
        theory.profile_correlation(profiles, theory.whitening_profile(variance)),
        atol=1e-10,
    )
    # Units, and the order of components.
    scale, order = data.draw(scales), random.permutation(D)
    scaled = theory.fit_profile(
        scale * profiles[:2, order], scale**2 * variance[order], criterion=criterion
    )
    np.testing.assert_allclose(scaled.correlation, fits.correlation[:2], atol=1e-10)
    np.testing.assert_allclose(
        scaled.profile, scale * fits.profile[:2, order], rtol=1e-4
    )
    np.testing.assert_allclose(scaled.time[0] * scale**2, fits.time[0], rtol=1e-5)


@given(
    times=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6),
    scale=scales,
    confidence=st.floats(0.01, 0.99),
)
def test_time_interval(times, scale, confidence):
    low, high = theory.time_interval(times, confidence)
    middle = np.exp(np.log(times).mean())
    assert low <= middle * (1 + 1e-12)
    assert high >= middle * (1 - 1e-12)
    np.testing.assert_allclose(low * high, middle**2, rtol=1e-9)
    scaled = theory.time_interval(scale * np.array(times), confidence)
    np.testing.assert_allclose(scaled, [scale * low, scale * high], rtol=1e-9)
    inverse = theory.time_interval(1 / np.array(times)[::-1], confidence)
    np.testing.assert_allclose(inverse, [1 / high, 1 / low], rtol=1e-9)
    stacked = theory.time_interval(
        np.stack([times, times, [5.0] * len(times)]), confidence
    )
    np.testing.assert_allclose(np.stack(stacked)[:, 0], [low, high], rtol=1e-12)
    np.testing.assert_allclose(np.stack(stacked)[:, 2], [5, 5], rtol=1e-12)
    # Student's distribution of two seeds is Cauchy's.
    pair = theory.time_interval(times[:2], confidence)
    half = abs(np.log(times[0] / times[1])) / 2 * np.tan(np.pi * confidence / 2)
    np.testing.assert_allclose(np.log(pair[1] / pair[0]), 2 * half, atol=1e-9)
    wider = theory.time_interval(times, (1 + confidence) / 2)
    assert wider[0] <= low
    assert wider[1] >= high
    unknown = theory.time_interval([*times, np.inf], confidence)
    np.testing.assert_array_equal(unknown, [0, np.inf])


# Quantiles


@given(seed=seeds, scale=scales)
def test_quadratic_form_quantile(seed, scale):
    random = np.random.default_rng(seed)
    v, m = random.exponential(size=(2, 3))
    n = random.integers(1, 5, size=3).astype(float)
    q = np.sort(random.uniform(0.001, 0.999, size=3))

    def of(variances, means, degrees, q=q):
        return np.asarray(
            theory.quadratic_form_quantile(
                q, variances=variances, means=means, degrees=degrees
            )
        )

    x = of(v, m, n)
    assert (np.diff(x) > 0).all()
    order = random.permutation(3)
    np.testing.assert_allclose(of(v[order], m[order], n[order]), x, rtol=1e-11)
    np.testing.assert_allclose(of(scale**2 * v, scale * m, n), scale**2 * x, rtol=1e-11)
    # A variable without variance is a constant.
    constant = of(v * [1, 1, 0], m, n)
    nothing = of(v * [1, 1, 0], m * [1, 1, 0], n)
    np.testing.assert_allclose(constant, nothing + m[2] ** 2, rtol=1e-11)
    # Terms of one variance are one term.
    split = of(v[[0, 0, 1]], m, n)
    merged = of(
        v * [1, 1, 0],
        np.array([np.hypot(m[0], m[1]), m[2], 0]),
        np.array([n[0] + n[1], n[2], 1]),
    )
    np.testing.assert_allclose(split, merged, rtol=1e-10)
    single = of(v * [1, 0, 0], 0 * m, n)
    np.testing.assert_allclose(
        single, 2 * v[0] * special.gammaincinv(n[0] / 2, q), rtol=1e-10
    )
    larger = of(v, 1.1 * m + 0.1, n)
    assert (larger > x).all()
