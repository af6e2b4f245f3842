"""The pages say what the saved results say, and their examples run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.frame import Table, check
from experiments.report import documents
from experiments.report.reading import Result

ROOT = Path(__file__).parents[1]
# The tutorials are executed by `make docs`.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "guide").glob("*.md"))
EXAMPLES = {
    page: re.findall(
        r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for page in PAGES
}


def test_tables_are_those_of_the_saved_results() -> None:
    made, results = documents.pages(ROOT / "docs"), ROOT / "docs" / "results"
    parts = {file.with_suffix(".md") for file in results.glob("*-*.json")}
    others = {ROOT / "README.md", results / "table.md"}
    others |= {ROOT / "docs" / name for name in ("benchmark.md", "scaling.md")}
    assert set(made) == others | parts
    assert set(results.glob("*-*.md")) == parts, "one is of results that are gone"
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, (
            f"{file} is another: python -m experiments report --publish docs"
        )


def test_a_page_has_all_that_a_result_says() -> None:
    checks = [
        check("max |r|, true", 0.25, at_most=0.5, paper="about 0", written="after"),
        check("time", 7.0, at_least=10, reached=False),
        check("shown", 3.0),
    ]
    runs = [
        {"run": "VGG11", "training": "0.97", "validation": "0.4", "judged": True},
        {"run": "VGG13", "training": "0.5", "validation": "0.3", "judged": False},
    ]
    options = " ".join(f"--option-{number} {number}" for number in range(8))
    result = Result(
        "filters",
        "filters-own_set",
        Path("filters-own_set.json"),
        "own_set",
        f"python -m experiments filters {options}",
        preset="cpu",
        table=Table({"run": ["a*b"], "r": ["0.1 ± 0.2"]}, "r: of $x$"),
        checks=checks,
        accuracies=runs,
        differences=["width 0.25 (paper: 1)"],
        environment="Python 3.11",
        time="5 s",
    )
    text = documents.page(result)
    *_, last = text.split("```console\n")
    lines = last.split("\n```")[0].split("\n")
    assert max(map(len, lines)) < 80
    assert "".join(line.rstrip("\\") for line in lines).split() == [
        *result.command.split()
    ]
    for line in (
        r"### On own\_set",
        r"| a\*b | 0.1 ± 0.2 |",
        r"R: of \$x\$.",
        "**Checks.** 1 of 1 are met.",
        r"| max \|r\|, true | 0.250 | about 0 | \<= 0.5 | met"
        " | bound written after the first result |",
        r"| time | 7.00 |  | \>= 10 | not reached |  |",
        "| shown | 3.00 |  |  |  |  |",
        "| VGG13 | 0.5 (too low to be judged) | 0.3 |",
        "- width 0.25 (paper: 1)",
        "Python 3.11. Computed in 5 s, without the training that had been done before.",
    ):
        assert line in text.split("\n"), line


FACTORS = {
    "momentum 0.9": ("heavy_ball", "{plain}"),
    "Nesterov's momentum 0.9": ("nesterov", "{plain}"),
    "weight decay, in the gradient": ("decay", "{plain}"),
    "weight decay beside the momentum (decoupled)": ("decoupled", "{plain}"),
    "cosine schedule with momentum, any rates": ("cosine", "{plain}"),
    "piecewise constant rate with momentum": ("piecewise", "{plain}"),
    "Adam, all images": ("adam", "{fitted}; at worst {worst}"),
    "minibatches of 16 drawn with replacement": ("16,0.2", "{plain}"),
    "the same in epochs": ("16,0.2 in epochs", "{plain}"),
    "softmax cross-entropy": ("true", "at step {until}"),
}


@pytest.mark.parametrize("training", FACTORS)
def test_the_guide_has_the_factors_of_the_saved_results(training: str) -> None:
    name, text = FACTORS[training]
    rows = []
    for data_set in ("photographs", "cifar10"):
        file = ROOT / "docs" / "results" / f"beyond_the_paper-{data_set}.json"
        results = json.loads(file.read_text(encoding="utf-8"))["summary"]["results"]
        rows += [row for row in results if row["name"] == name]
    assert len(rows) == 2

    def both(key: str) -> str:
        return " and ".join(f"{row[key]:.3g}" for row in rows if row[key] is not None)

    keys = ("plain", "fitted", "worst", "until")
    page = (ROOT / "docs" / "guide" / "your_training.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.split("\n") if line.startswith(f"| {training}"))
    *_, last = line.removesuffix(" |").split(" | ")
    expected = text.format(**{key: both(key) for key in keys})
    assert last.endswith(expected)


def test_saved_results_are_small_and_name_no_folder_of_this_machine() -> None:
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert files
    assert sum(file.stat().st_size for file in files) < 1e6
    assert (ROOT / "docs" / "results" / "benchmark.json").stat().st_size < 1e5
    for file in files:
        assert not re.search(r'"/|--out', file.read_text(encoding="utf-8")), file


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# Each by itself, but for the imports, which take longer than most of them.
_ONE_BY_ONE = """
import sys, jax
for number, example in enumerate(sys.argv[1:]):
    print("example", number, file=sys.stderr, flush=True)
    exec(compile(example, f"<example {number}>", "exec"), {"__name__": "__main__"})
    jax.config.update("jax_enable_x64", False)
"""


@pytest.mark.pages
@pytest.mark.parametrize(
    "page", [page for page in PAGES if EXAMPLES[page]], ids=lambda page: page.stem
)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    # In a process of its own with a user's settings: float64 off, promotion not strict.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", _ONE_BY_ONE]
        + EXAMPLES[page],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_images_and_links_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("<")]
    assert not [link for link in local if not (page.parent / link).exists()]
