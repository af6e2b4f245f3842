"""What is asked of every public function of `theory`."""

import ast
from pathlib import Path

import theory

PROPERTIES = sorted(Path(__file__).parent.glob("test_properties_*.py"))
FUNCTIONS = {
    name
    for name in theory.__all__
    if callable(value := getattr(theory, name)) and not isinstance(value, type)
}


def named(path: Path) -> set[str]:
    """What a file takes from `theory`, as `theory.name`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "theory"
    }


def test_every_public_function_has_properties() -> None:
    assert len(PROPERTIES) > 5
    assert len(FUNCTIONS) > 30
    without = sorted(FUNCTIONS.difference(*map(named, PROPERTIES)))
    assert not without, (
        f"no property of {', '.join(without)}; see tests/theory/properties.py and the"
        " files beside it."
    )
