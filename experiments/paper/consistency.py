"""Profiles of first layers across seeds, widths and architectures (paper, Fig. 1, 9-13,
Table 1).

    python -m experiments consistency
    python -m experiments consistency --preset paper

Trains VGG11 with several widths of its first layer, and ResNet18, and correlates the
energy profiles of all pairs of networks: of the change of the first layer, w(t) - w(0),
and of the weights w(t), in the principal components of the patches of the training
images (3x3, normalised and centred), at every recorded epoch. Trained networks are kept
in <out>/runs and shared with the other experiments; a run that was killed continues.

Writes <out>/consistency/<dataset>/{config.json, arrays.npz, summary.json,
consistency.png, consistency.pdf}.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "consistency"
SEEDS, WIDTHS, ARCHITECTURES = 0.97, 0.95, 0.8  # smallest mean correlations
# CIFAR-10: mean, and the spread where the paper gives it.
PAPER = {
    "seeds": trained.REPORTED["seeds"],
    "widths": (0.98,),
    "architectures": (0.87,),
    "initial": trained.REPORTED["initial"],
}


@dataclass(frozen=True)
class Settings(trained.SettingsOfSeveral):
    """Profiles across seeds, widths and architectures (paper, Fig. 1, 9-13, Table
    1)."""


PRESETS = {
    "smoke": Settings(**trained.SMOKE_OF_SEVERAL),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE_OF_SEVERAL),
}
resolve = trained.check_several


def main(settings: Settings) -> None:
    """Fig. 1 and Table 1 of the paper: profiles of different networks."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """The runs of `trained.several_runs` with their profiles."""
    named = trained.several_runs(settings)
    data = trained.load_all(named, settings.data_dir)
    return trained.measure(named, data, settings)


def pairs(arrays: Arrays, kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The rows of Table 1: epochs (E,), and correlations (pairs, E)."""
    runs = trained.measured(arrays)
    base, bases = runs["base"], [runs[name] for name in runs if name != "other"]
    between = [
        trained.correlations(one, other, kind) for one, other in combinations(bases, 2)
    ]
    return {
        "seeds": trained.correlations(base, base, kind),
        "widths": (between[0][0], np.concatenate([values for _, values in between])),
        "architectures": trained.correlations(base, runs["other"], kind),
        "initial": (base.epochs, trained.to_initial(base, kind)),
    }


def comparisons(arrays: Arrays) -> dict[str, str]:
    """The rows of Table 1 in words."""
    runs = trained.measured(arrays)
    bases = [run.config for name, run in runs.items() if name != "other"]
    widths = ", ".join(str(trained.filters(config)) for config in bases)
    base, other = (trained.network(runs[name].config) for name in ("base", "other"))
    return {
        "seeds": "across seeds",
        "widths": f"across widths of the first layer ({widths} filters)",
        "architectures": f"{base} against {other}",
        "initial": "trained against its own initial filters",
    }


def summary(arrays: Arrays) -> dict[str, Any]:
    """Correlations at the end of training over pairs of networks, and the checks."""
    words, change, weights = (
        comparisons(arrays),
        pairs(arrays, "change"),
        pairs(arrays, "weights"),
    )
    cifar10 = trained.measured(arrays)["base"].config["dataset"] == "cifar10"
    paper = {row: frame.paper_number(PAPER[row] if cifar10 else None) for row in PAPER}
    results: list[dict[str, Any]] = [
        {
            "comparison": words[row],
            "change": frame.spread(change[row][1][:, -1]),
            "weights": frame.spread(weights[row][1][:, -1]),
            "paper": PAPER[row] if cifar10 else None,
        }
        for row in PAPER
    ]
    mean = {
        row: result["change"]["mean"]
        for row, result in zip(PAPER, results, strict=True)
    }
    center, deviation = PAPER["initial"]
    bounds: dict[str, dict[str, Any]] = {
        "seeds": {"at_least": SEEDS},
        "widths": {"at_least": WIDTHS},
        "architectures": {"at_least": ARCHITECTURES},
        "initial": {
            "at_least": center - 2 * deviation,
            "at_most": center + 2 * deviation,
        },
    }
    checks = [
        frame.check(words[row], mean[row], paper=paper[row], group=words[row], **bound)
        for row, bound in bounds.items()
    ]
    return trained.summarize(arrays, results, checks)


def draw(folder: Path, arrays: Arrays) -> None:
    """Left: the profiles of all networks, and of initial filters. Right: how their
    correlations develop."""
    words, titles = comparisons(arrays), trained.titles(arrays)
    courses = {words[row]: course for row, course in pairs(arrays, "change").items()}
    runs = {titles[name]: run for name, run in trained.measured(arrays).items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8))
    figures.profiles_and_initial(left, runs)
    figures.courses_of_training(right, courses)
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    return trained.comparison_table(summary)
