"""VGG, as the paper trained it."""

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
from linear_cnn.networks._pooling import max_pool

# Convolutions.
_VGG_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nnx.Module):
    """VGG with batch norm in its CIFAR form, as the paper trains it.

    Five stages of 3x3 convolutions (with bias, SAME padding), each followed by batch
    norm and ReLU, each stage by a 2x2 max pool:

    | depth | convolutions a stage | filters a stage         |
    |-------|----------------------|-------------------------|
    | 11    | 1, 1, 2, 2, 2        | 64, 128, 256, 512, 512  |
    | 13    | 2, 2, 2, 2, 2        | the same                |
    | 16    | 2, 2, 3, 3, 3        | the same                |
    | 19    | 2, 2, 4, 4, 4        | the same                |

    Then the mean over the locations that are left (one, for 32x32 images) and the
    classifier: twice dropout, a linear layer of 512 and ReLU, then a linear layer of
    one output a class. Filters are He normal by fan-out, their biases 0; linear layers
    are uniform within 1 / sqrt(fan-in). Depth 11 has 9,756,426 parameters for 10
    classes.

    A new network is in training mode: batch norm takes the batch's statistics and
    updates the running ones (a tenth of the way a step), dropout draws a new mask at
    every call. `network.eval()` and `network.train()` switch.

    Attributes:
      conv1: the first convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        first_features).
      features: the layers after it, up to the last pool.
      classifier: the layers after the mean.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = nnx.eval_shape(lambda: linear_cnn.VGG(11, rngs=nnx.Rngs(0)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
      9756426
      >>> network.conv1.kernel.shape
      (3, 3, 3, 64)
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
        dropout: float = 0.5,
        dtype: DTypeLike = jnp.float32,
        conv_general_dilated: Convolution = convolution,
        first_strides: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the weights.

        Args:
          depth: number of layers with weights: 11, 13, 16 or 19.
          classes: M, number of outputs.
          in_features: C, channels of the images.
          width: multiplies the numbers of filters and the classifier's width of 512;
            rounded, at least 1.
          first_features: K, number of filters of `conv1` alone; 64 * width if None.
          first_kernel_size, first_stride: of `conv1` alone; one number or (down,
            right).
          dropout: probability that dropout sets an entry to 0.
          dtype: of weights, statistics and computation; images are converted to it.
          conv_general_dilated: how to convolve, with the arguments of
            `jax.lax.conv_general_dilated`. By default whichever is fast: on a CPU
            `patch_convolution`, elsewhere XLA's own but under `jax.vmap` over seeds.
          first_strides: the old name of `first_stride`; warns.
          rngs: source of the initial weights and of the dropout masks.

        Raises:
          TypeError, ValueError: an unknown depth, a size below 1, a width that is not
            positive and finite, or dropout outside [0, 1).
        """
        stages, classes = (
            of_depth(_VGG_STAGES, depth),
            integer("classes", classes, minimum=1),
        )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a probability in [0, 1), got {dropout}.")
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        convolve = make | {"conv_general_dilated": conv_general_dilated}
        channels = first_width(first_features, scaled_width(64, width))
        self.conv1 = first_convolution_layer(
            in_features,
            channels,
            first_kernel_size,
            first_stride,
            first_strides,
            **convolve,
        )
        layers: list[Callable[..., Any]] = [BatchNorm(channels, **make), nnx.relu]
        for stage, (convolutions, full_width) in enumerate(
            zip(stages, (64, 128, 256, 512, 512), strict=True)
        ):
            features = scaled_width(full_width, width)
            # Conv1 is the first stage's first.
            for _ in range(convolutions - (stage == 0)):
                layers += [
                    convolution_layer(channels, features, **convolve),
                    BatchNorm(features, **make),
                    nnx.relu,
                ]
                channels = features
            layers.append(max_pool)
        self.features = nnx.Sequential(*layers)
        hidden = scaled_width(512, width)
        self.classifier = nnx.Sequential(
            nnx.Dropout(dropout, rngs=rngs),
            linear_layer(channels, hidden, **make),
            nnx.relu,
            nnx.Dropout(dropout, rngs=rngs),
            linear_layer(hidden, hidden, **make),
            nnx.relu,
            linear_layer(hidden, classes, **make),
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank or with other channels than the filters, or
            too small for the five pools.
        """
        check_layers_fit(images, self.conv1, pools=5)
        return self.classifier(self.features(self.conv1(images)).mean(axis=(1, 2)))
