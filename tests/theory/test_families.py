"""Families of profiles fitted: what they were made with is found, no time of a fine
grid is better, and one's own functions are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

import theory
from tests.theory.twins import relative_error
from theory import (
    curvature_family,
    curvature_profile,
    fit_profile,
    log_ratio_std,
    noise_family,
    profile_correlation,
    profile_family,
    theorem_family,
)
from theory.maxima import peaks

RANDOM = np.random.default_rng(20)
D, K = 9, 5
VARIANCE = np.geomspace(20, 2e-3, D)
BASIS = np.linalg.qr(RANDOM.normal(size=(D, D)))[0]


def scattered(random=RANDOM, rank=D, decades=3.0):
    """Curvature of K filters: eigenvectors near those of BASIS, rates of a factor of
    their own."""
    blocks = []
    for _ in range(K):
        rows = BASIS + 0.05 * random.normal(size=(D, D))
        axes = np.linalg.qr(rows)[0][:, :rank]
        values = np.geomspace(1, 10**-decades, D)[:rank] * np.exp(random.normal())
        blocks.append(axes * values @ axes.T)
    return np.array(blocks)


BLOCKS = scattered()
ROWS = RANDOM.normal(size=(200, K, D)) @ (np.sqrt(VARIANCE)[:, None] * BASIS.T)
ROWS = ROWS * np.exp(RANDOM.normal(size=(K, 1)))  # filters of different rates
COUPLED = np.einsum("nka,nlb->kalb", ROWS, ROWS) / 200
# Along few directions, as a filter of batch norm is not driven along itself.
SINGULAR = scattered(rank=D - 1)


def by_definition(blocks, times, basis=BASIS):
    """mean_k u^T phi(M)^2 M u, its root, from the eigenvectors of each block."""
    times, energy = np.asarray(times)[:, None], 0
    for block in blocks:
        values, axes = np.linalg.eigh(block)
        seen = values > 1e-12 * values.max()
        values, axes = values[seen], axes[:, seen]
        energy = (
            energy + np.expm1(-times * values) ** 2 / values @ (axes.T @ basis) ** 2
        )
    return np.sqrt(energy / len(blocks))


def noise(times):
    return np.sqrt(-np.expm1(-2 * np.asarray(times)[:, None] * VARIANCE))


def coupled(times):
    """As `by_definition`, of all filters together."""
    basis = linalg.block_diag(*K * [BASIS])
    values, axes = np.linalg.eigh(COUPLED.reshape(K * D, K * D))
    times = np.asarray(times)[:, None]
    energy = np.expm1(-times * values) ** 2 / values @ (axes.T @ basis) ** 2
    return np.sqrt(energy.reshape(len(times), K, D).mean(axis=1))


# The family, its profiles by another way, and times from where it has hardly begun to
# where it is hardly different from its end.
FAMILIES = {
    "noise": (noise_family(VARIANCE), noise, (1e-6, 4e3)),
    "blocks": (
        curvature_family(BLOCKS, BASIS),
        lambda times: by_definition(BLOCKS, times),
        (1e-4, 1e5),
    ),
    "singular": (
        curvature_family(SINGULAR, BASIS),
        lambda times: by_definition(SINGULAR, times),
        (1e-4, 1e5),
    ),
    "coupled": (curvature_family(COUPLED, BASIS), coupled, (1e-4, 1e5)),
}


def own(name):
    """The same profiles as a function that a user might write."""
    _, made, times = FAMILIES[name]

    def function(time):
        return made(np.ravel(time)).reshape(*np.shape(time), D)

    return profile_family(
        function,
        times=times,
        at_zero=made(times[:1])[0],
        at_infinity=made([1e3 * times[1]])[0],
    )


# --- the profile (B) ---


def test_curvature_profile_is_that_of_gradient_flow():
    """Against matrix exponentials, and an exact ensemble of drives."""
    times = np.array([0.3, 4, 300])
    found = np.asarray(curvature_profile(BLOCKS, times, BASIS))
    assert relative_error(found, by_definition(BLOCKS, times)) < 1e-12
    for t, row in zip(times, found, strict=True):
        energy = 0
        for block in BLOCKS:
            flow = linalg.expm(-t * block) - np.eye(D)
            moved = np.linalg.solve(block, flow) @ linalg.sqrtm(block).real
            energy = energy + ((BASIS.T @ moved) ** 2).sum(axis=1)
        assert relative_error(row, np.sqrt(energy / K)) < 1e-9
    limits = np.asarray(curvature_profile(SINGULAR, [0, 1e9, np.inf], BASIS))
    assert not limits[0].any()
    assert relative_error(limits[1], limits[2]) < 1e-12
    assert relative_error(limits[2:], by_definition(SINGULAR, [1e12])) < 1e-9
    # One rate for all filters is the theorem's formula.
    same = np.broadcast_to(BASIS * VARIANCE @ BASIS.T, (K, D, D))
    expected = -np.expm1(-0.2 * VARIANCE) / np.sqrt(VARIANCE)
    assert relative_error(curvature_profile(same, 0.2, BASIS), expected) < 1e-12
    assert (
        relative_error(curvature_profile(COUPLED, times, BASIS), coupled(times)) < 1e-12
    )


@pytest.mark.float32
def test_the_profile_in_float64_outside_traces():
    profile = curvature_profile(np.float32(BLOCKS), 4.0, np.float32(BASIS))
    assert profile.dtype == np.float64
    assert relative_error(profile, by_definition(BLOCKS, [4.0])[0]) < 1e-5
    inside = jax.jit(lambda m: curvature_profile(m, 4.0, np.float32(BASIS)))(
        np.float32(BLOCKS)
    )
    assert inside.dtype == np.float32
    assert relative_error(inside, by_definition(BLOCKS, [4.0])[0]) < 1e-3


# --- fits ---


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_time_of_a_family_is_found(name, criterion):
    family, made, (first, last) = FAMILIES[name]
    times = np.geomspace(30 * first, last / 30, 23)
    profiles = 3 * made(times)
    fit = fit_profile(profiles, family, criterion=criterion)
    np.testing.assert_allclose(fit.time, times, rtol=1e-6)
    assert (1 - fit.correlation < 1e-13).all()
    assert (fit.log_ratio_std < 1e-8).all()
    np.testing.assert_allclose(fit.profile, profiles, rtol=1e-6)
    # Another family does not fit them.
    other = fit_profile(profiles, theorem_family(VARIANCE))
    assert np.max(1 - other.correlation) > 0.003
    assert np.max(other.log_ratio_std) > 0.05
    # And the same as a function of one's own, to half the digits.
    likewise = fit_profile(profiles, own(name), criterion=criterion)
    assert (1 - likewise.correlation < 1e-12).all()
    middle = slice(4, -4)
    np.testing.assert_allclose(likewise.time[middle], times[middle], rtol=1e-4)


def candidates(made, first, last):
    """Profiles of all kinds, with several maxima among them."""
    times = np.exp(RANDOM.uniform(np.log(first), np.log(last / 30), 60))
    shapes = made(times)
    shapes = (shapes - shapes.mean(axis=1, keepdims=True)) / shapes.std(
        axis=1, keepdims=True
    )
    return np.concatenate(
        [
            RANDOM.random((20, D)),
            RANDOM.random((20, D)) ** 8,
            np.eye(D),
            1 - np.eye(D),
            shapes[:30] + shapes[30:] + 10,
            shapes[:20] + shapes[20:40] + shapes[40:] + 10,
        ]
    )


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_time_of_a_fine_grid_is_better(name, criterion):
    family, made, (first, last) = FAMILIES[name]
    times = np.geomspace(first, last, 4_000)
    shapes, profiles = made(times), candidates(made, first, last)
    if criterion == "correlation":
        grid = np.corrcoef(profiles, shapes)[: len(profiles), len(profiles) :]
    else:
        scale = np.sqrt(((profiles[:, None] / shapes) ** 2).mean(axis=-1))
        grid = -np.log(shapes).mean(axis=-1) - np.log(scale)
    rises = (grid[:, 1:-1] > grid[:, :-2]) & (grid[:, 1:-1] > grid[:, 2:])
    assert (rises.sum(axis=1) > 1).any() or criterion == "likelihood"
    for kind in (family, own(name)):
        fit = fit_profile(profiles, kind, criterion=criterion)
        fitted = np.asarray(fit.profile)
        with np.errstate(invalid="ignore"):  # of a constant end
            reached = np.array(
                [
                    np.corrcoef(*rows)[0, 1]
                    for rows in zip(fitted, profiles, strict=True)
                ]
            )
        flat = np.ptp(fitted, axis=-1) < 1e-7 * fitted.max(axis=-1)
        np.testing.assert_allclose(
            reached[~flat], np.asarray(fit.correlation)[~flat], atol=1e-7
        )
        if criterion == "likelihood":
            scale = np.sqrt(((profiles / fitted) ** 2).mean(axis=-1))
            np.testing.assert_allclose(scale, 1, rtol=1e-10)
            found = -np.log(fitted).mean(axis=-1)
        else:
            found = np.asarray(fit.correlation)
        assert (found > grid.max(axis=1) - 1e-8).all()
        times_found = np.asarray(fit.time)
        inside = (times_found > 0) & np.isfinite(times_found) & ~flat
        assert inside.sum() > 20
        again = made(times_found[inside])
        spread = np.asarray(log_ratio_std(again, fitted[inside]))
        assert spread.max() < 1e-6


def test_at_constant_limits_the_correlation_is_undefined():
    rising = 1 - 0.5 * np.eye(D)[-1]  # where noise arrives last
    fit = fit_profile([VARIANCE, rising], noise_family(VARIANCE))
    assert np.isnan(fit.correlation_at_infinity).all()
    assert fit.time[0] == 0
    assert fit.correlation[0] == fit.correlation_at_zero[0]
    # Ever better the later, to where the family is constant up to the root of rounding.
    late = np.asarray(fit.time)[1]
    assert np.isfinite(late)
    assert np.exp(-2 * late * VARIANCE[-1]) < 1e-4
    assert fit.correlation[1] > 1 - 1e-6
    likely = fit_profile(rising, noise_family(VARIANCE), criterion="likelihood")
    assert np.isfinite(likely.profile).all()
    nearly = 1 + 1e-3 * np.eye(D)[-1]  # no time has most energy there
    likely = fit_profile(nearly, noise_family(VARIANCE), criterion="likelihood")
    assert np.isinf(likely.time)
    assert np.isnan(likely.correlation)
    assert 0 < likely.log_ratio_std < 1e-3
    zero = np.append(VARIANCE[:-1], 0)  # then the limit is not constant
    fit = fit_profile(np.append(np.ones(D - 1), 0.1), noise_family(zero))
    assert np.isinf(fit.time)
    assert fit.correlation_at_infinity == fit.correlation > 1 - 1e-12


def test_what_a_family_does_not_have():
    """A direction without curvature in any filter is 0 throughout, not rounding."""
    axes = BASIS[:, 1:]
    blocks = np.einsum("ki,di,ei->kde", RANDOM.random((K, D - 1)) + 0.1, axes, axes)
    family = curvature_family(blocks, BASIS)
    profile = RANDOM.random(D) + 0.1
    for criterion in ("correlation", "likelihood"):
        fit = fit_profile(profile, family, criterion=criterion)
        assert fit.profile[0] == 0 < np.asarray(fit.profile)[1:].min()
        ratio = np.log(profile / np.where(fit.profile > 0, fit.profile, 1))[1:]
        np.testing.assert_allclose(fit.log_ratio_std, ratio.std(), rtol=1e-10)
    with pytest.raises(ValueError, match="profile is 0 on all components whose var"):
        fit_profile(np.eye(D)[0], family, criterion="likelihood")


def test_theorem_family_is_what_a_variance_is():
    profiles = RANDOM.random((4, D))
    for rate in (None, 0.03):
        for criterion in ("correlation", "likelihood"):
            options = {"criterion": criterion}
            plain = fit_profile(profiles, VARIANCE, learning_rate=rate, **options)
            other = fit_profile(profiles, theorem_family(VARIANCE, rate), **options)
            jax.tree.map(np.testing.assert_array_equal, plain, other)


def test_decomposed_curvature_is_not_decomposed_again():
    dynamics = theory.quadratic_descent(COUPLED, np.ones((K, D)), 0.01)
    profiles = RANDOM.random((4, D))
    plain = fit_profile(profiles, curvature_family(COUPLED, BASIS))
    other = fit_profile(profiles, curvature_family(dynamics, BASIS))
    jax.tree.map(np.testing.assert_array_equal, plain, other)
    # And its time is eta t: from an expected profile the steps are found.
    flow = theory.quadratic_descent(COUPLED, np.ones((K, D)), 0.01, continuous=True)
    made = flow.expected_profile(250, BASIS, count=7)
    fit = fit_profile(made, curvature_family(flow, BASIS))
    np.testing.assert_allclose(fit.time / 0.01, 250, rtol=1e-8)


@pytest.mark.parametrize("criterion", ["correlation", "likelihood"])
def test_jit_and_vmap_of_families(criterion):
    profiles = np.random.default_rng(8).random((3, D)) + 0.1

    def saturating(time):
        variance = VARIANCE.reshape(*(1,) * time.ndim, D)
        return variance / (variance + 1 / time[..., None])

    made = {
        "noise": lambda: noise_family(VARIANCE),
        "curvature": lambda: curvature_family(BLOCKS, BASIS),
        "own": lambda: profile_family(
            saturating, times=(1e-4, 1e6), at_zero=VARIANCE, at_infinity=np.ones(D)
        ),
    }
    for family in made.values():
        plain = fit_profile(profiles, family(), criterion=criterion)
        mapped = jax.jit(
            jax.vmap(lambda p: fit_profile(p, family(), criterion=criterion))  # noqa: B023
        )(profiles)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
            plain,
            mapped,
        )
    # What a family is made of may be traced too.
    plain = fit_profile(profiles, noise_family(VARIANCE), criterion=criterion)
    traced = jax.jit(
        lambda v: fit_profile(profiles, noise_family(v), criterion=criterion)
    )(VARIANCE)
    np.testing.assert_allclose(traced.time, plain.time, rtol=1e-7)

    def own_of(v):
        family = profile_family(
            lambda time: (
                1 / (1 + 1 / (time[..., None] * v.reshape(*(1,) * time.ndim, D)))
            ),
            times=(1e-4, 1e6),
            at_zero=VARIANCE,
            at_infinity=np.ones(D),
        )
        return fit_profile(profiles, family, criterion=criterion)

    plain = fit_profile(profiles, made["own"](), criterion=criterion)
    np.testing.assert_allclose(jax.jit(own_of)(VARIANCE).time, plain.time, rtol=1e-5)


@pytest.mark.float32
def test_families_in_float64_outside_traces_and_float32_inside():
    profile = np.float32(noise([0.7])[0])
    fit = fit_profile(profile, noise_family(np.float32(VARIANCE)))
    assert {leaf.dtype for leaf in jax.tree.leaves(fit)} == {np.dtype(np.float64)}
    np.testing.assert_allclose(fit.time, 0.7, rtol=1e-4)
    inside = jax.jit(lambda p: fit_profile(p, noise_family(np.float32(VARIANCE))))(
        profile
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(inside.time, 0.7, rtol=1e-2)

    def with_jax(time):
        assert time.dtype in (np.float64, np.float32)
        variance = VARIANCE.reshape(*(1,) * time.ndim, D)
        return jnp.sqrt(-jnp.expm1(-2 * jnp.asarray(time)[..., None] * variance))

    own = profile_family(
        with_jax, times=(1e-5, 1e3), at_zero=np.sqrt(VARIANCE), at_infinity=np.ones(D)
    )
    fit = fit_profile(profile, own)
    np.testing.assert_allclose(fit.time, 0.7, rtol=1e-4)


# --- how far two profiles differ ---


def test_log_ratio_std():
    a, b = RANDOM.random((2, 4, D)) + 0.1
    expected = np.log(a / b).std(axis=-1)
    np.testing.assert_allclose(log_ratio_std(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(
        log_ratio_std(1e300 * a, 1e-300 * b), expected, rtol=1e-9
    )
    np.testing.assert_allclose(log_ratio_std(a[0], b)[1], np.log(a[0] / b[1]).std())
    assert (np.asarray(log_ratio_std(a, 3 * a)) < 1e-15).all()
    holes = np.where(np.arange(D) < 2, 0, a)
    np.testing.assert_allclose(
        log_ratio_std(holes, b), np.log(a / b)[:, 2:].std(axis=-1), rtol=1e-12
    )
    assert np.isnan(log_ratio_std(np.eye(D)[0], b)).all()
    slope = jax.grad(lambda x: log_ratio_std(x, x * 2))(a[0])
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="profiles must share a last axis"):
        log_ratio_std(a, b[:, 1:])
    with pytest.raises(ValueError, match="a has 4 entries that are NaN"):
        log_ratio_std(a * [np.nan, *np.ones(D - 1)], b)


def test_a_fit_says_both_at_one_time():
    profiles = by_definition(BLOCKS, [0.5, 20]) * np.exp(0.2 * RANDOM.normal(size=D))
    for family in (theorem_family(VARIANCE), curvature_family(BLOCKS, BASIS)):
        for criterion in ("correlation", "likelihood"):
            fit = fit_profile(profiles, family, criterion=criterion)
            np.testing.assert_allclose(
                fit.correlation, profile_correlation(profiles, fit.profile), atol=1e-9
            )
            np.testing.assert_allclose(
                fit.log_ratio_std, log_ratio_std(profiles, fit.profile), rtol=1e-9
            )


def test_peaks_are_those_of_a_function():
    """Sums of bumps, by a dense grid."""
    centers = RANDOM.uniform(0, 10, (30, 3))
    heights = RANDOM.uniform(0.5, 1, (30, 3))

    def function(x):
        bumps = np.exp(-3 * (x[..., None] - centers[:, None]) ** 2)
        return (heights[:, None] * bumps).sum(axis=-1)

    grid = np.linspace(0, 10, 256)
    found = peaks(function, grid, function(np.broadcast_to(grid, (30, 256))))
    fine = function(np.broadcast_to(np.linspace(0, 10, 100_001), (30, 100_001)))
    assert (function(found).max(axis=1) > fine.max(axis=1) - 1e-9).all()


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noise_family(-VARIANCE), "variance must be finite and >= 0"),
        (lambda: noise_family(np.ones(D)), "variance must hold at least 3 values"),
        (
            lambda: theorem_family(VARIANCE, 1.0),
            "learning_rate = 1.0 times the largest",
        ),
        (
            lambda: curvature_family(BLOCKS[0], BASIS),
            r"curvature must have shape \(K, d",
        ),
        (lambda: curvature_family(BLOCKS, BASIS[1:]), r"components must have shape"),
        (lambda: curvature_family(BLOCKS, 2 * BASIS), "components must be orthonormal"),
        (lambda: curvature_family(-BLOCKS, BASIS), "positive semidefinite"),
        (
            lambda: curvature_family(BLOCKS, BASIS[:, :2]),
            "at least 3 components, got 2",
        ),
        (
            lambda: curvature_family(np.ones((K, 1, 1)) * np.eye(D), BASIS),
            "profiles have one shape at all times",
        ),
        (lambda: curvature_family(0 * BLOCKS, BASIS), "no curvature"),
        (lambda: curvature_profile(BLOCKS, -1, BASIS), "iterations must be >= 0"),
        (lambda: curvature_profile(BLOCKS * np.nan, 1, BASIS), "curvature has 405 ent"),
    ],
)
def test_bad_families(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ROOT = np.sqrt(VARIANCE)


def growing(time):
    return np.sqrt(np.asarray(time)[..., None] * VARIANCE + 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": (1.0, 0.1)}, r"times must be ascending, got 1.0 and 0.1"),
        ({"times": (0.0, 0.1)}, r"times\[0\] must be finite and > 0"),
        ({"at_zero": np.ones(4)}, r"must have one shape \(d,\), got \(4,\) and \(9,\)"),
        ({"at_zero": np.full(D, np.nan)}, "at_zero has 9 entries that are NaN"),
        ({"at_infinity": -VARIANCE}, "at_infinity must be finite, not neg.*got -20.0"),
        ({"at_infinity": np.zeros(D)}, "at_infinity must be finite, .*not 0 in all"),
        (
            {"function": lambda time: growing(time)[..., 1:]},
            r"must give profiles of shape times.shape \+ \(d,\) = \(33, 9\), got",
        ),
        (
            {"function": lambda time: growing(time) - 3},
            r"the family's profile must be finite, not negative .* at time 0.01",
        ),
        (
            {"function": lambda time: growing(time) * np.inf},
            "the family's profile must be finite, not negative",
        ),
        (
            {
                "function": lambda time: 0 * growing(time) + ROOT,
                "at_zero": ROOT,
            },
            "profiles have one shape at all times",
        ),
    ],
)
def test_bad_functions(changed, message):
    good = {
        "function": growing,
        "times": (0.01, 1e3),
        "at_zero": np.ones(D),
        "at_infinity": np.sqrt(VARIANCE),
    }
    profile_family(**good)
    with pytest.raises(ValueError, match=message):
        profile_family(**{**good, **changed})


def test_bad_calls_with_families():
    profile = RANDOM.random(D)
    with pytest.raises(ValueError, match="learning_rate goes with a variance; give it"):
        fit_profile(profile, noise_family(VARIANCE), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"profile must end in an axis of d = 9"):
        fit_profile(profile[1:], curvature_family(BLOCKS, BASIS))

    def late(time):  # bad only where the constructor does not look
        bad = (np.asarray(time) > 1.1) & (np.asarray(time) < 1.4)
        return np.where(bad[..., None], np.nan, growing(time))

    family = profile_family(
        late, times=(0.01, 1e3), at_zero=np.ones(D), at_infinity=VARIANCE
    )
    with pytest.raises(
        ValueError, match=r"family's profile must be finite.* at time 1."
    ):
        fit_profile(profile, family)

    def sometimes(time):
        return np.maximum(growing(time) - 1.3, 0)

    family = profile_family(
        sometimes, times=(0.1, 1e3), at_zero=np.eye(D)[0], at_infinity=VARIANCE
    )
    assert fit_profile(profile, family).correlation < 1
    with pytest.raises(ValueError, match="must be 0 at all times or at none, but"):
        fit_profile(profile, family, criterion="likelihood")


def test_likelihood_of_noise_is_that_of_normal_coefficients():
    """The criterion's value by scipy's density, at other times lower."""
    time = 0.3
    coefficients = noise([time]) * RANDOM.normal(size=(400, D))
    profile = np.sqrt((coefficients**2).mean(axis=0))
    fit = fit_profile(profile, noise_family(VARIANCE), criterion="likelihood")

    def density(shape):
        scale = np.sqrt(((profile / shape) ** 2).mean())
        return stats.norm.logpdf(coefficients, scale=scale * shape).sum()

    best = density(noise([fit.time])[0])
    for other in fit.time * np.array([0.5, 0.9, 1.1, 2]):
        assert density(noise([other])[0]) < best
    assert abs(np.log(fit.time / time)) < 0.3
