"""The formula of Theorem 4.2, or another family of profiles, fitted to an energy
profile: the time at which they agree best."""

from dataclasses import dataclass
from typing import Any, get_args

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from theory._checks import check_finite, check_probabilities, check_real
from theory._precision import (
    Array,
    as_floats,
    as_results,
    concrete,
    is_traced,
    namespace,
)
from theory.courses import Course
from theory.criteria import (
    HEIGHTS,
    OBJECTIVES,
    Criterion,
    log_ratio_std,
    of_all,
    of_candidates,
    standardized,
    weights,
)
from theory.families import ProfileFamily, theorem_family
from theory.maxima import maxima, peaks, search_times


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProfileFit:
    """The formula of Theorem 4.2, or another family of profiles, at the time at which
    it fits an energy profile best.

    A young network's profile is just lambda_i, so that a good fit means little unless
    it is clearly better than what the two ends of time reach without anything fitted.

    Attributes:
      correlation: Pearson correlation of the profile and the formula at that time,
        (...): the largest of all times, if that is the criterion.
      time: learning rate times iterations, in units of 1 / variance, (...); 0 or
        infinity where an end fits best. Of another family, in its unit.
      profile: the formula at that time, (..., d), times the number that brings it
        closest to the data: in the least squares sense, or that of the largest
        likelihood (no offset, so that its zeros and ratios stay those of the formula).
      correlation_at_zero: what the formula's limit at time 0 reaches, (...): lambda_i.
      correlation_at_infinity: what its limit at infinite time reaches, (...): 1 /
        lambda_i, whitening. Of another family, its own limits; NaN where one is
        constant.
      log_ratio_std: standard deviation over components of log(energy profile /
        `profile`), at the same time, where both are positive, (...); see the function
        `log_ratio_std`.

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
    log_ratio_std: Array


def fit_profile(
    profile: ArrayLike,
    variance: ArrayLike | ProfileFamily,
    *,
    learning_rate: ArrayLike | None = None,
    criterion: Criterion = "correlation",
) -> ProfileFit:
    r"""The time at which the formula of Theorem 4.2, or another family of profiles,
    agrees best with an energy profile.

    .. math::

       e_i(\tau) \propto \frac{1 - e^{-\tau \lambda_i^2}}{\lambda_i}, \qquad \tau
         = \eta' t

    This is the limit of small rates; with a learning rate it is :math:`|1 - (1 - \eta'
    \lambda_i^2)^t| / \lambda_i` at real t. Ours (docs/derivations.md, section 11): the
    global maximum of the criterion over all times from 0 to infinity, both limits
    included. Times are placed where the formula's shape changes, and each of the best
    local maxima is then refined to rounding. Instead of the variance it takes any
    `ProfileFamily`: those of `noise_family` and `curvature_family` are searched in the
    same way (section 16); for a function of your own the maximum is global at the
    resolution of the times.

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
        component as seriously. Or the family to fit, of as many components.
      learning_rate: for a variance only: eta', scalar, with eta' lambda_i^2 < 1, in
        units of 1 / variance. By default the limit of small rates, which a rate with
        eta' lambda_i^2 << 1 does not differ from. The limit at time 0 is then -log(1 -
        eta' lambda_i^2) / lambda_i, the formula continued to less than one iteration.
      criterion: "correlation" (Pearson), as in the paper; or "likelihood" of the
        profile if the filters' coefficients on component i are normal with mean 0 and
        the formula's root mean square, as in Theorem 4.2 over random targets, and
        independent of those on other components. It leaves out the components of
        variance 0, or where the family is 0.

    Returns:
      the fit. Float64 whatever JAX's flag; under tracing in the dtype of the arguments.
      The time has a relative error of machine epsilon over the relative change of the
      formula's shape with log time, hence loses digits towards both ends.

    Raises:
      ValueError: a profile of the wrong length, negative, constant or not finite; a
        variance that is negative, or of fewer than three values that differ, where the
        correlation says nothing of the time; a learning rate that is not positive or
        too large, or beside a family; for the likelihood, no energy where the variance
        is not 0, or a family with entries that are 0 at some times only; an unknown
        criterion; a function of your own that gives what is no profile. The values are
        not checked under tracing, where an undefined correlation and its time are NaN.

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
    family = variance
    if not isinstance(family, ProfileFamily):
        family = theorem_family(family, learning_rate)
    elif learning_rate is not None:
        raise ValueError(
            "learning_rate goes with a variance; give it to theorem_family instead."
        )
    _check(profile, family.size)
    leaves, structure = jax.tree.flatten(family)
    if is_traced(profile, leaves) or family.traced:
        traced, *leaves = as_floats(profile, *leaves)
        return _fit(criterion, traced, jax.tree.unflatten(structure, leaves).course())
    known, *leaves = (np.asarray(value, np.float64) for value in (profile, *leaves))
    course = jax.tree.unflatten(structure, leaves).course()
    if criterion == "likelihood":
        _check_energy(known, course.ends[1] > 0)
    return as_results(_fit(criterion, known, course))


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


def _check(profile: ArrayLike, d: int) -> None:
    if np.ndim(profile) == 0 or np.shape(profile)[-1] != d:
        raise ValueError(
            f"profile must end in an axis of d = {d} components as variance, or the"
            f" family, has, got shape {np.shape(profile)}; project on all the"
            " components of the same spectrum."
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


def _check_energy(profile: np.ndarray, present: np.ndarray) -> None:
    """Raise unless profiles have energy on components that the family has."""
    unseen = (profile * present == 0).all(axis=-1)
    if unseen.any():
        raise ValueError(
            "profile is 0 on all components whose variance, or whose part of the"
            f" family, is not 0 in {unseen.sum()} of {unseen.size} cases, so that its"
            ' time has no likelihood; leave these out, or take criterion="correlation".'
        )


def _check_zeros(values: np.ndarray, ends: np.ndarray) -> None:
    """Raise unless a component of a family is 0 always or never."""
    present = np.concatenate([ends, values]) > 0
    changing = (present != present[:1]).any(axis=0)
    if changing.any():
        raise ValueError(
            "for the likelihood each component of a family must be 0 at all times or at"
            f" none, but {changing.sum()} are 0 at some; leave these out, or take"
            ' criterion="correlation".'
        )


def _fit(criterion: Criterion, profile: Any, course: Course) -> ProfileFit:
    """Time is in units of 1 / course.unit within, and searched on a logarithmic
    scale."""
    xp = namespace(profile, course.ends)
    data = profile / profile.max(axis=-1, keepdims=True)
    shape, _ = standardized(data)
    compared = shape if criterion == "correlation" else data**2
    log_times = search_times(course.values, *course.log_range())
    found = _maxima(criterion, compared, course, log_times)
    if course.bounded:
        borders = log_times[xp.array([0, -1])]
        borders = xp.broadcast_to(borders, (*found.shape[:-1], 2))
        found = xp.concatenate([borders, found], axis=-1)

    ends = xp.broadcast_to(course.ends, (*found.shape[:-1], *course.ends.shape))
    candidates = xp.concatenate([ends, course.values(found)], axis=-2)
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
    # A constant limit has no correlation.
    best = xp.where(xp.isnan(misfit), np.inf, misfit).argmin(axis=-1)[..., None]
    fitted = xp.take_along_axis(candidates, best[..., None], axis=-2)[..., 0, :]
    if criterion == "correlation":
        scale = (fitted * profile).sum(axis=-1, keepdims=True) / (fitted**2).sum(
            axis=-1, keepdims=True
        )
    else:
        seen = course.ends[1] > 0
        ratio = xp.where(seen, data / xp.where(seen, fitted, 1), 0)
        mean = (ratio**2).sum(axis=-1, keepdims=True) / seen.sum().astype(data.dtype)
        scale = profile.max(axis=-1, keepdims=True) * xp.sqrt(mean)
    best_misfit = xp.take_along_axis(misfit, best, axis=-1)[..., 0]
    undefined = xp.isnan(best_misfit) | xp.isnan(shape).any(axis=-1)
    if criterion == "likelihood":
        # No energy where the formula has any.
        undefined = undefined | (misfit == 0).all(axis=-1)
    time = xp.take_along_axis(times, best, axis=-1)[..., 0] / course.unit
    return ProfileFit(
        correlation=xp.take_along_axis(correlation, best, axis=-1)[..., 0],
        time=xp.where(undefined, np.nan, time),
        profile=scale * fitted,
        correlation_at_zero=correlation[..., 0],
        correlation_at_infinity=correlation[..., 1],
        log_ratio_std=xp.where(undefined, np.nan, log_ratio_std(data, fitted)),
    )


def _maxima(criterion: Criterion, compared: Any, course: Course, log_times: Any) -> Any:
    """Log times of the largest local maxima of the criterion, (..., candidates)."""
    if course.has_slope:
        objective = OBJECTIVES[criterion]

        def derivative(log_time: Any) -> Any:
            """Of the objective with respect to log time, (..., candidates)."""
            return objective(compared, course, log_time, of_candidates)[1]

        return maxima(
            derivative, log_times, *objective(compared, course, log_times, of_all)
        )
    height, values = HEIGHTS[criterion], course.values(log_times)
    if criterion == "likelihood" and isinstance(values, np.ndarray):
        _check_zeros(values, course.ends)

    def height_of(log_time: Any) -> Any:
        return height(compared, course.values(log_time), of_candidates)

    return peaks(height_of, log_times, height(compared, values, of_all))


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
