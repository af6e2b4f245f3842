"""Results that are committed: their summaries, and the tables that are made of them.

    python -m experiments report --publish docs

Copies what config.json and summary.json say of every finished result on a data set that
others can have into <docs>/results/<experiment>-<data set>.json, and writes from all
that lie there <docs>/results/table.md, the short table of the README, and for each
result all that it says, <docs>/results/<experiment>-<data set>.md. A number stands in
the JSON files alone; the pages are made of them.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import catalogue
from experiments.benchmark import publication
from experiments.catalogue import CATALOGUE
from experiments.download import standard
from experiments.frame import WHEREABOUTS, Table, disk
from experiments.frame.marks import between_marks
from experiments.report.reading import Result, Row, read, verdict_of, with_summary
from experiments.scaling import publication as scaling
from linear_cnn._text import escaped

# What others can have under the same name.
COMMON = ("photographs", *standard.RECIPES)


def publish(out: Path, docs: Path) -> list[Path]:
    """Copy the finished results of a folder, and write the pages again.

    A smoke run, and results on data or networks of the user's own, are left out.

    Returns:
      the files that were written.
    """
    folder = disk.prepare_folder(docs / "results", "--publish")
    written = publication.publish(out, docs) + scaling.publish(out, docs)
    for result in read(out):
        if result.problem or result.preset == "smoke":
            continue
        config, summary = (
            disk.read_json(result.folder / file, "make the results again")
            for file in ("config.json", "summary.json")
        )
        if _private(config["settings"]):
            continue
        command = catalogue.command(result.name, config["settings"], Path("results"))
        content = {"command": command, **config, "summary": summary}
        file = folder / f"{result.name}-{result.data_set}.json"
        disk.write_json(file, _without_whereabouts(content))
        written.append(file)
    for file, text in pages(docs).items():
        disk.write_text(file, text)
        written.append(file)
    return written


def _private(settings: Mapping[str, Any]) -> bool:
    data = (settings["dataset"], settings.get("second"))
    return any(name and name not in COMMON for name in data) or bool(
        settings.get("files")
    )


def _without_whereabouts(content: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(disk.json_text(content))
    known = plain["settings"]
    plain["settings"] = {k: v for k, v in known.items() if k not in WHEREABOUTS}
    return plain


def published(docs: Path) -> list[Result]:
    """The results that are committed, in the order of the catalogue."""
    found = []
    for name in CATALOGUE:
        for file in sorted((docs / "results").glob(f"{name}-*.json")):
            content = disk.read_json(file, "publish the results again")
            data_set = file.stem.removeprefix(f"{name}-")
            known = Result(name, file.stem, file, data_set, content["command"])
            found.append(with_summary(known, content, content["summary"]))
    return found


def pages(docs: Path) -> dict[Path, str]:
    """What the pages that hold results must say, by their files."""
    results = published(docs)
    readme = docs.parent / "README.md"
    made = {docs / "results" / "table.md": markdown(results)}
    made |= {result.folder.with_suffix(".md"): page(result) for result in results}
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        made[readme] = between_marks(text, short_table(results))
    return made | publication.pages(docs) | scaling.pages(docs)


def short_table(results: Sequence[Result]) -> str:
    """Ours beside the paper's, for the README: what the paper has a number for."""
    lines = [
        "| figure or table | what | paper | ours | bound |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for row in result.rows:
            if row.paper:
                lines.append(_line(CATALOGUE[result.name].paper, *_short(row)))
    there = {result.name for result in results}
    missing = [
        f"[{name}](docs/results/{name}.md)" for name in CATALOGUE if name not in there
    ]
    if missing:
        # In lines that are no wider than those around them.
        text = f"No results of this version are saved of {', '.join(missing)}."
        lines += ["", *textwrap.wrap(text, 120, break_long_words=False)]
    return "\n".join(lines) + "\n"


def _short(row: Row) -> tuple[str, ...]:
    verdict = f"{row.bound} ({row.verdict})" if row.bound else ""
    return row.what, row.paper, row.ours, verdict


def markdown(results: Sequence[Result]) -> str:
    """The table: experiment, what, paper, ours, bound, verdict, notes."""
    lines = [
        _line("experiment", "what", "paper", "ours", "bound", "verdict", "notes"),
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        entry = catalogue.entries()[result.name]
        title = f"{result.name} ({entry.paper}), {result.data_set}"
        title += ", smoke preset" if result.preset == "smoke" else ""
        if result.problem:
            lines.append(_line(title, result.problem, "", "", "", "not there", ""))
        lines += [_line(title, *row) for row in result.rows]
    return "\n".join(lines) + "\n"


def page(result: Result) -> str:
    """All that a result says, to stand below a heading of second order: its own table,
    its checks, the accuracies of its networks, what differs from the paper, and how it
    was made."""
    parts = [f"### On {_safe(result.data_set)}"]
    if result.problem:
        return f"{parts[0]}\n\n{_safe(result.problem)}\n"
    if result.preset == "smoke":
        parts.append("A smoke run: its numbers mean nothing.")
    parts += _own_table(result.table) + _checks(result) + _networks(result)
    if result.differences:
        parts.append("**What differs from the paper.**")
        parts.append("\n".join(f"- {_safe(text)}" for text in result.differences))
    parts.append("**How it was made.**")
    parts.append(f"```console\n{_broken(result.command)}\n```")
    time = (
        f" Computed in {result.time}, without the training that had been done before."
    )
    parts.append(f"{_safe(result.environment)}.{time if result.time else ''}")
    return "\n\n".join(parts) + "\n"


def _broken(command: str) -> str:
    """A command on lines that a page has room for."""
    first, *options = command.split(" --")
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(option) > 74:
            lines.append("   ")
        lines[-1] += f" --{option}"
    return " \\\n".join(lines)


def _own_table(table: Table | None) -> list[str]:
    if table is None:
        return []
    rows = zip(*table.columns.values(), strict=True)
    return [_table([*table.columns], rows), _safe(_sentence(table.note))]


def _checks(result: Result) -> list[str]:
    if not result.checks:
        return []
    count = (
        f" {result.passed} of {len(result.judged)} are met." if result.judged else ""
    )
    columns = {
        "what": [check.title for check in result.checks],
        "value": [check.number for check in result.checks],
        "paper": [check.paper for check in result.checks],
        "bound": [check.bound for check in result.checks],
        "verdict": [verdict_of([check]) for check in result.checks],
        "notes": [check.notes for check in result.checks],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    return [
        f"**Checks.**{count}",
        _table([*filled], zip(*filled.values(), strict=True)),
    ]


def _networks(result: Result) -> list[str]:
    if not result.accuracies:
        return []
    rows = [
        (
            row["run"],
            row["training"] + ("" if row["judged"] else " (too low to be judged)"),
            row["validation"],
        )
        for row in result.accuracies
    ]
    names = ["networks", "on training images", "on validation images"]
    return ["**Accuracy of each network.**", _table(names, rows)]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        [_line(*names), "|---" * len(names) + "|", *(_line(*r) for r in rows)]
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _line(*cells: str) -> str:
    return f"| {' | '.join(map(_safe, cells))} |"


def _safe(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    plain = escaped(text.replace("\n", " "))
    return re.sub(r"([\\|<>`*_\[\]$])", r"\\\1", plain)
