"""ResNet, as the paper trained it."""

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
    first_width,
    linear_layer,
    of_depth,
    scaled_width,
)

# Blocks a stage, filters a stage.
_RESNET_STAGES = {18: (2, (64, 128, 256, 512)), 20: (3, (16, 32, 64))}


class ResNet(nnx.Module):
    """ResNet 20 and 18 (He et al., 2016), as the paper trains them.

    The first convolution with batch norm and ReLU, then stages of residual blocks: two
    3x3 convolutions, each with batch norm, ReLU between them and after the shortcut has
    been added. The first block of every stage but the first has stride 2. Then the mean
    over locations and a linear layer of one output a class.

    | depth | filters a stage    | blocks a stage | parameters                        |
    |-------|--------------------|----------------|-----------------------------------|
    | 20    | 16, 32, 64         | 3              | 272,474 for 10 classes            |
    | 18    | 64, 128, 256, 512  | 2              | 11,173,962 for 10 classes         |

    Where a block changes the shape, its shortcut is a 1x1 convolution with batch norm
    ("option B"). No convolution has a bias; padding is SAME. The initial weights and
    the two modes are those of `VGG`.

    By default the first layer is that of CIFAR networks, 3x3 with stride 1. That of
    ImageNet networks is `ResNet(18, 1000, first_kernel_size=7, first_stride=2,
    first_pool=True)`, with 11,689,512 parameters.

    Attributes:
      conv1: the first convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        first_features).
      features: the layers after it, up to the last block.
      classifier: the linear layer.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = nnx.eval_shape(lambda: linear_cnn.ResNet(20, rngs=nnx.Rngs(0)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
      272474
      >>> network.conv1.kernel.shape
      (3, 3, 3, 16)
    """

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        *,
        in_features: int = 3,
        width: float = 1.0,
        first_features: int | None = None,
        first_kernel_size: int | Sequence[int] = 3,
        first_stride: int | Sequence[int] = 1,
        first_pool: bool = False,
        dtype: DTypeLike = jnp.float32,
        conv_general_dilated: Convolution = convolution,
        first_strides: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the weights.

        Args:
          depth: 18 or 20.
          classes: M, number of outputs.
          in_features: C, channels of the images.
          width: multiplies the numbers of filters; rounded, at least 1.
          first_features: K, number of filters of `conv1` alone; that of the first stage
            if None.
          first_kernel_size, first_stride: of `conv1` alone; one number or (down,
            right).
          first_pool: whether a 3x3 max pool with stride 2 follows the first layer, as
            in ImageNet networks.
          dtype: of weights, statistics and computation; images are converted to it.
          conv_general_dilated: how to convolve, with the arguments of
            `jax.lax.conv_general_dilated`. By default whichever is fast: on a CPU
            `patch_convolution`, elsewhere XLA's own but under `jax.vmap` over seeds.
          first_strides: the old name of `first_stride`; warns.
          rngs: source of the initial weights.

        Raises:
          TypeError, ValueError: an unknown depth, a size below 1, or a width that is
            not positive and finite.
        """
        (blocks, widths), classes = (
            of_depth(_RESNET_STAGES, depth),
            integer("classes", classes, minimum=1),
        )
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        convolve = make | {"conv_general_dilated": conv_general_dilated}
        channels = first_width(first_features, scaled_width(widths[0], width))
        self.conv1 = first_convolution_layer(
            in_features,
            channels,
            first_kernel_size,
            first_stride,
            first_strides,
            use_bias=False,
            **convolve,
        )
        layers: list[Callable[..., Any]] = [BatchNorm(channels, **make), nnx.relu]
        if first_pool:
            layers.append(_overlapping_max_pool)
        for stage, full_width in enumerate(widths):
            features = scaled_width(full_width, width)
            for block in range(blocks):
                strides = (2, 2) if stage and not block else (1, 1)
                layers.append(ResidualBlock(channels, features, strides, **convolve))
                channels = features
        self.features = nnx.Sequential(*layers)
        self.classifier = linear_layer(channels, classes, **make)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank, with other channels than the filters, or
            smaller than these.
        """
        check_layers_fit(images, self.conv1)
        return self.classifier(self.features(self.conv1(images)).mean(axis=(1, 2)))


class ResidualBlock(nnx.Module):
    """The block of `ResNet`: x -> ReLU(shortcut(x) + residual(x)); the shortcut is x
    itself where shapes agree."""

    def __init__(
        self,
        in_features: int,
        features: int,
        strides: tuple[int, int],
        *,
        dtype: DTypeLike,
        conv_general_dilated: Convolution,
        rngs: nnx.Rngs,
    ) -> None:
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        convolve = make | {"conv_general_dilated": conv_general_dilated}
        self.residual = nnx.Sequential(
            convolution_layer(
                in_features, features, (3, 3), strides, use_bias=False, **convolve
            ),
            BatchNorm(features, **make),
            nnx.relu,
            convolution_layer(features, features, use_bias=False, **convolve),
            BatchNorm(features, **make),
        )
        projection: list[Callable[..., Any]] = []
        if strides != (1, 1) or in_features != features:
            projection = [
                convolution_layer(
                    in_features, features, (1, 1), strides, use_bias=False, **convolve
                ),
                BatchNorm(features, **make),
            ]
        self.shortcut = nnx.Sequential(*projection)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, in_features) -> (N, H / strides, W / strides, features), sizes
        rounded up."""
        return nnx.relu(self.shortcut(x) + self.residual(x))


def _overlapping_max_pool(images: jax.Array) -> jax.Array:
    return nnx.max_pool(images, (3, 3), (2, 2), "SAME")
