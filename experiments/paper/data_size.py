"""The paper's number of images against few: what of its first layer depends on them
(paper, Tables 1 to 3, Fig. 6).

    python -m experiments data_size --preset paper
    python -m experiments data_size --preset paper --shuffled-epochs 0

The other experiments train on 2,000 images at the preset cpu; the paper has 50,000.
Here networks of the same width are trained on both, each number of images with the
batch size and epochs of its preset, and what the paper says of the first layer's
change, w(t) - w(0), is measured on both in the same way: the formula of Theorem 4.2
fitted by correlation and by likelihood, true against shuffled labels, across seeds,
against the filters' own beginning, and the autocorrelation of the responses. Patches
are those of the images that a network was trained on. Trained networks are kept in
<out>/runs and shared with the other experiments.

Writes <out>/data_size/<dataset>/{config.json, arrays.npz, summary.json, data_size.png,
data_size.pdf}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import theory
from experiments import frame, trained
from experiments.frame import Arrays, Preset, figures

NAME = "data_size"
FIT = 0.93  # smallest mean correlation with the formula, by either criterion
LABELS = 0.9  # and of true with shuffled labels
DISTANCES = (0, 1, 2, 5, 10, 15)  # pixels
FAR = 10  # the distance that the paper's figure is read at
CRITERIA: tuple[trained.Criterion, ...] = ("correlation", "likelihood")
# Rows of the table, and what the paper has for them, for CIFAR-10.
MEASURES: dict[str, tuple[str, tuple[float, ...] | str | None]] = {
    "formula/correlation": (
        "true labels against the formula, time by correlation",
        trained.REPORTED["formula"],
    ),
    "formula/likelihood": (
        "true labels against the formula, time by likelihood",
        None,
    ),
    "seeds": ("across seeds, true labels", trained.REPORTED["seeds"]),
    "initial": (
        "true labels against their own initial filters",
        trained.REPORTED["initial"],
    ),
    "far/pixels": (f"autocorrelation of RGB pixels at {FAR} pixels", "> 0.5"),
    "far/change": (
        f"autocorrelation of the change, true labels, at {FAR} pixels",
        "about 0.2",
    ),
    "labels": ("true against shuffled labels", trained.REPORTED["labels"]),
    "shuffled formula/correlation": (
        "shuffled labels against the formula, time by correlation",
        None,
    ),
    "shuffled formula/likelihood": (
        "shuffled labels against the formula, time by likelihood",
        None,
    ),
    "shuffled seeds": ("across seeds, shuffled labels", None),
    "shuffled initial": (
        "shuffled labels against their own initial filters",
        trained.REPORTED["shuffled initial"],
    ),
}


@dataclass(frozen=True)
class Settings(trained.Settings):
    """The paper's number of images against few (paper, Tables 1 to 3, Fig. 6)."""

    shuffled_epochs: int = 60
    """Of the training on shuffled labels; 0: true labels alone."""


PRESETS = {
    "smoke": Settings(**trained.SMOKE | {"images": 320}, shuffled_epochs=4),
    "cpu": Settings(images=8_000, batch_size=64, epochs=30, seeds=2),
    "paper": Settings(
        **trained.PAPER_SIZE | {"width": 0.25}, seeds=2, shuffled_epochs=100
    ),
}
# Whose networks stand beside them, on few images: of these settings those in SIZES.
FEW: dict[Preset, Settings] = {
    "smoke": replace(PRESETS["smoke"], images=160),
    "cpu": Settings(shuffled_epochs=90),
    "paper": Settings(shuffled_epochs=90),
}
SIZES = ("images", "validation", "batch_size", "epochs", "seeds", "shuffled_epochs")


def resolve(settings: Settings) -> Settings:
    """`trained.check`; and these images must be more than the few."""
    # Epochs of 0 have a meaning here.
    least = replace(settings, shuffled_epochs=settings.shuffled_epochs or 1)
    given = replace(trained.check(least), shuffled_epochs=settings.shuffled_epochs)
    few = FEW[given.preset].images
    if given.images <= few:
        raise ValueError(
            f"--images must be more than the {few:,} that stand beside them, got"
            f" {given.images:,}."
        )
    return given


def main(settings: Settings) -> None:
    """The first layer at the paper's number of images, against few images."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """Runs with their profiles and fits, "few/true", "many/true" and, unless left out,
    "few/shuffled" and "many/shuffled"; "distances" (D,); and of the runs on true labels
    the autocorrelation of the pixels, "<run>/curve/pixels" (1, D), and of the change at
    the end of training, "<run>/curve/change" (S, D)."""
    changes = {name: getattr(FEW[settings.preset], name) for name in SIZES}
    sizes = {"few": replace(settings, **changes), "many": settings}
    named = {}
    for size, of_size in sizes.items():
        named[f"{size}/true"] = trained.base_run(of_size)
        if settings.shuffled_epochs:
            named[f"{size}/shuffled"] = trained.shuffled_run(
                of_size, of_size.shuffled_epochs
            )
    data = trained.load_all(named, settings.data_dir)
    # Are the images that large?
    theory.cross_moments(data["few/true"].images[:1], trained.KERNEL_SIZE, DISTANCES)
    arrays = trained.measure(named, data, settings)
    for name in named:
        for criterion in CRITERIA:
            arrays |= trained.fits(arrays, name, criterion)
    for size in sizes:
        name = f"{size}/true"
        conv1 = trained.measured(arrays)[name].conv1
        moments = theory.cross_moments(data[name].images, conv1.shape[2:4], DISTANCES)
        pixels = theory.cross_moments(data[name].images, 1, DISTANCES)
        rgb = np.eye(conv1.shape[4])[None, None, None]
        curves = {
            "change": theory.autocorrelation(conv1[:, -1] - conv1[:, 0], moments),
            "pixels": theory.autocorrelation(rgb, pixels),
        }
        arrays |= {
            f"{name}/curve/{curve}": np.asarray(found)
            for curve, found in curves.items()
        }
    return arrays | {"distances": np.array(DISTANCES)}


def measures(arrays: Arrays, size: str) -> dict[str, np.ndarray]:
    """What MEASURES names, of "few" or "many": over networks, or pairs of them, at the
    end of training."""
    runs = trained.measured(arrays)
    true, shuffled = runs[f"{size}/true"], runs.get(f"{size}/shuffled")
    far = list(arrays["distances"]).index(FAR)
    found = {
        f"far/{curve}": true[f"curve/{curve}"][:, far] for curve in ("pixels", "change")
    }
    for prefix, run in (("", true), ("shuffled ", shuffled)):
        if run is None:
            continue
        for criterion in CRITERIA:
            fitted = run.fit("change", criterion).correlation[:, -1]
            found[f"{prefix}formula/{criterion}"] = fitted
        found[f"{prefix}seeds"] = trained.correlations(run, run)[1][:, -1]
        found[f"{prefix}initial"] = trained.to_initial(run)[:, -1]
    if shuffled is not None:
        found["labels"] = trained.correlations(true, shuffled)[1][:, -1]
    return found


def _images(arrays: Arrays) -> dict[str, str]:
    """Both numbers of images in words."""
    runs = trained.measured(arrays)
    return {
        size: f"{runs[f'{size}/true'].config['images']:,} images"
        for size in ("few", "many")
    }


def summary(arrays: Arrays) -> dict[str, Any]:
    """Both numbers of images side by side; the checks are about the larger."""
    few, many = measures(arrays, "few"), measures(arrays, "many")
    words = _images(arrays)
    cifar10 = trained.measured(arrays)["many/true"].config["dataset"] == "cifar10"
    results = [
        {
            "measure": title,
            "few": frame.spread(few[row]),
            "many": frame.spread(many[row]),
            "paper": paper if cifar10 else None,
        }
        for row, (title, paper) in MEASURES.items()
        if row in many
    ]
    bounds = {
        "formula/correlation": FIT,
        "formula/likelihood": FIT,
        "shuffled formula/correlation": FIT,
        "shuffled formula/likelihood": FIT,
        "labels": LABELS,
    }
    checks = [
        frame.check(
            f"{title}, {words['many']}",
            many[row].mean(),
            paper=_paper(paper if cifar10 else None),
            at_least=bounds.get(row),
        )
        for row, (title, paper) in MEASURES.items()
        if row in many
    ]
    return trained.summarize(arrays, results, checks) | {"images": words}


def _paper(number: tuple[float, ...] | str | None) -> str:
    return number if isinstance(number, str) else frame.paper_number(number)


def draw(folder: Path, arrays: Arrays) -> None:
    """Left: the profiles. Middle: how their correlation with the fitted formula
    develops. Right: autocorrelation of the responses, true labels."""
    runs, words = trained.measured(arrays), _images(arrays)
    titles = {
        name: f"{words[name.split('/')[0]]}, {name.split('/')[1]} labels"
        for name in runs
    }
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 5))
    figures.profiles_and_initial(left, {titles[name]: runs[name] for name in runs})
    fitted = {
        titles[name]: (run.epochs, run.fit("change").correlation)
        for name, run in runs.items()
    }
    figures.courses_of_training(middle, fitted)
    lowest = min(float(np.nanmin(values)) for _, values in fitted.values())
    middle.set(
        title="Correlation with the fitted formula (± s.d.)",
        ylim=(min(0.9, np.floor(10 * lowest) / 10), 1.005),
    )
    styles = {"change": "-", "pixels": ":"}
    called = {"change": "change of the first layer", "pixels": "RGB pixels"}
    for (size, images), colour in zip(words.items(), figures.COLOURS, strict=False):
        for curve, style in styles.items():
            figures.band(
                right,
                arrays["distances"],
                arrays[f"{size}/true/curve/{curve}"],
                colour,
                linestyle=style,
                label=f"{called[curve]}, {images}",
            )
    right.set(
        title="Autocorrelation, true labels",
        xlabel="distance in pixels",
        ylabel="correlation",
        ylim=(0, 1.02),
    )
    figures.legend_below(right)
    figures.save(figure, folder, NAME)


def table(summary: Mapping[str, Any]) -> frame.Table:
    """Few images, many, and the paper side by side."""
    rows, words = summary["results"], summary["images"]
    columns = {"correlation": [row["measure"] for row in rows]}
    columns |= {
        words[size]: [frame.number(row[size]) for row in rows]
        for size in ("few", "many")
    }
    columns["paper"] = [_paper(row["paper"]) for row in rows]
    note = (
        "of the change w(t) - w(0) at the end of training; ± standard deviation over"
        " networks, or over pairs of them"
    )
    return frame.Table(columns, note)
