"""What the analyses of networks say, as a summary, as a table, and in files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import theory
from experiments.analyse.figure import draw
from experiments.analyse.layers import INNER, Layer, Measured
from experiments.analyse.packing import packed, unpacked
from experiments.frame import Arrays, Table, disk
from experiments.frame.experiment import draw_in_style

NOTE = (
    "fit: correlation of the formula with the profile at the best time; ends: what it"
    " reaches with lambda (time 0) and 1/lambda (infinity); random: what 95 % of as"
    " many random filters reach; time: the most likely one, times the largest variance;"
    " distance: s.d. over components of the log profile, beside 95 % of as many random"
    " filters. Small variances, and with them times, are those of the sample where"
    " patches are not many times the components."
)


def save(networks: Mapping[str, Sequence[Layer]], folder: str | Path) -> Path:
    """Write analyses by the titles of their networks into a folder: arrays.npz,
    summary.json and the figure analyse, as .png and .pdf.

    Raises:
      OSError: the folder cannot be written to.
    """
    path = disk.prepare_folder(Path(folder), "folder")
    arrays = packed(networks)
    disk.write_arrays(path / "arrays.npz", arrays)
    disk.write_json(path / "summary.json", summary(arrays))
    draw_in_style(draw, path, arrays)
    return path


def summary(arrays: Arrays) -> dict[str, Any]:
    """A row for each convolution; nothing is judged."""
    rows = [
        {
            "network": title,
            "layer": layer.name,
            "kernel": list(layer.shape),
            "problem": layer.problem,
        }
        | ({} if layer.measured is None else _numbers(layer.measured))
        for title, layers in unpacked(arrays).items()
        for layer in layers
    ]
    return {"results": rows, "checks": []}


def _numbers(one: Measured) -> dict[str, Any]:
    return {
        "components": len(one.profile),
        "patches": one.patches,
        "fit": None if one.fit is None else _fit(one.fit, one),
        "likelihood": None if one.likely is None else _fit(one.likely, one),
        "random_correlation": _range(one.random_correlation),
        "distance": _plain(one.distance),
        "random_distance": _range(one.random_distance),
        "outside_random": float(
            np.mean((one.profile < one.random_low) | (one.profile > one.random_high))
        ),
    }


def _fit(fit: theory.ProfileFit, one: Measured) -> dict[str, Any]:
    """An infinite time is null, and its end says so."""
    time = float(fit.time)
    return {
        "correlation": _plain(fit.correlation),
        "time": _plain(time),
        "time_times_largest_variance": _plain(time * one.variance[0]),
        "at": "infinity" if np.isinf(time) else "zero" if time == 0 else "between",
        "correlation_at_zero": _plain(fit.correlation_at_zero),
        "correlation_at_infinity": _plain(fit.correlation_at_infinity),
        "log_ratio_std": _plain(fit.log_ratio_std),
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _range(values: np.ndarray) -> list[float | None] | None:
    """What 95 % lie between."""
    if not values.size:
        return None
    low, high = np.quantile(values, INNER)
    return [_plain(low), _plain(high)]


def table(summary: dict[str, Any]) -> Table:
    """A line for each analysed layer, and one for all others of one reason."""
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for number, row in enumerate(summary["results"]):
        alike = (row["network"], row["problem"]) if row["problem"] else (number,)
        lines.setdefault(alike, []).append(row)
    columns: dict[str, list[str]] = {}
    for rows in lines.values():
        for heading, cell in _cells(rows).items():
            columns.setdefault(heading, []).append(cell)
    return Table(columns, NOTE)


def _kernels(rows: Sequence[dict[str, Any]]) -> str:
    """A shape; or of several layers how many there are of each size."""
    shapes = ["x".join(map(str, row["kernel"])) for row in rows]
    if len({*shapes}) == 1:
        return shapes[0]
    sizes = Counter("x".join(map(str, row["kernel"][:-2])) for row in rows)
    return ", ".join(f"{count} of {size}" for size, count in sizes.most_common(4))


def _cells(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    first = rows[0]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    fit, likely = first.get("fit"), first.get("likelihood")
    cells = {
        "network": first["network"],
        "layer": f"{first['layer'][:60]}{more}",
        "kernel": _kernels(rows),
        "fit": "",
        "ends": "",
        "random": "",
        "time": "",
        "distance": "",
        "of random": "",
        "": first["problem"],
    }
    if first["problem"]:
        return cells
    cells["distance"] = _number(first["distance"])
    cells["of random"] = _between(first["random_distance"])
    if fit is None:
        return cells | {"": "fewer than three variances differ: no fit"}
    ends = fit["correlation_at_zero"], fit["correlation_at_infinity"]
    return cells | {
        "fit": _number(fit["correlation"]),
        "ends": _between(ends),
        "random": _between(first["random_correlation"]),
        "time": _time(likely),
    }


def _time(likely: dict[str, Any] | None) -> str:
    if likely is None:
        return ""
    time = likely["time_times_largest_variance"]
    return "infinite" if time is None else f"{time:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def _between(values: Any) -> str:
    return (
        "" if values is None else " to ".join(_number(value) or "-" for value in values)
    )
