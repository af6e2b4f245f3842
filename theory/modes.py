"""What gradient descent on any quadratic loss does to one mode: shared by
`gradient_descent` and `quadratic_descent`."""

from typing import Any

import jax
import jax.numpy as jnp

from theory.geometric_sum import geometric_integral, geometric_sum


def eigenmodes(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues of symmetric matrices (..., n, n), descending, (..., n), and their
    eigenvectors as columns."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values[..., ::-1], vectors[..., ::-1]


def mode_sums(x: jax.Array, t: jax.Array, *, continuous: bool = False) -> jax.Array:
    """phi_t(x), or its continuous form, of rates broadcast against steps.

    A mode without curvature has phi_t(0) = t. That matters in float32, where small
    curvatures drown in rounding before their drive does. At t = infinity it has 0
    instead, since its limit cannot be told.
    """
    sums = geometric_integral if continuous else geometric_sum
    return sums(x, jnp.where(x == 0, jnp.where(jnp.isinf(t), 0, t), t))


def is_noise(drive: jax.Array, curvature: jax.Array, size: Any, eps: Any) -> jax.Array:
    """Where a drive is rounding: without curvature, and below the rounding of numbers
    of that size. It must not accumulate over the steps."""
    return (curvature == 0) & (jnp.abs(drive) <= 4 * eps * size)
