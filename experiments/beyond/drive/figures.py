"""The figure of what drives the first layer."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import trained
from experiments.beyond.drive import verdicts
from experiments.beyond.drive.network import soft
from experiments.beyond.drive.settings import NAME
from experiments.frame import Arrays, figures

TIME = "learning rate x steps"


def draw(folder: Path, arrays: Arrays) -> None:
    """The noise and the drive, the curvature, and what the law makes of them."""
    runs = trained.measured(arrays)
    words = {name: trained.difference(name, run.config) for name, run in runs.items()}
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.6))
    _components(panels[0, 0], runs["base"])
    _curvature(panels[0, 1], runs, words)
    _drive(panels[1, 0], runs, words)
    _profiles(panels[1, 1], runs, words)
    figures.save(figure, folder, NAME)


def _components(axis: Any, run: verdicts.Run) -> None:
    ratio = verdicts.noise_over_curvature(run)
    number = np.arange(1, ratio.shape[1] + 1)
    blue, orange = figures.COLOURS[:2]
    figures.band(
        axis,
        number,
        ratio,
        blue,
        marker="o",
        markersize=2.5,
        label="variance of the noise of a batch, ± s.d.",
    )
    largest = int(run["trace"].mean(axis=0).argmax())
    figures.band(
        axis,
        number,
        run["shares"][:, largest] / run["shares"][:, 0],
        orange,
        label="curvature where it is largest, over its start",
    )
    axis.axhline(1, color="grey", linewidth=0.8)
    axis.axvline(
        soft(len(number)).start + 0.5, color="grey", linewidth=0.8, linestyle=":"
    )
    axis.set(
        title="noise and curvature have the same components",
        ylabel="over the share of the curvature",
        ylim=(0, 2),
    )
    axis.legend(fontsize=8)
    figures.component_axis(axis, len(number))


def _curvature(axis: Any, runs: dict[str, verdicts.Run], words: dict[str, str]) -> None:
    for (name, run), colour in zip(runs.items(), figures.COLOURS, strict=False):
        axis.plot(
            run["times"][0, 1:],
            (run["trace"] / run["trace"][:, :1]).mean(axis=0)[1:],
            color=colour,
            label=words[name],
        )
    axis.set(
        title="the curvature grows",
        xlabel=TIME,
        ylabel="its trace over that before training",
        xscale="log",
        yscale="log",
    )
    axis.legend(fontsize=8)


def _drive(axis: Any, runs: dict[str, verdicts.Run], words: dict[str, str]) -> None:
    first = soft(runs["base"]["profile"].shape[-1]).start
    for (name, run), colour in zip(runs.items(), figures.COLOURS, strict=False):
        times = run["times"][0]
        axis.plot(
            (times[1:] + times[:-1]) / 2,
            np.sqrt((verdicts.drive(run) ** 2).mean(axis=0)),
            color=colour,
            label=words[name],
        )
    axis.set(
        title=f"drive in components {first + 1} and up",
        xlabel=TIME,
        ylabel="root mean square, over the root of their share",
        xscale="log",
        ylim=(0, None),
    )
    axis.legend(fontsize=8)


def _profiles(axis: Any, runs: dict[str, verdicts.Run], words: dict[str, str]) -> None:
    shown = [name for name in runs if name.split()[0] in ("base", "batch")][:2]
    for name, colour in zip(shown, figures.COLOURS, strict=False):
        run = runs[name]
        number = np.arange(1, run["profile"].shape[-1] + 1)
        figures.band(
            axis,
            number,
            run["profile"][:, -1],
            colour,
            linestyle="none",
            marker="o",
            markersize=2.5,
            label=f"{words[name]}: trained, ± s.d.",
        )
        for law, style in (("law", "-"), ("one rate", ":")):
            axis.plot(
                number,
                run[law][:, -1].mean(axis=0),
                style,
                color=colour,
                label={"law": "the law", "one rate": "one rate for all filters"}[law],
            )
    axis.set(
        title="change w(t) - w(0) at the end",
        ylabel="energy profile",
        yscale="log",
    )
    axis.legend(fontsize=8)
    figures.component_axis(axis, len(number))
