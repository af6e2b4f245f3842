"""Gradient flow of a linear CNN whose two layers both learn, where it has a closed
form."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_iterations,
    check_positive,
    check_squares,
)
from theory._precision import (
    Array,
    as_floats,
    float64_outside_traces,
    matmul,
    power_of_two_near,
    square_root,
)
from theory.geometric_sum import geometric_integral
from theory.linear_law import GRADIENT_FACTOR


def two_layer_flow(
    curvature: ArrayLike,
    drive: ArrayLike,
    initial_filter: ArrayLike,
    initial_head: ArrayLike,
    time: ArrayLike,
) -> tuple[Array, Array]:
    r"""One filter w and its weight a in the head, both trained by gradient flow on
    white mean patches, A = alpha I, with one output.

    .. math:: \dot w = 2 a\, (b - \alpha a w), \qquad \dot a = 2 w^T (b - \alpha a w)

    Any start is solved: a^2 - |w|^2 is conserved, with which q = (w, a) obeys a
    Bernoulli equation (docs/derivations.md, section 20, after the matrix Riccati
    equation of Fukumizu 1998). Balanced and along b it is the logistic curve of Saxe,
    McClelland and Ganguli (2014). Two more cases are of this form:

    - K filters that start aligned, W(0) = w c^T and a(0) = a c with |c| = 1: they stay
      so, and move as w and a do.
    - A that is not white, but b an eigenvector of it and w along b.

    Args:
      curvature: alpha >= 0, the eigenvalue of A; scalar.
      drive: b, (d,).
      initial_filter: w(0), (d,).
      initial_head: a(0), scalar, of either sign.
      time: tau = eta t, learning rate times steps, any shape, infinity allowed.

    Returns:
      w, time.shape + (d,), and a, time.shape. A start that leads to the saddle point at
      0 ends there. In float64 whatever JAX's flag, unless an argument is being traced;
      differentiable in every argument.

    Raises:
      ValueError: values that are not finite, or whose squares are too large or small
        for a float; shapes that do not match; a negative curvature or time.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> b, start = np.array([0.3, -0.4]), np.array([0.01, 0.02])
      >>> times = np.array([0, 2, 10, np.inf])
      >>> filters, heads = theory.two_layer_flow(0.5, b, start, 0.01, times)
      >>> filters.shape, heads.shape
      ((4, 2), (4,))

      It ends where the residual vanishes, with the difference of squares of the start:

      >>> np.allclose(0.5 * heads[-1] * filters[-1], b)
      True
      >>> np.allclose(heads**2 - (filters**2).sum(axis=-1), 0.01**2 - 0.0005)
      True
    """
    check_positive("curvature", curvature, or_zero=True)
    for name, value in (("drive", drive), ("initial_filter", initial_filter)):
        check_finite(name, value)
        check_squares(name, value)
        if np.ndim(value) != 1 or np.shape(value) != np.shape(drive):
            raise ValueError(
                "drive and initial_filter must have the same shape (d,), got"
                f" {np.shape(drive)} and {np.shape(initial_filter)}; map over several"
                " with jax.vmap."
            )
    check_finite("initial_head", initial_head)
    check_squares("initial_head", initial_head)
    if np.ndim(initial_head) != 0:
        raise ValueError(
            f"initial_head must be a scalar, got shape {np.shape(initial_head)}; map"
            " over several with jax.vmap."
        )
    check_iterations(time, "time")
    return _flow(curvature, drive, initial_filter, initial_head, time)


@float64_outside_traces
@jax.jit
def _flow(
    curvature: ArrayLike,
    drive: ArrayLike,
    initial_filter: ArrayLike,
    initial_head: ArrayLike,
    time: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Equations of docs/derivations.md, section 20.3, with its symbols."""
    alpha, b, w0, a0, t = as_floats(
        curvature, drive, initial_filter, initial_head, time
    )
    # In units of the weights, and of the root of what moves them: there are fourth
    # powers of either.
    unit = power_of_two_near(jnp.maximum(jnp.abs(w0).max(), jnp.abs(a0)))
    known_alpha, known_b = lax.stop_gradient((alpha, b))
    root = power_of_two_near(
        jnp.maximum(jnp.sqrt(known_alpha) * unit, jnp.sqrt(jnp.abs(known_b).max()))
    )
    alpha, b = alpha * (unit / root) * (unit / root), b / root / root
    w0, a0, t = w0 / unit, a0 / unit, t * root * root
    u = _direction(b, w0)
    beta, w = matmul(u, b), matmul(u, w0)
    across = w0 - u * w
    gain, pull = GRADIENT_FACTOR * alpha, GRADIENT_FACTOR * beta
    lean = gain / 2 * ((a0 - w) * (a0 + w) - matmul(across, across))  # l
    omega = square_root(lean**2 + pull**2)
    to_head, moving = lean >= 0, omega > 0
    size = jnp.where(to_head, lean, -lean)
    top = omega + size
    safe = jnp.where(moving, top, 1)

    # p = (omega + M) (w, a): the larger of its entries, and the other in proportion to
    # it, which keeps a start that leads to the saddle on its way. Near that nothing
    # cancels in w + a, nor between the two terms.
    more = size * (1 + size / jnp.where(moving, omega + pull, 1))  # top - pull
    large = pull * (w + a0) + more * jnp.where(to_head, a0, w)
    other = pull / safe * large
    p_w, p_a = (omega - lean) * w + pull * a0, pull * w + (omega + lean) * a0
    p_w = jnp.where(moving, jnp.where(to_head, other, large), p_w)
    p_a = jnp.where(moving, jnp.where(to_head, large, other), p_a)
    growth = jnp.where(moving, large**2 / safe, w * p_w + a0 * p_a)

    # At infinity exponentials are 0, and where there are none the end is known; t = 0
    # stands for it meanwhile.
    endless = jnp.isinf(t) & ~moving
    t = jnp.where(endless, 0, t)
    at_end, phi = jnp.isinf(t), geometric_integral(2 * omega, t)
    before = jnp.where(at_end, 0, t)
    kept = jnp.where(at_end, 0, jnp.exp(-2 * omega * before))
    lag = jnp.where(to_head, top, pull**2 / safe)  # omega + l
    left = jnp.where(at_end & (lag > 0), 0, jnp.exp(-lag * before))
    spread = jnp.where(to_head, kept, left**2) * geometric_integral(
        2 * size, jnp.where(to_head, before, t)
    )

    n_w, n_a = kept * w + phi * p_w, kept * a0 + phi * p_a
    square = kept + gain * (
        phi * (kept * (w**2 + a0**2) + phi * growth) + matmul(across, across) * spread
    )
    # The last term is zero; its derivative, where b is zero, is not. Rounding in its
    # place would remain of a start that leads to the saddle.
    rest = jnp.where(beta > 0, 0, b - u * beta)
    numerator = (
        jnp.multiply.outer(n_w, u)
        + jnp.multiply.outer(left, across)
        + jnp.multiply.outer(GRADIENT_FACTOR * a0 * phi, rest)
    )
    vanished = endless & (gain * (matmul(w0, w0) + a0**2) > 0)
    filters = _over_root(numerator, square[..., None])
    return (
        unit * jnp.where(vanished[..., None], 0, filters),
        unit * jnp.where(vanished, 0, _over_root(n_a, square)),
    )


def _direction(b: jax.Array, w: jax.Array) -> jax.Array:
    """b / |b|; where b is zero the direction of w, which then is as good as any."""
    return _unit(b, lax.stop_gradient(_unit(w, jnp.zeros_like(w))))


def _unit(vector: jax.Array, otherwise: jax.Array) -> jax.Array:
    length = square_root(matmul(vector, vector))
    known = length > 0
    return jnp.where(known, vector / jnp.where(known, length, 1), otherwise)


def _over_root(numerator: jax.Array, square: jax.Array) -> jax.Array:
    """numerator / sqrt(square), and 0 for 0 / 0."""
    known = square > 0
    ratio = numerator / jnp.sqrt(jnp.where(known, square, 1))
    infinite = jnp.where(numerator == 0, 0, jnp.sign(numerator) * jnp.inf)
    return jnp.where(known, ratio, infinite)
