"""Results that are committed: copied into the documentation, and the tables that are
made of them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import frame, report
from experiments.catalogue import CATALOGUE
from experiments.frame import disk
from experiments.frame.checks import as_rows
from experiments.frame.marks import BEGIN, END
from experiments.paper import iterations, pretrained, random_labels
from experiments.report import documents
from tests.experiments.report_results import (
    ITERATIONS,
    RANDOM_LABELS,
    change_json,
    write,
    write_all,
)

README = f"# Title\n\n{BEGIN}\nof before\n\n| a |\n{END}\n\nRest: {END} stays.\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_all(tmp_path / "private place" / "results")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(README)
    return tmp_path / "docs"


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def published(docs: Path) -> set[str]:
    return {file.name for file in (docs / "results").glob("*.json")}


OURS = {"random_labels-cifar10.json", "theory_vs_simulation-photographs.json"}


def test_what_is_published(out: Path, docs: Path, capsys) -> None:
    """All of config.json and summary.json but for where things lie."""
    report.main(out, docs)
    assert published(docs) == OURS
    assert "published in" in capsys.readouterr().out
    content = json.loads((docs / "results" / "random_labels-cifar10.json").read_text())
    folder = out / "random_labels" / "cifar10"
    summary = json.loads((folder / "summary.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    assert content["summary"] == summary
    for key in ("environment", "seconds"):
        assert content[key] == config[key]
    left_out = config["settings"].keys() - content["settings"].keys()
    assert left_out == {"out", "store", "data_dir", "fresh", "redraw"}
    assert content["settings"].items() <= config["settings"].items()
    assert content["command"] == (
        "python -m experiments random_labels --preset cpu --seeds 3"
    )
    for text in files_in(docs).values():
        assert b"private place" not in text


def test_tables_are_made_of_what_is_published(out: Path, docs: Path) -> None:
    report.main(out, docs)
    table = (docs / "results" / "table.md").read_text()
    of_results = (out / "report.md").read_text().splitlines()
    # The data set of the user's own has a line there, if it is judged.
    assert table.splitlines() == [
        line for line in of_results if "iterations" not in line
    ]
    assert "| 0.951 |" in table
    readme = (docs.parent / "README.md").read_text()
    missing = readme.partition("\nNo results")[2].partition(END)[0]
    assert readme.replace(f"\nNo results{missing}", "") == (
        f"# Title\n\n{BEGIN}\n"
        "| figure or table | what | paper | ours | bound |\n"
        "|---|---|---|---|---|\n"
        r"| Fig. 3, Table 2 | true against \<b\>shuffled\</b\> labels | 0.9 ± 0.02 |"
        " 0.951 | \\>= 0.9 (met) |\n"
        "| Fig. 3, Table 2 | shuffled labels against initial | 0.03 ± 0.22 | -0.0591 |"
        r" \>= -0.41 and \<= 0.47 (met) |"
        "\n"
        "| Fig. 3, Table 2 | not judged | 0.66 ± 0.01 | 0.770 ± 0.012 |  |\n"
        f"{END}\n\nRest: {END} stays.\n"
    )
    # What is not there is named.
    here = {"random_labels", "theory_vs_simulation"}
    named = set(re.findall(r"\[(\w+)\]\(docs/results/\1\.md\)", missing))
    assert named == set(CATALOGUE) - here
    # Nothing but what is published is read.
    for file in out.rglob("*.json"):
        file.unlink()
    assert documents.pages(docs) == {
        file: file.read_text()
        for file in [*(docs / "results").glob("*.md"), docs.parent / "README.md"]
    }
    file = docs / "results" / "random_labels-cifar10.json"
    file.write_text(file.read_text().replace("0.9512345", "0.9412345"))
    changed = documents.pages(docs)
    other = docs / "results" / "theory_vs_simulation-photographs.md"
    assert {"| 0.941 |" in text for name, text in changed.items() if name != other} == {
        True
    }
    assert not any("| 0.951 |" in text for text in changed.values())


def test_publishing_again_changes_nothing(out: Path, docs: Path) -> None:
    report.main(out, docs)
    before = files_in(docs.parent)
    report.main(out, docs)
    assert files_in(docs.parent) == before
    written = documents.publish(out, docs)
    assert {str(file.relative_to(docs.parent)) for file in written} == {
        *(f"docs/results/{name}" for name in OURS),
        *(f"docs/results/{Path(name).stem}.md" for name in OURS),
        "docs/results/table.md",
        "README.md",
    }


def test_results_of_another_day_are_added(
    out: Path, docs: Path, tmp_path: Path
) -> None:
    report.main(out, docs)
    other = tmp_path / "others"
    settings = iterations.Settings(dataset="cifar10")
    check = frame.check("seen", 0.3, paper="0.5", caveat="slow")
    summary = ITERATIONS | {"checks": as_rows([check])}
    write(other / "iterations" / "cifar10", settings, summary)
    report.main(other, docs)
    assert published(docs) == OURS | {"iterations-cifar10.json"}
    lines = (docs / "results" / "table.md").read_text().splitlines()[2:]
    experiments = [re.sub(r"\\", "", line).split(" ")[1] for line in lines]
    # In the order of the catalogue.
    order = [name for name in CATALOGUE if name in experiments]
    assert list(dict.fromkeys(experiments)) == order
    assert order == ["theory_vs_simulation", "iterations", "random_labels"]
    assert any(line.endswith("| slow |") for line in lines)
    assert "| Fig. 4 | seen | 0.5 | 0.300 |  |" in (tmp_path / "README.md").read_text()


def test_smoke_runs_and_what_is_not_whole_are_not_published(
    out: Path, docs: Path
) -> None:
    change_json(out / "random_labels" / "cifar10" / "summary.json", checks=3)
    theory = out / "theory_vs_simulation" / "photographs" / "config.json"
    settings = json.loads(theory.read_text())["settings"]
    change_json(theory, settings=settings | {"preset": "smoke"})
    documents.publish(out, docs)
    assert published(docs) == set()
    assert (docs / "results" / "table.md").read_text().count("\n") == 2


@pytest.mark.parametrize(
    "dataset", ["mine", "/data/mine.npz", "mine.npz", "../cifar10"]
)
def test_results_on_data_of_the_users_own_are_not_published(
    out: Path, docs: Path, dataset: str
) -> None:
    """A folder of the working folder may have any name."""
    settings = iterations.Settings(dataset=dataset)
    write(disk.folder(out, "iterations", dataset), settings, ITERATIONS)
    documents.publish(out, docs)
    assert published(docs) == OURS


@pytest.mark.parametrize(
    ("change", "there"),
    [
        ({}, True),
        ({"second": "cifar100"}, True),
        ({"second": ""}, True),
        ({"second": "mine"}, False),
        ({"second": "/data/mine.npz"}, False),
        ({"files": (Path("/data/mine.npz"),)}, False),
    ],
)
def test_networks_and_second_data_of_the_users_own_are_not_published(
    out: Path, docs: Path, change: dict[str, Any], there: bool
) -> None:
    settings = replace(pretrained.PRESETS["cpu"], **change)
    folder = out / "pretrained" / "cifar10"
    write(folder, settings, {"checks": as_rows([frame.check("seen", 1)])})
    documents.publish(out, docs)
    assert ("pretrained-cifar10.json" in published(docs)) is there


@pytest.mark.parametrize(
    "text", ["no marks\n", f"{BEGIN} alone\n", f"{END}\n{BEGIN}\n", ""]
)
def test_a_readme_without_the_marks_stays(out: Path, docs: Path, text: str) -> None:
    (docs.parent / "README.md").write_text(text)
    documents.publish(out, docs)
    assert (docs.parent / "README.md").read_text() == text
    assert published(docs) == OURS


def test_without_a_readme(out: Path, docs: Path) -> None:
    (docs.parent / "README.md").unlink()
    documents.publish(out, docs)
    assert not (docs.parent / "README.md").exists()
    assert (docs / "results" / "table.md").exists()


def test_nothing_is_published_unasked(out: Path, docs: Path) -> None:
    report.main(out)
    assert not docs.exists()
    assert (docs.parent / "README.md").read_text() == README


def test_one_experiment_on_two_data_sets(out: Path, docs: Path) -> None:
    settings = random_labels.resolve(
        random_labels.Settings(dataset="fashion_mnist", out=out)
    )
    folder = out / "random_labels" / "fashion_mnist"
    write(folder, settings, RANDOM_LABELS)
    documents.publish(out, docs)
    assert published(docs) == OURS | {"random_labels-fashion_mnist.json"}
    table = (docs / "results" / "table.md").read_text()
    assert table.count("(Fig. 3, Table 2), cifar10") == 4
    assert table.count(r"(Fig. 3, Table 2), fashion\_mnist") == 4
