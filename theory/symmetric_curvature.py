"""Curvature of a filter in closed form, of patches that are symmetric about 0: for one
filter, and in the mean over random ones."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import check_finite, check_kernel, check_variance
from theory._precision import (
    Array,
    as_floats,
    concrete,
    einsum,
    float64_outside_traces,
    power_of_two_near,
)
from theory.patches import flatten_kernel

# The trapezoidal rule in log s (docs/derivations.md, section 12.3): what is left out at
# either end is exp(-41) of the integral, hardly the rounding of one.
_NODES = 2048
_CUTOFF = 41.0


@float64_outside_traces
def symmetric_filter_curvature(covariance: ArrayLike, filters: ArrayLike) -> Array:
    r"""`filter_curvature` of patches that are symmetric about 0, with batch norm and
    ReLU and without a pool.

    .. math::

       M_k = \frac{1}{2 \sigma_k^2} \left( \Sigma - \frac{\Sigma w_k w_k^T
         \Sigma}{\sigma_k^2} \right), \qquad \sigma_k^2 = w_k^T \Sigma w_k

    Ours (docs/derivations.md, section 12.3); exact for epsilon = 0 if p and -p are
    equally likely, whatever else their distribution.

    Args:
      covariance: Sigma of the patches, whose mean is 0, (d, d).
      filters: w_k in Flax order, (..., kh, kw, C, K), d = kh*kw*C.

    Returns:
      M_k, (..., K, d, d); in float64 under the same rule as `patch_spectrum`.

    Raises:
      ValueError: a covariance that is no symmetric matrix of the filters' size, entries
        that are not finite, or a filter to which all patches are alike (values are not
        checked under tracing).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> half = random.normal(size=(20, 4, 4, 1))
      >>> images = np.concatenate([half, -half])  # symmetric exactly
      >>> filters = random.normal(size=(2, 2, 1, 3))
      >>> moments = theory.patch_moments(images, 2)
      >>> found = theory.symmetric_filter_curvature(moments.covariance, filters)
      >>> summed = theory.filter_curvature(images, filters, padding="VALID", epsilon=0)
      >>> np.allclose(found, summed)
      True
    """
    check_kernel(filters, "filters")
    check_finite("covariance", covariance)
    second, w = as_floats(covariance, filters)
    w = flatten_kernel(w)
    d = w.shape[-2]
    if second.shape != (d, d):
        raise ValueError(
            f"covariance must have shape (d, d) = {(d, d)} as filters of shape"
            f" {np.shape(filters)} have d = {d} entries, got {second.shape}."
        )
    _check_symmetric(second)
    # The patches have no unit, and the filters have it back at last.
    second = second / power_of_two_near(jnp.abs(second).max())
    unit = power_of_two_near(jnp.abs(w).max(axis=-2))
    w = w / unit[..., None, :]
    passed = einsum("de,...ek->...kd", second, w)
    variance = einsum("...kd,...dk->...k", passed, w)
    _check_responses(w, second, variance)
    variance = variance[..., None, None]
    removed = passed[..., :, None] * passed[..., None, :] / variance
    unit = unit[..., None, None]
    left = jnp.broadcast_to(second, removed.shape) - removed
    return left / (2 * variance) / unit / unit


@float64_outside_traces
def mean_filter_curvature(variance: ArrayLike) -> Array:
    r"""The mean of `symmetric_filter_curvature` over random filters w ~ N(0, I), by its
    eigenvalues; its eigenvectors are those of the patches' covariance.

    .. math::

       \frac{\lambda_i^2}{2} \int_0^\infty D(s)\, \frac{1 + s \lambda_i^2}{1 + 2 s
         \lambda_i^2}\, ds, \qquad D(s) = \prod_j (1 + 2 s \lambda_j^2)^{-1/2}

    Ours (docs/derivations.md, section 12.3). A common factor of all variances does not
    matter; of filters whose entries have variance v it is 1/v of this.

    Args:
      variance: lambda_i^2 of the patches, (..., d), in any order, at least three of
        them > 0. With two the mean does not exist: filters near 0 are too frequent.

    Returns:
      the eigenvalues, (..., d), 0 where lambda_i^2 = 0; to 1e-13 of each in float64,
      for variances that span up to a hundred orders of magnitude. In float64 under the
      same rule as `patch_spectrum`.

    Raises:
      ValueError: fewer than three variances > 0, or values that are negative or not
        finite. Under tracing values are not checked, and the result is not finite.

    Examples:
      >>> import theory

      Of d equal variances it is (1 - 1/d) / (2 (d - 2)):

      >>> print(theory.mean_filter_curvature([7.0, 7.0, 7.0, 7.0]).round(6))
      [0.1875 0.1875 0.1875 0.1875]

      Of unequal ones it grows with the variance, less than in proportion:

      >>> print(theory.mean_filter_curvature([100.0, 10.0, 1.0, 0.0]).round(3))
      [2.008 0.238 0.029 0.   ]
    """
    check_variance(variance)
    (v,) = as_floats(variance)
    if v.ndim == 0 or v.shape[-1] < 3:
        raise ValueError(
            f"variance must have shape (..., d) with d >= 3, got {v.shape}: with fewer"
            " the mean over random filters does not exist."
        )
    largest = v.max(axis=-1, keepdims=True)
    v = v / jnp.where(largest > 0, largest, 1)
    v = v / v.sum(axis=-1, keepdims=True)
    third = jnp.sort(v, axis=-1)[..., -3]
    smallest = concrete(third)
    if smallest is not None and not (smallest > 0).all():
        raise ValueError(
            "variance must have at least three entries > 0: with fewer the mean over"
            " random filters does not exist."
        )
    return _eigenvalues(v, lax.stop_gradient(third))


@jax.jit
def _eigenvalues(v: jax.Array, third: jax.Array) -> jax.Array:
    """The integral over log s, for variances of sum 1.

    Args:
      v: (..., d).
      third: the third largest of them, (...,).
    """
    start = jnp.full(third.shape, -_CUTOFF, v.dtype)
    end = 2 * _CUTOFF - jnp.log(third)
    nodes = jnp.linspace(start, end, _NODES, axis=-1)
    step = (end - start) / (_NODES - 1)
    products = jnp.exp(nodes)[..., None] * v[..., None, :]  # s lambda_i^2
    logarithm = nodes - jnp.log1p(2 * products).sum(axis=-1) / 2  # of s D(s)
    # (1 + x) / (1 + 2 x), which infinity must not reach.
    share = 1 / (2 - 1 / (1 + products))
    total = einsum("...s,...sd->...d", jnp.exp(logarithm), share)
    return v / 2 * step[..., None] * total


def _check_symmetric(second: jax.Array) -> None:
    values = concrete(second)
    if values is None:
        return
    error = np.abs(values - values.T).max()
    if error > 1e-6 * np.abs(values).max():
        raise ValueError(
            f"covariance must be symmetric, but differs from its transpose by up to"
            f" {error:.3g}."
        )


def _check_responses(w: jax.Array, second: jax.Array, variance: jax.Array) -> None:
    """Raise ValueError if all patches are alike, up to rounding, to a concrete
    filter."""
    values = concrete(variance)
    if values is None:
        return
    size = jnp.abs(w)
    rounding = einsum("...dk,de,...ek->...k", size, jnp.abs(second), size)
    alike = values <= w.shape[-2] * np.finfo(float).eps * np.asarray(rounding)
    if alike.any():
        raise ValueError(
            f"filters {np.unique(np.nonzero(alike)[-1]).tolist()} respond alike to all"
            " patches, so that batch norm divides by 0; leave them out."
        )
