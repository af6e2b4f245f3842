"""Convolution that is fast to differentiate on a CPU, in any mode.

XLA's own convolution is slow where it matters here: on a CPU its gradients run as plain
loops inside a compiled training loop; and under `jax.vmap` over kernels (training many
seeds at once) it becomes, on every backend, a grouped convolution. Products of matrices
suffer neither.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from linear_cnn._checks import check_fits
from linear_cnn.networks._bilinear import NHWC, convolve
from linear_cnn.networks._products import Settings

Convolution = Callable[..., jax.Array]
"""With the arguments of `jax.lax.conv_general_dilated`."""


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Whichever convolution is fast on JAX's default backend: `patch_convolution` on a
    CPU, XLA's own elsewhere.

    Accelerators have convolutions of their own, which need no memory for patches; under
    `jax.vmap` `patch_convolution` takes their place. Arguments, result and errors are
    those of `patch_convolution`.
    """
    by_xla = jax.default_backend() != "cpu"
    return _convolution(by_xla, lhs, rhs, window_strides, padding, **options)


def patch_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = NHWC,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    """Two-dimensional convolution of NHWC images, computed as (patches) @ (filters).

    It has the signature of `jax.lax.conv_general_dilated`, so it can be handed to
    `flax.nnx.Conv` as its `conv_general_dilated` argument, and returns the same values
    up to rounding; its derivatives too, of any order and in either mode. Convolutions
    that are no such products, by dilation, groups, a sharding, another layout, another
    number of axes, or integers, are left to `jax.lax.conv_general_dilated`.

    Filters of 3x3 pixels at stride 1, between at least 16 channels and as many filters,
    are applied by Winograd's algorithm, whose products have 4/9 of the multiplications;
    its rounding error is of the same order. At `jax.lax.Precision.HIGHEST` the product
    is always the plain one.

    Args:
      lhs: images, (N, H, W, C).
      rhs: filters in Flax order, (kh, kw, C, K).
      window_strides: two strides.
      padding: "SAME", "SAME_LOWER", "VALID", or ((top, bottom), (left, right)).
      lhs_dilation, rhs_dilation, feature_group_count, batch_group_count, out_sharding:
        as in `jax.lax.conv_general_dilated`.
      dimension_numbers: the same, but NHWC images with (kh, kw, C, K) filters by
        default.
      precision, preferred_element_type: of the matrix product.

    Returns:
      responses, (N, H', W', K).

    Raises:
      ValueError: images with other channels than the filters, or smaller than these,
        padding included.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
      >>> filters = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
      >>> ours = linear_cnn.patch_convolution(images, filters, (1, 1), "SAME")
      >>> order = ("NHWC", "HWIO", "NHWC")
      >>> xlas = jax.lax.conv_general_dilated(
      ...     images, filters, (1, 1), "SAME", dimension_numbers=order
      ... )
      >>> ours.shape, bool(jax.numpy.allclose(ours, xlas, atol=1e-4))
      ((2, 8, 8, 4), True)
    """
    return _convolution(
        False,
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        out_sharding,
    )


def _convolution(
    by_xla: bool,
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = NHWC,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    grouped = feature_group_count != 1 or batch_group_count != 1
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    dtype = jnp.result_type(lhs, rhs)
    if (
        dilated
        or grouped
        or layout != NHWC
        or out_sharding is not None
        or not jnp.issubdtype(dtype, jnp.inexact)
    ):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            layout,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
            out_sharding,
        )
    kh, kw, channels, _ = rhs.shape
    if lhs.shape[-1] != channels:
        raise ValueError(
            f"images of shape {lhs.shape} have {lhs.shape[-1]} channels, but the"
            f" filters {channels}."
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (kh, kw), window_strides, padding)
    check_fits(lhs.shape[1:3], padding, (kh, kw))
    down, right = window_strides
    (top, bottom), (left, right_pad) = padding
    pads = ((top, bottom), (left, right_pad))
    settings = Settings((down, right), pads, precision, preferred_element_type)
    return convolve(lhs.astype(dtype), rhs.astype(dtype), settings, by_xla)
