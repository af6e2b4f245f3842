"""What an optimiser makes of one mode of a quadratic loss: gradient descent with
momentum, weight decay and a schedule, or gradient flow."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory import affine_steps
from theory._checks import check_finite, check_iterations, check_positive
from theory._precision import (
    Array,
    as_floats,
    concrete,
    float64_outside_traces,
    with_dtype,
)
from theory.geometric_sum import decay, geometric_integral, geometric_sum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Optimizer:
    """How a step follows from the gradient, but for the learning rate; a pytree.

    Attributes:
      momentum: beta, (); None without.
      weight_decay: mu, (); None without.
      boundaries: the steps at which a piecewise constant learning rate changes, (S -
        1,); None where it is constant, or given for every step.
      nesterov: Nesterov's momentum.
      decoupled: weight decay beside the momentum, not in it.
    """

    momentum: Array | None = None
    weight_decay: Array | None = None
    boundaries: Array | None = None
    nesterov: bool = field(default=False, metadata={"static": True})
    decoupled: bool = field(default=False, metadata={"static": True})

    @property
    def is_plain(self) -> bool:
        """Whether it is gradient descent and nothing else."""
        return (
            self.momentum is None
            and self.weight_decay is None
            and self.boundaries is None
        )

    def effective_curvature(self, curvature: Any) -> Any:
        """h' such that a mode of that curvature is stable for eta h' < 2 (ours,
        docs/derivations.md, section 19)."""
        beta = 0 if self.momentum is None else self.momentum
        decays = 0 if self.weight_decay is None else self.weight_decay
        stretch = (1 + 2 * beta) if self.nesterov else 1
        if self.decoupled:
            return curvature * stretch / (1 + beta) + decays
        return (curvature + decays) * stretch / (1 + beta)


_OF_STEPS = (
    "continuous=True is the limit of small steps, which has one learning rate and no"
    " momentum; with momentum beta it is that of the rate learning_rate / (1 - beta)."
)


class Response(NamedTuple):
    """What t steps make of a mode u with the gradient c u - d: kept u(0) + gained d."""

    kept: jax.Array
    moved: jax.Array  # kept - 1, without cancellation
    gained: jax.Array
    decayed: jax.Array  # moved + c gained, without cancellation; 0 without decay


def given_optimizer(
    learning_rate: Any,
    momentum: ArrayLike,
    nesterov: bool,
    weight_decay: ArrayLike,
    decoupled: bool,
    continuous: bool,
) -> tuple[Any, Optimizer]:
    """The learning rate or rates, and the optimizer, of checked arguments."""
    rates, boundaries = _schedule(learning_rate)
    check_positive("momentum", momentum, or_zero=True)
    check_positive("weight_decay", weight_decay, or_zero=True)
    beta, mu = concrete(momentum), concrete(weight_decay)
    if beta is not None and beta >= 1:
        raise ValueError(f"momentum must be in [0, 1), got {beta}.")
    if nesterov and beta is not None and beta == 0:
        raise ValueError("nesterov=True needs a momentum above 0, e.g. momentum=0.9.")
    if decoupled and mu is not None and mu == 0:
        raise ValueError("decoupled=True needs a weight_decay above 0.")
    if continuous and (np.ndim(rates) or beta is None or beta > 0):
        raise ValueError(_OF_STEPS)
    optimizer = Optimizer(
        momentum=None if beta is not None and beta == 0 else with_dtype(momentum),
        weight_decay=None if mu is not None and mu == 0 else with_dtype(weight_decay),
        boundaries=boundaries,
        nesterov=bool(nesterov),
        decoupled=bool(decoupled),
    )
    return rates, optimizer


@float64_outside_traces
def with_optimizer(
    dynamics: Any, learning_rate: ArrayLike, optimizer: Optimizer
) -> Any:
    """Dynamics of one step size with the given ones, in its dtype."""
    eta, _ = as_floats(learning_rate, dynamics.learning_rate)
    cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, eta.dtype), optimizer)
    return replace(dynamics, learning_rate=eta, optimizer=cast)


def _schedule(learning_rate: Any) -> tuple[Any, Any]:
    """The rate, (); or rates, and the boundaries between them or None."""
    pair = isinstance(learning_rate, tuple) and any(np.ndim(x) for x in learning_rate)
    if not pair:
        rates = with_dtype(learning_rate)
        if np.ndim(rates) == 0:
            check_positive("learning_rate", rates)
        else:
            _check_rates(rates)
        return rates, None
    if len(learning_rate) != 2:
        raise ValueError(
            "learning_rate must be a number, the rates of all steps, or a pair"
            f" (boundaries, rates); got a tuple of {len(learning_rate)}."
        )
    boundaries, rates = map(with_dtype, learning_rate)
    check_finite("boundaries", boundaries)
    _check_rates(rates)
    if np.ndim(boundaries) != 1 or np.shape(rates)[0] != np.shape(boundaries)[0] + 1:
        raise ValueError(
            "learning_rate = (boundaries, rates) needs one rate more than boundaries,"
            f" got {np.shape(boundaries)} and {np.shape(rates)}."
        )
    known, last = concrete(boundaries), concrete(rates)
    if known is not None and not (
        (np.diff(known, prepend=0) > 0).all() and (known == np.round(known)).all()
    ):
        raise ValueError(
            "boundaries must be whole numbers of steps, above 0 and increasing, got"
            f" {known.tolist()}."
        )
    if last is not None and not last[-1] > 0:
        raise ValueError(f"the last of the rates must be > 0, got {last[-1]}.")
    return rates, boundaries


def _check_rates(rates: Any) -> None:
    check_finite("learning_rate", rates)
    if np.ndim(rates) != 1 or np.shape(rates)[0] == 0:
        raise ValueError(
            "learning_rate must be a number, the rates of all steps (T,), or a pair"
            f" (boundaries, rates); got shape {np.shape(rates)}."
        )
    known = concrete(rates)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"learning_rate must be >= 0, got {known.min()}.")


def check_times(learning_rate: Any, optimizer: Optimizer, t: ArrayLike) -> None:
    """Raise if concrete steps are negative, or beyond a schedule that has a rate for
    every step."""
    check_iterations(t)
    known, length = concrete(t), np.size(learning_rate)
    every = np.ndim(learning_rate) > 0 and optimizer.boundaries is None
    if every and known is not None and (known > length).any():
        raise ValueError(
            f"t = {known.max()} is beyond the schedule, which has the rates of {length}"
            " steps; give those of more, or a pair (boundaries, rates), whose last rate"
            " holds for ever."
        )


def last_rate(learning_rate: Any) -> Any:
    """The learning rate of the last step that has one."""
    return learning_rate[-1] if np.ndim(learning_rate) else learning_rate


def largest_constant_rate(learning_rate: Any, optimizer: Optimizer) -> Any:
    """The largest rate that holds for long; None where every step has its own."""
    if np.ndim(learning_rate) == 0:
        return learning_rate
    known = concrete(learning_rate)
    return None if optimizer.boundaries is None or known is None else known.max()


def responses(
    learning_rate: Array,
    optimizer: Optimizer,
    curvature: jax.Array,
    t: jax.Array,
    *,
    continuous: bool = False,
) -> Response:
    """What t steps make of modes of that curvature.

    A mode that has neither curvature nor decay is moved by its drive for ever. That
    matters in float32, where small curvatures drown in rounding before their drive
    does. At t = infinity it counts as not moved, since its limit cannot be told.

    Args:
      learning_rate: (), or (S,).
      curvature: h >= 0, any shape.
      t: steps, from 0 to infinity, any shape; rounded unless continuous.

    Returns:
      arrays of the shape t.shape + curvature.shape.
    """
    h, t, eta = as_floats(curvature, t, learning_rate)
    beta, mu, boundaries = (
        None if value is None else as_floats(value, h)[0].astype(h.dtype)
        for value in (optimizer.momentum, optimizer.weight_decay, optimizer.boundaries)
    )
    times = t.reshape(*t.shape, *(1,) * h.ndim)
    if beta is None and eta.ndim == 0:
        x = eta * (h if mu is None else h + mu)
        x, times = jnp.broadcast_arrays(x.reshape((1,) * t.ndim + x.shape), times)
        ends = jnp.isinf(times)
        finite = jnp.where((x == 0) & ends, 0, times)
        if continuous:
            sums = geometric_integral(x, finite)
            # Infinite times stand apart: 0 times infinity is no derivative.
            kept = jnp.exp(-x * jnp.where(ends, 0, times))
            kept = jnp.where(ends & (x > 0), 0, kept)
        else:
            sums, kept = geometric_sum(x, finite), decay(x, times)
        gained = eta * sums
        return Response(kept, -x * sums, gained, -(0 if mu is None else mu) * gained)
    if continuous:  # of dynamics whose field was replaced
        raise ValueError(_OF_STEPS)
    steps = affine_steps.of_optimizer(
        h, beta, mu, optimizer.nesterov, optimizer.decoupled
    )
    whole = jnp.where(jnp.isinf(t), 0, jnp.round(t))
    if boundaries is None and eta.ndim == 1:
        total = affine_steps.each(steps, eta, whole)
    else:
        total = affine_steps.piecewise(
            steps,
            jnp.atleast_1d(eta),
            jnp.zeros(0, h.dtype) if boundaries is None else boundaries,
            whole,
        )
    # A mode rests where its gradient and its decay balance. Once it has decayed, what
    # it has gained is told by its distance from there, without the rounding of the sum.
    decays, memory = (jnp.zeros((), h.dtype) if v is None else v for v in (mu, beta))
    beside = decays if optimizer.decoupled else 0 * decays  # the momentum at rest
    share = 1 - memory if optimizer.decoupled else 1  # of the decay that acts there
    rest = (h + share * decays).reshape((1,) * t.ndim + h.shape)
    inverse = jnp.where(rest > 0, 1 / jnp.where(rest > 0, rest, 1), 0)
    approached = inverse * (beside * total.power[0][1] - total.departure[0][0])
    summed = affine_steps.is_large(total.departure) | (rest <= 0)
    ends = jnp.isinf(times)
    gone = ends & (rest > 0)
    gained = jnp.where(ends, inverse, jnp.where(summed, total.shift[0], approached))
    return Response(
        jnp.where(gone, 0, jnp.where(ends, 1, total.power[0][0])),
        jnp.where(gone, -1, jnp.where(ends, 0, total.departure[0][0])),
        gained,
        beside * jnp.where(ends, 0, total.power[0][1]) - share * decays * gained,
    )
