"""The results in numbers, and the checks."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

import theory
from experiments import frame, trained
from experiments.beyond.prediction import forms
from experiments.beyond.prediction.settings import MULTIPLES, OWN_TIME

Runs = Mapping[str, trained.MeasuredRun]

SHAPE = 0.97  # smallest correlation with nothing fitted
SHAPE_EPOCHS = (2, 10)
BEYOND_FROM = 3  # from this epoch on above the formula with its time fitted
MULTIPLE = (0.5, 2.0)  # of the training's own time, at which the correlation is best
MULTIPLE_FROM = 5
COSINE = 0.99  # of blocks of the curvature and patch moments, median of the filters
TRACES = {"base": 0.98, "other": 0.93}  # correlation of log traces
MOVED = {"base": 0.65, "other": 0.55}  # of log squared change and log trace of moments
GAIN = 0.005  # of the patch moments over the paper's formula, times fitted
WHITE = 1.5  # largest whiteness where patch moments are the curvature
WITH_BATCH_NORM = ("base", "dropout", "filters", "pair", "other")


def sizes(measured: Runs) -> list[str]:
    """Runs that differ in the number of images alone, in its order."""
    names = [name for name in measured if name.split()[0] in ("base", "images")]
    return sorted(names, key=lambda name: int(measured[name].config["images"]))


def titles(measured: Runs) -> dict[str, str]:
    """What is trained, or how it differs from the first run, by the runs' names."""
    return {
        name: trained.difference(name, run.config) for name, run in measured.items()
    }


def results(measured: Runs) -> list[dict[str, Any]]:
    """For each run, at its last record, how each form agrees with it."""
    words = titles(measured)
    rows = []
    for name, run in measured.items():
        last = {
            "predicted": own(run)[:, -1],
            "blocks": run["blocks_correlation"][:, -1],
            "one_number": run["one_number_correlation"][:, -1],
            "of_another": run["other_correlation"][:, -1],
            "with_noise": run["noisy_correlation"][:, -1],
            "ceiling": trained.correlations(run, run)[1][:, -1],
            "size": size(run)[:, -1],
            "whiteness": run["whiteness"],
            "cosine": run["cosine"][:, -1],
            "drive_ratio": run["drive_ratio"],
            "border": run["border"],
            "neighbours": run["neighbours"],
            "trace": run["trace"],
        }
        last |= {form: last_correlation(run, form) for form in forms.FITTED}
        last |= {
            f"{form}, log ratio": run[f"{form}/log_ratio"][:, -1]
            for form in forms.FITTED
        }
        last |= {
            "predicted, log ratio": run["log_ratio"][:, -1],
            "blocks, log ratio": run["blocks_log_ratio"][:, -1],
        }
        others = (*forms.ABLATIONS, *forms.CONTROLS)
        last |= {
            form: last_correlation(run, form)
            for form in others
            if f"{form}/last" in run
        }
        courses = {
            "predicted": own(run),
            "lambda": run[f"{forms.LAMBDA}/correlation"],
            "moments": run[f"{forms.MOMENTS}/correlation"],
            "blocks": run["blocks_correlation"],
            "one_number": run["one_number_correlation"],
            "of_another": run["other_correlation"],
            "with_noise": run["noisy_correlation"],
            "size": size(run),
            "cosine": run["cosine"],
        }
        rows.append(
            {"run": words[name], "name": name, "epoch": int(run.epochs[-1])}
            | {key: frame.spread(values) for key, values in last.items()}
            | {
                "epochs": run.epochs[1:].tolist(),
                "courses": {
                    key: frame.finite(values.mean(axis=0))
                    for key, values in courses.items()
                },
                "best_multiples": frame.finite(best_multiples(run)),
            }
        )
    return rows


def own(run: trained.MeasuredRun) -> np.ndarray:
    """Correlation with the prediction at the training's own time, (S, R - 1)."""
    return run["correlation"][:, :, OWN_TIME]


def best_multiples(run: trained.MeasuredRun) -> np.ndarray:
    """The multiple of the training's own time at which the correlation, a mean over
    networks, is best, (R - 1,): the peak of a parabola through the best of MULTIPLES
    and its neighbours."""
    mean = run["correlation"].mean(axis=0)
    best = mean.argmax(axis=-1)
    inside = np.clip(best, 1, len(MULTIPLES) - 2)
    before, peak, after = (
        np.take_along_axis(mean, (inside + shift)[:, None], axis=-1)[:, 0]
        for shift in (-1, 0, 1)
    )
    shift = (before - after) / (2 * (before - 2 * peak + after))
    step = np.log(MULTIPLES[1] / MULTIPLES[0])
    at_an_end = best != inside
    return np.where(
        at_an_end, MULTIPLES[best], MULTIPLES[inside] * np.exp(shift * step)
    )


def last_correlation(run: trained.MeasuredRun, form: str) -> np.ndarray:
    """Of a form whose time is fitted, at the end of training, (S,)."""
    if form in forms.FITTED:
        return run[f"{form}/correlation"][:, -1]
    return run[f"{form}/last"]


def size(run: trained.MeasuredRun) -> np.ndarray:
    """Root mean square change of the weights, predicted over measured, (S, R - 1)."""
    predicted = (run["predicted"][:, :, OWN_TIME] ** 2).sum(axis=-1)
    return np.sqrt(predicted / (run.change[:, 1:] ** 2).sum(axis=-1))


def log_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation over filters of the logarithms, (S,)."""
    return np.asarray(theory.profile_correlation(np.log(a), np.log(b)))


def checks(measured: Runs) -> list[frame.Check]:
    """All checks."""
    return [*_curvature(measured), *_shape(measured), *_fitted(measured)]


def _curvature(measured: Runs) -> list[frame.Check]:
    found = []
    for name in ("base", "other"):
        run, kind = measured[name], trained.network(measured[name].config)
        cosine = np.median(run["cosines"], axis=-1).mean()
        traces = log_correlation(run["traces"], run["moment_traces"]).mean()
        moved = log_correlation(run["moved"][:, 0], run["moment_traces"]).mean()
        found += [
            frame.check(
                f"cosine of curvature and patch moments, {kind}",
                cosine,
                at_least=COSINE,
            ),
            frame.check(
                f"correlation of their log traces, {kind}",
                traces,
                at_least=TRACES[name],
            ),
            frame.check(
                "correlation of log change of single filters and log trace, after an"
                f" epoch, {kind}",
                moved,
                at_least=MOVED[name],
                group="log change of single filters and log trace of their moments",
            ),
        ]
    bounds: dict[str, dict[str, Any]] = {
        "base": {"at_most": WHITE},
        "other": {"at_most": WHITE},
        "small": {"above": WHITE},
    }
    words = titles(measured)
    return found + [
        frame.check(
            f"whiteness of what flows back, {words[name]}",
            measured[name]["whiteness"].mean(),
            **bound,
        )
        for name, bound in bounds.items()
    ]


def _shape(measured: Runs) -> list[frame.Check]:
    """The prediction with nothing fitted, and its time: of the runs that differ in the
    number of images as it was planned, of all others since a reviewer asked."""
    planned = sizes(measured)
    words = titles(measured) | {
        name: f"{measured[name].config['images']:,} images" for name in planned
    }
    others = [name for name in measured if name not in planned]
    return [
        check
        for name in (*planned, *others)
        for check in _shape_of(
            measured[name], words[name], "before" if name in planned else "after"
        )
    ]


def _shape_of(
    run: trained.MeasuredRun, title: str, written: Literal["before", "after"]
) -> list[frame.Check]:
    epochs = run.epochs[1:]
    predicted = own(run).mean(axis=0)
    over = predicted - run[f"{forms.LAMBDA}/correlation"].mean(axis=0)
    first, last = SHAPE_EPOCHS
    middle = (epochs >= first) & (epochs <= last)
    # Of a run that is too short, what it has.
    short = epochs == epochs[-1]
    middle = middle if epochs[-1] >= last else short
    later, late = (
        epochs >= begin if epochs[-1] >= begin else short
        for begin in (BEYOND_FROM, MULTIPLE_FROM)
    )
    best = best_multiples(run)[late]
    place = "" if written == "before" else ", other runs"

    def verdict(words: str, more: str, value: Any, begin: int, **bounds: Any) -> Any:
        return frame.check(
            f"{words}, {title}, {more}",
            value,
            reached=bool(epochs[-1] >= begin),
            written=written,
            group=words + place,
            **bounds,
        )

    time, since = "best multiple of the training's own time", f"epoch {MULTIPLE_FROM}"
    bounds = {"at_least": MULTIPLE[0], "at_most": MULTIPLE[1]}
    return [
        verdict(
            "shape with nothing fitted",
            f"lowest of epochs {first} to {last}",
            predicted[middle].min(),
            last,
            at_least=SHAPE,
        ),
        verdict(
            "nothing fitted over the formula with its time fitted",
            f"least from epoch {BEYOND_FROM}",
            over[later].min(),
            BEYOND_FROM,
            above=0.0,
        ),
        verdict(time, f"least from {since}", best.min(), MULTIPLE_FROM, **bounds),
        verdict(time, f"largest from {since}", best.max(), MULTIPLE_FROM, **bounds),
    ]


def _fitted(measured: Runs) -> list[frame.Check]:
    words = titles(measured)

    def last(run: trained.MeasuredRun, form: str) -> float:
        return float(last_correlation(run, form).mean())

    found = [
        frame.check(
            "gain of the patch moments over the formula, times fitted, "
            f"{words[name]}, epoch {run.epochs[-1]}",
            last(run, forms.MOMENTS) - last(run, forms.LAMBDA),
            at_least=GAIN,
        )
        for name, run in measured.items()
        if name.split()[0] in WITH_BATCH_NORM
    ]
    small = measured["small"]
    found.append(
        frame.check(
            f"gain where what flows back is not white, {words['small']}",
            last(small, forms.MOMENTS) - last(small, forms.LAMBDA),
            at_most=GAIN,
        )
    )
    for name in ("base", "other"):
        run = measured[name]
        for control in forms.FAILING:
            found.append(
                frame.check(
                    f"patch moments of {control} under the formula, {words[name]}",
                    last(run, control) - last(run, forms.LAMBDA),
                    below=0.0,
                    group="patch moments of images that should not do",
                )
            )
        for control in (*forms.HARMLESS, forms.ABLATIONS[-1]):
            formula = last(run, forms.LAMBDA) - last(run, forms.MOMENTS)
            found.append(
                frame.check(
                    f"{control} against the patch moments, {words[name]}",
                    last(run, control) - last(run, forms.MOMENTS),
                    at_least=-0.01,
                    group="second moments are all that counts",
                    caveat=f"the formula: {formula:+.3f}",
                )
            )
    return found
