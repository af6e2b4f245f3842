"""The one way from settings to results: every experiment goes it."""

from experiments.frame import disk, figures, inputs
from experiments.frame.checks import (
    Check,
    check,
    finite,
    number,
    paper_number,
    read_checks,
    spread,
)
from experiments.frame.experiment import Arrays, Table, finished, run
from experiments.frame.settings import (
    AS_STORED,
    PRESET_NAMES,
    WHEREABOUTS,
    Preset,
    Settings,
    check_at_least,
)

__all__ = [
    "AS_STORED",
    "PRESET_NAMES",
    "WHEREABOUTS",
    "Arrays",
    "Check",
    "Preset",
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
    "paper_number",
    "read_checks",
    "run",
    "spread",
]
