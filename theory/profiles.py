"""Energy profiles of filter banks, and how two of them are compared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import check_kernel, check_real
from theory._precision import as_floats, einsum, square_root
from theory.moments import PatchSpectrum
from theory.patches import flatten_kernel


def energy_profile(kernel: ArrayLike, components: ArrayLike) -> jax.Array:
    r"""Root mean square projection of a filter bank on each component.

    .. math:: e_i^2 = \frac1K \sum_k (w_k^T u_i)^2

    Paper, Definition 2.2. It depends on the filters only through their Gram matrix, so
    it is unchanged by permuting or orthogonally mixing them.

    Args:
      kernel: filters in Flax order, (..., kh, kw, C, K), leading batch axes allowed.
      components: vectors u_i as columns, (d, p) with d = kh*kw*C, e.g.
        `PatchSpectrum.components`.

    Returns:
      e, (..., p), in units of the filters.

    Raises:
      TypeError: anything but real numbers. ValueError: a shape is wrong, or d differs.
    """
    check_kernel(kernel)
    check_real("components", components)
    w, u = as_floats(kernel, components)
    w = flatten_kernel(w)
    if u.ndim != 2 or u.shape[0] != w.shape[-2]:
        raise ValueError(
            f"components must have shape (d, p) with d = kh*kw*C = {w.shape[-2]} for a"
            f" kernel of shape {np.shape(kernel)}, got {u.shape}; take them from"
            " patches of the kernel's size, and bring PyTorch's filters (K, C, kh, kw)"
            " into Flax's order by transpose(2, 3, 1, 0)."
        )
    return _energy_profile(w, u)


@jax.jit
def _energy_profile(w: jax.Array, u: jax.Array) -> jax.Array:
    projections = einsum("...dk,dp->...pk", w, u)
    return square_root(jnp.mean(projections**2, axis=-1))


def profile_correlation(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Pearson correlation of two profiles along their last axis (the paper's measure of
    similarity).

    Args:
      a, b: profiles, (..., d), leading axes broadcast.

    Returns:
      correlation, leading shape, in [-1, 1]; NaN where a profile is constant, since it
      is undefined there.

    Raises:
      ValueError: the last axes differ or have fewer than two entries.
    """
    a, b = as_floats(a, b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(
            "profiles must share a last axis of at least 2 components, got shapes"
            f" {a.shape} and {b.shape}."
        )
    a, b = (_standardized(profile) for profile in jnp.broadcast_arrays(a, b))
    return jnp.clip(jnp.sum(a * b, axis=-1), -1, 1)


def _standardized(profile: jax.Array) -> jax.Array:
    """Mean removed and scaled to unit norm; scaled by its largest entry first, lest
    squares underflow."""
    # Exactly zero where the profile is constant, unlike with a rounded mean.
    deviation = profile - profile[..., :1]
    deviation = deviation - deviation.mean(axis=-1, keepdims=True)
    deviation = deviation / jnp.abs(deviation).max(axis=-1, keepdims=True)
    return deviation / jnp.linalg.norm(deviation, axis=-1, keepdims=True)


def filters_with_profile(profile: ArrayLike, spectrum: PatchSpectrum) -> jax.Array:
    """A bank of d filters, one along each component, whose energy profile is the one
    given.

    Args:
      profile: e, (..., d), in units of the filters.
      spectrum: the components, and the kernel's shape.

    Returns:
      kernel, (..., kh, kw, C, d). With `whitening_profile(spectrum.variance)` it
      whitens the patches (up to scale).

    Raises:
      ValueError: the profile's length is not d.
    """
    e, u = as_floats(profile, spectrum.components)
    if e.ndim == 0 or e.shape[-1] != u.shape[1]:
        raise ValueError(
            f"profile must end in an axis of d = {u.shape[1]} components, got shape"
            f" {e.shape}."
        )
    filters = math.sqrt(u.shape[1]) * einsum("di,...i->...di", u, e)
    return filters.reshape(*e.shape[:-1], *spectrum.kernel_shape, -1)
