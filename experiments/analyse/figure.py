"""The figure of `analyse`: at most four panels."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from experiments.analyse.layers import INNER, Measured
from experiments.analyse.packing import unpacked
from experiments.frame import Arrays, figures

NAME = "analyse"
_LONGEST = 24  # of a label
_MOST_NAMED = 10  # layers; more are numbered


class _Point(NamedTuple):
    """An analysed layer."""

    label: str
    measured: Measured


def draw(folder: Path, arrays: Arrays) -> None:
    """First layers in the components of their patches, beside random filters and the
    fitted formula; of modules the deeper ones; and of each layer how well the formula
    fits and how far it is from random filters."""
    networks = unpacked(arrays)
    found = {
        title: [_Point(one.name, one.measured) for one in layers if one.measured]
        for title, layers in networks.items()
    }
    firsts = {title: points[0] for title, points in found.items() if points}
    deeper = [point for points in found.values() for point in points[1:]]
    several = len(found) > 1
    points = [
        point._replace(label=_label(title, point.label, several, len(of) > 1))
        for title, of in found.items()
        for point in of
    ]
    if not points:
        figure, axis = plt.subplots(figsize=(6, 1))
        axis.text(0.5, 0.5, "no convolution could be analysed", ha="center")
        axis.set_axis_off()
        figures.save(figure, folder, NAME)
        return
    figure, axes = plt.subplots(
        2, 2, figsize=(12, 8.4), gridspec_kw={"height_ratios": (1.15, 1)}
    )
    _first_layers(axes[0, 0], firsts)
    if deeper:
        _deeper(axes[0, 1], deeper)
    else:
        _spectra(axes[0, 1], firsts)
    _fits(axes[1, 0], points)
    _distances(axes[1, 1], points)
    figures.save(figure, folder, NAME)


def _label(title: str, layer: str, several: bool, many: bool) -> str:
    """A layer's name, of several networks with theirs; of a lone layer that alone."""
    whole = layer if not several else f"{title}: {layer}"
    whole = whole if many else title
    return whole if len(whole) <= _LONGEST else f"…{whole[1 - _LONGEST :]}"


def _first_layers(axis: Any, firsts: Mapping[str, _Point]) -> None:
    for (title, point), colour in zip(firsts.items(), itertools.cycle(figures.COLOURS)):
        one = point.measured
        component = np.arange(1, len(one.profile) + 1)
        axis.plot(component, one.profile, color=colour, label=title[-40:], zorder=3)
        if len(firsts) == 1:
            for low, high in [(one.random_low, one.random_high)]:
                axis.fill_between(
                    component,
                    low,
                    high,
                    color="grey",
                    alpha=0.25,
                    linewidth=0,
                    label="95 % of as many random filters",
                )
            if one.fit is not None:
                scale = np.asarray(one.fit.profile)
                axis.plot(
                    component,
                    scale,
                    "--",
                    color="black",
                    label=f"formula, correlation {float(one.fit.correlation):.2f}",
                )
        else:
            for edge in (one.random_low, one.random_high):
                axis.plot(component, edge, color=colour, linewidth=0.5, alpha=0.6)
    if len(firsts) > 1:
        axis.plot(
            [], [], color="grey", linewidth=0.5, label="thin: random filters, 95 %"
        )
    axis.set(
        title="First layer" if len(firsts) == 1 else "First layers",
        ylabel="energy profile, divided by its rms",
        ylim=(0, 1.3 * max(point.measured.profile.max() for point in firsts.values())),
    )
    count = max(len(point.measured.profile) for point in firsts.values())
    figures.component_axis(axis, count)
    if count > 50:
        axis.set_xticks(np.unique(np.linspace(1, count, 6).round().astype(int)))
    axis.legend(fontsize=8, ncols=2, loc="upper right")


def _deeper(axis: Any, points: Sequence[_Point]) -> None:
    """Over the part of the components, so that all sizes share an axis; in means of
    about 40 parts."""
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(points)))
    shown = {0, len(points) // 2, len(points) - 1}
    for place, (point, colour) in enumerate(zip(points, colours, strict=True)):
        parts = np.array_split(
            point.measured.profile**2, min(40, len(point.measured.profile))
        )
        heights = [np.sqrt(part.mean()) for part in parts]
        label = point.label if place in shown or len(points) <= 6 else None
        centres = (np.arange(len(parts)) + 0.5) / len(parts)
        axis.plot(centres, heights, color=colour, label=label)
    axis.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        title="Deeper layers, from first (dark) to last (light)",
        xlabel="part of the components of what reaches the layer (0: largest variance)",
        ylabel="energy profile, divided by its rms",
        xlim=(0, 1),
        ylim=(0, None),
    )
    axis.legend(fontsize=8)


def _spectra(axis: Any, firsts: Mapping[str, _Point]) -> None:
    for (title, point), colour in zip(firsts.items(), itertools.cycle(figures.COLOURS)):
        variance = point.measured.variance
        component = np.arange(1, len(variance) + 1)
        shown = np.where(variance > 0, variance, np.nan)
        axis.semilogy(component, shown, color=colour, label=title)
    axis.set(title="Variance of the patches", ylabel=r"$\lambda_i^2$")
    count = max(len(point.measured.variance) for point in firsts.values())
    figures.component_axis(axis, count)
    if count > 50:
        axis.set_xticks(np.unique(np.linspace(1, count, 6).round().astype(int)))


def _fits(axis: Any, points: Sequence[_Point]) -> None:
    place = np.arange(len(points))
    nothing = np.full(3, np.nan)
    rows = []
    for point in points:
        fit = point.measured.fit
        rows.append(
            nothing
            if fit is None
            else np.array(
                [fit.correlation, fit.correlation_at_zero, fit.correlation_at_infinity],
                float,
            )
        )
    best, zero, infinity = np.transpose(rows)
    low, high = np.transpose(
        [
            np.quantile(one.measured.random_correlation, INNER)
            if one.measured.random_correlation.size
            else nothing[:2]
            for one in points
        ]
    )
    _bars(axis, place, low, high, "fitted to random filters, 95 %")
    axis.plot(
        place, zero, "v", color="#E69F00", markersize=5, label=r"time 0: $\lambda_i$"
    )
    axis.plot(
        place,
        infinity,
        "^",
        color="#56B4E9",
        markersize=5,
        label=r"infinite time: $1/\lambda_i$",
    )
    axis.plot(place, best, "o", color="black", markersize=5, label="best time")
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(title="Formula against profile", ylabel="correlation", ylim=(-1.05, 1.7))
    axis.set_yticks([-1, -0.5, 0, 0.5, 1])
    _layers(axis, points)


def _distances(axis: Any, points: Sequence[_Point]) -> None:
    place = np.arange(len(points))
    low, high = np.transpose(
        [np.quantile(point.measured.random_distance, INNER) for point in points]
    )
    _bars(axis, place, low, high, "as many random filters, 95 %")
    distances = [point.measured.distance for point in points]
    axis.plot(place, distances, "o", color="black", markersize=5, label="this network")
    axis.set(
        title="Distance from random filters",
        ylabel="s.d. over components of log profile",
        yscale="log",
        ylim=(0.6 * min(*low, *distances), 4 * max(*high, *distances)),
    )
    _layers(axis, points)


def _bars(axis: Any, place: Any, low: Any, high: Any, label: str) -> None:
    axis.bar(
        place, high - low, 0.6, low, color="grey", alpha=0.35, linewidth=0, label=label
    )


def _layers(axis: Any, points: Sequence[_Point]) -> None:
    """The same horizontal axis for every panel over layers."""
    few, many = len(points) <= 3, len(points) > _MOST_NAMED
    names = [point.label for point in points]
    places = range(0, len(points), -(-len(points) // 20))
    axis.set_xticks(
        places if many else range(len(points)),
        [str(place + 1) for place in places] if many else names,
        rotation=0 if few or many else 35,
        ha="center" if few or many else "right",
        fontsize=8,
    )
    if many:
        axis.set_xlabel("layer, in the order of the table")
    # As wide as for three, so that a lone layer has no bar across the panel.
    middle, half = (len(points) - 1) / 2, max(len(points), 3) / 2
    axis.set_xlim(middle - half - 0.1, middle + half + 0.1)
    axis.legend(fontsize=8)
