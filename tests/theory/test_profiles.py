"""Energy profiles of filter banks: explicit sums, what leaves them unchanged, and their
comparison."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.twins import recompose, relative_error
from theory import (
    PatchSpectrum,
    energy_profile,
    filters_with_profile,
    patch_spectrum,
    profile_correlation,
    whitening_profile,
)

RANDOM = np.random.default_rng(1)
KERNEL = RANDOM.normal(size=(2, 3, 2, 5))
D = 12
COMPONENTS = np.linalg.qr(RANDOM.normal(size=(D, D)))[0]


def spectrum_of(components, kernel_shape=(2, 3, 2)):
    d = len(components)
    flat, origin = jnp.ones(d), jnp.zeros(d)
    return PatchSpectrum(
        flat, components, origin, 100, kernel_shape, (1, 1), ((0, 0), (0, 0)), True
    )


def test_profile_equals_explicit_sums():
    expected = np.zeros(D)
    for i in range(D):
        for k in range(5):
            overlap = sum(
                KERNEL[row, column, c, k] * COMPONENTS[(row * 3 + column) * 2 + c, i]
                for row in range(2)
                for column in range(3)
                for c in range(2)
            )
            expected[i] += overlap**2 / 5
    assert relative_error(energy_profile(KERNEL, COMPONENTS), np.sqrt(expected)) < 1e-14
    assert (
        relative_error(
            energy_profile(KERNEL, COMPONENTS[:, 3:5]), np.sqrt(expected[3:5])
        )
        < 1e-14
    )


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda kernel: kernel[..., [3, 0, 4, 1, 2]], 1),
        (lambda kernel: kernel * [1, -1, 1, -1, -1], 1),
        (lambda kernel: kernel @ np.linalg.qr(RANDOM.normal(size=(5, 5)))[0], 1),
        (lambda kernel: -2.5 * kernel, 2.5),
        # A mean over filters, not a sum.
        (lambda kernel: np.concatenate([kernel, kernel], axis=-1), 1),
        (lambda kernel: np.pad(kernel, [(0, 0)] * 3 + [(0, 15)]), 0.5),
    ],
)
def test_what_a_profile_depends_on(change, factor):
    profile = energy_profile(KERNEL, COMPONENTS)
    assert (
        relative_error(energy_profile(change(KERNEL), COMPONENTS), factor * profile)
        < 1e-13
    )


def test_leading_axes_are_batches():
    batch = RANDOM.normal(size=(3, 2, *KERNEL.shape))
    profiles = energy_profile(batch, COMPONENTS)
    assert profiles.shape == (3, 2, D)
    assert (
        relative_error(profiles[1, 0], energy_profile(batch[1, 0], COMPONENTS)) < 1e-14
    )
    mapped = jax.jit(jax.vmap(energy_profile, (0, None)))(batch[0], COMPONENTS)
    assert relative_error(mapped, profiles[0]) < 1e-14


@pytest.mark.float32
def test_float32_filters_with_float64_components():
    profile = energy_profile(KERNEL.astype(np.float32), COMPONENTS)
    assert profile.dtype == (
        np.float64 if jax.config.read("jax_enable_x64") else np.float32
    )
    expected = np.sqrt(((COMPONENTS.T @ KERNEL.reshape(D, 5)) ** 2).mean(axis=1))
    assert relative_error(profile, expected) < 1e-6


def test_gradient_is_finite_where_a_profile_is_zero():
    slope = jax.jit(jax.grad(lambda kernel: energy_profile(kernel, COMPONENTS).sum()))
    np.testing.assert_array_equal(slope(0 * KERNEL), 0)
    step = np.zeros_like(KERNEL)
    step[1, 2, 0, 3] = 1e-6
    after, before = (
        energy_profile(KERNEL + sign * step, COMPONENTS).sum() for sign in (1, -1)
    )
    np.testing.assert_allclose(
        slope(KERNEL)[1, 2, 0, 3], (after - before) / 2e-6, rtol=1e-6
    )


def test_filters_have_the_profile_they_were_made_for():
    spectrum = spectrum_of(COMPONENTS)
    profiles = np.abs(RANDOM.normal(size=(4, D)))
    bank = filters_with_profile(profiles, spectrum)
    assert bank.shape == (4, 2, 3, 2, D)
    assert relative_error(energy_profile(bank, COMPONENTS), profiles) < 1e-13
    assert relative_error(filters_with_profile(profiles[2], spectrum), bank[2]) < 1e-14
    mapped = jax.vmap(filters_with_profile, (0, None))(jnp.asarray(profiles), spectrum)
    assert relative_error(mapped, bank) < 1e-14


def test_the_whitening_profile_whitens():
    images = RANDOM.normal(size=(5, 6, 6, 2)).cumsum(axis=1).cumsum(axis=2)
    spectrum = patch_spectrum(images, (2, 3))
    bank = filters_with_profile(whitening_profile(spectrum.variance), spectrum)
    filters = np.asarray(bank).reshape(D, D)
    second = recompose(spectrum.variance, spectrum.components)
    assert relative_error(filters.T @ second @ filters, D * np.eye(D)) < 1e-10


def test_correlation_is_pearsons():
    a, b = np.abs(RANDOM.normal(size=(2, 3, D)))
    correlation = profile_correlation(a, b)
    assert correlation.shape == (3,)
    for n in range(3):
        np.testing.assert_allclose(
            correlation[n], np.corrcoef(a[n], b[n])[0, 1], rtol=1e-12
        )
    np.testing.assert_allclose(
        profile_correlation(a[:, None], b).diagonal(), correlation, rtol=1e-12
    )
    np.testing.assert_allclose(
        profile_correlation(a[0], b)[0], correlation[0], rtol=1e-12
    )
    np.testing.assert_allclose(profile_correlation(a[0], 3 - 2 * a[0]), -1, rtol=1e-12)
    np.testing.assert_allclose(
        profile_correlation(1e-200 * a, 7 + 1e3 * b), correlation, rtol=1e-9
    )
    assert np.abs(profile_correlation(a, a)).max() <= 1


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])
def test_correlation_with_a_constant_is_undefined(constant):
    assert np.isnan(profile_correlation(np.full(3, constant), np.arange(3.0)))


@pytest.mark.parametrize(
    ("message", "function", "arguments"),
    [
        (
            r"kernel must have Flax's axes .* got shape \(2, 3, 2\)",
            energy_profile,
            (KERNEL[..., 0], COMPONENTS),
        ),
        (
            r"kernel must have Flax's axes .*none of them empty",
            energy_profile,
            (KERNEL[..., :0], COMPONENTS),
        ),
        (
            r"components must have shape \(d, p\) .* = 12 .* got \(11, 12\)",
            energy_profile,
            (KERNEL, COMPONENTS[1:]),
        ),
        (
            r"components must have shape \(d, p\) .* got \(12,\)",
            energy_profile,
            (KERNEL, COMPONENTS[0]),
        ),
        (
            r"share a last axis .* \(3,\) and \(4,\)",
            profile_correlation,
            (np.ones(3), np.ones(4)),
        ),
        (
            r"share a last axis of at least 2",
            profile_correlation,
            (np.ones((2, 1)), np.ones((2, 1))),
        ),
        (
            r"profile must end in an axis of d = 12 .* \(5,\)",
            filters_with_profile,
            (np.ones(5), spectrum_of(COMPONENTS)),
        ),
        (
            r"profile must end in an axis of d = 12 .* \(\)",
            filters_with_profile,
            (1.0, spectrum_of(COMPONENTS)),
        ),
    ],
)
def test_bad_shapes(message, function, arguments):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"kernel must be real numbers, got complex128\.", (KERNEL * 1j, COMPONENTS)),
        (r"kernel must be real numbers, got <U", (KERNEL.astype(str), COMPONENTS)),
        (
            (
                r"components must be real numbers, got PatchSpectrum; pass its"
                r" \.components"
            ),
            (KERNEL, "spectrum"),
        ),
    ],
)
def test_what_is_no_number(message, arguments):
    arguments = [
        spectrum_of(COMPONENTS) if isinstance(argument, str) else argument
        for argument in arguments
    ]
    with pytest.raises(TypeError, match=message):
        energy_profile(*arguments)


def test_a_spectrum_of_another_kernel_is_refused():
    smaller = dataclasses.replace(
        spectrum_of(COMPONENTS[:6, :6]), kernel_shape=(1, 3, 2)
    )
    with pytest.raises(ValueError, match="take them from patches of the kernel's size"):
        energy_profile(KERNEL, smaller.components)
