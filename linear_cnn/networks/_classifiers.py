"""The deep networks: what the paper trained, and a small one."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from linear_cnn._checks import check_rngs, integer, pair
from linear_cnn.networks._convolution import convolution, max_pool

# Convolutions.
_VGG_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# Blocks a stage, filters a stage.
_RESNET_STAGES = {18: (2, (64, 128, 256, 512)), 20: (3, (16, 32, 64))}


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
        first_strides: int | Sequence[int] = 1,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
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
          first_kernel_size, first_strides: of `conv1` alone; one number or (down,
            right).
          dropout: probability that dropout sets an entry to 0.
          dtype: of weights, statistics and computation; images are converted to it.
          rngs: source of the initial weights and of the dropout masks.

        Raises:
          TypeError, ValueError: an unknown depth, a size below 1, a width that is not
            positive and finite, or dropout outside [0, 1).
        """
        stages, classes = (
            _of_depth(_VGG_STAGES, depth),
            integer("classes", classes, minimum=1),
        )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a probability in [0, 1), got {dropout}.")
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        channels = _first_features(first_features, _scaled(64, width))
        self.conv1 = _first_convolution(
            in_features, channels, first_kernel_size, first_strides, **make
        )
        layers: list[Callable[..., Any]] = [BatchNorm(channels, **make), nnx.relu]
        for stage, (convolutions, full_width) in enumerate(
            zip(stages, (64, 128, 256, 512, 512), strict=True)
        ):
            features = _scaled(full_width, width)
            # Conv1 is the first stage's first.
            for _ in range(convolutions - (stage == 0)):
                layers += [
                    _convolution(channels, features, **make),
                    BatchNorm(features, **make),
                    nnx.relu,
                ]
                channels = features
            layers.append(max_pool)
        self.features = nnx.Sequential(*layers)
        hidden = _scaled(512, width)
        self.classifier = nnx.Sequential(
            nnx.Dropout(dropout, rngs=rngs),
            _linear(channels, hidden, **make),
            nnx.relu,
            nnx.Dropout(dropout, rngs=rngs),
            _linear(hidden, hidden, **make),
            nnx.relu,
            _linear(hidden, classes, **make),
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank or with other channels than the filters, or
            too small for the five pools.
        """
        _check_images(images, self.conv1, pools=5)
        return self.classifier(self.features(self.conv1(images)).mean(axis=(1, 2)))


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
    ImageNet networks is `ResNet(18, 1000, first_kernel_size=7, first_strides=2,
    first_pool=True)`, with 11,689,512 parameters.

    Attributes:
      conv1: the first convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        first_features).
      features: the layers after it, up to the last block.
      classifier: the linear layer.
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
        first_strides: int | Sequence[int] = 1,
        first_pool: bool = False,
        dtype: Any = jnp.float32,
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
          first_kernel_size, first_strides: of `conv1` alone; one number or (down,
            right).
          first_pool: whether a 3x3 max pool with stride 2 follows the first layer, as
            in ImageNet networks.
          dtype: of weights, statistics and computation; images are converted to it.
          rngs: source of the initial weights.

        Raises:
          TypeError, ValueError: an unknown depth, a size below 1, or a width that is
            not positive and finite.
        """
        (blocks, widths), classes = (
            _of_depth(_RESNET_STAGES, depth),
            integer("classes", classes, minimum=1),
        )
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        channels = _first_features(first_features, _scaled(widths[0], width))
        self.conv1 = _first_convolution(
            in_features,
            channels,
            first_kernel_size,
            first_strides,
            use_bias=False,
            **make,
        )
        layers: list[Callable[..., Any]] = [BatchNorm(channels, **make), nnx.relu]
        if first_pool:
            layers.append(_overlapping_max_pool)
        for stage, full_width in enumerate(widths):
            features = _scaled(full_width, width)
            for block in range(blocks):
                strides = (2, 2) if stage and not block else (1, 1)
                layers.append(ResidualBlock(channels, features, strides, **make))
                channels = features
        self.features = nnx.Sequential(*layers)
        self.classifier = _linear(channels, classes, **make)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank, with other channels than the filters, or
            smaller than these.
        """
        _check_images(images, self.conv1)
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
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        make: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.residual = nnx.Sequential(
            _convolution(
                in_features, features, (3, 3), strides, use_bias=False, **make
            ),
            BatchNorm(features, **make),
            nnx.relu,
            _convolution(features, features, use_bias=False, **make),
            BatchNorm(features, **make),
        )
        projection: list[Callable[..., Any]] = []
        if strides != (1, 1) or in_features != features:
            projection = [
                _convolution(
                    in_features, features, (1, 1), strides, use_bias=False, **make
                ),
                BatchNorm(features, **make),
            ]
        self.shortcut = nnx.Sequential(*projection)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, in_features) -> (N, H / strides, W / strides, features), sizes
        rounded up."""
        return nnx.relu(self.shortcut(x) + self.residual(x))


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm in the precision of the network, float64 included."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        super().__init__(
            features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        # Flax makes the statistics float32, and its updates would turn those of a
        # float64 network into float64.
        at_least_float32 = np.promote_types(dtype, np.float32)
        self.mean = nnx.BatchStat(jnp.zeros(features, at_least_float32))
        self.var = nnx.BatchStat(jnp.ones(features, at_least_float32))

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """(..., features) -> the same shape."""
        with jax.numpy_dtype_promotion("standard"):  # Flax's own arithmetic needs it
            outputs: jax.Array = super().__call__(x)
        return outputs


class SmallCNN(nnx.Module):
    """A small network for many seeds: convolutions, each with bias, ReLU and a 2x2 max
    pool, and one linear layer.

    The convolutions are 3x3 (the first may be otherwise) with SAME padding, and the
    linear layer reads the mean over locations. No batch norm and no dropout: training
    and evaluation are the same. The initial weights are those of `VGG`.

    Attributes:
      conv1: the first convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        features[0]).
      features: the layers after it, up to the last pool.
      classifier: the linear layer.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        in_features: int = 3,
        features: Sequence[int] = (8, 16, 32),
        first_kernel_size: int | Sequence[int] = 3,
        first_strides: int | Sequence[int] = 1,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the weights.

        Args:
          classes: M, number of outputs.
          in_features: C, channels of the images.
          features: number of filters of each convolution; that of `conv1` is the first.
          first_kernel_size, first_strides: of `conv1` alone; one number or (down,
            right).
          dtype: of weights and computation; images are converted to it.
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
        self.conv1 = _first_convolution(
            in_features, features[0], first_kernel_size, first_strides, **make
        )
        layers: list[Callable[..., Any]] = [nnx.relu, max_pool]
        for channels, following in pairwise(features):
            layers += [_convolution(channels, following, **make), nnx.relu, max_pool]
        self.features = nnx.Sequential(*layers)
        self.classifier = _linear(features[-1], classes, **make)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> logits (N, classes).

        Raises:
          ValueError: images of another rank or with other channels than the filters, or
            too small for the pools.
        """
        _check_images(
            images,
            self.conv1,
            pools=sum(layer is max_pool for layer in self.features.layers),
        )
        return self.classifier(self.features(self.conv1(images)).mean(axis=(1, 2)))


def _of_depth(table: dict[int, Any], depth: int) -> Any:
    if depth not in table:
        raise ValueError(f"depth must be one of {sorted(table)}, got {depth!r}.")
    return table[depth]


def _scaled(features: int, width: float) -> int:
    if not 0 < width < np.inf:
        raise ValueError(
            "width must be positive and finite, 1 for the published widths, got"
            f" {width}."
        )
    return max(1, round(features * width))


def _first_features(chosen: int | None, default: int) -> int:
    return default if chosen is None else integer("first_features", chosen, minimum=1)


def _first_convolution(
    in_features: int,
    features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    **settings: Any,
) -> nnx.Conv:
    in_features = integer("in_features", in_features, minimum=1)
    check_rngs(settings["rngs"])
    return _convolution(
        in_features,
        features,
        pair("first_kernel_size", kernel_size),
        pair("first_strides", strides),
        **settings,
    )


def _convolution(
    in_features: int,
    features: int,
    kernel_size: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    *,
    use_bias: bool = True,
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """He normal by fan-out, biases 0. SAME: where strides equal a kernel that divides
    the image, patches tile it."""
    std = math.sqrt(2 / (math.prod(kernel_size) * features))

    def he_normal(
        key: jax.Array, shape: Any, dtype: Any, out_sharding: Any = None
    ) -> jax.Array:
        # Drawn flat: over random arrays of four axes XLA's compiler for the CPU takes
        # four times as long.
        return std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return nnx.Conv(
        in_features,
        features,
        kernel_size,
        strides=strides,
        padding="SAME",
        use_bias=use_bias,
        kernel_init=he_normal,
        dtype=dtype,
        param_dtype=dtype,
        conv_general_dilated=convolution,
        rngs=rngs,
    )


def _linear(
    in_features: int, features: int, *, dtype: Any, rngs: nnx.Rngs
) -> nnx.Linear:
    """Weights and biases uniform within 1 / sqrt(in_features)."""
    bound = 1 / math.sqrt(in_features)

    def uniform(
        key: jax.Array, shape: Any, dtype: Any, out_sharding: Any = None
    ) -> jax.Array:
        return jax.random.uniform(
            key, (math.prod(shape),), dtype, -bound, bound
        ).reshape(shape)

    return nnx.Linear(
        in_features,
        features,
        kernel_init=uniform,
        bias_init=uniform,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


def _overlapping_max_pool(images: jax.Array) -> jax.Array:
    return nnx.max_pool(images, (3, 3), (2, 2), "SAME")


def _check_images(images: jax.Array, conv1: nnx.Conv, pools: int = 0) -> None:
    """Raise unless the images suit the filters and leave a location after so many 2x2
    pools."""
    if images.ndim != 4 or images.shape[-1] != conv1.in_features:
        raise ValueError(
            f"images must have shape (N, H, W, {conv1.in_features}), got"
            f" {images.shape}."
        )
    kernel_size, strides = conv1.kernel_size, pair("strides", conv1.strides)
    smallest = [
        max(k, (2**pools - 1) * s + 1)
        for k, s in zip(kernel_size, strides, strict=True)
    ]
    if any(
        length < least
        for length, least in zip(images.shape[1:3], smallest, strict=True)
    ):
        raise ValueError(
            f"images of shape {images.shape} are too small: a first kernel of"
            f" {kernel_size[0]}x{kernel_size[1]} with strides {strides} and {pools} max"
            f" pools need at least {smallest[0]}x{smallest[1]} pixels; enlarge the"
            " images, or give a smaller first_kernel_size or first_strides."
        )
