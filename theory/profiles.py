"""Energy profiles of filter banks, and how two of them are compared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory import criteria
from theory._checks import check_finite, check_kernel, check_kind, check_orthonormal
from theory._precision import as_floats, einsum, power_of_two_near, square_root
from theory.moments import PatchSpectrum
from theory.patches import flatten_kernel


def energy_profile(kernel: ArrayLike, components: ArrayLike) -> jax.Array:
    r"""Root mean square projection of a filter bank on each component.

    .. math:: e_i^2 = \frac1K \sum_k (w_k^T u_i)^2

    Paper, Definition 2.2. It depends on the filters only through their Gram matrix, so
    it is unchanged by permuting or orthogonally mixing them.

    Args:
      kernel: filters in Flax order, (..., kh, kw, C, K), leading batch axes allowed.
      components: orthonormal vectors u_i as columns, (d, p) with d = kh*kw*C, e.g.
        `PatchSpectrum.components`.

    Returns:
      e, (..., p), in units of the filters.

    Raises:
      TypeError: anything but real numbers. ValueError: a shape is wrong, d differs, an
        entry is not finite, or components are not orthonormal (to 0.001). Values are
        not checked under tracing.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> spectrum = theory.patch_spectrum(random.normal(size=(10, 6, 6, 1)), 2)
      >>> kernel = random.normal(size=(2, 2, 1, 5))
      >>> profile = theory.energy_profile(kernel, spectrum.components)
      >>> profile.shape
      (4,)

      All components together hold the energy of the filters:

      >>> bool(np.isclose((profile**2).sum(), (kernel**2).sum() / 5))
      True
    """
    check_kernel(kernel)
    check_finite("components", components)
    w, u = as_floats(kernel, components)
    w = flatten_kernel(w)
    if u.ndim != 2 or u.shape[0] != w.shape[-2]:
        raise ValueError(
            f"components must have shape (d, p) with d = kh*kw*C = {w.shape[-2]} for a"
            f" kernel of shape {np.shape(kernel)}, got {u.shape}; take them from"
            " patches of the kernel's size, and bring PyTorch's filters (K, C, kh, kw)"
            " into Flax's order by transpose(2, 3, 1, 0)."
        )
    check_orthonormal("components", components)
    return _energy_profile(w, u)


@jax.jit
def _energy_profile(w: jax.Array, u: jax.Array) -> jax.Array:
    scale = power_of_two_near(jnp.abs(w).max(axis=(-2, -1)))
    projections = einsum("...dk,dp->...pk", w / scale[..., None, None], u)
    return scale[..., None] * square_root(jnp.mean(projections**2, axis=-1))


def profile_correlation(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Pearson correlation of two profiles along their last axis (the paper's measure of
    similarity).

    Args:
      a, b: profiles, (..., d), leading axes broadcast.

    Returns:
      correlation, leading shape, in [-1, 1]; NaN where a profile is constant, since it
      is undefined there.

    Raises:
      ValueError: the last axes differ or have fewer than two entries, or an entry is
        not finite (not checked under tracing).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> profile = np.array([4.0, 3.0, 1.0])
      >>> others = np.stack([10 * profile + 5, -profile])
      >>> correlation = theory.profile_correlation(profile, others)
      >>> print(np.asarray(correlation).round(4))
      [ 1. -1.]
    """
    check_finite("a", a)
    check_finite("b", b)
    a, b = as_floats(a, b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(
            "profiles must share a last axis of at least 2 components, got shapes"
            f" {a.shape} and {b.shape}."
        )
    a, b = (_standardized(profile) for profile in jnp.broadcast_arrays(a, b))
    return jnp.clip(jnp.sum(a * b, axis=-1), -1, 1)


def log_ratio_std(a: ArrayLike, b: ArrayLike) -> jax.Array:
    r"""How far two profiles differ, their scale aside: the standard deviation of
    log(a_i / b_i) over components.

    Ours. Unlike `profile_correlation`, which is governed by the components with the
    most energy, it counts every component alike: 0.1 is a typical difference of 10 %
    from proportionality.

    Args:
      a, b: profiles, (..., d), leading axes broadcast. Components where either is not
        positive are left out.

    Returns:
      standard deviation (with divisor n), leading shape; NaN where fewer than two
      components are positive in both.

    Raises:
      ValueError: the last axes differ, or an entry is not finite (not checked under
        tracing).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> profile = np.array([4.0, 3.0, 1.0, 0.0])
      >>> others = np.stack([10 * profile, profile * [1.1, 0.9, 1.0, 1.0]])
      >>> print(np.asarray(theory.log_ratio_std(profile, others)).round(3))
      [0.    0.082]
    """
    check_finite("a", a)
    check_finite("b", b)
    a, b = as_floats(a, b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"profiles must share a last axis of components, got shapes {a.shape} and"
            f" {b.shape}."
        )
    return criteria.log_ratio_std(*jnp.broadcast_arrays(a, b))


def _standardized(profile: jax.Array) -> jax.Array:
    """Mean removed and scaled to unit norm; scaled by its largest entry first, lest
    squares underflow."""
    # Exactly zero where the profile is constant, unlike with a rounded mean.
    deviation = profile - profile[..., :1]
    deviation = deviation - deviation.mean(axis=-1, keepdims=True)
    deviation = deviation / jnp.abs(deviation).max(axis=-1, keepdims=True)
    return deviation / jnp.linalg.norm(deviation, axis=-1, keepdims=True)


def filters_with_profile(profile: ArrayLike, spectrum: PatchSpectrum) -> jax.Array:
    r"""A bank of d filters, one along each component, whose energy profile is the one
    given.

    .. math:: w_i = \sqrt d\, e_i u_i

    Ours; any orthogonal mixture of these filters has the same profile.

    Args:
      profile: e, (..., d), in units of the filters.
      spectrum: the components, and the kernel's shape.

    Returns:
      kernel, (..., kh, kw, C, d). With `whitening_profile(spectrum.variance)` it
      whitens the patches (up to scale).

    Raises:
      TypeError: no spectrum. ValueError: the profile's length is not d, or it is not
        finite.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 6, 6, 1)).cumsum(axis=1)
      >>> spectrum = theory.patch_spectrum(images, 2)
      >>> whitening = theory.whitening_profile(spectrum.variance)
      >>> kernel = theory.filters_with_profile(whitening, spectrum)
      >>> kernel.shape
      (2, 2, 1, 4)

      Its responses are uncorrelated, and all of one variance, d = 4:

      >>> w = np.asarray(kernel).reshape(4, 4)
      >>> covariance = theory.patch_moments(images, 2).covariance
      >>> np.allclose(w.T @ covariance @ w, 4 * np.eye(4), atol=1e-4)
      True
    """
    check_kind("spectrum", spectrum, PatchSpectrum, "patch_spectrum")
    check_finite("profile", profile)
    check_orthonormal("spectrum.components", spectrum.components)
    e, u = as_floats(profile, spectrum.components)
    if e.ndim == 0 or e.shape[-1] != u.shape[1]:
        raise ValueError(
            f"profile must end in an axis of d = {u.shape[1]} components, got shape"
            f" {e.shape}."
        )
    filters = math.sqrt(u.shape[1]) * einsum("di,...i->...di", u, e)
    return filters.reshape(*e.shape[:-1], *spectrum.kernel_shape, -1)
