"""Results that are committed: their summaries, and the tables that are made of them.

    python -m experiments report --publish docs

Copies what config.json and summary.json say of every finished result on a data set that
others can have into <docs>/results/<experiment>-<data set>.json, and writes from all
that lie there <docs>/results/table.md and the short table of the README. A number
stands in these files alone; the pages are made of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import catalogue
from experiments.catalogue import CATALOGUE
from experiments.download import standard
from experiments.frame import WHEREABOUTS, disk
from experiments.report.reading import Result, Row, read, with_summary

# What others can have under the same name.
COMMON = ("photographs", *standard.RECIPES)
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def publish(out: Path, docs: Path) -> list[Path]:
    """Copy the finished results of a folder, and write the pages again.

    A smoke run, and results on data or networks of the user's own, are left out.

    Returns:
      the files that were written.
    """
    folder = disk.prepare_folder(docs / "results", "--publish")
    written = []
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
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        made[readme] = _with_table(text, short_table(results))
    return made


def _with_table(text: str, table: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table}{end}{after}" if begin and end else text


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
        title = f"{result.name} ({CATALOGUE[result.name].paper}), {result.data_set}"
        title += ", smoke preset" if result.preset == "smoke" else ""
        if result.problem:
            lines.append(_line(title, result.problem, "", "", "", "not there", ""))
        lines += [_line(title, *row) for row in result.rows]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    safe = (
        re.sub(r"([\\|<>`*_\[\]])", r"\\\1", cell).replace("\n", " ") for cell in cells
    )
    return f"| {' | '.join(safe)} |"
