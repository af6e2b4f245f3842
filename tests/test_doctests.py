"""Every public name of theory and linear_cnn has an example in its docstring, and the
examples do what they say."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import linear_cnn
import theory

ROOT = Path(__file__).parents[1]
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (theory, linear_cnn)
    for name in package.__all__
    if callable(getattr(package, name))
}


def test_every_public_name_has_an_example() -> None:
    assert len(PUBLIC) > 50
    without = [
        name
        for name, value in PUBLIC.items()
        if ">>>" not in (inspect.getdoc(value) or "")
    ]
    assert not without, without


@pytest.mark.pages
def test_the_examples_do_what_they_say(tmp_path: Path) -> None:
    """In a process of its own with a user's settings, float64 off and promotion not
    strict: the folder of tests is not looked at, hence neither is its conftest.

    Warnings are errors there too.
    """
    ours = {"JAX_ENABLE_X64", "PYTEST_ADDOPTS"}
    user = {name: value for name, value in os.environ.items() if name not in ours}
    options = "-q -p no:cacheprovider -p no:xdist --override-ini=addopts="
    command = f"-m pytest --doctest-modules {options} theory linear_cnn"
    run = subprocess.run(
        [sys.executable, *command.split(), f"--basetemp={tmp_path / 'inner'}"],
        cwd=ROOT,
        env=user,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (passed,) = re.findall(r"^(\d+) passed in ", run.stdout, flags=re.MULTILINE)
    assert int(passed) >= len(PUBLIC), run.stdout
