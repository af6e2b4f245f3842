"""Ensembles of seeds, and the autocorrelation of the filters that they learn."""

import time
from collections.abc import Callable
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
from experiments.paper.theory_vs_simulation.settings import QUANTILES, Settings
from experiments.paper.theory_vs_simulation.single_runs import record_steps

BLOCK = 64  # seeds trained between two moves of the progress bar
DISTANCES = tuple(range(16))


def run_ensemble(
    settings: Settings,
    key: jax.Array,
    labels: np.ndarray,
    images: np.ndarray,
    targets: str,
    steps: int,
    advance: Callable[[], Any],
    *,
    stride: int = 1,
) -> dict[str, Any]:
    """Many seeds of the compressed problem, and what the closed forms say of them."""
    size, head = settings.kernel_size, np.ones(settings.filters)
    moments = theory.mean_patch_moments(images, labels, size, stride=stride)
    spectrum = theory.patch_spectrum(images, size, stride=stride, center=False)
    if targets == "drawn":
        # Standard normal, whatever the labels are.
        moments = replace(moments, target_covariance=jnp.ones(()))
    learning_rate = (
        settings.rate / 2 * float(theory.largest_stable_learning_rate(moments, head))
    )
    dynamics = theory.gradient_descent(moments, head, learning_rate)
    # Deliberately wrong.
    slow = theory.gradient_descent(moments, head, learning_rate / 2)
    records = record_steps(steps)

    kernels, seconds = train_ensemble(
        settings,
        key,
        labels,
        linear_cnn.mean_patch_images(images, size, stride=stride),
        targets,
        learning_rate,
        records,
        advance,
    )
    law: dict[str, Any] = {
        "init_std": settings.init_std,
        "targets": targets,
        "components": spectrum.components,
    }
    theorem: dict[str, Any] = {
        "head": head,
        "patches_per_image": moments.patches_per_image,
        "count": moments.count,
    }
    if targets == "shuffled":
        theorem["target_std"] = float(np.sqrt(moments.target_covariance))
    predictions: dict[str, Any] = {}
    for kind, change in (("weights", False), ("change", True)):
        predictions[f"expected_{kind}"] = dynamics.expected_profile(
            records, change=change, **law
        )
        predictions[f"quantiles_{kind}"] = dynamics.profile_quantiles(
            np.array(QUANTILES), records, change=change, **law
        )
        predictions[f"wrong_learning_rate_{kind}"] = slow.expected_profile(
            records, change=change, **law
        )
    formula = partial(theory.theorem_profile, spectrum.variance, records, **theorem)
    return {
        "steps": records,
        "kernels": kernels,
        "variance": spectrum.variance,
        "components": spectrum.components,
        "decorrelation_ratio": theory.decorrelation_ratio(moments, spectrum),
        "second": moments.second,
        "mean": moments.mean,
        "target_covariance": moments.target_covariance,
        "target_mean": moments.target_mean,
        "count": moments.count,
        "patches_per_image": moments.patches_per_image,
        "learning_rate": learning_rate,
        "init_std": settings.init_std,
        "theorem": formula(learning_rate=learning_rate),
        "theorem_wrong_learning_rate": formula(learning_rate=learning_rate / 2),
        "training_seconds": seconds,
        **predictions,
    }


def train_ensemble(
    settings: Settings,
    key: jax.Array,
    labels: np.ndarray,
    mean_patches: jax.Array,
    targets: str,
    learning_rate: float,
    records: np.ndarray,
    advance: Callable[[], Any],
) -> tuple[np.ndarray, float]:
    """The kernels of all seeds, (S, R, kh, kw, C, K), and the seconds of training
    without compilation."""

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            mean_patches.shape[-1],
            settings.filters,
            settings.kernel_size,
            init_std=settings.init_std,
            dtype=jnp.float64,
            rngs=nnx.Rngs(key),
        )

    def draw(key: jax.Array) -> jax.Array:
        if targets == "drawn":
            return jax.random.normal(key, labels.shape)
        return jax.random.permutation(key, jnp.asarray(labels))

    optimizer = optax.sgd(learning_rate)
    init_keys, target_keys = (
        jax.random.split(k, settings.seeds) for k in jax.random.split(key)
    )

    def train(block: slice, steps: np.ndarray) -> np.ndarray:
        pseudo_images, pseudo_targets = linear_cnn.compress(
            mean_patches, jax.vmap(draw)(target_keys[block]).T
        )
        trajectory = linear_cnn.train_seeds(
            init,
            pseudo_images,
            pseudo_targets.T[..., None],
            optimizer=optimizer,
            steps=int(steps[-1]),
            keys=init_keys[block],
            record_steps=steps,
        )
        return np.asarray(trajectory.conv1)

    blocks = [slice(start, start + BLOCK) for start in range(0, settings.seeds, BLOCK)]
    # Steps are data to the compiled program, so that a run of as many records in few
    # steps compiles it.
    train(blocks[0], np.arange(len(records)))
    started = time.perf_counter()
    kernels = []
    for block in blocks:
        kernels.append(train(block, records))
        advance()
    return np.concatenate(kernels), time.perf_counter() - started


def run_autocorrelation(
    settings: Settings, images: np.ndarray, kernels: np.ndarray
) -> dict[str, Any]:
    """Autocorrelation on raw images of the filters trained on patch-shuffled ones, all
    seeds as one bank."""
    images = images[::4]  # enough for two digits
    size, channels = settings.kernel_size, images.shape[-1]
    distances = [
        distance for distance in DISTANCES if distance <= images.shape[1] - size
    ]
    moments = theory.cross_moments(images, size, distances)
    spectrum = theory.patch_spectrum(images, size)
    banks = np.moveaxis(kernels, 0, -1).reshape(*kernels.shape[1:-1], -1)
    whitening = theory.filters_with_profile(
        theory.whitening_profile(spectrum.variance), spectrum
    )

    # The same number measured on the responses of a convolution, for the filters of one
    # seed on some images.
    some, filters = images[:: max(1, len(images) // 32)], kernels[0, -1]
    single = theory.cross_moments(some, size, distances)
    return {
        "distances": distances,
        "pixels": theory.autocorrelation(
            np.eye(channels)[None, None], theory.cross_moments(images, 1, distances)
        ),
        "filters": theory.autocorrelation(banks, moments),
        "whitening": theory.autocorrelation(whitening, moments),
        "shortcut": theory.autocorrelation(filters, single),
        "measured": measured_autocorrelation(some, filters, distances),
    }


def measured_autocorrelation(
    images: np.ndarray, kernel: np.ndarray, distances: list[int]
) -> np.ndarray:
    """Convolve, subtract the mean response, and average products over all pairs of
    locations inside the image."""
    convolve = partial(
        jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    z = np.asarray(
        convolve(
            jnp.asarray(images),
            jnp.asarray(kernel),
            (1, 1),
            "VALID",
            precision="highest",
        )
    )
    z = z - z.mean(axis=(0, 1, 2))
    height, width = z.shape[1:3]
    across = [
        np.mean(np.sum(z[:, :, : width - step] * z[:, :, step:], axis=-1))
        for step in distances
    ]
    down = [
        np.mean(np.sum(z[:, : height - step] * z[:, step:], axis=-1))
        for step in distances
    ]
    return (np.array(across) + np.array(down)) / 2 / np.mean(np.sum(z**2, axis=-1))
