"""The measurements that are committed, and the page that is written from them.

<docs>/results/benchmark.json has the newest measurement of every row on CIFAR-10; what
stands between the marks of <docs>/benchmark.md is made of it.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmark import growth, programs
from experiments.benchmark.comparison import BUSY, busy, table
from experiments.benchmark.rows import GROWTH, MANY, rows
from experiments.frame import disk
from experiments.frame.marks import between_marks

DATA_SET, SHAPE = "cifar10", (MANY, 32, 32, 3)
PROGRAMS = "What a first call compiles"


def publish(out: Path, docs: Path) -> list[Path]:
    """Add the measurements of a folder of results to those that are committed, and
    write page and figure.

    Returns:
      the files that were written; none where nothing was measured on CIFAR-10.
    """
    files = sorted(
        (out / "benchmark").glob("summary*.json"), key=lambda file: file.stat().st_mtime
    )
    summaries = [disk.read_json(file, "measure again") for file in files]
    summaries = [s for s in summaries if s["settings"]["dataset"] == DATA_SET]
    if not summaries:
        return []
    folder = disk.prepare_folder(docs / "results", "--publish")
    content = merged([_committed(docs) or {}, *summaries])
    disk.write_json(folder / "benchmark.json", content)
    written = [folder / "benchmark.json"]
    for file, text in pages(docs).items():
        disk.write_text(file, text)
        written.append(file)
    found = growth.courses(content["rows"])
    if found:
        growth.draw(found, docs)
        (docs / f"{growth.FIGURE}.pdf").unlink()  # the page has no use for it
        written.append(docs / f"{growth.FIGURE}.png")
    return written


def merged(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest measurement of every row that still exists, later summaries being the
    newer ones, with as many digits as mean something."""
    found = {_key(row): row for s in summaries for row in s.get("rows", ())}
    profiles = {
        (p["method"], p["version"]): p for s in summaries for p in s.get("programs", ())
    }
    environment = summaries[-1]["environment"]
    # A peer that is not installed now has made older rows.
    peers: dict[str, Any] = {}
    for summary in summaries:
        given = summary["environment"]["peers"] if "environment" in summary else {}
        peers |= {name: given[name] or peers.get(name) for name in given}
    return disk.each_float(
        disk.four_digits,
        {
            "command": "python -m experiments benchmark --dataset cifar10",
            "environment": environment | {"peers": peers},
            "rows": [found[key] for key in _asked() if key in found],
            "programs": [profiles[key] for key in sorted(profiles)],
        },
    )


def pages(docs: Path) -> dict[Path, str]:
    """What the page must say, by its file; nothing where there is no page, or nothing
    was published."""
    file, content = docs / "benchmark.md", _committed(docs)
    if content is None or not file.exists():
        return {}
    return {file: between_marks(file.read_text(encoding="utf-8"), page(content))}


def page(content: Mapping[str, Any]) -> str:
    """The part of the page that is made of the measurements."""
    environment = content["environment"]
    machine = environment["machine"]
    versions = {"Python": environment["python"]} | {
        name: version
        for name, version in (environment["versions"] | environment["peers"]).items()
        if version and name in ("jax", "numpy", *environment["peers"])
    }
    parts = [
        f"{machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gigabytes']} GB;"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}."
        f" {_runs(content['rows'])}"
    ]
    parts += [
        f"## {section}\n\n:::{{container}} listing\n\n```text\n{text}\n```\n\n:::"
        for section, text in sections(content).items()
    ]
    there = {_key(row) for row in content["rows"]}
    missing = [name for key, name in _asked().items() if key not in there]
    if missing:
        text = f"Not measured: {'; '.join(dict.fromkeys(missing))}."
        parts.append("\n".join(textwrap.wrap(text, 120, break_long_words=False)))
    return "\n\n".join(parts) + "\n"


def listings(content: Mapping[str, Any]) -> str:
    """All sections as text, each below its heading."""
    return "\n\n".join(f"{name}\n{text}" for name, text in sections(content).items())


def sections(content: Mapping[str, Any]) -> dict[str, str]:
    """The listings by their headings: of rows, of growth, of programs."""
    named: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        named.setdefault(row["section"], []).append(row)
    texts = {
        section: table(found) if section != GROWTH else _growth(found)
        for section, found in named.items()
    }
    if content["programs"]:
        texts[PROGRAMS] = programs.text(content["programs"])
    return texts


def _growth(found: list[dict[str, Any]]) -> str:
    text = growth.text(growth.courses(found))
    used = max(map(busy, found))
    return (
        f"{text}\nbusy: others used up to {used:.1f} cores meanwhile"
        if used > BUSY
        else text
    )


def _runs(found: list[dict[str, Any]]) -> str:
    loads = [row["load"] for row in found]
    runs = [len(row["ours"]["seconds"]) for row in found]
    return (
        f"Processes a number: {min(runs)} to {max(runs)}. Load before the measurements"
        f" began: {min(loads):.1f} to {max(loads):.1f}."
    )


def _committed(docs: Path) -> dict[str, Any] | None:
    file = docs / "results" / "benchmark.json"
    if not file.exists():
        return None
    content: dict[str, Any] = disk.read_json(file, "publish the measurements again")
    return content


def _asked() -> dict[tuple[Any, ...], str]:
    """Keys and names of the rows that there are, in their order."""
    named = {}
    for row in rows(SHAPE):
        ours, peer = row.ours._asdict(), row.peer and row.peer._asdict()
        name = f"{row.title} ({f'{row.size:,}' if row.size else row.ours.method})"
        named[_key({"title": row.title, "ours": ours, "peer": peer})] = name
    return named


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["title"], *_task(row["ours"]), *_task(row["peer"]))


def _task(task: Mapping[str, Any] | None) -> tuple[Any, ...]:
    return (task["method"], task["images"], task["cached"]) if task else (None,)
