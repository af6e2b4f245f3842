"""The first layer of a real network, predicted from the network before its training
(ours)."""

from experiments.beyond.prediction.experiment import compute, main, summary, table
from experiments.beyond.prediction.figures import draw
from experiments.beyond.prediction.settings import NAME, PRESETS, Settings, resolve

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
