"""Convolution as a product of patches and filters.

Under `jax.vmap` over kernels (training many seeds at once) XLA's convolution becomes a grouped
convolution, which is several times slower than the same arithmetic as one matrix product.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from linear_cnn._arguments import check_fits

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def patch_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = NHWC,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Two-dimensional convolution of NHWC images, computed as (patches) @ (filters).

    It has the signature of `jax.lax.conv_general_dilated`, so it can be handed to `flax.nnx.Conv`
    as its `conv_general_dilated` argument, and returns the same values up to rounding.

    Args:
      lhs: images, (N, H, W, C).
      rhs: filters in Flax order, (kh, kw, C, K).
      window_strides: two strides.
      padding: "SAME", "SAME_LOWER", "VALID", or ((top, bottom), (left, right)).
      lhs_dilation, rhs_dilation, feature_group_count, batch_group_count, out_sharding: only their trivial values.
      dimension_numbers: only NHWC images with (kh, kw, C, K) filters.
      precision, preferred_element_type: of the matrix product.

    Returns:
      responses, (N, H', W', K).

    Raises:
      NotImplementedError: dilation, groups, a sharding or another layout were asked for.
      ValueError: images with other channels than the filters, or smaller than these, padding included.
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    grouped = feature_group_count != 1 or batch_group_count != 1
    if dilated or grouped or dimension_numbers != NHWC or out_sharding is not None:
        raise NotImplementedError(
            "patch_convolution computes undilated, ungrouped convolutions of NHWC images; got "
            f"lhs_dilation={lhs_dilation}, rhs_dilation={rhs_dilation}, "
            f"feature_group_count={feature_group_count}, batch_group_count={batch_group_count}, "
            f"dimension_numbers={dimension_numbers}, out_sharding={out_sharding}. "
            "Use jax.lax.conv_general_dilated for these."
        )
    kh, kw, channels, filters = rhs.shape
    if lhs.shape[-1] != channels:
        raise ValueError(f"images of shape {lhs.shape} have {lhs.shape[-1]} channels, but the filters {channels}.")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (kh, kw), window_strides, padding)
    check_fits(lhs.shape[1:3], padding, (kh, kw))
    images = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    down, right = window_strides
    rows = (images.shape[1] - kh) // down + 1
    columns = (images.shape[2] - kw) // right + 1
    shifted = [
        images[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(shifted, axis=-1)  # last axis in the order (kh, kw, C) of the filters
    return jnp.matmul(
        patches, rhs.reshape(-1, filters), precision=precision, preferred_element_type=preferred_element_type
    )


def convolution(lhs: jax.Array, rhs: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """Whichever convolution is fast where the arrays are: `patch_convolution` on a CPU, XLA's own elsewhere.

    Arguments, result and errors are those of the two. An accelerator's own convolutions need no patches; XLA's
    for the CPU are slow, and several times slower yet when filters are batched by `jax.vmap`.
    """
    convolve = patch_convolution if jax.default_backend() == "cpu" else lax.conv_general_dilated
    return convolve(lhs, rhs, *arguments, **options)


def max_pool(images: jax.Array, window: int = 2) -> jax.Array:
    """Largest entries of non-overlapping windows, (N, H, W, C) -> (N, H // window, W // window, C)."""
    strides = (1, window, window, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, strides, strides, "VALID")
