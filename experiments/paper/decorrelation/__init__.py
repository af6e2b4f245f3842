"""How the responses of the first layer correlate over distance (paper, Fig. 6)."""

from experiments.paper.decorrelation.curves import NAME
from experiments.paper.decorrelation.experiment import (
    PRESETS,
    Settings,
    compute,
    main,
    resolve,
    summary,
    table,
)
from experiments.paper.decorrelation.figure import draw

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
