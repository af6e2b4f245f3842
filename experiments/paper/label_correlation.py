"""Correlation of labels with the principal components of the images (paper, Fig. 5).

    python -m experiments label_correlation --dataset cifar10

Theorem 4.2 assumes that there is none. Shown for single patches, as in the paper, and
for the mean patch of an image, which is what a linear CNN sees, each with what shuffled
labels give by chance. Channels are normalised, patches centred. Writes
<out>/label_correlation/<dataset>/{config.json, arrays.npz, summary.json,
label_correlation.png, label_correlation.pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

import linear_cnn
import theory
from experiments import frame
from experiments.frame import Arrays, figures, inputs

NAME = "label_correlation"


@dataclass(frozen=True)
class Settings(frame.Settings):
    """Correlation of labels with principal components (paper, Fig. 5)."""

    kernel_size: int = 3
    """Height and width of the patches."""
    seed: int = 0
    """Of the shuffled labels."""


PRESETS = {
    "smoke": Settings(preset="smoke", images=300),
    "cpu": Settings(preset="cpu", dataset="cifar10"),
    "paper": Settings(preset="paper", dataset="cifar10"),
}


def main(settings: Settings) -> None:
    """Fig. 5 of the paper: labels against principal components."""
    frame.check_at_least(settings, {"kernel_size": 1, "images": 2})
    frame.run(NAME, settings, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Correlations, (classes, d), of true and of shuffled labels, with their noise."""
    pixels, labels, class_names = inputs.load(settings)
    images = linear_cnn.normalize_channels(pixels)
    spectrum = theory.patch_spectrum(images, settings.kernel_size)
    shuffled = linear_cnn.shuffle_labels(labels, jax.random.key(settings.seed))
    arrays: dict[str, Any] = {
        "class_names": np.array(class_names),
        "variance": spectrum.variance,
    }
    for kind, given in (("true", labels), ("shuffled", shuffled)):
        result = theory.label_correlation(images, given, spectrum)
        arrays |= {
            f"{kind}/patch": result.patch,
            f"{kind}/mean_patch": result.mean_patch,
        }
    arrays |= {
        "patch_noise": result.patch_noise,
        "mean_patch_noise": np.full(len(spectrum.variance), result.mean_patch_noise),
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(arrays: Arrays) -> dict[str, Any]:
    """Largest correlation over classes and components, and its size in units of the
    noise."""
    rows, checks = [], []
    for labels in ("true", "shuffled"):
        for kind in ("patch", "mean_patch"):
            r = arrays[f"{labels}/{kind}"]
            z = r / arrays[f"{kind}_noise"]
            largest = np.abs(r).max(axis=0)
            if labels == "true":
                checks.append(
                    frame.check(
                        f"largest |r| of {labels} labels, {kind.replace('_', ' ')}",
                        largest.max(),
                        # The paper's figure is of single patches.
                        paper="about 0" if kind == "patch" else "",
                        group=kind,
                        shown=f"{largest.min():.3f} to {largest.max():.3f}",
                    )
                )
            rows.append(
                {
                    "labels": labels,
                    "coefficients": kind.replace("_", " "),
                    "largest": float(largest.max()),
                    "largest_of_the_least_correlated_component": float(largest.min()),
                    "rms": float(np.sqrt(np.mean(r**2))),
                    "noise_rms": float(np.sqrt(np.mean(arrays[f"{kind}_noise"] ** 2))),
                    "rms_in_noise": float(np.sqrt(np.mean(z**2))),
                }
            )
    return {"results": rows, "checks": checks}


def draw(folder: Path, arrays: Arrays) -> None:
    """Correlation against component, a line for each class, for single patches and for
    the mean patch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
    component = np.arange(1, len(arrays["variance"]) + 1)
    names = [str(name) for name in arrays["class_names"]]
    few = len(names) <= 10
    shades = plt.colormaps["tab10" if few else "viridis"](
        np.arange(10) if few else np.linspace(0, 1, len(names))
    )
    for axis, kind, title in (
        (axes[0], "patch", "Single patches"),
        (axes[1], "mean_patch", "Mean patch of each image"),
    ):
        for values, name, shade in zip(
            arrays[f"true/{kind}"], names, shades, strict=False
        ):
            axis.plot(
                component,
                values,
                color=shade,
                marker="o",
                markersize=2.5,
                linewidth=1,
                label=name,
            )
        noise = 2 * arrays[f"{kind}_noise"]
        axis.fill_between(
            component,
            -noise,
            noise,
            color="black",
            alpha=0.2,
            linewidth=0,
            label="95 % of shuffled labels",
        )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=title)
        figures.component_axis(axis, len(component))
    axes[0].set_ylabel("correlation with the label (class against rest)")
    handles, labels = axes[0].get_legend_handles_labels()
    shown = slice(None) if few else slice(-1, None)
    figure.legend(
        handles[shown], labels[shown], loc="outside lower center", ncols=6, fontsize=8
    )
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "labels": [f"{row['labels']} labels" for row in rows],
        "coefficients": [row["coefficients"] for row in rows],
        "max |r|": [
            f"{row['largest_of_the_least_correlated_component']:.3f} to"
            f" {row['largest']:.3f}"
            for row in rows
        ],
        # The paper's figure is of single patches and true labels.
        "paper, max |r|": [
            {("true", "patch"): "about 0"}.get((row["labels"], row["coefficients"]), "")
            for row in rows
        ],
        "rms r": [f"{row['rms']:.4f}" for row in rows],
        "noise": [f"{row['noise_rms']:.4f}" for row in rows],
        "rms(r / noise)": [f"{row['rms_in_noise']:.2f}" for row in rows],
    }
    note = (
        "max |r|: over classes, from the least to the most correlated component; noise"
        " differs by component, and r / noise is the same for patches and mean patches,"
        " whose covariance with the labels is the same"
    )
    return frame.Table(columns, note)
