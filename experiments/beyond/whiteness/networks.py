"""Networks before training that keep a part of batch norm, and the layers through
which their signal flows back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import linear_cnn
from experiments.beyond.whiteness import recursion
from experiments.beyond.whiteness.settings import Settings

GAINS = (0.5, 1.5)  # between which they are drawn


class Held(nnx.Module):
    """A norm whose statistics are held."""

    def __init__(self, mean: jax.Array, factor: jax.Array) -> None:
        self.mean = nnx.Variable(mean)
        self.factor = nnx.Variable(factor)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, h, w, features) -> the same shape."""
        return (x - self.mean[...]) * self.factor[...]


class Settled(NamedTuple):
    """A network with its norms held.

    Attributes:
      network: it.
      layers: for each convolution or block from the second on, the steps of
        `recursion` from it to the next.
      size: height and width of the maps of which the mean is taken.
    """

    network: Any
    layers: list[list[recursion.Step]]
    size: tuple[int, int]


def make_deep(name: str, settings: Settings, key: jax.Array) -> Any:
    """One of DEEP before training."""
    rngs = nnx.Rngs(key)
    options: dict[str, Any] = {
        "width": settings.width,
        "first_features": settings.first_features,
    }
    if name == "VGG11":
        return linear_cnn.VGG(11, dropout=0.0, rngs=rngs, **options)
    return linear_cnn.ResNet(18, rngs=rngs, **options)


def make_small(layers: int, settings: Settings, key: jax.Array) -> Any:
    """SmallCNN of so many layers before training."""
    features = (settings.first_features,) * layers
    return linear_cnn.SmallCNN(features=features, batch_norm=True, rngs=nnx.Rngs(key))


def settled(
    network: Any, kept: str, images: np.ndarray, random: np.random.Generator
) -> Settled:
    """The network, which is changed, with what is kept of its norms, one of NORMS, held
    at the statistics of the images.

    Args:
      random: of drawn gains.
    """
    layers = list(network.features.layers)
    second = next(i for i, layer in enumerate(layers) if _has_weights(layer))
    first = _passed(layers[:second], network.conv1(images), kept, random)
    rest = _passed(layers[second:], first.maps, kept, random)
    network.features = nnx.Sequential(*first.layers, *rest.layers)
    network.eval()
    starts = [i for i, layer in enumerate(rest.layers) if _has_weights(layer)]
    ends = [*starts[1:], len(rest.layers)]
    groups = [
        [step for steps in rest.steps[start:end] for step in steps]
        for start, end in zip(starts, ends, strict=True)
    ]
    _, height, width, _ = rest.maps.shape
    return Settled(network, groups, (height, width))


def _has_weights(layer: Any) -> bool:
    return isinstance(layer, nnx.Conv) or hasattr(layer, "residual")


class _Passed(NamedTuple):
    """Layers with their norms held, the steps of each, and the maps after them."""

    layers: list[Callable[..., Any]]
    steps: list[list[recursion.Step]]
    maps: jax.Array


def _passed(
    layers: Sequence[Any], maps: jax.Array, kept: str, random: np.random.Generator
) -> _Passed:
    held: list[Callable[..., Any]] = []
    steps: list[list[recursion.Step]] = []
    for layer in layers:
        own: list[recursion.Step] = []
        if isinstance(layer, nnx.BatchNorm):
            layer = _held(maps, kept, random)
            own = [recursion.scale(np.asarray(layer.factor[...]))]
        elif isinstance(layer, nnx.Conv):
            own = [_convolution(layer, maps)]
        elif hasattr(layer, "residual"):
            ways = [
                _passed(way.layers, maps, kept, random)
                for way in (layer.residual, layer.shortcut)
            ]
            layer.residual, layer.shortcut = (nnx.Sequential(*w.layers) for w in ways)
            flat = [[step for steps in way.steps for step in steps] for way in ways]
            after = layer(maps)
            own = [recursion.block(*flat), recursion.gate(np.asarray(after > 0))]
        elif layer is nnx.relu:
            own = [recursion.gate(np.asarray(maps > 0))]
        else:  # a max pool, whose winners the ReLU before it lets pass or not
            steps[-1] = [_pool(layer, maps)]
        held.append(layer)
        steps.append(own)
        maps = layer(maps)
    return _Passed(held, steps, maps)


def _convolution(conv: nnx.Conv, maps: jax.Array) -> recursion.Step:
    strides: Any = conv.strides
    down, right = np.broadcast_to(strides, 2).tolist()
    height, width = maps.shape[1:3]
    kernel = np.asarray(conv.kernel[...])
    return recursion.convolution(kernel, (down, right), (height, width))


def _pool(pool: Callable[[jax.Array], jax.Array], maps: jax.Array) -> recursion.Step:
    """Of maps after a ReLU."""
    pooled, pull_back = jax.vjp(pool, maps)
    (winner,) = pull_back(jnp.ones_like(pooled))
    window = maps.shape[1] // pooled.shape[1]
    return recursion.gate(np.asarray((winner > 0) & (maps > 0)), window)


def _held(maps: jax.Array, kept: str, random: np.random.Generator) -> Held:
    axes = (0, 1, 2)
    mean = jnp.zeros((1, 1, 1, maps.shape[-1]), maps.dtype)
    factor = jnp.ones_like(mean)
    if kept in ("full", "gain", "mean"):
        mean = maps.mean(axes, keepdims=True)
    if kept in ("full", "gain", "variance"):
        factor = 1 / jnp.sqrt(maps.var(axes, keepdims=True) + 1e-5)
    if kept == "gain":
        factor *= jnp.asarray(random.uniform(*GAINS, factor.shape), factor.dtype)
    return Held(mean, factor)
