"""One component of all patches scaled: the formula follows (paper, Fig. 8b, 18).

    python -m experiments spectral_scaling
    python -m experiments spectral_scaling --preset paper

The images are cut into patches that do not overlap, one principal component of all
patches is scaled by a factor alpha, and networks whose first layer has a stride of its
kernel's size are trained on them. No label changes, so that labels remain as unrelated
to the patches as they were; in the formula of Theorem 4.2 only lambda_i becomes alpha
lambda_i. Trained networks are kept in <out>/runs and shared with the other experiments;
a run that was killed continues.

Writes <out>/spectral_scaling/<dataset>/{config.json, arrays.npz, summary.json,
spectral_scaling.png, .pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import theory
from experiments import frame, trained
from experiments.frame import Arrays, figures

NAME = "spectral_scaling"
FIT = 0.9  # smallest mean correlation with the formula
UNSCALED = "unscaled"


@dataclass(frozen=True)
class Settings(trained.Settings):
    """One component of all patches scaled, and the formula with it (paper, Fig. 8b,
    18)."""

    stride_network: trained.NetworkName = "ResNet18"
    """What is trained, its first layer with a stride of 3; VGG's five pools leave too
    few pixels for that."""
    scaled_components: tuple[int, ...] = (3, 10, 20)
    """Principal components of the patches, from 1."""
    factors: tuple[float, ...] = (3.0, 10.0)
    """What each is multiplied by, alpha."""
    scaling_seeds: int = 2
    """Networks for each component and factor."""
    scaling_epochs: int = 20
    """Of their training."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE,
        stride_network="SmallCNN",
        scaled_components=(5,),
        factors=(3.0,),
        scaling_seeds=2,
        scaling_epochs=3,
    ),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE, scaling_seeds=4, scaling_epochs=30),
}
# --network, --epochs and --seeds are those of other experiments.
UNUSED = ("network", "epochs", "seeds")
resolve = trained.check


def main(settings: Settings) -> None:
    """Fig. 8b of the paper: one component of all patches scaled."""
    given = resolve(settings)
    frame.check_at_least(given, {"scaling_seeds": 1, "scaling_epochs": 1})
    if given.stride_network.startswith("VGG"):
        raise ValueError(
            f"--stride-network {given.stride_network} needs larger images: with a"
            f" stride of {trained.KERNEL_SIZE} its five pools leave nothing of 32x32"
            " pixels; choose ResNet18, ResNet20 or SmallCNN."
        )
    for option, values in (
        ("scaled-components", given.scaled_components),
        ("factors", given.factors),
    ):
        # Runs are named by these.
        if not values or len({f"{value:g}" for value in values}) < len(values):
            raise ValueError(
                f"--{option} must be one number or more, none twice, got {values}."
            )
    if not all(0 < factor < np.inf and factor != 1 for factor in given.factors):
        raise ValueError(
            f"--factors must be positive and finite, and not 1, got {given.factors}."
        )
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs with their profiles in the basis of the unscaled patches, and the formula
    fitted with alpha lambda_i.

    Beside what `trained.measure` gives for "unscaled" and "<component> x <alpha>", each
    run has "<name>/" and: "profile" (S, d) of the change at the end; "scaled_variance"
    (d,); "fit" and "fit_unscaled", the correlations (S,) of the formula with and
    without alpha, "formula" (S, d), its best fit; "labels" (classes, d), correlation of
    the labels with the components.
    """
    common: dict[str, Any] = {
        "network": settings.stride_network,
        "first_strides": trained.KERNEL_SIZE,
        "seeds": settings.scaling_seeds,
        "epochs": settings.scaling_epochs,
    }
    named = {UNSCALED: trained.base_run(settings, scaled_component=(1, 1.0), **common)}
    for component in settings.scaled_components:
        for factor in settings.factors:
            scaled = (component, float(factor))
            named[f"{component} x {factor:g}"] = trained.base_run(
                settings, scaled_component=scaled, **common
            )
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    runs = trained.measured(arrays)
    variance, basis = runs[UNSCALED].variance, runs[UNSCALED].components
    for name, run in named.items():
        assert run.scaled_component is not None
        component, factor = run.scaled_component
        scaled_variance = variance.copy()
        scaled_variance[component - 1] *= factor**2
        conv1 = runs[name].conv1
        profile = np.asarray(theory.energy_profile(conv1[:, -1] - conv1[:, 0], basis))
        fit = theory.fit_profile(profile, scaled_variance)
        spectrum = theory.patch_spectrum(
            data[name].images, trained.KERNEL_SIZE, stride=trained.KERNEL_SIZE
        )
        found = {
            "profile": profile,
            "scaled_variance": scaled_variance,
            "fit": fit.correlation,
            "formula": fit.profile,
            "fit_unscaled": theory.fit_profile(profile, variance).correlation,
            "labels": (
                theory.label_correlation(
                    data[name].images, data[name].labels, spectrum
                ).patch
            ),
        }
        arrays |= {f"{name}/{key}": np.asarray(value) for key, value in found.items()}
    return arrays


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each component and factor the fit of the formula with and without the factor,
    and how labels correlate."""
    results, checks = [], []
    for name, run in trained.measured(arrays).items():
        fit = frame.spread(run["fit"])
        component, factor = run.config["scaled_component"]
        results.append(
            {
                "scaled": name,
                "component": component,
                "factor": factor,
                "fit": fit,
                "fit_of_the_unscaled_formula": frame.spread(run["fit_unscaled"]),
                "largest_label_correlation": float(np.abs(run["labels"]).max()),
            }
        )
        title = (
            "no component scaled"
            if name == UNSCALED
            else f"component {component} x {factor:g}"
        )
        checks.append(
            frame.check(
                f"fit of the formula, {title}",
                fit["mean"],
                at_least=FIT,
                paper="still fits",
            )
        )
    return trained.summarize(arrays, results, checks)


def draw(folder: Path, arrays: Arrays) -> None:
    """The trained profile and the formula, with the factor in its variance, for each
    component and factor."""
    runs = trained.measured(arrays)
    scaled = {name: run.config["scaled_component"] for name, run in runs.items()}
    factors = len({factor for _, factor in scaled.values()} - {1.0})
    rows = (len(runs) - 1) // factors
    figure, panels = plt.subplots(
        rows, factors + 1, figsize=(10, 2.5 * rows + 0.6), sharex=True, squeeze=False
    )
    places = dict(zip([*runs][1:], panels[:, 1:].ravel(), strict=True))
    places[UNSCALED] = panels[0, 0]
    for axis in panels[1:, 0]:
        axis.set_visible(False)
    for name, axis in places.items():
        run, (component, factor) = runs[name], scaled[name]
        largest = run["profile"].max(axis=-1, keepdims=True)
        profile = run["profile"] / largest
        number = np.arange(1, profile.shape[-1] + 1)
        figures.band(
            axis, number, profile, figures.COLOURS[0], marker="o", markersize=2.5
        )
        axis.plot(
            number,
            (run["formula"] / largest).mean(axis=0),
            "--",
            color="black",
        )
        if name != UNSCALED:
            axis.axvline(component, color=figures.COLOURS[1], linestyle=":")
        fit = run["fit"].mean()
        title = (
            "unscaled" if name == UNSCALED else f"component {component}, α = {factor:g}"
        )
        axis.set(title=f"{title}: r = {fit:.3f}", ylim=(0, None))
        figures.component_axis(axis, profile.shape[-1])
        last = name == UNSCALED or axis in panels[-1]
        axis.set_xlabel("PCA component of the patches" if last else "")
    panels[0, 0].tick_params(labelbottom=True)
    panels[0, 0].set_ylabel("energy profile / its maximum")
    for axis in panels[1:, min(1, factors)]:
        axis.set_ylabel("energy profile / its maximum")
    handles = [
        mpl.lines.Line2D(
            [],
            [],
            color=figures.COLOURS[0],
            marker="o",
            markersize=2.5,
            label="trained networks, w(t) - w(0): mean ± s.d.",
        ),
        mpl.lines.Line2D(
            [],
            [],
            color="black",
            linestyle="--",
            label="formula with α λᵢ at its best time; r: correlation",
        ),
        mpl.lines.Line2D(
            [],
            [],
            color=figures.COLOURS[1],
            linestyle=":",
            label="the component that is scaled",
        ),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "component x alpha": [row["scaled"] for row in rows],
        "fit with alpha lambda_i": [frame.number(row["fit"]) for row in rows],
        "without alpha": [
            frame.number(row["fit_of_the_unscaled_formula"]) for row in rows
        ],
        "largest |r| of labels": [
            f"{row['largest_label_correlation']:.3f}" for row in rows
        ],
    }
    note = (
        "fit: correlation of the change w(t) - w(0) with the formula at its best time,"
        " ± standard deviation over networks; r: of one-vs-all labels with the"
        " components of the scaled patches; paper: the formula still fits"
    )
    return frame.Table(columns, note)
