"""A test file run as a program that has several devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
}


def run_on_eight_devices(module: str) -> None:
    """In a process of its own: JAX takes its number of devices once."""
    result = subprocess.run(
        [sys.executable, "-m", module],
        env=os.environ | SETTINGS,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
