"""The formula of Theorem 4.2 fitted to the first layer of trained networks (paper, Fig.
7, 14-16, Table 3).

    python -m experiments formula_fit
    python -m experiments formula_fit --preset paper

Trains VGG11 on all classes and on pairs of them, projects the change of its first
layer, w(t) - w(0), and the weights w(t) on the principal components of the patches of
its training images (3x3, normalised and centred), and fits the one free number of the
formula, the time, to every network at every recorded epoch. Beside the fit stand what
the formula's two ends reach with nothing fitted, lambda (t -> 0) and 1 / lambda (t ->
infinity), and the fit to random filters. Trained networks are kept in <out>/runs and
shared with the other experiments; a run that was killed continues.

Writes <out>/formula_fit/<dataset>/{config.json, arrays.npz, summary.json,
formula_fit.png, formula_fit.pdf}.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import theory
from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "formula_fit"
# Smallest correlation of the fitted formula with trained networks; the paper's own
# where that is less.
FIT = 0.93
# Largest mean correlation with random filters, the best time chosen for each.
RANDOM = 0.35
RANDOM_BANKS = 20
# Best-t correlation of the change of the first layer, CIFAR-10: mean and spread.
PAPER = {
    "all": trained.REPORTED["formula"],
    "automobile,truck": (0.93, 0.01),
    "dog,frog": (0.91, 0.02),
    "dog,cat": (0.95, 0.01),
    "bird,airplane": (0.96, 0.005),
    "ship,airplane": (0.96, 0.01),
    "random": (0.1, 0.15),
}


@dataclass(frozen=True)
class Settings(trained.Settings):
    """The formula fitted to trained networks (paper, Fig. 7, 14-16, Table 3)."""

    pairs: tuple[str, ...] = (
        "automobile,truck",
        "dog,frog",
        "dog,cat",
        "bird,airplane",
        "ship,airplane",
    )
    """Pairs of classes to train on alone, each as first,second; none after --pairs: no
    pairs."""
    pair_images: int = 1_000
    """Training images of a pair."""
    pair_epochs: int = 30
    """Of the training on a pair."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE, pairs=("astronaut,coffee",), pair_images=128, pair_epochs=3
    ),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE, pair_images=10_000),
}
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 7 and Table 3 of the paper: the formula fitted to trained networks."""
    given = resolve(settings)
    for pair in given.pairs:
        if len(pair.split(",")) != 2:
            raise ValueError(
                f"--pairs must name two classes each, as dog,cat, got {pair!r}."
            )
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs with their profiles and fits, named "all" and by their pair, and the fits to
    random filters."""
    named = {"all": trained.base_run(settings)}
    for pair in settings.pairs:
        classes = tuple(pair.split(","))
        named[pair] = trained.base_run(
            settings,
            classes=classes,
            images=settings.pair_images,
            epochs=settings.pair_epochs,
        )
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    for name in named:
        arrays |= trained.fits(arrays, name)
    base = trained.measured(arrays)["all"]
    # The scale of the filters does not matter to a correlation.
    shape = (RANDOM_BANKS, *base.conv1.shape[2:])
    banks = np.asarray(
        jax.random.normal(jax.random.fold_in(jax.random.key(settings.seed), 1), shape),
        np.float64,
    )
    profiles = theory.energy_profile(banks, base.components)
    fit = theory.fit_profile(profiles, base.variance)
    random = {
        "random/profile": profiles,
        "random/correlation": fit.correlation,
        "random/time": fit.time,
    }
    return arrays | {name: np.asarray(value) for name, value in random.items()}


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each run the fit at its end over seeds, the ends of the formula, the fitted
    time; checks; the control."""
    results, checks = [], []
    runs, titles = trained.measured(arrays), trained.titles(arrays)
    cifar10 = runs["all"].config["dataset"] == "cifar10"
    for name, title in titles.items():
        change, weights = (
            {part: values[:, -1] for part, values in fit._asdict().items()}
            for fit in (runs[name].fit(kind) for kind in trained.KINDS)
        )
        low, high = theory.time_interval(change["time"])
        paper = PAPER.get(name) if cifar10 else None
        results.append(
            {
                "run": title,
                "correlation": frame.spread(change["correlation"]),
                "lambda_alone": frame.spread(change["zero"]),
                "inverse_lambda_alone": frame.spread(change["infinity"]),
                "correlation_of_the_weights": frame.spread(weights["correlation"]),
                "time": frame.finite(change["time"]),
                "time_interval_95": frame.finite([low, high]),
                "paper": paper,
            }
        )
        best_end = np.maximum(change["zero"], change["infinity"])
        checks += [
            frame.check(
                f"fit, {title}",
                change["correlation"].mean(),
                at_least=min(FIT, paper[0]) if paper else FIT,
                paper=frame.paper_number(paper),
            ),
            frame.check(
                f"fit above lambda and 1 / lambda alone, {title}, every network",
                (change["correlation"] - best_end).min(),
                above=0,
            ),
        ]
    random = frame.spread(arrays["random/correlation"])
    results.append(
        {
            "run": f"random filters, {RANDOM_BANKS} banks",
            "correlation": random,
            "paper": PAPER["random"],
        }
    )
    checks.append(
        frame.check(
            f"fit to {RANDOM_BANKS} banks of random filters, mean",
            random["mean"],
            at_most=RANDOM,
            paper=frame.paper_number(PAPER["random"]),
        )
    )
    return trained.summarize(arrays, results, checks)


def draw(folder: Path, arrays: Arrays) -> None:
    """Above, for each run, the profile of its trained networks and the fitted formula;
    below, the fit's course."""
    runs, titles = trained.measured(arrays), trained.titles(arrays)
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = plt.figure(figsize=(10, 2.7 * rows + 3.6))
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.6))
    above, below = parts
    panels = above.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in panels.ravel()[len(titles) :]:
        axis.set_visible(False)
    for axis, (name, title), colour in zip(
        panels.ravel(), titles.items(), itertools.cycle(figures.COLOURS), strict=False
    ):
        largest = runs[name].change[:, -1].max(axis=-1, keepdims=True)
        profile = runs[name].change[:, -1] / largest
        figures.band(
            axis,
            np.arange(1, profile.shape[-1] + 1),
            profile,
            colour,
            marker="o",
            markersize=2.5,
        )
        fitted = (runs[name].fit("change").profile[:, -1] / largest).mean(axis=0)
        axis.plot(np.arange(1, len(fitted) + 1), fitted, "--", color="black")
        axis.set(title=title)
        figures.component_axis(axis, len(fitted))
        axis.set_xlabel("")
    panels[-1, columns // 2].set_xlabel(figures.COMPONENTS)
    panels[0, 0].set_ylim(0)  # of all, now that all are drawn
    for axis in panels[:, 0]:
        axis.set_ylabel("energy profile / its maximum")
    handles = [
        mpl.lines.Line2D(
            [],
            [],
            color="grey",
            marker="o",
            markersize=2.5,
            label="trained networks, w(t) - w(0): mean",
        ),
        mpl.patches.Patch(
            color="grey", alpha=0.25, label="± standard deviation over networks"
        ),
        mpl.lines.Line2D(
            [],
            [],
            color="black",
            linestyle="--",
            label="formula at its best time, mean of the fits",
        ),
    ]
    above.legend(handles=handles, loc="outside upper center", ncols=3)
    axes = below.subplots(1, 2, sharey=True)
    for axis, kind, heading in zip(
        axes, ("change", "weights"), ("change w(t) - w(0)", "weights w(t)"), strict=True
    ):
        for (name, title), colour in zip(
            titles.items(), itertools.cycle(figures.COLOURS)
        ):
            fit = runs[name].fit(kind).correlation
            figures.band(axis, runs[name].epochs, fit, colour, label=title)
        first = next(iter(titles))
        ends = runs[first].fit(kind)
        for end, style, label in (
            (ends.zero, ":", "λ alone"),
            (ends.infinity, "-.", "1/λ alone"),
        ):
            axis.plot(
                runs[first].epochs,
                end.mean(axis=0),
                style,
                color="grey",
                label=f"{label}, {titles[first]}",
            )
        axis.set(title=f"Fit to the {heading}")
        figures.epoch_axis(axis, max(run.epochs[-1] for run in runs.values()))
    axes[0].set_ylabel("correlation with the formula")
    below.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]

    def column(name: str) -> list[str]:
        return [frame.number(row[name]) if name in row else "" for row in rows]

    def interval(low: float, high: float | None) -> str:
        return f"{low:.3g} to {'inf' if high is None else f'{high:.3g}'}"

    columns = {
        "fit to": [row["run"] for row in rows],
        "correlation": column("correlation"),
        "paper": [frame.paper_number(row["paper"]) for row in rows],
        "lambda alone": column("lambda_alone"),
        "1/lambda alone": column("inverse_lambda_alone"),
        "weights": column("correlation_of_the_weights"),
        "time, 95 %": [
            interval(*row["time_interval_95"]) if "time_interval_95" in row else ""
            for row in rows
        ],
    }
    note = (
        "± standard deviation over networks; correlation: of the change w(t) - w(0),"
        " best time for each network; time: learning rate x iterations of the formula"
    )
    return frame.Table(columns, note)
