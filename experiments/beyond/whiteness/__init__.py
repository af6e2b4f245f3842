"""What makes the signal that flows back to the first layer white (ours)."""

from experiments.beyond.whiteness.experiment import compute, main, summary, table
from experiments.beyond.whiteness.figures import draw
from experiments.beyond.whiteness.settings import NAME, PRESETS, Settings, resolve

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
