"""First layers made from a closed form: against loops over filters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import theory
from linear_cnn import SmallCNN, closed_form_init

RANDOM = np.random.default_rng(5)
D = 12  # 2 x 3 pixels of 2 channels
COMPONENTS = np.linalg.qr(RANDOM.normal(size=(D, D)))[0]
PROFILE = np.geomspace(0.3, 20, D)
KEY = jax.random.key(0)


def filters_by_loop(count: int, *, signs: bool) -> np.ndarray:
    """Filters (2, 3, 2, K) in the units of the profile."""
    filters = []
    for k in range(count):
        place = k % (2 * D if signs else D)
        sign = 1 if place < D else -1
        i = place % D
        filters.append(sign * PROFILE[i] * COMPONENTS[:, i].reshape(2, 3, 2))
    return np.stack(filters, axis=-1)


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("count", [1, 5, D, D + 1, 2 * D, 2 * D + 3, 5 * D])
def test_filters_are_those_of_a_loop(count: int, signs: bool) -> None:
    expected = filters_by_loop(count, signs=signs)
    shape = expected.shape
    unit = closed_form_init(COMPONENTS, PROFILE, signs=signs, scale="unit")
    np.testing.assert_allclose(unit(KEY, shape, jnp.float64), expected, rtol=1e-14)
    ratio = expected / np.sqrt(np.mean(expected**2))
    he = closed_form_init(COMPONENTS, PROFILE, signs=signs)(KEY, shape, jnp.float64)
    std = math.sqrt(2 / (2 * 3 * count))  # by fan-out
    np.testing.assert_allclose(he, std * ratio, rtol=1e-13)
    number = closed_form_init(COMPONENTS, PROFILE, signs=signs, scale=0.7)
    np.testing.assert_allclose(number(KEY, shape, jnp.float64), 0.7 * ratio, rtol=1e-13)


def test_the_energy_is_that_of_the_networks_own_initial_weights() -> None:
    network = SmallCNN(features=(3000, 2), rngs=nnx.Rngs(0))
    kernel = np.asarray(network.conv1.kernel[...])
    u = np.linalg.qr(RANDOM.normal(size=(27, 27)))[0]
    made = closed_form_init(u, np.ones(27))(KEY, kernel.shape)
    # 81,000 weights: the sum of their squares is known to 0.5 %.
    np.testing.assert_allclose((made**2).sum(), (kernel**2).sum(), rtol=0.015)


def test_whitening_filters_of_unit_scale_whiten() -> None:
    images = RANDOM.normal(size=(40, 8, 8, 2)).cumsum(axis=1).cumsum(axis=2)
    spectrum = theory.patch_spectrum(images, (2, 3))
    profile = theory.whitening_profile(spectrum.variance)
    init = closed_form_init(spectrum.components, profile, signs=False, scale="unit")
    w = np.asarray(init(KEY, (2, 3, 2, D), jnp.float64)).reshape(D, D)
    covariance = theory.patch_moments(images, (2, 3)).covariance
    np.testing.assert_allclose(w.T @ covariance @ w, np.eye(D), atol=1e-8)
    both = closed_form_init(spectrum.components, profile)
    kernel = both(KEY, (2, 3, 2, 2 * D), jnp.float64)
    found = theory.energy_profile(kernel, spectrum.components)
    assert theory.profile_correlation(found, profile) == pytest.approx(1)


@pytest.mark.float32
def test_in_every_dtype_and_in_a_convolution() -> None:
    shape = (2, 3, 2, 2 * D)
    init = closed_form_init(COMPONENTS, PROFILE)
    expected = filters_by_loop(2 * D, signs=True)
    expected = expected * math.sqrt(2 / (6 * 2 * D) / np.mean(expected**2))
    tolerances = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2, jnp.float16: 2e-3}
    for dtype, tolerance in tolerances.items():
        kernel = init(KEY, shape, dtype)
        assert kernel.dtype == dtype
        np.testing.assert_allclose(kernel.astype(float), expected, tolerance, 1e-4)
    assert init(KEY, shape).dtype == jnp.float32
    layer = nnx.Conv(2, 2 * D, (2, 3), kernel_init=init, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer.kernel[...], expected, rtol=1e-5, atol=1e-6)
    # Squares of what is as large as this overflow.
    huge = closed_form_init(COMPONENTS, np.float32(1e30) * PROFILE.astype(np.float32))
    np.testing.assert_allclose(huge(KEY, shape), expected, rtol=1e-5, atol=1e-6)


def test_inside_jit_and_vmap() -> None:
    shape = (2, 3, 2, 5)

    @jax.jit
    def make(components: jax.Array, profiles: jax.Array) -> jax.Array:
        return jax.vmap(lambda e: closed_form_init(components, e)(KEY, shape))(profiles)

    profiles = np.stack([PROFILE, PROFILE[::-1]])
    for kernel, profile in zip(make(COMPONENTS, profiles), profiles, strict=True):
        expected = closed_form_init(COMPONENTS, profile)(KEY, shape)
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 2, 4), r"patches of 12 values, .* 3 x 3 x 2 = 18; .*kernel_size=\(3"),
        ((2, 3, 3, 4), r"2 x 3 x 3 = 18; take them from images of 3 channels"),
        ((12, 4), r"two-dimensional convolutions, \(kh, kw, C, K\), got the shape"),
    ],
)
def test_kernels_that_do_not_match_the_spectrum(shape: tuple, message: str) -> None:
    init = closed_form_init(COMPONENTS, PROFILE)
    with pytest.raises(ValueError, match=message):
        init(KEY, shape, jnp.float32)
    if len(shape) == 4:  # as a user meets it
        with pytest.raises(ValueError, match=message):
            nnx.Conv(shape[2], 4, shape[:2], kernel_init=init, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (COMPONENTS, PROFILE[1:]),
            {},
            ValueError,
            r"got \(12, 12\) and \(11,\); take both from one spectrum",
        ),
        ((PROFILE, PROFILE), {}, ValueError, r"components must have shape \(d, p\)"),
        ((COMPONENTS, 0 * PROFILE), {}, ValueError, "profile must not be all zeros"),
        ((2 * COMPONENTS, PROFILE), {}, ValueError, "must be orthonormal columns"),
        ((COMPONENTS, PROFILE + np.inf), {}, ValueError, "profile must be finite"),
        ((object(), PROFILE), {}, TypeError, r"got object; .* pass its \.components"),
        ((COMPONENTS, ["a"] * D), {}, TypeError, "profile must be real numbers"),
        ((COMPONENTS, PROFILE), {"scale": "xavier"}, ValueError, "scale must be 'he'"),
        ((COMPONENTS, PROFILE), {"scale": 0.0}, ValueError, "scale must be 'he'"),
        ((COMPONENTS, PROFILE), {"scale": True}, ValueError, "scale must be 'he'"),
        ((COMPONENTS, PROFILE), {"scale": np.nan}, ValueError, "scale must be 'he'"),
    ],
)
def test_bad_input(arguments: tuple, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        closed_form_init(*arguments, **options)


def test_filters_without_weight() -> None:
    """The first component of weight is the third."""
    init = closed_form_init(COMPONENTS, 1.0 * (np.arange(D) > 1))
    assert np.isfinite(init(KEY, (2, 3, 2, 3))).all()
    with pytest.raises(ValueError, match="profile is 0 for the first 2 components"):
        init(KEY, (2, 3, 2, 2))
