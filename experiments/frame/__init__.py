"""The one way from settings to results: every experiment goes it."""

from experiments.frame import disk, figures, inputs
from experiments.frame.checks import check, finite, number, result, spread
from experiments.frame.experiment import (
    Arrays,
    Table,
    finished,
    run,
    saved_arrays,
    text,
    write,
)
from experiments.frame.settings import WHEREABOUTS, Settings, check_at_least

__all__ = [
    "WHEREABOUTS",
    "Arrays",
    "Settings",
    "Table",
    "check",
    "check_at_least",
    "disk",
    "figures",
    "finished",
    "finite",
    "inputs",
    "number",
    "result",
    "run",
    "saved_arrays",
    "spread",
    "text",
    "write",
]
