"""Ours against a peer: ratios, agreement, verdicts, and the table."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.measurement import Measurement
from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import Row, Target

# Largest relative difference between peer and ours for the comparison to count.
AGREEMENT = 1e-6
# What is better in which number of the measurements.
RATIOS = {
    "faster": "seconds",
    "faster_again": "seconds_again",
    "less_memory": "megabytes",
}
# Cores that others may use on average before a number counts as one of a busy machine.
BUSY = 0.25


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
    numbers: dict[str, float | None] = dict.fromkeys([*RATIOS, "difference"])
    ranges = {
        name: [min(m[name] for m in ours), max(m[name] for m in ours)]
        for name in RATIOS.values()
    }
    numbers |= {
        name: median(ours, name) for name in ("seconds", "seconds_again", "megabytes")
    }
    targets = list(row.targets)
    if row.peer and peer:
        for number, name in RATIOS.items():
            numbers[number] = ratio(peer, ours, name)
            pairs = zip(peer, ours, strict=True)
            of_pairs = [p[name] / o[name] for p, o in pairs if o[name]]
            if of_pairs:
                ranges[number] = [min(of_pairs), max(of_pairs)]
        # Else the results are not the same, and need not be.
        if row.peer.images == row.ours.images:
            numbers["difference"] = relative_difference(
                peer[0]["values"], ours[0]["values"]
            )
            targets.append(Target("difference", "at most", AGREEMENT))
    result: dict[str, Any] = {
        "section": row.section,
        "title": row.title,
        "size": row.size,
        "ours": row.ours._asdict() | runs(ours),
        "peer": row.peer._asdict() | runs(peer or []) if row.peer else None,
        "not_installed": (
            METHODS[row.peer.method].package if row.peer and not peer else None
        ),
        **numbers,
    }
    disturbed = busy(result) > BUSY
    result["targets"] = [
        target._asdict()
        | {
            "met": (settled if disturbed else is_met)(target, result, ranges),
            "value": numbers[target.number],
            "range": ranges.get(target.number),
        }
        for target in targets
    ]
    return result


def is_met(
    target: Target, result: Mapping[str, Any], _: Mapping[str, Any]
) -> bool | None:
    """Whether a target is met; None where nothing was measured."""
    value = result[target.number]
    return None if value is None else _reaches(target, value)


def settled(
    target: Target, result: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]
) -> bool | None:
    """The same on a busy machine, None also where nothing follows.

    Times are too long there: one that is short enough still counts, and one that even
    all cores together cannot make short enough. A ratio counts only where all pairs
    agree.
    """
    met = is_met(target, result, ranges)
    if met is None or target.number in ("megabytes", "less_memory", "difference"):
        return met
    if target.number in RATIOS:
        ends = {_reaches(target, end) for end in ranges[target.number]}
        return met if ends == {met} else None
    cpu = result["ours"][target.number.replace("seconds", "cpu")]
    least = min(cpu) / (os.cpu_count() or 1)
    return met or (None if _reaches(target, least) else False)


def _reaches(target: Target, value: float) -> bool:
    return (
        value >= target.bound
        if target.relation == "at least"
        else value <= target.bound
    )


def runs(measurements: list[Measurement]) -> dict[str, list[Any]]:
    """Every repeat's numbers, by name."""
    names = (
        "seconds",
        "seconds_again",
        "cpu",
        "cpu_again",
        "megabytes",
        "lower_bound",
        "others",
    )
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
    lines = [
        f"{'':6}{'faster':>8}  {'2nd call':>8}  {'less memory':>11}  {'difference':>10}"
    ]
    for row in results:
        word = _word(row["targets"])
        columns = [
            times(row["faster"], 8),
            times(row["faster_again"], 8),
            times(row["less_memory"], 11),
        ]
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(f"{word:6}{'  '.join(columns)}  {difference:>10}  {row['title']}")
        if row["not_installed"]:
            lines.append(
                f"{'':8}peer: {row['not_installed']} is not installed; pip install"
                " '.[benchmark]' brings it"
            )
        elif row["peer"]:
            lines.append(f"{'':8}peer: {side(row['peer'])}")
        lines.append(f"{'':8}ours: {side(row['ours'])}")
        targets = [_said(target) for target in row["targets"]]
        lines += [f"{'':8}{'; '.join(targets)}"] if targets else []
        used = busy(row)
        if used > BUSY:
            lines.append(f"{'':8}busy: others used {used:.1f} cores meanwhile")
    if any(True in row["ours"]["lower_bound"] for row in results):
        lines.append(
            "Memory is a lower bound: this system cannot reset the peak of a process."
        )
    return "\n".join(lines)


def _word(targets: Sequence[Mapping[str, Any]]) -> str:
    met = [target["met"] for target in targets if target["value"] is not None]
    if False in met:
        return "MISSED"
    return "?" if None in met else "ok" if met else "-"


def _said(target: Mapping[str, Any]) -> str:
    unknown = "not measured" if target["value"] is None else "not settled"
    word = {True: "met", False: "missed", None: unknown}[target["met"]]
    bound = f"{target['relation']} {target['bound']:g}"
    text = f"{target['number'].replace('_', ' ')} {bound}: {word}"
    if target["value"] is None or target["range"] is None:
        return text
    low, high = target["range"]
    return f"{text} ({target['value']:.3g}; {low:.3g} to {high:.3g})"


def busy(row: Mapping[str, Any]) -> float:
    """Cores that others have used while a row was measured, the median; 0 if that is
    not known."""
    sides = [side for side in (row["ours"], row["peer"]) if side]
    known = [cores for side in sides for cores in side["others"] if cores is not None]
    return float(np.median(known)) if known else 0.0


def times(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.3g} x':>{width}}"


def side(entry: Mapping[str, Any]) -> str:
    """One side of a row as text: medians, and the range of the first call over the
    repeats."""
    seconds = entry["seconds"]
    kept = ", compiled before" if entry["cached"] else ""
    return (
        f"{np.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g}), 2nd"
        f" call {np.median(entry['seconds_again']):.3g} s"
        f" (CPU {np.median(entry['cpu']):.3g}, {np.median(entry['cpu_again']):.3g} s);"
        f" {np.median(entry['megabytes']):.4g} MB; {entry['method']},"
        f" {entry['images']:,} images{kept}"
    )
