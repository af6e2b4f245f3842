"""Networks trained by each optimiser, and what the closed forms say of them."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linear_cnn
import theory
from experiments.beyond.beyond_the_paper.problem import (
    Problem,
    network,
    ones,
    record_steps,
)
from experiments.beyond.beyond_the_paper.settings import (
    BAND,
    KINDS,
    Kind,
    Settings,
    options,
)
from experiments.frame import Arrays

# Of the initial filters. So small that only targets count in the profile of the change,
# whose energies then are chi-square of one degree of freedom; and a thousand times what
# single weights may be off.
INIT_STD = 1e-7
PLAIN_STEPS = np.unique(np.geomspace(1, 1e7, 200).round())


def run(settings: Settings, problem: Problem, key: jax.Array) -> Arrays:
    """ "alpha" (d,), "count" N, "filters" K, "steps" (R,); "plain_grid" (T, d), the
    expected profile of gradient descent without options; and for each kind "<kind>/"
    and

    "profile" (S, R, d), trained, in the eigenvectors of A; "expected" (R, d), "band"
    (2, R, d) and "limit" (d,), predicted; "plain" (R, d), as if there were no options;
    "simulated", "predicted", "as_plain" and "from_zero" (s, R, kh, kw, C, K), networks
    weight by weight. Adam has the first alone.
    """
    moments, head = problem.with_drawn_targets(), ones(settings)
    border = theory.largest_stable_learning_rate(moments, head)
    plain = theory.gradient_descent(moments, head, settings.rate / 2 * float(border))
    records = record_steps(settings.steps)
    arrays: Arrays = {
        "alpha": np.asarray(plain.mean_patch_variance),
        "count": np.array(moments.count),
        "filters": np.array(settings.filters),
        "steps": records,
        "plain_grid": np.asarray(plain.expected_profile(PLAIN_STEPS, init_std=0.0)),
    }
    keys = jax.random.split(key, len(KINDS))
    for own, (name, kind) in zip(keys, KINDS.items(), strict=True):
        print(f"full batch, {kind.title}", flush=True)
        found = of_kind(settings, problem, kind, records, own)
        arrays |= {f"{name}/{field}": np.asarray(x) for field, x in found.items()}
    return arrays


def of_kind(
    settings: Settings, problem: Problem, kind: Kind, records: np.ndarray, key: Any
) -> dict[str, Any]:
    """What `run` has of a kind."""
    moments, head = problem.with_drawn_targets(), ones(settings)
    target_key, seed_key = jax.random.split(key)
    curvature = 2 * np.linalg.eigvalsh(moments.second)[-1] * (head**2).sum()
    choice = options(kind, kind.decay * curvature)
    border = float(theory.largest_stable_learning_rate(moments, head, **choice))
    rate = settings.adam_rate if kind.adam else settings.rate / 2 * border
    schedule, rates = schedule_of(kind, rate, settings.steps)
    optimizer = optimizer_of(kind, schedule, choice["weight_decay"])
    if kind.adam:
        e = np.linalg.eigh(moments.second)[1][:, ::-1]
    else:
        dynamics = theory.gradient_descent(moments, head, rates, **choice)
        e = np.asarray(dynamics.components)

    count = len(problem.labels)
    drawn = jax.random.normal(target_key, (settings.seeds, count))
    pseudo_images, pseudo_targets = linear_cnn.compress(problem.patches, drawn.T)
    trained = linear_cnn.train_seeds(
        network(settings, problem, INIT_STD),
        pseudo_images,
        pseudo_targets.T[..., None],
        optimizer=optimizer,
        steps=int(records[-1]),
        keys=jax.random.split(seed_key, settings.seeds),
        record_steps=records,
    )
    kernels = np.asarray(trained.conv1)
    change = kernels - kernels[:, :1]
    found = {"profile": theory.energy_profile(change, e)}
    if kind.adam:
        return found
    singles = kernels[: settings.singles]
    crosses = np.asarray(drawn[: settings.singles]) @ problem.rows / count

    def followed(learning_rate: Any, starts: np.ndarray, **choice: Any) -> np.ndarray:
        return np.stack(
            [
                theory.gradient_descent(
                    replace(moments, cross=jnp.asarray(cross)),
                    head,
                    learning_rate,
                    **choice,
                ).kernel(records, kernel)
                for cross, kernel in zip(crosses, starts, strict=True)
            ]
        )

    starts = singles[:, 0]
    law: dict[str, Any] = {"init_std": INIT_STD, "change": True}
    plain = theory.gradient_descent(moments, head, rate)
    # A schedule that has ended has no limit.
    limit = np.inf if kind.schedule != "cosine" else records[-1]
    return found | {
        "expected": dynamics.expected_profile(records, **law),
        "band": dynamics.profile_quantiles(np.array(BAND), records, **law),
        "limit": dynamics.expected_profile(limit, init_std=0.0),
        "plain": plain.expected_profile(records, **law),
        "simulated": singles,
        "predicted": followed(rates, starts, **choice),
        "as_plain": followed(rate, starts),
        "from_zero": followed(rates, 0 * starts, **choice),
    }


def schedule_of(kind: Kind, rate: float, steps: int) -> tuple[Any, Any]:
    """The learning rate as optax takes it, and as `theory.gradient_descent` does."""
    if kind.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, steps)
        return schedule, np.asarray(jax.vmap(schedule)(jnp.arange(steps)))
    if kind.schedule == "piecewise":
        first, second = steps // 100 + 1, steps // 10 + 2
        schedule = optax.piecewise_constant_schedule(rate, {first: 0.5, second: 0.4})
        return schedule, ([first, second], [rate, 0.5 * rate, 0.5 * 0.4 * rate])
    return rate, rate


def optimizer_of(
    kind: Kind, rate: Any, weight_decay: float
) -> optax.GradientTransformation:
    """The optimiser, as optax makes it."""
    if kind.adam:
        return optax.adam(rate)
    if kind.decoupled:
        return optax.chain(
            optax.trace(kind.momentum, kind.nesterov),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    descent = optax.sgd(rate, kind.momentum or None, kind.nesterov)
    if not weight_decay:
        return descent
    return optax.chain(optax.add_decayed_weights(weight_decay), descent)
