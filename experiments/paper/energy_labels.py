"""Labels that the patches decide: then the first layer learns something else (paper,
Fig. 8a, 17).

    python -m experiments energy_labels
    python -m experiments energy_labels --preset paper

The images are sorted by the energy of one principal component of their patches and cut
into ten equal classes, so that the labels are no longer unrelated to the patches, as
Theorem 4.2 assumes. Networks trained on them are compared with networks trained on
shuffled labels: of ten equal classes too, so that one shuffled run serves for all
components. Validation images are cut into ten equal classes of their own. Trained
networks are kept in <out>/runs and shared with the other experiments; a run that was
killed continues.

Writes <out>/energy_labels/<dataset>/{config.json, arrays.npz, summary.json,
energy_labels.png, energy_labels.pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "energy_labels"
CORRELATION = 0.5  # largest, for components that shuffled labels leave weak
WEAK = 0.2  # of the largest entry of the shuffled profile


@dataclass(frozen=True)
class Settings(trained.Settings):
    """Labels by the energy of a component, against shuffled ones (paper, Fig. 8a,
    17)."""

    energy_components: tuple[int, ...] = (1, 2, 4, 7, 10, 14, 18, 22, 27)
    """Principal components of the patches, from 1, that make labels, each for networks
    of its own."""
    energy_seeds: int = 2
    """Networks for each component."""
    energy_epochs: int = 90
    """Of their training."""
    shuffled_epochs: int = 90
    """Of the training on shuffled labels."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE, energy_components=(1, 15), energy_epochs=3, shuffled_epochs=4
    ),
    "cpu": Settings(),
    "paper": Settings(
        **trained.PAPER_SIZE,
        energy_components=tuple(range(1, 28)),
        energy_seeds=3,
        energy_epochs=30,
        shuffled_epochs=100,
    ),
}
# --epochs and --seeds are those of other experiments; --seeds networks have shuffled
# labels.
UNUSED = ("epochs",)
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 8a of the paper: labels by the energy of a component."""
    given = resolve(settings)
    frame.check_at_least(given, {"energy_seeds": 1, "energy_epochs": 1})
    if not given.energy_components or len(set(given.energy_components)) < len(
        given.energy_components
    ):
        raise ValueError(
            "--energy-components must name one component or more, none twice, got"
            f" {given.energy_components}."
        )
    for option in ("images", "validation"):
        count = getattr(given, option)
        if 0 < count < trained.ENERGY_CLASSES:
            raise ValueError(
                f"--{option} must be at least {trained.ENERGY_CLASSES}, one a class of"
                f" energies, got {count}."
            )
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs with their profiles: "shuffled" and "<component>"."""
    named = {"shuffled": trained.shuffled_run(settings, settings.shuffled_epochs)}
    for component in settings.energy_components:
        named[str(component)] = trained.base_run(
            settings,
            energy_component=component,
            seeds=settings.energy_seeds,
            epochs=settings.energy_epochs,
        )
    data = trained.load_all(named, settings.data_dir)
    return trained.measure(named, data, settings)


def components(arrays: Arrays) -> list[int]:
    """Those that made labels."""
    return [int(name) for name in trained.measured(arrays) if name != "shuffled"]


def relative_energy(arrays: Arrays) -> np.ndarray:
    """The profile that shuffled labels leave, divided by its maximum: mean over
    networks, (d,)."""
    profile = trained.measured(arrays)["shuffled"].change[:, -1]
    mean: np.ndarray = (profile / profile.max(axis=-1, keepdims=True)).mean(axis=0)
    return mean


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each component the correlation with the profile of shuffled labels, and
    whether these leave it weak."""
    energy, runs = relative_energy(arrays), trained.measured(arrays)
    results, checks = [], []
    for component in components(arrays):
        run = runs[str(component)]
        change, weights = (
            frame.spread(trained.correlations(run, runs["shuffled"], kind)[1][:, -1])
            for kind in trained.KINDS
        )
        profile = run.change[:, -1].mean(axis=0)
        share = float(energy[component - 1])
        results.append(
            {
                "component": component,
                "energy_with_shuffled_labels": share,
                "energy_with_its_own_labels": float(
                    profile[component - 1] / profile.max()
                ),
                "change": change,
                "weights": weights,
            }
        )
        if share < WEAK:
            title = (
                f"labels by component {component} against shuffled labels (weak there:"
                f" {share:.2f} of the maximum)"
            )
            group = "labels by a component that shuffled labels leave weak"
            checks.append(
                frame.check(
                    title,
                    change["mean"],
                    below=CORRELATION,
                    paper="about 0",
                    group=group,
                )
            )
    return trained.summarize(arrays, results, checks)


def draw(folder: Path, arrays: Arrays) -> None:
    """Above, for each component the profile that its labels leave; below, the
    correlation with shuffled labels."""
    chosen, runs = components(arrays), trained.measured(arrays)
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = plt.figure(figsize=(10, 2.2 * rows + 3.4))
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.2 * rows, 3.4))
    panels = parts[0].subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in panels.ravel()[len(chosen) :]:
        axis.set_visible(False)
    shuffled = runs["shuffled"].change[:, -1]
    shuffled = shuffled / shuffled.max(axis=-1, keepdims=True)
    axis_of_components = np.arange(1, shuffled.shape[-1] + 1)
    for axis, component in zip(panels.ravel(), chosen, strict=False):
        profile = runs[str(component)].change[:, -1]
        profile = profile / profile.max(axis=-1, keepdims=True)
        figures.band(
            axis,
            axis_of_components,
            shuffled,
            "grey",
            label="shuffled labels: mean ± s.d. over networks",
        )
        figures.band(
            axis,
            axis_of_components,
            profile,
            figures.COLOURS[0],
            label="labels by the component's energy",
        )
        axis.axvline(
            component,
            color=figures.COLOURS[1],
            linestyle=":",
            label="the component that makes the labels",
        )
        axis.set(title=f"labels by component {component}", ylim=(0, 1.05))
        figures.component_axis(axis, len(axis_of_components))
        axis.set_xlabel("")
    for axis in panels[:, 0]:
        axis.set_ylabel("energy profile /\nits maximum")
    panels[-1, columns // 2].set_xlabel(figures.COMPONENTS)
    parts[0].legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3
    )
    below = parts[1].subplots()
    correlations = [
        trained.correlations(runs[str(component)], runs["shuffled"])[1][:, -1]
        for component in chosen
    ]
    means, deviations = np.array(
        [(values.mean(), values.std(ddof=1)) for values in correlations]
    ).T
    below.errorbar(
        chosen,
        means,
        deviations,
        marker="o",
        markersize=4,
        capsize=2,
        color=figures.COLOURS[0],
        label="correlation of the two profiles: mean ± s.d. over pairs of networks",
    )
    figures.band(
        below,
        axis_of_components,
        shuffled,
        "grey",
        label="profile of shuffled labels / its maximum",
    )
    below.axhline(CORRELATION, color="black", linestyle="--", linewidth=0.8)
    below.axhline(0, color="black", linewidth=0.6)
    weak = axis_of_components[relative_energy(arrays) < WEAK]
    below.plot(
        weak,
        np.zeros(len(weak)),
        "v",
        color=figures.COLOURS[1],
        markersize=5,
        zorder=5,
        label=(
            f"left below {WEAK:.0%} of the maximum by shuffled labels: should lie below"
            " the dashed line"
        ),
    )
    figures.component_axis(below, len(axis_of_components))
    below.set(
        ylabel="correlation, or profile",
        title="Labels by energy against shuffled labels",
    )
    parts[1].legend(
        *below.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=8,
    )
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "labels by component": [str(row["component"]) for row in rows],
        "its energy with shuffled labels": [
            f"{row['energy_with_shuffled_labels']:.2f}" for row in rows
        ],
        "with its own labels": [
            f"{row['energy_with_its_own_labels']:.2f}" for row in rows
        ],
        "correlation of the profiles": [frame.number(row["change"]) for row in rows],
        "of the weights": [frame.number(row["weights"]) for row in rows],
    }
    note = (
        "energy: profile of the change w(t) - w(0) divided by its maximum; correlation"
        " of the profiles with those of shuffled labels, ± standard deviation over"
        " pairs of networks; paper: about 0, component 15 shown"
    )
    return frame.Table(columns, note)
