"""The page on many devices, from what was compiled and what was measured."""

import json

import pytest

from experiments.frame.marks import BEGIN, END
from experiments.scaling import publication
from experiments.scaling.accelerator import PLAN

ROWS = [
    {"what": "moments", "images": 3000, "at_once": 3000},
    {"what": "moments", "images": 3000, "at_once": 100},
    {"what": "networks", "seeds": 4000},
]
BYTES = {"devices": 8, "arguments": 96_400_000_000, "results": 999, "temporary": 5_000}
REPORT = {
    "small": False,
    "environment": {
        "backend": "fast",
        "devices": ["Fast 3", "Fast 3"],
        "versions": {"jax": "1.2"},
    },
    "seconds": 700.4,
    "parts": [
        {
            "name": "float32_tests",
            "seconds": 30.5,
            "numbers": {"passed": 100, "failed": [], "finished": True},
        },
        {"name": "exact_dynamics", "seconds": 1.0, "error": "a | b\nc"},
        {"name": "linear_cnns", "skipped": "5 of 720 seconds were left"},
        {
            "name": "images_per_second",
            "seconds": 9.0,
            "numbers": {"batch": 256, "rate": 12345.6},
        },
    ],
}


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "scaling.md").write_text(f"# Many\n\n{BEGIN}\nold\n{END}\n\nProse.\n")
    memory = {"rows": [row | BYTES for row in ROWS]}
    (tmp_path / "results" / publication.MEMORY).write_text(json.dumps(memory))
    return tmp_path


def page_of(docs):
    ((file, text),) = publication.pages(docs).items()
    assert file == docs / "scaling.md"
    return text.split("\n")


def test_the_page_has_the_bytes_and_says_what_was_not_run(docs):
    lines = page_of(docs)
    assert lines[0] == "# Many"
    assert lines[-2] == "Prose."
    for line in (
        "| moments: 3,000 images at once | 8 | 96.4 GB | 999 B | 5 kB |",
        "| moments: 3,000 images in batches of 100 | 8 | 96.4 GB | 999 B | 5 kB |",
        "| networks: 4,000 seeds | 8 | 96.4 GB | 999 B | 5 kB |",
    ):
        assert line in lines
    for part in PLAN:
        assert f"| {part.title} |  | not run on a GPU |" in lines
    assert not any(line.startswith("Measured") for line in lines)


def test_what_an_accelerator_found_takes_its_place(docs, tmp_path):
    out = tmp_path / "out"
    assert publication.publish(out, docs) == []
    (out / "accelerator").mkdir(parents=True)
    file = out / "accelerator" / "accelerator.json"
    for other in (
        {"small": True},
        {"environment": {"backend": "cpu"}},
        {"environment": None},
    ):
        file.write_text(json.dumps(REPORT | other))
        assert publication.publish(out, docs) == []
    file.write_text(json.dumps(REPORT))
    assert publication.publish(out, docs) == [docs / "results" / "accelerator.json"]
    lines = page_of(docs)
    titles = {part.name: part.title for part in PLAN}
    for name, rest in (
        ("float32_tests", "30.5 | passed 100; failed none; finished True"),
        ("exact_dynamics", r"1.0 | a \| b c"),
        ("linear_cnns", " | 5 of 720 seconds were left"),
        ("images_per_second", "9.0 | batch 256; rate 1.235e+04"),
        ("trained_networks", " | not run on a GPU"),
    ):
        assert f"| {titles[name]} | {rest} |" in lines
    assert "On 2 x Fast 3, jax 1.2, in 700 seconds." in lines


def test_nothing_is_made_of_nothing(tmp_path):
    assert publication.pages(tmp_path) == {}
