"""The one way from settings to arrays, summary, figure and table, which all experiments
go."""

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

from experiments.frame import disk, figures
from experiments.frame.checks import as_rows, read_checks
from experiments.frame.hosts import hosts
from experiments.frame.settings import AS_STORED, WHEREABOUTS

Arrays = dict[str, np.ndarray]
SMOKE = "smoke run: means nothing"


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
    settings: Any,
    compute: Callable[[Any], Arrays],
    summary: Callable[[Arrays], dict[str, Any]],
    draw: Callable[[Path, Arrays], None],
    table: Callable[[dict[str, Any]], Table | None],
) -> None:
    """Compute, save, draw and print; with `settings.redraw` draw and print from what
    was saved."""
    folder = disk.folder(settings.out, name, settings.dataset)
    if settings.redraw:
        if not hosts().first:
            return
        arrays = saved_arrays(folder)
        with _of_this_version(folder / "arrays.npz"):
            preset = saved_preset(folder)
            found = summed_up(summary(arrays), preset)
            draw_in_style(draw, folder, arrays)
    else:
        disk.prepare_folder(folder)
        started = time.perf_counter()
        arrays = compute(settings)
        if not hosts().first:
            return
        preset = settings.preset
        found = summed_up(summary(arrays), preset)
        write(folder, settings, arrays, found, draw, time.perf_counter() - started)
    print(text(table(found), found))
    if preset == "smoke":
        print(SMOKE)
    print(f"written to {folder}")


@contextmanager
def _of_this_version(file: Path) -> Iterator[None]:
    """Say of saved arrays that cannot be used what to do."""
    try:
        yield
    # An array is missing, or has other axes or values: they fail anywhere.
    except Exception as error:
        if isinstance(error, OSError):
            raise
        reason = (
            f"the array {error} is missing"
            if isinstance(error, KeyError)
            else f"{type(error).__name__}: {error}"
        )
        raise ValueError(
            f"{file} holds results of another version, or is damaged ({reason[:200]});"
            " run the experiment again without --redraw."
        ) from error


def summed_up(summary: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """A summary as it is saved; a check of a smoke run says that it means nothing."""
    checks = summary["checks"]
    if preset == "smoke":
        checks = [replace(one, caveat=SMOKE) for one in checks]
    return summary | {"checks": as_rows(checks)}


def saved_preset(folder: Path) -> str | None:
    """The preset of the results in a folder, None where they had none."""
    try:
        return disk.read_json(folder / "config.json", "")["settings"].get("preset")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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
        read_checks(disk.read_json(folder / "summary.json", ""))
    except (OSError, ValueError, TypeError):
        return False
    wanted = json.loads(disk.json_text(asdict(settings)))
    made = found.get("settings") if isinstance(found, dict) else None
    return _results_depend_on(made) == _results_depend_on(wanted)


def _results_depend_on(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return None
    # A preset is only where the other settings began.
    others = ("preset", *WHEREABOUTS)
    settings = AS_STORED | settings
    return {name: value for name, value in settings.items() if name not in others}


def text(table: Table | None, summary: Mapping[str, Any]) -> str:
    """A table, and what else the summary holds: accuracies of the runs, checks, and
    differences from the paper."""
    lines = [] if table is None else table_lines(table)
    for row in summary.get("runs", ()):
        accuracy = ", ".join(f"{value:.3f}" for value in row["training_accuracy"])
        verdict = "" if row["judged"] else "  too low to be judged: train longer"
        lines.append(f"training accuracy of {row['run']}: {accuracy}{verdict}")
    lines += check_lines(summary)
    lines += [
        f"differs from the paper: {difference}"
        for difference in summary.get("differs_from_paper", ())
    ]
    return "\n".join(lines)


def table_lines(table: Table) -> list[str]:
    """A table as text, its columns side by side."""
    cells = [[name, *column] for name, column in table.columns.items()]
    width = [max(map(len, column)) for column in cells]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip()
        for row in zip(*cells, strict=True)
    ]
    return [*lines, *textwrap.wrap(table.note, 120)]


def check_lines(summary: Mapping[str, Any]) -> list[str]:
    """The checks of a summary as text: value, bound, verdict, and what to know."""
    checks = [one for one in read_checks(summary) if one.bound]
    if not checks:
        return []
    # Beside the verdict where it is about the whole run, below it where it is not.
    verdicts = [
        f"{one.verdict} ({SMOKE})" if one.caveat == SMOKE else one.verdict
        for one in checks
    ]
    width = max(map(len, verdicts)) + 2
    lines = ["", f"{'':{width}}{'value':>9}  {'bound':<22}check"]
    for one, verdict in zip(checks, verdicts, strict=True):
        lines.append(f"{verdict:{width}}{one.number:>9}  {one.bound:<22}{one.title}")
        notes = replace(one, caveat="").notes if one.caveat == SMOKE else one.notes
        lines += [f"{'':{width + 33}}{notes}"] if notes else []
    judged = [one for one in checks if one.passed is not None]
    passed = sum(one.passed is True for one in judged)
    rest = len(checks) - len(judged)
    return [
        *lines,
        f"{passed} of {len(judged)} checks passed"
        + (f", {rest} not reached" if rest else ""),
        "",
    ]
