"""The formula of Theorem 4.2 fitted to an energy profile: the time at which they agree
best."""

from dataclasses import dataclass
from typing import Any, get_args

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from theory._checks import (
    check_finite,
    check_positive,
    check_probabilities,
    check_real,
    check_variance,
)
from theory._precision import (
    Array,
    as_floats,
    as_results,
    concrete,
    is_traced,
    namespace,
)
from theory.criteria import (
    OBJECTIVES,
    Criterion,
    formula_values,
    of_all,
    of_candidates,
    standardized,
    weights,
)
from theory.maxima import log_time_range, maxima, search_times

# Times up to 1e16 / variance are told apart.
_SMALLEST = 1e16 / float(np.finfo(np.float64).max)
# Relative; of variances that differ by less, rounding decides where the formula is
# nearly constant.
_DIFFERENT = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProfileFit:
    """The formula at the time at which it fits an energy profile best.

    A young network's profile is just lambda_i, so that a good fit means little unless
    it is clearly better than what the two ends of time reach without anything fitted.

    Attributes:
      correlation: Pearson correlation of the profile and the formula at that time,
        (...): the largest of all times, if that is the criterion.
      time: learning rate times iterations, in units of 1 / variance, (...); 0 or
        infinity where an end fits best.
      profile: the formula at that time, (..., d), times the number that brings it
        closest to the data: in the least squares sense, or that of the largest
        likelihood (no offset, so that its zeros and ratios stay those of the formula).
      correlation_at_zero: what the formula's limit at time 0 reaches, (...): lambda_i.
      correlation_at_infinity: what its limit at infinite time reaches, (...): 1 /
        lambda_i, whitening.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> ends = np.stack([np.sqrt(variance), 1 / np.sqrt(variance)])
      >>> fit = theory.fit_profile(ends, variance)
      >>> print(fit.time, fit.correlation_at_zero.round(2))
      [ 0. inf] [ 1.   -0.68]
    """

    correlation: Array
    time: Array
    profile: Array
    correlation_at_zero: Array
    correlation_at_infinity: Array


def fit_profile(
    profile: ArrayLike,
    variance: ArrayLike,
    *,
    learning_rate: ArrayLike | None = None,
    criterion: Criterion = "correlation",
) -> ProfileFit:
    r"""The time at which the formula of Theorem 4.2 agrees best with an energy profile.

    .. math::

       e_i(\tau) \propto \frac{1 - e^{-\tau \lambda_i^2}}{\lambda_i}, \qquad \tau
         = \eta' t

    This is the limit of small rates; with a learning rate it is :math:`|1 - (1 - \eta'
    \lambda_i^2)^t| / \lambda_i` at real t. Ours (docs/derivations.md, section 11): the
    global maximum of the criterion over all times from 0 to infinity, both limits
    included. Times are placed where the formula's shape changes, and each of the best
    local maxima is then refined to rounding.

    The correlation is the paper's criterion: it says how alike two curves look, is
    governed by the components with the most energy, and often changes little over a
    factor of two in time. For the time itself take the likelihood, under which every
    component counts for as much as it tells: its errors are those of Cramer and Rao's
    bound, with 0.35 to 0.65 times the variance (normal coefficients, 10 or more
    independent filters or outputs).

    Args:
      profile: e, (..., d), not negative, e.g. of `energy_profile`; leading axes are
        fitted one by one.
      variance: lambda_i^2, (d,), in the order of the profile (any), e.g.
        `PatchSpectrum.variance`. Where it is 0 so is the formula, as in
        `iteration_profile`; the profile there counts for the correlation. For the
        likelihood set variances of the size of rounding errors to 0: it takes each
        component as seriously.
      learning_rate: eta', scalar, with eta' lambda_i^2 < 1, in units of 1 / variance.
        By default the limit of small rates, which a rate with eta' lambda_i^2 << 1 does
        not differ from. The limit at time 0 is then -log(1 - eta' lambda_i^2) /
        lambda_i, the formula continued to less than one iteration.
      criterion: "correlation" (Pearson), as in the paper; or "likelihood" of the
        profile if the filters' coefficients on component i are normal with mean 0 and
        the formula's root mean square, as in Theorem 4.2 over random targets, and
        independent of those on other components. It leaves out the components of
        variance 0.

    Returns:
      the fit. Float64 whatever JAX's flag; under tracing in the dtype of the arguments.
      The time has a relative error of machine epsilon over the relative change of the
      formula's shape with log time, hence loses digits towards both ends.

    Raises:
      ValueError: a profile of the wrong length, negative, constant or not finite; a
        variance that is negative, or of fewer than three values that differ, where the
        correlation says nothing of the time; a learning rate that is not positive or
        too large; for the likelihood, no energy where the variance is not 0; an unknown
        criterion. The values are not checked under tracing, where an undefined
        correlation and its time are NaN.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> profile = 3 * (1 - np.exp(-20 * variance)) / np.sqrt(variance)
      >>> fit = theory.fit_profile(profile, variance)
      >>> print(round(float(fit.time), 6), round(float(fit.correlation), 6))
      20.0 1.0

      The correlation does not see an offset, the likelihood does:

      >>> for criterion in ("correlation", "likelihood"):
      ...     fit = theory.fit_profile(profile + 1, variance, criterion=criterion)
      ...     print(criterion, round(float(fit.time), 1))
      correlation 20.0
      likelihood 21.7
    """
    if criterion not in get_args(Criterion):
        raise ValueError(
            f"criterion must be one of {get_args(Criterion)}, got {criterion!r}."
        )
    _check(profile, variance, learning_rate, criterion)
    given = (
        (profile, variance)
        if learning_rate is None
        else (profile, variance, learning_rate)
    )
    if is_traced(given):
        return _fit(criterion, *as_floats(*given))
    return as_results(
        _fit(criterion, *(np.asarray(value, np.float64) for value in given))
    )


def time_interval(times: ArrayLike, confidence: float = 0.95) -> tuple[Array, Array]:
    r"""Confidence interval for the time, from the fits of several seeds.

    .. math::

       \exp\left( \overline{\log \tau} \pm t_{n-1} \, s(\log \tau) / \sqrt n \right)

    Ours: Student's interval for the mean of log time, hence for the geometric mean
    (and, if log times scatter symmetrically, the median) of the times.

    Args:
      times: `ProfileFit.time` of n >= 2 seeds, (..., n), from 0 to infinity.
      confidence: the probability that the interval holds the true value, between 0 and
        1.

    Returns:
      low, high: (...), in units of the times. One time of 0 or infinity leaves the mean
      of log time unknown, and the interval is then (0, infinity).

    Raises:
      ValueError: fewer than two seeds, a time that is negative or NaN, a confidence
        that is not between 0 and 1.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> low, high = theory.time_interval(np.array([8.0, 10.0, 12.5]))
      >>> print(round(float(low), 2), round(float(high), 2))
      5.74 17.41
      >>> print(round(float(np.sqrt(low * high)), 6))  # their geometric mean
      10.0
    """
    check_probabilities("confidence", confidence)
    check_real("times", times)
    shape = np.shape(times)
    if not shape or shape[-1] < 2:
        raise ValueError(
            f"times must have shape (..., n) with n >= 2 seeds, got {shape}; fit more"
            " seeds."
        )
    values = concrete(times)
    if values is not None and not (values >= 0).all():
        raise ValueError(
            f"times must be >= 0 (infinity allowed), got {values.min()}; leave out what"
            " has no fit."
        )
    if is_traced(times):
        return _time_interval(as_floats(times)[0], confidence)
    return as_results(_time_interval(np.asarray(times, np.float64), confidence))


def _check(
    profile: ArrayLike,
    variance: ArrayLike,
    learning_rate: ArrayLike | None,
    criterion: Criterion,
) -> None:
    check_variance(variance, one_axis=True)
    d = np.shape(variance)[0]
    if np.ndim(profile) == 0 or np.shape(profile)[-1] != d:
        raise ValueError(
            f"profile must end in an axis of d = {d} components as variance has, got"
            f" shape {np.shape(profile)}; project on all the components of the same"
            " spectrum."
        )
    known = concrete(variance)
    if known is not None:
        ascending = np.sort(np.asarray(known, np.float64))
        if (np.diff(ascending) > _DIFFERENT * ascending[1:]).sum() < 2:
            raise ValueError(
                "variance must hold at least 3 values that differ by more than"
                f" {_DIFFERENT:g} of themselves, got {ascending[0]} to {ascending[-1]}"
                f" in {d} components; with fewer the formula correlates equally at all"
                " times, so take a spectrum of more components."
            )
        if known.max() < _SMALLEST:
            raise ValueError(
                f"variance of up to {known.max():g} is so small that times, in units of"
                " 1 / variance, overflow; scale the images."
            )
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
        rate = concrete(learning_rate)
        if rate is not None and known is not None and not rate * known.max() < 1:
            raise ValueError(
                f"learning_rate = {rate} times the largest variance {known.max()} must"
                " be below 1, where every component decays without oscillating: give"
                f" less than {1 / known.max()}, or none for the limit of small rates."
            )
    check_finite("profile", profile)
    values = concrete(profile)
    if values is None:
        return
    if (values < 0).any():
        raise ValueError(
            f"profile must be >= 0, smallest entry {values.min()}; give root mean"
            " squares, as of energy_profile."
        )
    values = np.asarray(values, np.float64)
    flat = np.ptp(values, axis=-1) <= d * np.finfo(np.float64).eps * values.max(axis=-1)
    if flat.any():
        raise ValueError(
            f"profile is constant ({values[flat][0, 0]}) in {flat.sum()} of {flat.size}"
            " cases, where correlation is undefined; leave these out, or look whether"
            " the filters have moved."
        )
    if criterion == "likelihood" and known is not None:
        unseen = (values * (np.asarray(known) > 0) == 0).all(axis=-1)
        if unseen.any():
            raise ValueError(
                "profile is 0 on all components whose variance is not 0 in"
                f" {unseen.sum()} of {unseen.size} cases, so that its time has no"
                ' likelihood; leave these out, or take criterion="correlation".'
            )


def _fit(
    criterion: Criterion, profile: Any, variance: Any, learning_rate: Any = None
) -> ProfileFit:
    """Time is in units of 1 / (the largest variance) within, and searched on a
    logarithmic scale."""
    xp = namespace(profile, variance)
    largest = variance.max()
    variance = variance / largest
    seen = variance > 0
    limit = xp.where(seen, 1 / xp.sqrt(xp.where(seen, variance, 1)), 0)
    rates = variance
    # (1 - x)^t = exp(t log(1 - x)): the same formula with other rates.
    if learning_rate is not None:
        step = learning_rate * largest
        rates = -xp.log1p(-step * variance) / step
    objective, data = (
        OBJECTIVES[criterion],
        profile / profile.max(axis=-1, keepdims=True),
    )
    shape, _ = standardized(data)
    compared = shape if criterion == "correlation" else data**2

    def parts(log_time: Any) -> tuple[Any, Any]:
        """The formula's limit, and the exponent of each component, both (..., d)."""
        axes = (None,) * log_time.ndim
        return limit[axes], xp.exp(log_time)[..., None] * rates[axes]

    def derivative(log_time: Any) -> Any:
        """Of the objective with respect to log time, (..., candidates)."""
        return objective(compared, *parts(log_time), of_candidates)[1]

    log_times = search_times(
        lambda times: formula_values(*parts(times)), *log_time_range(rates, seen)
    )
    found = maxima(
        derivative, log_times, *objective(compared, *parts(log_times), of_all)
    )

    ends = xp.stack([rates * limit, limit])
    ends = xp.broadcast_to(ends, (*found.shape[:-1], *ends.shape))
    candidates = xp.concatenate([ends, formula_values(*parts(found))], axis=-2)
    times = xp.concatenate(
        [
            xp.zeros_like(found[..., :1]),
            xp.full_like(found[..., :1], np.inf),
            xp.exp(found),
        ],
        axis=-1,
    )
    # 1 - correlation as a sum of squares keeps its digits where the correlation is
    # nearly 1.
    distance = ((standardized(candidates)[0] - shape[..., None, :]) ** 2).sum(axis=-1)
    correlation = xp.maximum(1 - distance / 2, -1)
    misfit = (
        distance
        if criterion == "correlation"
        else of_candidates(compared, weights(candidates)[1])
    )
    best = misfit.argmin(axis=-1)[..., None]
    fitted = xp.take_along_axis(candidates, best[..., None], axis=-2)[..., 0, :]
    if criterion == "correlation":
        scale = (fitted * profile).sum(axis=-1, keepdims=True) / (fitted**2).sum(
            axis=-1, keepdims=True
        )
    else:
        ratio = xp.where(seen, data / xp.where(seen, fitted, 1), 0)
        mean = (ratio**2).sum(axis=-1, keepdims=True) / seen.sum().astype(data.dtype)
        scale = profile.max(axis=-1, keepdims=True) * xp.sqrt(mean)
    best_correlation = xp.take_along_axis(correlation, best, axis=-1)[..., 0]
    undefined = xp.isnan(best_correlation)
    if criterion == "likelihood":
        # No energy where the formula has any.
        undefined = undefined | (misfit == 0).all(axis=-1)
    time = xp.take_along_axis(times, best, axis=-1)[..., 0] / largest
    return ProfileFit(
        correlation=best_correlation,
        time=xp.where(undefined, np.nan, time),
        profile=scale * fitted,
        correlation_at_zero=correlation[..., 0],
        correlation_at_infinity=correlation[..., 1],
    )


def _time_interval(times: Any, confidence: float) -> tuple[Any, Any]:
    xp = namespace(times)
    known = ((times > 0) & (times < np.inf)).all(axis=-1)
    logs = xp.log(xp.where(known[..., None], times, 1))
    count = times.shape[-1]
    half = float(
        special.stdtrit(count - 1, (1 + confidence) / 2) / np.sqrt(count)
    ) * logs.std(axis=-1, ddof=1)
    mean = logs.mean(axis=-1)
    return xp.where(known, xp.exp(mean - half), 0), xp.where(
        known, xp.exp(mean + half), np.inf
    )
