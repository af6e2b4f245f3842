"""The two criteria by which a profile tells its time, and their derivatives with
respect to log time."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from theory._precision import matmul, namespace

Criterion = Literal["correlation", "likelihood"]

_SERIES = 0.05  # up to here the series of `growth` is exact to rounding


def of_all(data: Any, values: Any) -> Any:
    """Every profile's product with the values at every time: (..., d), (times, d) ->
    (..., times)."""
    return matmul(data, values.T)


def of_candidates(data: Any, values: Any) -> Any:
    """Every profile's product with the values at times of its own: (..., d), (...,
    times, d) -> (..., times)."""
    return (data[..., None, :] * values).sum(axis=-1)


def formula_values(limit: Any, x: Any) -> Any:
    """The formula, (1 - exp(-x_i)) times its limit at infinite time, 1 / lambda_i."""
    return limit * -namespace(x).expm1(-x)


def _correlation(
    data: Any, course: Any, log_time: Any, product: Callable[[Any, Any], Any]
) -> tuple[Any, Any]:
    """Pearson correlation, and its derivative with respect to log time.

    Args:
      data: the profile, standardised, (..., d).
      course: of the family that is fitted (`families.Course`).
      log_time: (times,) or (..., times).
      product: of data and values, `of_all` or `of_candidates`.
    """
    values, slope = course.with_slope(log_time)
    shape, size = standardized(values)
    slope = _centered(slope) / size
    # Towards both ends it is nearly parallel to the shape, so that once leaves rounding
    # errors.
    for _ in range(2):
        slope = slope - (slope * shape).sum(axis=-1, keepdims=True) * shape
    return product(data, shape), product(data, slope)


def _likelihood(
    squares: Any, course: Any, log_time: Any, product: Callable[[Any, Any], Any]
) -> tuple[Any, Any]:
    """Log-likelihood at the best scale, per coefficient and up to a constant; of the
    profile's squares, up to a factor.

    The rest is as of `_correlation`.
    """
    values, growing = course.with_growth(log_time)
    share, precision = weights(values)
    growing = growing - (share * growing).sum(axis=-1, keepdims=True)
    misfit = product(squares, precision)
    return (
        -namespace(misfit).log(misfit) / 2,
        product(squares, precision * growing) / misfit,
    )


def _correlation_alone(data: Any, values: Any, product: Any) -> Any:
    return product(data, standardized(values)[0])


def _likelihood_alone(squares: Any, values: Any, product: Any) -> Any:
    return -namespace(squares).log(product(squares, weights(values)[1])) / 2


def weights(formula: Any) -> tuple[Any, Any]:
    """Of the components, whose formula is 0 left out, in means over them; and these
    over the square of the formula divided by its geometric mean."""
    xp, seen = namespace(formula), formula > 0
    share = seen.astype(formula.dtype) / seen.sum(axis=-1, keepdims=True).astype(
        formula.dtype
    )
    formula = xp.where(seen, formula, 1)
    return (
        share,
        share
        * (xp.exp((share * xp.log(formula)).sum(axis=-1, keepdims=True)) / formula)
        ** 2,
    )


def growth(x: Any) -> Any:
    """The derivative of log(1 - exp(-x)) with respect to log x, x / (exp(x) - 1); minus
    1 where all are nearly 1."""
    xp = namespace(x)
    small, large = xp.minimum(x, _SERIES), xp.maximum(x, _SERIES)
    series = small * (
        small * (1 / 12 - small**2 * (1 / 720 - small**2 / 30_240)) - 1 / 2
    )
    far = large * xp.exp(-large) / -xp.expm1(-large)
    early = x.max(axis=-1, keepdims=True) < 1
    return xp.where(
        early,
        xp.where(x > _SERIES, far - 1, series),
        xp.where(x > _SERIES, far, 1 + series),
    )


OBJECTIVES = {"correlation": _correlation, "likelihood": _likelihood}
# Without derivatives, from the values at these times.
HEIGHTS = {"correlation": _correlation_alone, "likelihood": _likelihood_alone}


def log_ratio_std(a: Any, b: Any) -> Any:
    """Standard deviation of log(a / b) over the last axis where both are positive; NaN
    where these are fewer than two."""
    xp = namespace(a, b)
    both = (a > 0) & (b > 0)
    count = both.sum(axis=-1, keepdims=True).astype(a.dtype)
    several = count > 1
    count = xp.where(several, count, 1)
    ratio = xp.log(xp.where(both, a, 1)) - xp.log(xp.where(both, b, 1))
    mean = ratio.sum(axis=-1, keepdims=True) / count
    square = xp.where(both, (ratio - mean) ** 2, 0).sum(axis=-1, keepdims=True)
    variance = (square / count)[..., 0]
    # The derivative at equal profiles is taken as 0.
    root = xp.sqrt(xp.where(variance > 0, variance, 1))
    root = xp.where(variance > 0, root, 0)
    return xp.where(several[..., 0], root, xp.nan)


def _centered(values: Any) -> Any:
    # As their mean, but NumPy is several times faster at it for few values.
    return values - values.sum(axis=-1, keepdims=True) / values.shape[-1]


def standardized(values: Any) -> tuple[Any, Any]:
    """Mean removed and scaled to unit norm, and the norm that it had."""
    centered = _centered(values)
    norm = namespace(values).sqrt((centered**2).sum(axis=-1, keepdims=True))
    with np.errstate(invalid="ignore"):  # constant values have no shape: NaN
        return centered / norm, norm
