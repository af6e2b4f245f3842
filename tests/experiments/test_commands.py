"""The command line, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ,
    )


@pytest.mark.slow
def test_command_line() -> None:
    shown = command("theory_vs_simulation", "--help")
    assert shown.returncode == 0
    assert "--seeds" in shown.stdout
    refused = command("theory_vs_simulation", "--rate", "2.5")
    assert refused.returncode != 0
    assert "--rate must lie between 0 and 2" in refused.stderr
    assert "Traceback" not in refused.stderr
