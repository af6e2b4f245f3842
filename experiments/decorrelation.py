"""How the responses of the first layer correlate over distance: pixels, random, trained, whitened (paper, Fig. 6).

    python -m experiments decorrelation
    python -m experiments decorrelation --preset paper

The autocorrelation of the vector of all responses at a location, by moments of pairs of patches, at distances of 0 to
15 pixels: of the RGB pixels, of random filters, of the trained first layer (its weights w(t), and the change
w(t) - w(0)), of the closed form at the time fitted to it, and of exact whitening of the patches. Images are those of
training, normalised; the mean over images and locations is subtracted, and horizontal and vertical shifts are averaged.
The paper does not state its convention, so that others stand beside this one. The closed form is held against networks
of several kinds. Trained networks are kept in <out>/runs and shared with the other experiments.

The time is fitted twice: by the likelihood of the profile, which knows the time better, and by its correlation with the
formula, as the paper fits it. The correlation is nearly flat over a factor of two in time, in which the closed form's
curve moves by more than the bound, so that VGG11s with 64 filters miss the bound at the time of the best correlation;
ResNet18s miss it at the most likely time.

The cpu preset takes 35 minutes on 2 cores, for twelve networks in the place of the four that other experiments have.

Writes <out>/decorrelation/<dataset>/{config.json, arrays.npz, summary.json, decorrelation.png, decorrelation.pdf}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import theory
from experiments import figures, frame, networks, runs
from experiments.frame import Arrays

NAME = "decorrelation"
# Single networks differ by as much as the bound that their mean is held against, so more of them than elsewhere.
OWN_PRESETS = {"cpu": {"seeds": 12, "other_seeds": 4}}
BANKS = 100  # of random filters
CLOSE = 0.05  # of the closed form to the trained change, at every distance
FAR = 2  # pixels: from here on the order must be the paper's
ALIKE = 0.05  # of RGB and random filters
SHOWN = (1, 2, 5, 10, 15)
TIMES = np.geomspace(0.5, 200, 241)  # of the closed form, in units of 1 / variance of the first component
# Times that fit a profile about as well as the best: the best correlations of different networks differ by as much.
AS_GOOD = 0.005
PAPER_DISTANCE = 10
OURS = "normalised, mean over all images subtracted"
PAPER = {"rgb": "> 0.5", "random": "like RGB", "change": "about 0.2", "whitening": "0"}
MARKERS: dict[networks.Criterion, str] = {"likelihood": "D", "correlation": "o"}
CONVENTION_LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
TITLES = {
    "rgb": "RGB pixels",
    "random": f"random filters, {BANKS} banks",
    "weights": "trained first layer, w(t)",
    "change": "trained first layer, change w(t) - w(0)",
    "likelihood": "closed form at its most likely time",
    "correlation": "closed form at the time of the best correlation",
    "whitening": "exact whitening of the patches",
}
CRITERIA: tuple[networks.Criterion, ...] = ("likelihood", "correlation")


@dataclass(frozen=True)
class Settings(networks.SettingsOfSeveral):
    """Autocorrelation of the first layer's responses (paper, Fig. 6)."""

    largest_distance: int = 15
    """In pixels."""


def resolve(settings: Settings) -> Any:
    """`networks.resolve_several`, with this experiment's own presets."""
    return networks.resolve_several(settings, OWN_PRESETS)


def main(settings: Settings) -> None:
    """Fig. 6 of the paper: autocorrelation of the first layer's responses."""
    given = resolve(settings)
    frame.check_at_least(given, {"largest_distance": FAR})
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Any) -> Arrays:
    """The runs of `networks.several_runs`, "distances" (D,), and curves, each (banks, D).

    By "<convention>/" the curves of TITLES, for the run "base". Of all runs, by our convention, "<run>/curve/" and
    "change" or one of CRITERIA, each (networks, R - 1, D), at every record but the first, where nothing has changed;
    and "closed_form" (T, D), at TIMES, which are fitted to nothing.
    """
    named = networks.several_runs(settings)
    data = runs.load(named["base"], settings.data_dir)
    distances = range(settings.largest_distance + 1)
    theory.cross_moments(data.images[:1], runs.KERNEL_SIZE, distances)  # are the images that large?
    arrays = networks.measure(named, settings)
    shape = arrays["base/conv1"].shape[2:]
    spectrum = theory.patch_spectrum(data.images, shape[:2])
    # All runs have the same images, and so the same closed form.
    any_time = closed_form(np.asarray(spectrum.variance))
    of_runs: dict[str, Any] = {"closed_form": theory.filters_with_profile(any_time, spectrum)}
    for name in named:
        conv1 = arrays[f"{name}/conv1"].astype(np.float64)
        of_runs[f"{name}/curve/change"] = conv1[:, 1:] - conv1[:, :1]
        for criterion in CRITERIA:
            arrays |= networks.fits(arrays, name, criterion)
            fitted = arrays[f"{name}/{networks.FITS[criterion]}/change/profile"][:, 1:]
            of_runs[f"{name}/curve/{criterion}"] = theory.filters_with_profile(fitted, spectrum)
    key = jax.random.fold_in(jax.random.key(settings.seed), 2)
    random = np.asarray(jax.random.normal(key, (BANKS, *shape)), np.float64)
    trained = {curve: of_runs[f"base/curve/{curve}"][:, -1] for curve in ("change", *CRITERIA)}
    banks = trained | {
        "random": random,
        "weights": arrays["base/conv1"][:, -1].astype(np.float64),
        "whitening": theory.filters_with_profile(theory.whitening_profile(spectrum.variance), spectrum)[None],
    }
    arrays |= {"distances": np.array(distances)}
    for convention, (images, center) in conventions(data).items():
        moments = theory.cross_moments(images, shape[:2], distances, center=center)
        pixels = theory.cross_moments(images, 1, distances, center=center)
        arrays |= {
            f"{convention}/{name}": np.asarray(theory.autocorrelation(bank, moments)) for name, bank in banks.items()
        }
        arrays[f"{convention}/rgb"] = np.asarray(theory.autocorrelation(np.eye(shape[2])[None, None], pixels))[None]
        if convention == OURS:
            arrays |= {name: np.asarray(theory.autocorrelation(bank, moments)) for name, bank in of_runs.items()}
    # Equal but for rounding, which depends on how many filter banks are taken at once: so that each is one number.
    arrays |= {f"{OURS}/{curve}": arrays[f"base/curve/{curve}"][:, -1] for curve in trained}
    return arrays


def closed_form(variance: np.ndarray) -> np.ndarray:
    """The profile of Theorem 4.2 at TIMES, in the limit of small rates, up to a factor: (T, d)."""
    progress = -np.expm1(-np.outer(TIMES, variance / variance[0]))
    return progress * np.asarray(theory.whitening_profile(variance))


def differences(arrays: Arrays, criterion: networks.Criterion) -> dict[str, np.ndarray]:
    """Closed form at its fitted time minus trained change, for each run, (networks, R - 1, D)."""
    names = networks.names(arrays)
    return {name: arrays[f"{name}/curve/{criterion}"] - arrays[f"{name}/curve/change"] for name in names}


def course(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over training, the largest difference of the mean over networks at any distance, and its standard error there.

    Args:
      difference: (networks, R - 1, D).

    Returns:
      both (R - 1,); the second NaN for a single network.
    """
    mean, count = difference.mean(axis=0), len(difference)
    at = np.arange(len(mean)), np.abs(mean).argmax(axis=1)
    error = difference.std(axis=0, ddof=1)[at] / np.sqrt(count) if count > 1 else np.full(len(mean), np.nan)
    return np.abs(mean[at]), error


def by_time(arrays: Arrays, criterion: networks.Criterion) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of every network at every record but the first, its fitted time and its largest difference of the curves.

    Returns:
      for each run, both (networks, R - 1): the time in units of 1 / variance of the first component, and the difference
      with its sign.
    """
    found = {}
    for name, difference in differences(arrays, criterion).items():
        times = arrays[f"{name}/{networks.FITS[criterion]}/change/time"][:, 1:] * arrays[f"{name}/variance"][0]
        found[name] = times, _largest(difference)
    return found


def at_times(arrays: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How well the closed form at every one of TIMES fits a trained network, its profile and its curve.

    Returns:
      for each run, both (networks, T): the correlation of the profiles, and the largest difference of the curves, with
      its sign.
    """
    found = {}
    for name in networks.names(arrays):
        profile, curve = arrays[f"{name}/change"][:, -1], arrays[f"{name}/curve/change"][:, -1]
        correlation = theory.profile_correlation(profile[:, None], closed_form(arrays[f"{name}/variance"]))
        difference = arrays["closed_form"] - curve[:, None]
        found[name] = np.asarray(correlation), _largest(difference)
    return found


def as_good(correlation: np.ndarray, difference: np.ndarray) -> dict[str, Any]:
    """What the times have in common whose correlation is within AS_GOOD of a network's best.

    Args:
      correlation, difference: of `at_times`, (networks, T).

    Returns:
      medians over networks of the first and the last of these times; and of the time among them with the smallest
      difference, of that difference, and of its correlation and of the best correlation.
    """
    good = correlation >= correlation.max(axis=1, keepdims=True) - AS_GOOD
    best = np.where(good, np.abs(difference), np.inf).argmin(axis=1)
    each = np.arange(len(best)), best
    values = {
        "first_time": TIMES[good.argmax(axis=1)],
        "last_time": TIMES[::-1][good[:, ::-1].argmax(axis=1)],
        "time_of_smallest_difference": TIMES[best],
        "smallest_difference": np.abs(difference[each]),
        "correlation_there": correlation[each],
        "best_correlation": correlation.max(axis=1),
    }
    return {name: float(np.median(value)) for name, value in values.items()}


def _largest(difference: np.ndarray) -> np.ndarray:
    """The entry along the last axis with the largest absolute value, with its sign."""
    place = np.abs(difference).argmax(axis=-1)[..., None]
    return np.take_along_axis(difference, place, axis=-1)[..., 0]


def conventions(data: runs.Data) -> dict[str, tuple[np.ndarray, bool]]:
    """Images, and whether the mean over all of them is subtracted: ours first."""
    own_mean = data.images.mean(axis=(1, 2), keepdims=True)
    return {
        OURS: (data.images, True),
        "pixels in [0, 1], mean kept": (data.images * data.std + data.mean, False),
        "the mean of each image subtracted": (data.images - own_mean, True),
    }


def _conventions_in(arrays: Arrays) -> list[str]:
    return [key.removesuffix("/rgb") for key in arrays if key.endswith("/rgb")]


def summary(arrays: Arrays) -> dict[str, Any]:
    """The curves at some distances, for each convention; and the checks, by ours."""
    distances = arrays["distances"]
    shown = [int(distance) for distance in SHOWN if distance in distances]
    titles = networks.titles(arrays)

    def result(curve: str, convention: str, values: np.ndarray, paper: str | None = None) -> dict[str, Any]:
        columns = values[:, np.isin(distances, shown)].T
        found = {"curve": curve, "convention": convention, "distances": shown, "paper": paper}
        return found | {"autocorrelation": [networks.spread(column) for column in columns]}

    results = [
        result(title, convention, arrays[f"{convention}/{name}"], PAPER.get(name) if convention == OURS else None)
        for convention in _conventions_in(arrays)
        for name, title in TITLES.items()
    ]
    results += [
        result(f"{TITLES[curve]}, {titles[run]}", OURS, arrays[f"{run}/curve/{curve}"][:, -1])
        for run in titles
        if run != "base"
        for curve in ("change", *CRITERIA)
    ]
    mean = {name: arrays[f"{OURS}/{name}"].mean(axis=0) for name in TITLES}
    far = distances >= FAR
    trained = np.maximum(mean["change"], mean["weights"])
    checks = [
        networks.check(
            f"RGB and random filters: largest difference from {FAR} pixels on",
            np.abs(mean["rgb"] - mean["random"])[far].max(), at_most=ALIKE,
        ),
        networks.check(
            f"random filters above the trained layer: smallest difference from {FAR} pixels on",
            (mean["random"] - trained)[far].min(), above=0,
        ),
        networks.check(
            f"trained layer above whitening: smallest difference from {FAR} pixels on",
            (np.minimum(mean["change"], mean["weights"]) - mean["whitening"])[far].min(), above=0,
        ),
    ]  # fmt: skip
    courses: list[dict[str, Any]] = [
        {
            "run": titles[name],
            "epochs": arrays[f"{name}/epochs"][1:].tolist(),
            "training_accuracy": networks.finite(arrays[f"{name}/accuracy"][:, 1:].mean(axis=0)),
            "times_as_good": {"correlation_within": AS_GOOD} | as_good(*unfitted),
        }
        for name, unfitted in at_times(arrays).items()
    ]
    for criterion in CRITERIA:
        times = by_time(arrays, criterion)
        for (name, difference), row in zip(differences(arrays, criterion).items(), courses, strict=True):
            largest, error = course(difference)
            title = f"{TITLES[criterion]} against the trained change: largest difference, {titles[name]}"
            checks.append(networks.check(title, largest[-1], at_most=CLOSE))
            row[criterion] = {
                "median_time_times_first_variance": networks.finite(np.median(times[name][0], axis=0)),
                "largest_difference": networks.finite(largest),
                "standard_error": networks.finite(error),
            }
    return networks.summarize(arrays, results, checks) | {"closed_form_over_training": courses}


def draw(folder: Path, arrays: Arrays) -> None:
    """Above, our convention, others, and closed form against trained layers. Below, by the time of the closed form."""
    figure, ((left, right, middle), (last, curves, profiles)) = plt.subplots(2, 3, figsize=(16, 11))
    distances = arrays["distances"]
    lines = {"rgb": "-.", "likelihood": "--", "correlation": ":", "whitening": "--"}
    colours = {
        "rgb": "grey",
        "random": figures.COLOURS[4],
        "weights": figures.COLOURS[5],
        "change": figures.COLOURS[0],
        "likelihood": "black",
        "correlation": "black",
        "whitening": figures.COLOURS[2],
    }
    for name, title in TITLES.items():
        values = arrays[f"{OURS}/{name}"]
        label = title + (": mean ± s.d." if len(values) > 1 else "")
        marker = None if name in lines else "o"
        figures.band(
            left,
            distances,
            values,
            colours[name],
            linestyle=lines.get(name, "-"),
            marker=marker,
            markersize=3,
            label=label,
        )
    left.set(title=f"{OURS[0].upper()}{OURS[1:]}", ylabel="autocorrelation of the responses")
    figures.legend_below(left)
    titles, unfitted = networks.titles(arrays), at_times(arrays)
    ends = {criterion: differences(arrays, criterion) for criterion in CRITERIA}
    fitted = {criterion: by_time(arrays, criterion) for criterion in CRITERIA}
    for (name, title), colour in zip(titles.items(), figures.COLOURS, strict=False):
        mean_title = f"{title}: mean ± s.d."
        figures.band(
            middle, distances, ends["likelihood"][name][:, -1], colour, marker="o", markersize=3, label=mean_title
        )
        middle.plot(distances, ends["correlation"][name][:, -1].mean(axis=0), ":", color=colour)
        times, largest = fitted["likelihood"][name]
        last.plot(times.ravel(), largest.ravel(), "o", color=colour, markersize=3, alpha=0.7, label=title)
        correlation, difference = unfitted[name]
        mean = correlation.mean(axis=0)
        good = mean >= mean.max() - AS_GOOD
        for axis, values in ((profiles, correlation), (curves, difference)):
            figures.band(axis, TIMES, values, colour, label=mean_title)
            axis.plot(TIMES[good], values.mean(axis=0)[good], color=colour, linewidth=4)
            for criterion, marker in MARKERS.items():
                time = np.clip(np.median(fitted[criterion][name][0][:, -1]), TIMES[0], TIMES[-1])  # it may be 0
                height = np.interp(time, TIMES, values.mean(axis=0))
                axis.plot(time, height, marker, color=colour, markeredgecolor="black", zorder=5)
    middle.plot([], [], ":", color="black", label="mean, at the time of the best correlation")
    for axis in (middle, last, curves):
        for bound in (-CLOSE, CLOSE):
            text = None if bound < 0 else "bound of the mean at the end"
            axis.axhline(bound, color="black", linestyle="--", linewidth=0.8, label=text)
    middle.set(title="Closed form at its most likely time - trained change", ylabel="difference of autocorrelations")
    figures.legend_below(middle)
    last.set(
        title="The largest difference of each network at each record",
        xlabel="most likely time x variance of component 1",
        ylabel="difference of autocorrelations",
        xscale="log",
    )
    figures.legend_below(last)
    text = f"thick: correlation of the profiles within {AS_GOOD} of its best"
    for axis in (curves, profiles):
        axis.plot([], [], color="black", linewidth=4, label=text)
        for criterion, marker in MARKERS.items():
            label = TITLES[criterion].removeprefix("closed form at ")
            axis.plot([], [], marker, color="white", markeredgecolor="black", label=f"{label}, median")
        axis.set(xlabel="time x variance of component 1", xscale="log", xlim=(TIMES[0], 100))
        figures.legend_below(axis)
    curves.set(
        title="Trained networks against the closed form of any time: curves",
        ylabel="largest difference of autocorrelations",
        ylim=(-0.2, 0.2),
    )
    profiles.set(title="The same: profiles", ylabel="correlation of the energy profiles", ylim=(0.5, 1))
    names = _conventions_in(arrays)
    for convention, line in zip(names, CONVENTION_LINES, strict=True):
        for name in ("rgb", "change", "whitening"):
            mean = arrays[f"{convention}/{name}"].mean(axis=0)
            right.plot(distances, mean, line, color=colours[name])
    handles = [
        mpl.lines.Line2D([], [], color=colours[name], label=TITLES[name]) for name in ("rgb", "change", "whitening")
    ]
    handles += [
        mpl.lines.Line2D([], [], color="black", label=convention, linestyle=line)
        for convention, line in zip(names, CONVENTION_LINES, strict=True)
    ]
    right.set(title="Three conventions")
    right.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)
    for axis in (left, middle, right, last, curves):
        axis.axhline(0, color="black", linewidth=0.6)
    for axis in (left, middle, right):
        axis.set(xlabel="distance (pixels)")
    lowest = min(left.get_ylim()[0], right.get_ylim()[0])
    for axis in (left, right):
        axis.set(ylim=(lowest, 1.02))
    figures.save(figure, folder, NAME)


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {"convention": [row["convention"] for row in rows], "autocorrelation of": [row["curve"] for row in rows]}
    for index, distance in enumerate(rows[0]["distances"]):
        columns[f"at {distance}"] = [networks.number(row["autocorrelation"][index]) for row in rows]
    columns[f"paper, at {PAPER_DISTANCE}"] = [row["paper"] or "" for row in rows]
    note = (
        "at so many pixels; ± standard deviation over networks, or over banks of random filters. The paper's figure "
        "does not say how it was centred, and no convention here gives all of its values at once"
    )
    return frame.Table(columns, note)
