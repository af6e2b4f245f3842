"""Single networks that must follow the exact form, and all orders of a few labels."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import linear_cnn
import theory
from experiments.paper.theory_vs_simulation.settings import Settings

# Of the single runs: large, so that the initial filters matter throughout.
EXACT_INIT_STD = 0.1
# Images whose gradients are computed at once in the full convolution of all of them:
# few, so that their patches stay in the cache of a CPU (five times faster than 500).
LARGEST_BATCH = 10


def record_steps(steps: int) -> np.ndarray:
    """0, 1, 2, 5, 10, 20, 50, ... and the last step."""
    series = [m * 10**e for e in range(len(str(steps))) for m in (1, 2, 5)]
    return np.unique([0, *(step for step in series if step < steps), steps])


def exact_run(
    settings: Settings,
    key: jax.Array,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int | None = None,
    data: str = "images",
    accumulate: bool = False,
    head: Any = None,
    stride: int = 1,
    padding: str = "VALID",
    rate: float | None = None,
    dtype: Any = jnp.float64,
) -> dict[str, Any]:
    """One trained network for each set of targets, (S, N) or (S, N, M); the exact form,
    and deliberately wrong ones."""
    size, width = settings.kernel_size, settings.filters
    head = np.ones(width) if head is None else head
    window: dict[str, Any] = {"stride": stride, "padding": padding}
    sets = targets.reshape(*targets.shape[:2], -1)
    outputs = sets.shape[2]
    moments = theory.mean_patch_moments(
        images, sets.transpose(1, 0, 2).reshape(len(images), -1), size, **window
    )

    def of_set(place: int, second: Any) -> theory.MeanPatchMoments:
        own = slice(place * outputs, (place + 1) * outputs)
        return replace(
            moments,
            second=second,
            cross=moments.cross[:, own],
            target_mean=moments.target_mean[own],
            target_covariance=moments.target_covariance[own, own],
        )

    # x_max = rate: the border of stability, the same for all sets, is at 2.
    border = theory.largest_stable_learning_rate(of_set(0, moments.second), head)
    learning_rate = (rate or settings.rate) / 2 * float(border)
    records = record_steps(steps or settings.exact_steps)

    seen: Any = images
    conv: dict[str, Any] = {"stride": stride, "padding": padding}
    if data != "images":
        seen, conv = linear_cnn.mean_patch_images(images, size, **conv), {}
    if data == "compressed":
        seen, projected = linear_cnn.compress(seen, sets.transpose(1, 0, 2))
        sets = np.asarray(projected).transpose(1, 0, 2)

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            images.shape[-1],
            width,
            size,
            **conv,
            head=head,
            init_std=EXACT_INIT_STD,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )

    optimizer: Any = optax.sgd(learning_rate)
    batch, batches = None, 1
    if accumulate:
        batch = max(
            n
            for n in range(1, min(len(images), LARGEST_BATCH) + 1)
            if len(images) % n == 0
        )
        batches = len(images) // batch
        # The mean of the gradients of all batches of an epoch is that of the full
        # batch.
        optimizer = optax.MultiSteps(optimizer, batches, accumulator_dtype=dtype)
    run = partial(
        linear_cnn.train_seeds if len(sets) > 1 else linear_cnn.train,
        init,
        jnp.asarray(seen, dtype),
        optimizer=optimizer,
        steps=int(records[-1]) * batches,
        record_steps=records * batches,
        batch_size=batch,
    )
    shown = jnp.asarray(sets, dtype)
    if len(sets) > 1:
        kernels = np.asarray(run(shown, keys=jax.random.split(key, len(sets))).conv1)
    else:
        kernels = np.asarray(run(shown[0], key=key).conv1)[None]

    initial = kernels[:, 0].astype(np.float64)

    def predict(second: Any, learning_rate: float) -> np.ndarray:
        forms = [
            theory.gradient_descent(of_set(place, second), head, learning_rate)
            for place in range(len(sets))
        ]
        return np.stack(
            [
                form.kernel(records, kernel)
                for form, kernel in zip(forms, initial, strict=True)
            ]
        )

    wrong = {"wrong_learning_rate": predict(moments.second, learning_rate / 2)}
    if data == "images":
        spectrum = theory.patch_spectrum(images, size, **window, center=False)
        u, variance = np.asarray(spectrum.components), np.asarray(spectrum.variance)
        uncorrelated = jnp.asarray((u * variance) @ u.T) / moments.patches_per_image
        wrong["wrong_second_moment"] = predict(uncorrelated, learning_rate)
    return {
        "steps": records,
        "simulated": kernels,
        "learning_rate": learning_rate,
        "head": head,
        "second": moments.second,
        "cross": moments.cross,
        "predicted": predict(moments.second, learning_rate),
        **wrong,
    }


def run_permutations(
    settings: Settings, key: jax.Array, images: np.ndarray
) -> dict[str, Any]:
    """Networks trained on all 720 orders of 6 labels: the shuffled law gives their mean
    energy exactly."""
    size, width, head = (
        settings.kernel_size,
        settings.filters,
        np.ones(settings.filters),
    )
    few = images[np.linspace(0, len(images) - 1, 6).round().astype(int)]
    labels = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 7.0])
    orders = np.array(list(itertools.permutations(labels)))
    moments = theory.mean_patch_moments(few, labels, size)
    learning_rate = (
        settings.rate / 2 * float(theory.largest_stable_learning_rate(moments, head))
    )
    components = theory.patch_spectrum(images, size, center=False).components
    records = record_steps(min(1000, settings.exact_steps))

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            images.shape[-1],
            width,
            size,
            init_std=0.0,
            dtype=jnp.float64,
            rngs=nnx.Rngs(key),
        )

    trained = linear_cnn.train_seeds(
        init,
        linear_cnn.mean_patch_images(few, size),
        orders,
        optimizer=optax.sgd(learning_rate),
        steps=int(records[-1]),
        keys=jax.random.split(key, len(orders)),
        record_steps=records,
    )
    biased = replace(
        moments, target_covariance=jnp.asarray(moments.target_covariance) * 5 / 6
    )
    law: dict[str, Any] = {
        "init_std": 0.0,
        "targets": "shuffled",
        "components": components,
    }
    return {
        "steps": records,
        "energy": np.mean(
            np.asarray(theory.energy_profile(trained.conv1, components)) ** 2, axis=0
        ),
        "expected": (
            theory.gradient_descent(moments, head, learning_rate).expected_profile(
                records, **law
            )
        ),
        "wrong_count": (
            theory.gradient_descent(biased, head, learning_rate).expected_profile(
                records, **law
            )
        ),
    }
