"""Does it matter that the first layer learns? VGGs of growing depth, with it frozen and
learnt (paper, Fig. 2, 20).

    python -m experiments frozen_first_layer
    python -m experiments frozen_first_layer --preset paper

Trains VGGs twice from the same initial weights: all layers, and all but the first. The
gap is the loss (or the accuracy) of the frozen network minus that of its twin; the
paper finds that it closes as depth grows. Trained networks are kept in <out>/runs and
shared with the other experiments; a run that was killed continues.

The cpu preset has all of CIFAR-10, few epochs, four filters in the first layer, and a
learning rate that falls to 0. VGG11 pools right after that layer; what few frozen
filters lose there no later layer can bring back, while deeper networks have another
convolution first. Two earlier settings, in which no such slope was found:

    python -m experiments frozen_first_layer --first-features 16 \\
        --learning-rate 0.01 --schedule constant --depth-epochs 3 \\
        --depth-seeds 6 2 1 2 --out results/constant_rate
    python -m experiments frozen_first_layer --images 2000 --batch-size 16 \\
        --first-features 64 --learning-rate 0.01 --schedule constant \\
        --depth-epochs 30 --depth-seeds 4 2 2 4 --out results/few_images

Writes <out>/frozen_first_layer/<dataset>/{config.json, arrays.npz, summary.json},
and as .png and .pdf the figures frozen_first_layer and frozen_first_layer_training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "frozen_first_layer"
CHOSEN = "settings chosen after trials with VGG11, for the sign of its gap"
MEASURES = {
    "loss": "training loss",
    "validation_loss": "validation loss",
    "accuracy": "training accuracy",
    "validation_accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class Settings(trained.Settings):
    """VGGs of growing depth with the first layer frozen and learnt (paper, Fig. 2,
    20)."""

    # With few images the frozen networks are ahead, unlike in the paper; so all of
    # them, for few epochs. Few filters and a rate that is large at first make the first
    # layer matter; that it ends at 0 keeps the loss from changing by the size of a gap
    # from step to step.
    images: int = 50_000
    first_features: int = 4
    learning_rate: float = 0.05
    batch_size: int = 32
    depths: tuple[int, ...] = (11, 13, 16, 19)
    """Layers with weights, of 11, 13, 16 and 19."""
    depth_seeds: tuple[int, ...] = (8, 4, 2, 4)
    """Networks of each depth, and as many with the first layer frozen."""
    depth_epochs: int = 2
    """Of all of them."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Of the learning rate, which cosine lets fall to 0 at the end of training."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE,
        learning_rate=0.01,
        depths=(11, 13),
        depth_seeds=(3, 1),  # so many of the first are trained by `consistency` too
        depth_epochs=2,
        schedule="constant",
    ),
    "cpu": Settings(),
    "paper": Settings(
        **trained.PAPER_SIZE,
        first_features=64,
        learning_rate=0.01,
        depth_seeds=(4, 4, 4, 4),
        depth_epochs=30,
        schedule="constant",
    ),
}
# --network, --epochs and --seeds are those of other experiments.
UNUSED = ("network", "epochs", "seeds")
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 2 of the paper: first layer frozen and learnt."""
    given = resolve(settings)
    unknown = sorted(set(given.depths) - {11, 13, 16, 19})
    if unknown or len(set(given.depths)) < max(2, len(given.depths)):
        raise ValueError(
            "--depths must be two or more of 11, 13, 16 and 19, none twice, got"
            f" {given.depths}."
        )
    if len(given.depth_seeds) != len(given.depths) or min(given.depth_seeds) < 1:
        raise ValueError(
            "--depth-seeds must have a number of networks, at least 1, for each of"
            f" --depths = {given.depths}, got {given.depth_seeds}."
        )
    if sum(given.depth_seeds) < 3:
        raise ValueError(
            "--depth-seeds must be 3 or more in all, for a slope with a spread, got"
            f" {given.depth_seeds}."
        )
    frame.check_at_least(given, {"depth_epochs": 1})
    if not given.validation:
        raise ValueError(
            "--validation must be at least 1, since validation losses are compared too,"
            " got 0."
        )
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs "learnt/<depth>" and "frozen/<depth>", whose networks of the same number
    start from the same weights."""
    named = {}
    for depth, seeds in zip(settings.depths, settings.depth_seeds, strict=True):
        shared: dict[str, Any] = {
            "network": f"VGG{depth}",
            "seeds": seeds,
            "epochs": settings.depth_epochs,
            "schedule": settings.schedule,
        }
        named[f"learnt/{depth}"] = trained.base_run(settings, **shared)
        named[f"frozen/{depth}"] = trained.base_run(
            settings, **shared, frozen=("conv1",)
        )
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    return arrays | {"depths": np.array(settings.depths)}


def gaps(arrays: Arrays, measure: str) -> dict[int, np.ndarray]:
    """Frozen minus learnt, by depth: (networks, records)."""
    runs = trained.measured(arrays)
    return {
        int(depth): (
            runs[f"frozen/{depth}"][measure] - runs[f"learnt/{depth}"][measure]
        )
        for depth in arrays["depths"]
    }


def slope(gap: dict[int, np.ndarray], record: int = -1) -> tuple[float, float]:
    """Least squares slope of the gap at a record against depth, over all networks, and
    its standard error."""
    points = [
        (depth, value) for depth, values in gap.items() for value in values[:, record]
    ]
    fit = stats.linregress(*np.array(points, np.float64).T)
    # NaN where all gaps are equal.
    return float(fit.slope), float(np.nan_to_num(fit.stderr))


def course(arrays: Arrays, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """The slope at every record but the first, where there is no gap yet, and its
    standard error, each (R - 1,)."""
    gap = gaps(arrays, measure)
    records = range(1, next(iter(gap.values())).shape[1])
    slopes, errors = np.array([slope(gap, record) for record in records]).T
    return slopes, errors


def _epochs(arrays: Arrays) -> np.ndarray:
    return trained.measured(arrays)[
        f"learnt/{arrays['depths'][0]}"
    ].epochs  # the same for all


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each depth losses and accuracies at the end and their gaps; the slopes of the
    gaps against depth."""
    runs = trained.measured(arrays)
    results = []
    for depth in arrays["depths"]:
        row: dict[str, Any] = {"depth": int(depth)}
        for measure in MEASURES:
            row[measure] = {
                "learnt": frame.spread(runs[f"learnt/{depth}"][measure][:, -1]),
                "frozen": frame.spread(runs[f"frozen/{depth}"][measure][:, -1]),
                "gap": frame.spread(gaps(arrays, measure)[int(depth)][:, -1]),
            }
        results.append(row)
    courses = {measure: course(arrays, measure) for measure in MEASURES}
    slopes = {
        measure: (float(values[-1]), float(errors[-1]))
        for measure, (values, errors) in courses.items()
    }
    title = "slope of the gap in training loss at the end against depth"
    checks = [
        frame.check(
            title,
            slopes["loss"][0],
            below=0,
            paper="the gap closes as depth grows",
            caveat=CHOSEN,
        ),
        # Or it may be chance.
        frame.check(
            f"{title}, plus its standard error",
            sum(slopes["loss"]),
            below=0,
            group=f"{title}, plus its standard error",
            written="after",
            caveat=CHOSEN,
        ),
    ]
    found = trained.summarize(arrays, results, checks, trained_to_the_end=False)
    errors = {
        measure: {"slope": value, "standard_error": error}
        for measure, (value, error) in slopes.items()
    }
    over_training = {
        measure: {"slope": values.tolist(), "standard_error": deviations.tolist()}
        for measure, (values, deviations) in courses.items()
    }
    return found | {
        "slopes": errors,
        "slopes_over_training": (
            {"epochs": _epochs(arrays)[1:].tolist()} | over_training
        ),
    }


def draw(folder: Path, arrays: Arrays) -> None:
    """The gaps against depth, and their slope; then losses and accuracies of every
    depth over training."""
    figures.save(_gaps(arrays), folder, NAME)
    figures.save(_over_training(arrays), folder, f"{NAME}_training")


def _over_training(arrays: Arrays) -> Figure:
    """Losses and accuracies of every depth over training."""
    depths, runs = arrays["depths"], trained.measured(arrays)
    figure, panels = plt.subplots(
        2,
        len(depths),
        sharex=True,
        sharey="row",
        squeeze=False,
        figsize=(2.6 * max(4, len(depths)), 5.4),
    )
    # Of training the dark colour, of validation the light one of its kind.
    blue, red, _, _, orange, sky, _ = figures.COLOURS
    kinds = {"learnt": (blue, sky, "////"), "frozen": (red, orange, "\\\\\\\\")}
    for column, depth in enumerate(depths):
        for axis, measure in zip(panels[:, column], ("loss", "accuracy"), strict=True):
            for kind, (dark, light, hatch) in kinds.items():
                epochs = runs[f"{kind}/{depth}"].epochs
                for part, colour, line, filled, label in (
                    ("", dark, "-", None, "training"),
                    ("validation_", light, "--", hatch, "validation"),
                ):
                    values = runs[f"{kind}/{depth}"][f"{part}{measure}"]
                    figures.band(
                        axis,
                        epochs,
                        values,
                        colour,
                        hatch=filled,
                        linestyle=line,
                        label=f"first layer {kind}, {label}",
                    )
            figures.epoch_axis(axis, epochs[-1])
        count = len(runs[f"learnt/{depth}"]["loss"])
        panels[0, column].set(
            title=f"VGG{depth} ({count} network{'s' * (count > 1)})", xlabel=""
        )
    panels[0, 0].set_ylabel("cross-entropy (nats)")
    panels[1, 0].set_ylabel("accuracy")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    return figure


def _gaps(arrays: Arrays) -> Figure:
    """The gaps at the end against depth, and their slope over training."""
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 4))
    for axis, measures, unit in (
        (axes[0], ("loss", "validation_loss"), "loss (nats)"),
        (axes[1], ("accuracy", "validation_accuracy"), "accuracy"),
    ):
        for measure, colour in zip(measures, figures.COLOURS[2:], strict=False):
            gap = gaps(arrays, measure)
            for depth, values in gap.items():
                axis.plot(
                    np.full(len(values), depth),
                    values[:, -1],
                    "o",
                    markersize=3.5,
                    color=colour,
                    alpha=0.6,
                )
            means = [values[:, -1].mean() for values in gap.values()]
            value, error = slope(gap)
            axis.plot(
                list(gap),
                means,
                color=colour,
                label=f"{MEASURES[measure]}: slope {value:+.2g} ± {error:.1g} a layer",
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(
            xlabel="depth (layers with weights)",
            ylabel=f"gap in {unit}, frozen - learnt",
            title="At the end",
        )
        axis.set_xticks(arrays["depths"])
        figures.legend_below(axis, 0.25)
    for measure, colour in zip(
        ("loss", "validation_loss"), figures.COLOURS[2:], strict=False
    ):
        values, errors = course(arrays, measure)
        axes[2].errorbar(
            _epochs(arrays)[1:],
            values,
            errors,
            color=colour,
            marker="o",
            markersize=3.5,
            capsize=2,
            label=f"{MEASURES[measure]}, ± standard error",
        )
    axes[2].axhline(0, color="black", linewidth=0.6)
    figures.epoch_axis(axes[2], _epochs(arrays)[-1])
    axes[2].set(ylabel="slope of the gap (nats a layer)", title="Slope over training")
    figures.legend_below(axes[2], 0.25)
    return figure


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows, slopes = summary["results"], summary["slopes"]

    def cells(part: str, measure: str) -> list[str]:
        return [frame.number(row[measure][part]) for row in rows]

    columns = {
        "network": [f"VGG{row['depth']}" for row in rows] + ["slope of the gap a layer"]
    }
    columns["networks"] = [str(row["loss"]["gap"]["count"]) for row in rows] + [""]
    for measure, title in MEASURES.items():
        columns[f"{title}, learnt"] = [*cells("learnt", measure), ""]
        last = (
            f"{slopes[measure]['slope']:+.4f} ± {slopes[measure]['standard_error']:.4f}"
        )
        columns["gap" if measure == "loss" else f"gap in {title}"] = [
            *cells("gap", measure),
            last,
        ]
    note = (
        "at the end of training; gap: first layer frozen minus learnt, from the same"
        " initial weights; ± standard deviation over networks, standard error for the"
        " slope; paper: the gap closes as depth grows"
    )
    return frame.Table(columns, note)
