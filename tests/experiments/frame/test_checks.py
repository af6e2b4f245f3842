"""Checks of numbers against bounds, and numbers as the tables show them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import frame
from experiments.frame import disk
from experiments.frame.checks import as_rows


def test_numbers_of_a_table() -> None:
    assert frame.number({"mean": 0.91449, "std": 0.0456, "count": 3}) == "0.914 ± 0.046"
    assert frame.number({"mean": -0.5, "std": None, "count": 1}) == "-0.500"


@pytest.mark.parametrize(
    ("bounds", "value", "passed"),
    [
        ({"at_least": 1.0}, 1.0, True),
        ({"at_least": 1.0}, 0.999, False),
        ({"above": 0.0}, 0.0, False),
        ({"below": 0.0}, 0.0, False),
        ({"below": 0.0}, -1e-9, True),
        ({"at_least": -0.5, "at_most": 0.25}, 0.3, False),
        ({"at_least": -0.5, "at_most": 0.25}, -0.6, False),
        ({"at_least": -0.5, "at_most": 0.25}, 0.1, True),
        ({"at_least": 1.0}, np.nan, False),
        ({"at_most": 1.0}, 1.0, True),
        ({"at_most": 0.0}, 0.1, False),
    ],
)
def test_check(bounds: dict, value: float, passed: bool) -> None:
    assert frame.check("name", value, **bounds).passed is passed


def test_what_a_check_says() -> None:
    one = frame.check("fit, all classes", 0, at_least=-0.41, at_most=0)
    assert one == frame.Check(
        "fit, all classes", 0.0, ">= -0.41 and <= 0", True, group="fit"
    )
    assert (one.verdict, one.number, one.notes) == ("ok", "0.00", "")
    other = frame.check("name", 0.3, above=0.1234, paper="more", group="names")
    assert other == frame.Check(
        "name", 0.3, "> 0.1234", True, paper="more", group="names"
    )
    assert frame.check("name", 26, below=3).verdict == "FAIL"


def test_a_number_that_only_stands_beside_the_papers() -> None:
    shown = frame.check("name", 0.3, paper="0.5", shown="0.3 to 0.4")
    assert (shown.bound, shown.passed, shown.verdict) == ("", None, "")
    assert shown.number == "0.3 to 0.4"


def test_every_wrong_formula_must_miss_the_bounds() -> None:
    def verdict(value: float, **wrong: float) -> str:
        return frame.check("name", value, at_most=1, wrong=wrong).verdict

    assert verdict(0.5, half=1.5, other=2) == "ok"
    assert verdict(0.5, half=1.5, other=0.9) == "FAIL"
    assert verdict(1.5, half=2) == "FAIL"
    # Nothing is known of it.
    assert verdict(0.5, half=np.nan) == "FAIL"
    one = frame.check("name", 0.5, at_most=1, wrong={"half": 1.5})
    assert dict(one.wrong_formulas) == {"half": 1.5}
    within = frame.check("name", 0.5, at_least=0, at_most=1, wrong={"half": -1})
    assert within.verdict == "ok"


def test_a_run_that_is_too_short_for_a_verdict() -> None:
    for value in (0.5, 1.5):
        one = frame.check("name", value, at_most=1, reached=False, caveat="longer")
        assert (one.passed, one.verdict, one.notes) == (None, "not reached", "longer")


def test_all_that_stands_beside_a_verdict() -> None:
    one = frame.check(
        "name",
        0.5,
        at_most=1,
        wrong={"eta / 2": 1.51234, "N": 7},
        moved="max 0.05",
        written="after",
        caveat="few networks",
    )
    assert one.notes == (
        "moved: max 0.05; wrong formula eta / 2: 1.5, N: 7; bound written after the"
        " first result; few networks"
    )
    # Where there is no bound, it was not written at all.
    assert frame.check("name", 0.5, written="after").notes == ""


ROW = asdict(frame.check("name", 0.5, at_most=1, wrong={"half": 2.0}, paper="0.6"))


@pytest.mark.parametrize(
    "one",
    [
        frame.check("name", 0.5, at_most=1, wrong={"half": 2.0}, paper="0.6"),
        frame.check("name", 0.5, at_most=1, reached=False, written="after"),
        frame.check("name", np.nan, at_least=1, shown="none"),
    ],
)
def test_checks_are_read_as_they_were_written(one: frame.Check, tmp_path: Path) -> None:
    disk.write_json(tmp_path / "summary.json", {"checks": as_rows([one])})
    (found,) = frame.read_checks(disk.read_json(tmp_path / "summary.json", ""))
    assert repr(found) == repr(one)  # in which a NaN is a NaN


@pytest.mark.parametrize(
    "change",
    [
        # Of before there were these checks.
        {"check": "name", "measured": 0.5},
        {"passed": 1.0},
        {"passed": 1},
        {"passed": "ok"},
        {"value": "large"},
        {"value": None},
        {"title": 3},
        {"bound": 1e-9},
        {"paper": 0.6},
        {"group": []},
        {"caveat": 4},
        {"wrong_formulas": [2.0]},
        {"wrong_formulas": {"half": "large"}},
    ],
)
def test_damaged_checks(change: dict) -> None:
    frame.read_checks({"checks": [ROW]})
    with pytest.raises(ValueError, match="damaged, or of another version"):
        frame.read_checks({"checks": [ROW, ROW | change]})


@pytest.mark.parametrize("summary", [{}, {"checks": 3}, {"checks": ["one"]}, []])
def test_a_summary_without_checks(summary: Any) -> None:
    with pytest.raises(ValueError, match="damaged, or of another version"):
        frame.read_checks(summary)
