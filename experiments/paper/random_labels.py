"""The first layer learns the same from true and from shuffled labels (paper, Fig. 3,
Table 2).

    python -m experiments random_labels
    python -m experiments random_labels --preset paper

Trains VGG11 on true labels and on labels that were permuted once, and compares the
energy profiles of the change of the first layer, w(t) - w(0), and of the weights w(t),
in the principal components of the patches of the training images (3x3, normalised and
centred), at every recorded epoch; fits the formula of Theorem 4.2 to both. Trained
networks are kept in <out>/runs and shared with the other experiments; a run that was
killed continues.

Writes <out>/random_labels/<dataset>/{config.json, arrays.npz, summary.json,
random_labels.png, random_labels.pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "random_labels"
TRUE_AGAINST_SHUFFLED = 0.9  # smallest mean correlation
PAPER = {
    "labels": trained.REPORTED["labels"],
    "initial": trained.REPORTED["shuffled initial"],
}
COMPARISONS = {
    "labels": "true against shuffled labels",
    "true seeds": "across seeds, true labels",
    "shuffled seeds": "across seeds, shuffled labels",
    "initial": "shuffled labels against its own initial filters",
}


@dataclass(frozen=True)
class Settings(trained.Settings):
    """True against shuffled labels (paper, Fig. 3, Table 2)."""

    shuffled_epochs: int = 90
    """Of the training on shuffled labels."""


PRESETS = {
    "smoke": Settings(**trained.SMOKE, shuffled_epochs=4),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE, shuffled_epochs=100),
}
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 3 and Table 2 of the paper: true against shuffled labels."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs with their profiles and fits: "true" and "shuffled"."""
    named = {
        "true": trained.base_run(settings),
        "shuffled": trained.shuffled_run(settings, settings.shuffled_epochs),
    }
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    return arrays | trained.fits(arrays, "true") | trained.fits(arrays, "shuffled")


def pairs(arrays: Arrays, kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The comparisons: epochs (E,), and correlations (pairs, E)."""
    runs = trained.measured(arrays)
    true, shuffled = runs["true"], runs["shuffled"]
    return {
        "labels": trained.correlations(true, shuffled, kind),
        "true seeds": trained.correlations(true, true, kind),
        "shuffled seeds": trained.correlations(shuffled, shuffled, kind),
        "initial": (shuffled.epochs, trained.to_initial(shuffled, kind)),
    }


def summary(arrays: Arrays) -> dict[str, Any]:
    """Correlations at the end of training over pairs of networks, fits of the formula
    over networks, and the checks."""
    change, weights = pairs(arrays, "change"), pairs(arrays, "weights")
    runs = trained.measured(arrays)
    cifar10 = runs["true"].config["dataset"] == "cifar10"
    results = [
        {
            "comparison": title,
            "change": frame.spread(change[row][1][:, -1]),
            "weights": frame.spread(weights[row][1][:, -1]),
            "paper": PAPER.get(row) if cifar10 else None,
        }
        for row, title in COMPARISONS.items()
    ]
    for name, run in runs.items():
        fit = {kind: run.fit(kind).correlation[:, -1] for kind in trained.KINDS}
        spreads = {kind: frame.spread(values) for kind, values in fit.items()}
        results.append(
            {"comparison": f"{name} labels against the fitted formula"}
            | spreads
            | {"paper": None}
        )
    mean = {row: change[row][1][:, -1].mean() for row in PAPER}
    paper = {row: frame.paper_number(PAPER[row] if cifar10 else None) for row in PAPER}
    center, deviation = PAPER["initial"]
    checks = [
        frame.check(
            COMPARISONS["labels"],
            mean["labels"],
            at_least=TRUE_AGAINST_SHUFFLED,
            paper=paper["labels"],
        ),
        frame.check(
            COMPARISONS["initial"],
            mean["initial"],
            at_least=center - 2 * deviation,
            at_most=center + 2 * deviation,
            paper=paper["initial"],
        ),
    ]
    return trained.summarize(arrays, results, checks)


def draw(folder: Path, arrays: Arrays) -> None:
    """Left: the profiles of both labels. Middle: how their correlations develop. Right:
    training accuracy."""
    courses = {
        COMPARISONS[row]: course for row, course in pairs(arrays, "change").items()
    }
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.8))
    runs = {f"{name} labels": run for name, run in trained.measured(arrays).items()}
    figures.profiles_and_initial(left, runs)
    figures.courses_of_training(middle, courses)
    for (label, run), colour in zip(runs.items(), figures.COLOURS, strict=False):
        figures.band(right, run.epochs, run.accuracy, colour, label=label)
    right.set(
        title="Training accuracy", ylabel="share of training images", ylim=(0, 1.02)
    )
    figures.epoch_axis(right, max(run.epochs[-1] for run in runs.values()))
    figures.legend_below(right)
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    return trained.comparison_table(summary)
