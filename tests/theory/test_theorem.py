"""Theorems 4.2 and 4.3 against their formulas and the exact law, and the diagnostic on
data of known answer."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from tests.theory.twins import all_patches, recompose
from theory import (
    MeanPatchMoments,
    decorrelation_ratio,
    gradient_descent,
    iteration_profile,
    mean_patch_moments,
    patch_spectrum,
    theorem_profile,
    whitening_profile,
    whitening_schedule,
)

RANDOM = np.random.default_rng(4)
VARIANCE = np.array([4.0, 1.0, 0.3, 1e-6, 1e-14, 0.0])
STEPS = np.array([[0, 1, 2], [51, 10**6, np.inf]])


def theorem(variance, t, rate):
    """|1 - (1 - rate variance)^t| / sqrt(variance) in 50 digits; 0 where nothing
    drives."""
    if variance == 0:
        return 0.0
    with mpmath.workdps(50):
        left = (
            0
            if np.isinf(t)
            else (1 - mpmath.mpf(float(rate)) * mpmath.mpf(float(variance))) ** int(t)
        )
        return float(abs(1 - left) / mpmath.sqrt(mpmath.mpf(float(variance))))


@pytest.mark.parametrize("rate", [0.1, 0.48])  # without and with oscillating modes
def test_iteration_profile_is_the_formula(rate):
    expected = np.array(
        [[[theorem(v, t, rate) for v in VARIANCE] for t in row] for row in STEPS]
    )
    profile = iteration_profile(VARIANCE, STEPS, rate)
    assert profile.shape == (2, 3, 6)
    np.testing.assert_allclose(profile, expected, rtol=1e-12)
    np.testing.assert_allclose(
        iteration_profile(VARIANCE, 51, rate), expected[1, 0], rtol=1e-12
    )
    np.testing.assert_allclose(profile[1, 2], whitening_profile(VARIANCE), rtol=1e-15)
    np.testing.assert_array_equal(profile[0, 0], 0)
    wrong = iteration_profile(VARIANCE, 51, rate / 2)
    assert np.abs(wrong / np.where(VARIANCE > 0, expected[1, 0], 1) - 1).max() > 0.1


def test_early_and_late_profiles():
    early = iteration_profile(VARIANCE, 100, 1e-9)
    # T eta' lambda.
    np.testing.assert_allclose(early, 100 * 1e-9 * np.sqrt(VARIANCE), rtol=1e-6)
    np.testing.assert_allclose(
        whitening_profile(VARIANCE)[:5], VARIANCE[:5] ** -0.5, rtol=1e-14
    )
    assert whitening_profile(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.float32
def test_regularised_whitening():
    variance = np.array([4, 0.25, 1e-3, 0], np.float32)
    for epsilon in (0.0, 1e-6, 0.1, 1e3):
        expected = [
            0 if v + epsilon == 0 else (float(v) + epsilon) ** -0.5 for v in variance
        ]
        found = whitening_profile(variance, epsilon)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Its derivatives, at no variance too.
    slope = jax.jacrev(whitening_profile, argnums=(0, 1))(variance, 0.1)
    exact = -0.5 * (variance.astype(float) + 0.1) ** -1.5
    np.testing.assert_allclose(np.diag(slope[0]), exact, rtol=1e-5)
    np.testing.assert_allclose(slope[1], exact, rtol=1e-5)
    assert (np.asarray(jax.jacrev(whitening_profile)(variance))[3] == 0).all()
    for bad in (-1e-9, np.nan, np.inf):
        with pytest.raises(ValueError, match="epsilon must be finite and >= 0"):
            whitening_profile(variance, bad)
    with pytest.raises(ValueError, match=r"epsilon must be a scalar, got shape \(4,\)"):
        whitening_profile(variance, variance)


@pytest.mark.float32
def test_ways_of_calling_iteration_profile():
    variance, steps = (
        np.array([2, 0.5, 0], np.float32),
        np.array([0, 3, 2**31 - 1], np.int32),
    )
    profile = iteration_profile(variance, steps, np.float32(0.9))
    assert profile.dtype == np.float32
    expected = [[theorem(v, t, 0.9) for v in variance] for t in steps]
    np.testing.assert_allclose(profile, expected, rtol=1e-5)
    rounded = iteration_profile(
        variance, np.array([0.4, 3.4], np.float32), np.float32(0.9)
    )
    np.testing.assert_array_equal(rounded, profile[:2])
    rates = jnp.array([0.3, 0.9], np.float32)
    mapped = jax.jit(jax.vmap(iteration_profile, (None, None, 0)))(variance, 3, rates)
    np.testing.assert_allclose(mapped[1], profile[1], rtol=1e-5)
    assert iteration_profile([2.0, 0.5], [1, 2], 0.9).shape == (2, 2)
    assert iteration_profile(VARIANCE, 10**12, 0.1).shape == (6,)


HEADS = {
    "one output": RANDOM.normal(size=4),
    "two outputs": RANDOM.normal(size=(4, 2)),
    "rank one": np.outer(RANDOM.normal(size=4), [1, 2.0]),
    "more outputs than filters": RANDOM.normal(size=(2, 3)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_theorem_profile_is_the_exact_law_where_its_assumption_holds(head):
    """Mean patches with second moment Sigma / J, targets drawn with variance tau^2, no
    initialisation."""
    locations, count, tau = 7, 50, 1.5
    variance = np.array([3.0, 1.0, 0.1, 1e-3, 1e-6, 0])
    components = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]
    outputs = head.shape[1:]
    moments = MeanPatchMoments(
        second=recompose(variance / locations, components),
        cross=np.zeros((6, *outputs)),
        mean=np.zeros(6),
        target_mean=np.zeros(outputs),
        target_covariance=(
            tau**2 * np.eye(*outputs * 2) if outputs else np.array(tau**2)
        ),
        count=count,
        patches_per_image=locations,
        kernel_shape=(1, 2, 3),
        stride=(1, 1),
        padding=((0, 0), (0, 0)),
    )
    h = np.linalg.norm(head.reshape(len(head), -1), ord=2) ** 2
    rate = 1.7 * locations / (2 * h * variance[0])  # x_max = 1.7
    steps = np.array([1, 10, 1001, np.inf])

    def exact(moments, rate):
        law = gradient_descent(moments, head, rate)
        return law.expected_profile(
            steps, init_std=0, change=True, components=components
        )

    @jax.jit
    def closed(rate=rate, count=count):
        settings = {"patches_per_image": locations, "count": count, "target_std": tau}
        return theorem_profile(
            variance, steps, learning_rate=rate, head=head, **settings
        )

    profile, expected = closed(), exact(moments, rate)
    assert profile.shape == (4, 6)
    assert (expected[1:, :5] > 0).all()

    def error(profile, expected):
        # The last component is 0.
        profile, expected = np.asarray(profile)[:, :5], np.asarray(expected)[:, :5]
        return np.abs(profile / expected - 1).max()

    assert error(profile, expected) < 1e-9
    np.testing.assert_array_equal(profile[:, 5], 0)
    assert error(closed(rate / 2), expected) > 1e-2
    assert error(closed(rate, count - 1), expected) > 1e-2
    assert (
        error(
            profile,
            exact(dataclasses.replace(moments, second=moments.second / 2), rate),
        )
        > 1e-2
    )


def test_theorem_profile_of_one_output_is_the_formula():
    """tau sqrt(J / (h K N)) |1 - (1 - 2 eta h lambda^2 / J)^t| / lambda."""
    head = np.array([1, -2, 0.5])
    h, locations, count, rate, tau = 5.25, 9, 40, 0.3, 0.7
    profile = theorem_profile(
        VARIANCE,
        STEPS,
        learning_rate=rate,
        head=head,
        patches_per_image=locations,
        count=count,
        target_std=tau,
    )
    expected = np.array(
        [
            [[theorem(v, t, 2 * rate * h / locations) for v in VARIANCE] for t in row]
            for row in STEPS
        ]
    )
    np.testing.assert_allclose(
        profile, tau * np.sqrt(locations / (h * 3 * count)) * expected, rtol=1e-12
    )


def test_gradients_are_finite_also_without_variance():
    def total(rate, variance):
        return (
            iteration_profile(variance, 5, rate).sum()
            + theorem_profile(
                variance,
                5,
                learning_rate=rate,
                head=np.ones(2),
                patches_per_image=3,
                count=4,
            ).sum()
        )

    slopes = jax.jit(jax.grad(total, (0, 1)))(0.2, jnp.array([2.0, 0.1, 0.0]))
    assert all(bool(jnp.isfinite(slope).all()) for slope in slopes)


def tiled(patches):
    """(N, J, 2, 2, 1) -> images (N, 2, 2 J, 1), one patch beside the other."""
    return np.concatenate(list(np.moveaxis(patches, 1, 0)), axis=2)


def ratio(images, center, **settings):
    settings = {"stride": 2} | settings
    moments = mean_patch_moments(images, np.zeros(len(images)), 2, **settings)
    return decorrelation_ratio(
        moments, patch_spectrum(images, 2, center=center, **settings)
    )


@pytest.mark.parametrize("center", [True, False])
def test_ratio_of_equal_opposite_and_independent_patches(center):
    pool = RANDOM.normal(size=(9, 2, 2, 1)) + 0.5
    equal = tiled(np.stack([pool, pool], axis=1))
    np.testing.assert_allclose(ratio(equal, center), 2, rtol=1e-10)
    opposite = tiled(np.stack([pool, -pool], axis=1))
    np.testing.assert_allclose(ratio(opposite, center), 0, atol=1e-12)
    pairs = tiled(np.array([np.stack(pair) for pair in itertools.product(pool, pool)]))
    independent = ratio(pairs, center)
    if center:
        np.testing.assert_allclose(independent, 1, rtol=1e-10)
    else:
        assert independent.max() > 1.2  # the mean is common to all patches
        centered = tiled(
            np.array(
                [
                    np.stack(pair)
                    for pair in itertools.product(pool - pool.mean(axis=0), repeat=2)
                ]
            )
        )
        np.testing.assert_allclose(ratio(centered, center), 1, rtol=1e-10)


@pytest.mark.parametrize("center", [True, False])
def test_ratio_is_its_definition(center):
    images = RANDOM.normal(size=(5, 6, 5, 2)).cumsum(axis=1) + 1
    settings = {"stride": 1, "padding": "SAME"}
    explicit = all_patches(images, 2, 1, "SAME")
    locations = explicit.shape[1] * explicit.shape[2]
    explicit = explicit.reshape(5, locations, 8)
    if center:
        explicit = explicit - explicit.mean(axis=(0, 1))
    spectrum = patch_spectrum(images, 2, center=center, **settings)
    responses = explicit @ np.asarray(spectrum.components)
    expected = (
        locations
        * (responses.mean(axis=1) ** 2).mean(axis=0)
        / (responses**2).mean(axis=(0, 1))
    )
    np.testing.assert_allclose(ratio(images, center, **settings), expected, rtol=1e-9)
    assert expected.max() > 2 * expected.min()


@pytest.mark.float32
def test_ratio_is_float64_and_undefined_without_variance():
    images = RANDOM.normal(size=(4, 4, 4, 1)).astype(np.float32)
    measured = ratio(np.repeat(images, 2, axis=3), True)
    assert measured.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(measured), [False] * 4 + [True] * 4)
    np.testing.assert_allclose(measured[:4], ratio(images, True), rtol=1e-9)


def test_ratio_needs_the_same_windows():
    images = RANDOM.normal(size=(4, 4, 4, 1))
    moments = mean_patch_moments(images, np.zeros(4), 2, stride=2)
    for spectrum in (
        patch_spectrum(images, 2),
        patch_spectrum(images[:3], 2, stride=2),
    ):
        with pytest.raises(
            ValueError,
            match="must come from the same images, kernel, stride and padding; got",
        ):
            decorrelation_ratio(moments, spectrum)


GOOD = {"learning_rate": 0.1, "head": np.ones(2), "patches_per_image": 4, "count": 5}


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (
            r"variance must be finite and >= 0, smallest entry -1.0; clip",
            {"variance": [-1.0, 2]},
        ),
        (r"variance must be finite and >= 0", {"variance": [np.inf, 2]}),
        (
            (
                r"variance must have shape \(d,\), got \(1, 2\); map over others with"
                r" jax.vmap"
            ),
            {"variance": [[1.0, 2]]},
        ),
        (
            r"iterations must be >= 0 \(infinity allowed\), got -2",
            {"iterations": [3, -2]},
        ),
        (r"learning_rate must be finite and > 0, got -0.1", {"learning_rate": -0.1}),
        (
            r"learning_rate must be a scalar, got shape \(2,\); map over several",
            {"learning_rate": [0.1, 0.2]},
        ),
        (
            (
                r"learning_rate = 1.0 is at or beyond the border of stability; .*"
                r" below 1.0"
            ),
            {"learning_rate": 1.0},
        ),
        (r"head is all zeros", {"head": np.zeros(2)}),
        (r"head must have shape \(K,\) or \(K, M\)", {"head": np.ones((1, 2, 3))}),
        (r"patches_per_image must be finite and > 0, got 0", {"patches_per_image": 0}),
        (r"count must be finite and > 0, got -3", {"count": -3}),
        (r"target_std must be finite and >= 0, got -1.0", {"target_std": -1.0}),
    ],
)
def test_bad_arguments_of_the_theorem(message, changed):
    arguments = GOOD | changed
    variance, iterations = (
        arguments.pop("variance", [2.0, 1.0]),
        arguments.pop("iterations", 3),
    )
    with pytest.raises(ValueError, match=message):
        theorem_profile(variance, iterations, **arguments)


@pytest.mark.parametrize("rate", [1.0, 3.0])
def test_the_largest_stable_effective_learning_rate_is_named(rate):
    with pytest.raises(
        ValueError,
        match=(
            f"effective_learning_rate = {rate} is at or beyond .* stable one is"
            " below 1.0"
        ),
    ):
        iteration_profile([2.0, 1.0], 3, rate)


def test_iterations_that_no_integer_of_jax_holds():
    large = [1, 3_000_000_000, 10**20]
    for given in (large, tuple(large), np.array(large, np.float64)):
        for variance in (np.array([1e-9, 1.0]), jnp.array([1e-9, 1.0])):
            found = iteration_profile(variance, given, 0.5)
            np.testing.assert_allclose(
                found,
                iteration_profile(variance, np.array(large, float), 0.5),
                rtol=1e-12,
            )
    assert found[1, 0] != found[0, 0]


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            r"variance must be real numbers, got <U1\.",
            lambda s, m: iteration_profile(["a"], 1, 0.1),
        ),
        (
            r"variance must be real numbers, got PatchSpectrum; pass its \.variance",
            lambda s, m: whitening_profile(s),
        ),
        (
            r"iterations must be real numbers, got NoneType",
            lambda s, m: iteration_profile([1.0], None, 0.1),
        ),
        (
            r"learning_rate must be real numbers, got complex128",
            lambda s, m: iteration_profile([1.0], 1, np.array(1j)),
        ),
        (
            r"targets must be real numbers, got <U3",
            lambda s, m: mean_patch_moments(GREY, ["cat"] * 3, 2),
        ),
        (
            r"targets must be real numbers, got complex128",
            lambda s, m: mean_patch_moments(GREY, np.ones(3) * 1j, 2),
        ),
        (
            r"moments must be MeanPatchMoments, .*got PatchSpectrum",
            lambda s, m: decorrelation_ratio(s, m),
        ),
        (
            r"spectrum must be PatchSpectrum, .*got MeanPatchMoments",
            lambda s, m: decorrelation_ratio(m, m),
        ),
        (
            r"moments must be MeanPatchMoments, .*got PatchSpectrum",
            lambda s, m: gradient_descent(s, np.ones(2), 0.1),
        ),
    ],
)
def test_what_is_of_the_wrong_kind(message, call):
    with pytest.raises(TypeError, match=message):
        call(patch_spectrum(GREY, 2), mean_patch_moments(GREY, np.arange(3.0), 2))


GREY = RANDOM.normal(size=(3, 4, 4, 1))


@pytest.mark.parametrize("rate", [None, 0.05, 0.45])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_whitening_schedule_is_the_first_step_within_the_tolerance(count, rate):
    variance, tolerance = np.array([0.3, 4.0, 1.0, 0.0]), 0.02
    found, steps = whitening_schedule(
        variance, count, tolerance, effective_learning_rate=rate
    )
    first = np.argsort(-variance)[:count]

    def missing(steps, rate):
        profile = np.asarray(iteration_profile(variance, steps, rate))
        return np.abs(profile[first] * np.sqrt(variance[first]) - 1).max()

    assert missing(steps, found) <= tolerance * (1 + 1e-9)
    if steps > 1:
        assert missing(steps - 1, found) > tolerance
    if rate is None:  # no other rate is faster
        for other in np.linspace(0.01, 0.499, 50):
            assert (
                whitening_schedule(
                    variance, count, tolerance, effective_learning_rate=other
                )[1]
                >= steps
            )


@pytest.mark.float32
def test_whitening_schedule_of_wide_spectra_in_float32():
    variance = jnp.array([1.0, 0.5, 1.7e-7], jnp.float32)
    rate, steps = whitening_schedule(variance, 3, 0.01)
    assert rate.dtype == steps.dtype == jnp.float32
    expected = np.log(0.01) / np.log1p(-3.4e-7 / (1 + 1.7e-7))
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


def test_whitening_schedule_refuses_what_no_time_reaches():
    for arguments, message in (
        (([1.0, 0.0], 2, 0.1), "beyond the 1 components that have any variance"),
        (([1.0, 0.5], 3, 0.1), "count must be a whole number from 1 to 2"),
        (([1.0, 0.5], 1, 1.0), "tolerance must lie strictly between 0 and 1"),
        (([1.0, 0.5], 1, 0.0), "tolerance must lie strictly between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            whitening_schedule(*arguments)
    with pytest.raises(ValueError, match="beyond the border of stability"):
        whitening_schedule([1.0], 1, 0.1, effective_learning_rate=2.0)
