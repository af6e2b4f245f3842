"""Quantiles of a weighted sum of noncentral chi-square variables: the law of an energy
profile.

The distribution function is the inverse Laplace transform

    F(x) = (1 / 2 pi i) int exp(f(s)) ds,
    f(s) = s x - log s - sum_j [ n_j/2 log(1 + 2 v_j s) + m_j^2 s / (1 + 2 v_j s) ],

taken along a hyperbola through the saddle point of f on the positive real axis, matched
there to the path of steepest descent to second order (docs/derivations.md, section
4.3). All singularities lie at s <= 0, so the trapezoidal rule converges exponentially,
for one degree of freedom as for nearly normal sums.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import check_finite, check_probabilities, check_real
from theory._precision import as_floats, concrete

_NODES = 48  # on the upper half of the contour; the lower is its mirror image
_CUTOFF = 37.0  # the integrand is followed until it has fallen by exp(-37), about 1e-16
# Largest |Re| / |Im| of the asymptotes: below 1 the integrand cannot grow along them.
_SLOPE = 2 / 3
_NEWTON_STEPS = 40  # 6 to 12 suffice, except next to a term that is nearly constant
_BISECTIONS = 64


class _Terms(NamedTuple):
    """sum_j of v_j times a chi-square with n_j degrees of freedom and noncentrality
    m_j^2 / v_j; all (..., terms)."""

    variances: jax.Array
    degrees: jax.Array
    squares: jax.Array  # m_j^2


def quadratic_form_quantile(
    q: ArrayLike, *, variances: ArrayLike, means: ArrayLike, degrees: ArrayLike
) -> jax.Array:
    r"""Quantiles of :math:`X = \sum_j \| m_j + \sqrt{v_j} Z_j \|^2`, Z_j standard
    normal with n_j entries.

    Ours (docs/derivations.md, section 4.3).

    Args:
      q: probabilities in (0, 1), any shape.
      variances: v_j >= 0, (..., terms).
      means: |m_j|, (..., terms).
      degrees: n_j >= 0, (terms,) or (..., terms); integers, given in floating point.

    Returns:
      x with P(X <= x) = q, in the shape of q broadcast against the leading axes of the
      terms. The probability is met to about 1e-13 in float64. Differentiable in every
      argument but the degrees.

    Raises:
      ValueError: a probability outside (0, 1), negative variances or degrees, means
        that are not finite, terms whose sum is not, or differing numbers of terms.
        Values are not checked under tracing.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> q = np.array([0.5, 0.95])
      >>> standard = {"variances": np.ones(1), "means": np.zeros(1)}

      The square of one standard normal variable, then the sum of two such squares,
      which is exponential of mean 2:

      >>> x = theory.quadratic_form_quantile(q, **standard, degrees=np.array([1.0]))
      >>> print(np.sqrt(np.asarray(x)).round(3))
      [0.674 1.96 ]
      >>> x = theory.quadratic_form_quantile(q, **standard, degrees=np.array([2.0]))
      >>> print(np.asarray(x).round(3), (-2 * np.log(1 - q)).round(3))
      [1.386 5.991] [1.386 5.991]
    """
    check_probabilities("q", q)
    check_finite("means", means)
    for name, value in (("variances", variances), ("degrees", degrees)):
        check_real(name, value)
        values = concrete(value)
        if values is not None and not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(
                f"{name} must be finite and >= 0, smallest entry {values.min()}."
            )
    q, v, m, n = as_floats(q, variances, means, degrees)
    if (
        len({array.shape[-1:] for array in (v, m, n)}) > 1
        or v.ndim == 0
        or v.shape[-1] == 0
    ):
        raise ValueError(
            "variances, means and degrees must end in the same axis of terms, not"
            f" empty, got shapes {v.shape}, {m.shape} and {n.shape}."
        )
    shape = jnp.broadcast_shapes(q.shape, v.shape[:-1], m.shape[:-1], n.shape[:-1])
    v, m, n = (
        jnp.broadcast_to(array, (*shape, array.shape[-1])) for array in (v, m, n)
    )
    q = jnp.broadcast_to(q, shape)
    random = (v > 0) & (n > 0)
    constant = jnp.sum(jnp.where(random, 0, m**2), axis=-1)
    degenerate = ~random.any(axis=-1)
    # A sum without a random term is replaced by a chi-square, whose quantile is then
    # discarded.
    v = jnp.where(random, v, jnp.where(degenerate, 1, 0)[..., None])
    n = jnp.where(random, n, jnp.where(degenerate, 1, 0)[..., None])
    squares = jnp.where(random, m**2, 0)
    scale = jnp.sum(n * v + squares, axis=-1)
    check_finite("the sum of degrees * variances + means^2", scale)
    check_finite("the sum of means^2", constant)
    terms = _Terms(v / scale[..., None], n, squares / scale[..., None])  # of mean 1
    return constant + jnp.where(degenerate, 0, scale * _quantile(q, terms))


@jax.jit
def quantiles_in_turn(
    q: jax.Array, variances: jax.Array, means: jax.Array
) -> jax.Array:
    """Quantiles of sums of squares at many times, one time after the other, since the
    memory for all at once would be large.

    Args:
      variances, means: of one Gaussian variable a term, (times, ..., terms).

    Returns:
      q.shape + (times, ...).
    """
    columns = q.reshape(*q.shape, *(1,) * (means.ndim - 2))

    def at_time(form: tuple[jax.Array, jax.Array]) -> jax.Array:
        v, m = form
        return quadratic_form_quantile(
            columns, variances=v, means=m, degrees=jnp.ones_like(v)
        )

    return jnp.moveaxis(lax.map(at_time, (variances, means)), 0, q.ndim)


@jax.custom_jvp
@jax.jit
def _quantile(q: jax.Array, terms: _Terms) -> jax.Array:
    """x with P(X <= x) = q by bisection of log x, between bounds that hold for every
    such sum of mean 1."""
    v, n, squares = terms
    largest = v.max(axis=-1)
    spread = jnp.sum(n * v**2 + 2 * v * squares, axis=-1)
    tail = -jnp.log1p(-q)
    # Below: X exceeds its largest term, and a one-sided Gaussian bound. Above: Laurent
    # and Massart (2000), Lemma 1.
    lower = jnp.maximum(
        largest * q**2 * (jnp.pi / 2), 1 - 2 * jnp.sqrt(-spread * jnp.log(q))
    )
    upper = 1 + 2 * jnp.sqrt(spread * tail) + 2 * largest * tail

    def halve(
        _: int, bounds: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        below = distribution(jnp.exp(middle), terms) < q
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = lax.fori_loop(0, _BISECTIONS, halve, (jnp.log(lower), jnp.log(upper)))
    return jnp.exp((low + high) / 2)


@_quantile.defjvp
def _quantile_jvp(
    primals: tuple[jax.Array, _Terms], tangents: tuple[jax.Array, _Terms]
) -> tuple[jax.Array, jax.Array]:
    """Bisection has no derivative; that of the implicit function is dx = (dq - dP) /
    density."""
    (q, terms), (dq, dterms) = primals, tangents
    x = _quantile(q, terms)
    _, density = jax.jvp(lambda x: distribution(x, terms), (x,), (jnp.ones_like(x),))
    _, shift = jax.jvp(lambda terms: distribution(x, terms), (terms,), (dterms,))
    return x, (dq - shift) / density


def distribution(x: jax.Array, terms: _Terms) -> jax.Array:
    """P(X <= x) for x > 0 of the shape of the terms without their last axis."""
    # Now x = 1.
    v, n, squares = (
        terms.variances / x[..., None],
        terms.degrees,
        terms.squares / x[..., None],
    )
    # The integral is the same along every path.
    saddle = lax.stop_gradient(_saddle(v, n, squares))
    shrink = 1 / (1 + 2 * v * saddle[..., None])
    slope = 2 * v * shrink  # of log(1 + 2 v s) at the saddle
    pole = 1 / saddle  # of log s
    # F', zero up to rounding.
    residual = 1 - pole - jnp.sum(n * v * shrink + squares * shrink**2, axis=-1)
    second = pole**2 + jnp.sum(
        n / 2 * slope**2 + 2 * squares * shrink**2 * slope, axis=-1
    )
    # -f'''.
    third = 2 * pole**3 + jnp.sum(
        n * slope**3 + 6 * squares * shrink**2 * slope**2, axis=-1
    )
    # f at the saddle, as a sum of terms that do not cancel.
    s = saddle[..., None]
    height = 1 + saddle * residual - jnp.log(saddle)
    height += jnp.sum(
        n / 2 * (slope * s - jnp.log1p(2 * v * s))
        - 2 * squares * v * (shrink * s) ** 2,
        axis=-1,
    )

    # The hyperbola s(y) - s0 = i width sinh(w y)/w - bend (cosh(w y) - 1)/w^2.
    second, third = lax.stop_gradient((second, third))
    width = 1 / jnp.sqrt(second)
    bend = third / (3 * second) * width**2
    w = jnp.maximum(bend / width / _SLOPE, 1e-3)
    end = jnp.arccosh(1 + 2 * _CUTOFF * w**2) / w
    y = jnp.linspace(0, end, _NODES + 1, axis=-1)
    width, bend, w = width[..., None], bend[..., None], w[..., None]
    away = lax.complex(
        -2 * bend * (jnp.sinh(w * y / 2) / w) ** 2, width * jnp.sinh(w * y) / w
    )
    # Ds/dy / i.
    tangent = lax.complex(width * jnp.cosh(w * y), bend * jnp.sinh(w * y) / w)

    pole, residual, height = (
        _complex(array)[..., None] for array in (pole, residual, height)
    )
    slope, n, squares = (
        _complex(array)[..., None, :] for array in (slope, n, squares * shrink**2)
    )
    relative = slope * away[..., None]
    exponent = (residual + pole) * away - _log1p(pole * away)
    exponent += jnp.sum(n / 2 * (relative - _log1p(relative)), axis=-1)
    exponent += jnp.sum(squares * relative * away[..., None] / (1 + relative), axis=-1)
    values = (jnp.exp(exponent + height) * tangent).real
    total = values.sum(axis=-1) - values[..., 0] / 2
    return jnp.clip(total * end / _NODES / jnp.pi, 0, 1)


def _saddle(v: jax.Array, n: jax.Array, squares: jax.Array) -> jax.Array:
    """The s > 0 where f' = 0 at x = 1, by Newton's method on a concave increasing
    function, from its left."""

    def improve(_: int, s: jax.Array) -> jax.Array:
        shrink = 1 / (1 + 2 * v * s[..., None])
        value = 1 / s + jnp.sum(n * v * shrink + squares * shrink**2, axis=-1)
        slope = 1 / s**2 + jnp.sum(
            2 * n * (v * shrink) ** 2 + 4 * squares * v * shrink**3, axis=-1
        )
        return s + 2 * value / slope * (jnp.sqrt(value) - 1)

    return lax.fori_loop(0, _NEWTON_STEPS, improve, jnp.ones_like(v[..., 0]))


def _complex(x: jax.Array) -> jax.Array:
    return lax.complex(x, jnp.zeros_like(x))


def _log1p(z: jax.Array) -> jax.Array:
    """log(1 + z) of complex z, accurate near 0."""
    a, b = z.real, z.imag
    return lax.complex(jnp.log1p(a * (2 + a) + b**2) / 2, jnp.arctan2(b, 1 + a))
