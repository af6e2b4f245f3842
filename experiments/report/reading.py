"""What the experiments have left on disk, read for the page."""

import base64
import inspect
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from experiments import catalogue
from experiments.catalogue import CATALOGUE
from experiments.frame import WHEREABOUTS, Table, disk, figures

ALL = "python -m experiments all --preset cpu"


class Figure(NamedTuple):
    """A picture as a data URI, with its size in pixels of a screen of 96 to the inch; a
    problem where it is damaged."""

    file: str
    caption: str
    alt: str
    source: str = ""
    width: int = 0
    height: int = 0
    problem: str | None = None


class Check(NamedTuple):
    """One check in words; the bound was written into the experiment's code before its
    results were known."""

    what: str
    paper: str
    ours: str
    bound: str
    passed: bool
    note: str


class Row(NamedTuple):
    """One line of the Markdown table; `verdict` is empty where there is no bound."""

    what: str
    paper: str
    ours: str
    bound: str
    verdict: str


class Result(NamedTuple):
    """What is shown of an experiment on a data set; all but the first fields are empty
    where there is a problem."""

    name: str
    anchor: str
    folder: Path
    data_set: str
    command: str
    problem: str | None = None
    preset: str | None = None
    table: Table | None = None
    checks: Sequence[Check] = ()
    rows: Sequence[Row] = ()
    accuracies: Sequence[Mapping[str, Any]] = ()
    differences: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    settings: Mapping[str, str] = {}
    environment: str = ""
    time: str = ""

    @property
    def passed(self) -> int:
        """How many checks have passed."""
        return sum(check.passed for check in self.checks)


def read(out: Path) -> list[Result]:
    """The results in a folder, in the order of the catalogue, those that are unfinished
    or damaged among them."""
    found = []
    for name in CATALOGUE:
        folders = sorted(
            path
            for path in (out / name).glob("*")
            if path.is_dir() and not path.name.startswith(".")
        )
        found += [
            _read(name, number, folder, out)
            for number, folder in enumerate(folders, start=1)
        ]
    return found


def missing(results: Sequence[Result], out: Path) -> dict[str, str]:
    """The experiments without any results, and the command that makes them."""
    there = {result.name for result in results}
    return {
        name: _default_command(name, out) for name in CATALOGUE if name not in there
    }


def _default_command(name: str, out: Path) -> str:
    return catalogue.command(name, _plain(asdict(catalogue.settings(name, "cpu"))), out)


def _read(name: str, number: int, folder: Path, out: Path) -> Result:
    anchor = f"{name}-{number}-{re.sub('[^A-Za-z0-9]+', '-', folder.name)}"
    known = Result(name, anchor, folder, folder.name, _default_command(name, out))
    again = "make them again"
    try:
        for file in ("config.json", "summary.json"):
            if not (folder / file).exists():
                return known._replace(problem=f"unfinished: {folder / file} is missing")
        config, summary = (
            disk.read_json(folder / file, again)
            for file in ("config.json", "summary.json")
        )
        settings = config["settings"]
        known = known._replace(
            data_set=str(settings["dataset"]),
            command=catalogue.command(name, settings, out),
            preset=settings.get("preset"),
        )
        table = catalogue.module(name).table(summary) if "results" in summary else None
        checks = _checks(summary, table)
        return known._replace(
            table=table,
            checks=checks,
            rows=_rows(checks, table),
            accuracies=_accuracies(summary),
            differences=[
                str(difference) for difference in summary.get("differs_from_paper", ())
            ],
            figures=_figures(name, folder, known),
            settings={
                key: _text(value)
                for key, value in settings.items()
                if key not in WHEREABOUTS
            },
            environment=_environment(config["environment"]),
            time=_time(config.get("seconds")),
        )
    # A file may hold anything. Whatever it is, the other results can still be shown.
    except Exception as error:
        reason = (
            str(error)
            if isinstance(error, ValueError | OSError)
            else f"{type(error).__name__}: {error}"
        )
        return known._replace(problem=f"damaged: {folder}: {reason}")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in settings.items()
    }


def _checks(summary: Mapping[str, Any], table: Table | None) -> list[Check]:
    papers = _papers(summary, table)
    return [_check(row, papers) for row in summary["checks"]]


def _check(row: Mapping[str, Any], papers: Sequence[tuple[float, str]]) -> Check:
    value = float(row["value"] if "value" in row else row["measured"])
    paper = row.get("paper") or next(
        (text for mean, text in papers if math.isclose(value, mean, rel_tol=1e-9)), ""
    )
    bound = row["bound"] if isinstance(row["bound"], str) else f"<= {row['bound']:.2g}"
    wrong = ", ".join(
        f"{name}: {number:.2g}"
        for name, number in row.get("wrong_formulas", {}).items()
    )
    moved = row.get("moved")
    note = "; ".join(
        filter(None, (moved and f"moved: {moved}", wrong and f"wrong formula {wrong}"))
    )
    if not isinstance(row["passed"], bool):
        raise ValueError(f"the check {row['check']!r} has no verdict")
    return Check(
        str(row["check"]), str(paper), _number(value), bound, row["passed"], note
    )


def _number(value: float) -> str:
    """Three digits, zeros at the end among them."""
    return f"{value:#.3g}".removesuffix(".")


def _papers(summary: Mapping[str, Any], table: Table | None) -> list[tuple[float, str]]:
    """Our means that have a number of the paper beside them, with it: a check of the
    same mean gets it too."""
    place = _paper_column(table)
    rows = summary.get("results", ())
    if table is None or place is None or len(rows) != len(table.columns[place[1]]):
        return []
    means = [
        next(
            (
                cell["mean"]
                for cell in row.values()
                if isinstance(cell, dict) and "mean" in cell
            ),
            None,
        )
        for row in rows
    ]
    return [
        (mean, cell)
        for mean, cell in zip(means, table.columns[place[1]], strict=True)
        if cell and mean is not None
    ]


def _paper_column(table: Table | None) -> tuple[str, str] | None:
    """The columns of our numbers and of the paper's: "paper" is right of ours, "paper,
    <ours>" wherever it may be."""
    headings = list(table.columns) if table else []
    for left, heading in itertools.pairwise(headings):
        if heading == "paper":
            return left, heading
        if (
            heading.startswith("paper, ")
            and heading.removeprefix("paper, ") in headings
        ):
            return heading.removeprefix("paper, "), heading
    return None


def _rows(checks: Sequence[Check], table: Table | None) -> list[Row]:
    """The checks, and before them what has a number of the paper and no bound."""
    rows = _grouped(checks)
    place = _paper_column(table)
    if table is None or place is None:
        return rows
    ours, paper = (table.columns[heading] for heading in place)
    unjudged = [
        Row(", ".join(label), paper[number], ours[number], "", "")
        for number, label in enumerate(zip(*_labels(table), strict=True))
        if paper[number]
        and not any(
            _is_judged_by(check, paper[number], ours[number]) for check in checks
        )
    ]
    return [*unjudged, *rows]


def _grouped(checks: Sequence[Check]) -> list[Row]:
    """A row for each check; those of one bound and one number of the paper that begin
    alike share one."""
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault(
            (check.what.partition(", ")[0], check.bound, check.paper), []
        ).append(check)
    return [
        (
            Row(alike[0].what, paper, alike[0].ours, bound, _verdict(alike[0]))
            if len(alike) == 1
            else Row(
                f"{beginning} ({len(alike)} cases)",
                paper,
                _range(alike),
                bound,
                _verdict(*alike),
            )
        )
        for (beginning, bound, paper), alike in groups.items()
    ]


def _range(checks: Sequence[Check]) -> str:
    lowest, *_, highest = sorted((check.ours for check in checks), key=float)
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _is_judged_by(check: Check, paper: str, ours: str) -> bool:
    """Whether a check has the number of a cell of the table, which is rounded
    otherwise."""
    try:
        value, shown = float(check.ours), float(ours.split(" ")[0])
    except ValueError:
        return False
    return check.paper == paper and math.isclose(
        value, shown, rel_tol=0.01, abs_tol=0.001
    )


def _labels(table: Table) -> list[list[str]]:
    """The columns that say what a row is about: those left of the first with numbers
    alone."""
    words = itertools.takewhile(
        lambda cells: not all(re.match(r"[-+]?[\d.]", cell) for cell in cells),
        table.columns.values(),
    )
    return list(words) or [next(iter(table.columns.values()))]


def _verdict(*checks: Check) -> str:
    failed = sum(not check.passed for check in checks)
    return (
        "met"
        if not failed
        else "not met"
        if failed == len(checks)
        else f"{failed} not met"
    )


def _accuracies(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    def text(values: Sequence[float]) -> str:
        return ", ".join(f"{value:.3f}" for value in values)

    return [
        {
            "run": str(row["run"]),
            "training": text(row["training_accuracy"]),
            "validation": text(row.get("validation_accuracy", ())),
            "judged": bool(row["judged"]),
        }
        for row in summary.get("runs", ())
    ]


def _figures(name: str, folder: Path, result: Result) -> list[Figure]:
    captions = CATALOGUE[name].captions
    general = (
        (inspect.getdoc(catalogue.module(name).draw) or CATALOGUE[name].shows)
        .split("\n\n")[0]
        .replace("\n", " ")
    )
    order = list(captions)
    files = sorted(
        folder.glob("*.png"),
        key=lambda file: (order.index(file.stem) if file.stem in order else -1, file),
    )
    return [_figure(file, captions.get(file.stem, general), result) for file in files]


def _figure(file: Path, caption: str, result: Result) -> Figure:
    alt = f"Figure of {result.name} on {result.data_set}. {caption}"
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            width, height = (
                round(pixels * 96 / figures.STYLE["savefig.dpi"])
                for pixels in picture.size
            )
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow raises SyntaxError for a broken PNG
        problem = (
            f"{file} is damaged ({error}); draw it again: {result.command} --redraw"
        )
        return Figure(file.name, caption, alt, problem=problem)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Figure(file.name, caption, alt, source, width, height)


def _environment(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}"
        for name, version in environment["versions"].items()
        if version
    )
    devices = environment["devices"]
    precision = "float64" if environment["float64"] else "float32"
    machine = f"{environment['machine']}, {len(devices)} x {devices[0]}, {precision}"
    return f"Python {environment['python']}; {versions}; {machine}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)
