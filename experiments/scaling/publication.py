"""The page on many devices, written from what was measured and compiled.

<docs>/results/memory.json is what `experiments.scaling.memory` found, and
<docs>/results/accelerator.json what `make accelerator` found on an accelerator, if it
was ever run on one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark import growth
from experiments.frame import disk
from experiments.frame.marks import between_marks
from experiments.scaling.accelerator import FILE, PLAN

MEMORY = "memory.json"
NOT_RUN = "not run on a GPU"
# Of docs/benchmark.md, what stands beside the compiler's numbers.
MEASURED = ("patch_moments of a stream", f"linear CNNs, {growth.STEPS:,} steps")


def publish(out: Path, docs: Path) -> list[Path]:
    """Copy what `make accelerator` has left in a folder of results, unless it was small
    or on a CPU.

    Returns:
      the files that were written.
    """
    file = out / "accelerator" / FILE
    if not file.exists():
        return []
    content = disk.read_json(file, "run make accelerator again")
    backend = (content["environment"] or {}).get("backend")
    if content["small"] or backend in (None, "cpu"):
        return []
    written = [disk.prepare_folder(docs / "results", "--publish") / FILE]
    disk.write_json(written[0], content)
    return written


def pages(docs: Path) -> dict[Path, str]:
    """What the page must say, by its file; nothing where there is no page, or nothing
    was compiled."""
    file, memory = docs / "scaling.md", _read(docs / "results" / MEMORY)
    if memory is None or not file.exists():
        return {}
    benchmark = _read(docs / "results" / "benchmark.json") or {"rows": []}
    part = "\n\n".join(
        [
            "## Memory of a device",
            memory_table(memory["rows"]),
            *growth_lines(benchmark["rows"]),
            "## One accelerator",
            accelerator_table(_read(docs / "results" / FILE)),
        ]
    )
    return {file: between_marks(file.read_text(encoding="utf-8"), part + "\n")}


def memory_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each program."""
    lines = [
        "| program | devices | arguments | results | temporary |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['what']}: {_count(row)}", str(row["devices"])]
        cells += [_bytes(row[name]) for name in ("arguments", "results", "temporary")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _count(row: Mapping[str, Any]) -> str:
    """Of how many images or seeds a program is."""
    if "seeds" in row:
        return f"{row['seeds']:,} seeds"
    all_of_them = f"{row['images']:,} images"
    if row["at_once"] == row["images"]:
        return f"{all_of_them} at once"
    return f"{all_of_them} in batches of {row['at_once']:,}"


def growth_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was measured of the growth of the same, a paragraph."""
    sentences = [
        f"{course.series.title}: {course.megabytes[-1]:.3g} MB at"
        f" {course.sizes[-1]:,} {course.series.along}, exponent"
        f" {course.memory_slope:.2f}"
        for course in growth.courses(rows)
        if course.series.title in MEASURED and course.memory_slope is not None
    ]
    return [f"Measured on 2 cores: {'; '.join(sentences)}."] if sentences else []


def accelerator_table(content: Mapping[str, Any] | None) -> str:
    """A row for each part of `make accelerator`, and where it ran."""
    found = {part["name"]: part for part in content["parts"]} if content else {}
    lines = ["| part | seconds | what came out |", "|---|---|---|"]
    for part in PLAN:
        row = found.get(part.name, {})
        seconds = row.get("seconds", "")
        said = row.get("error") or row.get("skipped") or row.get("numbers") or NOT_RUN
        text = _words(said).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {part.title} | {seconds} | {text} |")
    if content:
        environment = content["environment"]
        devices = environment["devices"]
        where = f"{len(devices)} x {devices[0]}, jax {environment['versions']['jax']}"
        lines += ["", f"On {where}, in {content['seconds']:.0f} seconds."]
    return "\n".join(lines)


def _words(value: Any) -> str:
    """Numbers by their names, as text."""
    if isinstance(value, Mapping):
        return "; ".join(
            f"{name.replace('_', ' ')} {_words(one)}" for name, one in value.items()
        )
    if isinstance(value, list):
        return ", ".join(map(_words, value)) if value else "none"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value}"


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _read(file: Path) -> Any:
    return disk.read_json(file, "publish it again") if file.exists() else None
