"""How the responses of the first layer correlate over distance: pixels, random,
trained, whitened (paper, Fig. 6).

    python -m experiments decorrelation
    python -m experiments decorrelation --preset paper

The autocorrelation of the vector of all responses at a location, by moments of pairs of
patches, at distances of 0 to 15 pixels: of the RGB pixels, of random filters, of the
trained first layer (its weights w(t), and the change w(t) - w(0)), of the closed form
at the time fitted to it, and of exact whitening of the patches. Images are those of
training, normalised; the mean over images and locations is subtracted, and horizontal
and vertical shifts are averaged. The paper does not state its convention, so that
others stand beside this one, three of them in the table alone. The closed form is held
against networks of several kinds. Trained networks are kept in <out>/runs and shared
with the other experiments.

The time is fitted twice: by the likelihood of the profile, which knows the time better,
and by its correlation with the formula, as the paper fits it. The correlation is nearly
flat over a factor of two in time, in which the closed form's curve moves by more than
the bound.

Writes <out>/decorrelation/<dataset>/{config.json, arrays.npz, summary.json},
and as .png and .pdf the figures decorrelation and decorrelation_times.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import theory
from experiments import frame, trained
from experiments.frame import Arrays
from experiments.paper.decorrelation.curves import (
    AS_GOOD,
    BANKS,
    CLOSE,
    CRITERIA,
    NAME,
    OURS,
    SHOWN,
    TITLES,
    as_good,
    at_times,
    by_time,
    closed_form,
    conventions,
    conventions_in,
    course,
    differences,
)
from experiments.paper.decorrelation.figure import draw
from experiments.paper.decorrelation.further import CURVES, further

FAR = 2  # pixels: from here on the order must be the paper's
ALIKE = 0.05  # of RGB and random filters
PAPER_DISTANCE = 10
PAPER = {"rgb": "> 0.5", "random": "like RGB", "change": "about 0.2", "whitening": "0"}


@dataclass(frozen=True)
class Settings(trained.SettingsOfSeveral):
    """Autocorrelation of the first layer's responses (paper, Fig. 6)."""

    # Single networks differ by as much as the bound that their mean is held against, so
    # more of them than elsewhere.
    seeds: int = 12
    other_seeds: int | None = 4
    largest_distance: int = 15
    """In pixels."""


PRESETS = {
    "smoke": Settings(**trained.SMOKE_OF_SEVERAL, other_seeds=None),
    "cpu": Settings(),
    "paper": Settings(**trained.PAPER_SIZE_OF_SEVERAL, seeds=4, other_seeds=None),
}
resolve = trained.check_several


def main(settings: Settings) -> None:
    """Fig. 6 of the paper: autocorrelation of the first layer's responses."""
    given = resolve(settings)
    frame.check_at_least(given, {"largest_distance": FAR})
    frame.run(NAME, given, compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """The runs of `trained.several_runs`, "distances" (D,), and curves, each (banks,
    D).

    By "<convention>/" the curves of TITLES, for the run "base". Of all runs, by our
    convention, "<run>/curve/" and "change" or one of CRITERIA, each (networks, R - 1,
    D), at every record but the first, where nothing has changed; and "closed_form" (T,
    D), at TIMES, which are fitted to nothing.
    """
    named = trained.several_runs(settings)
    of_run = trained.load_all(named, settings.data_dir)
    data = of_run["base"]  # all runs have the same images
    distances = range(settings.largest_distance + 1)
    # Are the images that large?
    theory.cross_moments(data.images[:1], trained.KERNEL_SIZE, distances)
    arrays = trained.measure(named, of_run, settings)
    runs = trained.measured(arrays)
    shape = runs["base"].conv1.shape[2:]
    spectrum = theory.patch_spectrum(data.images, shape[:2])
    any_time = closed_form(np.asarray(spectrum.variance))
    of_runs: dict[str, Any] = {
        "closed_form": theory.filters_with_profile(any_time, spectrum)
    }
    for name in named:
        conv1 = runs[name].conv1
        of_runs[f"{name}/curve/change"] = conv1[:, 1:] - conv1[:, :1]
        for criterion in CRITERIA:
            arrays |= trained.fits(arrays, name, criterion)
            found = trained.measured(arrays)[name].fit("change", criterion)
            fitted = found.profile[:, 1:]
            of_runs[f"{name}/curve/{criterion}"] = theory.filters_with_profile(
                fitted, spectrum
            )
    key = jax.random.fold_in(jax.random.key(settings.seed), 2)
    random = np.asarray(jax.random.normal(key, (BANKS, *shape)), np.float64)
    learnt = {
        curve: of_runs[f"base/curve/{curve}"][:, -1] for curve in ("change", *CRITERIA)
    }
    banks = learnt | {
        "random": random,
        "weights": runs["base"].conv1[:, -1],
        "whitening": theory.filters_with_profile(
            theory.whitening_profile(spectrum.variance), spectrum
        )[None],
    }
    arrays |= {"distances": np.array(distances)}
    for convention, (images, center) in conventions(data).items():
        moments = theory.cross_moments(images, shape[:2], distances, center=center)
        pixels = theory.cross_moments(images, 1, distances, center=center)
        rgb = np.eye(shape[2])[None, None, None]
        arrays |= {
            f"{convention}/{name}": np.asarray(theory.autocorrelation(bank, moments))
            for name, bank in banks.items()
        }
        arrays[f"{convention}/rgb"] = np.asarray(theory.autocorrelation(rgb, pixels))
        if convention == OURS:
            arrays |= {
                name: np.asarray(theory.autocorrelation(bank, moments))
                for name, bank in of_runs.items()
            }
            of_curves = {"rgb": (rgb, pixels)} | {
                name: (banks[name], moments) for name in CURVES if name != "rgb"
            }
            arrays |= further(images, of_curves, settings.largest_distance)
    # Equal but for rounding, which depends on how many filter banks are taken at once:
    # so that each is one number.
    arrays |= {
        f"{OURS}/{curve}": arrays[f"base/curve/{curve}"][:, -1] for curve in learnt
    }
    return arrays


def summary(arrays: Arrays) -> dict[str, Any]:
    """The curves at some distances, for each convention; and the checks, by ours."""
    distances = arrays["distances"]
    shown = [int(distance) for distance in SHOWN if distance in distances]
    titles, runs = trained.titles(arrays), trained.measured(arrays)

    def result(
        curve: str, convention: str, values: np.ndarray, paper: str | None = None
    ) -> dict[str, Any]:
        reached = [distance for distance in shown if distance < values.shape[1]]
        columns = values[:, reached].T
        found = {
            "curve": curve,
            "convention": convention,
            "distances": reached,
            "paper": paper,
        }
        return found | {"autocorrelation": [frame.spread(column) for column in columns]}

    results = [
        result(
            title,
            convention,
            arrays[f"{convention}/{name}"],
            PAPER.get(name) if convention == OURS else None,
        )
        for convention in conventions_in(arrays)
        for name, title in TITLES.items()
    ]
    results += [
        result(
            f"{TITLES[curve]}, {titles[run]}",
            OURS,
            runs[run][f"curve/{curve}"][:, -1],
        )
        for run in titles
        if run != "base"
        for curve in ("change", *CRITERIA)
    ]
    results += [
        result(TITLES[curve], convention, values)
        for key, values in arrays.items()
        if key.startswith("further/")
        for _, convention, curve in [key.split("/")]
    ]
    mean = {name: arrays[f"{OURS}/{name}"].mean(axis=0) for name in TITLES}
    far = distances >= FAR
    learnt = np.maximum(mean["change"], mean["weights"])
    checks = [
        frame.check(
            f"RGB and random filters: largest difference from {FAR} pixels on",
            np.abs(mean["rgb"] - mean["random"])[far].max(),
            at_most=ALIKE,
        ),
        frame.check(
            f"random filters above the trained layer: smallest difference from {FAR}"
            " pixels on",
            (mean["random"] - learnt)[far].min(),
            above=0,
        ),
        frame.check(
            f"trained layer above whitening: smallest difference from {FAR} pixels on",
            (np.minimum(mean["change"], mean["weights"]) - mean["whitening"])[
                far
            ].min(),
            above=0,
        ),
    ]
    if PAPER_DISTANCE in distances:
        checks += [
            frame.check(
                f"{TITLES[name]}, at {PAPER_DISTANCE} pixels",
                mean[name][distances == PAPER_DISTANCE][0],
                paper=text,
                shown=frame.number(
                    frame.spread(
                        arrays[f"{OURS}/{name}"][:, distances == PAPER_DISTANCE]
                    )
                ),
                group=f"{TITLES[name]}, at {PAPER_DISTANCE} pixels",
            )
            for name, text in PAPER.items()
        ]
    courses: list[dict[str, Any]] = [
        {
            "run": titles[name],
            "epochs": runs[name].epochs[1:].tolist(),
            "training_accuracy": frame.finite(runs[name].accuracy[:, 1:].mean(axis=0)),
            "times_as_good": {"correlation_within": AS_GOOD} | as_good(*unfitted),
        }
        for name, unfitted in at_times(arrays).items()
    ]
    for criterion in CRITERIA:
        times = by_time(arrays, criterion)
        for (name, difference), row in zip(
            differences(arrays, criterion).items(), courses, strict=True
        ):
            largest, error = course(difference)
            title = (
                f"{TITLES[criterion]} against the trained change: largest difference,"
                f" {titles[name]}"
            )
            checks.append(
                frame.check(
                    title,
                    largest[-1],
                    at_most=CLOSE,
                    group=f"{TITLES[criterion]} against the trained change",
                    written="after" if criterion == "likelihood" else "before",
                )
            )
            row[criterion] = {
                "median_time_times_first_variance": frame.finite(
                    np.median(times[name][0], axis=0)
                ),
                "largest_difference": frame.finite(largest),
                "standard_error": frame.finite(error),
            }
    return trained.summarize(arrays, results, checks) | {
        "closed_form_over_training": courses
    }


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "convention": [row["convention"] for row in rows],
        "autocorrelation of": [row["curve"] for row in rows],
    }
    for index, distance in enumerate(rows[0]["distances"]):
        columns[f"at {distance}"] = [
            frame.number(row["autocorrelation"][index])
            if distance in row["distances"]
            else ""
            for row in rows
        ]
    columns[f"paper, at {PAPER_DISTANCE}"] = [row["paper"] or "" for row in rows]
    note = (
        "at so many pixels; ± standard deviation over networks, or over banks of random"
        " filters. The paper's figure does not say how it was centred, and no"
        " convention here gives all of its values at once"
    )
    return frame.Table(columns, note)
