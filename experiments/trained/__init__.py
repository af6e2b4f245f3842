"""Networks that are trained once, or that others have trained, and read by all
experiments."""

from experiments.trained.against_paper import summarize
from experiments.trained.comparisons import comparison_table, correlations, to_initial
from experiments.trained.data import (
    ENERGY_CLASSES,
    KERNEL_SIZE,
    PAPER_CHANNELS,
    Data,
    load,
)
from experiments.trained.elsewhere import COMMAND, dead, norms, present
from experiments.trained.measurements import (
    FITS,
    KINDS,
    Criterion,
    config,
    fits,
    measure,
    names,
    titles,
)
from experiments.trained.run import Network, NetworkName, Run, filters, network, title
from experiments.trained.settings import (
    Settings,
    SettingsOfSeveral,
    base_run,
    resolve,
    resolve_several,
    several_runs,
    shuffled_run,
)

__all__ = [
    "COMMAND",
    "ENERGY_CLASSES",
    "FITS",
    "KERNEL_SIZE",
    "KINDS",
    "PAPER_CHANNELS",
    "Criterion",
    "Data",
    "Network",
    "NetworkName",
    "Run",
    "Settings",
    "SettingsOfSeveral",
    "base_run",
    "comparison_table",
    "config",
    "correlations",
    "dead",
    "filters",
    "fits",
    "load",
    "measure",
    "names",
    "network",
    "norms",
    "present",
    "resolve",
    "resolve_several",
    "several_runs",
    "shuffled_run",
    "summarize",
    "title",
    "titles",
    "to_initial",
]
