"""Correlation of labels with the principal components of the images (paper, Fig. 5).

    python -m experiments label_correlation --dataset cifar10

Theorem 4.2 assumes that there is none. Shown for single patches, as in the paper, and for the mean patch of an image,
which is what a linear CNN sees, each with what shuffled labels give by chance. Channels are normalised, patches
centred. Takes seconds; writes
<out>/label_correlation/<dataset>/{config.json, arrays.npz, summary.json, label_correlation.png, label_correlation.pdf}.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import linear_cnn
import theory
from experiments import figures, frame, inputs

NAME = "label_correlation"


@dataclass(frozen=True)
class Settings(frame.Settings):
    """Correlation of labels with principal components (paper, Fig. 5)."""

    kernel_size: int = 3
    """Height and width of the patches."""
    seed: int = 0
    """Of the shuffled labels."""


def main(settings: Settings) -> None:
    """Fig. 5 of the paper: labels against principal components."""
    frame.check_at_least(settings, {"kernel_size": 1, "images": 2})
    frame.run(NAME, settings, compute, summary, figures.draw_label_correlation, table)


def compute(settings: Settings) -> dict[str, np.ndarray]:
    """Correlations, (classes, d), of true and of shuffled labels, with their noise."""
    pixels, labels, class_names = inputs.load(settings.dataset, settings.data_dir, settings.images)
    images = linear_cnn.normalize_channels(pixels)
    spectrum = theory.patch_spectrum(images, settings.kernel_size)
    shuffled = linear_cnn.shuffle_labels(labels, jax.random.key(settings.seed))
    arrays: dict[str, Any] = {"class_names": np.array(class_names), "variance": spectrum.variance}
    for kind, given in (("true", labels), ("shuffled", shuffled)):
        result = theory.label_correlation(images, given, spectrum)
        arrays |= {f"{kind}/patch": result.patch, f"{kind}/mean_patch": result.mean_patch}
    arrays |= {
        "patch_noise": result.patch_noise,
        "mean_patch_noise": np.full(len(spectrum.variance), result.mean_patch_noise),
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Largest correlation over classes and components, and its size in units of the noise."""
    rows = []
    for labels in ("true", "shuffled"):
        for kind in ("patch", "mean_patch"):
            r = arrays[f"{labels}/{kind}"]
            z = r / arrays[f"{kind}_noise"]
            largest = np.abs(r).max(axis=0)
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
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The summary as text."""
    lines = [
        f"{'labels':>9}  {'coefficients':>12}  {'max |r|':>16}  {'rms r':>7}  {'noise':>7}  {'rms(r / noise)':>14}"
    ]
    for row in rows:
        spread = f"{row['largest_of_the_least_correlated_component']:.3f} to {row['largest']:.3f}"
        lines.append(
            f"{row['labels']:>9}  {row['coefficients']:>12}  {spread:>16}  {row['rms']:>7.4f}  {row['noise_rms']:>7.4f}"
            f"  {row['rms_in_noise']:>14.2f}"
        )
    lines.append(
        "max |r|: over classes, from the least to the most correlated component; noise differs by component, and"
    )
    lines.append("r / noise is the same for patches and mean patches, whose covariance with the labels is the same")
    return "\n".join(lines)
