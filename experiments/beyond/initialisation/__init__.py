"""First layers made from the closed form, against drawn ones (ours)."""

from experiments.beyond.initialisation.experiment import compute, main, summary, table
from experiments.beyond.initialisation.figures import draw
from experiments.beyond.initialisation.settings import NAME, PRESETS, Settings, resolve

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
