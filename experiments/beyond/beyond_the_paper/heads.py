"""Networks whose head learns too, against the closed form for a fixed one."""

from typing import Any

import jax
import numpy as np
import optax

import linear_cnn
import theory
from experiments.beyond.beyond_the_paper.problem import (
    Problem,
    network,
    record_steps,
)
from experiments.beyond.beyond_the_paper.settings import Settings
from experiments.frame import Arrays

# Squared length of the filters before training over that of the head or, where that is
# less, of what they learn.
START = 0.01
# Learning rate over half of the largest stable one, of a head that has already grown.
RATE = 0.3
LINE = 13  # scales of the line between those that are trained


def run(settings: Settings, problem: Problem, key: jax.Array) -> Arrays:
    """ "scales" (Q,), "steps" (R,), "exact" (Q,), the largest error of the recursion of
    both layers over the largest change; and of the closed form for a fixed head "error"
    (Q, S, R), over the change, "correlation" (Q, S, R), of the profiles, and
    "head_change" (Q, S, R), how much the head must have changed. "line_scales" (L,) and
    "line" (L,), the error at the last step that the recursion predicts.
    """
    targets = (problem.labels == settings.label).astype(np.float64)
    moments = problem.with_targets(targets)
    records = record_steps(settings.steps)
    unit = learnt_size(moments, settings)
    pseudo_images, pseudo_targets = linear_cnn.compress(problem.patches, targets)
    keys = jax.random.split(key, settings.head_seeds)
    found: dict[str, list[Any]] = {
        "exact": [],
        "error": [],
        "correlation": [],
        "head_change": [],
    }
    for scale in settings.scales:
        print(f"trained head, scale {scale:g}", flush=True)
        head, init_std, rate = start_of(scale, unit, moments, settings)
        trained = linear_cnn.train_seeds(
            network(settings, problem, init_std, head=head, train_head=True),
            pseudo_images,
            pseudo_targets,
            optimizer=optax.sgd(rate),
            steps=int(records[-1]),
            keys=keys,
            record_steps=records,
        )
        kernels = np.asarray(trained.conv1)
        both = recursion(moments, head, kernels[:, 0], rate, records)
        dynamics = theory.gradient_descent(moments, head, rate)
        fixed = np.moveaxis(np.asarray(dynamics.kernel(records, kernels[:, 0])), 0, 1)
        profiles = [
            theory.energy_profile(w - kernels[:, :1], dynamics.components)
            for w in (kernels, fixed)
        ]
        moved = np.abs(kernels - kernels[:, :1]).max()
        found["exact"].append(np.abs(kernels - both).max() / moved)
        found["error"].append(error(kernels, fixed))
        found["correlation"].append(theory.profile_correlation(*profiles))
        found["head_change"].append(
            [theory.head_change(head, w[0], w) for w in kernels]
        )
    line = np.geomspace(settings.scales[0], settings.scales[-1], LINE)
    random = np.random.default_rng(settings.seed)
    shape = (*moments.kernel_shape, settings.filters)
    drawn = random.normal(size=(settings.head_seeds, *shape))
    predicted = []
    for scale in line:
        head, init_std, rate = start_of(scale, unit, moments, settings)
        ends = np.array([0, records[-1]])
        both = recursion(moments, head, init_std * drawn, rate, ends)
        dynamics = theory.gradient_descent(moments, head, rate)
        fixed = np.moveaxis(np.asarray(dynamics.kernel(ends, init_std * drawn)), 0, 1)
        predicted.append(error(both, fixed)[:, -1].mean())
    return {
        "scales": np.array(settings.scales),
        "steps": records,
        "line_scales": line,
        "line": np.array(predicted),
    } | {name: np.asarray(values) for name, values in found.items()}


def learnt_size(moments: theory.MeanPatchMoments, settings: Settings) -> float:
    """|v|, the length of what a network with a fixed head has learnt at the end: the
    squared length that a head has which shares it evenly with the filters."""
    head = np.array([1.0])
    rate = settings.rate / 2 * theory.largest_stable_learning_rate(moments, head)
    start = np.zeros((*moments.kernel_shape, 1))
    end = theory.gradient_descent(moments, head, rate).kernel(settings.steps, start)
    return float(np.linalg.norm(end))


def start_of(
    scale: float, unit: float, moments: theory.MeanPatchMoments, settings: Settings
) -> tuple[np.ndarray, float, float]:
    """The head, the standard deviation of the filters and the learning rate."""
    squared = scale * unit
    head = np.full(settings.filters, np.sqrt(squared / settings.filters))
    weights = settings.filters * np.prod(moments.kernel_shape)
    # Filters and head may both grow to the length of what is learnt.
    grown = head * np.sqrt((squared + 2 * unit) / squared)
    border = theory.largest_stable_learning_rate(moments, grown)
    start = START * unit * min(scale, 1 / scale)
    return head, float(np.sqrt(start / weights)), RATE / 2 * float(border)


def recursion(
    moments: theory.MeanPatchMoments,
    head: np.ndarray,
    kernels: np.ndarray,
    rate: float,
    records: np.ndarray,
) -> np.ndarray:
    """Filters of the exact recursion of both layers, (S, R, kh, kw, C, K)."""
    return np.stack(
        [
            theory.two_layer_descent(moments, head, kernel, rate, records).kernel
            for kernel in kernels
        ]
    )


def error(kernels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Of a prediction, over the change, (S, R); NaN before there is one."""
    axes = (-4, -3, -2, -1)
    change = ((kernels - kernels[:, :1]) ** 2).sum(axis=axes)
    with np.errstate(invalid="ignore"):  # 0 / 0 at the start
        return np.sqrt(((kernels - predicted) ** 2).sum(axis=axes) / change)
