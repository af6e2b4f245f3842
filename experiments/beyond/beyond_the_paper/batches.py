"""Networks trained in minibatches, drawn with replacement and in epochs."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import linear_cnn
import theory
from experiments.beyond.beyond_the_paper.problem import (
    Problem,
    network,
    ones,
    record_steps,
)
from experiments.beyond.beyond_the_paper.settings import (
    Settings,
    batch_steps,
    size_and_rate,
)
from experiments.frame import Arrays

EPOCHS = 1  # the place among the batches of what is trained in epochs too


def run(settings: Settings, problem: Problem, key: jax.Array) -> Arrays:
    """For each of the settings' batches "<size>,<rate>/" and

    "steps" (R,); "profile" and "full" (S, R, d), trained on batches that are drawn with
    replacement, and with full batches; "noise" (S, R, d), the predictor less that of
    full batches; "expected" and "expected_full" (R + 1, d), predicted, last at t =
    infinity. One has "epochs_profile" and "epochs_noise" (S, R, d), trained in epochs,
    and "epochs_variance" (R, d), predicted to first order. Every network has targets of
    its own.
    """
    target_key, batch_key = jax.random.split(key)
    drawn = jax.random.normal(target_key, (settings.batch_seeds, len(problem.labels)))
    moments, head = problem.with_drawn_targets(), ones(settings)
    fourth = theory.mean_patch_fourth_moments(
        problem.patches, np.asarray(drawn[0]), settings.kernel_size
    )
    border = float(theory.largest_stable_learning_rate(moments, head))
    start = np.zeros((*moments.kernel_shape, settings.filters))
    arrays: Arrays = {}
    keys = jax.random.split(batch_key, len(settings.batches))
    for place, (own, text) in enumerate(zip(keys, settings.batches, strict=True)):
        print(f"minibatches, {text}", flush=True)
        count, rate = size_and_rate(text)
        eta = rate / 2 * border
        records = record_steps(batch_steps(settings, text), 15)
        dynamics = theory.stochastic_descent(fourth, head, eta, count)
        e = np.asarray(dynamics.components)
        full = full_batches(problem, drawn, head, eta, records)
        kernels = with_replacement(
            jnp.asarray(problem.rows),
            drawn,
            jnp.asarray(head),
            eta,
            jnp.asarray(records),
            jax.random.split(own, settings.batch_seeds),
            count,
        )
        kernels = np.asarray(kernels).reshape(-1, len(records), *start.shape)
        late = np.append(records, np.inf)
        plain = theory.gradient_descent(moments, head, eta)
        found = {
            "steps": records,
            "profile": theory.energy_profile(kernels, e),
            "full": theory.energy_profile(full, e),
            "noise": predictor(kernels - full, head, e),
            "expected": dynamics.expected_profile(late, init_std=0.0, target_std=1.0),
            "expected_full": plain.expected_profile(late, init_std=0.0, components=e),
        }
        if place == EPOCHS:
            kernels = in_epochs(settings, problem, drawn, eta, records, own, count)
            found |= {
                "epochs_profile": theory.energy_profile(kernels, e),
                "epochs_noise": predictor(kernels - full, head, e),
                "epochs_variance": epochs_variance(
                    problem, drawn, full[:, -1], head, eta, records, count, e
                ),
            }
        arrays |= {f"{text}/{field}": np.asarray(x) for field, x in found.items()}
    return arrays


def predictor(kernels: np.ndarray, head: np.ndarray, e: np.ndarray) -> np.ndarray:
    """v = W a along the columns of E, (..., d), of kernels (..., kh, kw, C, K)."""
    filters = kernels.reshape(*kernels.shape[:-4], -1, kernels.shape[-1])
    return np.asarray(filters @ head @ e)


def full_batches(
    problem: Problem,
    targets: jax.Array,
    head: np.ndarray,
    learning_rate: float,
    records: np.ndarray,
) -> np.ndarray:
    """Filters from zero with full batches, in closed form, (S, R, kh, kw, C, K)."""
    moments = problem.moments
    start = np.zeros((*moments.kernel_shape, len(head)))
    crosses = np.asarray(targets) @ problem.rows / len(problem.rows)
    return np.stack(
        [
            theory.gradient_descent(
                replace(moments, cross=jnp.asarray(cross)), head, learning_rate
            ).kernel(records, start)
            for cross in crosses
        ]
    )


@partial(jax.jit, static_argnums=6)
def with_replacement(
    patches: jax.Array,
    targets: jax.Array,
    head: jax.Array,
    learning_rate: jax.Array,
    records: jax.Array,
    keys: jax.Array,
    batch_size: int,
) -> jax.Array:
    """Filters that start at zero and are trained by automatic differentiation, (S, R,
    d, K), on targets (S, N): every step draws its images anew."""

    def loss(w: jax.Array, images: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.mean((images @ w @ head - targets) ** 2)

    def step(
        number: Any, w: jax.Array, key: jax.Array, targets: jax.Array
    ) -> jax.Array:
        own = jax.random.fold_in(key, number)
        chosen = jax.random.randint(own, (batch_size,), 0, len(patches))
        gradient = jax.grad(loss)(w, patches[chosen], targets[chosen])
        return w - learning_rate * gradient

    def advance(state: Any, stop: jax.Array) -> Any:
        done, w = state

        def all_seeds(number: Any, w: jax.Array) -> jax.Array:
            return jax.vmap(partial(step, number))(w, keys, targets)

        w = lax.fori_loop(done, stop, all_seeds, w)
        return (stop, w), w

    start = jnp.zeros((len(keys), patches.shape[1], len(head)), patches.dtype)
    first = jnp.zeros((), records.dtype)
    return jnp.moveaxis(lax.scan(advance, (first, start), records)[1], 0, 1)


def in_epochs(
    settings: Settings,
    problem: Problem,
    targets: jax.Array,
    learning_rate: float,
    records: np.ndarray,
    key: jax.Array,
    batch_size: int,
) -> np.ndarray:
    """The same network trained by `linear_cnn.train_seeds`, (S, R, kh, kw, C, K): every
    epoch is a permutation of the images."""
    trained = linear_cnn.train_seeds(
        network(settings, problem, 0.0),
        problem.patches,
        targets[..., None],
        optimizer=optax.sgd(learning_rate),
        steps=int(records[-1]),
        keys=jax.random.split(key, settings.batch_seeds),
        record_steps=records,
        batch_size=batch_size,
    )
    return np.asarray(trained.conv1)


def epochs_variance(
    problem: Problem,
    targets: jax.Array,
    ends: np.ndarray,
    head: np.ndarray,
    learning_rate: float,
    records: np.ndarray,
    batch_size: int,
    e: np.ndarray,
) -> np.ndarray:
    """Variance of the predictor in epochs, (R, d), if single gradients had the
    covariance throughout that they have at the end, of filters (S, kh, kw, C, K)."""
    d, h, p = len(e), (head**2).sum(), problem.rows
    # The filters move along the head: one filter u of unit head, with v = |a| u.
    covariance = np.zeros((d, d))
    for y, end in zip(np.asarray(targets), ends, strict=True):
        residual = p @ (end.reshape(d, -1) @ head) - y
        gradients = 2 * np.sqrt(h) * residual[:, None] * p
        covariance += np.cov(gradients.T, bias=True) / len(ends)
    curvature = 2 * h * np.asarray(problem.moments.second)
    dynamics = theory.quadratic_descent(
        curvature[None, :, None], np.zeros((1, d)), learning_rate
    )
    noise = theory.gradient_noise_profile(
        dynamics,
        records,
        e,
        batch_size=batch_size,
        count=len(p),
        covariance=covariance[None, :, None],
    )
    return np.asarray(h * np.asarray(noise) ** 2)
