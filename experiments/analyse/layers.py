"""What is known of one convolution: its energy profile, the formula fitted to it, and
how far it is from random filters."""

from typing import Any, NamedTuple

import numpy as np

import theory

BANKS = 200  # of random filters
RANDOM_FITS = 50  # of these banks
INNER = (0.025, 0.975)  # quantiles: of random banks 95 % lie between
# Variances below this part of the largest are rounding of float32 images.
ROUNDING = 1e-12


class Measured(NamedTuple):
    """A layer's filters in the principal components of the patches that they see.

    Attributes:
      patches: how many gave the components. Small variances are those of the sample
        where there are not many more than components.
      variance: lambda_i^2 of the patches, (d,), largest first.
      profile: the energy profile e_i, (d,), divided by its root mean square.
      fit, likely: the formula fitted by correlation, and by likelihood; None where
        fewer than three variances differ.
      random_low, random_high: what 95 % of banks of as many random filters have in each
        component, (d,), divided alike.
      distance: standard deviation over components of log e_i, 0 of filters that are
        equally strong in all directions.
      random_distance: the same of banks of random filters, (BANKS,).
      random_correlation: of the formula fitted to such banks, (RANDOM_FITS,) or empty.
    """

    patches: int
    variance: np.ndarray
    profile: np.ndarray
    fit: theory.ProfileFit | None
    likely: theory.ProfileFit | None
    random_low: np.ndarray
    random_high: np.ndarray
    distance: float
    random_distance: np.ndarray
    random_correlation: np.ndarray


class Layer(NamedTuple):
    """A convolution.

    Attributes:
      name: of its tensor, or its attribute path.
      shape: of the kernel: (kh, kw, C, K) where it is two-dimensional and known.
      problem: why it is not analysed; "" where it is.
      measured: what was found; None where there is a problem.
    """

    name: str
    shape: tuple[int, ...]
    problem: str = ""
    measured: Measured | None = None


def measured(
    kernel: np.ndarray, moments: theory.PatchMoments, random: np.random.Generator
) -> Measured:
    """A layer's filters, (kh, kw, C, K), in the components of its patches.

    Raises:
      ValueError: weights that are not finite, or all 0; patches that are all alike.
    """
    kernel = np.asarray(kernel, np.float64)
    if not kernel.any():
        raise ValueError("its weights are all 0")
    spectrum = moments.spectrum()
    variance = np.asarray(spectrum.variance)
    if not variance[0] > 0:
        raise ValueError("all patches that reach it are alike")
    variance = np.where(variance < ROUNDING * variance[0], 0, variance)
    profile = _unit(np.asarray(theory.energy_profile(kernel, spectrum.components)))
    # In any orthonormal basis K Gaussian filters have e_i^2 ~ chi^2_K / K.
    filters, components = kernel.shape[-1], len(profile)
    banks = _unit(np.sqrt(random.chisquare(filters, (BANKS, components))))
    low, high = np.quantile(banks, INNER, axis=0)
    known = len(np.unique(variance)) >= 3
    return Measured(
        int(moments.count),
        variance,
        profile,
        _fit(profile, variance, "correlation") if known else None,
        _fit(profile, variance, "likelihood") if known else None,
        low,
        high,
        float(_distance(profile)),
        _distance(banks),
        np.asarray(theory.fit_profile(banks[:RANDOM_FITS], variance).correlation)
        if known
        else np.empty(0),
    )


def _unit(profiles: np.ndarray) -> np.ndarray:
    return profiles / np.sqrt((profiles**2).mean(axis=-1, keepdims=True))


def _distance(profiles: np.ndarray) -> np.ndarray:
    """Standard deviation of log e over the components where e is positive, (...)."""
    flat = np.ones(profiles.shape[-1])
    return np.asarray(theory.log_ratio_std(profiles, flat))


def _fit(
    profile: np.ndarray, variance: np.ndarray, criterion: Any
) -> theory.ProfileFit | None:
    try:
        return theory.fit_profile(profile, variance, criterion=criterion)
    except ValueError:  # a profile that is constant, or 0 wherever there is variance
        return None
