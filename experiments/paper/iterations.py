"""The closed form at growing t: which components are whitened, and which come next
(paper, Fig. 4).

    python -m experiments iterations --dataset cifar10

Evaluates Theorem 4.2 on the patch spectrum, and beside it the exact expectation for a
linear CNN on the same images, which does not assume that patches of an image are
uncorrelated. Each form has the learning rate that its own largest curvature allows, so
compare the order of the components, not the times. Channels are normalised.

Writes <out>/iterations/<dataset>/{config.json, arrays.npz, summary.json,
iterations.png, iterations.pdf}.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import linear_cnn
import theory
from experiments import frame
from experiments.frame import Arrays, figures, inputs

NAME = "iterations"
# Of the limit: where a component counts as whitened. After one step the first component
# is at --rate, so that --rate must not be the same.
WHITENED = 0.9


@dataclass(frozen=True)
class Settings(frame.Settings):
    """The closed form at growing numbers of iterations (paper, Fig. 4)."""

    kernel_size: int = 3
    """Height and width of the filters."""
    decades: int = 7
    """The iterations are 1, 10, ... to this power of ten."""
    rate: float = 0.8
    """Learning rate times the largest curvature, for each form its own; stable below
    2."""


PRESETS = {
    "smoke": Settings(preset="smoke", images=300),
    "cpu": Settings(preset="cpu", dataset="cifar10"),
    "paper": Settings(preset="paper", dataset="cifar10"),
}


def main(settings: Settings) -> None:
    """Fig. 4 of the paper: the closed form at growing t."""
    frame.check_at_least(settings, {"kernel_size": 1, "decades": 1, "images": 2})
    if not 0 < settings.rate < 2:
        raise ValueError(
            "--rate must lie between 0 and 2, the border of stability, got"
            f" {settings.rate}."
        )
    frame.run(NAME, settings, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Profiles at each number of iterations, (T, d), by the theorem and by the exact
    expectation."""
    pixels = inputs.load(settings, need_labels=False).images
    images = linear_cnn.normalize_channels(pixels)
    spectrum = theory.patch_spectrum(images, settings.kernel_size, center=False)
    iterations = 10 ** np.arange(settings.decades + 1)
    rate = settings.rate / float(spectrum.variance[0])

    # Labels that know nothing of the images, of variance 1; the number of filters drops
    # out with the scale.
    moments = theory.mean_patch_moments(
        images, np.zeros(len(images)), settings.kernel_size
    )
    moments = replace(moments, target_covariance=jnp.ones(()))
    head = np.ones(1)
    learning_rate = (
        settings.rate / 2 * float(theory.largest_stable_learning_rate(moments, head))
    )
    dynamics = theory.gradient_descent(moments, head, learning_rate)
    exact = dynamics.expected_profile(
        iterations, init_std=0.0, targets="drawn", components=spectrum.components
    )
    arrays = {
        "variance": spectrum.variance,
        "iterations": iterations,
        "theorem": theory.iteration_profile(spectrum.variance, iterations, rate),
        "limit": theory.whitening_profile(spectrum.variance),
        "exact": exact,
        "decorrelation_ratio": theory.decorrelation_ratio(moments, spectrum),
        "images": len(images),
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(arrays: Arrays) -> dict[str, Any]:
    """For each t the component of largest energy, and how many components are whitened,
    by the theorem."""
    relative = arrays["theorem"] / arrays["limit"]
    results = [
        {
            "iterations": int(t),
            "largest_component": int(np.argmax(profile)) + 1,
            "whitened_components": int((share > WHITENED).sum()),
            "largest_component_exact": int(np.argmax(exact)) + 1,
        }
        for t, profile, share, exact in zip(
            arrays["iterations"],
            arrays["theorem"],
            relative,
            arrays["exact"],
            strict=True,
        )
    ]
    return {"results": results, "checks": []}


def draw(folder: Path, arrays: Arrays) -> None:
    """Energy profile against component at growing t, each panel scaled to its own
    largest value."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    component = np.arange(1, len(arrays["variance"]) + 1)
    iterations = arrays["iterations"]
    shades = plt.colormaps["viridis"](np.linspace(0, 0.92, len(iterations)))
    scale = {"theorem": arrays["limit"].max(), "exact": arrays["exact"].max()}
    for axis, form, title in (
        (axes[0], "theorem", "Theorem 4.2"),
        (axes[1], "exact", "Exact expectation, linear CNN on these images"),
    ):
        for profile, t, shade in zip(arrays[form], iterations, shades, strict=True):
            axis.plot(
                component,
                profile / scale[form],
                color=shade,
                marker="o",
                markersize=2.5,
                label=f"t = {t:,}",
            )
        axis.set(yscale="log", title=title)
        figures.component_axis(axis, len(component))
    axes[0].plot(
        component,
        arrays["limit"] / scale["theorem"],
        "--",
        color="black",
        label="whitening limit, Theorem 4.3",
    )
    axes[0].set_ylabel("energy profile, each panel scaled to its largest")
    axes[0].set_ylim(bottom=arrays["theorem"][0].min() / scale["theorem"] / 2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "iteration": [f"{row['iterations']:,}" for row in rows],
        "largest component": [str(row["largest_component"]) for row in rows],
        "whitened": [str(row["whitened_components"]) for row in rows],
        "largest, exact expectation": [
            str(row["largest_component_exact"]) for row in rows
        ],
    }
    return frame.Table(
        columns,
        f"whitened: components above {WHITENED:.0%} of their limit, by the theorem",
    )
