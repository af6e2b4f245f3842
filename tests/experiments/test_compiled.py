"""Compiled programs that the command line keeps, in processes of their own."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments import compiled

PROGRAM = """
import sys
from experiments.compiled import keep_compiled_programs
print(keep_compiled_programs())
import jax
print(float(jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones(7))))
"""


def process(cache: Path, *command: str, **more: str) -> subprocess.Popen[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "JAX_COMPILATION_CACHE_DIR"
    }
    environment |= {
        "XDG_CACHE_HOME": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment | more,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(running: subprocess.Popen[str]) -> str:
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    return out


def kept(cache: Path) -> dict[str, int]:
    """When each kept program was written."""
    files = cache.glob("linear-cnn/compiled/*/*-cache")
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_two_processes_at_once_share_them(tmp_path: Path) -> None:
    both = [process(tmp_path, "-c", PROGRAM) for _ in range(2)]
    first, second = map(output, both)
    assert first == second
    assert str(tmp_path) in first
    programs = kept(tmp_path)
    assert programs
    assert output(process(tmp_path, "-c", PROGRAM)) == first
    assert kept(tmp_path) == programs  # read, and not written again


def test_a_cache_that_is_chosen_stays(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    found = output(
        process(tmp_path, "-c", PROGRAM, JAX_COMPILATION_CACHE_DIR=str(chosen))
    )
    assert found.startswith("None")
    assert list(chosen.iterdir())
    assert not kept(tmp_path)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    running = process(tmp_path / "file", "-c", PROGRAM, MPLCONFIGDIR=str(tmp_path))
    out, err = running.communicate(timeout=120)
    assert (running.returncode, out.splitlines()[0]) == (0, "None")
    (line,) = err.splitlines()
    assert re.search("are not kept, since .*file.*cannot be written.*--no-cache", line)


# A quarter of the programs is that of the other process too.
MANY = """
import sys
from experiments import compiled
compiled.keep_compiled_programs()
import jax
for size in range(1, 21):
    shift = int(sys.argv[1]) * (size % 4 > 0)
    result = jax.jit(lambda x: x * size + 1)(jax.numpy.ones(size + shift))
    assert (result == size + 1).all()
"""


@pytest.mark.long
def test_two_processes_that_write_at_once_stay_within_the_limit(tmp_path: Path) -> None:
    limit = 40_000  # of some of the programs
    settings = {"JAX_COMPILATION_CACHE_MAX_SIZE": str(limit)}
    both = [
        process(tmp_path, "-W", "error", "-c", MANY, shift, **settings)
        for shift in ("0", "100")
    ]
    for running in both:
        assert running.communicate(timeout=120)[1] == ""  # no warning either
        assert running.returncode == 0
    files = list(tmp_path.glob("linear-cnn/compiled/*/*-cache"))
    assert len(files) >= 2
    assert sum(file.stat().st_size for file in files) <= limit


def test_what_is_forgotten_or_unfinished_goes(tmp_path: Path) -> None:
    mine, day = tmp_path / "mine", 24 * 3600

    def made(path: Path, days: float) -> None:
        os.utime(path, (time.time() - days * day,) * 2)

    ages = {"forgotten": 100, "young": 10, "mine": 200}
    for name in ages:
        (tmp_path / name).mkdir()
    for name, days in {"whole": 50, "half": 2, "being-written": 0}.items():
        (mine / f"{name}-cache").touch()
        made(mine / f"{name}-cache", days)
    (mine / "whole-atime").touch()
    for name, days in ages.items():
        made(tmp_path / name, days)
    compiled._clean(mine)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "young"}
    left = {path.name for path in mine.iterdir()}
    assert left == {"whole-cache", "whole-atime", "being-written-cache"}


def test_processors_and_versions_have_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = compiled._made_for()
    assert here == compiled._made_for()
    with monkeypatch.context() as other:
        other.setattr(compiled, "_processor", lambda: "another model")
        assert compiled._made_for() != here
    monkeypatch.setattr(jax, "__version__", "9.9")
    assert compiled._made_for() != here


@pytest.mark.parametrize("flag", [(), ("--no-cache",)])
def test_the_command_line_keeps_them_unless_told_not_to(
    tmp_path: Path, flag: tuple[str, ...]
) -> None:
    command = "-m", "experiments", "iterations", "--out", str(tmp_path / "out"), *flag
    assert "written to" in output(process(tmp_path, *command))
    assert bool(kept(tmp_path)) == (not flag)
