"""One damaged file among many: it is named, and all else is shown."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from tests.experiments.report_results import write_all

FOLDER = Path("random_labels") / "cifar10"
VALUES = (None, True, -1, 1e400, 10**400, "", "\ud800", "\x00\x1b[2J", [], {}, [[]])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_all(tmp_path / "results")


def shown(out: Path) -> str:
    report.main(out)
    (out / "report.md").read_text(encoding="utf-8")
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["summary.json", "config.json"])
@pytest.mark.parametrize("half", ["\\ud800", "\\udcff"])
def test_half_a_character(out: Path, capsys, file: str, half: str) -> None:
    before = shown(out)
    path = out / FOLDER / file
    content = path.read_text()
    position = content.index(': "') + 3
    path.write_text(content[:position] + half + content[position:])
    capsys.readouterr()
    after = shown(out)
    said = capsys.readouterr().out
    assert f"damaged: {out / FOLDER}: {path} is damaged" in said
    assert after.count("<img") == before.count("<img") - 1
    assert after.count("damaged: ") >= 1


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a JSON file."""
    inside = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [above] + [
        place for key, value in inside for place in places(value, (*above, key))
    ]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    inside = content[place[0]]
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[place[0]] = changed(inside, place[1:], value)
    return copy


@pytest.mark.parametrize("file", ["summary.json", "config.json"])
@pytest.mark.parametrize("experiment", ["random_labels", "iterations"])
def test_any_value_in_any_place(out: Path, file: str, experiment: str) -> None:
    """Whatever one file says, the report is written, with the other results in it."""
    path = next((out / experiment).glob(f"*/{file}"))
    whole = json.loads(path.read_text())
    chosen = random.Random(7)
    other = "theory_vs_simulation-1"
    for place in chosen.sample(places(whole), min(40, len(places(whole)))):
        value = chosen.choice(VALUES)
        path.write_text(json.dumps(changed(whole, place, value)))
        assert other in shown(out), (place, value)


def test_control_characters_are_shown_and_not_obeyed(out: Path) -> None:
    path = out / FOLDER / "summary.json"
    summary = json.loads(path.read_text())
    summary["checks"][0]["title"] = "a\x1b[2Jb\x9b"
    summary["differs_from_paper"] = ["classes \x1b[31mred"]
    path.write_text(json.dumps(summary))
    pages = [shown(out), (out / "report.md").read_text(encoding="utf-8")]
    for page in pages:
        assert not {"\x1b", "\x9b"} & set(page)
    assert r"a\x1b[2Jb\x9b" in pages[0]
    assert r"classes \x1b[31mred" in pages[0]
