"""The figure of what makes the signal white."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.beyond.whiteness import verdicts
from experiments.beyond.whiteness.settings import NAME, NORMS, small
from experiments.frame import Arrays, figures

WHITENESS = "whiteness"


def _colours(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return dict(zip(verdicts.networks(arrays), figures.COLOURS, strict=False))


def draw(folder: Path, arrays: Arrays) -> None:
    """Whiteness by norm and network, against the recursion, on the way down; and the
    blocks of the curvature."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.6))
    _norms(panels[0, 0], arrays)
    _recursion(panels[0, 1], arrays)
    _way_down(panels[1, 0], arrays)
    _blocks(panels[1, 1], arrays)
    figures.save(figure, folder, NAME)


def _norms(axis: Any, arrays: Mapping[str, np.ndarray]) -> None:
    colours = _colours(arrays)
    for place, (network, colour) in enumerate(colours.items()):
        for number, norm in enumerate(NORMS):
            values = verdicts.measured(arrays, network, norm)
            axis.plot(
                np.full(len(values), number + 0.1 * (place - (len(colours) - 1) / 2)),
                values,
                "o",
                markersize=3,
                color=colour,
                label=network if number == 0 else None,
            )
    axis.axhline(1, color="grey", linewidth=0.8)
    axis.set(
        title="each network, by what is kept of batch norm",
        ylabel=WHITENESS,
        yscale="log",
    )
    words = [_broken(words) for words in NORMS.values()]
    axis.set_xticks(range(len(NORMS)), words, fontsize=8)
    axis.legend(fontsize=8, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16))


def _broken(words: str) -> str:
    """In two lines."""
    return words.replace(", ", ",\n").replace("the ", "the\n")


def _recursion(axis: Any, arrays: Mapping[str, np.ndarray]) -> None:
    colours = _colours(arrays)
    for network, colour in colours.items():
        for norm, marker in zip(NORMS, "os^D*", strict=True):
            axis.plot(
                verdicts.expected(arrays, network, norm),
                verdicts.measured(arrays, network, norm),
                marker,
                markersize=4,
                color=colour,
                fillstyle="none",
                linestyle="none",
                label=NORMS[norm] if network == verdicts.RESNET else None,
            )
    ends = np.array([0.8, 1.2]) * axis.get_xlim()
    axis.plot(ends, ends, color="grey", linewidth=0.8)
    axis.set(
        title="measured, and what follows from the gates",
        xlabel="expected from the gates",
        ylabel="measured " + WHITENESS,
        xscale="log",
        yscale="log",
    )
    axis.legend(fontsize=8)


def _way_down(axis: Any, arrays: Mapping[str, np.ndarray]) -> None:
    for network, colour in _colours(arrays).items():
        for norm, style in (("full", "-"), ("none", "--")):
            course = arrays[f"{network}/{norm}/expected"].mean(axis=0)
            label = NORMS[norm] if network == verdicts.RESNET else None
            axis.plot(course, style, marker="o", ms=2.5, color=colour, label=label)
    axis.set(
        title="on the way down from the mean over locations",
        xlabel="convolutions or blocks passed",
        ylabel="expected " + WHITENESS,
        yscale="log",
    )
    axis.legend(fontsize=8)


def _blocks(axis: Any, arrays: Mapping[str, np.ndarray]) -> None:
    first, *_, last = arrays["layers"]
    for (kind, norm), colour in zip(
        {"norm": "full", "plain": "none"}.items(), figures.COLOURS, strict=False
    ):
        for layers in arrays["layers"]:
            axis.plot(
                verdicts.measured(arrays, small(layers), norm),
                1 - verdicts.cosines(arrays, layers, kind),
                "o",
                markersize=4,
                color=colour,
                label=NORMS[norm] if layers == first else None,
            )
    axis.axhline(1 - verdicts.SAME, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        title=f"curvature of SmallCNN, {first} to {last} layers",
        xlabel=WHITENESS,
        ylabel="1 - cosine of blocks with moments of patches",
        xscale="log",
        yscale="log",
    )
    axis.legend(fontsize=8)
