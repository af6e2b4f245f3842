"""Closed forms against linear CNNs that were really trained (paper, Theorems 4.2 and
4.3)."""

from experiments.paper.theory_vs_simulation.experiment import (
    NAME,
    compute,
    draw,
    main,
    summary,
    table,
)
from experiments.paper.theory_vs_simulation.settings import PRESETS, Settings
from experiments.paper.theory_vs_simulation.verdicts import judge

__all__ = [
    "NAME",
    "PRESETS",
    "Settings",
    "compute",
    "draw",
    "judge",
    "main",
    "summary",
    "table",
]
