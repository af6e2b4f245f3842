"""What the transformations of data sets share: images in float64, and checks.

Those that return NumPy arrays compute in float64 a few images at a time and round once
to the images' dtype, so beside the images and the result they need little memory, and
JAX's float64 flag does not matter.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import check_finite, check_fits, check_images, pair

# Float64 numbers of one block of images, which should stay in the processor's cache.
_BLOCK_ENTRIES = 2**17


def blocks(images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The images in float64, a few at a time, each time with their place."""
    size = max(1, _BLOCK_ENTRIES // images[0].size)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield part, images[part].astype(np.float64)


def host_images(images: ArrayLike) -> np.ndarray:
    images = np.asarray(images)
    check_images(images)
    return images


def fitting_kernel(
    images: np.ndarray | jax.Array, kernel_size: int | Sequence[int]
) -> tuple[int, int]:
    kernel = pair("kernel_size", kernel_size)
    check_fits(images.shape[1:3], ((0, 0), (0, 0)), kernel)
    return kernel


def unit_direction(direction: ArrayLike, shape: tuple[int, int, int]) -> np.ndarray:
    """The direction as a filter (kh, kw, C) of length 1, in float64."""
    values = real_numbers("direction", direction)
    kh, kw, channels = shape
    if values.shape not in ((kh * kw * channels,), shape):
        raise ValueError(
            f"direction must have shape ({kh * kw * channels},) or {shape}, for patches"
            f" of {kh}x{kw} pixels and {channels} channels, got {values.shape}; a"
            " column of PCA vectors is components[:, i]."
        )
    largest = np.abs(values).max()
    if largest == 0:
        raise ValueError("direction must not be zero.")
    # Whose squares neither overflow nor vanish.
    values = values.reshape(shape) / largest
    return values / np.linalg.norm(values)


def real_numbers(name: str, values: ArrayLike | Sequence[float]) -> np.ndarray:
    """The values in float64; raise unless they are finite real numbers."""
    values = np.asarray(values)
    if not any(
        jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer)
    ):
        raise TypeError(f"{name} must be real numbers, got {values.dtype}.")
    values = values.astype(np.float64)
    check_finite(name, values)
    return values
