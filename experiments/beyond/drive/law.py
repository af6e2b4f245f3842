r"""A linear law of the first layer along training (docs/prediction.md):

.. math::
    d\Delta = -(b + H a) \, d\tau + \sqrt{\eta / B} \, d\xi , \qquad
    da = d\Delta - \gamma a \, d\tau

in the time tau, learning rate times steps, of the weights' change Delta. H is the
curvature, and D the covariance of single images' gradients, which the noise xi has in
unit time. The part a of the change that it still pulls back forgets at the rate gamma;
with gamma = 0 it is all of the change. The drive b is random. All of them are constant
on each of a number of intervals.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """What acts on the n weights for a time.

    Attributes:
      length: in units of tau.
      rates, modes: of the curvature, (n,) and (n, n) with modes as columns; modes None:
        the weights themselves.
      drive: a root of the drive's covariance, (n, n), up to the amplitude that
        `autocovariance` has.
      noise: a root of the noise's covariance in unit time, (n, n).
    """

    length: float
    rates: np.ndarray
    modes: np.ndarray | None
    drive: np.ndarray
    noise: np.ndarray


def draws(
    intervals: Sequence[Interval],
    autocovariance: np.ndarray,
    *,
    forgetting: float,
    count: int,
    random: np.random.Generator,
) -> Iterator[np.ndarray]:
    """So many changes that the law draws, (n, count), at the end of each interval.

    Exact within an interval for the drive. The noise acts there evenly, at the strength
    that leaves the right variance of what is still pulled back of a mode, which is all
    of it where nothing is forgotten; between modes it may correlate a little more or
    less.

    Args:
      autocovariance: of the drive between intervals, (T, T); parts of an estimate that
        are not positive are left out.
      forgetting: gamma, in units of 1 / tau.
    """
    values, vectors = np.linalg.eigh(autocovariance)
    courses = vectors * np.sqrt(np.maximum(values, 0))
    n = len(intervals[0].rates)
    sources = random.normal(size=(len(values), n, count))
    change, pulled = np.zeros((n, count)), np.zeros((n, count))
    for interval, amplitudes in zip(intervals, courses, strict=True):
        length = interval.length
        rates = np.maximum(interval.rates, 0)[:, None]
        x = (rates + forgetting) * length
        held = length * _mean_decay(x)  # what a unit source leaves of a
        spread = np.sqrt(_mean_decay(2 * x) / length) / _mean_decay(x)
        driven = interval.drive @ np.tensordot(amplitudes, sources, 1)
        noise = interval.noise @ random.normal(size=(n, count))
        source = -_to(interval.modes, driven) + spread * _to(interval.modes, noise)
        before = _to(interval.modes, pulled)
        after = np.exp(-x) * before + held * source
        # The integral of a, from da = (source - (rates + gamma) a) dtau.
        total = held * before + length**2 * _mean_rise(x) * source
        change = change + _from(interval.modes, length * source - rates * total)
        pulled = _from(interval.modes, after)
        yield change


def _to(modes: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    return values if modes is None else modes.T @ values


def _from(modes: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    return values if modes is None else modes @ values


def _mean_decay(x: np.ndarray) -> np.ndarray:
    """(1 - exp(-x)) / x, 1 at 0."""
    safe = np.where(x > 0, x, 1)
    return np.where(x > 0, -np.expm1(-safe) / safe, 1.0)


def _mean_rise(x: np.ndarray) -> np.ndarray:
    """(x - 1 + exp(-x)) / x^2, 1/2 at 0."""
    small = x < 1e-3
    safe = np.where(small, 1, x)
    return np.where(small, 0.5 - x / 6, (safe + np.expm1(-safe)) / safe**2)
