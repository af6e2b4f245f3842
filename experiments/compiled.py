"""Compiled programs, kept between runs."""

import hashlib
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import jax
import platformdirs

from experiments.frame.disk import prepare_folder

# Unless the user's environment says otherwise.
SETTINGS = {
    # Bytes of all programs together; those used longest ago go first.
    "jax_compilation_cache_max_size": 2**30,
    # Seconds of compilation that are worth a file.
    "jax_persistent_cache_min_compile_time_secs": 0.2,
}
_DAY = 24 * 3600.0
_FORGOTTEN, _UNFINISHED = 90 * _DAY, _DAY


def keep_compiled_programs() -> Path | None:
    """Let JAX keep compiled programs in the user's cache folder, and return the folder.

    Programs are made for a version of JAX and a processor, so each pair has a folder of
    its own: a home that several machines share is safe, and so are several processes
    at once. A cache that is chosen already stays as it is, and where no folder can be
    written to nothing is kept, and that is said; both return None.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return None
    cache = platformdirs.user_cache_path("linear-cnn", appauthor=False)
    folder = cache / "compiled" / _made_for()
    try:
        prepare_folder(folder)
        os.utime(folder)  # in use
        _clean(folder)
    except OSError as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        print(
            f"compiled programs are not kept, since {folder} cannot be written to"
            f" ({reason}); XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR name another"
            " place, --no-cache does without",
            file=sys.stderr,
        )
        return None
    for setting, value in SETTINGS.items():
        if setting.upper() not in os.environ:
            jax.config.update(setting, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _made_for() -> str:
    """A name for this version of JAX and this processor."""
    text = f"{jax.__version__} {_processor()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    """Its model and what it can do, as far as the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _clean(folder: Path) -> None:
    """Remove folders beside this one that nobody has used for long, and what a process
    that was killed has left of a program in this one."""
    now = time.time()
    for other in folder.parent.iterdir():
        # Another process may do the same.
        with suppress(OSError):
            if other != folder and now - other.stat().st_mtime > _FORGOTTEN:
                shutil.rmtree(other)
    # JAX writes a program, then the time of its last use; over a program without one
    # it stumbles whenever it makes room.
    used = {path.name.removesuffix("-atime") for path in folder.glob("*-atime")}
    for program in folder.glob("*-cache") if used else ():
        with suppress(OSError):
            old = now - program.stat().st_mtime > _UNFINISHED
            if old and program.name.removesuffix("-cache") not in used:
                program.unlink()
