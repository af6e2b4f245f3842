"""Checks: a number, its bound, the paper's number and the verdict; and numbers as JSON
and tables take them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Check:
    """A number of ours that is held against a bound, or only shown beside the paper's.

    An experiment makes it, and nothing is worked out from it later: it is saved,
    printed and shown as it is.

    Attributes:
      title: what the number is.
      value: the number.
      bound: as text, e.g. ">= 0.9"; "" for a number that only stands beside the
        paper's.
      passed: the verdict; None without a bound, or where the run is too short for one.
      paper: the paper's number or words, "" where it says nothing.
      shown: how the number is written where three digits do not say all of it.
      group: checks of one group stand in one line of the tables.
      moved: how far what was simulated had moved from its beginning.
      wrong_formulas: what deliberately wrong formulas give instead; they must fail.
      written: whether the bound was written before the first result was known.
      caveat: what to know before the verdict is believed.
    """

    title: str
    value: float
    bound: str = ""
    passed: bool | None = None
    paper: str = ""
    shown: str = ""
    group: str = ""
    moved: str = ""
    wrong_formulas: Mapping[str, float] = field(default_factory=dict)
    written: Literal["before", "after"] = "before"
    caveat: str = ""

    @property
    def verdict(self) -> str:
        """ "ok", "FAIL", "not reached", or "" without a bound."""
        if not self.bound:
            return ""
        return {True: "ok", False: "FAIL", None: "not reached"}[self.passed]

    @property
    def number(self) -> str:
        """The value as text."""
        return self.shown or f"{self.value:#.3g}".removesuffix(".")

    @property
    def after(self) -> str:
        """A word of warning where the bound was written after the first result."""
        known = self.bound and self.written == "after"
        return "bound written after the first result" if known else ""

    @property
    def notes(self) -> str:
        """All that stands beside the verdict, in one line."""
        wrong = ", ".join(f"{k}: {v:.2g}" for k, v in self.wrong_formulas.items())
        parts = (
            self.moved and f"moved: {self.moved}",
            wrong and f"wrong formula {wrong}",
            self.after,
            self.caveat,
        )
        return "; ".join(part for part in parts if part)


def check(
    title: str,
    value: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    wrong: Mapping[str, Any] | None = None,
    reached: bool = True,
    group: str | None = None,
    **more: Any,
) -> Check:
    """A number against all bounds that are given.

    Args:
      title: what the number is; what stands before its first comma is its group,
        unless `group` says otherwise.
      value: the number; a NaN passes no bound.
      at_least, at_most, above, below: its bounds; none: it is only shown.
      wrong: by name, what deliberately wrong formulas give; each must miss the bounds,
        which a NaN does not.
      reached: whether the run is long enough for a verdict.
      group, more: fields of `Check`.
    """
    bounds = {">=": at_least, "<=": at_most, ">": above, "<": below}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    holds = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}

    def within(number: float) -> bool:
        return all(bool(holds[sign](number, bound)) for sign, bound in given.items())

    formulas = {name: float(number) for name, number in (wrong or {}).items()}
    missed = all(not (within(n) or np.isnan(n)) for n in formulas.values())
    passed = within(value) and missed
    return Check(
        title,
        float(value),
        " and ".join(f"{sign} {bound:.4g}" for sign, bound in given.items()),
        passed if given and reached else None,
        group=title.partition(", ")[0] if group is None else group,
        wrong_formulas=formulas,
        **more,
    )


_TEXTS = ("title", "bound", "paper", "shown", "group", "moved", "written", "caveat")


def as_rows(checks: Any) -> list[dict[str, Any]]:
    """Checks as a summary holds them."""
    return [asdict(one) for one in checks]


def read_checks(summary: Mapping[str, Any]) -> list[Check]:
    """The checks of a summary.

    Raises:
      ValueError: they are those of another version, or damaged.
    """
    try:
        checks = [Check(**row) for row in summary["checks"]]
        for one in checks:
            texts = [getattr(one, name) for name in _TEXTS]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{one.title!r} has something else in place of a text")
            if not isinstance(one.passed, bool | None):
                raise TypeError(f"{one.title!r} has the verdict {one.passed!r}")
            _ = one.notes, one.number
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"its checks are damaged, or of another version of this library ({error})"
        ) from error
    return checks


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


def number(values: Mapping[str, Any]) -> str:
    """Mean ± standard deviation as text."""
    deviation = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{deviation}"


def paper_number(values: tuple[float, ...] | None) -> str:
    """A mean of the paper's, with its spread where it has one, as text."""
    return " ± ".join(map(str, values)) if values else ""
