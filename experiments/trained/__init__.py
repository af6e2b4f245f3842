"""Networks that are trained once, or that others have trained, and read by all
experiments."""

from experiments.trained.against_paper import REPORTED, summarize
from experiments.trained.comparisons import comparison_table, correlations, to_initial
from experiments.trained.data import (
    ENERGY_CLASSES,
    KERNEL_SIZE,
    PAPER_CHANNELS,
    Data,
    load_all,
)
from experiments.trained.elsewhere import (
    COMMAND,
    DEAD,
    Present,
    dead,
    file_title,
    norms,
    present,
    tensor_names,
)
from experiments.trained.measurements import (
    KINDS,
    Criterion,
    MeasuredRun,
    fits,
    measure,
    measured,
    titles,
)
from experiments.trained.run import Network, NetworkName, Run, filters, network
from experiments.trained.settings import (
    PAPER_SIZE,
    PAPER_SIZE_OF_SEVERAL,
    SMOKE,
    SMOKE_OF_SEVERAL,
    Settings,
    SettingsOfSeveral,
    base_run,
    check,
    check_other_network,
    check_several,
    several_runs,
    shuffled_run,
)
from experiments.trained.store import identifier, initial_network

__all__ = [
    "COMMAND",
    "DEAD",
    "ENERGY_CLASSES",
    "KERNEL_SIZE",
    "KINDS",
    "PAPER_CHANNELS",
    "PAPER_SIZE",
    "PAPER_SIZE_OF_SEVERAL",
    "REPORTED",
    "SMOKE",
    "SMOKE_OF_SEVERAL",
    "Criterion",
    "Data",
    "MeasuredRun",
    "Network",
    "NetworkName",
    "Present",
    "Run",
    "Settings",
    "SettingsOfSeveral",
    "base_run",
    "check",
    "check_other_network",
    "check_several",
    "comparison_table",
    "correlations",
    "dead",
    "file_title",
    "filters",
    "fits",
    "identifier",
    "initial_network",
    "load_all",
    "measure",
    "measured",
    "network",
    "norms",
    "present",
    "several_runs",
    "shuffled_run",
    "summarize",
    "tensor_names",
    "titles",
    "to_initial",
]
