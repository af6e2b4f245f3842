"""Checks: a number, its bound and the verdict; and numbers as JSON and tables take
them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def spread(values: Any) -> dict[str, Any]:
    """Mean, standard deviation and number of values, as JSON takes them."""
    values = np.asarray(values, np.float64).ravel()
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": deviation, "count": len(values)}


def finite(values: Any) -> list[float | None]:
    """The values as JSON takes them, None for what is infinite."""
    return [
        float(value) if np.isfinite(value) else None for value in np.asarray(values)
    ]


def check(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    paper: str | None = None,
) -> dict[str, Any]:
    """One row: it passes if the value is within all bounds that are given (a NaN is
    not); what the paper says of it."""
    bounds = {">=": at_least, "<=": at_most, ">": above, "<": below}
    holds = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    passed = all(bool(holds[sign](value, bound)) for sign, bound in given.items())
    text = " and ".join(f"{sign} {bound:.4g}" for sign, bound in given.items())
    row = {"check": name, "value": float(value), "bound": text, "passed": passed}
    return row if paper is None else row | {"paper": paper}


def number(values: Mapping[str, Any]) -> str:
    """Mean ± standard deviation as text."""
    deviation = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{deviation}"


def result(
    name: str,
    measured: Any,
    bound: float,
    *,
    moved: Any = None,
    wrong: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One row: it passes if the measured number is within the bound and every wrong
    formula's is not."""
    wrong = {label: float(value) for label, value in (wrong or {}).items()}
    passed = bool(measured <= bound) and all(value > bound for value in wrong.values())
    row = {
        "check": name,
        "moved": moved,
        "measured": float(measured),
        "bound": bound,
        "wrong_formulas": wrong,
    }
    return row | {"passed": passed} | more
