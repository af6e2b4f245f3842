"""Time and memory of one method in a process of its own, and the machine."""

import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import Task
from experiments.compiled import SETTINGS
from experiments.frame.disk import version

Measurement = dict[str, Any]


def installed(task: Task) -> bool:
    package = METHODS[task.method].package
    return package is None or version(package) is not None


def measure(method: str, images: Path, cache: Path | None = None) -> Measurement:
    """What `report` measures, in a fresh process.

    Args:
      method: a name of `METHODS`.
      images: .npy file.
      cache: folder where JAX keeps compiled programs, as the experiments let it; by
        default nothing is kept.

    Returns:
      "seconds" of the first call and "seconds_again" of the second, "cpu" and
      "cpu_again", the same of all cores together, "megabytes" of peak memory, whether
      the memory is only a "lower_bound", the "values" that were computed, and how many
      cores "others" have used meanwhile (None: not known).

    Raises:
      ChildProcessError: the process failed, with what it said.
    """
    started, used, own = time.perf_counter(), _cores_used(), _used_by_children()
    measurement = in_fresh_process("measurement", method, images, cache)
    others = None
    if used is not None:
        total, seconds = _cores_used() or used, time.perf_counter() - started
        others = max(0.0, (total - used - _used_by_children() + own) / seconds)
    return measurement | {"others": others}


def profile(method: str, images: Path) -> dict[str, Any]:
    """What `programs.report` finds, in a fresh process."""
    return in_fresh_process("programs", method, images)


def in_fresh_process(
    module: str, method: str, images: Path, cache: Path | None = None
) -> dict[str, Any]:
    """The JSON that `report` of a module of this room prints."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    # Compilation is part of the first call.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        environment |= {name.upper(): str(value) for name, value in SETTINGS.items()}
    # From where this file is, whatever lies in the working folder.
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    program = (
        f"import sys; from experiments.benchmark.{module} import report;"
        " report(*sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, method, str(images)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode == -signal.SIGKILL:
        raise ChildProcessError(
            f"{method} was killed, probably for want of memory; use fewer with"
            " --images."
        )
    if done.returncode:
        raise ChildProcessError(
            f"{method} failed with exit code {done.returncode}:\n{done.stderr.strip()}"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found  # libraries may print as well


def _cores_used() -> float | None:
    """Seconds that all cores have worked, where the system says so."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, fields[:8])
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def _used_by_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def report(method: str, file: str) -> None:
    """Measure a method in this process, and print the measurement as one line of
    JSON."""
    images = np.load(file)
    compute = METHODS[method].prepare(images)
    gc.collect()
    exact = forget_peak()
    level = peak_memory()
    values, seconds, cpu = timed(compute)
    peak = peak_memory()
    _, again, cpu_again = timed(compute)
    measurement = {
        "seconds": seconds,
        "seconds_again": again,
        "cpu": cpu,
        "cpu_again": cpu_again,
        "megabytes": (peak - level) / 1e6,
    }
    print(
        json.dumps(measurement | {"lower_bound": not exact, "values": values.tolist()})
    )


def timed(compute: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What a call returns, its seconds, and the seconds of all cores together."""
    started, cpu = time.perf_counter(), time.process_time()
    values = compute()
    return values, time.perf_counter() - started, time.process_time() - cpu


def forget_peak() -> bool:
    """Let the peak of this process's memory start again from its present level; False
    where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """Largest resident memory of this process, in bytes, since `forget_peak` succeeded
    or else since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        return int(line.split()[1]) * 1024
    import resource  # not on every system, and only needed where there is no /proc

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the load: processes that have wanted to run in the
    last minute, on average."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [
        line.partition(":")[2].strip()
        for line in lines
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1
        ),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }
