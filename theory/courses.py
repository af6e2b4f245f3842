"""Families of profiles as functions of the logarithm of time, for the fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory._precision import float64_now, matmul, namespace
from theory.criteria import formula_values, growth
from theory.maxima import log_time_range


class Course:
    """Profiles at logarithms of time.

    Attributes:
      unit: times within are in units of 1 / unit.
      ends: the limits at time 0 and infinity, (2, d).
      rates, seen: of the modes, (modes,), and which of them count.
      bounded: whether the first and last of the times looked at are candidates.
      has_slope: whether there are derivatives.
    """

    unit: Any
    ends: Any
    rates: Any
    seen: Any
    bounded = True
    has_slope = True

    def log_range(self) -> tuple[Any, Any]:
        """Logarithms of the first and last time that is looked at."""
        return log_time_range(self.rates, self.seen)

    def values(self, log_time: Any) -> Any:
        """(..., d)."""
        raise NotImplementedError

    def with_slope(self, log_time: Any) -> tuple[Any, Any]:
        """And their derivative with respect to log time, up to a multiple of them."""
        raise NotImplementedError

    def with_growth(self, log_time: Any) -> tuple[Any, Any]:
        """And the derivative of their logarithm, up to a number for all."""
        raise NotImplementedError


class TheoremCourse(Course):
    """(1 - exp(-x_i)) / lambda_i."""

    bounded = False

    def __init__(self, variance: Any, learning_rate: Any) -> None:
        xp = namespace(variance)
        self.unit = variance.max()
        variance = variance / self.unit
        self.seen = variance > 0
        self.limit = xp.where(
            self.seen, 1 / xp.sqrt(xp.where(self.seen, variance, 1)), 0
        )
        self.rates = variance
        # (1 - x)^t = exp(t log(1 - x)): the same formula with other rates.
        if learning_rate is not None:
            step = learning_rate * self.unit
            self.rates = -xp.log1p(-step * variance) / step
        self.ends = xp.stack([self.rates * self.limit, self.limit])

    def _parts(self, log_time: Any) -> tuple[Any, Any]:
        """The formula's limit, and the exponent of each component, both (..., d)."""
        xp, axes = namespace(log_time), (None,) * log_time.ndim
        return self.limit[axes], xp.exp(log_time)[..., None] * self.rates[axes]

    def values(self, log_time: Any) -> Any:
        return formula_values(*self._parts(log_time))

    def with_slope(self, log_time: Any) -> tuple[Any, Any]:
        limit, x = self._parts(log_time)
        return formula_values(limit, x), limit * x * namespace(x).exp(-x)

    def with_growth(self, log_time: Any) -> tuple[Any, Any]:
        limit, x = self._parts(log_time)
        return formula_values(limit, x), growth(x)


class MixtureCourse(Course):
    def __init__(self, weights: Any, rates: Any, power: int) -> None:
        xp = namespace(weights, rates)
        self.unit = rates.max()
        self.rates, self.power = rates / self.unit, power
        self.weights = weights / weights.max()
        self.seen = (self.rates > 0) & (self.weights > 0).any(axis=0)
        early = matmul(self.weights, self.rates**power)
        self.ends = xp.sqrt(xp.stack([early, self.weights.sum(axis=-1)]))

    def values(self, log_time: Any) -> Any:
        return self._energies(log_time)[0]

    def with_slope(self, log_time: Any) -> tuple[Any, Any]:
        values, growing = self.with_growth(log_time)
        return values, values * growing

    def with_growth(self, log_time: Any) -> tuple[Any, Any]:
        values, x, risen = self._energies(log_time)
        xp, present = namespace(x), values > 0
        growing = matmul(risen * (self.power / 2 * growth(x)), self.weights.T)
        return values, growing / xp.where(present, values, 1) ** 2

    def _energies(self, log_time: Any) -> tuple[Any, Any, Any]:
        """The values, and the exponent and energy of each mode, (..., modes)."""
        xp, axes = namespace(log_time), (None,) * log_time.ndim
        x = xp.exp(log_time)[..., None] * self.rates[axes]
        risen = (-xp.expm1(-x)) ** self.power
        return xp.sqrt(matmul(risen, self.weights.T)), x, risen


class OwnCourse(Course):
    """Without derivatives; each profile is divided by its largest entry."""

    unit = 1.0
    has_slope = False

    def __init__(self, times: Any, ends: Any, function: Callable[[Any], Any]) -> None:
        self.times, self.function = times, function
        self.ends = ends / ends.max(axis=-1, keepdims=True)

    def log_range(self) -> tuple[Any, Any]:
        first, last = namespace(self.times).log(self.times)
        return first, last

    def values(self, log_time: Any) -> Any:
        times = namespace(log_time).exp(log_time)
        if isinstance(times, jax.Array):
            values: Any = jnp.asarray(self.function(times), times.dtype)
        else:
            with float64_now():  # also what the function computes with JAX
                values = np.asarray(self.function(times), np.float64)
        if values.shape != (*times.shape, self.ends.shape[-1]):
            raise ValueError(
                "the family's function must give profiles of shape times.shape + (d,) ="
                f" {(*times.shape, self.ends.shape[-1])}, got {values.shape}."
            )
        if isinstance(values, np.ndarray):
            check_values("the family's profile", values, times)
        return values / values.max(axis=-1, keepdims=True)


def check_values(name: str, values: np.ndarray, times: Any = None) -> None:
    """Raise unless profiles (..., d) are finite, not negative and not 0 throughout."""
    bad = ~(np.isfinite(values) & (values >= 0)) | (values == 0).all(-1, keepdims=True)
    if not bad.any():
        return
    where = "" if times is None else f" at time {times[bad.any(axis=-1)].min():.6g}"
    raise ValueError(
        f"{name} must be finite, not negative and not 0 in all components, got"
        f" {values[bad].min()}{where}."
    )
