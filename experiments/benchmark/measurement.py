"""Time and memory of one method in a process of its own, and the machine."""

import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import Task
from experiments.frame.disk import version

Measurement = dict[str, Any]


def installed(task: Task) -> bool:
    package = METHODS[task.method].package
    return package is None or version(package) is not None


def measure(method: str, images: Path) -> Measurement:
    """What `report` measures, in a fresh process.

    Args:
      method: a name of `METHODS`.
      images: .npy file.

    Returns:
      "seconds" of the first call and "seconds_again" of the second, "megabytes" of peak
      memory, whether the memory is only a "lower_bound", and the "values" that were
      computed.

    Raises:
      ChildProcessError: the process failed, with what it said.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    # Compilation is part of the first call.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    # From where this file is, whatever lies in the working folder.
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    program = (
        "import sys; from experiments.benchmark.measurement import report;"
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
    return json.loads(done.stdout.splitlines()[-1])  # libraries may print as well


def report(method: str, file: str) -> None:
    """Measure a method in this process, and print the measurement as one line of
    JSON."""
    images = np.load(file)
    compute = METHODS[method].prepare(images)
    gc.collect()
    exact = forget_peak()
    level = peak_memory()
    started = time.perf_counter()
    values = compute()
    seconds = time.perf_counter() - started
    peak = peak_memory()
    started = time.perf_counter()
    compute()
    again = time.perf_counter() - started
    measurement = {
        "seconds": seconds,
        "seconds_again": again,
        "megabytes": (peak - level) / 1e6,
    }
    print(
        json.dumps(measurement | {"lower_bound": not exact, "values": values.tolist()})
    )


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
