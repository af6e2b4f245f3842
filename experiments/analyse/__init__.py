"""Every convolution of a network of one's own, against the theory and against random
filters, in one call."""

from experiments.analyse.analysis import analyse
from experiments.analyse.experiment import (
    POSITIONAL,
    PRESETS,
    Settings,
    compute,
    main,
    resolve,
)
from experiments.analyse.figure import NAME, draw
from experiments.analyse.layers import Layer, Measured
from experiments.analyse.results import save, summary, table

__all__ = [
    "NAME",
    "POSITIONAL",
    "PRESETS",
    "Layer",
    "Measured",
    "Settings",
    "analyse",
    "compute",
    "draw",
    "main",
    "resolve",
    "save",
    "summary",
    "table",
]
