"""What one accelerator does, in a few minutes: `make accelerator`.

    python -m experiments.scaling.accelerator --out results/accelerator

Prints JSON, and writes it to <out>/accelerator.json: where it ran, and of each part its
seconds and its numbers, or why there are none. Everything else goes to stderr. Each
part is a process of its own, so that one that fails, or is killed, does not stop the
others; what the time does not suffice for is skipped, and that is said. What networks
were trained lies in <out>/runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments.frame import disk

FILE = "accelerator.json"
_LEAST = 20.0  # seconds that a part is worth being started for
_GRACE = 30.0  # seconds in which a part that ran out of time may say so itself


class Part(NamedTuple):
    """A part of `experiments.scaling.parts`.

    Attributes:
      title: what it is, in words.
      share: of the whole time that it may take at most.
    """

    name: str
    title: str
    share: float


PLAN = (
    Part("float32_tests", "the tests marked float32, on this backend", 0.3),
    Part("exact_dynamics", "linear CNNs in float32 and TF32 against float64", 0.15),
    Part("linear_cnns", "1 to 4,096 linear CNNs at once", 0.2),
    Part("images_per_second", "images a second, training VGG11", 0.15),
    Part("images_per_second_of_pytorch", "the same by PyTorch", 0.1),
    # The last, since it continues where it was stopped.
    Part("trained_networks", "paper preset, true and shuffled labels, two seeds", 1.0),
)


@dataclass(frozen=True)
class Settings:
    """What one accelerator does, in a few minutes."""

    out: Path = Path("results/accelerator")
    """Folder for the JSON and the runs."""
    minutes: float = 12.0
    """In which all parts have to be done; those left are skipped."""
    small: bool = False
    """Every part at small size, for a CPU: does everything work?"""
    only: tuple[str, ...] = ()
    """Only these parts."""


def main(settings: Settings) -> None:
    """Run the parts, and print what they found."""
    names = [part.name for part in PLAN]
    unknown = [name for name in settings.only if name not in names]
    if unknown or not settings.minutes > 0:
        wrong = f"--only must be of {', '.join(names)}, got {unknown}."
        if not unknown:
            wrong = f"--minutes must be positive, got {settings.minutes}."
        sys.exit(f"error: {wrong}")
    out = disk.prepare_folder(settings.out).resolve()
    plan = [part for part in PLAN if not settings.only or part.name in settings.only]
    report = run(plan, out, 60 * settings.minutes, settings.small)
    disk.write_json(out / FILE, report)
    print(disk.json_text(report), end="")
    sys.exit(any("numbers" not in part for part in report["parts"]))


def run(
    plan: Sequence[Part],
    out: Path,
    budget: float,
    small: bool,
    module: str = "experiments.scaling.parts",
) -> dict[str, Any]:
    """The report of parts that are run one after the other, within so many seconds."""
    started = time.perf_counter()
    environment, found = None, []
    for part in plan:
        left = budget - (time.perf_counter() - started)
        row: dict[str, Any] = {"name": part.name, "title": part.title}
        if left < min(_LEAST, budget):
            row["skipped"] = f"{max(left, 0):.0f} of {budget:.0f} seconds were left"
        else:
            print(f"{part.name}: {part.title}", file=sys.stderr, flush=True)
            begun = time.perf_counter()
            limit = min(left, part.share * budget)
            words = [part.name, str(out), str(limit), *(["--small"] if small else [])]
            content = _in_process([sys.executable, "-m", module, *words], limit)
            environment = content.pop("environment", environment)
            row |= {"seconds": round(time.perf_counter() - begun, 1)} | content
        found.append(row)
    return {
        "command": "make accelerator",
        "small": small,
        "environment": environment,
        "seconds": round(time.perf_counter() - started, 1),
        "parts": found,
    }


def _in_process(command: Sequence[str], limit: float) -> dict[str, Any]:
    """What a part has printed last, as JSON, or an "error"."""
    # All of the memory is too much where a part starts another process.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit + _GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            process.communicate()
            return {"error": f"killed after {limit + _GRACE:.0f} s"}
    sys.stderr.write(errors)
    try:
        content: dict[str, Any] = json.loads(output.strip().split("\n")[-1])
    except ValueError:
        reason = errors.strip().split("\n")[-1]
        return {"error": f"exit status {process.returncode}: {reason}"}
    return content


if __name__ == "__main__":
    main(tyro.cli(Settings, config=(tyro.conf.FlagCreatePairsOff,)))
