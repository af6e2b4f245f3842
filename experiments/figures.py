"""Figures of the experiments, drawn from saved arrays alone."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import theory
from experiments import store

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "svg.hashsalt": "linear-cnn",
    "pdf.fonttype": 42,
}
# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, and close it."""
    figure.draw_without_rendering()  # lays it out, once for both files
    figure.set_layout_engine("none")
    for suffix in (".png", ".pdf"):
        # Without dates, the same arrays give the same file.
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        store.write_whole(folder / f"{name}{suffix}", lambda file: figure.savefig(file, metadata=metadata))  # noqa: B023
    plt.close(figure)


def draw_theory_vs_simulation(
    folder: Path, arrays: Mapping[str, np.ndarray], exact: Mapping[str, str], ensembles: Mapping[str, str]
) -> None:
    """The four figures of `theory_vs_simulation`."""
    with mpl.rc_context(STYLE):
        save(_profiles(arrays), folder, "profiles")
        save(_errors(arrays, exact, ensembles), folder, "errors")
        save(_ratios(arrays), folder, "decorrelation_ratio")
        save(_autocorrelation(arrays), folder, "autocorrelation")


def draw_iterations(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """The figure of `iterations`."""
    with mpl.rc_context(STYLE):
        save(_iterations(arrays), folder, "iterations")


def draw_label_correlation(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """The figure of `label_correlation`."""
    with mpl.rc_context(STYLE):
        save(_label_correlation(arrays), folder, "label_correlation")


def draw_formula_fit(folder: Path, arrays: Mapping[str, np.ndarray], titles: Mapping[str, str]) -> None:
    """The figure of `formula_fit`; titles of the runs by their names."""
    with mpl.rc_context(STYLE):
        save(_formula_fit(arrays, titles), folder, "formula_fit")


def draw_consistency(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    titles: Mapping[str, str],
    courses: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """The figure of `consistency`; titles of the runs by their names, courses (epochs, correlations) by their label."""
    with mpl.rc_context(STYLE):
        save(_consistency(arrays, titles, courses), folder, "consistency")


def draw_random_labels(
    folder: Path, arrays: Mapping[str, np.ndarray], courses: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """The figure of `random_labels`; courses (epochs, correlations) by their label."""
    with mpl.rc_context(STYLE):
        save(_random_labels(arrays, courses), folder, "random_labels")


def _iterations(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Energy profile against component at growing t, each panel scaled to its own largest value."""
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
            axis.plot(component, profile / scale[form], color=shade, marker="o", markersize=2.5, label=f"t = {t:,}")
        axis.set(yscale="log", title=title)
        _component_axis(axis, len(component))
    axes[0].plot(
        component, arrays["limit"] / scale["theorem"], "--", color="black", label="whitening limit, Theorem 4.3"
    )
    axes[0].set_ylabel("energy profile, each panel scaled to its largest")
    axes[0].set_ylim(bottom=arrays["theorem"][0].min() / scale["theorem"] / 2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _label_correlation(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Correlation against component, a line for each class, for single patches and for the mean patch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
    component = np.arange(1, len(arrays["variance"]) + 1)
    names = [str(name) for name in arrays["class_names"]]
    few = len(names) <= 10
    shades = plt.colormaps["tab10" if few else "viridis"](np.arange(10) if few else np.linspace(0, 1, len(names)))
    for axis, kind, title in (
        (axes[0], "patch", "Single patches"),
        (axes[1], "mean_patch", "Mean patch of each image"),
    ):
        for values, name, shade in zip(arrays[f"true/{kind}"], names, shades, strict=False):
            axis.plot(component, values, color=shade, marker="o", markersize=2.5, linewidth=1, label=name)
        noise = 2 * arrays[f"{kind}_noise"]
        axis.fill_between(
            component, -noise, noise, color="black", alpha=0.2, linewidth=0, label="95 % of shuffled labels"
        )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=title)
        _component_axis(axis, len(component))
    axes[0].set_ylabel("correlation with the label (class against rest)")
    handles, labels = axes[0].get_legend_handles_labels()
    shown = slice(None) if few else slice(-1, None)
    figure.legend(handles[shown], labels[shown], loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _profiles(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Energy profile against component at growing t: points simulation, lines theory."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True)
    norm = mpl.colors.LogNorm(1, arrays["patches_drawn/steps"][-1])
    colour = plt.colormaps["viridis"].resampled(256)
    for axis, name, title in (
        (axes[0], "patches_drawn", "Patch-shuffled images: Theorem 4.2 holds"),
        (axes[1], "raw_drawn", "Raw images: Theorem 4.2 fails, the exact expectation holds"),
    ):
        steps, kernels = arrays[f"{name}/steps"], arrays[f"{name}/kernels"]
        component = np.arange(1, len(arrays[f"{name}/variance"]) + 1)
        change = kernels - kernels[:, :1]
        shown = _decades(steps)
        for index in shown:
            shade = colour(norm(steps[index]))
            energy = np.asarray(theory.energy_profile(change[:, index], arrays[f"{name}/components"])) ** 2
            if index in (shown[0], shown[-1]):
                low, high = arrays[f"{name}/quantiles_change"][:, index]
                axis.fill_between(component, low, high, color=shade, alpha=0.15, linewidth=0)
            axis.plot(component, arrays[f"{name}/expected_change"][index], color=shade)
            axis.plot(component, arrays[f"{name}/theorem"][index], color=shade, linestyle=":")
            axis.plot(component, np.sqrt(energy.mean(axis=0)), "o", color=shade, markersize=3.2)
        limit = theory.whitening_profile(arrays[f"{name}/variance"])
        # Theorem 4.3 with its constants: where the theorem's profile goes.
        axis.plot(component, _limit_scale(arrays, name) * np.asarray(limit), "--", color="black", linewidth=1)
        axis.set(yscale="log", title=title)
        _component_axis(axis, len(component))
    axes[0].set_ylabel("rms energy profile of the change W(t) - W(0)\n(units of the weights)")
    lowest = [arrays[f"{name}/expected_change"][1].min() for name in ("patches_drawn", "raw_drawn")]
    axes[0].set_ylim(min(lowest) / 2)
    handles = [
        mpl.lines.Line2D(
            [], [], marker="o", linestyle="", color="grey", markersize=3.2, label="simulation, rms over seeds"
        ),
        mpl.lines.Line2D([], [], color="grey", label="exact expectation"),
        mpl.patches.Patch(color="grey", alpha=0.25, label="90 % of the seeds, first and last t (theory)"),
        mpl.lines.Line2D([], [], linestyle=":", color="grey", label="Theorem 4.2, nothing fitted"),
        mpl.lines.Line2D([], [], linestyle="--", color="black", linewidth=1, label="whitening limit, Theorem 4.3"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.colorbar(mpl.cm.ScalarMappable(norm, colour), ax=axes, label="iteration t", pad=0.01)
    return figure


def _formula_fit(arrays: Mapping[str, np.ndarray], titles: Mapping[str, str]) -> Figure:
    """Above, for each run, the profile of its trained networks and the fitted formula; below, the fit's course."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = plt.figure(figsize=(10, 2.7 * rows + 3.6))
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.6))
    above, below = parts
    panels = above.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in panels.ravel()[len(titles) :]:
        axis.set_visible(False)
    for axis, (name, title), colour in zip(panels.ravel(), titles.items(), itertools.cycle(COLOURS), strict=False):
        largest = arrays[f"{name}/change"][:, -1].max(axis=-1, keepdims=True)
        profile = arrays[f"{name}/change"][:, -1] / largest
        _band(axis, np.arange(1, profile.shape[-1] + 1), profile, colour, marker="o", markersize=2.5)
        fitted = (arrays[f"{name}/fit/change/profile"][:, -1] / largest).mean(axis=0)
        axis.plot(np.arange(1, len(fitted) + 1), fitted, "--", color="black")
        axis.set(title=title, ylim=(0, None))
        _component_axis(axis, len(fitted))
    for axis in panels[:-1].ravel():
        axis.set_xlabel("")
    for axis in panels[:, 0]:
        axis.set_ylabel("energy profile / its maximum")
    handles = [
        mpl.lines.Line2D([], [], color="grey", marker="o", markersize=2.5, label="trained networks, w(t) - w(0): mean"),
        mpl.patches.Patch(color="grey", alpha=0.25, label="± standard deviation over networks"),
        mpl.lines.Line2D([], [], color="black", linestyle="--", label="formula at its best time, mean of the fits"),
    ]
    above.legend(handles=handles, loc="outside upper center", ncols=3)
    axes = below.subplots(1, 2, sharey=True)
    for axis, kind, heading in zip(axes, ("change", "weights"), ("change w(t) - w(0)", "weights w(t)"), strict=True):
        for (name, title), colour in zip(titles.items(), itertools.cycle(COLOURS)):
            fit = f"{name}/fit/{kind}"
            _band(axis, arrays[f"{name}/epochs"], arrays[f"{fit}/correlation"], colour, label=title)
        first = next(iter(titles))
        for end, style, label in (("zero", ":", "λ alone"), ("infinity", "-.", "1/λ alone")):
            course = arrays[f"{first}/fit/{kind}/{end}"].mean(axis=0)
            axis.plot(arrays[f"{first}/epochs"], course, style, color="grey", label=f"{label}, {titles[first]}")
        axis.set(title=f"Fit to the {heading}")
        _epoch_axis(axis, max(arrays[f"{name}/epochs"][-1] for name in titles))
    axes[0].set_ylabel("correlation with the formula")
    below.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _consistency(
    arrays: Mapping[str, np.ndarray],
    titles: Mapping[str, str],
    courses: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """Left: the profiles of all networks, and of initial filters. Right: how their correlations develop."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8))
    _profiles_and_initial(left, arrays, titles)
    _courses(right, courses)
    return figure


def _random_labels(arrays: Mapping[str, np.ndarray], courses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Left: the profiles of both labels. Middle: how their correlations develop. Right: training accuracy."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.8))
    labels = {"true": "true labels", "shuffled": "shuffled labels"}
    _profiles_and_initial(left, arrays, labels)
    _courses(middle, courses)
    for (name, label), colour in zip(labels.items(), COLOURS, strict=False):
        _band(right, arrays[f"{name}/epochs"], arrays[f"{name}/accuracy"], colour, label=label)
    right.set(title="Training accuracy", ylabel="share of training images", ylim=(0, 1.02))
    _epoch_axis(right, max(arrays[f"{name}/epochs"][-1] for name in labels))
    _legend_below(right)
    return figure


def _profiles_and_initial(axis: Any, arrays: Mapping[str, np.ndarray], titles: Mapping[str, str]) -> None:
    """Profiles of trained networks, each divided by its maximum, and of the first run's initial filters."""
    component = np.arange(1, len(arrays[f"{next(iter(titles))}/variance"]) + 1)
    for (name, title), colour in zip(titles.items(), itertools.cycle(COLOURS)):
        profile = arrays[f"{name}/change"][:, -1]
        _band(axis, component, profile / profile.max(axis=-1, keepdims=True), colour, label=title)
    initial = arrays[f"{next(iter(titles))}/weights"][:, 0]
    initial = initial / initial.max(axis=-1, keepdims=True)
    _band(axis, component, initial, "grey", linestyle="--", label="initial filters, w(0)")
    axis.set(title="First layer: change w(t) - w(0)", ylabel="energy profile, divided by its maximum", ylim=(0, None))
    _component_axis(axis, len(component))
    _legend_below(axis)


def _courses(axis: Any, courses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Correlations over epochs: mean and standard deviation over pairs of networks."""
    for (label, (epochs, correlations)), colour in zip(courses.items(), itertools.cycle(COLOURS)):
        _band(axis, epochs, correlations, colour, label=label, marker="o", markersize=2.5)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(title="Correlation of the profiles (± s.d. over pairs)", ylabel="Pearson correlation")
    _epoch_axis(axis, max(epochs[-1] for epochs, _ in courses.values()))
    _legend_below(axis)


def _band(axis: Any, x: np.ndarray, values: np.ndarray, colour: str, **line: Any) -> None:
    """Mean and standard deviation of (networks, x); points where they are not defined are left out."""
    known = ~np.isnan(values).any(axis=0)
    x, values = x[known], values[:, known]
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0
    axis.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    axis.plot(x, mean, color=colour, **line)


def _epoch_axis(axis: Any, last: int) -> None:
    """Epochs, on a scale that shows the first ones too."""
    ticks = [epoch for epoch in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if epoch <= last]
    axis.set_xscale("symlog", linthresh=1, linscale=0.3)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="epoch", xlim=(-0.1, last * 1.1))


def _legend_below(axis: Any) -> None:
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)


def _component_axis(axis: Any, count: int) -> None:
    """The same horizontal axis for every figure over components."""
    axis.set(xlabel="PCA component of the patches (1: largest variance)", xlim=(0.3, count + 0.7))
    axis.set_xticks([1, *range(5, count + 1, 5)])


def _limit_scale(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """tau sqrt(J / (h K N)) for a head of ones (h = K)."""
    width = arrays[f"{name}/kernels"].shape[-1]
    ratio = arrays[f"{name}/patches_per_image"] / arrays[f"{name}/count"]
    return float(np.sqrt(arrays[f"{name}/target_covariance"] * ratio)) / width


def _decades(steps: np.ndarray) -> list[int]:
    """Indices of the powers of ten, and the last step."""
    tens = {10**k for k in range(20)}
    return [i for i, step in enumerate(steps) if int(step) in tens or i == len(steps) - 1]


def _errors(arrays: Mapping[str, np.ndarray], exact: Mapping[str, str], ensembles: Mapping[str, str]) -> Figure:
    """Left: single runs against the exact form. Right: ensembles against the expected form and the theorem."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 6))
    for (name, title), colour in zip(exact.items(), (*COLOURS, "#999999"), strict=True):
        simulated, steps = arrays[f"{name}/simulated"].astype(np.float64), arrays[f"{name}/steps"]
        moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()
        error = np.abs(simulated - arrays[f"{name}/predicted"]).max(axis=(0, 2, 3, 4, 5)) / moved
        left.plot(steps[1:], np.maximum(error[1:], 1e-17), marker="o", markersize=2.5, color=colour, label=title)
    left.axhline(1e-9, color="grey", linestyle="--", linewidth=1)
    left.annotate("bound, float64", (1, 1e-9), textcoords="offset points", xytext=(0, 3), color="grey")
    left.set(xscale="log", yscale="log", xlabel="iteration t", title="One network against the exact form")
    left.set_ylabel("max |w(t) - exact| / max |w - w(0)|")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    for (name, title), colour in zip(ensembles.items(), COLOURS, strict=False):
        kernels, steps = arrays[f"{name}/kernels"], arrays[f"{name}/steps"][1:]
        change = kernels[:, 1:] - kernels[:, :1]
        energy = np.asarray(theory.energy_profile(change, arrays[f"{name}/components"])) ** 2
        rms = np.sqrt(energy.mean(axis=0))
        for form, style in (("expected_change", "-"), ("theorem", ":")):
            error = np.sqrt(np.mean((rms / arrays[f"{name}/{form}"][1:] - 1) ** 2, axis=1))
            right.plot(steps, error, style, marker="o", markersize=2.5, color=colour)
        right.plot([], [], color=colour, label=title)
    sampling = np.sqrt(np.mean(energy.var(axis=0) / energy.mean(axis=0) ** 2)) / 2 / np.sqrt(len(energy))
    right.axhline(sampling, color="grey", linestyle="--", linewidth=1, label="sampling error of the seeds")
    right.plot([], [], "-", color="grey", label="expected form")
    right.plot([], [], ":", color="grey", label="Theorem 4.2, nothing fitted")
    right.set(xscale="log", yscale="log", xlabel="iteration t", title="Rms profile of many seeds")
    right.set_ylabel("relative error, rms over components")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _ratios(arrays: Mapping[str, np.ndarray]) -> Figure:
    """The decorrelation ratio of raw and of patch-shuffled images."""
    figure, axis = plt.subplots(figsize=(6, 3.8))
    for name, label, marker, colour in (
        ("raw_drawn", "raw images", "o", COLOURS[0]),
        ("patches_drawn", "patch-shuffled images", "s", COLOURS[1]),
    ):
        ratio = arrays[f"{name}/decorrelation_ratio"]
        axis.plot(np.arange(1, len(ratio) + 1), ratio, marker=marker, markersize=4, color=colour, label=label)
    axis.axhline(1, color="black", linestyle="--", linewidth=1, label="assumption of Theorem 4.2")
    axis.set(yscale="log")
    _component_axis(axis, len(ratio))
    axis.set_ylabel(r"decorrelation ratio $J\,u_i^T A u_i/\lambda_i^2$")
    axis.legend()
    return figure


def _autocorrelation(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Autocorrelation of the responses to raw images, from the initial filters to whitening."""
    figure, axis = plt.subplots(figsize=(6, 4.6))
    distances, filters = arrays["autocorrelation/distances"], arrays["autocorrelation/filters"]
    steps = arrays["patches_drawn/steps"]
    axis.plot(distances, arrays["autocorrelation/pixels"], color="grey", linestyle="-.", zorder=3, label="RGB pixels")
    chosen = [0, *_decades(steps)]
    shades = plt.colormaps["viridis"](np.linspace(0, 0.92, len(chosen)))
    for index, shade in zip(chosen, shades, strict=True):
        label = "initial filters" if index == 0 else f"t = {steps[index]:,}"
        axis.plot(distances, filters[index], marker="o", markersize=3, color=shade, label=label)
    axis.plot(distances, arrays["autocorrelation/whitening"], "--", color="black", label="exact patch whitening")
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel="distance (pixels)", ylabel="autocorrelation of the responses", ylim=(None, 1.02))
    figure.legend(loc="outside lower center", fontsize=8, ncols=4)
    return figure
