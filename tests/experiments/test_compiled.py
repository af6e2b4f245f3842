"""Compiled programs that the command line keeps, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert output(process(tmp_path / "file", "-c", PROGRAM)).startswith("None")


@pytest.mark.parametrize("flag", [(), ("--no-cache",)])
def test_the_command_line_keeps_them_unless_told_not_to(
    tmp_path: Path, flag: tuple[str, ...]
) -> None:
    command = "-m", "experiments", "iterations", "--out", str(tmp_path / "out"), *flag
    assert "written to" in output(process(tmp_path, *command))
    assert bool(kept(tmp_path)) == (not flag)
