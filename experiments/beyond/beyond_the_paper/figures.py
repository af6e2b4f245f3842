"""The two figures: optimisers, and where the closed forms end."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.beyond.beyond_the_paper import measures
from experiments.beyond.beyond_the_paper.settings import (
    CLASSES,
    CLOSED,
    KINDS,
    LIMITS,
    NAME,
)
from experiments.frame import Arrays, figures

SHOWN = ("heavy_ball", "cosine", "decoupled")  # their whole profiles
POINTS = {"marker": "o", "linestyle": "", "markersize": 3.5}
ALPHA = r"variance $\alpha_i$ of the mean patches along a component"


def draw(folder: Path, arrays: Arrays) -> None:
    """Both figures."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 8))
    _profiles(panels[0, 0], arrays)
    _plain(panels[0, 1], arrays)
    _decay(panels[1, 0], arrays)
    _seeds(panels[1, 1], arrays)
    figures.save(figure, folder, NAME)
    figure, panels = plt.subplots(2, 2, figsize=(10, 8))
    _batches(panels[0, 0], arrays)
    _noise(panels[0, 1], arrays)
    _classes(panels[1, 0], arrays)
    _heads(panels[1, 1], arrays)
    figures.save(figure, folder, f"{NAME}_limits")


def _profiles(axis: Any, arrays: Arrays) -> None:
    steps, alpha = arrays["optimizers/steps"], arrays["optimizers/alpha"]
    middle = int(np.abs(np.log(steps[1:] / np.sqrt(steps[-1]))).argmin()) + 1
    for name, colour in zip(SHOWN, figures.COLOURS, strict=False):
        key = f"optimizers/{name}"
        for record in (middle, -1):
            axis.plot(alpha, arrays[f"{key}/expected"][record], color=colour)
            axis.plot(
                alpha,
                measures.rms(arrays[f"{key}/profile"][:, record]),
                color=colour,
                **POINTS,
            )
        axis.plot([], [], color=colour, **POINTS, label=KINDS[name].title)
    adam = measures.rms(arrays["optimizers/adam/profile"][:, -1])
    axis.plot(alpha, adam, "x", color="black", markersize=4, label="Adam")
    axis.plot([], [], color="grey", label="closed forms")
    axis.set(
        xscale="log",
        yscale="log",
        title=f"After {steps[middle]:,} and {steps[-1]:,} steps",
        xlabel=ALPHA,
        ylabel="rms energy profile (units of the weights)",
    )
    axis.legend(fontsize=8)


def _plain(axis: Any, arrays: Arrays) -> None:
    steps = arrays["optimizers/steps"][1:]
    for name, colour in zip(CLOSED, itertools.cycle((*figures.COLOURS, "#999999"))):
        key = f"optimizers/{name}"
        plain = arrays[f"{key}/plain"][1:]
        trained = measures.rms(arrays[f"{key}/profile"][:, 1:])
        axis.plot(
            steps,
            measures.factor(arrays[f"{key}/expected"][1:], plain),
            color=colour,
        )
        axis.plot(
            steps,
            measures.factor(trained, plain),
            color=colour,
            **POINTS,
            label=KINDS[name].title,
        )
    axis.set(
        xscale="log",
        yscale="log",
        title="What the plain form gets wrong",
        xlabel="step t",
        ylabel="factor from the plain form, rms over components",
    )
    axis.legend(fontsize=7)


def _decay(axis: Any, arrays: Arrays) -> None:
    alpha = arrays["optimizers/alpha"]
    fine = np.geomspace(alpha[-1], alpha[0], 200)
    size = 1 / (
        float(arrays["optimizers/filters"]) * np.sqrt(arrays["optimizers/count"])
    )
    for name, colour in zip(LIMITS, figures.COLOURS, strict=False):
        _, c = measures.limit_of_decay(arrays, name)
        axis.plot(fine, size * np.sqrt(fine) / (fine + c), color=colour)
        axis.axvline(c, color=colour, linestyle=":", linewidth=1)
        trained = measures.rms(arrays[f"optimizers/{name}/profile"][:, -1])
        axis.plot(alpha, trained, color=colour, **POINTS, label=KINDS[name].title)
    axis.plot(fine, size / np.sqrt(fine), "--", color="black", label="whitening")
    axis.plot([], [], ":", color="grey", label=r"$\alpha = c$")
    axis.set(
        xscale="log",
        yscale="log",
        title=r"Limit of weight decay: $\sqrt{\alpha}\,/\,(\alpha + c)$",
        xlabel=ALPHA,
        ylabel="rms energy profile (units of the weights)",
    )
    axis.legend(
        fontsize=7, loc="upper right", frameon=True, framealpha=1, edgecolor="none"
    )


def _seeds(axis: Any, arrays: Arrays) -> None:
    for name, colour in zip(CLOSED, itertools.cycle((*figures.COLOURS, "#999999"))):
        counts, errors = measures.errors_of_seeds(arrays, name)
        axis.plot(counts, errors, color=colour, **POINTS)
    axis.plot(counts, np.sqrt(2 / counts), color="black", label=r"$\sqrt{2/S}$")
    axis.set(
        xscale="log",
        yscale="log",
        title="Standard error over seeds",
        xlabel="number S of networks",
        ylabel="relative error of their mean energy",
    )
    axis.legend(fontsize=8)


def _batches(axis: Any, arrays: Arrays) -> None:
    alpha = arrays["optimizers/alpha"]
    for name, colour in zip(measures.batches(arrays), itertools.cycle(figures.COLOURS)):
        key = f"batches/{name}"
        for record, style in ((-2, "-"), (-1, ":")):
            ratio = arrays[f"{key}/expected"][record]
            axis.plot(
                alpha,
                ratio / arrays[f"{key}/expected_full"][record],
                style,
                color=colour,
                linewidth=1,
            )
        full = measures.rms(arrays[f"{key}/full"][:, -1])
        axis.plot(
            alpha,
            measures.rms(arrays[f"{key}/profile"][:, -1]) / full,
            color=colour,
            **POINTS,
            label=measures.in_words(name),
        )
        if f"{key}/{measures.EPOCHS}" in arrays:
            epochs = measures.rms(arrays[f"{key}/epochs_profile"][:, -1])
            words = f"{measures.in_words(name)}, in epochs"
            axis.plot(alpha, epochs / full, "x", color="black", label=words)
    axis.plot([], [], "-", color="grey", label="theory")
    axis.plot([], [], ":", color="grey", label=r"theory, $t = \infty$")
    axis.set(
        xscale="log",
        yscale="log",
        title="Minibatches, drawn with replacement",
        xlabel=ALPHA,
        ylabel="rms energy profile / that of full batches",
    )
    axis.legend(fontsize=7)


def _noise(axis: Any, arrays: Arrays) -> None:
    x, trained, predicted = measures.noises(arrays)
    order = np.argsort(x, kind="stable")
    blue, orange = figures.COLOURS[:2]
    axis.plot(x[order], predicted[order], color=blue, label="theory")
    axis.plot(x, trained, color=blue, **POINTS, label="drawn with replacement")
    for place, name in enumerate(measures.batches(arrays)):
        key = f"batches/{name}"
        if f"{key}/{measures.EPOCHS}" in arrays:
            full = measures.full_square(arrays, name)
            epochs = measures.variance(arrays[f"{key}/{measures.EPOCHS}"])[-1].sum()
            first = arrays[f"{key}/epochs_variance"][-1].sum()
            axis.plot(x[place], epochs / full, "x", color=orange, label="in epochs")
            axis.plot(
                x[place],
                first / full,
                "_",
                color=orange,
                markersize=12,
                label="in epochs, first order",
            )
    axis.plot(
        x[order],
        predicted[order][0] * x[order] / x[order][0],
        ":",
        color="grey",
        label="in proportion",
    )
    axis.set(
        xscale="log",
        yscale="log",
        title="Noise at the same rate times steps",
        xlabel="rate / batch size (rate: over half of the largest stable)",
        ylabel=r"variance over batches / $|v|^2$",
    )
    axis.legend(fontsize=8)


def _classes(axis: Any, arrays: Arrays) -> None:
    for (name, kind), colour in zip(CLASSES.items(), figures.COLOURS, strict=False):
        logits = arrays[f"classes/{name}/logits"].mean(axis=0)[1:]
        error = arrays[f"classes/{name}/error"].mean(axis=0)[1:]
        axis.plot(
            logits,
            error,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=0.7,
            label=kind.title,
        )
    axis.axhline(measures.OFF, color="black", linewidth=0.8)
    axis.set(
        xscale="log",
        yscale="log",
        title="Cross-entropy: the linearised form, over training",
        xlabel="root mean square of the logits",
        ylabel="error / change of the filters",
    )
    axis.legend(fontsize=8)


def _heads(axis: Any, arrays: Arrays) -> None:
    scales = arrays["heads/scales"]
    blue, orange = figures.COLOURS[:2]
    axis.plot(arrays["heads/line_scales"], arrays["heads/line"], color=blue)
    axis.plot(
        scales,
        arrays["heads/error"][:, :, -1].mean(axis=1),
        color=blue,
        **POINTS,
        label="error / change of the filters",
    )
    axis.plot(
        scales,
        1 - arrays["heads/correlation"][:, :, -1].mean(axis=1),
        "s",
        color=orange,
        markersize=3.5,
        label="1 - correlation of the profiles",
    )
    axis.plot([], [], color=blue, label="recursion of both layers")
    axis.set(
        xscale="log",
        yscale="log",
        title="The head learns too: the form for a fixed one",
        xlabel="squared length of the head at the start / length of what is learnt",
        ylabel="at the end of training",
    )
    axis.legend(fontsize=8)
