"""The figures of `pretrained`: at most four panels each."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.frame import Arrays, figures
from experiments.paper.pretrained.profiles import (
    CHECKED,
    CONVENTIONS,
    NAME,
    Group,
    correlations,
    described,
    groups,
    numbers_of_filters,
)

BANDS = 3  # more of random filters hide each other
DATA_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
Panel = tuple[Group, str]  # and its convention


def draw(folder: Path, arrays: Arrays) -> None:
    """Energy profiles of first layers, with random banks of as many filters, and the
    correlations of all pairs of networks, those of one family together.

    A figure for each kernel size, at unit norm in all bases; and of the first size one
    in the other conventions.
    """
    of_size: dict[str, list[Group]] = {}
    for group in groups(arrays):
        of_size.setdefault(group.size, []).append(group)
    first, *others = of_size
    panels: dict[str, list[Panel]] = {
        NAME: [(group, CHECKED) for group in of_size[first]],
        f"{NAME}_conventions": [
            (of_size[first][0], name) for name in CONVENTIONS if name != CHECKED
        ],
    }
    for size in others:
        panels[f"{NAME}_{size}"] = [(group, CHECKED) for group in of_size[size]]
    for name, rows in panels.items():
        _draw(folder, name, arrays, rows)
    # Of kernel sizes that are no longer there, and of earlier versions.
    for file in [*folder.glob(f"{NAME}_*.png"), *folder.glob(f"{NAME}_*.pdf")]:
        if file.stem not in panels:
            file.unlink()


def _draw(folder: Path, name: str, arrays: Arrays, rows: Sequence[Panel]) -> None:
    """A row of panels for each group and convention: profiles, and where there are
    several networks their correlations."""
    several = len(described(arrays, rows[0][0].key)) > 1
    height = 4.4 if several else 3.6
    figure, axes = plt.subplots(
        len(rows),
        2 if several else 1,
        figsize=(12, height * len(rows) + 0.6),
        squeeze=False,
    )
    for (group, convention), panels in zip(rows, axes, strict=True):
        where = f"components of {_short(group.basis)}, {CONVENTIONS[convention]}"
        _profiles(panels[0], arrays, group.key, convention)
        panels[0].set_title(f"Profiles: {where}")
        if several:
            _matrix(panels[1], arrays, group.key, convention)
            panels[1].set_title(f"Correlations: {where}")
    size = rows[0][0].size
    figure.suptitle(f"First layers of pretrained networks, kernels of {size}")
    if several:
        lines = [line for line in axes[0, 0].get_lines() if line.get_gid() == "network"]
        figure.legend(handles=lines, loc="outside lower center", ncols=5, fontsize=8)
    figures.save(figure, folder, name)


def _short(dataset: str) -> str:
    return DATA_SETS.get(dataset, Path(dataset).name)


def _title(network: dict[str, Any]) -> str:
    return f"own: {network['title']}" if network["own"] else str(network["title"])


def _profiles(axis: Any, arrays: Arrays, key: str, convention: str) -> None:
    """A line for each network, its colour that of its family, with points if it is the
    user's own; random filters; for a single network the fit too."""
    profiles = arrays[f"{key}/{convention}"]
    component = np.arange(1, profiles.shape[1] + 1)
    members = described(arrays, key)
    shown, top = _random(axis, arrays, key, convention), 1.3  # with room for a legend
    colours = dict(
        zip(
            dict.fromkeys(network["family"] for network in members),
            itertools.cycle(figures.COLOURS),
        )
    )
    styles: dict[str, Iterator[str]] = {
        family: itertools.cycle(("-", "--", ":", "-.")) for family in colours
    }
    for network, profile in zip(members, profiles, strict=True):
        family = network["family"]
        shown += axis.plot(
            component,
            profile / profile.max(),
            color=colours[family],
            linestyle=next(styles[family]),
            marker="o" if network["own"] else None,
            markersize=4,
            label=_title(network),
            gid="network",
        )
    if len(members) == 1:
        fit = arrays[f"{key}/{convention}/fit/profile"][0] / profiles[0].max()
        top = max(top, 1.2 * fit.max())
        found = float(arrays[f"{key}/{convention}/fit/correlation"][0])
        label = f"fitted formula (correlation {found:.2f})"
        shown += axis.plot(component, fit, color="black", linewidth=1, label=label)
    else:
        shown = [line for line in shown if line.get_gid() != "network"]
    axis.set(ylabel="energy profile, divided by its maximum", ylim=(0, top))
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.legend(
        handles=shown, loc="upper right", fontsize=8, ncols=3, columnspacing=1.2
    )
    figures.component_axis(axis, len(component))
    if len(component) > 50:
        axis.set_xticks([1, *range(25, len(component) + 1, 25)])


def _random(axis: Any, arrays: Arrays, key: str, convention: str) -> list[Any]:
    """A band, mean ± s.d. over banks, for each number of filters; of many numbers the
    fewest and the most."""
    numbers = sorted(set(numbers_of_filters(arrays, key, convention)))
    if len(numbers) > BANDS:
        numbers = [numbers[0], numbers[-1]]
    handles = []
    for number, line in zip(numbers, (":", "--", "-."), strict=False):
        random = arrays[f"{key}/random/{number}"]
        random = random / random.max(axis=1, keepdims=True)
        component = np.arange(1, random.shape[1] + 1)
        mean, deviation = random.mean(axis=0), random.std(axis=0, ddof=1)
        axis.fill_between(
            component, mean - deviation, mean + deviation, color="grey", alpha=0.12
        )
        for edge in (mean - deviation, mean + deviation):
            axis.plot(component, edge, line, color="grey", linewidth=0.6)
        label = f"{number} random filters"
        handles += axis.plot(
            component, mean, line, color="dimgrey", linewidth=1.6, label=label
        )
    return handles


def _matrix(axis: Any, arrays: Arrays, key: str, convention: str) -> None:
    """Correlations of all pairs, families side by side, and of each network with random
    banks of as many filters (mean)."""
    matrix, random = correlations(arrays, key, convention)
    members = described(arrays, key)
    names = [_title(network) for network in members]
    shown = np.concatenate([matrix, random.mean(axis=1)[None]])
    axis.imshow(shown, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    for (row, column), value in np.ndenumerate(shown):
        axis.text(
            column,
            row,
            f"{value:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(value) > 0.6 else "black",
        )
    families = [network["family"] for network in members]
    ends = [
        place - 0.5
        for place in range(1, len(families))
        if families[place] != families[place - 1]
    ]
    for end in ends:
        axis.axhline(end, color="black", linewidth=0.8)
        axis.axvline(end, color="black", linewidth=0.8)
    axis.axhline(len(members) - 0.5, color="black", linewidth=2)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(names) + 1), [*names, "random (mean)"], fontsize=8)
    axis.grid(visible=False)
