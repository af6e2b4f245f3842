"""The first layer of a real network, predicted from the network before its training
(ours; docs/prediction.md).

    python -m experiments prediction
    python -m experiments prediction --preset paper

The curvature of the loss in the weights of conv1, measured on networks that have not
been trained, and the training's own time give the energy profile of the change of conv1
with nothing fitted: the expected profile of the linearised first layer whose labels are
drawn from the network. It is held against networks that are then really trained: other
numbers of images, batches and learning rates, with dropout, on shuffled labels, on a
pair of classes, with other numbers of filters, and of other kinds. Beside it stand
profiles with a fitted time: the paper's formula, and that of the patch moments of the
filters, which is what the curvature is where what flows back to conv1 is white over
locations. Trained networks are kept in <out>/runs and shared with the other
experiments; a run that was killed continues.

Writes <out>/prediction/<dataset>/{config.json, arrays.npz, summary.json, and
prediction, prediction_curvature and prediction_amplitude, each .png and .pdf}.
"""

from typing import Any

import numpy as np

import theory
from experiments import frame, trained
from experiments.beyond.prediction import forms, start
from experiments.beyond.prediction.figures import draw
from experiments.beyond.prediction.settings import (
    NAME,
    OWN_TIME,
    Settings,
    resolve,
    runs,
)
from experiments.beyond.prediction.verdicts import checks, results
from experiments.frame import Arrays

# Runs of which more is asked; the others begin as these do.
ABLATED = ("base", "dropout", "filters", "pair", "other", "small")
CONTROLLED = ("base", "other")
# What flows back, and patch moments of other images and gates, are known well enough
# from so many.
SOME_IMAGES = 500
# Of a fit, as arrays have them and as `theory.ProfileFit` does.
PARTS = {"correlation": "correlation", "log_ratio": "log_ratio_std", "time": "time"}


def main(settings: Settings) -> None:
    """Ours: the first layer predicted from the network before its training."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """The runs of `settings.runs` with what `trained.measure`, `start.of_runs` and
    `start.signals` give, and for each "<name>/" and, at the R - 1 records after the
    first:

      "moved" (S, R - 1, K), the squared change of each filter; "cosine" (S, R - 1), of
      the change and the linearised one; "correlation" (S, R - 1, G) and "log_ratio"
      (S, R - 1), of the predicted profile; "noisy_correlation" (S, R - 1), with the
      noise of the steps added; "blocks_correlation" and "blocks_log_ratio"
      (S, R - 1); for forms.FITTED "<form>/correlation", "log_ratio" and "time" (S, R -
      1); and for all others "<form>/last" (S,), the correlation at the last record.
    """
    named = runs(settings)
    data = trained.load_all(named, settings.data_dir)
    arrays = trained.measure(named, data, settings)
    measured = trained.measured(arrays)
    print("what the start of each run predicts", flush=True)
    for name, found in start.of_runs(named, data, measured, settings):
        run, count = measured[name], len(data[name].labels)
        found |= start.signals(named[name], data[name], SOME_IMAGES)
        found["blocks"] = start.by_moments(found, count, run.components)
        found["one_number"] = start.by_trace(found, count, run.variance)
        found |= compared(run, found)
        found |= fitted(
            named[name],
            data[name],
            run,
            found,
            parts=name.split()[0] in ABLATED,
            controls=name in CONTROLLED,
        )
        for large in ("kernel", "moments"):  # and not looked at again
            del found[large]
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    return arrays


def compared(run: trained.MeasuredRun, found: Arrays) -> Arrays:
    """What was predicted against what was trained."""
    change, profile = run.conv1[:, 1:] - run.conv1[:, :1], run.change[:, 1:]
    filters = np.moveaxis(change.reshape(*change.shape[:2], -1, change.shape[-1]), 2, 3)
    linearised = found.pop("linearised")
    product = np.einsum("srkd,srkd->sr", filters, linearised)
    lengths = [np.einsum("srkd,srkd->sr", w, w) for w in (filters, linearised)]
    own = found["predicted"][:, :, OWN_TIME]
    return {
        "moved": np.einsum("srkd,srkd->srk", filters, filters),
        "cosine": product / np.sqrt(lengths[0] * lengths[1]),
        "correlation": np.asarray(
            theory.profile_correlation(found["predicted"], profile[:, :, None])
        ),
        "log_ratio": np.asarray(theory.log_ratio_std(profile, own)),
        # Of the curvature of another network of the run.
        "other_correlation": np.asarray(
            theory.profile_correlation(np.roll(own, 1, axis=0), profile)
        ),
        "one_number_correlation": np.asarray(
            theory.profile_correlation(found["one_number"], profile)
        ),
        "noisy_correlation": np.asarray(
            theory.profile_correlation(np.hypot(own, found["noise"]), profile)
        ),
        "blocks_correlation": np.asarray(
            theory.profile_correlation(found["blocks"], profile)
        ),
        "blocks_log_ratio": np.asarray(theory.log_ratio_std(profile, found["blocks"])),
    }


def fitted(
    run: trained.Run,
    data: trained.Data,
    measured: trained.MeasuredRun,
    found: Arrays,
    *,
    parts: bool,
    controls: bool,
) -> Arrays:
    """The forms with their time fitted to each network.

    Args:
      parts, controls: whether to fit the ABLATIONS, and the CONTROLS.
    """
    images = data.images[trained.chosen(data, SOME_IMAGES)]
    padded = forms.moment_with_padding(images)
    other_images = forms.other_images(images, data) if controls else {}
    spectrum = measured.variance, measured.components
    results: dict[str, list[Any]] = {}
    for index, moments in enumerate(found["moments"]):
        profile, filters = measured.change[index, 1:], measured.conv1[index, 0]
        made = forms.families(padded, moments, *spectrum)
        known = {
            f"{name}/{part}": getattr(fit, field)
            for name, family in made.items()
            for fit in [theory.fit_profile(profile, family)]
            for part, field in PARTS.items()
        }
        known_network = filters, run.network
        others = forms.controls(other_images, *known_network, measured.components)
        if parts:
            others |= forms.ablations(
                images, *known_network, padded, moments, measured.components
            )
        known |= {
            f"{name}/last": theory.fit_profile(profile[-1], family).correlation
            for name, family in others.items()
        }
        for name, value in known.items():
            results.setdefault(name, []).append(np.asarray(value))
    return {name: np.stack(values) for name, values in results.items()}


def summary(arrays: Arrays) -> dict[str, Any]:
    """How well each form agrees with the trained networks, and the checks."""
    measured = trained.measured(arrays)
    found = trained.summarize(
        arrays, results(measured), checks(measured), trained_to_the_end=False
    )
    return found | {"differs_from_paper": []}  # which has nothing of the kind


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "trained": [row["run"] for row in rows],
        "epoch": [str(row["epoch"]) for row in rows],
        "nothing fitted": [frame.number(row["predicted"]) for row in rows],
        "time": [f"{row['best_multiples'][-1]:.2g}" for row in rows],
        "formula": [frame.number(row["one_number"]) for row in rows],
        "formula, fitted": [frame.number(row[forms.LAMBDA]) for row in rows],
        "moments, fitted": [frame.number(row[forms.MOMENTS]) for row in rows],
        "networks": [frame.number(row["ceiling"]) for row in rows],
        "size": [frame.number(row["size"]) for row in rows],
    }
    note = (
        "correlation of the profile of the change w(t) - w(0) with each form, ±"
        " standard deviation over networks; nothing fitted: the curvature at the start"
        " at the training's own time; time: the multiple of that time at which it would"
        " agree best; formula: the paper's, its time taken from the trace of the"
        " curvature, or fitted; moments: of the patches that reach each filter, their"
        " time fitted; networks: trained ones with one another; size: root mean square"
        " change, predicted over measured"
    )
    return frame.Table(columns, note)
