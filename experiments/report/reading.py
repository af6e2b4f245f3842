"""What the experiments have left on disk, read for the page."""

import base64
import inspect
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from experiments import catalogue
from experiments.catalogue import CATALOGUE
from experiments.frame import Check, Table, disk, figures, read_checks

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


class Row(NamedTuple):
    """One line of the tables of all results: checks of one group.

    Attributes:
      what: in words.
      paper, ours: numbers as text; a range where several checks share the line.
      bound, verdict: empty where there is none.
      notes: what to know before the verdict is believed.
    """

    what: str
    paper: str
    ours: str
    bound: str
    verdict: str
    notes: str


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
    def judged(self) -> Sequence[Check]:
        """The checks that have a verdict."""
        return [check for check in self.checks if check.passed is not None]

    @property
    def passed(self) -> int:
        """How many checks have passed."""
        return sum(check.passed is True for check in self.checks)


def read(out: Path) -> list[Result]:
    """The results in a folder, in the order of the catalogue, tools last, those that
    are unfinished or damaged among them."""
    found = []
    for name in catalogue.entries():
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
        known = known._replace(
            data_set=str(config["settings"]["dataset"]),
            command=catalogue.command(name, config["settings"], out),
        )
        found = with_summary(known, config, summary)
        return found._replace(figures=_figures(name, folder, found))
    # A file may hold anything. Whatever it is, the other results can still be shown.
    except Exception as error:
        reason = (
            str(error)
            if isinstance(error, ValueError | OSError)
            else f"{type(error).__name__}: {error}"
        )
        return known._replace(problem=f"damaged: {folder}: {reason}")


def with_summary(
    known: Result, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> Result:
    """A result with all that its config.json and summary.json say."""
    settings = config["settings"]
    checks = read_checks(summary)
    table = (
        catalogue.module(known.name).table(summary) if "results" in summary else None
    )
    return known._replace(
        preset=settings.get("preset"),
        table=table,
        checks=checks,
        rows=rows(checks),
        accuracies=_accuracies(summary),
        differences=[str(text) for text in summary.get("differs_from_paper", ())],
        settings={
            key: _text(value)
            for key, value in catalogue.shown_settings(known.name, settings).items()
        },
        environment=_environment(config["environment"]),
        time=_time(config.get("seconds")),
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in settings.items()
    }


def rows(checks: Sequence[Check]) -> list[Row]:
    """A row for each group of checks that share the bound and the paper's number."""
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.group, check.bound, check.paper), []).append(check)
    return [_row(alike) for alike in groups.values()]


def _row(alike: Sequence[Check]) -> Row:
    first = alike[0]
    what, ours = first.title, first.number
    if len(alike) > 1:
        what = f"{first.group} ({len(alike)} cases)"
        lowest, *_, highest = sorted(alike, key=lambda check: check.value)
        if lowest.number != highest.number:
            ours = f"{lowest.number} to {highest.number}"
    notes = dict.fromkeys(
        note for check in alike for note in (check.after, check.caveat) if note
    )
    verdict = verdict_of(alike)
    return Row(what, first.paper, ours, first.bound, verdict, "; ".join(notes))


def verdict_of(checks: Sequence[Check]) -> str:
    """What they have come to, in words."""
    if not checks[0].bound:
        return ""
    verdicts = [check.verdict for check in checks]
    words = {"FAIL": "not met", "not reached": "not reached"}
    counts = {words[kind]: verdicts.count(kind) for kind in words if kind in verdicts}
    if len(checks) in counts.values():
        return next(iter(counts))
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "met"


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
    entry = catalogue.entries()[name]
    general = (
        (inspect.getdoc(catalogue.module(name).draw) or entry.shows)
        .split("\n\n")[0]
        .replace("\n", " ")
    )
    order = list(entry.captions)
    files = sorted(
        folder.glob("*.png"),
        key=lambda file: (order.index(file.stem) if file.stem in order else -1, file),
    )
    return [
        _figure(file, entry.captions.get(file.stem, general), result) for file in files
    ]


def _figure(file: Path, caption: str, result: Result) -> Figure:
    alt = f"Figure of {result.name} on {result.data_set}. {caption}"
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
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
