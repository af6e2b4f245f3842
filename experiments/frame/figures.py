"""The style of all figures, and what several of them share; every experiment draws its
own, from saved arrays."""

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.frame import disk

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "svg.hashsalt": "linear-cnn",
    "pdf.fonttype": 42,
}
COMPONENTS = "PCA component of the patches (1: largest variance)"
# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, and close it."""
    figure.draw_without_rendering()  # lays it out, once for both files
    figure.set_layout_engine("none")
    for suffix in (".png", ".pdf"):
        # Without dates, the same arrays give the same file.
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        write = partial(figure.savefig, metadata=metadata)
        disk.write_whole(folder / f"{name}{suffix}", write)
    plt.close(figure)


def component_axis(axis: Any, count: int) -> None:
    """The same horizontal axis for every figure over components."""
    axis.set(xlabel=COMPONENTS, xlim=(0.3, count + 0.7))
    step = next(step for step in (1, 2, 5, 10, 20, 50, count) if count <= 10 * step)
    axis.set_xticks(sorted({1, *range(step, count + 1, step)}))


def epoch_axis(axis: Any, last: int) -> None:
    """Epochs, on a scale that shows the first ones too."""
    # The last one too, and none that its number would run into.
    usual = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
    ticks = [*(epoch for epoch in usual if 1.3 * epoch < last), last]
    axis.set_xscale("symlog", linthresh=1, linscale=0.3)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="epoch", xlim=(-0.1, last * 1.1))


def legend_below(axis: Any, distance: float = 0.14) -> None:
    """A legend below the axis label, `distance` heights of the axes down."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -distance), fontsize=8)


def band(
    axis: Any,
    x: np.ndarray,
    values: np.ndarray,
    colour: str,
    *,
    hatch: str | None = None,
    **line: Any,
) -> None:
    """Mean and standard deviation of (networks, x), this as a band, filled or hatched;
    points where they are not defined are left out."""
    known = ~np.isnan(values).any(axis=0)
    x, values = x[known], values[:, known]
    mean, deviation = (
        values.mean(axis=0),
        (values.std(axis=0, ddof=1) if len(values) > 1 else 0),
    )
    style = {"alpha": 0.2} if hatch is None else {"facecolor": "none", "hatch": hatch}
    axis.fill_between(
        x, mean - deviation, mean + deviation, color=colour, linewidth=0, **style
    )
    axis.plot(x, mean, color=colour, **line)


class Profiled(Protocol):
    """A run with its profiles, (networks, records, d)."""

    @property
    def change(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray: ...


def profiles_and_initial(axis: Any, runs: Mapping[str, Profiled]) -> None:
    """Profiles of trained networks, each divided by its maximum, by the titles of their
    runs, and of the first run's initial filters."""
    for (title, run), colour in zip(runs.items(), itertools.cycle(COLOURS)):
        profile = run.change[:, -1]
        component = np.arange(1, profile.shape[-1] + 1)
        shown = profile / profile.max(axis=-1, keepdims=True)
        band(axis, component, shown, colour, label=title)
    initial = next(iter(runs.values())).weights[:, 0]
    initial = initial / initial.max(axis=-1, keepdims=True)
    label = "initial filters, w(0)"
    band(axis, component, initial, "grey", linestyle="--", label=label)
    axis.set(
        title="First layer: change w(t) - w(0)",
        ylabel="energy profile, divided by its maximum",
        ylim=(0, None),
    )
    component_axis(axis, len(component))
    legend_below(axis)


def courses_of_training(
    axis: Any, courses: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Correlations over epochs: mean and standard deviation over pairs of networks."""
    for (label, (epochs, correlations)), colour in zip(
        courses.items(), itertools.cycle(COLOURS)
    ):
        band(
            axis, epochs, correlations, colour, label=label, marker="o", markersize=2.5
        )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(
        title="Correlation of the profiles (± s.d. over pairs)",
        ylabel="Pearson correlation",
    )
    epoch_axis(axis, max(epochs[-1] for epochs, _ in courses.values()))
    legend_below(axis)
