"""Data at the edges: equal images, numbers at the ends of what a float holds, steps
without number. Each has a defined result, or is refused with a remedy."""

import jax
import numpy as np
import pytest

import theory

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.normal(size=(8, 6, 6, 1))
TARGETS = RANDOM.normal(size=8)
KERNEL = RANDOM.normal(size=(2, 2, 1, 3))
HEAD = RANDOM.normal(size=3)
SPECTRUM = theory.patch_spectrum(IMAGES, 2)
MOMENTS = theory.mean_patch_moments(IMAGES, TARGETS, 2)
CROSS = theory.cross_moments(IMAGES, 2, [0, 1, 2])
DYNAMICS = theory.gradient_descent(MOMENTS, HEAD, 0.01)
VARIANCE = np.asarray(SPECTRUM.variance)
COMPONENTS = np.asarray(SPECTRUM.components)
HUGE = 10**400


# Equal images


@pytest.mark.parametrize("count", [6, 500])
@pytest.mark.parametrize("center", [True, False])
def test_labels_of_equal_images(count, center):
    image = np.random.default_rng(0).normal(size=(1, 6, 6, 3)) + 2
    images = np.repeat(image, count, axis=0)
    spectrum = theory.patch_spectrum(images, 3, center=center)
    found = theory.label_correlation(images, np.arange(count) % 2, spectrum)
    seen = np.asarray(spectrum.variance) > 0
    assert 0 < seen.sum() < 27
    np.testing.assert_array_equal(found.mean_patch, np.nan)
    expected = np.where(seen, 0, np.nan)
    np.testing.assert_array_equal(found.patch, [expected] * 2)
    np.testing.assert_array_equal(found.patch_noise, expected)


def test_labels_of_equal_images_in_batches_and_on_top_of_others():
    """Rounding of the mean patches stays below what one image that differs leaves."""
    image = np.random.default_rng(0).normal(size=(1, 6, 6, 1))
    images = np.repeat(image, 40, axis=0)
    labels = np.arange(40) % 2
    spectrum = theory.patch_spectrum(images, 2)
    batches = [images[:7], images[7:]]
    found = theory.label_correlation(batches, labels, spectrum)
    np.testing.assert_array_equal(found.patch, 0)
    images[3] += 1e-2 * np.random.default_rng(1).normal(size=image.shape[1:])
    found = theory.label_correlation(images, labels, theory.patch_spectrum(images, 2))
    one_of_40 = np.sqrt(1 / 39)  # the correlation of one image with half of them
    np.testing.assert_allclose(np.abs(found.mean_patch), one_of_40, rtol=1e-6)


def test_decorrelation_of_images_whose_mean_patches_are_equal():
    images = np.stack([IMAGES[0], np.rot90(IMAGES[0], 2)] * 2)
    moments = theory.mean_patch_moments(images, np.ones(4), 1)
    spectrum = theory.patch_spectrum(images, 1)
    ratio = theory.decorrelation_ratio(moments, spectrum)
    assert 0 <= ratio[0] < 1e-14


@pytest.mark.parametrize("kernel", ["zero", "unexcited"])
def test_autocorrelation_of_filters_that_nothing_excites(kernel):
    grey = np.random.default_rng(1).normal(size=(5, 6, 6, 1)).repeat(2, axis=-1)
    moments = theory.cross_moments(grey, 1, [0, 1])
    bank = np.zeros((1, 1, 2, 1)) if kernel == "zero" else np.array([[[[0.3], [-0.3]]]])
    both = np.stack([bank, np.ones((1, 1, 2, 1))])
    found = theory.autocorrelation(both, moments)
    np.testing.assert_array_equal(found[0], np.nan)
    np.testing.assert_allclose(
        found[1], theory.autocorrelation(both[1], moments), rtol=1e-14
    )
    np.testing.assert_allclose(found[1, 0], 1, rtol=1e-14)


# Numbers that only just fit


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e100, 1e200])
def test_profiles_of_filters_of_any_scale(scale):
    expected = scale * np.asarray(theory.energy_profile(KERNEL, COMPONENTS))
    banks = np.stack([scale * KERNEL, KERNEL])
    found = theory.energy_profile(banks, COMPONENTS)
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
    np.testing.assert_allclose(found[1] * scale, expected, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e100, 1e200])
def test_autocorrelation_does_not_depend_on_the_scale_of_filters(scale):
    np.testing.assert_allclose(
        theory.autocorrelation(scale * KERNEL, CROSS),
        theory.autocorrelation(KERNEL, CROSS),
        rtol=1e-13,
    )


@pytest.mark.parametrize(
    "take",
    [
        lambda images: theory.patch_moments(images, 2),
        lambda images: theory.patch_spectrum(images, 2),
        lambda images: theory.cross_moments(images, 2, [1]),
        lambda images: theory.mean_patch_moments(images, TARGETS, 2),
        lambda images: theory.patch_moments([images[:4], images[4:]], 2),
    ],
    ids=["patches", "spectrum", "pairs", "mean patches", "batches"],
)
def test_images_whose_squares_underflow_are_refused(take):
    with pytest.raises(
        ValueError, match=r"images of values up to .*e-200 are so small"
    ):
        take(1e-200 * IMAGES)
    with pytest.raises(ValueError, match="so large"):
        take(1e200 * IMAGES)
    take(0 * IMAGES)
    take(1e-140 * IMAGES)


def test_images_that_are_small_but_not_too_small():
    small = theory.patch_spectrum(1e-140 * IMAGES, 2)
    np.testing.assert_allclose(small.variance * 1e280, VARIANCE, rtol=1e-12)
    np.testing.assert_allclose(small.components, COMPONENTS, rtol=1e-10)
    # A few dark images among others are nothing to complain of.
    dark = IMAGES * np.where(np.arange(8) < 4, 1e-200, 1)[:, None, None, None]
    whole = theory.patch_moments(dark, 2)
    parts = theory.patch_moments([dark[:4], dark[4:]], 2)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_targets_whose_squares_do_not_fit_are_refused(scale):
    with pytest.raises(ValueError, match=r"targets: entries .* are so"):
        theory.mean_patch_moments(IMAGES, scale * TARGETS, 2)
    theory.mean_patch_moments(IMAGES, 0 * TARGETS, 2)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize(
    "use",
    [
        lambda head: theory.largest_stable_learning_rate(MOMENTS, head),
        lambda head: theory.gradient_descent(MOMENTS, head, 0.01),
        lambda head: theory.theorem_profile(
            VARIANCE, 3, learning_rate=0.1, head=head, patches_per_image=4, count=8
        ),
    ],
    ids=["border", "dynamics", "theorem"],
)
def test_heads_whose_squares_do_not_fit_are_refused(use, scale):
    with pytest.raises(ValueError, match=r"head: entries .* are so .*; scale them"):
        use(scale * HEAD)


def test_the_border_of_a_small_head():
    border = theory.largest_stable_learning_rate(MOMENTS, HEAD)
    np.testing.assert_allclose(
        theory.largest_stable_learning_rate(MOMENTS, 1e-140 * HEAD),
        1e280 * border,
        rtol=1e-13,
    )
    small = theory.mean_patch_moments(1e-140 * IMAGES, TARGETS, 2)
    with pytest.raises(ValueError, match="largest stable learning rate is no float64"):
        theory.largest_stable_learning_rate(small, 1e-140 * HEAD)
    nothing = theory.mean_patch_moments(0 * IMAGES, TARGETS, 2)
    assert theory.largest_stable_learning_rate(nothing, HEAD) == np.inf


@pytest.mark.parametrize("init_std", [1e-200, 1e200])
def test_initial_weights_whose_squares_do_not_fit_are_refused(init_std):
    with pytest.raises(ValueError, match="init_std: entries of up to"):
        DYNAMICS.expected_profile(0, init_std=init_std)
    with pytest.raises(ValueError, match="init_std: entries of up to"):
        DYNAMICS.profile_quantiles(0.5, 0, init_std=init_std)


def test_sums_of_squares_that_do_not_fit_are_refused():
    for terms in ({"variances": [1e308, 1e308]}, {"means": [1e200, 0.0]}):
        standard = {"variances": [1.0, 1.0], "means": [0.0, 0.0], "degrees": [1, 1]}
        with pytest.raises(ValueError, match="sum of degrees"):
            theory.quadratic_form_quantile(0.5, **{**standard, **terms})


def test_variances_whose_times_do_not_fit_are_refused():
    variance = np.array([3.0, 2.0, 1.0])
    with pytest.raises(
        ValueError, match=r"variance of up to .* is so small that times"
    ):
        theory.fit_profile([1.0, 2.0, 3.0], 1e-310 * variance)
    small = theory.fit_profile([1.0, 2.0, 4.0], 1e-200 * variance)
    whole = theory.fit_profile([1.0, 2.0, 4.0], variance)
    np.testing.assert_allclose(small.correlation, whole.correlation, rtol=1e-12)


# Steps without number


@pytest.mark.parametrize(
    "query",
    [
        lambda t: theory.geometric_sum(np.array([0.3, 1.5]), np.asarray(t)[..., None]),
        lambda t: theory.iteration_profile(VARIANCE, t, 0.1),
        lambda t: theory.theorem_profile(
            VARIANCE, t, learning_rate=0.1, head=HEAD, patches_per_image=25, count=8
        ),
        lambda t: DYNAMICS.kernel(t, KERNEL),
        lambda t: DYNAMICS.expected_profile(t, init_std=0.1),
        lambda t: DYNAMICS.profile_quantiles(0.5, t, init_std=0.1),
    ],
    ids=["sum", "iteration", "theorem", "kernel", "expected", "quantiles"],
)
def test_steps_beyond_every_float_are_the_limit(query):
    assert min(VARIANCE) > 0  # every mode has a limit
    limit = query(np.inf)
    assert np.isfinite(limit).all()
    np.testing.assert_array_equal(query(HUGE), limit)
    several = query([0, 3, HUGE])
    # Sums over modes are taken in another order.
    np.testing.assert_allclose(several[-1], limit, rtol=1e-14)
    assert np.abs(several[1] - limit).max() > 1e-3 * np.abs(limit).max()
    with pytest.raises(ValueError, match="iterations must be >= 0"):
        query(-HUGE)


@pytest.mark.float32
@pytest.mark.parametrize("t", [HUGE, 10**50, 1e200, np.float64(1e200), np.inf])
def test_steps_beyond_float32_are_the_limit_without_a_warning(t):
    variance, counts = np.array([3.0, 1.0]), {"patches_per_image": 1, "count": 1}
    theorem = {"learning_rate": 0.1, "head": np.ones(1), **counts}
    for several in (t, [t]):
        found = [
            theory.geometric_sum(0.25, several),
            theory.iteration_profile(variance, several, 0.1),
            theory.theorem_profile(variance, several, **theorem),
        ]
        limit = 1 / np.sqrt(variance)
        for profile, expected in zip(found, (4, limit, limit), strict=True):
            np.testing.assert_allclose(np.squeeze(profile), expected, rtol=1e-6)


def test_what_does_not_decay_adds_up_without_end():
    np.testing.assert_array_equal(theory.geometric_sum(0.0, [2, HUGE]), [2, np.inf])
    assert theory.geometric_sum(0.25, 10**30) == 4


@pytest.mark.parametrize("huge", [HUGE, -HUGE])
def test_other_numbers_beyond_every_float_are_refused(huge):
    with pytest.raises(ValueError, match="effective_learning_rate must be finite"):
        theory.iteration_profile(VARIANCE, 3, huge)
    with pytest.raises(ValueError, match="variance must be finite"):
        theory.whitening_profile([1, huge])
    with pytest.raises(ValueError, match="a has 1 entries that are NaN or infinite"):
        theory.profile_correlation([1, 2, huge], [1, 2, 3])


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5, 0.0, -1.0])
@pytest.mark.parametrize("steps", [0, 0.0, -0.0])
def test_no_step_sums_to_positive_zero(rate, steps):
    for total in (theory.geometric_sum, jax.jit(theory.geometric_sum)):
        assert not np.signbit(total(rate, steps))
        assert total(rate, steps) == 0
