"""The figure of `decorrelation`."""

from pathlib import Path
from typing import Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

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
    """Above, our convention, others, and closed form against trained layers. Below, by
    the time of the closed form."""
    figure, ((left, right, middle), (last, curves, profiles)) = plt.subplots(
        2, 3, figsize=(16, 11)
    )
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
    titles, unfitted = trained.titles(arrays), at_times(arrays)
    ends = {criterion: differences(arrays, criterion) for criterion in CRITERIA}
    fitted = {criterion: by_time(arrays, criterion) for criterion in CRITERIA}
    for (name, title), colour in zip(titles.items(), figures.COLOURS, strict=False):
        mean_title = f"{title}: mean ± s.d."
        figures.band(
            middle,
            distances,
            ends["likelihood"][name][:, -1],
            colour,
            marker="o",
            markersize=3,
            label=mean_title,
        )
        middle.plot(
            distances, ends["correlation"][name][:, -1].mean(axis=0), ":", color=colour
        )
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
            figures.band(axis, TIMES, values, colour, label=mean_title)
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
    middle.plot(
        [], [], ":", color="black", label="mean, at the time of the best correlation"
    )
    for axis in (middle, last, curves):
        for bound in (-CLOSE, CLOSE):
            text = None if bound < 0 else "bound of the mean at the end"
            axis.axhline(
                bound, color="black", linestyle="--", linewidth=0.8, label=text
            )
    middle.set(
        title="Closed form at its most likely time - trained change",
        ylabel="difference of autocorrelations",
    )
    figures.legend_below(middle)
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
        title="Trained networks against the closed form of any time: curves",
        ylabel="largest difference of autocorrelations",
        ylim=(-0.2, 0.2),
    )
    profiles.set(
        title="The same: profiles",
        ylabel="correlation of the energy profiles",
        ylim=(0.5, 1),
    )
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
    for axis in (left, middle, right, last, curves):
        axis.axhline(0, color="black", linewidth=0.6)
    for axis in (left, middle, right):
        axis.set(xlabel="distance (pixels)")
    lowest = min(left.get_ylim()[0], right.get_ylim()[0])
    for axis in (left, right):
        axis.set(ylim=(lowest, 1.02))
    figures.save(figure, folder, NAME)
