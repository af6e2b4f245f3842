"""Compiled programs, kept between runs."""

import hashlib
import os
import platform
import tempfile
from pathlib import Path

import jax
import platformdirs

LARGEST = 2**30  # bytes of all programs together; those used longest ago go first
SHORTEST = 0.5  # seconds of compilation that are worth a file


def keep_compiled_programs() -> Path | None:
    """Let JAX keep compiled programs in the user's cache folder, and return the folder.

    Programs are made for a version of JAX and a processor, so each pair has a folder of
    its own: a home that several machines share is safe, and so are several processes
    at once. A cache that is chosen already stays as it is, and where no folder can be
    written to nothing is kept; both return None.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return None
    made_for = f"{jax.__version__} {_processor()}"
    name = hashlib.sha256(made_for.encode()).hexdigest()[:16]
    cache = platformdirs.user_cache_path("linear-cnn", appauthor=False)
    folder = cache / "compiled" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _processor() -> str:
    """Its model and what it can do, as far as the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
