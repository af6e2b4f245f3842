"""The first layer of a real network, predicted some steps into its training (ours;
docs/prediction.md).

    python -m experiments later
    python -m experiments later --preset smoke
    python -m experiments later --network VGG11 --epochs 20

Of ResNet18 the curvature before training says a wrong time: it falls at once when
training begins. Here it is measured after several numbers of steps, and each predicts
the rest of the change, w(T) - w(k), at the training's own time and at others.

Networks are kept in <out>/runs/later as they are finished; killed and started again,
the experiment continues with the others.

Writes <out>/later/<dataset>/{config.json, arrays.npz, summary.json, later.png, .pdf}.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import linear_cnn
import theory
from experiments import frame, trained
from experiments.frame import Arrays, disk, figures
from experiments.trained import KERNEL_SIZE

NAME = "later"
# Of the training's own time; the middle one is 1.
MULTIPLES = np.geomspace(1 / 100, 100, 41)
OWN_TIME = len(MULTIPLES) // 2
# To be raised by a change of the code after which the same settings give other arrays.
FORMAT = 1
# All bounds stood here before the first network of these seeds was trained; one of
# another seed had been seen (.68, .89 and .97; multiples .13 and .4; trace .32).
BEFORE = 0.8  # largest correlation at the own time, from the curvature before training
GAIN = 0.1  # of the last but one number of steps over it
REST = 0.95  # smallest correlation after the last number of steps, as of VGG11
SHAPE = 0.97  # and at the best time
TIMES = (0.3, 0.7)  # largest best multiples, after the last two numbers of steps
FALLEN = 0.5  # trace of the curvature over that before training


@dataclass(frozen=True)
class Settings(trained.Settings):
    """The first layer predicted some steps into the training (ours)."""

    network: trained.NetworkName = "ResNet18"
    # Neither this root of seeds nor its networks were used in the pilot.
    seed: int = 3209
    seeds: int = 2
    dropout: float = 0.0
    epochs: int = 10
    validation: int = 0
    after: tuple[int, ...] = (0, 8, 31, 125, 375)
    """Steps after which the curvature is measured."""
    curvature_images: int = 500
    """Of the training images so many, evenly spaced over the classes, are what the
    curvature is measured on."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE
        | {"images": 128, "validation": 0, "hold_out": None, "seeds": 2}
        | {"batch_size": 16},
        after=(0, 3, 8),
        curvature_images=64,
    ),
    "cpu": Settings(),
    "paper": Settings(
        **trained.PAPER_SIZE | {"width": 0.25, "validation": 0, "network": "ResNet18"}
    ),
}


def resolve(given: Settings) -> Settings:
    """The settings, checked.

    Raises:
      ValueError: one that cannot work.
    """
    given = trained.check(given)
    frame.check_at_least(given, {"curvature_images": 2})
    last = given.epochs * (given.images // given.batch_size)
    increasing = list(given.after) == sorted(set(given.after))
    if (
        len(given.after) < 3
        or not increasing
        or given.after[0]
        or given.after[-1] >= last
    ):
        raise ValueError(
            "--after must be 0 and at least two larger numbers of steps, increasing and"
            f" less than the {last:,} of the training, got {given.after}."
        )
    return given


def main(settings: Settings) -> None:
    """Ours: the first layer predicted some steps into the training."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """ "run/config", and with a leading axis of networks what `measured` returns."""
    run = trained.base_run(settings)
    data = trained.load_all({NAME: run}, settings.data_dir)[NAME]
    found = []
    for index in range(run.seeds):
        print(f"network {index + 1} of {run.seeds}", flush=True)
        found.append(_kept(run, data, index, settings))
    stacked = {f"run/{key}": np.stack([one[key] for one in found]) for key in found[0]}
    return stacked | {"run/config": np.array(disk.json_text(dataclasses.asdict(run)))}


def _kept(
    run: trained.Run, data: trained.Data, index: int, settings: Settings
) -> Arrays:
    """`measured` of one network, from its file if there is one."""
    content = dataclasses.asdict(run) | {
        "format": FORMAT,
        "index": index,
        "checksum": data.checksum,
        "after": settings.after,
        "multiples": MULTIPLES.tolist(),
        "curvature_images": settings.curvature_images,
    }
    del content["seeds"]
    return trained.kept(
        settings.store,
        NAME,
        content,
        lambda: measured(run, data, index, settings),
        fresh=settings.fresh,
    )


def measured(
    run: trained.Run, data: trained.Data, index: int, settings: Settings
) -> Arrays:
    """One network, A times along its training.

    Returns:
      "after" (A,), steps; "ends" (R,), the records' steps; "accuracy" (R,) at them;
      "profile" (A, R, d) of w(end) - w(after), NaN where that is no change, and
      "predicted" (A, R, G, d) at MULTIPLES of the time between; "trace" and
      "participation" (A,) of the curvature, its sum of eigenvalues and the share of
      directions that it has.
    """
    ends = np.array(run.record_epochs) * (len(data.labels) // run.batch_size)
    after = np.array(settings.after)
    steps = np.unique(np.concatenate([after, ends]))
    trajectory, networks = trained.followed(run, data, index, steps, after)
    conv1 = np.asarray(trajectory.conv1, np.float64)
    at = {int(step): conv1[place] for place, step in enumerate(trajectory.steps)}
    components = np.asarray(theory.patch_spectrum(data.images, KERNEL_SIZE).components)
    some = trained.chosen(data, settings.curvature_images)
    shape = (len(after), len(ends))
    profile = np.full((*shape, len(components)), np.nan)
    predicted = np.full((*shape, len(MULTIPLES), len(components)), np.nan)
    trace, participation = np.empty((2, len(after)))
    for place, (start, network) in enumerate(zip(after, networks, strict=True)):
        curvature = np.asarray(
            linear_cnn.tangent_moments(
                network,
                data.images[some],
                data.labels[some],
                loss="cross_entropy",
                bias=False,
            ).curvature,
            np.float64,
        )
        # Gradient flow, in which only the product of rate and steps counts.
        still = np.zeros(curvature.shape[:2])
        dynamics = theory.quadratic_descent(curvature, still, 1.0, continuous=True)
        trace[place] = np.einsum("kaka->", curvature)
        participation[place] = trace[place] ** 2 / (curvature**2).sum() / still.size
        left = ends > start
        profile[place, left] = theory.energy_profile(
            np.stack([at[int(end)] - at[int(start)] for end in ends[left]]), components
        )
        times = run.learning_rate * (ends[left] - start)
        predicted[place, left] = dynamics.expected_profile(
            times[:, None] * MULTIPLES, components, count=len(data.labels)
        )
    return {
        "after": after,
        "ends": ends,
        "accuracy": np.asarray(trajectory.accuracy)[np.isin(trajectory.steps, ends)],
        "profile": profile,
        "predicted": predicted,
        "trace": trace,
        "participation": participation,
    }


def correlations(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of what was predicted with what was trained, (S, A, R, G); NaN where nothing is
    left."""
    predicted, profile = arrays["run/predicted"], arrays["run/profile"]
    left = ~np.isnan(profile[..., 0])
    found = np.full(predicted.shape[:-1], np.nan)
    found[left] = theory.profile_correlation(predicted[left], profile[left][:, None])
    return found


def best_multiples(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of the own time, at the end of training, geometric means over networks, (A,)."""
    best = correlations(arrays)[:, :, -1].argmax(axis=-1)
    return np.asarray(np.exp(np.log(MULTIPLES)[best].mean(axis=0)))


def fall(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Trace of the curvature over that before training, (S, A)."""
    trace = arrays["run/trace"]
    return np.asarray(trace / trace[:, :1])


def summary(arrays: Arrays) -> dict[str, Any]:
    """What each curvature predicts of the rest, at the end of training; the checks."""
    end = correlations(arrays)[:, :, -1]
    trace, multiples = fall(arrays), best_multiples(arrays)
    rows = [
        {
            "after": int(steps),
            "trace": frame.spread(trace[:, place]),
            "participation": frame.spread(arrays["run/participation"][:, place]),
            "own": frame.spread(end[:, place, OWN_TIME]),
            "best": frame.spread(end[:, place].max(axis=-1)),
            "multiple": float(multiples[place]),
        }
        for place, steps in enumerate(arrays["run/after"][0])
    ]
    return {"results": rows, "checks": checks(arrays)}


def checks(arrays: Mapping[str, np.ndarray]) -> list[frame.Check]:
    """All checks."""
    whole = correlations(arrays)
    own = whole[..., OWN_TIME]
    end = own[:, :, -1].mean(axis=0)
    best = whole[:, :, -1].max(axis=-1).mean(axis=0)
    trace = fall(arrays).mean(axis=0)
    multiples = best_multiples(arrays)
    *_, some, many = arrays["run/after"][0]
    lowest = np.nanmin(own[:, -1].mean(axis=0))
    text = "at its own time, at the end"
    return [
        frame.check(
            f"curvature before training {text}, correlation", end[0], at_most=BEFORE
        ),
        frame.check(
            f"curvature after {some} steps over it, {text}, correlation",
            end[-2] - end[0],
            at_least=GAIN,
        ),
        frame.check(
            f"curvature after {many} steps at its own time, lowest of all records",
            lowest,
            at_least=REST,
        ),
        frame.check(
            "all of them at their best times, lowest at the end",
            best.min(),
            at_least=SHAPE,
        ),
        *(
            frame.check(
                f"best multiple of the time after {steps} steps", value, at_most=bound
            )
            for steps, value, bound in zip(
                (some, many), multiples[-2:], TIMES, strict=True
            )
        ),
        frame.check(
            f"trace of the curvature after {some} steps over that before training",
            trace[-2],
            at_most=FALLEN,
        ),
    ]


def table(summary: Mapping[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "curvature after steps": [str(row["after"]) for row in rows],
        "trace": [frame.number(row["trace"]) for row in rows],
        "directions": [frame.number(row["participation"]) for row in rows],
        "own time": [frame.number(row["own"]) for row in rows],
        "best time": [frame.number(row["best"]) for row in rows],
        "multiple": [f"{row['multiple']:.2g}" for row in rows],
    }
    note = (
        "of the rest of the change at the end of training; ± standard deviation over"
        " networks; trace: over that before training; directions: the share of them"
        " that the curvature has; own time, best time: correlation of the predicted"
        " profile with the trained one; multiple: the best time over the own one"
    )
    return frame.Table(columns, note)


def draw(folder: Path, arrays: Arrays) -> None:
    """Correlations over training at the own time, and over the time at the end."""
    whole = correlations(arrays)
    run = trained.measured(arrays)["run"]
    epochs = np.array(run.config["record_epochs"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for place, steps in enumerate(run["after"][0]):
        colour, label = figures.COLOURS[place % 7], f"after {steps} steps"
        figures.band(
            left, epochs, whole[:, place, :, OWN_TIME], colour, label=label, marker="o"
        )
        figures.band(right, MULTIPLES, whole[:, place, -1], colour, label=label)
    left.set(title="at the training's own time", ylabel="correlation with the rest")
    figures.epoch_axis(left, int(epochs[-1]))
    right.axvline(1, color="grey", linewidth=0.8)
    right.set(
        title="at the end of training, at other times",
        xlabel="multiple of the training's own time",
        ylabel="correlation with the rest",
        xscale="log",
        ylim=(0.5, 1.01),
    )
    right.legend(fontsize=8, title="curvature", title_fontsize=8)
    figures.save(figure, folder, NAME)
