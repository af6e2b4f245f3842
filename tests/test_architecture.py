"""Which package may import which: a theory that shared code with the simulator could not check it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "theory": {"linear_cnn", "experiments", "flax", "optax", "matplotlib"},
    "linear_cnn": {"theory", "experiments", "matplotlib"},
}


def imported_packages(path):
    """Top-level packages that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_file_imports_what_its_package_must_not(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 1
    found = {str(path): FORBIDDEN[package] & set(imported_packages(path)) for path in files}
    assert not any(found.values()), found


@pytest.mark.float32
def test_importing_theory_loads_no_simulator_and_changes_no_setting():
    program = (
        "import jax; before = dict(jax.config.values); import theory, sys; "
        f"print(sorted(set(sys.modules) & {FORBIDDEN['theory']}), dict(jax.config.values) == before)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "[] True", result.stdout


def test_the_public_names_of_theory_are_complete_and_documented():
    import theory

    tree = ast.parse((ROOT / "theory" / "__init__.py").read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == sorted(theory.__all__)
    assert all(getattr(theory, name).__doc__ for name in names)
