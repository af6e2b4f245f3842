"""The Python examples of the README run as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example: str, tmp_path: Path) -> None:
    # In a process of its own with a user's settings: float64 off, promotion not strict.
    run = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_plain_env(),
    )
    assert run.returncode == 0, run.stderr


def test_images_and_links_exist() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    missing = [link for link in local if not (root / link).exists()]
    assert not missing


def _plain_env() -> dict[str, str]:
    import os

    return {
        name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"
    }
