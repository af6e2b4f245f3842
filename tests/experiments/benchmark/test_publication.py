"""Measurements that are committed, and the page that is made of them."""

import json
import os

import pytest

from experiments.benchmark import publication
from experiments.benchmark.comparison import compare
from experiments.benchmark.rows import rows
from experiments.frame.marks import BEGIN, END
from experiments.report import documents
from tests.experiments.benchmark.fakes import measurement

ROWS = rows(publication.SHAPE)
PROGRAMS = {"method": "m", "version": "old", "seconds": 3.0, "programs": []}


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmark.md").write_text(f"# Title\n{BEGIN}\n{END}\nrest\n")
    return tmp_path / "docs"


def save(out, name, measured, dataset="cifar10", when=0, learn="1.6", **more):
    """A summary as `benchmark` writes it; `measured`: seconds by the rows' numbers."""
    machine = {"processor": "p", "cores": 2, "memory_gigabytes": 8.0, "load": 0.5}
    versions = {"jax": "1.0", "numpy": "2.0", "scipy": "3.0"}
    summary = {
        "settings": {"dataset": dataset},
        "environment": {
            "machine": machine,
            "python": "3.11",
            "versions": versions,
            "peers": {"torch": None, "scikit-learn": learn},
        },
        "rows": [
            compare(ROWS[number], *[[measurement(seconds)] * 2] * 2) | {"load": 0.5}
            for number, seconds in measured.items()
        ],
        "programs": [],
    } | more
    (out / "benchmark").mkdir(parents=True, exist_ok=True)
    file = out / "benchmark" / f"summary{name}.json"
    file.write_text(json.dumps(summary))
    os.utime(file, (when, when))


def test_the_newest_measurement_of_every_row_is_published(tmp_path, docs):
    out = tmp_path / "results"
    save(out, "_a", {4: 1.0, 3: 2.0}, when=200, programs=[PROGRAMS])
    save(out, "_b", {4: 3.0}, when=100)
    written = documents.publish(out, docs)
    content = json.loads((docs / "results" / "benchmark.json").read_text())
    assert [row["seconds"] for row in content["rows"]] == [2.0, 1.0]  # in their order
    assert docs / "results" / "benchmark.json" in written
    page = (docs / "benchmark.md").read_text()
    assert page == publication.pages(docs)[docs / "benchmark.md"]
    assert page.startswith(f"# Title\n{BEGIN}\n")
    assert page.endswith(f"{END}\nrest\n")
    for text in (
        "p, 2 cores, 8.0 GB; Python 3.11, jax 1.0, numpy 2.0, scikit-learn 1.6.",
        "## Patch statistics",
        "seconds at most 3: met (2; 2 to 2)",
        f"## {publication.PROGRAMS}",
        "m; old: 0 programs, 3 s",
        "Not measured:",
    ):
        assert text in page
    # What is measured later takes the place of the old, and the rest stays.
    for file in (out / "benchmark").iterdir():
        file.unlink()
    save(out, "", {4: 7.12345678}, learn=None)
    publication.publish(out, docs)
    content = json.loads((docs / "results" / "benchmark.json").read_text())
    assert [row["seconds"] for row in content["rows"]] == [2.0, 7.123]
    assert content["environment"]["peers"] == {"torch": None, "scikit-learn": "1.6"}
    assert content["programs"] == [PROGRAMS]


def test_the_figure_is_drawn_where_growth_was_measured(tmp_path, docs):
    grown = {n: float(row.size) for n, row in enumerate(ROWS) if row.size}
    save(tmp_path, "", grown)
    publication.publish(tmp_path, docs)
    assert {file.name for file in docs.iterdir()} == {
        "results",
        "benchmark.md",
        "benchmark_growth.png",
    }
    words = (docs / "benchmark.md").read_text().split()
    assert "images 1,000 10,000 100,000" in " ".join(words)


def test_nothing_is_published_of_other_images(tmp_path, docs):
    save(tmp_path, "", {4: 1.0}, dataset="photographs")
    assert publication.publish(tmp_path, docs) == []
    assert publication.publish(tmp_path / "none", docs) == []
    assert [file.name for file in docs.iterdir()] == ["benchmark.md"]


def test_rows_that_are_gone_are_not_kept(tmp_path, docs):
    save(tmp_path, "", {4: 1.0, 5: 1.0})
    file = tmp_path / "benchmark" / "summary.json"
    file.write_text(file.read_text().replace("theory.fit_profile", "of before"))
    publication.publish(tmp_path, docs)
    content = json.loads((docs / "results" / "benchmark.json").read_text())
    assert len(content["rows"]) == 1


def test_without_a_page_only_the_numbers_are_written(tmp_path):
    save(tmp_path, "", {4: 1.0})
    written = publication.publish(tmp_path, tmp_path / "docs")
    assert written == [tmp_path / "docs" / "results" / "benchmark.json"]
