"""First layers of pretrained networks have much the same energy profile (paper, Fig.
10, 11 and demo notebook)."""

from experiments.paper.pretrained.experiment import (
    PRESETS,
    Settings,
    compute,
    main,
    resolve,
)
from experiments.paper.pretrained.figures import draw
from experiments.paper.pretrained.profiles import NAME
from experiments.paper.pretrained.verdicts import summary, table

__all__ = [
    "NAME",
    "PRESETS",
    "Settings",
    "compute",
    "draw",
    "main",
    "resolve",
    "summary",
    "table",
]
