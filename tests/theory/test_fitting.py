"""The formula fitted to profiles: what it was made with is found, the maximum is
global, and intervals cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from theory import (
    ProfileFit,
    fit_profile,
    iteration_profile,
    profile_correlation,
    time_interval,
    whitening_profile,
)

RANDOM = np.random.default_rng(6)
# Condition number and size as of normalised CIFAR-10.
VARIANCE = np.append(np.geomspace(20, 2e-4, 26), 0)
LAMBDA = np.sqrt(VARIANCE)
INVERSE = np.where(LAMBDA > 0, 1 / np.where(LAMBDA > 0, LAMBDA, 1), 0)


def formula(time, learning_rate=None, variance=VARIANCE):
    """(times, d), by the definition."""
    time, inverse = (
        np.asarray(time)[:, None],
        np.where(variance > 0, 1 / np.sqrt(np.maximum(variance, 1e-300)), 0),
    )
    if learning_rate is None:
        return -np.expm1(-time * variance) * inverse
    return (
        -np.expm1(time / learning_rate * np.log1p(-learning_rate * variance)) * inverse
    )


def correlation(a, b):
    """Of rows, (n,)."""
    return np.array(
        [
            np.corrcoef(*pair)[0, 1]
            for pair in zip(np.asarray(a), np.asarray(b), strict=True)
        ]
    )


def brute_force(profiles, times, learning_rate=None, variance=VARIANCE):
    """Correlations at all these times and both ends, (profiles, times + 2)."""
    shapes = formula(times, learning_rate, variance)
    ends = formula(
        [1e-9 / variance.max(), 1e3 / variance[variance > 0].min()],
        learning_rate,
        variance,
    )
    shapes = np.concatenate([shapes, ends])
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    data = profiles - profiles.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(data, axis=1)[:, None] * np.linalg.norm(shapes, axis=1)
    return data @ shapes.T / scale


# --- laws ---


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
@pytest.mark.parametrize("learning_rate", [None, 0.999 / 20, 1e-3 / 20])
def test_the_time_of_the_formula_is_found_over_six_decades(learning_rate, criterion):
    times = np.geomspace(1e-3, 1e3, 37) / VARIANCE.max()
    profiles = 3 * formula(times, learning_rate)
    fit = fit_profile(
        profiles, VARIANCE, learning_rate=learning_rate, criterion=criterion
    )
    assert isinstance(fit, ProfileFit)
    np.testing.assert_allclose(fit.time, times, rtol=1e-9)
    assert (1 - fit.correlation < 1e-14).all()
    np.testing.assert_allclose(fit.profile, profiles, rtol=1e-9)
    if learning_rate == 0.999 / 20:  # the limit of small rates is another formula
        assert np.abs(fit_profile(profiles, VARIANCE).time / times - 1).max() > 0.1


def test_iterations_of_theorem_4_2_are_found():
    rate, iterations = 0.4 / VARIANCE.max(), np.array([3, 1000, 10**6])
    fit = fit_profile(
        iteration_profile(VARIANCE, iterations, rate), VARIANCE, learning_rate=rate
    )
    np.testing.assert_allclose(fit.time / rate, iterations, rtol=1e-9)


def test_small_rates_approach_the_limit():
    profile = formula([0.3])[0] * np.exp(0.3 * RANDOM.normal(size=27))
    limit, small = (
        fit_profile(profile, VARIANCE),
        fit_profile(profile, VARIANCE, learning_rate=1e-12),
    )
    large = fit_profile(profile, VARIANCE, learning_rate=0.9 / VARIANCE.max())
    np.testing.assert_allclose(small.time, limit.time, rtol=1e-9)
    np.testing.assert_allclose(small.profile, limit.profile, rtol=1e-9)
    assert abs(large.time / limit.time - 1) > 1e-3


SPECTRA = {
    "natural": VARIANCE,
    "nearly equal": 1 - 0.01 * np.arange(12.0) ** 1.5 / 12,
    "far apart": np.geomspace(1, 1e-12, 6),
    "three": np.array([5, 1, 0.1]),
    "two groups": np.concatenate(
        [1 + 1e-3 * np.arange(6), 1e-4 * (1 + 1e-3 * np.arange(7))]
    ),
}


@pytest.mark.parametrize(
    ("spectrum", "step"),
    [(name, None) for name in SPECTRA] + [("natural", 0.9), ("three", 0.9)],
)
def test_no_time_of_a_fine_grid_is_better(spectrum, step):
    variance = SPECTRA[spectrum]
    d, rate = len(variance), step and step / variance.max()
    slowest = variance[variance > 0].min()
    times = np.geomspace(1e-3 / variance.max(), 30 / slowest, 5_000)
    made = formula(
        np.exp(RANDOM.uniform(np.log(times[0]), np.log(times[-1]), 60)), rate, variance
    )
    made = (made - made.mean(axis=1, keepdims=True)) / made.std(axis=1, keepdims=True)
    profiles = np.concatenate(
        [
            RANDOM.random((20, d)),
            RANDOM.random((20, d)) ** 8,
            np.abs(RANDOM.normal(size=(20, d))) * (np.arange(d) % 2),
            # Not the last: where its variance is 0, the best multiple of the formula is
            # 0.
            np.eye(d)[:-1],
            1 - np.eye(d),
            made[:30] + made[30:] + 10,  # two maxima of about equal height
            made[:20] + made[20:40] + made[40:] + 10,
        ]
    )
    grid = brute_force(profiles, times, rate, variance)
    several = ((grid[:, 1:-3] > grid[:, :-4]) & (grid[:, 1:-3] > grid[:, 2:-2])).sum(
        axis=1
    ) > 1
    assert several.any() or d == 3
    fit = fit_profile(profiles, variance, learning_rate=rate)
    assert (fit.correlation > grid.max(axis=1) - 1e-10).all()
    # The correlation is that of the profile returned, and at the time returned.
    np.testing.assert_allclose(
        correlation(fit.profile, profiles), fit.correlation, atol=1e-9
    )
    times = np.asarray(fit.time)
    inside = (times > 0) & np.isfinite(times)
    again = formula(times[inside], rate, variance)
    np.testing.assert_allclose(
        correlation(again, profiles[inside]),
        np.asarray(fit.correlation)[inside],
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("spectrum", "step"),
    [(name, None) for name in SPECTRA] + [("natural", 0.9), ("three", 0.9)],
)
def test_no_time_of_a_fine_grid_is_more_likely(spectrum, step):
    variance = SPECTRA[spectrum]
    seen, rate = variance > 0, step and step / variance.max()
    d = int(seen.sum())
    times = np.geomspace(1e-3 / variance.max(), 30 / variance[seen].min(), 5_000)
    made = formula(
        np.exp(RANDOM.uniform(np.log(times[0]), np.log(times[-1]), 60)), rate, variance
    )
    made = made / made[:, seen].mean(axis=1, keepdims=True)
    profiles = np.concatenate(
        [
            RANDOM.random((20, len(variance))),
            made * RANDOM.random(made.shape),
            made[:30] + made[30:],
        ]
    )
    profiles = np.concatenate(
        [profiles, np.eye(len(variance))[seen], (1 - np.eye(len(variance)))[seen]]
    )
    profiles = profiles[:: 2 if d > 20 else 1]

    def log_likelihood(shapes, profiles):
        """At the scale where it is largest, normal density of one coefficient a
        component: rows by rows."""
        shapes, profiles = shapes[:, None, seen], profiles[:, seen]
        scale = np.sqrt(((profiles / shapes) ** 2).mean(axis=-1, keepdims=True))
        return stats.norm.logpdf(profiles, scale=scale * shapes).sum(axis=-1)

    ends = formula([1e-9 / variance.max(), 1e3 / variance[seen].min()], rate, variance)
    grid = log_likelihood(
        np.concatenate([formula(times, rate, variance), ends]), profiles
    ).T
    fit = fit_profile(profiles, variance, learning_rate=rate, criterion="likelihood")
    found = np.diagonal(log_likelihood(np.asarray(fit.profile), profiles))
    assert (found > grid.max(axis=1) - 1e-7 * d).all()
    # The profile returned is the formula at the time returned, at the scale where it is
    # most likely.
    fitted, found_times = np.asarray(fit.profile), np.asarray(fit.time)
    np.testing.assert_allclose(
        ((profiles[:, seen] / fitted[:, seen]) ** 2).mean(axis=1), 1, rtol=1e-12
    )
    inside = (found_times > 0) & np.isfinite(found_times)
    assert inside.sum() > 20
    again = formula(found_times[inside], rate, variance)[:, seen]
    np.testing.assert_allclose(
        fitted[inside][:, seen] / again,
        (fitted[inside][:, seen] / again)[:, :1] + 0 * again,
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        fit.correlation, correlation(fitted, profiles), atol=1e-9
    )
    assert (
        fit.correlation
        <= fit_profile(profiles, variance, learning_rate=rate).correlation + 1e-9
    ).all()


def test_of_two_likely_times_the_more_likely_one_is_found():
    """Two maxima: where the components in the middle have next to no energy, and few at
    the ends much."""
    variance = np.concatenate([[29.89], 1 + 1e-3 * np.arange(35), [0.3866]])
    times = np.geomspace(1e-4, 100, 4_000)
    shapes = formula(times, variance=variance)
    for last in (50, 58.3, 65):  # of the third, the end of time
        profile = np.concatenate([[14.88], np.full(35, 1e-3), [last]])
        height = (
            -np.log(shapes).mean(axis=1)
            - np.log(((profile / shapes) ** 2).mean(axis=1)) / 2
        )
        valleys = (height[1:-1] < height[:-2]) & (height[1:-1] < height[2:])
        assert valleys.any()
        found = np.asarray(
            fit_profile(profile, variance, criterion="likelihood").profile
        )
        assert (
            -np.log(found).mean() - np.log(((profile / found) ** 2).mean()) / 2
            > height.max() - 1e-9
        )


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
def test_the_time_keeps_its_digits_towards_both_ends(criterion):
    early = np.geomspace(1e-5, 1e-2, 7)
    late = np.array([1, 5, 8, 11, 14])
    times = np.concatenate([early / VARIANCE.max(), late / VARIANCE[:-1].min()])
    fit = fit_profile(formula(times), VARIANCE, criterion=criterion)
    lost = 3e3 * np.finfo(float).eps / np.concatenate([early, np.exp(-late)])
    assert (np.abs(fit.time / times - 1) < lost).all()


@pytest.mark.parametrize("filters", [1, 10, 64])
@pytest.mark.parametrize("time", [10, 1000])
def test_the_likelihood_needs_fewer_seeds_for_the_time(filters, time):
    """Profiles of Theorem 4.2 over random targets: coefficients are normal and the time
    is known."""
    time = time / VARIANCE.max()
    random = np.random.default_rng([filters, int(1e3 * time)])
    coefficients = formula([time]) * random.normal(size=(300, filters, 27))
    profiles = np.sqrt((coefficients**2).mean(axis=1))
    errors = {}
    for criterion in ("correlation", "likelihood"):
        found = np.asarray(fit_profile(profiles, VARIANCE, criterion=criterion).time)
        errors[criterion] = np.log(
            np.clip(found * VARIANCE.max(), 1e-3, 1e7) / (time * VARIANCE.max())
        )
    square = {criterion: (error**2).mean() for criterion, error in errors.items()}
    assert square["likelihood"] < 0.8 * square["correlation"]
    # Nearly no bias; the median, as an end of time may be the most likely.
    error = errors["likelihood"]
    assert abs(np.median(error)) < 4 * 1.25 * error.std() / np.sqrt(300)
    # And as precise as any unbiased estimator of time and scale can be: Cramer and Rao.
    if filters > 1:
        x = time * VARIANCE[:-1]
        growth = x * np.exp(-x) / -np.expm1(-x)
        bound = 1 / (2 * filters * ((growth - growth.mean()) ** 2).sum())
        assert 0.8 * bound < square["likelihood"] < 1.4 * bound


@pytest.mark.parametrize("more", [1e-2, 1e-6])
def test_of_two_maxima_the_higher_one_is_found(more):
    """The share of two shapes at which both maxima are as high, and a little more of
    either."""
    early, late = (x / np.linalg.norm(x - x.mean()) for x in formula([1.0, 1000.0]))
    times = np.geomspace(1e-2, 1e5, 50_000)
    shapes = formula(times) - formula(times).mean(axis=1, keepdims=True)
    shapes = shapes / np.linalg.norm(shapes, axis=1, keepdims=True)

    def peaks(share):
        heights = shapes @ (share * early + (1 - share) * late)
        return [
            part[heights[part].argmax()]
            for part in np.split(np.arange(len(times)), [len(times) // 2])
        ], heights

    low, high = 0.4, 0.6
    for _ in range(40):
        share = (low + high) / 2
        (first, last), heights = peaks(share)
        low, high = (low, share) if heights[first] > heights[last] else (share, high)
    assert 1 < np.argmin(heights[first:last]) < last - first - 1  # two maxima indeed
    for share, place in ((low + more, 0), (low - more, 1)):
        fit = fit_profile(share * early + (1 - share) * late, VARIANCE)
        assert fit.time == pytest.approx(times[peaks(share)[0][place]], rel=1e-2)


def test_a_formula_that_turns_around_between_even_times():
    """Nearly equal variances: at some time the formula is nearly constant, and its
    shape changes sign within 0.1 %."""
    variance = 1 - 1e-3 * np.arange(12.0) ** 1.5 / 40
    # Where the derivative of the formula by lambda is zero.
    turn = 1.2564 * np.linspace(0.999, 1.002, 20_000)
    profiles = np.concatenate(
        [formula(turn[4000:16_000:600], variance=variance), RANDOM.random((40, 12))]
    )
    profiles = profiles + np.concatenate(
        [RANDOM.random((20, 12)) * 1e-7, np.zeros((40, 12))]
    )
    fit = fit_profile(profiles, variance)
    assert (
        fit.correlation
        > brute_force(profiles, turn, variance=variance).max(axis=1) - 1e-8
    ).all()


def test_never_below_the_scan_of_the_paper():
    rate, iterations = 1e-7, np.arange(10_000, 5_000_001, 5_000)
    profiles = formula([0.02, 0.1, 0.4]) * np.exp(0.2 * RANDOM.normal(size=(3, 27)))
    fit = fit_profile(profiles, VARIANCE, learning_rate=rate)
    for profile, best, time in zip(profiles, fit.correlation, fit.time, strict=True):
        scan = [
            np.corrcoef(profile, np.abs(1 - (1 - rate * VARIANCE) ** t) * INVERSE)[0, 1]
            for t in iterations
        ]
        assert 0 <= best - max(scan) < 1e-4
        assert abs(time - rate * iterations[np.argmax(scan)]) < rate * 5_000


def test_the_ends_are_included():
    for profile, end, time in (
        (3.7 * LAMBDA, LAMBDA, 0),
        (LAMBDA**3, LAMBDA, 0),
        (INVERSE**3, INVERSE, np.inf),
    ):
        fit = fit_profile(profile, VARIANCE, criterion="likelihood")
        assert fit.time == time
        scale = np.sqrt(((profile[:-1] / end[:-1]) ** 2).mean())
        np.testing.assert_allclose(fit.profile, scale * end, rtol=1e-13)
    # The last one is steeper than any time.
    for profile in (LAMBDA, 3.7 * LAMBDA, LAMBDA**3):
        fit = fit_profile(profile, VARIANCE)
        assert fit.time == 0
        assert fit.correlation == fit.correlation_at_zero
        np.testing.assert_allclose(
            fit.profile, LAMBDA * (profile @ LAMBDA) / (LAMBDA @ LAMBDA), rtol=1e-13
        )
    for profile in (INVERSE, INVERSE / 3.3, INVERSE**3):
        fit = fit_profile(profile, VARIANCE)
        assert np.isinf(fit.time)
        assert fit.correlation == fit.correlation_at_infinity
        np.testing.assert_allclose(
            fit.profile, INVERSE * (profile @ INVERSE) / (INVERSE @ INVERSE), rtol=1e-13
        )
    profile, rate = RANDOM.random(27), 0.9 / VARIANCE.max()
    fit, discrete = (
        fit_profile(profile, VARIANCE),
        fit_profile(profile, VARIANCE, learning_rate=rate),
    )
    start = -np.log1p(-rate * VARIANCE) * INVERSE
    whitening = whitening_profile(VARIANCE)
    for value, end in (
        (fit.correlation_at_zero, LAMBDA),
        (discrete.correlation_at_zero, start),
        (fit.correlation_at_infinity, whitening),
        (discrete.correlation_at_infinity, whitening),
    ):
        np.testing.assert_allclose(value, profile_correlation(profile, end), atol=1e-14)


def test_what_scaling_shifting_and_reordering_do():
    profile = formula([0.3])[0] * np.exp(0.3 * RANDOM.normal(size=27))
    fit = fit_profile(profile, VARIANCE)
    assert fit.correlation < 0.999
    order = RANDOM.permutation(27)
    for profile_factor, variance_factor in ((1e-30, 1.0), (1e20, 1e8), (2.0, 1e-8)):
        other = fit_profile(
            profile_factor * profile[order], variance_factor * VARIANCE[order]
        )
        np.testing.assert_allclose(other.correlation, fit.correlation, rtol=1e-13)
        np.testing.assert_allclose(other.time, fit.time / variance_factor, rtol=1e-9)
        np.testing.assert_allclose(
            other.profile, profile_factor * fit.profile[order], rtol=1e-9
        )
    # Correlation does not see an offset, the least squares do.
    shifted = fit_profile(profile + 5, VARIANCE)
    np.testing.assert_allclose(shifted.time, fit.time, rtol=1e-9)
    for data, result in ((profile, fit), (profile + 5, shifted)):
        np.testing.assert_allclose(
            (data - result.profile) @ result.profile, 0, atol=1e-12 * data @ data
        )
    assert fit.profile[-1] == 0 < profile[:-1].min()
    likely = fit_profile(profile, VARIANCE, criterion="likelihood")
    for profile_factor, variance_factor in ((1e-30, 1.0), (1e20, 1e8), (2.0, 1e-8)):
        other = fit_profile(
            profile_factor * profile[order],
            variance_factor * VARIANCE[order],
            criterion="likelihood",
        )
        np.testing.assert_allclose(other.time, likely.time / variance_factor, rtol=1e-9)
        np.testing.assert_allclose(
            other.profile, profile_factor * likely.profile[order], rtol=1e-9
        )


def test_the_profile_counts_where_the_variance_is_zero():
    profile = formula([0.3])[0]
    fit = fit_profile(profile + np.eye(27)[-1], VARIANCE)
    assert fit.correlation < 0.99
    assert fit.profile[-1] == 0
    with_it, without = (
        fit_profile(data, VARIANCE, criterion="likelihood")
        for data in (profile + np.eye(27)[-1], profile)
    )
    # Not in the likelihood.
    np.testing.assert_allclose(with_it.time, without.time, rtol=1e-12)
    np.testing.assert_allclose(with_it.profile, without.profile, rtol=1e-12)
    assert with_it.correlation < 0.99


# --- ways of calling ---


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
def test_leading_axes_equal_a_loop_and_vmap_and_jit(criterion):
    profiles = np.random.default_rng(8).random((2, 5, 27))
    fit = fit_profile(profiles, VARIANCE, learning_rate=0.01, criterion=criterion)
    assert fit.profile.shape == (2, 5, 27)
    for field in (
        "correlation",
        "time",
        "correlation_at_zero",
        "correlation_at_infinity",
    ):
        assert getattr(fit, field).shape == (2, 5)

    @jax.jit
    def mapped(profiles, rate):
        def one(profile):
            return fit_profile(
                profile, VARIANCE, learning_rate=rate, criterion=criterion
            )

        return jax.vmap(jax.vmap(one))(profiles)

    one = {"learning_rate": 0.01, "criterion": criterion}
    loop = [
        [fit_profile(profile, VARIANCE, **one) for profile in row] for row in profiles
    ]
    loop = jax.tree.map(
        lambda *leaves: np.array(leaves).reshape(2, 5, *np.shape(leaves[0])),
        *loop[0],
        *loop[1],
    )
    undefined = np.stack([np.zeros((1, 27)), np.ones((1, 27))])
    traced = mapped(np.concatenate([profiles, undefined], axis=1), 0.01)
    for leaf in (traced.correlation, traced.time):  # values are not checked there
        assert np.isnan(leaf[:, 5:]).all()
        assert not np.isnan(leaf[:, :5]).any()
    for other in (loop, jax.tree.map(lambda leaf: leaf[:, :5], traced)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-13),
            fit,
            other,
        )
    assert fit_profile(profiles[:0], VARIANCE, criterion=criterion).profile.shape == (
        0,
        5,
        27,
    )
    assert fit_profile([3.0, 2.0, 2.5], [3, 2, 1], criterion=criterion).correlation < 1


@pytest.mark.float32
@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
def test_float64_outside_traces_and_float32_inside(criterion):
    variance = VARIANCE.astype(np.float32)
    times = np.array([0.001, 0.3, 50, 2000])
    profiles = formula(times, variance=np.asarray(variance, float)).astype(np.float32)
    fit = fit_profile(jnp.asarray(profiles), variance, criterion=criterion)
    assert {leaf.dtype for leaf in jax.tree.leaves(fit)} == {np.dtype(np.float64)}
    np.testing.assert_allclose(fit.time, times, rtol=1e-5)
    inside = jax.jit(lambda p: fit_profile(p, variance, criterion=criterion))(profiles)
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(inside.time, times, rtol=1e-3)
    np.testing.assert_allclose(inside.correlation, 1, rtol=1e-6)
    np.testing.assert_allclose(inside.profile, profiles, rtol=1e-3)
    low, high = time_interval(times.astype(np.float32))
    assert low.dtype == high.dtype == np.float64


# --- bad input ---

GOOD = LAMBDA + 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (GOOD[:26], VARIANCE),
            r"profile must end in an axis of d = 27 .* shape \(26,\).*same spectrum",
        ),
        ((1.0, VARIANCE), r"profile must end in an axis of d = 27 .* shape \(\)"),
        (
            (np.append(GOOD[:26], np.nan), VARIANCE),
            "profile has 1 entries that are NaN or infinite; remove",
        ),
        (
            (np.append(GOOD[:26], np.inf), VARIANCE),
            "profile has 1 entries that are NaN or infinite; remove",
        ),
        (
            (GOOD - 0.2, VARIANCE),
            r"profile must be >= 0, smallest entry -0.1; .*energy_profile",
        ),
        (
            (np.zeros(27), VARIANCE),
            r"profile is constant \(0.0\) in 1 of 1 cases.*leave these out",
        ),
        (
            (np.stack([GOOD, np.full(27, 0.1)]), VARIANCE),
            r"profile is constant \(0.1\) in 1 of 2 cases",
        ),
        ((1 + 1e-16 * GOOD, VARIANCE), r"profile is constant \(1.0.* in 1 of 1 cases"),
        (
            (GOOD, -VARIANCE),
            r"variance must be finite and >= 0, smallest entry -20.0; clip",
        ),
        ((GOOD, np.append(VARIANCE[:26], np.nan)), r"variance must be finite and >= 0"),
        ((GOOD, VARIANCE[None]), r"variance must have shape \(d,\), got \(1, 27\)"),
        (
            (GOOD, np.full(27, 2.0)),
            (
                r"variance must hold at least 3 values .* got 2.0 to 2.0 in 27 .*more"
                r" components"
            ),
        ),
        (
            (GOOD, np.zeros(27)),
            r"variance must hold at least 3 values .* got 0.0 to 0.0",
        ),
        (
            (GOOD, np.where(VARIANCE > 1, 2.0, 1)),
            r"variance must hold at least 3 values .* got 1.0 to 2.0",
        ),
        (
            (GOOD, 1 + 1e-9 * VARIANCE),
            r"variance must hold at least 3 values that differ by more than 1e-06",
        ),
        ((GOOD[:2], VARIANCE[:2]), r"variance must hold at least 3 values"),
    ],
)
def test_bad_profiles_and_variances(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_profile(*arguments)


def test_bad_criteria_and_what_they_cannot_judge():
    with pytest.raises(
        ValueError,
        match=r"criterion must be one of \('correlation', 'likelihood'\), got 'cosine'",
    ):
        fit_profile(GOOD, VARIANCE, criterion="cosine")
    unseen = np.eye(27)[-1]  # all energy where the variance is 0
    with pytest.raises(
        ValueError,
        match=(
            r"profile is 0 on all components .* in 1 of 2"
            r" cases.*criterion=\"correlation\""
        ),
    ):
        fit_profile(np.stack([GOOD, unseen]), VARIANCE, criterion="likelihood")
    assert np.isfinite(fit_profile(unseen, VARIANCE).correlation)
    assert np.isnan(
        jax.jit(lambda p: fit_profile(p, VARIANCE, criterion="likelihood").time)(unseen)
    )


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, "learning_rate must be finite and > 0, got 0.0"),
        (-1e-7, "learning_rate must be finite and > 0, got -1e-07"),
        (np.nan, "learning_rate must be finite and > 0, got nan"),
        (np.ones(2), r"learning_rate must be a scalar, got shape \(2,\)"),
        (
            0.05,
            (
                r"learning_rate = 0.05 times the largest variance 20.0 must be below"
                r" 1.*less than 0.05"
            ),
        ),
    ],
)
def test_bad_learning_rates(rate, message):
    with pytest.raises(ValueError, match=message):
        fit_profile(GOOD, VARIANCE, learning_rate=rate)


# --- intervals ---


@pytest.mark.parametrize(("seeds", "confidence"), [(2, 0.95), (5, 0.8), (20, 0.95)])
def test_intervals_cover_as_often_as_they_say(seeds, confidence):
    repeats = 4000
    times = 0.3 * np.exp(0.7 * RANDOM.normal(size=(repeats, seeds)))
    low, high = (np.asarray(end) for end in time_interval(times, confidence))
    assert low.shape == high.shape == (repeats,)
    covered = ((low < 0.3) & (high > 0.3)).mean()
    assert abs(covered - confidence) < 4 * np.sqrt(
        confidence * (1 - confidence) / repeats
    )
    expected = stats.t.interval(
        confidence,
        seeds - 1,
        np.log(times).mean(axis=-1),
        stats.sem(np.log(times), axis=-1),
    )
    np.testing.assert_allclose([low, high], np.exp(expected), rtol=1e-10)
    traced = jax.jit(lambda times: time_interval(times, confidence))(times)
    np.testing.assert_allclose(traced, [low, high], rtol=1e-10)


def test_a_time_at_an_end_leaves_everything_open():
    low, high = time_interval(
        [[0.1, 0.2, 0.3], [0.0, 0.2, 0.3], [0.1, np.inf, 0.3], [0.0, 0.0, 0.0]]
    )
    assert 0 < low[0] < high[0] < np.inf
    np.testing.assert_array_equal(low[1:], 0)
    np.testing.assert_array_equal(high[1:], np.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([0.3],),
            (
                r"times must have shape \(..., n\) with n >= 2 seeds, got \(1,\); fit"
                r" more seeds"
            ),
        ),
        ((0.3,), r"times must have shape .* got \(\)"),
        (([0.3, -0.1],), r"times must be >= 0 .* got -0.1"),
        (([0.3, np.nan],), r"times must be >= 0 .* got nan; leave out"),
        (([0.3, 0.4], 1.0), "confidence must lie strictly between 0 and 1, got 1.0"),
        (([0.3, 0.4], 95), "confidence must lie strictly between 0 and 1, got 95"),
    ],
)
def test_bad_times(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_interval(*arguments)
