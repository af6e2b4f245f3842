"""Patches of images: where they lie, and their sums without forming them.

A patch is flattened in the order (kh, kw, C) of a Flax kernel, d = kh*kw*C numbers.
Zero padding is part of the patches, as it is of the convolution.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from theory._precision import matmul, namespace

Padding = str | int | Sequence[int | Sequence[int]]


class Window(NamedTuple):
    """The locations of a convolution's patches in images of one size."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    locations: tuple[int, int]


def pair(name: str, value: int | Sequence[int], *, minimum: int = 1) -> tuple[int, int]:
    """An int or a pair of them, as a pair."""
    values = (
        tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value, value)
    )
    try:
        values = tuple(operator.index(v) for v in values)
    except TypeError as error:
        raise TypeError(
            f"{name} must be an integer or a pair of integers, got {value!r}."
        ) from error
    if len(values) != 2 or min(values) < minimum:
        raise ValueError(
            f"{name} must be one or two integers >= {minimum}, got {value!r}."
        )
    return values


def flatten_kernel(kernel: jax.Array) -> jax.Array:
    """(..., kh, kw, C, K) -> (..., d, K) with d = kh*kw*C, the flattening order of
    patches."""
    return kernel.reshape(*kernel.shape[:-4], -1, kernel.shape[-1])


def window(
    image_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
) -> Window:
    """The locations of patches, in the conventions of `jax.lax` and `flax.nnx.Conv`.

    Args:
      image_shape: (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw).
      stride: of the convolution, both axes or (down, right).
      padding: "VALID", "SAME", "SAME_LOWER", a number of pixels, or ((top, bottom),
        (left, right)).

    Raises:
      ValueError: an argument is malformed, or the padded image is smaller than the
        kernel.
    """
    size = pair("kernel_size", kernel_size)
    steps = pair("stride", stride)
    if isinstance(padding, str):
        if padding.upper() not in ("VALID", "SAME", "SAME_LOWER"):
            raise ValueError(
                "padding must be 'VALID', 'SAME', 'SAME_LOWER', a number of pixels or"
                f" pairs of them, got {padding!r}."
            )
        pads = tuple(
            lax.padtype_to_pads(image_shape[1:3], size, steps, padding.upper())
        )
    else:
        sides: Any = (
            padding
            if isinstance(padding, (Sequence, np.ndarray))
            else (padding, padding)
        )
        if len(sides) != 2:
            raise ValueError(
                "padding must have one entry for each of the two image axes, got"
                f" {padding!r}."
            )
        pads = tuple(pair("padding", side, minimum=0) for side in sides)
    padded = [
        length + sum(side) for length, side in zip(image_shape[1:3], pads, strict=True)
    ]
    if any(length < k for length, k in zip(padded, size, strict=True)):
        raise ValueError(
            f"images of {image_shape[1]}x{image_shape[2]} pixels (padded to"
            f" {padded[0]}x{padded[1]}) are smaller than kernel_size"
            f" {size[0]}x{size[1]}; use larger images, padding, or a smaller kernel."
        )
    locations = [
        (length - k) // s + 1 for length, k, s in zip(padded, size, steps, strict=True)
    ]
    return Window(size, steps, pads, (locations[0], locations[1]))  # type: ignore[arg-type]


def pad_images(images: Any, where: Window) -> Any:
    """Images with the zero padding of the patches."""
    return namespace(images).pad(images, ((0, 0), *where.padding, (0, 0)))


def patch_sums(
    padded: Any,
    where: Window,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
) -> Any:
    """Sum of the patches of every image, (n, d), over all locations or those between
    two rows and two columns.

    Args:
      padded: images with their padding, (n, H, W, C).
      rows, columns: first and last + 1 location.
    """
    xp = namespace(padded)
    count, height, width, channels = padded.shape
    (kh, kw), stride = where.kernel_size, where.stride
    over_rows = xp.asarray(
        _membership(height, kh, stride[0], rows or (0, where.locations[0])),
        padded.dtype,
    )
    over_columns = xp.asarray(
        _membership(width, kw, stride[1], columns or (0, where.locations[1])),
        padded.dtype,
    )
    sums = matmul(over_rows, padded.reshape(count, height, width * channels))
    return matmul(over_columns, sums.reshape(count, kh, width, channels)).reshape(
        count, -1
    )


def _membership(
    length: int, size: int, stride: int, span: tuple[int, int]
) -> np.ndarray:
    """1 where entry k of a patch meets a pixel at one of the locations of the span,
    (size, length)."""
    offset = np.arange(length)[None, :] - np.arange(size)[:, None]
    return (
        (offset % stride == 0)
        & (offset >= span[0] * stride)
        & (offset < span[1] * stride)
    )
