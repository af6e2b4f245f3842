"""The figures of the prediction."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import trained
from experiments.beyond.prediction import forms, verdicts
from experiments.beyond.prediction.settings import MULTIPLES, NAME, OWN_TIME
from experiments.frame import Arrays, figures

SHOWN_EPOCHS = (1, 5, 20)  # the nearest records to these
BLUE, ORANGE, GREEN, PINK = figures.COLOURS[:4]


def draw(folder: Path, arrays: Arrays) -> None:
    """What was predicted and what was trained, what the curvature is, and how large the
    change becomes."""
    measured = trained.measured(arrays)
    _prediction(folder, measured)
    _curvature(folder, measured)
    _amplitude(folder, measured)


def _shown(run: trained.MeasuredRun) -> list[int]:
    """Records to show, the one before training not counted."""
    epochs = run.epochs[1:]
    return sorted({int(np.abs(epochs - epoch).argmin()) for epoch in SHOWN_EPOCHS})


def _prediction(folder: Path, measured: verdicts.Runs) -> None:
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.6))
    base = measured["base"]
    _profiles(panels[0, 0], base)
    _courses(panels[0, 1], base)
    _times(panels[1, 0], base)
    _sizes(panels[1, 1], measured)
    figures.save(figure, folder, NAME)


def _profiles(axis: Any, run: trained.MeasuredRun) -> None:
    for record, colour in zip(_shown(run), figures.COLOURS, strict=False):
        predicted = run["predicted"][:, record, OWN_TIME]
        profile = run.change[:, 1 + record]
        number = np.arange(1, profile.shape[-1] + 1)
        norms = [
            np.linalg.norm(values, axis=-1, keepdims=True)
            for values in (profile, predicted)
        ]
        figures.band(
            axis,
            number,
            profile / norms[0],
            colour,
            marker="o",
            markersize=2.5,
            label=f"epoch {run.epochs[1 + record]}: trained, ± s.d.",
        )
        axis.plot(
            number,
            (predicted / norms[1]).mean(axis=0),
            "--",
            color=colour,
            label="predicted",
        )
    axis.set(
        title=f"{_title(run)}: change w(t) - w(0)",
        ylabel="energy profile / its norm",
        ylim=(0, None),
    )
    axis.legend(fontsize=8)
    figures.component_axis(axis, len(number))


def _title(run: trained.MeasuredRun) -> str:
    return f"{trained.network(run.config)}, {run.config['images']:,} images"


def _courses(axis: Any, run: trained.MeasuredRun) -> None:
    epochs, ceiling = trained.correlations(run, run)
    courses = {
        "nothing fitted": verdicts.own(run),
        f"{forms.LAMBDA}, time fitted": run[f"{forms.LAMBDA}/correlation"],
        f"{forms.MOMENTS}, time fitted": run[f"{forms.MOMENTS}/correlation"],
        f"{forms.MOMENTS}, one number from the curvature": run["blocks_correlation"],
    }
    for (label, values), colour in zip(courses.items(), figures.COLOURS, strict=False):
        figures.band(
            axis,
            run.epochs[1:],
            values,
            colour,
            label=label,
            marker="o",
            markersize=2.5,
        )
    figures.band(
        axis,
        epochs[1:],
        ceiling[:, 1:],
        "grey",
        linestyle=":",
        label="between trained networks",
    )
    axis.set(title=_title(run), ylabel="correlation with the trained profile")
    figures.epoch_axis(axis, run.epochs[-1])
    axis.legend(fontsize=8)


def _times(axis: Any, run: trained.MeasuredRun) -> None:
    for record, colour in zip(_shown(run), figures.COLOURS, strict=False):
        figures.band(
            axis,
            MULTIPLES,
            run["correlation"][:, record],
            colour,
            label=f"epoch {run.epochs[1 + record]}",
        )
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set(
        xscale="log",
        title=_title(run),
        xlabel="time of the prediction / the training's own time",
        ylabel="correlation, nothing fitted",
    )
    axis.legend(fontsize=8)


def _sizes(axis: Any, measured: verdicts.Runs) -> None:
    names = verdicts.sizes(measured)
    for name, colour in zip(names, itertools.cycle(figures.COLOURS)):
        run = measured[name]
        epochs, words = run.epochs[1:], f"{run.config['images']:,} images"
        figures.band(
            axis,
            epochs,
            verdicts.own(run),
            colour,
            label=words,
            marker="o",
            markersize=2.5,
        )
        fitted = run[f"{forms.LAMBDA}/correlation"].mean(axis=0)
        axis.plot(epochs, fitted, "--", color=colour)
    axis.plot([], [], "--", color="black", label=f"{forms.LAMBDA}, time fitted")
    axis.set(
        title="solid: nothing fitted", ylabel="correlation with the trained profile"
    )
    figures.epoch_axis(axis, max(measured[name].epochs[-1] for name in names))
    axis.legend(fontsize=8)


def _curvature(folder: Path, measured: verdicts.Runs) -> None:
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.6))
    words = verdicts.titles(measured)
    _whiteness(panels[0, 0], measured, words)
    chosen = {words[name]: measured[name] for name in ("base", "other", "small")}
    for (title, run), colour in zip(chosen.items(), figures.COLOURS, strict=False):
        moments = run["moment_traces"]
        scaled = moments * (run["traces"].sum(-1) / moments.sum(-1))[:, None]
        style = {"markersize": 3, "color": colour, "label": title}
        panels[0, 1].plot(scaled.ravel(), run["traces"].ravel(), "o", **style)
        share = moments / moments.mean(axis=-1, keepdims=True)
        moved = run["moved"][:, 0] / run["moved"][:, 0].mean(axis=-1, keepdims=True)
        panels[1, 0].plot(share.ravel(), moved.ravel(), "o", **style)
    both = panels[0, 1].get_xlim()
    panels[0, 1].plot(both, both, color="black", linewidth=0.8)
    panels[0, 1].set(
        xscale="log",
        yscale="log",
        title="single filters, before training",
        xlabel="trace of the patch moment, scaled by one number",
        ylabel="trace of the filter's block of the curvature",
    )
    epoch = measured["base"].epochs[1]
    panels[1, 0].set(
        xscale="log",
        yscale="log",
        title=f"single filters, after epoch {epoch}",
        xlabel="trace of the patch moment / mean",
        ylabel="squared change of the filter / mean",
    )
    for axis in (panels[0, 1], panels[1, 0]):
        axis.legend(fontsize=8)
    _gains(panels[1, 1], measured, words)
    figures.save(figure, folder, f"{NAME}_curvature")


def _whiteness(axis: Any, measured: verdicts.Runs, words: dict[str, str]) -> None:
    # The others begin as the first does, but for their images.
    alike = ("images", "batch", "shuffled")
    names = [name for name in measured if name.split()[0] not in alike]
    places = np.arange(len(names))
    for place, name in zip(places, names, strict=True):
        values = measured[name]["whiteness"]
        axis.plot(values, [place] * len(values), "o", markersize=3, color=BLUE)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.axvline(verdicts.WHITE, color=ORANGE, linestyle=":")
    axis.set_yticks(places, [words[name] for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.set(
        xscale="log",
        title="what flows back to the first layer, before training",
        xlabel="whiteness over locations (1: white)",
    )


def _gains(axis: Any, measured: verdicts.Runs, words: dict[str, str]) -> None:
    names = [
        name for name, run in measured.items() if f"{forms.ABLATIONS[0]}/last" in run
    ]
    places = np.arange(len(names))
    shown = (forms.MOMENTS, forms.NOISE, *forms.ABLATIONS)
    for number, (form, colour) in enumerate(zip(shown, figures.COLOURS, strict=False)):
        gains = [
            verdicts.last_correlation(measured[n], form)
            - verdicts.last_correlation(measured[n], forms.LAMBDA)
            for n in names
        ]
        means = [gain.mean() for gain in gains]
        axis.plot(
            means,
            places + 0.1 * (number - 2.5),
            "o",
            markersize=4,
            color=colour,
            label=form,
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(places, [words[name] for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.set(
        title="times fitted, end of training",
        xlabel=f"correlation, over that of the {forms.LAMBDA}",
    )
    axis.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.14))


def _amplitude(folder: Path, measured: verdicts.Runs) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 5.2))
    shown = {
        name: run
        for name, run in measured.items()
        if name.split()[0] in ("base", "images", "batch", "shuffled")
    }
    for (name, run), colour in zip(shown.items(), itertools.cycle(figures.COLOURS)):
        config = run.config
        shuffled = name.startswith("shuffled")
        style: dict[str, Any] = {
            "linestyle": "--" if shuffled else "-",
            "marker": "s" if name.startswith("batch") else "o",
            "markersize": 3,
        }
        label = (
            f"{config['images']:,} images, batch {config['batch_size']}, rate"
            f" {config['learning_rate']:g}" + (", shuffled labels" if shuffled else "")
        )
        energy, times = (run.change[:, 1:] ** 2).mean(axis=-1), run["times"]
        effective = times * verdicts.best_multiples(run)
        figures.band(left, times, np.sqrt(energy), colour, label=label, **style)
        middle.plot(times, effective, color=colour, **style)
        figures.band(right, times, verdicts.size(run), colour, **style)
    left.set(
        title="size of the change",
        ylabel="root mean square change of a weight",
    )
    every = np.concatenate([run["times"] for run in shown.values()])
    both = (every.min(), every.max())
    middle.plot(both, both, color="black", linewidth=0.8)
    middle.set(
        title="shape of the change",
        ylabel="time at which the prediction agrees best",
    )
    right.axhline(1, color="black", linewidth=0.8)
    right.set(
        title="size that drawn labels would give",
        ylabel="predicted / measured",
    )
    for axis in (left, middle, right):
        axis.set(xscale="log", yscale="log", xlabel="learning rate × steps")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figures.save(figure, folder, f"{NAME}_amplitude")
