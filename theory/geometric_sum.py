"""The sum of a geometric series, from which every closed form of the dynamics is
built."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from theory._checks import check_finite, check_iterations
from theory._precision import as_floats, as_steps


def geometric_sum(rate: ArrayLike, iterations: ArrayLike) -> jax.Array:
    r"""What t gradient steps do to a mode that decays by 1 - x in each of them.

    .. math:: \varphi_t(x) = \sum_{s=0}^{t-1} (1 - x)^s = \frac{1 - (1 - x)^t}{x}

    Ours (docs/derivations.md, section 2). It needs no inverse: it is t at x = 0 and 1/x
    at t = infinity. The relative error is below 1e-12 in float64 and 1e-5 in float32
    for 0 <= x < 2. So is that of the derivative with respect to x, which has a rule of
    its own (-t(t-1)/2 at x = 0), except next to its zeros: for odd t it has one between
    1 and 2, where it is small without being relatively exact.

    Args:
      rate: x, any shape; learning rate times curvature, without unit. 0 <= x < 2 is
        where gradient descent converges; other values are computed, not checked.
      iterations: t, a number of steps from 0 to infinity, broadcast against `rate`;
        integers, given as integers or in floating point and then rounded. Not
        differentiated.

    Returns:
      phi_t(x) in the broadcast shape. At x = 0 and t = infinity it is infinite.

    Raises:
      ValueError: a rate that is not finite, negative iterations. Not checked under
        tracing.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> steps = np.array([1, 2, 10, np.inf])
      >>> sums = theory.geometric_sum(np.array([[0.5], [0.0]]), steps)
      >>> print(np.asarray(sums).round(3))  # up to 1 / x; what does not decay adds up
      [[ 1.     1.5    1.998  2.   ]
       [ 1.     2.    10.       inf]]
    """
    check_finite("rate", rate)
    check_iterations(iterations)
    return jax.jit(_geometric_sum)(*_broadcast(rate, iterations))


def decay(rate: ArrayLike, iterations: ArrayLike) -> jax.Array:
    r"""What is left of a mode after t gradient steps, :math:`(1 - x)^t`; arguments as
    `geometric_sum`."""
    return jax.jit(_decay)(*_broadcast(rate, iterations))


def _broadcast(rate: ArrayLike, iterations: ArrayLike) -> list[jax.Array]:
    x, t = as_floats(rate, as_steps(iterations))
    return jnp.broadcast_arrays(x, jnp.round(t))


def geometric_integral(rate: ArrayLike, time: ArrayLike) -> jax.Array:
    r"""What gradient flow does to a mode in time t: :math:`\int_0^t e^{-xs} ds = (1 -
    e^{-xt}) / x`, the limit of `geometric_sum` for small rates.

    Args:
      rate: x >= 0, any shape.
      time: t, real, from 0 to infinity, broadcast against `rate`.

    Returns:
      the integral in the broadcast shape; t at x = 0, 1/x at infinite t. Differentiable
      in both, in x at 0 too.
    """
    check_finite("rate", rate)
    check_iterations(time)
    x, t = as_floats(rate, as_steps(time))
    return jax.jit(_geometric_integral)(*jnp.broadcast_arrays(x, t))


@jax.custom_jvp
@jax.jit
def _geometric_integral(x: jax.Array, t: jax.Array) -> jax.Array:
    still = (x == 0) | (t == 0)
    total = -jnp.expm1(-x * jnp.where(still, 0, t)) / jnp.where(still, 1, x)
    return jnp.where(still, t, total)


@_geometric_integral.defjvp
def _geometric_integral_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The derivatives are exp(-y) in t and, in x, t^2 [exp(-y) (1 + y) - 1] / y^2, y =
    x t."""
    (x, t), (dx, dt) = primals, tangents
    y = jnp.where(x == 0, 0, x * jnp.where(x == 0, 0, t))
    small = y < 0.05  # beyond, the subtraction loses at most a factor of 40
    series = jnp.zeros_like(y)
    for k in range(9, -1, -1):
        series = (-1) ** (k + 1) / (math.factorial(k) * (k + 2)) + (
            jnp.where(small, y, 0) * series
        )
    far = jnp.where(small, 1, x)
    finite = jnp.where(jnp.isinf(y), 0, y)
    rest = jnp.where(jnp.isinf(y), 1, -jnp.expm1(-y) - finite * jnp.exp(-finite))
    slope = jnp.where(small, jnp.where(small, t, 0) ** 2 * series, -rest / far / far)
    return _geometric_integral(x, t), slope * dx + jnp.exp(-y) * dt


@jax.custom_jvp
@jax.jit
def _decay(x: jax.Array, t: jax.Array) -> jax.Array:
    return _sign(x, _odd(t)) * jnp.exp(_log_decay(x, t))


@_decay.defjvp
def _decay_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The derivative is -t (1-x)^(t-1), also at x = 1, where the logarithm is
    infinite."""
    (x, t), (dx, _) = primals, tangents
    still = (t == 0) | jnp.isinf(t)
    before = _sign(x, ~_odd(t)) * jnp.exp(_log_decay(x, jnp.where(still, 0, t - 1)))
    return _decay(x, t), jnp.where(still, 0, -t * before) * dx


def _log_decay(x: jax.Array, t: jax.Array) -> jax.Array:
    """t log|1 - x|, and 0 for t = 0 or x = 0 whatever the other."""
    # Each branch subtracts numbers within a factor of two of one another, which is
    # exact.
    log = jnp.where(
        x < 1, jnp.log1p(-jnp.minimum(x, 1)), jnp.log1p(jnp.maximum(x, 1) - 2)
    )
    idle = (t == 0) | (x == 0)
    return jnp.where(idle, 0, jnp.where(idle, 1, t) * log)


def _odd(t: jax.Array) -> jax.Array:
    """Whether t is odd; every large floating-point number is even, so the parity of t -
    1 is the opposite of t's."""
    return jnp.where(jnp.isinf(t), 0, t % 2) == 1


def _sign(x: jax.Array, odd: jax.Array) -> jax.Array:
    """The sign of (1 - x)^t: negative for x > 1 and odd t."""
    return jnp.where((x > 1) & odd, -1, 1).astype(x.dtype)


def _one_minus_power(sign: jax.Array, log: jax.Array) -> jax.Array:
    """1 - sign * exp(log), without cancellation where the power is near 1."""
    return jnp.where(sign > 0, -jnp.expm1(log), 1 + jnp.exp(log))


@jax.custom_jvp
@jax.jit
def _geometric_sum(x: jax.Array, t: jax.Array) -> jax.Array:
    zero = x == 0
    total = _one_minus_power(_sign(x, _odd(t)), _log_decay(x, t)) / jnp.where(
        zero, 1, x
    )
    # Of no step 0, not the -0 that -expm1(0) is.
    return jnp.where(t == 0, 0, jnp.where(zero, t, total))


@_geometric_sum.defjvp
def _geometric_sum_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, t), (dx, _) = primals, tangents
    return _geometric_sum(x, t), _geometric_sum_derivative(x, t) * dx


def _geometric_sum_derivative(x: jax.Array, t: jax.Array) -> jax.Array:
    r"""phi_t'(x) = -[1 - (1-x)^n (1 + n x)] / x^2 with n = t - 1.

    For x < 1 the power is exp(x^2 G) with G = n h(-x) + n^2 h(n x), h(z) = (log1p(z) -
    z) / z^2: both terms are negative, so nothing cancels, down to x = 0.
    """
    n = jnp.maximum(t - 1, 0)
    below = x < 1
    small_x = jnp.where(below, x, 0)
    finite = jnp.where(jnp.isinf(n), 0, n)
    exponent_over_square = finite * _log1p_remainder(
        -small_x
    ) + finite**2 * _log1p_remainder(finite * small_x)
    exponent = small_x**2 * exponent_over_square
    # There expm1(e)/e is smooth; beyond, dividing by x^2 is safe.
    tiny = exponent > -1e-3
    near = exponent_over_square * _expm1_ratio(jnp.where(tiny, exponent, 0))
    far = jnp.expm1(jnp.where(tiny, -1, exponent)) / jnp.where(tiny, 1, small_x) ** 2

    large_x = jnp.where(below, 1, x)  # x >= 1, the parity of n decides the sign
    log = _log_decay(large_x, finite) + jnp.log1p(finite * large_x)
    above = -_one_minus_power(_sign(large_x, ~_odd(t)), log) / large_x**2

    slope = jnp.where(below, jnp.where(tiny, near, far), above)
    slope = jnp.where(jnp.isinf(t), -1 / x**2, slope)
    return jnp.where(t <= 1, 0, slope)


def _log1p_remainder(z: jax.Array) -> jax.Array:
    """(log1p(z) - z) / z^2 for z > -1; -1/2 at 0."""
    small = jnp.abs(z) < 0.05  # beyond, the subtraction loses at most a factor of 40
    series = jnp.zeros_like(z)
    for k in range(14, 1, -1):
        series = (-1) ** (k + 1) / k + jnp.where(small, z, 0) * series
    safe = jnp.where(small, 1, z)
    return jnp.where(small, series, (jnp.log1p(safe) - safe) / safe / safe)


def _expm1_ratio(z: jax.Array) -> jax.Array:
    """expm1(z) / z for small z <= 0; 1 at 0."""
    zero = z == 0
    return jnp.where(zero, 1, jnp.expm1(z) / jnp.where(zero, 1, z))
