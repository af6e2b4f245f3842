"""The console script runs the installed packages, whatever lies in the working
folder."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(sysconfig.get_path("scripts")) / "linear-cnn"


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """A working folder with modules of the names of ours."""
    mine = "raise SystemExit('the user own')\n"
    (tmp_path / "experiments.py").write_text(mine)
    for name in ("theory", "linear_cnn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(mine)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_modules_in_the_working_folder_are_not_run(own_files: Path) -> None:
    done = run([str(SCRIPT), "list"], own_files)
    assert done.returncode == 0, done.stderr
    assert "theory_vs_simulation" in done.stdout
    # With python -m they would be, so that the files above are in the way indeed.
    shadowed = run([sys.executable, "-m", "experiments", "list"], own_files)
    assert "the user own" in shadowed.stderr


@pytest.mark.long
def test_the_processes_that_it_starts_do_not_run_them_either(own_files: Path) -> None:
    words = ["benchmark", "--only", "3x3x3 patch", "--images", "300", "--repeats", "1"]
    done = run([str(SCRIPT), *words, "--out", "results"], own_files)
    assert done.returncode == 0, done.stderr
    assert (own_files / "results/benchmark").exists()


def test_help_names_the_command_that_was_called(own_files: Path) -> None:
    assert "usage: linear-cnn" in run([str(SCRIPT), "--help"], own_files).stdout
