"""Does it matter that the first layer learns? VGGs of growing depth, with it frozen and learnt (paper, Fig. 2, 20).

    python -m experiments frozen_first_layer
    python -m experiments frozen_first_layer --preset paper

Trains VGGs twice from the same initial weights: all layers, and all but the first. The gap is the loss (or the
accuracy) of the frozen network minus that of its twin; the paper finds that it closes as depth grows. Trained networks
are kept in <out>/runs and shared with the other experiments; a run that was killed continues.

The cpu preset takes about 40 minutes on 2 cores. There the gap closes with depth, but from the other side: with 2,000
images a network whose first layer is frozen fits them faster than its twin, by 0.30 nats with 11 layers and no longer
with 19. So the slope is positive, and the check, that it is negative, fails. Batches of 128 turned the sign for VGG11:
a learnt first layer seems to suffer from the noise of batches of 16.

Writes <out>/frozen_first_layer/<dataset>/{config.json, arrays.npz, summary.json, frozen_first_layer.png, .pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from experiments import figures, frame, networks
from experiments.frame import Arrays

NAME = "frozen_first_layer"
MEASURES = {
    "loss": "training loss",
    "validation_loss": "validation loss",
    "accuracy": "training accuracy",
    "validation_accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class Settings(networks.Settings):
    """VGGs of growing depth with the first layer frozen and learnt (paper, Fig. 2, 20)."""

    depths: tuple[int, ...] | None = None
    """Layers with weights, of 11, 13, 16 and 19."""
    depth_seeds: tuple[int, ...] | None = None
    """Networks of each depth, and as many with the first layer frozen."""
    depth_epochs: int | None = None
    """Of all of them."""


def main(settings: Settings) -> None:
    """Fig. 2 of the paper: first layer frozen and learnt."""
    given = networks.resolve(settings)
    unknown = sorted(set(given.depths) - {11, 13, 16, 19})
    if unknown or len(set(given.depths)) < max(2, len(given.depths)):
        raise ValueError(f"--depths must be two or more of 11, 13, 16 and 19, none twice, got {given.depths}.")
    if len(given.depth_seeds) != len(given.depths) or min(given.depth_seeds) < 1:
        raise ValueError(
            f"--depth-seeds must have a number of networks, at least 1, for each of --depths = {given.depths}, got "
            f"{given.depth_seeds}."
        )
    if sum(given.depth_seeds) < 3:
        raise ValueError(f"--depth-seeds must be 3 or more in all, for a slope with a spread, got {given.depth_seeds}.")
    if not given.validation:
        raise ValueError("--validation must be at least 1, since validation losses are compared too, got 0.")
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Any) -> Arrays:
    """Runs "learnt/<depth>" and "frozen/<depth>", whose networks of the same number start from the same weights."""
    named = {}
    for depth, seeds in zip(settings.depths, settings.depth_seeds, strict=True):
        shared: dict[str, Any] = {"network": f"VGG{depth}", "seeds": seeds, "epochs": settings.depth_epochs}
        named[f"learnt/{depth}"] = networks.base_run(settings, **shared)
        named[f"frozen/{depth}"] = networks.base_run(settings, **shared, frozen=("conv1",))
    arrays = networks.measure(named, settings)
    return arrays | {"depths": np.array(settings.depths)}


def gaps(arrays: Arrays, measure: str) -> dict[int, np.ndarray]:
    """Frozen minus learnt, by depth: (networks, records)."""
    return {
        int(depth): arrays[f"frozen/{depth}/{measure}"] - arrays[f"learnt/{depth}/{measure}"]
        for depth in arrays["depths"]
    }


def slope(gap: dict[int, np.ndarray]) -> tuple[float, float]:
    """Least squares slope of the gap at the end against depth, over all networks, and its standard error."""
    points = [(depth, value) for depth, values in gap.items() for value in values[:, -1]]
    fit = stats.linregress(*np.array(points, np.float64).T)
    return float(fit.slope), float(fit.stderr)


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each depth losses and accuracies at the end and their gaps; the slopes of the gaps against depth."""
    results = []
    for depth in arrays["depths"]:
        row: dict[str, Any] = {"depth": int(depth)}
        for measure in MEASURES:
            row[measure] = {
                "learnt": networks.spread(arrays[f"learnt/{depth}/{measure}"][:, -1]),
                "frozen": networks.spread(arrays[f"frozen/{depth}/{measure}"][:, -1]),
                "gap": networks.spread(gaps(arrays, measure)[int(depth)][:, -1]),
            }
        results.append(row)
    slopes = {measure: slope(gaps(arrays, measure)) for measure in MEASURES}
    check = networks.check(
        "slope of the gap in training loss at the end against depth",
        slopes["loss"][0],
        below=0,
        paper="the gap closes as depth grows",
    )
    found = networks.summarize(arrays, results, [check], trained_to_the_end=False)
    errors = {measure: {"slope": value, "standard_error": error} for measure, (value, error) in slopes.items()}
    return found | {"slopes": errors}


def draw(folder: Path, arrays: Arrays) -> None:
    """Above, losses and accuracies of every depth over training; below, the gaps against depth."""
    depths = arrays["depths"]
    figure = plt.figure(figsize=(2.6 * max(4, len(depths)), 8.4))
    parts: Any = figure.subfigures(2, 1, height_ratios=(5, 3))
    panels = parts[0].subplots(2, len(depths), sharex=True, sharey="row", squeeze=False)
    kinds = {"learnt": figures.COLOURS[0], "frozen": figures.COLOURS[1]}
    for column, depth in enumerate(depths):
        for axis, measure in zip(panels[:, column], ("loss", "accuracy"), strict=True):
            for kind, colour in kinds.items():
                epochs = arrays[f"{kind}/{depth}/epochs"]
                for part, line, label in (("", "-", "training"), ("validation_", "--", "validation")):
                    values = arrays[f"{kind}/{depth}/{part}{measure}"]
                    figures.band(axis, epochs, values, colour, linestyle=line, label=f"first layer {kind}, {label}")
            figures.epoch_axis(axis, epochs[-1])
        count = len(arrays[f"learnt/{depth}/loss"])
        panels[0, column].set(title=f"VGG{depth} ({count} network{'s' * (count > 1)})", xlabel="")
    panels[0, 0].set_ylabel("cross-entropy (nats)")
    panels[1, 0].set_ylabel("accuracy")
    parts[0].legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    axes = parts[1].subplots(1, 2)
    for axis, measures, unit in (
        (axes[0], ("loss", "validation_loss"), "loss (nats)"),
        (axes[1], ("accuracy", "validation_accuracy"), "accuracy"),
    ):
        for measure, colour in zip(measures, figures.COLOURS[2:], strict=False):
            gap = gaps(arrays, measure)
            for depth, values in gap.items():
                axis.plot(np.full(len(values), depth), values[:, -1], "o", markersize=3.5, color=colour, alpha=0.6)
            means = [values[:, -1].mean() for values in gap.values()]
            value, error = slope(gap)
            axis.plot(
                list(gap), means, color=colour, label=f"{MEASURES[measure]}: slope {value:+.2g} ± {error:.1g} a layer"
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xlabel="depth (layers with weights)", ylabel=f"gap in {unit}, frozen - learnt", title="At the end")
        axis.set_xticks(depths)
        axis.legend(fontsize=8)
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows, slopes = summary["results"], summary["slopes"]

    def cells(part: str, measure: str) -> list[str]:
        return [networks.number(row[measure][part]) for row in rows]

    columns = {"network": [f"VGG{row['depth']}" for row in rows] + ["slope of the gap a layer"]}
    columns["networks"] = [str(row["loss"]["gap"]["count"]) for row in rows] + [""]
    for measure, title in MEASURES.items():
        columns[f"{title}, learnt"] = [*cells("learnt", measure), ""]
        last = f"{slopes[measure]['slope']:+.4f} ± {slopes[measure]['standard_error']:.4f}"
        columns["gap" if measure == "loss" else f"gap in {title}"] = [*cells("gap", measure), last]
    note = (
        "at the end of training; gap: first layer frozen minus learnt, from the same initial weights; ± standard "
        "deviation over networks, standard error for the slope; paper: the gap closes as depth grows"
    )
    return frame.Table(columns, note)
