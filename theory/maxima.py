"""All maxima of a function of log time: where to look for them, and how to refine
them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from theory._precision import namespace
from theory.criteria import standardized

# Half as many times still found every maximum that a grid of 150,000 has, to rounding,
# for profiles with several equal maxima and for variances that differ by one part in a
# thousand or by twelve orders of magnitude.
_TIMES = 256  # at which the criterion is looked at
_PASSES = 3  # that move these times to where the formula's shape changes
_MAXIMA = 4  # local ones that are refined
_REFINEMENTS = 8
_GOLDEN = (5**0.5 - 1) / 2
_SECTIONS = 40  # to 4e-9 of the bracket; flat within the root of machine epsilon


def log_time_range(rates: Any, seen: Any) -> tuple[Any, Any]:
    """Where the formula differs from its two limits by sqrt(eps), and correlations at a
    maximum hence by eps."""
    xp = namespace(rates)
    small = np.sqrt(np.finfo(rates.dtype).eps)
    slowest = xp.where(seen, rates, np.inf).min()
    return xp.log(small / rates.max()), xp.log(-np.log(small) / slowest)


def search_times(formula: Callable[[Any], Any], first: Any, last: Any) -> Any:
    """Log times from first to last, half of them evenly spaced and half evenly along
    the curve of the formula's shape.

    No correlation can change faster than the shape does. Between neighbours of an even
    spacing the shape may turn around (if all variances are nearly equal): each pass
    moves times to where it does.
    """
    xp = namespace(first)
    even = xp.linspace(0, 1, _TIMES, dtype=first.dtype)

    def moved(log_times: Any) -> Any:
        shapes, _ = standardized(formula(log_times))
        turn = xp.sqrt(((shapes[1:] - shapes[:-1]) ** 2).sum(axis=-1))
        turn = xp.where(xp.isnan(turn), 0, turn)  # next to times where it is constant
        share = turn / turn.sum() + (log_times[1:] - log_times[:-1]) / (last - first)
        covered = xp.concatenate([xp.zeros_like(even[:1]), xp.cumsum(share)])
        return xp.interp(even, covered / covered[-1], log_times)

    return _repeated(xp, moved, _PASSES, first + (last - first) * even)


def maxima(
    derivative: Callable[[Any], Any], log_times: Any, objective: Any, slope: Any
) -> Any:
    """Log times of the largest local maxima of the objective, (..., candidates), by
    Ridders' method.

    Where there are fewer maxima, the others are any times.

    Args:
      derivative: of the objective with respect to log time.
      log_times: (times,), ascending.
      objective, slope: the objective and its derivative at these times, (..., times).
    """
    xp = namespace(log_times, objective)
    maximum_within = (slope[..., :-1] > 0) & (slope[..., 1:] <= 0)
    height = xp.where(
        maximum_within, xp.maximum(objective[..., :-1], objective[..., 1:]), -np.inf
    )
    interval = xp.argpartition(height, -_MAXIMA, axis=-1)[..., -_MAXIMA:]
    low, high = log_times[interval], log_times[interval + 1]
    at_low, at_high = (
        xp.take_along_axis(slope, interval + shift, axis=-1) for shift in (0, 1)
    )

    # A time that does not move any more stays, so that it is the same in any company.
    still = 4 * xp.finfo(log_times.dtype).eps
    settled = xp.take_along_axis(height, interval, axis=-1) == -np.inf

    def refined(bracket: Any) -> Any:
        low, high, at_low, at_high, last, settled = bracket
        middle = (low + high) / 2
        at_middle = derivative(middle)
        square = at_middle**2 - at_low * at_high
        root = xp.sqrt(xp.where(square > 0, square, 1))
        new = xp.clip(middle + (middle - low) * at_middle / root, low, high)
        for time, value in ((middle, at_middle), (new, derivative(new))):
            rises = value > 0
            low, high = xp.where(rises, time, low), xp.where(rises, high, time)
            at_low, at_high = (
                xp.where(rises, value, at_low),
                xp.where(rises, at_high, value),
            )
        new = xp.where(settled, last, new)
        settled = settled | (abs(new - last) <= still * abs(new))
        return low, high, at_low, at_high, new, settled

    start = low, high, at_low, at_high, low, settled
    return _repeated(xp, refined, _REFINEMENTS, start, lambda bracket: bracket[-1])[-2]


def peaks(height: Callable[[Any], Any], log_times: Any, heights: Any) -> Any:
    """Log times of the largest local maxima, (..., candidates), without derivatives: by
    golden sections between the neighbours of the highest times, and these themselves.

    Args:
      height: at log times, (..., candidates) -> (..., candidates).
      log_times: (times,), ascending.
      heights: at these times, (..., times).
    """
    xp = namespace(log_times, heights)
    heights = xp.where(xp.isnan(heights), -np.inf, heights)
    below = xp.full_like(heights[..., :1], -np.inf)
    padded = xp.concatenate([below, heights, below], axis=-1)
    peak = (heights >= padded[..., :-2]) & (heights >= padded[..., 2:])
    highest = xp.argpartition(xp.where(peak, heights, -np.inf), -_MAXIMA, axis=-1)
    best = highest[..., -_MAXIMA:]
    low = log_times[xp.maximum(best - 1, 0)]
    high = log_times[xp.minimum(best + 1, len(log_times) - 1)]

    def narrowed(bracket: Any) -> Any:
        low, high = bracket
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        falls = height(left) >= height(right)
        return xp.where(falls, low, left), xp.where(falls, right, high)

    low, high = _repeated(xp, narrowed, _SECTIONS, (low, high))
    return xp.concatenate([(low + high) / 2, log_times[best]], axis=-1)


def _repeated(
    xp: Any,
    function: Callable[[Any], Any],
    count: int,
    state: Any,
    settled: Callable[[Any], Any] | None = None,
) -> Any:
    """The function applied so many times; as a loop that JAX compiles once. Without
    JAX it ends where all is settled, from where on it changes nothing."""
    if xp is not np:
        return lax.fori_loop(0, count, lambda _, state: function(state), state)
    for _ in range(count):
        state = function(state)
        if settled is not None and settled(state).all():
            break
    return state
