"""How the profiles of networks compare with one another over the course of training."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import theory
from experiments import frame
from experiments.trained.measurements import MeasuredRun


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of pairs of matrices (K, d, d), as vectors of their entries, (K,)."""
    product, *squares = (
        np.einsum("kab,kab->k", *pair)
        for pair in ((one, other), (one, one), (other, other))
    )
    return np.asarray(product / np.sqrt(squares[0] * squares[1]))


def correlations(
    one: MeasuredRun, other: MeasuredRun, kind: str = "change"
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of the profiles of all pairs of networks, of one run or of two, over
    the course of training.

    Networks are compared at the same epoch; where one run is over, by its last record.
    So the last column compares trained networks.

    Args:
      one, other: runs; the same one twice for the pairs of different seeds in it.

    Returns:
      epochs (E,), and correlations (pairs, E); NaN where nothing has changed yet.
    """
    epochs, columns = _matched(one.epochs, other.epochs)
    a, b = (
        run[kind][:, column] for run, column in zip((one, other), columns, strict=True)
    )
    if one == other:
        first, second = np.triu_indices(len(a), 1)
    else:
        first, second = (index.ravel() for index in np.indices((len(a), len(b))))
    return epochs, np.asarray(theory.profile_correlation(a[first], b[second]))


def _matched(
    one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, tuple[list[int], list[int]]]:
    """The epochs at which two runs can be compared, and the records of each there."""
    both = (one, other)
    epochs = [
        epoch
        for epoch in np.union1d(one, other)
        if all(epoch in mine or epoch > mine[-1] for mine in both)
    ]
    first, second = (
        [int(np.searchsorted(mine, min(epoch, mine[-1]))) for epoch in epochs]
        for mine in both
    )
    return np.array(epochs), (first, second)


def to_initial(run: MeasuredRun, kind: str = "change") -> np.ndarray:
    """Correlation of each network's profile with that of its own initial weights, (S,
    R)."""
    return np.asarray(theory.profile_correlation(run[kind], run.weights[:, :1]))


def comparison_table(summary: Mapping[str, Any]) -> frame.Table:
    """The table of an experiment whose results are correlations of profiles."""
    rows = summary["results"]
    columns = {
        "correlation of profiles": [row["comparison"] for row in rows],
        "change": [frame.number(row["change"]) for row in rows],
        "paper": [frame.paper_number(row["paper"]) for row in rows],
        "weights": [frame.number(row["weights"]) for row in rows],
        "count": [str(row["change"]["count"]) for row in rows],
    }
    note = (
        "± standard deviation over so many pairs of networks (over networks where each"
        " is compared with something else); change: w(t) - w(0) at the end of training,"
        " as in the paper; weights: w(t)"
    )
    return frame.Table(columns, note)
