"""What is trained, and kept: groups of networks, one arm at one learning rate each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import linear_cnn
import theory
from experiments import trained
from experiments.beyond.initialisation.settings import (
    KERNEL_SIZE,
    NETWORKS,
    Arm,
    Settings,
)
from experiments.frame import Arrays, inputs

# To be raised by a change of the code after which the same settings give other arrays.
FORMAT = 1


@dataclass(frozen=True)
class Data:
    """What all networks are trained on: images with channels normalised, (N, H, W, C),
    their labels, the spectrum of their patches, and a checksum."""

    images: np.ndarray
    labels: np.ndarray
    classes: int
    spectrum: theory.PatchSpectrum
    checksum: str


def load(settings: Settings) -> Data:
    """The images of the settings.

    Raises:
      FileNotFoundError, ValueError: they are not there, or fewer than a batch.
    """
    pixels, labels, names = inputs.load(settings)
    if len(labels) < settings.batch_size:
        raise ValueError(
            f"the batch of {settings.batch_size} is more than the {len(labels)} images;"
            " make it less."
        )
    images = linear_cnn.normalize_channels(pixels)
    labels = labels.astype(np.int32)
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.data)
    spectrum = theory.patch_spectrum(images, KERNEL_SIZE)
    return Data(images, labels, len(names), spectrum, digest.hexdigest())


def profile(arm: Arm, variance: Any) -> np.ndarray:
    """The weight of each component, (d,), in the filters of an arm that are not
    drawn."""
    if arm.filters == "components":
        return np.ones(len(variance))
    assert arm.value is not None  # it is chosen by now
    if arm.filters == "whitening":
        return np.asarray(theory.whitening_profile(variance, arm.value))
    # So small a rate that the formula is that of gradient flow.
    rate = 0.01 / float(variance[0])
    steps = round(arm.value / rate)
    return np.asarray(theory.iteration_profile(variance, steps, rate))


def make_init(
    arm: Arm, data: Data, settings: Settings, *, batch_norm: bool
) -> Callable[[jax.Array], nnx.Module]:
    """How a network of an arm begins. All arms draw the same other weights from a
    key."""
    first = None
    if arm.filters != "drawn":
        weights = profile(arm, data.spectrum.variance)
        first = linear_cnn.closed_form_init(data.spectrum.components, weights)

    def init(key: jax.Array) -> nnx.Module:
        network = linear_cnn.SmallCNN(
            data.classes,
            in_features=data.images.shape[-1],
            features=settings.features,
            first_kernel_size=KERNEL_SIZE,
            batch_norm=batch_norm,
            rngs=nnx.Rngs(key),
        )
        kernel = network.conv1.kernel
        if first is not None:
            made = first(key, kernel.shape, kernel.dtype)
            if arm.mixed:
                # A key of its own: that of the network has made its weights.
                mixing = jax.random.orthogonal(
                    jax.random.fold_in(key, 1), made.shape[-1], dtype=made.dtype
                )
                made = jnp.tensordot(
                    made, mixing, axes=1, precision=jax.lax.Precision.HIGHEST
                )
            kernel[...] = made
        return network

    return init


def optimizer(arm: Arm, rate: float, settings: Settings) -> Any:
    """Momentum, at a fraction of the rate in a first layer that learns slowly."""
    others = optax.sgd(rate, momentum=settings.momentum)
    if arm.learns != "slowly":
        return others
    slow = optax.sgd(settings.slowed * rate, momentum=settings.momentum)

    def labels(parameters: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "first" if path[0].key == "conv1" else "others", parameters
        )

    return optax.partition({"first": slow, "others": others}, labels)


def trained_group(
    arm: Arm,
    rate: float,
    data: Data,
    settings: Settings,
    *,
    network: str,
    seed: int,
    seeds: int,
    records: tuple[int, ...],
) -> Arrays:
    """What networks of an arm recorded: from the store, or trained.

    Returns:
      "steps" (R,), with 0 and the last one; "loss" and "accuracy" (S, R) on all
      training images, infinite and 0 where one of the networks diverged; "moved" (S,),
      the norm of the change of the first kernel over that of the kernel before.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "arm": arm._asdict(),
        "rate": rate,
        "network": network,
        "checksum": data.checksum,
        "seed": seed,
        "seeds": seeds,
        "records": [*records, settings.steps],
    }
    kept = ("features", "batch_size", "momentum")
    content |= {name: getattr(settings, name) for name in kept}
    if arm.learns == "slowly":
        content["slowed"] = settings.slowed

    def make() -> Arrays:
        made = _train(arm, rate, data, settings, content)
        # The next group has other programs; a hundred of them are more mapped memory
        # than a process may have.
        jax.clear_caches()
        return made

    return trained.kept(
        settings.store, "initialisation", content, make, fresh=settings.fresh
    )


def _train(
    arm: Arm, rate: float, data: Data, settings: Settings, content: dict[str, Any]
) -> Arrays:
    steps = np.array([0, *content["records"]])
    init = make_init(arm, data, settings, batch_norm=NETWORKS[content["network"]])
    # The experiments compute in float64, networks do not.
    with jax.enable_x64(False):
        try:
            run = linear_cnn.train_seeds(
                init,
                data.images,
                data.labels,
                optimizer=optimizer(arm, rate, settings),
                keys=jax.random.split(
                    jax.random.key(content["seed"]), content["seeds"]
                ),
                steps=settings.steps,
                record_steps=steps,
                batch_size=settings.batch_size,
                loss="cross_entropy",
                frozen=("conv1.kernel",) if arm.learns == "bias" else (),
            )
        except linear_cnn.TrainingDiverged:
            shape = content["seeds"], len(steps)
            return {
                "steps": steps,
                "loss": np.full(shape, np.inf),
                "accuracy": np.zeros(shape),
                "moved": np.full(shape[0], np.inf),
            }
    kernel = np.asarray(run.conv1, np.float64)[:, [0, -1]].reshape(len(run.loss), 2, -1)
    size, change = (
        np.linalg.norm(w, axis=-1) for w in (kernel[:, 0], kernel[:, 1] - kernel[:, 0])
    )
    return {
        "steps": steps,
        "loss": np.asarray(run.loss, np.float64),
        "accuracy": np.asarray(run.accuracy, np.float64),
        "moved": change / size,
    }
