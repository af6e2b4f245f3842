"""Ours against a peer: ratios, agreement, verdicts, and the table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.benchmark.measurement import Measurement
from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import Row, Target

# Largest relative difference between peer and ours for the comparison to count.
AGREEMENT = 1e-6


def compare(
    row: Row, ours: list[Measurement], peer: list[Measurement] | None
) -> dict[str, Any]:
    """Medians of ours, their ratios to the peer's (above 1: ours is better), and
    whether the targets are met.

    Args:
      row: what was measured.
      ours, peer: one measurement a repeat; no peer if the row has none or it is not
        installed.

    Returns:
      all that the table and the summary say of the row; a number that was not measured
      is None.
    """
    numbers: dict[str, float | None] = dict.fromkeys(
        ("faster", "faster_again", "less_memory", "difference")
    )
    numbers |= {
        name: median(ours, name) for name in ("seconds", "seconds_again", "megabytes")
    }
    targets = list(row.targets)
    if row.peer and peer:
        numbers["faster"] = ratio(peer, ours, "seconds")
        numbers["faster_again"] = ratio(peer, ours, "seconds_again")
        numbers["less_memory"] = ratio(peer, ours, "megabytes")
        # Else the results are not the same, and need not be.
        if row.peer.images == row.ours.images:
            numbers["difference"] = relative_difference(
                peer[0]["values"], ours[0]["values"]
            )
            targets.append(Target("difference", "at most", AGREEMENT))
    return {
        "title": row.title,
        "ours": row.ours._asdict() | runs(ours),
        "peer": row.peer._asdict() | runs(peer or []) if row.peer else None,
        "not_installed": (
            METHODS[row.peer.method].package if row.peer and not peer else None
        ),
        **numbers,
        "targets": [
            target._asdict() | {"met": is_met(target, numbers[target.number])}
            for target in targets
        ],
    }


def is_met(target: Target, value: float | None) -> bool | None:
    """None where nothing was measured."""
    if value is None:
        return None
    return (
        value >= target.bound
        if target.relation == "at least"
        else value <= target.bound
    )


def runs(measurements: list[Measurement]) -> dict[str, list[Any]]:
    """Every repeat's numbers, by name."""
    names = ("seconds", "seconds_again", "megabytes", "lower_bound")
    return {name: [measurement[name] for measurement in measurements] for name in names}


def median(measurements: list[Measurement], name: str) -> float:
    return float(np.median([measurement[name] for measurement in measurements]))


def ratio(peer: list[Measurement], ours: list[Measurement], name: str) -> float | None:
    """Median of the peer over ours; None where ours is too small to be seen."""
    denominator = median(ours, name)
    return median(peer, name) / denominator if denominator else None


def relative_difference(a: Any, b: Any) -> float:
    """The largest |a - b| / max(|a|, |b|) of all entries, 0 where both are 0."""
    a, b = np.asarray(a), np.asarray(b)
    scale = np.maximum(np.abs(a), np.abs(b))
    return float(np.max(np.abs(a - b) / np.where(scale == 0, 1, scale)))


def table(results: list[dict[str, Any]]) -> str:
    """The results as text."""
    verdicts = {True: "met", False: "missed", None: "not measured"}
    lines = [
        f"{'':6}{'faster':>8}  {'2nd call':>8}  {'less memory':>11}  {'difference':>10}"
    ]
    for row in results:
        met = [target["met"] for target in row["targets"]]
        verdict = "MISSED" if False in met else "ok" if True in met else "-"
        columns = [
            times(row["faster"], 8),
            times(row["faster_again"], 8),
            times(row["less_memory"], 11),
        ]
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(
            f"{verdict:6}{'  '.join(columns)}  {difference:>10}  {row['title']}"
        )
        if row["not_installed"]:
            lines.append(
                f"{'':8}peer: {row['not_installed']} is not installed; pip install"
                " '.[benchmark]' brings it"
            )
        elif row["peer"]:
            lines.append(f"{'':8}peer: {side(row['peer'])}")
        lines.append(f"{'':8}ours: {side(row['ours'])}")
        targets = [
            f"{target['number'].replace('_', ' ')} {target['relation']}"
            f" {target['bound']:g}: {verdicts[target['met']]}"
            for target in row["targets"]
        ]
        lines += [f"{'':8}{'; '.join(targets)}"] if targets else []
    if any(True in row["ours"]["lower_bound"] for row in results):
        lines.append(
            "Memory is a lower bound: this system cannot reset the peak of a process."
        )
    return "\n".join(lines)


def times(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.3g} x':>{width}}"


def side(entry: Mapping[str, Any]) -> str:
    """One side of a row as text: medians, and the range of the first call over the
    repeats."""
    seconds = entry["seconds"]
    return (
        f"{np.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g}), 2nd"
        f" call {np.median(entry['seconds_again']):.3g} s;"
        f" {np.median(entry['megabytes']):.4g} MB; {entry['method']},"
        f" {entry['images']:,} images"
    )
