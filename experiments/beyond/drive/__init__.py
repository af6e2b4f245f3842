"""What drives the first layer of a real network along its training (ours)."""

from experiments.beyond.drive.experiment import compute, main, summary, table
from experiments.beyond.drive.figures import draw
from experiments.beyond.drive.settings import NAME, PRESETS, Settings, resolve

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
