"""Where the time of a first call goes: every program that JAX makes, its size, and the
seconds of tracing, lowering and compiling it."""

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

SMALL = 0.1  # seconds; programs below share a line
_STAGES = {
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "compiling",
}


def report(method: str, file: str) -> None:
    """Call a method once in this process, and print its programs as one line of
    JSON."""
    from experiments.benchmark.methods import METHODS

    compute = METHODS[method].prepare(np.load(file))
    print(json.dumps(programs(compute)))


def programs(compute: Any) -> dict[str, Any]:
    """What JAX compiles during a call.

    Returns:
      "seconds" of the call, and "programs", the longest first, each with "program",
      "count", "lines" of StableHLO and seconds of "tracing", "lowering" and
      "compiling".
    """
    stages: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        stage = _STAGES.get(event.rsplit("/", 1)[-1])
        if stage is not None:
            name = str(about["fun_name"]).removeprefix("jit(").removesuffix(")")
            stages[name][stage] += duration_secs
            counts[name] += stage == "compiling"

    # Nothing takes it away again: a process of its own.
    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_dump_ir_to", folder)
        started = time.perf_counter()
        compute()
        seconds = time.perf_counter() - started
        lines: Counter[str] = Counter()
        for path in Path(folder).glob("*.mlir"):
            name = path.stem.split("_jit_", 1)[-1].removesuffix("_compile")
            lines[name] += len(path.read_text().splitlines())
    rows = [
        {"program": name, "count": count, "lines": lines[name]}
        | {stage: stages[name][stage] for stage in _STAGES.values()}
        for name, count in counts.items()
        if count
    ]
    return {"seconds": seconds, "programs": _merged(rows)}


def _merged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The longest first, those of little time in one line."""

    def total(row: Mapping[str, Any]) -> float:
        return sum(row[stage] for stage in _STAGES.values())

    large = sorted((dict(r) for r in rows if total(r) >= SMALL), key=total)[::-1]
    small = [row for row in rows if total(row) < SMALL]
    if small:
        names = ("count", "lines", *_STAGES.values())
        sums = {name: sum(row[name] for row in small) for name in names}
        large.append({"program": "others"} | sums)
    return large


def text(profiles: Sequence[Mapping[str, Any]]) -> str:
    """Profiles of several methods and versions as a table."""
    lines = []
    for profile in profiles:
        rows = profile["programs"]
        count = sum(row["count"] for row in rows)
        lines.append(
            f"{profile['method']}; {profile['version']}: {count} programs,"
            f" {profile['seconds']:.3g} s"
        )
        lines.append(
            f"    {'program':24}{'count':>6}{'lines':>8}"
            + "".join(f"{stage:>11}" for stage in _STAGES.values())
        )
        lines += [
            f"    {row['program']:24}{row['count']:>6}{row['lines']:>8,}"
            + "".join(f"{row[stage]:>9.2f} s" for stage in _STAGES.values())
            for row in rows
        ]
    return "\n".join(lines)
