"""What `benchmark` measures of training: the same networks by this library, by PyTorch
and by XLA's convolution.

Each method trains from new weights by plain SGD on softmax cross-entropy, with the loss
and accuracy over all images before and after, and returns the number of trained
parameters, on which all must agree.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax import lax

import linear_cnn

Compute = Callable[[], np.ndarray]
CLASSES = 10
SEEDS, SEEDS_BATCH, SEEDS_STEPS = 16, 64, 16
OWN_SEEDS = 4
LEARNING_RATE = 0.01
# What a user may bring in the place of the loss by name, the accuracy and the images.
OWN: dict[str, Any] = {
    "loss": optax.softmax_cross_entropy_with_integer_labels,
    "metrics": {
        "correct": lambda y, labels: y.argmax(axis=-1).astype(labels.dtype) == labels
    },
    "augment": linear_cnn.random_crop_and_flip,
    "on_record": lambda step, record: bool(np.isnan(record.loss)),
}
XLAS_CONVOLUTION: dict[str, Any] = {"conv_general_dilated": lax.conv_general_dilated}


class VGGRun(NamedTuple):
    """A training of VGG11 with batch norm.

    Attributes:
      width: multiplies the numbers of filters.
      first_features: of the first layer alone.
      seeds: networks that are trained.
    """

    width: float
    batch_size: int = 128
    steps: int = 6
    first_features: int | None = None
    seeds: int = 1


# As the presets of the experiments for a CPU train.
PRESET = VGGRun(width=0.25, batch_size=16, steps=64, first_features=64)


def our_vgg(
    images: np.ndarray,
    run: VGGRun,
    default_convolution: bool = False,
    own: bool = False,
) -> Compute:
    """`linear_cnn.train`, or `train_seeds` of several; or the same with XLA's own
    convolution, or with functions of the user's own."""
    convolution: dict[str, Any] = XLAS_CONVOLUTION if default_convolution else {}

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.VGG(
            11,
            CLASSES,
            in_features=images.shape[-1],
            width=run.width,
            first_features=run.first_features,
            rngs=nnx.Rngs(key),
            **convolution,
        )

    train = _training(init, images, run.batch_size, run.steps)
    train["fast_convolutions"] = not default_convolution
    return _trained(train | (OWN if own else {}), run.seeds)


def torch_vgg(images: np.ndarray, run: VGGRun, device: str = "cpu") -> Compute:
    """VGG11-BN in PyTorch, channels last, which is its fastest layout; seeds one after
    the other."""
    import torch
    from torch import nn

    torch.set_num_threads(os.cpu_count() or 1)
    x = (
        torch.from_numpy(images)
        .permute(0, 3, 1, 2)
        .contiguous(memory_format=torch.channels_last)
        .to(device)
    )
    y = torch.from_numpy(_labels(images)).long().to(device)
    stages = ((64,), (128,), (256, 256), (512, 512), (512, 512))

    def network() -> Any:
        layers: list[Any] = []
        channels = images.shape[-1]
        for stage in stages:
            for full_width in stage:
                first = run.first_features if not layers else None
                features = first or round(full_width * run.width)
                layers += [
                    nn.Conv2d(channels, features, 3, padding=1),
                    nn.BatchNorm2d(features),
                    nn.ReLU(),
                ]
                channels = features
            layers.append(nn.MaxPool2d(2))
        hidden = round(512 * run.width)
        classifier = [nn.Dropout(0.5), nn.Linear(channels, hidden), nn.ReLU()]
        classifier += [
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, CLASSES),
        ]
        return nn.Sequential(*layers, nn.Flatten(), *classifier).to(
            device, memory_format=torch.channels_last
        )

    def evaluate(model: Any) -> None:
        model.eval()
        with torch.no_grad():
            for start in range(0, len(x), 128):
                outputs, targets = model(x[start : start + 128]), y[start : start + 128]
                nn.functional.cross_entropy(outputs, targets).item()
                (outputs.argmax(1) == targets).sum().item()

    def train() -> Any:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
        evaluate(model)
        model.train()
        for _ in range(run.steps):
            batch = torch.randperm(len(x), device=device)[: run.batch_size]
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        evaluate(model)
        return model

    def compute() -> np.ndarray:
        model = [train() for _ in range(run.seeds)][-1]
        return np.array(
            [float(sum(parameter.numel() for parameter in model.parameters()))]
        )

    return compute


def our_small(images: np.ndarray, seeds: int = 1) -> Compute:
    """`linear_cnn.train` of the small network, or `train_seeds` of many at once."""
    return _trained(_small_training(images), seeds)


class OwnNetwork(nnx.Module):
    """As users write theirs, and as `nnx.Conv` is unless told otherwise."""

    def __init__(self, channels: int, rngs: nnx.Rngs, **convolution: Any) -> None:
        self.conv1 = nnx.Conv(channels, 16, (3, 3), rngs=rngs, **convolution)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs, **convolution)
        self.linear = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.conv2(nnx.relu(self.conv1(images))))
        return self.linear(hidden.mean(axis=(1, 2)))


def own_module(images: np.ndarray, **convolution: Any) -> Compute:
    """`linear_cnn.train_seeds` of a module of one's own."""

    def init(key: jax.Array) -> nnx.Module:
        return OwnNetwork(images.shape[-1], nnx.Rngs(key), **convolution)

    return _trained(_training(init, images, SEEDS_BATCH, SEEDS_STEPS), OWN_SEEDS)


def one_seed_after_another(images: np.ndarray) -> Compute:
    """`linear_cnn.train` of the small network, called for each of the seeds."""
    train = _small_training(images)
    _device_for_each_core()
    keys = jax.random.split(jax.random.key(0), SEEDS)

    def compute() -> np.ndarray:
        for key in keys:
            np.asarray(linear_cnn.train(key=key, **train).loss)
        return _parameters(train["init"])

    return compute


def default_convolution_mapped(images: np.ndarray) -> Compute:
    """The small network with XLA's own convolution, its seeds through `jax.lax.map`."""
    train = _small_training(images, **XLAS_CONVOLUTION)
    train["fast_convolutions"] = False
    _device_for_each_core()
    keys = jax.random.split(jax.random.key(0), SEEDS)
    run = jax.jit(partial(lax.map, lambda key: linear_cnn.train(key=key, **train).loss))

    def compute() -> np.ndarray:
        np.asarray(run(keys))
        return _parameters(train["init"])

    return compute


def _small_training(images: np.ndarray, **convolution: Any) -> dict[str, Any]:
    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.SmallCNN(
            CLASSES,
            in_features=images.shape[-1],
            features=(8, 16, 32),
            rngs=nnx.Rngs(key),
            **convolution,
        )

    return _training(init, images, SEEDS_BATCH, SEEDS_STEPS)


def _device_for_each_core() -> None:
    # As the experiments do.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def _trained(train: dict[str, Any], seeds: int) -> Compute:
    """One seed by `train`, several by `train_seeds`."""
    if seeds > 1:
        _device_for_each_core()

    def compute() -> np.ndarray:
        key = jax.random.key(0)
        trajectory = (
            linear_cnn.train(key=key, **train)
            if seeds == 1
            else linear_cnn.train_seeds(keys=jax.random.split(key, seeds), **train)
        )
        np.asarray(trajectory.loss)
        return _parameters(train["init"])

    return compute


def _training(
    init: Any, images: np.ndarray, batch_size: int, steps: int
) -> dict[str, Any]:
    return {
        "init": init,
        "images": images,
        "targets": _labels(images),
        "optimizer": optax.sgd(LEARNING_RATE),
        "steps": steps,
        "record_steps": [steps],
        "batch_size": batch_size,
        "loss": "cross_entropy",
    }


def _labels(images: np.ndarray) -> np.ndarray:
    return np.arange(len(images), dtype=np.int32) % CLASSES


def _parameters(init: Any) -> np.ndarray:
    shapes = jax.eval_shape(
        lambda key: nnx.as_pure(nnx.state(init(key), nnx.Param)), jax.random.key(0)
    )
    return np.array([float(sum(leaf.size for leaf in jax.tree.leaves(shapes)))])
