"""Filters of the first layer, before and after training, and those of pretrained
networks (paper, Fig. 19).

    python -m experiments filters
    python -m experiments filters --preset paper

Sheets of filters as small pictures, those of largest norm first: of one network of the
base run, whose training is shared with the other experiments, its initial weights w(0),
its trained weights w(t) and their change; and of every pretrained network that is there
(`python -m experiments data pretrained`). Each filter is shown on its own scale: grey
is 0, and its largest weight, of either sign and any channel, is full brightness or
black. So the sheets compare shapes, not sizes; dead filters (norm below 1 % of the
largest of their bank) are left out and counted.

Writes <out>/filters/<dataset>/{config.json, arrays.npz, summary.json, filters.png,
filters.pdf}.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "filters"
SHOWN = 64  # filters of a bank
COLUMNS = 16  # filters side by side
SHEETS_A_ROW = 2
TITLES = {
    "initial": "initial weights, w(0)",
    "trained": "trained weights, w(t)",
    "change": "their change, w(t) - w(0)",
}


@dataclass(frozen=True)
class Settings(trained.Settings):
    """Filters of trained, initial and pretrained first layers (paper, Fig. 19)."""

    network_shown: int = 0
    """Which of the --seeds networks to show, from 0."""


PRESETS = {
    "smoke": Settings(**trained.SMOKE),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE),
}
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 19 of the paper: filters of trained networks next to the initial ones."""
    given = resolve(settings)
    if not 0 <= given.network_shown < given.seeds:
        raise ValueError(
            f"--network-shown must be from 0 to {given.seeds - 1}, got"
            f" {given.network_shown}."
        )
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """The run "base"; "banks" (JSON), titles and what is missing; "<n>/kernel", (kh,
    kw, C, K), of bank n."""
    others = trained.present(settings.data_dir)
    named = {"base": trained.base_run(settings)}
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    conv1 = trained.measured(arrays)["base"].conv1[settings.network_shown]
    name = trained.titles(arrays)["base"]
    own = {"initial": conv1[0], "trained": conv1[-1], "change": conv1[-1] - conv1[0]}
    kernels = [*own.values(), *others.kernels]
    titles = [
        *(f"{name}: {TITLES[kind]}" for kind in own),
        *(network["title"] for network in others.networks),
    ]
    arrays["banks"] = np.array(
        json.dumps({"titles": titles, "missing": others.missing})
    )
    return arrays | {f"{place}/kernel": kernel for place, kernel in enumerate(kernels)}


def banks(arrays: Arrays) -> dict[str, np.ndarray]:
    """The banks by their titles, their filters by decreasing norm, without dead
    ones."""
    found = {}
    for place, title in enumerate(json.loads(str(arrays["banks"]))["titles"]):
        kernel = arrays[f"{place}/kernel"]
        order = np.argsort(-trained.norms(kernel), kind="stable")
        found[title] = kernel[
            ..., order[: len(order) - int(trained.dead(kernel).sum())]
        ]
    return found


def summary(arrays: Arrays) -> dict[str, Any]:
    """How many filters each bank has, how unequal they are, and how much of them is
    colour."""
    results = []
    for place, (title, alive) in enumerate(banks(arrays).items()):
        norm = trained.norms(alive)
        grey = alive.mean(axis=2, keepdims=True)
        results.append(
            {
                "bank": title,
                "kernel": "x".join(map(str, alive.shape[:2])),
                "filters": arrays[f"{place}/kernel"].shape[-1],
                "dead": arrays[f"{place}/kernel"].shape[-1] - alive.shape[-1],
                "largest_to_median_norm": float(norm[0] / np.median(norm)),
                "colour": frame.spread(
                    (((alive - grey) / norm) ** 2).sum(axis=(0, 1, 2))
                ),
            }
        )
    return trained.summarize(arrays, results, []) | {
        "missing": json.loads(str(arrays["banks"]))["missing"]
    }


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "filters": [row["bank"] for row in rows],
        "kernel": [row["kernel"] for row in rows],
        "count": [str(row["filters"]) for row in rows],
        "dead": [str(row["dead"]) for row in rows],
        "largest / median norm": [
            f"{row['largest_to_median_norm']:.1f}" for row in rows
        ],
        "colour": [frame.number(row["colour"]) for row in rows],
    }
    note = (
        "dead: below 1 % of the largest norm, and left out of the rest; colour: the"
        " share of a filter's energy that the three channels do not have in common"
        " (random filters: 0.667), mean ± standard deviation over filters"
    )
    if summary["missing"]:
        note += (
            f". Not there: {', '.join(summary['missing'])}; `{trained.COMMAND}` gets"
            " them."
        )
    return frame.Table(columns, note)


def draw(folder: Path, arrays: Arrays) -> None:
    """A sheet for each bank."""
    found = banks(arrays)
    lines = [_lines(min(alive.shape[-1], SHOWN)) for alive in found.values()]
    heights = [
        0.6 + 0.38 * max(lines[place : place + SHEETS_A_ROW])
        for place in range(0, len(lines), SHEETS_A_ROW)
    ]
    size = (6 * SHEETS_A_ROW, 0.4 + sum(heights))
    figure, axes = plt.subplots(
        len(heights), SHEETS_A_ROW, figsize=size, height_ratios=heights, squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_anchor("N")
    for axis, (place, (title, alive)) in zip(
        axes.flat, enumerate(found.items()), strict=False
    ):
        count = arrays[f"{place}/kernel"].shape[-1]
        shown = min(alive.shape[-1], SHOWN)
        axis.imshow(sheet(alive[..., :SHOWN]), interpolation="nearest")
        axis.set_title(
            f"{title}\n{shown} of {count} filters, {count - alive.shape[-1]} dead",
            fontsize=8,
        )
    figure.suptitle(
        "Each filter on its own scale: grey is 0, its largest weight is white or black;"
        " largest norm first"
    )
    figures.save(figure, folder, NAME)


def _lines(count: int) -> int:
    return -(-count // COLUMNS)


def sheet(kernel: np.ndarray) -> np.ndarray:
    """Filters (kh, kw, C, K), C of 1 or 3, side by side as an RGB picture: (height,
    width, 3) in [0, 1]."""
    height, width, _, count = kernel.shape
    picture = np.ones((_lines(count) * (height + 1) - 1, COLUMNS * (width + 1) - 1, 3))
    for place in range(count):
        top, left = (height + 1) * (place // COLUMNS), (width + 1) * (place % COLUMNS)
        weights = kernel[..., place]
        picture[top : top + height, left : left + width] = (
            0.5 + 0.5 * weights / np.abs(weights).max()
        )
    return picture
