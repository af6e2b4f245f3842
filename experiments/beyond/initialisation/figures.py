"""The figure."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.beyond.initialisation.settings import (
    HE,
    NAME,
    NETWORKS,
    REGULARISED,
    time_name,
)
from experiments.beyond.initialisation.verdicts import (
    ERRORS,
    TITLES,
    final,
    log_steps,
    mean_and_error,
    names,
)
from experiments.frame import Arrays, figures

# Of ratios of steps.
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def draw(folder: Path, arrays: Arrays) -> None:
    """The weights of the filters, losses over steps, and both measures of all arms."""
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 8))
    _weights(axes[0, 0], arrays)
    _courses(axes[0, 1], arrays)
    _all_arms(axes[1, 0], arrays, _loss)
    axes[1, 0].axvline(0, color="black", linewidth=0.6)
    axes[1, 0].set(
        title=f"Final loss (± {ERRORS:g} s.e.; dots: networks)",
        xlabel="training loss minus that of the same network with He's (nats)",
    )
    _all_arms(axes[1, 1], arrays, _ratio)
    axes[1, 1].axvline(1, color="black", linewidth=0.6)
    low, high = axes[1, 1].get_xlim()
    ticks = [tick for tick in TICKS if low < tick < high]
    axes[1, 1].set(
        xscale="log",
        xticks=ticks,
        title=f"Steps to the same loss (± {ERRORS:g} s.e.; dots: networks)",
        xlabel="steps over those of the same network with He's",
    )
    axes[1, 1].set_xticklabels([f"{tick:g}" for tick in ticks])
    axes[1, 1].minorticks_off()
    axes[1, 1].tick_params(labelleft=False)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figures.save(figure, folder, NAME)


def _shown(arrays: Arrays) -> list[str]:
    """Arms with different weights."""
    times = [time_name(float(time)) for time in arrays["times"]]
    return ["components", *times, REGULARISED, "whitening"]


def _weights(axis: Any, arrays: Arrays) -> None:
    component = np.arange(1, len(arrays["variance"]) + 1)
    for name, colour in zip(_shown(arrays), figures.COLOURS, strict=False):
        profile = arrays[f"plain/{name}/profile"]
        label = name
        if name == REGULARISED:
            label = f"{name} {float(arrays[f'plain/{name}/value']):g}"
        size = np.sqrt(np.mean(profile**2))
        axis.plot(component, profile / size, "o-", color=colour, ms=2.5, label=label)
    axis.set(
        yscale="log",
        title="First layers made from the closed form",
        ylabel="weight of the component (rms 1)",
    )
    figures.component_axis(axis, len(component))
    axis.legend(fontsize=8)


def _courses(axis: Any, arrays: Arrays) -> None:
    """The arms whose weights are shown, He's, frozen and mixed, without batch norm."""
    colours = dict(zip(_shown(arrays), figures.COLOURS, strict=False))
    lines = {HE: ("black", "-")}
    lines |= {name: (colour, "-") for name, colour in colours.items()}
    lines["whitening, frozen"] = colours["whitening"], "--"
    lines["whitening, mixed"] = colours["whitening"], ":"
    for name, (colour, style) in lines.items():
        steps = arrays[f"plain/{name}/steps"]
        loss = arrays[f"plain/{name}/loss"].mean(axis=0)
        axis.plot(steps, loss, style, color=colour, label=name, marker="o", ms=2.5)
    axis.set(
        title=f"{TITLES['plain']}, mean over networks",
        xlabel="step",
        ylabel="loss on all training images (nats)",
    )
    axis.legend(fontsize=8)


def _loss(arrays: Arrays, network: str, arm: str) -> tuple[np.ndarray, Any]:
    values = final(arrays, network, arm) - final(arrays, network, HE)
    return values, lambda value: value


def _ratio(arrays: Arrays, network: str, arm: str) -> tuple[np.ndarray, Any]:
    return log_steps(arrays, network, arm), np.exp


def _all_arms(axis: Any, arrays: Arrays, measure: Any) -> None:
    """One line an arm, and in it the two networks."""
    shown = names(arrays)[1:]
    for number, network in enumerate(NETWORKS):
        colour, shift = figures.COLOURS[number], 0.18 * (2 * number - 1)
        for place, arm in enumerate(shown):
            values, shape = measure(arrays, network, arm)
            found = mean_and_error(values)
            ends = np.array([-ERRORS, ERRORS]) * found["error"] + found["mean"]
            at = place + shift
            axis.plot(shape(values), np.full(len(values), at), ".", color=colour, ms=3)
            axis.plot(shape(ends), [at, at], color=colour, alpha=0.4, linewidth=5)
            label = TITLES[network] if place == 0 else None
            axis.plot(shape(found["mean"]), at, "D", color=colour, ms=5, label=label)
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.5, -0.5)
