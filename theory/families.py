"""Families of profiles over time, which `fit_profile` fits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_components,
    check_finite,
    check_positive,
    check_variance,
)
from theory._precision import (
    Array,
    as_floats,
    concrete,
    float64_now,
    float64_outside_traces,
    is_traced,
    matmul,
    namespace,
    with_dtype,
)
from theory.courses import (
    Course,
    MixtureCourse,
    OwnCourse,
    TheoremCourse,
    check_values,
)
from theory.criteria import standardized
from theory.quadratic_descent import quadratic_descent
from theory.quadratic_dynamics import QuadraticDynamics, mode_shares

# Times up to 1e16 / variance are told apart.
_SMALLEST = 1e16 / float(np.finfo(np.float64).max)
# Relative; of variances that differ by less, rounding decides where the formula is
# nearly constant.
_DIFFERENT = 1e-6
# Shapes whose correlation is 1 up to this are one.
_SAME = 1e-12


class ProfileFamily:
    """A profile at every time from 0 to infinity, up to its scale: what `fit_profile`
    fits.

    Made by `theorem_family`, `noise_family`, `curvature_family` or, from a function of
    your own, `profile_family`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> made = np.sqrt(1 - np.exp(-2 * 20 * variance))
      >>> for family in (theory.theorem_family, theory.noise_family):
      ...     fit = theory.fit_profile(made, family(variance))
      ...     print(family.__name__, round(float(fit.correlation), 3))
      theorem_family 0.956
      noise_family 1.0
    """

    traced = False  # beside its arrays

    @property
    def size(self) -> int:
        """d, the number of components."""
        raise NotImplementedError

    def course(self) -> Course:
        """The family as the fit needs it, in a unit of time of its own."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Theorem(ProfileFamily):
    variance: Any
    learning_rate: Any

    @property
    def size(self) -> int:
        return int(np.shape(self.variance)[0])

    def course(self) -> Course:
        return TheoremCourse(self.variance, self.learning_rate)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Noise(ProfileFamily):
    variance: Any

    @property
    def size(self) -> int:
        return int(np.shape(self.variance)[0])

    def course(self) -> Course:
        xp, variance = namespace(self.variance), self.variance
        own = xp.eye(len(variance), dtype=variance.dtype)
        weights = xp.where((variance > 0)[:, None], own, 0)
        return MixtureCourse(weights, 2 * variance, power=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Mixture(ProfileFamily):
    """e_i^2 = sum_m W_im (1 - exp(-r_m t))^power, with W (d, modes) >= 0."""

    weights: Any
    rates: Any
    power: int = field(metadata={"static": True})

    @property
    def size(self) -> int:
        return int(self.weights.shape[0])

    def course(self) -> Course:
        return MixtureCourse(self.weights, self.rates, self.power)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Own(ProfileFamily):
    times: Any
    ends: Any
    function: Callable[[Any], Any] = field(metadata={"static": True})
    traced: bool = field(default=False, metadata={"static": True})

    @property
    def size(self) -> int:
        return int(self.ends.shape[-1])

    def course(self) -> Course:
        return OwnCourse(self.times, self.ends, self.function)


def theorem_family(
    variance: ArrayLike, learning_rate: ArrayLike | None = None
) -> ProfileFamily:
    r"""The formula of Theorem 4.2, :math:`(1 - e^{-\tau \lambda_i^2}) / \lambda_i`:
    what `fit_profile` fits where it is given a variance.

    Args:
      variance, learning_rate: as in `fit_profile`.

    Returns:
      the family. Its time is learning rate times iterations, in units of 1 / variance.

    Raises:
      ValueError: as `fit_profile`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> profile = theory.iteration_profile(variance, 40, 0.5)
      >>> fit = theory.fit_profile(profile, theory.theorem_family(variance, 0.5))
      >>> print(round(float(fit.time / 0.5), 4))
      40.0
    """
    _check_spectrum(variance)
    known = concrete(variance)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
        rate = concrete(learning_rate)
        if rate is not None and known is not None and not rate * known.max() < 1:
            raise ValueError(
                f"learning_rate = {rate} times the largest variance {known.max()} must"
                " be below 1, where every component decays without oscillating: give"
                f" less than {1 / known.max()}, or none for the limit of small rates."
            )
    return _Theorem(with_dtype(variance), learning_rate)


def noise_family(variance: ArrayLike) -> ProfileFamily:
    r"""What noise of the covariance of the patches' gradient leaves of the weights,
    :math:`\sqrt{1 - e^{-2 \tau \lambda_i^2}}`.

    Ours (docs/derivations.md, section 16): gradient flow with white noise in time, of a
    covariance proportional to the curvature. It begins along lambda_i and ends
    constant.

    Args:
      variance: lambda_i^2, (d,), as in `fit_profile`.

    Returns:
      the family. Its time is learning rate times iterations, in units of 1 / variance.
      At infinity its correlation is undefined (NaN), unless a variance is 0; times are
      looked at until it is flat to the square root of machine epsilon.

    Raises:
      ValueError: a variance that is negative, or of fewer than three values that
        differ.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> profile = np.sqrt(1 - np.exp(-2 * 30 * variance))
      >>> fit = theory.fit_profile(profile, theory.noise_family(variance))
      >>> print(round(float(fit.time), 4), fit.correlation_at_infinity)
      30.0 nan
    """
    _check_spectrum(variance)
    return _Noise(with_dtype(variance))


def curvature_profile(
    curvature: ArrayLike, time: ArrayLike, components: ArrayLike
) -> Array:
    r"""Energy profile of filters that move on a quadratic loss of this curvature,
    driven by labels that it does not know.

    .. math:: e_i(\tau)^2 = \frac1K \sum_k u_i^T \varphi_\tau(M_k)^2 M_k u_i, \qquad
       \varphi_\tau(x) = \frac{1 - e^{-\tau x}}{x}

    Ours (docs/derivations.md, section 16): gradient flow with a drive of covariance
    M_k, as of drawn labels. It is `QuadraticDynamics.expected_profile` in continuous
    time with eta = 1 and N = 1.

    Args:
      curvature: M_k, symmetric and positive semidefinite, (K, d, d), e.g. of
        `filter_curvature`; or of all filters together, (K, d, K, d). For M_k known up
        to a common factor the profile is too, in time and size.
      time: tau, learning rate times steps, from 0 to infinity, any shape, in units of 1
        / curvature.
      components: u_i, orthonormal columns, (d, p), e.g. `PatchSpectrum.components`.

    Returns:
      profile, time.shape + (p,), up to the size of the drive. Directions without
      curvature are not driven.

    Raises:
      ValueError: curvature or components of a wrong shape, not finite, not symmetric or
        not positive semidefinite, or not orthonormal; a negative time.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> curvature = np.diag([4.0, 1.0, 0.25])[None]  # one filter
      >>> profile = theory.curvature_profile(curvature, [0.01, np.inf], np.eye(3))
      >>> print((profile / profile[:, :1]).round(2))
      [[1.   0.51 0.25]
       [1.   2.   4.  ]]
    """
    dynamics = _flow(curvature)
    return dynamics.expected_profile(time, components, count=1)


def curvature_family(
    curvature: ArrayLike | QuadraticDynamics, components: ArrayLike
) -> ProfileFamily:
    r"""The profiles of `curvature_profile` over time.

    Args:
      curvature: M_k, (K, d, d), or of all filters together, (K, d, K, d), as in
        `curvature_profile`; or the `QuadraticDynamics` that have decomposed it.
      components: u_i, orthonormal columns, (d, p), e.g. `PatchSpectrum.components`.

    Returns:
      the family. Its time is learning rate times steps, in units of 1 / curvature, and
      continuous. Components along which the curvature is rounding are 0 throughout.
      Towards infinity the directions of the smallest curvature dominate, such as that
      of a filter itself where batch norm follows it.

    Raises:
      ValueError: as `curvature_profile`; fewer than three components; or profiles that
        have one shape at all times.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> rows = random.normal(size=(5, 40, 4)) * [4, 2, 1, 0.5]
      >>> curvature = np.einsum("kni,knj->kij", rows, rows) / 40  # of five filters
      >>> profile = theory.curvature_profile(curvature, 0.7, np.eye(4))
      >>> family = theory.curvature_family(curvature, np.eye(4))
      >>> print(round(float(theory.fit_profile(profile, family).time), 4))
      0.7
    """
    if not isinstance(curvature, QuadraticDynamics):
        curvature = _flow(curvature)
    check_components(components, curvature.shape[-1])
    weights, rates = _mixture(curvature, components)
    known, largest = concrete(weights), concrete(rates)
    if (
        known is not None
        and largest is not None
        and not (known.any() and largest.max() > _SMALLEST)
    ):
        raise ValueError(
            "there is no curvature along any component, or so little"
            f" ({largest.max():g}) that times, in units of 1 / curvature, overflow."
        )
    return _checked(_Mixture(weights, rates, power=2))


def profile_family(
    function: Callable[[Any], Any],
    *,
    times: tuple[ArrayLike, ArrayLike],
    at_zero: ArrayLike,
    at_infinity: ArrayLike,
) -> ProfileFamily:
    """A family of your own.

    `fit_profile` looks at 256 times, placed where the shape changes, and refines the
    best: a maximum that lies between two of them beside a higher one may be missed. The
    time is known to half the digits, as there are no derivatives.

    Args:
      function: takes times of any shape, float64 arrays, to profiles of the shape
        times.shape + (d,), up to their scale; finite, not negative and not all 0. Under
        `jit` it is called with JAX arrays.
      times: the first and last time to look at, 0 < first < last, in any unit.
      at_zero, at_infinity: its limits at both ends of time, (d,), up to their scale.

    Returns:
      the family.

    Raises:
      ValueError: what the function gives, or a limit, is of a wrong shape, not finite,
        negative or 0 throughout (looked at here at a few times, and again in the fit,
        unless traced); times that are not ascending; fewer than three components;
        profiles that have one shape at all times.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.geomspace(1, 1e-3, 12)
      >>> def saturating(time):
      ...     return variance / (variance + 1 / time[..., None])
      >>> family = theory.profile_family(
      ...     saturating, times=(1e-3, 1e6), at_zero=variance, at_infinity=np.ones(12)
      ... )
      >>> fit = theory.fit_profile(saturating(np.array(50.0)), family)
      >>> print(round(float(fit.time), 4))
      50.0
    """
    for name, time in zip(("times[0]", "times[1]"), times, strict=True):
        check_positive(name, time)
    for name, end in (("at_zero", at_zero), ("at_infinity", at_infinity)):
        if np.ndim(end) != 1 or np.shape(end) != np.shape(at_zero):
            raise ValueError(
                "at_zero and at_infinity must have one shape (d,), got"
                f" {np.shape(at_zero)} and {np.shape(at_infinity)}."
            )
        check_finite(name, end)
        known = concrete(end)
        if known is not None:
            check_values(name, known)
    first_last = concrete([*times])
    if first_last is not None and not first_last[0] < first_last[1]:
        raise ValueError(f"times must be ascending, got {times[0]} and {times[1]}.")
    if is_traced(times, at_zero, at_infinity):
        first, last, *ends = as_floats(*times, at_zero, at_infinity)
        return _Own(jnp.stack([first, last]), jnp.stack(ends), function)
    borders = np.array([*times], np.float64)
    with float64_now():
        traced = is_traced(function(borders))
    limits = np.array([at_zero, at_infinity], np.float64)
    family = _Own(borders, limits, function, traced)
    return family if traced else _checked(family)


def _flow(curvature: ArrayLike) -> QuadraticDynamics:
    """Gradient flow on that curvature, in its own unit of time."""
    shape = np.shape(curvature)
    if len(shape) not in (3, 4) or shape != (shape[:2] + shape[-len(shape) + 2 :]):
        raise ValueError(
            "curvature must have shape (K, d, d), or (K, d, K, d) for filters that act"
            f" on one another, got {shape}."
        )
    still = np.zeros(shape[:2], int)  # of no dtype of its own
    return quadratic_descent(curvature, still, 1.0, continuous=True)


@float64_outside_traces
@jax.jit
def _mixture(
    dynamics: QuadraticDynamics, components: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Weights (p, modes) and rates (modes,) of the profile over drawn labels."""
    shares, h = mode_shares(dynamics, components)
    # What a component without curvature has is rounding.
    curvature = matmul(shares, h)
    d = dynamics.shape[-1]
    seen = curvature > d * jnp.finfo(h.dtype).eps * curvature.max()
    present = seen[:, None] & (h > 0)[None]
    return jnp.where(present, shares / jnp.where(h > 0, h, 1)[None], 0), h


def _check_spectrum(variance: ArrayLike) -> None:
    check_variance(variance, one_axis=True)
    known = concrete(variance)
    if known is None:
        return
    ascending = np.sort(np.asarray(known, np.float64))
    if (np.diff(ascending) > _DIFFERENT * ascending[1:]).sum() < 2:
        raise ValueError(
            "variance must hold at least 3 values that differ by more than"
            f" {_DIFFERENT:g} of themselves, got {ascending[0]} to {ascending[-1]}"
            f" in {len(ascending)} components; with fewer the formula correlates"
            " equally at all times, so take a spectrum of more components."
        )
    if known.max() < _SMALLEST:
        raise ValueError(
            f"variance of up to {known.max():g} is so small that times, in units of"
            " 1 / variance, overflow; scale the images."
        )


def _checked(family: ProfileFamily) -> ProfileFamily:
    """The family, unless a few of its times tell that it cannot be fitted."""
    if is_traced(family):
        return family
    course = jax.tree.map(np.asarray, family).course()
    if course.ends.shape[-1] < 3:
        raise ValueError(
            "a family must have at least 3 components, got"
            f" {course.ends.shape[-1]}; with fewer all its profiles correlate equally."
        )
    first, last = course.log_range()
    values = course.values(np.linspace(first, last, 33))
    values = np.concatenate([course.ends, values])
    flat = len(values[0]) * np.finfo(np.float64).eps * values.max(axis=-1)
    shapes, _ = standardized(values[np.ptp(values, axis=-1) > flat])
    if not len(shapes) or 1 - np.abs(shapes @ shapes[-1]).min() < _SAME:
        raise ValueError(
            "the family's profiles have one shape at all times, which no fit can tell"
            " apart."
        )
    return family
