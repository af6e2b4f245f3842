"""Values that would spoil a result without a word are refused by the name of their
argument: NaN, infinity, masks, components that are not orthonormal, wrong moments."""

import dataclasses

import jax
import jax.numpy as jnp
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
FOURTH = theory.mean_patch_fourth_moments(IMAGES, TARGETS, 2)
CROSS = theory.cross_moments(IMAGES, 2, [0, 1, 2])
DYNAMICS = theory.gradient_descent(MOMENTS, HEAD, 0.01)
VARIANCE = np.asarray(SPECTRUM.variance)
COMPONENTS = np.asarray(SPECTRUM.components)


def with_one(value, array):
    changed = np.array(array, float)
    changed.flat[1] = value
    return changed


def masked(array):
    return np.ma.masked_array(
        array, np.arange(np.size(array)).reshape(np.shape(array)) == 1
    )


CALLS = {
    ("energy_profile", "kernel"): lambda x: theory.energy_profile(
        x(KERNEL), COMPONENTS
    ),
    ("energy_profile", "components"): lambda x: theory.energy_profile(
        KERNEL, x(COMPONENTS)
    ),
    ("autocorrelation", "kernel"): lambda x: theory.autocorrelation(x(KERNEL), CROSS),
    ("profile_correlation", "a"): lambda x: theory.profile_correlation(
        x(VARIANCE), VARIANCE
    ),
    ("profile_correlation", "b"): lambda x: theory.profile_correlation(
        VARIANCE, x(VARIANCE)
    ),
    ("filters_with_profile", "profile"): lambda x: theory.filters_with_profile(
        x(VARIANCE), SPECTRUM
    ),
    ("fit_profile", "profile"): lambda x: theory.fit_profile(x(VARIANCE), VARIANCE),
    ("fit_profile", "variance"): lambda x: theory.fit_profile(VARIANCE, x(VARIANCE)),
    ("geometric_sum", "rate"): lambda x: theory.geometric_sum(x(VARIANCE), 3),
    ("iteration_profile", "variance"): lambda x: theory.iteration_profile(
        x(VARIANCE), 3, 0.1
    ),
    ("whitening_profile", "variance"): lambda x: theory.whitening_profile(x(VARIANCE)),
    ("theorem_profile", "head"): lambda x: theory.theorem_profile(
        VARIANCE, 3, learning_rate=0.1, head=x(HEAD), patches_per_image=25, count=8
    ),
    ("gradient_descent", "head"): lambda x: theory.gradient_descent(
        MOMENTS, x(HEAD), 0.01
    ),
    ("largest_stable", "head"): lambda x: theory.largest_stable_learning_rate(
        MOMENTS, x(HEAD)
    ),
    ("kernel", "initial_kernel"): lambda x: DYNAMICS.kernel(3, x(KERNEL)),
    ("two_layer_descent", "head"): lambda x: theory.two_layer_descent(
        MOMENTS, x(HEAD), KERNEL, 0.01, [1]
    ),
    ("two_layer_descent", "initial_kernel"): lambda x: theory.two_layer_descent(
        MOMENTS, HEAD, x(KERNEL), 0.01, [1]
    ),
    ("two_layer_flow", "drive"): lambda x: theory.two_layer_flow(
        1.0, x(HEAD), HEAD, 0.1, 2.0
    ),
    ("expected_profile", "components"): lambda x: DYNAMICS.expected_profile(
        3, init_std=0.1, components=x(COMPONENTS)
    ),
    ("profile_quantiles", "components"): lambda x: DYNAMICS.profile_quantiles(
        0.5, 3, init_std=0.1, components=x(COMPONENTS)
    ),
    ("quadratic_form_quantile", "means"): lambda x: theory.quadratic_form_quantile(
        0.5, variances=np.ones(4), means=x(VARIANCE), degrees=np.ones(4)
    ),
    ("quadratic_form_quantile", "variances"): lambda x: theory.quadratic_form_quantile(
        0.5, variances=x(VARIANCE), means=np.ones(4), degrees=np.ones(4)
    ),
    ("patch_moments", "images"): lambda x: theory.patch_moments(x(IMAGES), 2),
    ("patch_moments of batches", "images"): lambda x: theory.patch_moments(
        [IMAGES, x(IMAGES)], 2
    ),
    ("cross_moments", "images"): lambda x: theory.cross_moments(x(IMAGES), 2, [1]),
    ("filter_curvature", "images"): lambda x: theory.filter_curvature(
        x(IMAGES), KERNEL, batch_norm=False
    ),
    ("filter_curvature", "filters"): lambda x: theory.filter_curvature(
        IMAGES, x(KERNEL), pool=2
    ),
    ("lag_moments", "images"): lambda x: theory.lag_moments(x(IMAGES), 2, 1),
    ("mean_patch_moments", "images"): lambda x: theory.mean_patch_moments(
        x(IMAGES), TARGETS, 2
    ),
    ("mean_patch_moments", "targets"): lambda x: theory.mean_patch_moments(
        IMAGES, x(TARGETS), 2
    ),
    ("fourth_moments", "images"): lambda x: theory.mean_patch_fourth_moments(
        x(IMAGES), TARGETS, 2
    ),
    ("fourth_moments", "targets"): lambda x: theory.mean_patch_fourth_moments(
        IMAGES, x(TARGETS), 2
    ),
    ("stochastic_descent", "head"): lambda x: theory.stochastic_descent(
        FOURTH, x(HEAD), 0.01, 2
    ),
    ("label_correlation", "images"): lambda x: theory.label_correlation(
        x(IMAGES), np.arange(8) % 2, SPECTRUM
    ),
}
MORE_CALLS = {
    ("label_correlation", "labels"): lambda x: theory.label_correlation(
        IMAGES, x(np.arange(8) % 2), SPECTRUM
    ),
    ("time_interval", "times"): lambda x: theory.time_interval(x(VARIANCE)),
    ("time_interval of a list", "times"): lambda x: theory.time_interval(
        [np.ma.masked, 2.0, 3.0] if x is masked else [1.0, 2.0, 3.0]
    ),
    ("geometric_sum", "iterations"): lambda x: theory.geometric_sum(0.1, x(VARIANCE)),
    ("kernel", "iterations"): lambda x: DYNAMICS.kernel(x(VARIANCE), KERNEL),
    ("profile_quantiles", "q"): lambda x: DYNAMICS.profile_quantiles(
        x(np.array([0.2, 0.5])), 3, init_std=0.1
    ),
}


def named(calls):
    return pytest.mark.parametrize(
        ("argument", "call"),
        [(name[1], call) for name, call in calls.items()],
        ids=["-".join(name) for name in calls],
    )


@named(CALLS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arguments_that_are_not_finite_are_refused_by_name(argument, call, value):
    call(lambda array: array)
    with pytest.raises(ValueError, match=rf"^{argument} (has|must be) .*"):
        call(lambda array: with_one(value, array))


@named(CALLS | MORE_CALLS)
def test_masked_arguments_are_refused_by_name(argument, call):
    with pytest.raises(TypeError, match=rf"^{argument} has masked .*{argument}.filled"):
        call(masked)
    if "list" not in argument:  # without masked entries nothing is lost
        jax.tree.map(
            np.testing.assert_array_equal,
            call(lambda array: np.ma.masked_array(array, mask=False)),
            call(lambda array: array),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: 2 * u, "differ from 0 and 1 by up to 3"),
        (lambda u: u + 0.01, "must be orthonormal columns"),
        (lambda u: u[:, [0, 1, 1]], "differ from 0 and 1 by up to 1"),
        (lambda u: np.hstack([u, u[:, :1]]), "must be orthonormal columns"),
    ],
)
def test_components_that_are_not_orthonormal_are_refused(change, message):
    components = change(COMPONENTS)
    for use in (
        lambda: theory.energy_profile(KERNEL, components),
        lambda: DYNAMICS.expected_profile(3, init_std=0.1, components=components),
        lambda: DYNAMICS.profile_quantiles(0.5, 3, init_std=0.1, components=components),
    ):
        with pytest.raises(ValueError, match=f"components must .*{message}|{message}"):
            use()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_components_that_were_rounded_are_orthonormal(dtype):
    rounded = jnp.asarray(COMPONENTS).astype(dtype)
    found = theory.energy_profile(KERNEL, rounded)
    np.testing.assert_allclose(
        found, theory.energy_profile(KERNEL, COMPONENTS), rtol=0.02
    )


def test_a_spectrum_with_other_components_is_refused():
    other = dataclasses.replace(SPECTRUM, components=2 * COMPONENTS)
    for use in (
        lambda: theory.filters_with_profile(VARIANCE, other),
        lambda: theory.label_correlation(IMAGES, np.arange(8) % 2, other),
        lambda: theory.decorrelation_ratio(MOMENTS, other),
    ):
        with pytest.raises(ValueError, match=r"spectrum\.components must be orthonorm"):
            use()


def test_moments_that_are_not_finite_are_refused():
    second = with_one(np.nan, MOMENTS.second)
    moments = dataclasses.replace(MOMENTS, second=second)
    for use in (
        lambda: theory.largest_stable_learning_rate(moments, HEAD),
        lambda: theory.gradient_descent(moments, HEAD, 0.01),
        lambda: theory.decorrelation_ratio(moments, SPECTRUM),
    ):
        with pytest.raises(ValueError, match=r"moments\.second has 1 entries"):
            use()
    cross = dataclasses.replace(CROSS, cross=with_one(np.nan, CROSS.cross))
    with pytest.raises(ValueError, match=r"cross_moments\.cross has 1 entries"):
        theory.autocorrelation(KERNEL, cross)


@pytest.mark.parametrize("other", [3, SPECTRUM, IMAGES])
def test_what_is_no_moments_is_refused_by_name(other):
    with pytest.raises(TypeError, match="moments must be MeanPatchMoments, of theory"):
        theory.largest_stable_learning_rate(other, HEAD)
    with pytest.raises(
        TypeError, match="cross_moments must be CrossMoments, of theory"
    ):
        theory.autocorrelation(KERNEL, other)
    if other is not SPECTRUM:
        with pytest.raises(
            TypeError, match="spectrum must be PatchSpectrum, of theory"
        ):
            theory.filters_with_profile(VARIANCE, other)


def test_outputs_must_match_where_the_targets_count():
    """The border of stability is that of the images and the head."""
    head = np.stack([HEAD, 2 * HEAD], axis=-1)
    with pytest.raises(ValueError, match=r"has 2 outputs, but the targets have 1"):
        theory.gradient_descent(MOMENTS, head, 0.01)
    border = theory.largest_stable_learning_rate(MOMENTS, head)
    one = theory.largest_stable_learning_rate(MOMENTS, HEAD)
    np.testing.assert_allclose(border, one / 5, rtol=1e-13)


def test_values_are_not_looked_at_within_transformations():
    profile = jax.jit(theory.energy_profile)(with_one(np.nan, KERNEL), COMPONENTS)
    assert np.isnan(profile).all()
    stretched = jax.jit(theory.energy_profile)(KERNEL, 2 * COMPONENTS)
    np.testing.assert_allclose(
        stretched, 2 * theory.energy_profile(KERNEL, COMPONENTS), rtol=1e-14
    )
