"""Many steps of an optimiser with momentum on one mode, as powers and products of
affine maps.

A mode and its momentum (u, m) go through the same affine map in every step with the
same learning rate. Its t-th power is found by repeated squaring. Two forms of the
matrix are carried along: the power Q, and the departure D = Q - 1. D keeps the digits
of modes that have hardly moved, Q those of modes that have nearly decayed (ours,
docs/derivations.md, section 19).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Rows of a 2 x 2 matrix, of arrays: XLA makes one loop of their products.
Matrix = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

_LEVELS = 62  # of squaring; more steps than 2^62 count as 2^62


class Affine(NamedTuple):
    """(u, m) -> power (u, m) + shift d."""

    power: Matrix
    departure: Matrix  # power - 1
    shift: tuple[jax.Array, jax.Array]


Step = Callable[[jax.Array], Affine]  # of a learning rate that broadcasts


def of_optimizer(
    curvature: jax.Array,
    momentum: jax.Array | None,
    weight_decay: jax.Array | None,
    nesterov: bool,
    decoupled: bool,
) -> Step:
    """One step on modes of that curvature, as a function of its learning rate."""
    zero = jnp.zeros((), curvature.dtype)
    beta = zero if momentum is None else momentum
    mu = zero if weight_decay is None else weight_decay
    # The gradient that the momentum sees is c u - d.
    c, beside = (curvature, mu) if decoupled else (curvature + mu, zero)
    # What a step makes of the gradient itself, and of the momentum before it.
    of_gradient, of_momentum = (1 + beta, beta**2) if nesterov else (1 + zero, beta)

    def step(eta: jax.Array) -> Affine:
        shape = jnp.broadcast_shapes(eta.shape, c.shape)
        h = c.reshape((1,) * (len(shape) - c.ndim) + c.shape)
        departure = (
            (-eta * (of_gradient * h + beside), -eta * of_momentum),
            (h, beta - 1),
        )
        departure, shift = jax.tree.map(
            lambda entry: jnp.broadcast_to(entry, shape),
            (departure, (eta * of_gradient, -1 + zero)),
        )
        return Affine(_plus_one(departure), departure, shift)

    return step


def piecewise(
    step: Step, rates: jax.Array, boundaries: jax.Array, t: jax.Array
) -> Affine:
    """The first t steps, each of the rate between its boundaries.

    Args:
      rates: (S,). boundaries: (S - 1,). t: finite, whole, any shape.

    Returns:
      the map, entries of the shape t.shape + modes.
    """
    if rates.shape[0] == 1:
        return _power(step(rates[0]), t)
    starts = jnp.concatenate([jnp.zeros(1, t.dtype), boundaries])
    ends = jnp.concatenate([boundaries, jnp.full(1, jnp.inf, t.dtype)])
    counts = jax.vmap(lambda start, end: jnp.clip(t, start, end) - start)(starts, ends)
    pieces = jax.vmap(lambda rate, count: _power(step(rate), count))(rates, counts)

    def follow(before: Affine, piece: Affine) -> tuple[Affine, None]:
        return compose(piece, before), None

    start = _identity(pieces.shift[0].shape[1:], rates.dtype)
    return lax.scan(follow, start, pieces)[0]


def each(step: Step, rates: jax.Array, t: jax.Array) -> Affine:
    """The first t of the steps that have a rate each.

    Prefixes of whole blocks of steps first, then what is left of each t: memory for
    about the square root of the number of steps, not for all.

    Args:
      rates: (T,). t: whole, any shape, at most T.
    """
    modes = jax.eval_shape(step, rates[0]).shift[0].shape
    length = max(math.isqrt(rates.shape[0]), 1)
    blocks = -(-rates.shape[0] // length)
    padding = blocks * length - rates.shape[0]
    table = jnp.pad(rates, (0, padding)).reshape(blocks, length)

    def run(start: Affine, rates: jax.Array, count: jax.Array) -> Affine:
        """The first `count` steps of rows of rates (..., length), after a start."""

        def body(total: Affine, column: tuple[jax.Array, jax.Array]) -> tuple:
            index, eta = column
            after = compose(step(_for_modes(eta, modes)), total)
            going = _for_modes(index < count, modes)
            return jax.tree.map(
                lambda new, old: jnp.where(going, new, old), after, total
            ), None

        columns = (jnp.arange(length), jnp.moveaxis(rates, -1, 0))
        return lax.scan(body, start, columns)[0]

    whole = run(
        _identity((blocks, *modes), rates.dtype), table, jnp.full(blocks, length)
    )

    def accumulate(before: Affine, block: Affine) -> tuple[Affine, Affine]:
        return compose(block, before), before

    # Before each block; one more, as t may be the end of the last.
    last, prefixes = lax.scan(accumulate, _identity(modes, rates.dtype), whole)
    prefixes = jax.tree.map(
        lambda all_but_last, end: jnp.concatenate([all_but_last, end[None]]),
        prefixes,
        last,
    )
    steps = jnp.clip(t, 0, rates.shape[0]).astype(int)
    block = steps // length
    start = jax.tree.map(lambda entry: entry[block], prefixes)
    padded = jnp.concatenate([table, jnp.zeros((1, length), table.dtype)])
    return run(start, padded[block], steps - block * length)


def compose(later: Affine, earlier: Affine) -> Affine:
    """The one after the other."""
    product = _product(later.departure, earlier.departure)
    departure = jax.tree.map(
        lambda a, b, ab: a + b + ab, later.departure, earlier.departure, product
    )
    large = is_large(departure)
    power = jax.tree.map(
        lambda near, exact: jnp.where(large, near, exact),
        _plus_one(departure),
        _product(later.power, earlier.power),
    )
    (a, b), (c, d) = later.departure
    u, m = earlier.shift
    shift = (
        u + later.shift[0] + (a * u + b * m),
        m + later.shift[1] + (c * u + d * m),
    )
    return Affine(power, departure, shift)


def is_large(departure: Matrix) -> jax.Array:
    """Where the map is far from decayed, whatever the units of the momentum."""
    (a, b), (c, d) = _plus_one(departure)
    return jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(d)) ** 2, jnp.abs(b * c)) > 0.25


def _power(step: Affine, count: jax.Array) -> Affine:
    """Of a map (modes) the powers (count.shape + modes)."""
    modes = step.shift[0].shape
    step = jax.tree.map(lambda entry: entry.reshape((1,) * count.ndim + modes), step)
    count = jnp.minimum(count, 2.0**_LEVELS)
    largest = jnp.max(count, initial=0)

    def body(carry: tuple, level: jax.Array) -> tuple:
        power, rest, total = carry
        odd = _for_modes(rest % 2 == 1, modes)
        total = jax.tree.map(
            lambda new, old: jnp.where(odd, new, old), compose(power, total), total
        )
        # No squares that are not needed: those of an unstable mode would overflow.
        needed = 2.0 ** (level + 1) <= largest
        square = jax.tree.map(
            lambda new, old: jnp.where(needed, new, old), compose(power, power), power
        )
        return (square, jnp.floor(rest / 2), total), None

    start = (step, count, _identity((*count.shape, *modes), step.shift[0].dtype))
    levels = jnp.arange(_LEVELS + 1, dtype=count.dtype)
    return lax.scan(body, start, levels)[0][2]


def _for_modes(values: jax.Array, modes: tuple[int, ...]) -> jax.Array:
    """With an axis for each of those of the modes."""
    return values.reshape(*values.shape, *(1,) * len(modes))


def _identity(shape: tuple[int, ...], dtype: jnp.dtype) -> Affine:
    zero, one = jnp.zeros(shape, dtype), jnp.ones(shape, dtype)
    return Affine(
        ((one, zero), (zero, one)), ((zero, zero), (zero, zero)), (zero, zero)
    )


def _plus_one(departure: Matrix) -> Matrix:
    (a, b), (c, d) = departure
    return ((1 + a, b), (c, 1 + d))


def _product(one: Matrix, other: Matrix) -> Matrix:
    return tuple(
        tuple(row[0] * other[0][j] + row[1] * other[1][j] for j in (0, 1))
        for row in one
    )  # type: ignore[return-value]
