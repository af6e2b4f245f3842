"""A small network, for many seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from linear_cnn._checks import integer
from linear_cnn.networks._convolution import Convolution, convolution
from linear_cnn.networks._layers import (
    BatchNorm,
    check_layers_fit,
    convolution_layer,
    first_convolution_layer,
    linear_layer,
)
from linear_cnn.networks._pooling import max_pool


class SmallCNN(nnx.Module):
    """A small network for many seeds: convolutions, each with bias, ReLU and a 2x2 max
    pool, and one linear layer.

    The convolutions are 3x3 (the first may be otherwise) with SAME padding, and the
    linear layer reads the mean over locations. No dropout, and by default no batch
    norm: training and evaluation are then the same. The initial weights are those of
    `VGG`.

    Attributes:
      conv1: the first convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        features[0]).
      features: the layers after it, up to the last pool.
      classifier: the linear layer.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.SmallCNN(features=(4, 8), rngs=nnx.Rngs(0))
      >>> images = jax.numpy.ones((2, 8, 8, 3))
      >>> jax.eval_shape(network, images).shape  # or network(images), computed
      (2, 10)
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        in_features: int = 3,
        features: Sequence[int] = (8, 16, 32),
        first_kernel_size: int | Sequence[int] = 3,
        first_stride: int | Sequence[int] = 1,
        batch_norm: bool = False,
        dtype: DTypeLike = jnp.float32,
        conv_general_dilated: Convolution = convolution,
        first_strides: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the weights.

        Args:
          classes: M, number of outputs.
          in_features: C, channels of the images.
          features: number of filters of each convolution; that of `conv1` is the first.
          first_kernel_size, first_stride: of `conv1` alone; one number or (down,
            right).
          batch_norm: whether batch norm, as in `VGG`, follows each convolution; conv1's
            initial weights are the same.
          dtype: of weights, statistics and computation; images are converted to it.
          conv_general_dilated: how to convolve, with the arguments of
            `jax.lax.conv_general_dilated`. By default whichever is fast: on a CPU
            `patch_convolution`, elsewhere XLA's own but under `jax.vmap` over seeds.
          first_strides: the old name of `first_stride`; warns.
          rngs: source of the initial weights.

        Raises:
          TypeError, ValueError: no layers, or a size below 1.
        """
        if not isinstance(features, Sequence) or not features:
            raise ValueError(
                "features must list every layer's number of filters, e.g. (8, 16, 32),"
                f" got {features!r}."
            )
        classes = integer("classes", classes, minimum=1)
        features = [integer("features", number, minimum=1) for number in features]
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        convolve = make | {"conv_general_dilated": conv_general_dilated}
        self.conv1 = first_convolution_layer(
            in_features,
            features[0],
            first_kernel_size,
            first_stride,
            first_strides,
            **convolve,
        )
        layers: list[Callable[..., Any]] = []
        for index, channels in enumerate(features):
            if index > 0:
                layers.append(
                    convolution_layer(features[index - 1], channels, **convolve)
                )
            if batch_norm:
                layers.append(BatchNorm(channels, **make))
            layers += [nnx.relu, max_pool]
        self.features = nnx.Sequential(*layers)
        self.classifier = linear_layer(features[-1], classes, **make)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank or with other channels than the filters, or
            too small for the pools.
        """
        check_layers_fit(
            images,
            self.conv1,
            pools=sum(layer is max_pool for layer in self.features.layers),
        )
        return self.classifier(self.features(self.conv1(images)).mean(axis=(1, 2)))
