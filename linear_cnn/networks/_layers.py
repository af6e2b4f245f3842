"""What the deep networks are made of: their layers, and checks of their arguments."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from linear_cnn._checks import check_rngs, integer, pair, renamed
from linear_cnn.networks._convolution import Convolution


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm in the precision of the network, float64 included."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
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


def of_depth(table: dict[int, Any], depth: int) -> Any:
    if depth not in table:
        raise ValueError(f"depth must be one of {sorted(table)}, got {depth!r}.")
    return table[depth]


def scaled_width(features: int, width: float) -> int:
    if not 0 < width < np.inf:
        raise ValueError(
            "width must be positive and finite, 1 for the published widths, got"
            f" {width}."
        )
    return max(1, round(features * width))


def first_width(chosen: int | None, default: int) -> int:
    return default if chosen is None else integer("first_features", chosen, minimum=1)


def first_convolution_layer(
    in_features: int,
    features: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    old_stride: int | Sequence[int] | None,
    **settings: Any,
) -> nnx.Conv:
    """`old_stride` is what came as first_strides, the earlier name."""
    in_features = integer("in_features", in_features, minimum=1)
    check_rngs(settings["rngs"])
    stride = renamed("first_strides", old_stride, "first_stride", stride)
    return convolution_layer(
        in_features,
        features,
        pair("first_kernel_size", kernel_size),
        pair("first_stride", stride),
        **settings,
    )


def convolution_layer(
    in_features: int,
    features: int,
    kernel_size: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    *,
    use_bias: bool = True,
    dtype: DTypeLike,
    conv_general_dilated: Convolution,
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
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def linear_layer(
    in_features: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
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


def check_layers_fit(images: jax.Array, conv1: nnx.Conv, pools: int = 0) -> None:
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
            " images, or give a smaller first_kernel_size or first_stride."
        )
