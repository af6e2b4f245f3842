"""The figures of `decorrelation`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments import trained
from experiments.frame import Arrays, figures
from experiments.paper.decorrelation.curves import (
    AS_GOOD,
    CLOSE,
    CRITERIA,
    NAME,
    OURS,
    TIMES,
    TITLES,
    at_times,
    by_time,
    conventions_in,
    differences,
)

MARKERS: dict[trained.Criterion, str] = {"likelihood": "D", "correlation": "o"}
CONVENTION_LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")


def draw(folder: Path, arrays: Arrays) -> None:
    """Autocorrelations over distance; then trained layers against the closed form of
    any time."""
    figures.save(_over_distance(arrays), folder, NAME)
    figures.save(_over_time(arrays), folder, f"{NAME}_times")


def _over_distance(arrays: Arrays) -> Figure:
    """Our convention, others, and closed form against trained layers."""
    figure, (left, right, middle) = plt.subplots(1, 3, figsize=(14, 6))
    distances = arrays["distances"]
    lines = {"rgb": "-.", "likelihood": "--", "correlation": ":", "whitening": "--"}
    colours = {
        "rgb": "grey",
        "random": figures.COLOURS[4],
        "weights": figures.COLOURS[5],
        "change": figures.COLOURS[0],
        "likelihood": "black",
        "correlation": "black",
        "whitening": figures.COLOURS[2],
    }
    for name, title in TITLES.items():
        values = arrays[f"{OURS}/{name}"]
        label = title + (": mean ± s.d." if len(values) > 1 else "")
        marker = None if name in lines else "o"
        figures.band(
            left,
            distances,
            values,
            colours[name],
            linestyle=lines.get(name, "-"),
            marker=marker,
            markersize=3,
            label=label,
        )
    left.set(
        title=f"{OURS[0].upper()}{OURS[1:]}", ylabel="autocorrelation of the responses"
    )
    figures.legend_below(left)
    names = conventions_in(arrays)
    for convention, line in zip(names, CONVENTION_LINES, strict=True):
        for name in ("rgb", "change", "whitening"):
            mean = arrays[f"{convention}/{name}"].mean(axis=0)
            right.plot(distances, mean, line, color=colours[name])
    handles = [
        mpl.lines.Line2D([], [], color=colours[name], label=TITLES[name])
        for name in ("rgb", "change", "whitening")
    ]
    handles += [
        mpl.lines.Line2D([], [], color="black", label=convention, linestyle=line)
        for convention, line in zip(names, CONVENTION_LINES, strict=True)
    ]
    right.set(title="Three conventions")
    right.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8
    )
    for (name, title), colour in _coloured(arrays):
        ends = {
            criterion: differences(arrays, criterion)[name][:, -1]
            for criterion in CRITERIA
        }
        figures.band(
            middle,
            distances,
            ends["likelihood"],
            colour,
            marker="o",
            markersize=3,
            label=f"{title}: mean ± s.d.",
        )
        middle.plot(distances, ends["correlation"].mean(axis=0), ":", color=colour)
    middle.plot(
        [], [], ":", color="black", label="mean, at the time of the best correlation"
    )
    _bounds(middle)
    middle.set(
        title="Closed form at its most likely time - trained change",
        ylabel="difference of autocorrelations",
    )
    figures.legend_below(middle)
    for axis in (left, middle, right):
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xlabel="distance (pixels)")
    lowest = min(left.get_ylim()[0], right.get_ylim()[0])
    for axis in (left, right):
        axis.set(ylim=(lowest, 1.02))
    return figure


def _over_time(arrays: Arrays) -> Figure:
    """The largest difference of every network at each record; how curves and profiles
    at the end agree with the closed form of any time."""
    figure, (last, curves, profiles) = plt.subplots(1, 3, figsize=(14, 6))
    unfitted = at_times(arrays)
    fitted = {criterion: by_time(arrays, criterion) for criterion in CRITERIA}
    for (name, title), colour in _coloured(arrays):
        times, largest = fitted["likelihood"][name]
        last.plot(
            times.ravel(),
            largest.ravel(),
            "o",
            color=colour,
            markersize=3,
            alpha=0.7,
            label=title,
        )
        correlation, difference = unfitted[name]
        mean = correlation.mean(axis=0)
        good = mean >= mean.max() - AS_GOOD
        for axis, values in ((profiles, correlation), (curves, difference)):
            figures.band(axis, TIMES, values, colour, label=f"{title}: mean ± s.d.")
            axis.plot(TIMES[good], values.mean(axis=0)[good], color=colour, linewidth=4)
            for criterion, marker in MARKERS.items():
                # It may be 0.
                time = np.clip(
                    np.median(fitted[criterion][name][0][:, -1]), TIMES[0], TIMES[-1]
                )
                height = np.interp(time, TIMES, values.mean(axis=0))
                axis.plot(
                    time,
                    height,
                    marker,
                    color=colour,
                    markeredgecolor="black",
                    zorder=5,
                )
    for axis in (last, curves):
        _bounds(axis)
        axis.axhline(0, color="black", linewidth=0.6)
    last.set(
        title="The largest difference of each network at each record",
        xlabel="most likely time x variance of component 1",
        ylabel="difference of autocorrelations",
        xscale="log",
    )
    figures.legend_below(last)
    text = f"thick: correlation of the profiles within {AS_GOOD} of its best"
    for axis in (curves, profiles):
        axis.plot([], [], color="black", linewidth=4, label=text)
        for criterion, marker in MARKERS.items():
            label = TITLES[criterion].removeprefix("closed form at ")
            axis.plot(
                [],
                [],
                marker,
                color="white",
                markeredgecolor="black",
                label=f"{label}, median",
            )
        axis.set(
            xlabel="time x variance of component 1", xscale="log", xlim=(TIMES[0], 100)
        )
        figures.legend_below(axis)
    curves.set(
        title="Curves against the closed form of any time",
        ylabel="largest difference of autocorrelations",
        ylim=(-0.2, 0.2),
    )
    profiles.set(
        title="Profiles against the closed form of any time",
        ylabel="correlation of the energy profiles",
        ylim=(0.5, 1),
    )
    return figure


def _coloured(arrays: Arrays) -> Iterator[tuple[tuple[str, str], str]]:
    """Name and title of each kind of trained network, with its colour."""
    return zip(trained.titles(arrays).items(), figures.COLOURS, strict=False)


def _bounds(axis: Any) -> None:
    for bound in (-CLOSE, CLOSE):
        text = None if bound < 0 else "bound of the mean at the end"
        axis.axhline(bound, color="black", linestyle="--", linewidth=0.8, label=text)
