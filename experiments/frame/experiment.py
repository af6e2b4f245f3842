"""The one way from settings to arrays, summary, figure and table, which all experiments
go."""

import json
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

from experiments.frame import disk, figures
from experiments.frame.settings import WHEREABOUTS, Settings

Arrays = dict[str, np.ndarray]


class Table(NamedTuple):
    """What the results of a summary say in words.

    Attributes:
      columns: cells by the heading of their column.
      note: what to know about them.
    """

    columns: dict[str, list[str]]
    note: str


def run(
    name: str,
    settings: Settings,
    compute: Callable[[Any], Arrays],
    summary: Callable[[Arrays], dict[str, Any]],
    draw: Callable[[Path, Arrays], None],
    table: Callable[[dict[str, Any]], Table],
) -> None:
    """Compute, save, draw and print; with `settings.redraw` draw and print from what
    was saved."""
    folder = disk.folder(settings.out, name, settings.dataset)
    if settings.redraw:
        arrays = saved_arrays(folder)
        found = summary(arrays)
        draw_in_style(draw, folder, arrays)
    else:
        disk.prepare_folder(folder)
        started = time.perf_counter()
        arrays = compute(settings)
        found = summary(arrays)
        write(folder, settings, arrays, found, draw, time.perf_counter() - started)
    print(text(table(found), found))
    print(f"written to {folder}")


def saved_arrays(folder: Path) -> Arrays:
    """The arrays of the results in a folder, for --redraw.

    Raises:
      FileNotFoundError: there are none; it names the data sets of which there are.
        ValueError: they are damaged.
    """
    remedy = "run the experiment again without --redraw"
    others = sorted(path.parent.name for path in folder.parent.glob("*/arrays.npz"))
    if others:
        remedy += (
            f", or name what there are results of with --dataset: {', '.join(others)}"
        )
    return disk.read_arrays(folder / "arrays.npz", remedy)


def write(
    folder: Path,
    settings: Any,
    arrays: Arrays,
    summary: dict[str, Any],
    draw: Callable[[Path, Arrays], None],
    seconds: float,
) -> None:
    """Save and draw the results of an experiment; config.json comes last, and says that
    they are finished."""
    (folder / "config.json").unlink(missing_ok=True)
    disk.write_arrays(folder / "arrays.npz", arrays)
    draw_in_style(draw, folder, arrays)
    disk.write_json(folder / "summary.json", summary)
    config = {
        "settings": asdict(settings),
        "environment": disk.environment(),
        "seconds": seconds,
    }
    disk.write_json(folder / "config.json", config)


def draw_in_style(
    draw: Callable[[Path, Arrays], None], folder: Path, arrays: Arrays
) -> None:
    """Draw the figures of an experiment in the style that all share."""
    with mpl.rc_context(figures.STYLE):
        draw(folder, arrays)


def finished(folder: Path, settings: Any) -> bool:
    """Whether a folder holds whole results of the same settings; where things lie does
    not matter."""
    if not (folder / "arrays.npz").exists() or not any(folder.glob("*.png")):
        return False
    try:
        found = disk.read_json(folder / "config.json", "")
        disk.read_json(folder / "summary.json", "")
    except (OSError, ValueError):
        return False
    wanted = json.loads(disk.json_text(asdict(settings)))
    return isinstance(found, dict) and _results_depend_on(
        found.get("settings")
    ) == _results_depend_on(wanted)


def _results_depend_on(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return None
    return {name: value for name, value in settings.items() if name not in WHEREABOUTS}


def text(table: Table, summary: Mapping[str, Any]) -> str:
    """A table, and what else the summary holds: accuracies of the runs, checks, and
    differences from the paper."""
    width = {
        name: max(map(len, (name, *cells))) for name, cells in table.columns.items()
    }
    lines = ["  ".join(name.ljust(width[name]) for name in table.columns).rstrip()]
    rows = zip(*table.columns.values(), strict=True)
    lines += [
        "  ".join(
            cell.ljust(w) for cell, w in zip(row, width.values(), strict=True)
        ).rstrip()
        for row in rows
    ]
    lines += textwrap.wrap(table.note, 120)
    for row in summary.get("runs", ()):
        accuracy = ", ".join(f"{value:.3f}" for value in row["training_accuracy"])
        verdict = "" if row["judged"] else "  too low to be judged: train longer"
        lines.append(f"training accuracy of {row['run']}: {accuracy}{verdict}")
    if summary["checks"]:
        lines += ["", f"{'':6}{'value':>8}  {'bound':<22}check"]
        for row in summary["checks"]:
            lines.append(
                f"{'ok' if row['passed'] else 'FAIL':6}{row['value']:>8.3f} "
                f" {row['bound']:<22}{row['check']}"
            )
        passed = sum(row["passed"] for row in summary["checks"])
        lines += [f"{passed} of {len(summary['checks'])} checks passed", ""]
    lines += [
        f"differs from the paper: {difference}"
        for difference in summary.get("differs_from_paper", ())
    ]
    return "\n".join(lines)
