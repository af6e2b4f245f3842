"""Which package, and which room of the experiments, may import which.

A theory that shared code with the simulator could not check it, and a room that reads
another's inside cannot be read, or changed, alone. A room is a file or a folder of
experiments/, of experiments/paper/ or of experiments/beyond/.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "theory": {"linear_cnn", "experiments", "flax", "optax", "matplotlib"},
    "linear_cnn": {"theory", "experiments", "matplotlib"},
}
TRAINING = {"experiments.trained", "flax", "optax", "linear_cnn.train*"}
WALLS = {
    **FORBIDDEN,
    "experiments/trained": {
        "experiments.paper",
        "experiments.beyond",
        "experiments.report",
        "experiments.benchmark",
    },
    "experiments/download": TRAINING,
    # By an import of its own: the catalogue, which it reads, knows what is trained.
    "experiments/report": TRAINING,
}


def files_of(room: str) -> list[Path]:
    """The files of a folder or, if there is none of the name, the file."""
    folder = ROOT / room
    return (
        sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    )


def imports(path: Path) -> Iterator[str]:
    """What a file imports anywhere, also inside functions, and what it takes out of
    that, by its full name.

    `from a import b` and `b.c` are "a.b" and "a.b.c"; of a name that is put together
    when the program runs, as in `import_module(f"a.{name}")`, it is what stands before
    that, "a".
    """
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            named |= {
                alias.asname or alias.name.partition(".")[0]: alias.name
                for alias in node.names
            }
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path} imports by dots: name the package"
            named |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}"
                for alias in node.names
            }
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
        ):
            given = (
                node.args[0].values[0]
                if isinstance(node.args[0], ast.JoinedStr)
                else node.args[0]
            )
            assert isinstance(given, ast.Constant), (
                f"{path} imports what nobody can see: {ast.unparse(node)}"
            )
            yield given.value.rstrip(".")
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in named:
                yield f"{named[first]}.{rest}"


def behind(walls: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names that are what a wall names, or inside it."""
    return {
        name
        for name in names
        for wall in walls
        if fnmatch(name, wall) or fnmatch(name, f"{wall}.*")
    }


def rooms(folder: str) -> list[str]:
    """The files and packages in a folder, without its __init__."""
    places = {
        path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        for path in (ROOT / folder).rglob("*.py")
    }
    return sorted(places - {"__init__"})


def rooms_imported(path: Path, package: str) -> set[str]:
    """The rooms of a package that a file imports; "" where it imports the package
    itself."""
    return {
        name.removeprefix(package).split(".")[1] if name != package else ""
        for name in behind({package}, imports(path))
    }


@pytest.mark.parametrize("room", WALLS)
def test_no_file_imports_what_its_package_must_not(room: str) -> None:
    files = files_of(room)
    assert len(files) > 1
    found = {str(path): behind(WALLS[room], imports(path)) for path in files}
    assert not any(found.values()), found


def test_the_frame_stands_alone() -> None:
    found = {
        str(path): rooms_imported(path, "experiments") - {"frame"}
        for path in files_of("experiments/frame")
    }
    assert len(found) > 1
    assert not any(found.values()), found


@pytest.mark.parametrize(("wing", "least"), [("paper", 10), ("beyond", 1)])
def test_no_experiment_reads_another(wing: str, least: int) -> None:
    names = rooms(f"experiments/{wing}")
    assert len(names) >= least
    others = {"paper", "beyond"} - {wing}
    found = {
        str(path): rooms_imported(path, f"experiments.{wing}") - {name}
        | (rooms_imported(path, "experiments") & others)
        for name in names
        for path in files_of(f"experiments/{wing}/{name}")
    }
    found["__init__"] = rooms_imported(
        ROOT / "experiments" / wing / "__init__.py", f"experiments.{wing}"
    )
    assert not any(found.values()), found


def test_no_room_is_imported_in_a_circle() -> None:
    names = rooms("experiments")
    assert {
        "frame",
        "trained",
        "paper",
        "beyond",
        "download",
        "benchmark",
        "report",
        "catalogue",
    } <= set(names)
    graph = {
        name: (
            {
                other
                for path in files_of(f"experiments/{name}")
                for other in rooms_imported(path, "experiments")
            }
            - {name}
        )
        for name in names
    }
    # Though it imports them only when they are asked for.
    assert {"paper", "beyond"} <= graph["catalogue"]
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


@pytest.mark.float32
def test_importing_theory_loads_no_simulator_and_changes_no_setting():
    program = (
        "import jax; before = dict(jax.config.values); import theory, sys;"
        f" print(sorted(set(sys.modules) & {FORBIDDEN['theory']}),"
        " dict(jax.config.values) == before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\n")[0] == "[] True", result.stdout


def test_the_public_names_of_theory_are_complete_and_documented():
    import theory

    tree = ast.parse((ROOT / "theory" / "__init__.py").read_text(encoding="utf-8"))
    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(names) == sorted(theory.__all__)
    assert all(getattr(theory, name).__doc__ for name in names)
