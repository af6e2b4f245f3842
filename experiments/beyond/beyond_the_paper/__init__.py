"""Momentum, weight decay, minibatches, cross-entropy and trained heads: simulation over
theory (ours)."""

from experiments.beyond.beyond_the_paper.experiment import (
    compute,
    main,
    summary,
    table,
)
from experiments.beyond.beyond_the_paper.figures import draw
from experiments.beyond.beyond_the_paper.settings import (
    NAME,
    PRESETS,
    Settings,
    resolve,
)

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
