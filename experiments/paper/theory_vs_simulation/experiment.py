"""Closed forms against linear CNNs that were really trained.

    python -m experiments theory_vs_simulation --out results
    python -m experiments theory_vs_simulation --dataset cifar10 --exact-steps 1000

Trains the Flax model by automatic differentiation and optax: single runs that must
follow the exact form to rounding, and ensembles of seeds that must follow the expected
form and, where its assumption holds, Theorem 4.2 of the paper. Writes
<out>/theory_vs_simulation/<dataset>/{config.json, arrays.npz, summary.json, *.png,
*.pdf}.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linear_cnn
from experiments import frame
from experiments.frame import Arrays, inputs
from experiments.paper.theory_vs_simulation import figures
from experiments.paper.theory_vs_simulation.ensembles import (
    BLOCK,
    run_autocorrelation,
    run_ensemble,
)
from experiments.paper.theory_vs_simulation.settings import (
    ENSEMBLES,
    EXACT,
    Settings,
    check,
    check_inputs,
)
from experiments.paper.theory_vs_simulation.single_runs import (
    exact_run,
    run_permutations,
)
from experiments.paper.theory_vs_simulation.verdicts import judge
from linear_cnn._progress import progress_bar

Stage = Callable[[], dict[str, Any]]
NAME = "theory_vs_simulation"


def main(settings: Settings) -> None:
    """Theorems 4.2 and 4.3 of the paper and the exact form, against linear CNNs that
    are trained here."""
    check(settings)
    frame.run(NAME, settings, compute, summary, draw, table)


def draw(folder: Path, arrays: Arrays) -> None:
    """Draw the four figures."""
    figures.draw(folder, arrays, EXACT, ENSEMBLES)


def summary(arrays: Arrays) -> dict[str, Any]:
    """The checks, and how long each stage took."""
    seconds = {
        name: float(arrays[f"{name}/seconds"])
        for name in (*EXACT, "permutations", *ENSEMBLES, "autocorrelation")
    }
    seconds |= {
        f"{name}, training alone": float(arrays[f"{name}/training_seconds"])
        for name in ENSEMBLES
    }
    return {"checks": judge(arrays), "seconds": seconds}


def table(summary: dict[str, Any]) -> None:
    """There is none: the checks say it all."""


def compute(settings: Settings) -> Arrays:
    """All that takes time: arrays named "stage/array", "stage/seconds" among them."""
    shuffle_key, exact_key, head_key, ensemble_key = jax.random.split(
        jax.random.key(settings.seed), 4
    )
    pixels, classes, class_names = inputs.load(settings)
    check_inputs(settings, pixels, class_names)
    # The theorem assumes patches of mean zero; channels are brought to one scale as for
    # CIFAR-10 in the paper.
    raw = linear_cnn.normalize_channels(pixels.astype(np.float64))
    one_hot = np.eye(len(class_names))[classes]
    labels = one_hot[:, settings.label]
    shuffled = one_hot[linear_cnn.shuffle_labels(classes, exact_key)]
    few = np.linspace(0, len(raw) - 1, 32).round().astype(int)
    left, right = jax.random.split(head_key)
    rank_two = jax.random.normal(left, (settings.filters, 2)) @ jax.random.normal(
        right, (2, one_hot.shape[1])
    )
    true_and_shuffled = np.stack([labels, shuffled[:, settings.label]])
    against_rest = np.concatenate([one_hot, shuffled], axis=1).T

    exact = partial(exact_run, settings, exact_key)
    ensemble = partial(run_ensemble, settings, ensemble_key, labels)
    raw_steps, tenth = max(1, settings.steps // 10), max(1, settings.exact_steps // 10)
    blocks = -(-settings.seeds // BLOCK)
    bar = progress_bar(
        total=len(EXACT) + 2 + len(ENSEMBLES) * (blocks + 1), unit="stage"
    )
    stages: dict[str, Stage] = {
        "full": lambda: exact(
            raw, true_and_shuffled, steps=settings.full_steps, accumulate=True
        ),
        "classes": lambda: exact(raw, against_rest, steps=tenth, data="mean patches"),
        "few": lambda: exact(raw[few], labels[None, few], stride=3),
        "hard": lambda: exact(
            pixels[few],
            one_hot[None, few],
            steps=tenth,
            stride=2,
            padding="SAME",
            head=rank_two,
            rate=1.9,
        ),
        "mean_patches": lambda: exact(raw, labels[None], data="mean patches"),
        "float32": lambda: exact(
            raw, labels[None], data="mean patches", dtype=jnp.float32
        ),
        "compressed": lambda: exact(raw, labels[None], data="compressed"),
        "compressed_full": lambda: exact(
            raw, true_and_shuffled, steps=settings.full_steps, data="compressed"
        ),
        "permutations": lambda: run_permutations(settings, exact_key, raw),
        "raw_drawn": lambda: ensemble(raw, "drawn", raw_steps, bar.update),
        "raw_shuffled": lambda: ensemble(raw, "shuffled", raw_steps, bar.update),
        "patches_drawn": lambda: ensemble(
            np.asarray(
                linear_cnn.shuffle_patches(raw, settings.kernel_size, shuffle_key)
            ),
            "drawn",
            settings.steps,
            bar.update,
            stride=settings.kernel_size,
        ),
    }
    arrays: dict[str, np.ndarray] = {}

    def run(name: str, stage: Stage) -> None:
        bar.set_description(name)
        started = time.perf_counter()
        arrays.update(
            {f"{name}/{field}": np.asarray(value) for field, value in stage().items()}
        )
        arrays[f"{name}/seconds"] = np.array(round(time.perf_counter() - started, 2))
        bar.update()

    with bar:
        for name, stage in stages.items():
            run(name, stage)
        run(
            "autocorrelation",
            lambda: run_autocorrelation(settings, raw, arrays["patches_drawn/kernels"]),
        )
    return arrays
