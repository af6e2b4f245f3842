"""Networks trained with softmax cross-entropy, against its linearised closed form."""

from typing import Any

import jax
import numpy as np
import optax

import linear_cnn
import theory
from experiments.beyond.beyond_the_paper.problem import Problem, network, record_steps
from experiments.beyond.beyond_the_paper.settings import CLASSES, Classes, Settings
from experiments.frame import Arrays

RANDOM_CLASSES = 10


def run(settings: Settings, problem: Problem, key: jax.Array) -> Arrays:
    """ "steps" (R,), and for each of CLASSES "<name>/" and, (S, R), at each record:

    "error", of the linearised change, over the change; "as_mse", the same of the closed
    form for squared errors; "correlation" of the two energy profiles; "logits", root
    mean square over images and classes, each image's mean taken off.
    """
    some = problem.some(settings.classified)
    records = record_steps(settings.class_steps, 31)
    arrays: Arrays = {"steps": records}
    keys = jax.random.split(key, len(CLASSES))
    for own, (name, kind) in zip(keys, CLASSES.items(), strict=True):
        print(f"cross-entropy, {kind.title}", flush=True)
        found = of_kind(settings, some, kind, records, own)
        arrays |= {f"{name}/{field}": x for field, x in found.items()}
    return arrays


def of_kind(
    settings: Settings, problem: Problem, kind: Classes, records: np.ndarray, key: Any
) -> Arrays:
    """What `run` has of a kind."""
    label_key, head_key, seed_key = jax.random.split(key, 3)
    labels, outputs = problem.labels, len(problem.class_names)
    if kind.random:
        outputs = RANDOM_CLASSES
        labels = np.asarray(
            jax.random.randint(label_key, labels.shape, 0, outputs), np.int32
        )
    head = np.asarray(
        jax.random.normal(head_key, (settings.filters, outputs))
    ) / np.sqrt(settings.filters)
    moments = problem.with_targets(np.eye(outputs)[labels])
    border = theory.largest_stable_learning_rate(moments, head, loss="cross_entropy")
    rate = settings.rate / 2 * float(border)
    # Of such filters the logits have the variance init_std^2 tr A |a|^2, about.
    spread = np.sqrt(np.trace(moments.second) * (head**2).sum() / outputs)
    trained = linear_cnn.train_seeds(
        network(settings, problem, kind.logits / float(spread), head=head),
        problem.patches,
        labels,
        optimizer=optax.sgd(rate),
        steps=int(records[-1]),
        keys=jax.random.split(seed_key, settings.class_seeds),
        record_steps=records,
        loss="cross_entropy",
    )
    kernels = np.asarray(trained.conv1)
    dynamics = theory.gradient_descent(moments, head, rate, loss="cross_entropy")
    # With the curvature g = 2 of squared errors in the place of 1 / M.
    squared = theory.gradient_descent(moments, head, rate / 2 / outputs)
    starts = kernels[:, 0]
    predicted, as_mse = (
        np.moveaxis(np.asarray(form.kernel(records, starts)), 0, 1)
        for form in (dynamics, squared)
    )
    change = kernels - kernels[:, :1]
    profiles = [
        theory.energy_profile(w - kernels[:, :1], dynamics.components)
        for w in (kernels, predicted)
    ]
    filters = kernels.reshape(*kernels.shape[:2], -1, settings.filters)
    logits = np.einsum("nd,srdk,km->srnm", problem.rows, filters, head)
    logits = logits - logits.mean(axis=-1, keepdims=True)
    moved = size(change)
    with np.errstate(invalid="ignore"):  # 0 / 0 at the start
        return {
            "error": size(kernels - predicted) / moved,
            "as_mse": size(kernels - as_mse) / moved,
            "correlation": np.asarray(theory.profile_correlation(*profiles)),
            "logits": np.sqrt((logits**2).mean(axis=(-2, -1))),
        }


def size(kernels: np.ndarray) -> np.ndarray:
    """Norm over all weights, (S, R)."""
    return np.sqrt((kernels**2).sum(axis=(-4, -3, -2, -1)))
