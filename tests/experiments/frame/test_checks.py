"""Checks of numbers against bounds, and numbers as the tables show them."""

import numpy as np
import pytest

from experiments import frame


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
    assert frame.check("name", value, **bounds)["passed"] is passed


def test_what_a_check_says() -> None:
    row = frame.check("name", 0, at_least=-0.41, at_most=0)
    assert row == {
        "check": "name",
        "value": 0.0,
        "bound": ">= -0.41 and <= 0",
        "passed": True,
    }
    assert frame.check("name", 0.3, above=0.1234, paper="more") == {
        "check": "name",
        "value": 0.3,
        "bound": "> 0.1234",
        "passed": True,
        "paper": "more",
    }
