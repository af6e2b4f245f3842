"""The results in numbers, and the checks; all bounds were written before the first
run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import theory
from experiments import frame, trained
from experiments.beyond.prediction import forms
from experiments.beyond.prediction.settings import MULTIPLES, OWN_TIME
from linear_cnn._text import escaped

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
    return {name: _title(name, run.config) for name, run in measured.items()}


def _title(name: str, config: Mapping[str, Any]) -> str:
    kind, images = name.split()[0], f"{config['images']:,} images"
    titles = {
        "base": trained.network(config),
        "images": images,
        "batch": f"batch {config['batch_size']}, rate {config['learning_rate']:g}",
        "shuffled": "shuffled labels" + (f", {images}" if " " in name else ""),
        "dropout": f"dropout {config['network'].get('dropout')}",
        "filters": f"{trained.filters(config)} filters",
        "pair": " / ".join(config["classes"] or ()),
        "other": trained.network(config),
        "small": "SmallCNN" + (", batch norm" if "norm" in name else ""),
    }
    return escaped(titles[kind])


def results(measured: Runs) -> list[dict[str, Any]]:
    """For each run, at its last record, how each form agrees with it."""
    words = titles(measured)
    rows = []
    for name, run in measured.items():
        last = {
            "predicted": own(run)[:, -1],
            "blocks": run["blocks_correlation"][:, -1],
            "ceiling": trained.correlations(run, run)[1][:, -1],
            "size": size(run)[:, -1],
            "whiteness": run["whiteness"],
            "cosine": run["cosine"][:, -1],
            "drive_ratio": run["drive_ratio"],
            "border": run["border"],
            "neighbours": run["neighbours"],
            "trace": run["trace"],
        }
        last |= {form: run[f"{form}/correlation"][:, -1] for form in forms.FITTED}
        last |= {
            f"{form}, log ratio": run[f"{form}/log_ratio"][:, -1]
            for form in forms.FITTED
        }
        last |= {
            "predicted, log ratio": run["log_ratio"][:, -1],
            "blocks, log ratio": run["blocks_log_ratio"][:, -1],
        }
        others = (*forms.ABLATIONS, *forms.CONTROLS)
        last |= {form: run[f"{form}/last"] for form in others if f"{form}/last" in run}
        courses = {
            "predicted": own(run),
            "lambda": run[f"{forms.LAMBDA}/correlation"],
            "moments": run[f"{forms.MOMENTS}/correlation"],
            "blocks": run["blocks_correlation"],
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
    networks, is best, (R - 1,)."""
    return MULTIPLES[run["correlation"].mean(axis=0).argmax(axis=-1)]


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
    found = []
    for name in sizes(measured):
        run = measured[name]
        epochs, images = run.epochs[1:], run.config["images"]
        predicted = own(run).mean(axis=0)
        fitted = run[f"{forms.LAMBDA}/correlation"].mean(axis=0)
        middle = (epochs >= SHAPE_EPOCHS[0]) & (epochs <= SHAPE_EPOCHS[1])
        later, late = epochs >= BEYOND_FROM, epochs >= MULTIPLE_FROM
        best = best_multiples(run)[late]
        title = f"{images:,} images"
        found += [
            frame.check(
                f"shape with nothing fitted, {title}, lowest of epochs"
                f" {SHAPE_EPOCHS[0]} to {SHAPE_EPOCHS[1]}",
                predicted[middle].min(initial=np.inf),
                at_least=SHAPE,
                reached=bool(middle.any()),
            ),
            frame.check(
                "nothing fitted over the formula with its time fitted, "
                f"{title}, least from epoch {BEYOND_FROM}",
                (predicted - fitted)[later].min(initial=np.inf),
                above=0.0,
                reached=bool(later.any()),
            ),
            *(
                frame.check(
                    f"best multiple of the training's own time, {title}, {word} from"
                    f" epoch {MULTIPLE_FROM}",
                    value,
                    at_least=MULTIPLE[0],
                    at_most=MULTIPLE[1],
                    reached=bool(late.any()),
                )
                for word, value in (
                    ("least", best.min(initial=np.inf)),
                    ("largest", best.max(initial=-np.inf)),
                )
            ),
        ]
    return found


def _fitted(measured: Runs) -> list[frame.Check]:
    words = titles(measured)

    def last(run: trained.MeasuredRun, form: str) -> float:
        return float(run[f"{form}/correlation"][:, -1].mean())

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
                    float(run[f"{control}/last"].mean()) - last(run, forms.LAMBDA),
                    below=0.0,
                    group="patch moments of images that should not do",
                )
            )
        for control in (*forms.HARMLESS, forms.ABLATIONS[-1]):
            found.append(
                frame.check(
                    f"{control} against the patch moments, {words[name]}",
                    float(run[f"{control}/last"].mean()) - last(run, forms.MOMENTS),
                    at_least=-0.01,
                    group="second moments are all that counts",
                )
            )
    return found
