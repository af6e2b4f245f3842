"""The pages say what the saved results say, and their examples run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.report import documents

ROOT = Path(__file__).parents[1]
# The tutorials are executed by `make docs`.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "guide").glob("*.md"))
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}", marks=_marks)
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )
    for _marks in [() if page.stem == "README" else (pytest.mark.slow,)]
]


def test_tables_are_those_of_the_saved_results() -> None:
    made, results = documents.pages(ROOT / "docs"), ROOT / "docs" / "results"
    parts = {file.with_suffix(".md") for file in results.glob("*.json")}
    assert set(made) == {ROOT / "README.md", results / "table.md", *parts}
    assert set(results.glob("*-*.md")) == parts, "one is of results that are gone"
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, (
            f"{file} is another: python -m experiments report --publish docs"
        )


def test_saved_results_are_small_and_name_no_folder_of_this_machine() -> None:
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert files
    assert sum(file.stat().st_size for file in files) < 1e6
    for file in files:
        assert not re.search(r'"/|--out', file.read_text(encoding="utf-8")), file


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: Path) -> None:
    # In a process of its own with a user's settings: float64 off, promotion not strict.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", example],
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
