"""Curves of correlation against distance: what is compared with what, and how far they
are apart."""

from typing import Any

import numpy as np

import theory
from experiments import trained
from experiments.frame import Arrays

NAME = "decorrelation"
BANKS = 100  # of random filters
CLOSE = 0.05  # of the closed form to the trained change, at every distance
SHOWN = (1, 2, 5, 10, 15)
# Of the closed form, in units of 1 / variance of the first component.
TIMES = np.geomspace(0.5, 200, 241)
# Times that fit a profile about as well as the best: the best correlations of different
# networks differ by as much.
AS_GOOD = 0.005
OURS = "normalised, mean over all images subtracted"
TITLES = {
    "rgb": "RGB pixels",
    "random": f"random filters, {BANKS} banks",
    "weights": "trained first layer, w(t)",
    "change": "trained first layer, change w(t) - w(0)",
    "likelihood": "closed form at its most likely time",
    "correlation": "closed form at the time of the best correlation",
    "whitening": "exact whitening of the patches",
}
CRITERIA: tuple[trained.Criterion, ...] = ("likelihood", "correlation")


def closed_form(variance: np.ndarray) -> np.ndarray:
    """The profile of Theorem 4.2 at TIMES, in the limit of small rates, up to a factor:
    (T, d)."""
    progress = -np.expm1(-np.outer(TIMES, variance / variance[0]))
    return progress * np.asarray(theory.whitening_profile(variance))


def differences(arrays: Arrays, criterion: trained.Criterion) -> dict[str, np.ndarray]:
    """Closed form at its fitted time minus trained change, for each run, (networks, R -
    1, D)."""
    return {
        name: run[f"curve/{criterion}"] - run["curve/change"]
        for name, run in trained.measured(arrays).items()
    }


def course(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over training, the largest difference of the mean over networks at any distance,
    and its standard error there.

    Args:
      difference: (networks, R - 1, D).

    Returns:
      both (R - 1,); the second NaN for a single network.
    """
    mean, count = difference.mean(axis=0), len(difference)
    at = np.arange(len(mean)), np.abs(mean).argmax(axis=1)
    error = (
        difference.std(axis=0, ddof=1)[at] / np.sqrt(count)
        if count > 1
        else np.full(len(mean), np.nan)
    )
    return np.abs(mean[at]), error


def by_time(
    arrays: Arrays, criterion: trained.Criterion
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of every network at every record but the first, its fitted time and its largest
    difference of the curves.

    Returns:
      for each run, both (networks, R - 1): the time in units of 1 / variance of the
      first component, and the difference with its sign.
    """
    found, runs = {}, trained.measured(arrays)
    for name, difference in differences(arrays, criterion).items():
        run = runs[name]
        times = run.fit("change", criterion).time[:, 1:] * run.variance[0]
        found[name] = times, _largest(difference)
    return found


def at_times(arrays: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How well the closed form at every one of TIMES fits a trained network, its
    profile and its curve.

    Returns:
      for each run, both (networks, T): the correlation of the profiles, and the largest
      difference of the curves, with its sign.
    """
    found = {}
    for name, run in trained.measured(arrays).items():
        profile, curve = run.change[:, -1], run["curve/change"][:, -1]
        correlation = theory.profile_correlation(
            profile[:, None], closed_form(run.variance)
        )
        difference = arrays["closed_form"] - curve[:, None]
        found[name] = np.asarray(correlation), _largest(difference)
    return found


def as_good(correlation: np.ndarray, difference: np.ndarray) -> dict[str, Any]:
    """What the times have in common whose correlation is within AS_GOOD of a network's
    best.

    Args:
      correlation, difference: of `at_times`, (networks, T).

    Returns:
      medians over networks of the first and the last of these times; and of the time
      among them with the smallest difference, of that difference, and of its
      correlation and of the best correlation.
    """
    good = correlation >= correlation.max(axis=1, keepdims=True) - AS_GOOD
    best = np.where(good, np.abs(difference), np.inf).argmin(axis=1)
    each = np.arange(len(best)), best
    values = {
        "first_time": TIMES[good.argmax(axis=1)],
        "last_time": TIMES[::-1][good[:, ::-1].argmax(axis=1)],
        "time_of_smallest_difference": TIMES[best],
        "smallest_difference": np.abs(difference[each]),
        "correlation_there": correlation[each],
        "best_correlation": correlation.max(axis=1),
    }
    return {name: float(np.median(value)) for name, value in values.items()}


def _largest(difference: np.ndarray) -> np.ndarray:
    """The entry along the last axis with the largest absolute value, with its sign."""
    place = np.abs(difference).argmax(axis=-1)[..., None]
    return np.take_along_axis(difference, place, axis=-1)[..., 0]


def conventions(data: trained.Data) -> dict[str, tuple[np.ndarray, bool]]:
    """Images, and whether the mean over all of them is subtracted: ours first."""
    own_mean = data.images.mean(axis=(1, 2), keepdims=True)
    return {
        OURS: (data.images, True),
        "pixels in [0, 1], mean kept": (data.images * data.std + data.mean, False),
        "the mean of each image subtracted": (data.images - own_mean, True),
    }


def conventions_in(arrays: Arrays) -> list[str]:
    """Those of all curves; `further` ones have some alone."""
    return [
        key.removesuffix("/rgb")
        for key in arrays
        if key.endswith("/rgb") and not key.startswith("further/")
    ]
