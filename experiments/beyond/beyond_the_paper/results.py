"""The results: a row for each way of training."""

from typing import Any

import numpy as np

import theory
from experiments.beyond.beyond_the_paper import measures
from experiments.beyond.beyond_the_paper.settings import CLASSES, KINDS
from experiments.frame import Arrays


def results(arrays: Arrays) -> list[dict[str, Any]]:
    """A row for each way of training."""
    return [
        *(_row_of_optimizer(arrays, name) for name in KINDS),
        *_rows_of_batches(arrays),
        *(_row_of_classes(arrays, name) for name in CLASSES),
        *_rows_of_heads(arrays),
    ]


def _row(name: str, trained: str, form: str, **values: Any) -> dict[str, Any]:
    keys = ("error", "plain", "worst", "fitted", "correlation", "until")
    empty = dict.fromkeys(keys)
    known = {key: None if x is None else float(x) for key, x in values.items()}
    return {"name": name, "trained": trained, "form": form} | empty | known


def _row_of_optimizer(arrays: Arrays, name: str) -> dict[str, Any]:
    kind, key = KINDS[name], f"optimizers/{name}"
    profiles = measures.rms(arrays[f"{key}/profile"][:, 1:])
    profile, grid = profiles[-1], arrays["optimizers/plain_grid"]
    # At every record the time at which the plain form is nearest.
    spread = np.asarray(theory.log_ratio_std(profiles[:, None], grid))
    best, factors = spread[-1].argmin(), np.exp(spread.min(axis=1))
    known = {"worst": factors.max(), "fitted": factors[-1]}
    if kind.adam:
        near = theory.profile_correlation(profile, grid[best])
        return _row(name, kind.title, "none", correlation=near, **known)
    plain = arrays[f"{key}/plain"][-1]
    return _row(
        name,
        kind.title,
        "exact",
        error=measures.single_error(arrays, name, "predicted"),
        plain=measures.factor(profile, plain),
        correlation=theory.profile_correlation(profile, plain),
        **known,
    )


def _rows_of_batches(arrays: Arrays) -> list[dict[str, Any]]:
    rows = []
    for name in measures.batches(arrays):
        key = f"batches/{name}"
        full = measures.rms(arrays[f"{key}/full"][:, -1])
        # On the targets of these networks.
        predicted = full * (
            arrays[f"{key}/expected"][-2] / arrays[f"{key}/expected_full"][-2]
        )
        kinds = [("profile", name, "minibatches", "exact", predicted)]
        if f"{key}/{measures.EPOCHS}" in arrays:
            noise = arrays[f"{key}/epochs_variance"][-1]
            predicted = np.sqrt(
                full**2 + noise / float(arrays["optimizers/filters"]) ** 2
            )
            words = "minibatches in epochs"
            kinds.append(
                ("epochs_profile", f"{name} in epochs", words, "first order", predicted)
            )
        for field, own, words, form, expected in kinds:
            trained = measures.rms(arrays[f"{key}/{field}"][:, -1])
            rows.append(
                _row(
                    own,
                    f"{words}, {measures.in_words(name)}",
                    form,
                    error=np.abs(trained / expected - 1).max(),
                    plain=measures.factor(trained, full),
                    correlation=theory.profile_correlation(trained, full),
                )
            )
    return rows


def _row_of_classes(arrays: Arrays, name: str) -> dict[str, Any]:
    error = arrays[f"classes/{name}/error"].mean(axis=0)
    return _row(
        name,
        f"cross-entropy, {CLASSES[name].title}",
        "linearised",
        error=error[1],
        correlation=arrays[f"classes/{name}/correlation"][:, -1].mean(),
        until=measures.until(arrays["classes/steps"], error),
    )


def _rows_of_heads(arrays: Arrays) -> list[dict[str, Any]]:
    return [
        _row(
            f"{scale:g}",
            f"head learns, from {scale:g}",
            "recursion",
            error=arrays["heads/exact"][place],
            correlation=arrays["heads/correlation"][place, :, -1].mean(),
            until=measures.until(
                arrays["heads/steps"], arrays["heads/error"][place].mean(axis=0)
            ),
        )
        for place, scale in enumerate(arrays["heads/scales"])
    ]
