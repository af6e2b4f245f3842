"""The four figures of `theory_vs_simulation`."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import theory
from experiments.frame import figures


def draw(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    exact: Mapping[str, str],
    ensembles: Mapping[str, str],
) -> None:
    """The four figures of `theory_vs_simulation`."""
    figures.save(_profiles(arrays), folder, "profiles")
    figures.save(_errors(arrays, exact, ensembles), folder, "errors")
    figures.save(_ratios(arrays), folder, "decorrelation_ratio")
    figures.save(_autocorrelation(arrays), folder, "autocorrelation")


def _profiles(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Energy profile against component at growing t: points simulation, lines
    theory."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True)
    norm = mpl.colors.LogNorm(1, arrays["patches_drawn/steps"][-1])
    colour = plt.colormaps["viridis"].resampled(256)
    for axis, name, title in (
        (axes[0], "patches_drawn", "Patch-shuffled images: Theorem 4.2 holds"),
        (
            axes[1],
            "raw_drawn",
            "Raw images: Theorem 4.2 fails, the exact expectation holds",
        ),
    ):
        steps, kernels = arrays[f"{name}/steps"], arrays[f"{name}/kernels"]
        component = np.arange(1, len(arrays[f"{name}/variance"]) + 1)
        change = kernels - kernels[:, :1]
        shown = _decades(steps)
        for index in shown:
            shade = colour(norm(steps[index]))
            energy = (
                np.asarray(
                    theory.energy_profile(
                        change[:, index], arrays[f"{name}/components"]
                    )
                )
                ** 2
            )
            if index in (shown[0], shown[-1]):
                low, high = arrays[f"{name}/quantiles_change"][:, index]
                axis.fill_between(
                    component, low, high, color=shade, alpha=0.15, linewidth=0
                )
            axis.plot(component, arrays[f"{name}/expected_change"][index], color=shade)
            axis.plot(
                component, arrays[f"{name}/theorem"][index], color=shade, linestyle=":"
            )
            axis.plot(
                component,
                np.sqrt(energy.mean(axis=0)),
                "o",
                color=shade,
                markersize=3.2,
            )
        limit = theory.whitening_profile(arrays[f"{name}/variance"])
        # Theorem 4.3 with its constants: where the theorem's profile goes.
        axis.plot(
            component,
            _limit_scale(arrays, name) * np.asarray(limit),
            "--",
            color="black",
            linewidth=1,
        )
        axis.set(yscale="log", title=title)
        figures.component_axis(axis, len(component))
    axes[0].set_ylabel(
        "rms energy profile of the change W(t) - W(0)\n(units of the weights)"
    )
    lowest = [
        arrays[f"{name}/expected_change"][1].min()
        for name in ("patches_drawn", "raw_drawn")
    ]
    axes[0].set_ylim(min(lowest) / 2)
    handles = [
        mpl.lines.Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color="grey",
            markersize=3.2,
            label="simulation, rms over seeds",
        ),
        mpl.lines.Line2D([], [], color="grey", label="exact expectation"),
        mpl.patches.Patch(
            color="grey",
            alpha=0.25,
            label="90 % of the seeds, first and last t (theory)",
        ),
        mpl.lines.Line2D(
            [], [], linestyle=":", color="grey", label="Theorem 4.2, nothing fitted"
        ),
        mpl.lines.Line2D(
            [],
            [],
            linestyle="--",
            color="black",
            linewidth=1,
            label="whitening limit, Theorem 4.3",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.colorbar(
        mpl.cm.ScalarMappable(norm, colour), ax=axes, label="iteration t", pad=0.01
    )
    return figure


def _limit_scale(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """tau sqrt(J / (h K N)) for a head of ones (h = K)."""
    width = arrays[f"{name}/kernels"].shape[-1]
    ratio = arrays[f"{name}/patches_per_image"] / arrays[f"{name}/count"]
    return float(np.sqrt(arrays[f"{name}/target_covariance"] * ratio)) / width


def _decades(steps: np.ndarray) -> list[int]:
    """Indices of the powers of ten, and the last step."""
    tens = {10**k for k in range(20)}
    return [
        i for i, step in enumerate(steps) if int(step) in tens or i == len(steps) - 1
    ]


def _errors(
    arrays: Mapping[str, np.ndarray],
    exact: Mapping[str, str],
    ensembles: Mapping[str, str],
) -> Figure:
    """Left: single runs against the exact form. Right: ensembles against the expected
    form and the theorem."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 6))
    for (name, title), colour in zip(
        exact.items(), (*figures.COLOURS, "#999999"), strict=True
    ):
        simulated, steps = (
            arrays[f"{name}/simulated"].astype(np.float64),
            arrays[f"{name}/steps"],
        )
        moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()
        error = (
            np.abs(simulated - arrays[f"{name}/predicted"]).max(axis=(0, 2, 3, 4, 5))
            / moved
        )
        left.plot(
            steps[1:],
            np.maximum(error[1:], 1e-17),
            marker="o",
            markersize=2.5,
            color=colour,
            label=title,
        )
    left.axhline(1e-9, color="grey", linestyle="--", linewidth=1)
    left.annotate(
        "bound, float64",
        (1, 1e-9),
        textcoords="offset points",
        xytext=(0, 3),
        color="grey",
    )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="iteration t",
        title="One network against the exact form",
    )
    left.set_ylabel("max |w(t) - exact| / max |w - w(0)|")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    for (name, title), colour in zip(ensembles.items(), figures.COLOURS, strict=False):
        kernels, steps = arrays[f"{name}/kernels"], arrays[f"{name}/steps"][1:]
        change = kernels[:, 1:] - kernels[:, :1]
        energy = (
            np.asarray(theory.energy_profile(change, arrays[f"{name}/components"])) ** 2
        )
        rms = np.sqrt(energy.mean(axis=0))
        for form, style in (("expected_change", "-"), ("theorem", ":")):
            error = np.sqrt(
                np.mean((rms / arrays[f"{name}/{form}"][1:] - 1) ** 2, axis=1)
            )
            right.plot(steps, error, style, marker="o", markersize=2.5, color=colour)
        right.plot([], [], color=colour, label=title)
    sampling = (
        np.sqrt(np.mean(energy.var(axis=0) / energy.mean(axis=0) ** 2))
        / 2
        / np.sqrt(len(energy))
    )
    right.axhline(
        sampling,
        color="grey",
        linestyle="--",
        linewidth=1,
        label="sampling error of the seeds",
    )
    right.plot([], [], "-", color="grey", label="expected form")
    right.plot([], [], ":", color="grey", label="Theorem 4.2, nothing fitted")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="iteration t",
        title="Rms profile of many seeds",
    )
    right.set_ylabel("relative error, rms over components")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _ratios(arrays: Mapping[str, np.ndarray]) -> Figure:
    """The decorrelation ratio of raw and of patch-shuffled images."""
    figure, axis = plt.subplots(figsize=(6, 3.8))
    for name, label, marker, colour in (
        ("raw_drawn", "raw images", "o", figures.COLOURS[0]),
        ("patches_drawn", "patch-shuffled images", "s", figures.COLOURS[1]),
    ):
        ratio = arrays[f"{name}/decorrelation_ratio"]
        axis.plot(
            np.arange(1, len(ratio) + 1),
            ratio,
            marker=marker,
            markersize=4,
            color=colour,
            label=label,
        )
    axis.axhline(
        1, color="black", linestyle="--", linewidth=1, label="assumption of Theorem 4.2"
    )
    axis.set(yscale="log")
    figures.component_axis(axis, len(ratio))
    axis.set_ylabel(r"decorrelation ratio $J\,u_i^T A u_i/\lambda_i^2$")
    axis.legend()
    return figure


def _autocorrelation(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Autocorrelation of the responses to raw images, from the initial filters to
    whitening."""
    figure, axis = plt.subplots(figsize=(6, 4.6))
    distances, filters = (
        arrays["autocorrelation/distances"],
        arrays["autocorrelation/filters"],
    )
    steps = arrays["patches_drawn/steps"]
    axis.plot(
        distances,
        arrays["autocorrelation/pixels"],
        color="grey",
        linestyle="-.",
        zorder=3,
        label="RGB pixels",
    )
    chosen = [0, *_decades(steps)]
    shades = plt.colormaps["viridis"](np.linspace(0, 0.92, len(chosen)))
    for index, shade in zip(chosen, shades, strict=True):
        label = "initial filters" if index == 0 else f"t = {steps[index]:,}"
        axis.plot(
            distances,
            filters[index],
            marker="o",
            markersize=3,
            color=shade,
            label=label,
        )
    axis.plot(
        distances,
        arrays["autocorrelation/whitening"],
        "--",
        color="black",
        label="exact patch whitening",
    )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(
        xlabel="distance (pixels)",
        ylabel="autocorrelation of the responses",
        ylim=(None, 1.02),
    )
    figure.legend(loc="outside lower center", fontsize=8, ncols=4)
    return figure
