"""Images put together from patches that were exchanged or changed."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import check_images, check_keys
from linear_cnn.datasets._blocks import (
    blocks,
    fitting_kernel,
    host_images,
    real_numbers,
    unit_direction,
)

_Array = TypeVar("_Array", np.ndarray, jax.Array)


def shuffle_patches(
    images: ArrayLike, kernel_size: int | Sequence[int], key: jax.Array
) -> jax.Array:
    """Images put together from patches drawn without replacement across all images.

    The images are cropped to a multiple of the kernel (top left corner kept), cut into
    non-overlapping patches, and the patches of all images are permuted. Taken with
    stride = kernel size, the patches of the result are the same set, so their spectrum
    is the same; but those of one image are now unrelated, as Theorem 4.2 of the paper
    assumes (up to their common mean: subtract it first).

    Args:
      images: floating point, (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw).
      key: JAX key of the permutation.

    Returns:
      images, (N, kh * (H // kh), kw * (W // kw), C), of the same dtype.

    Raises:
      TypeError: images of integer dtype, or no key. ValueError: wrong rank, NaN, or
        smaller than the kernel.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import numpy as np
      >>> images = np.arange(2.0 * 5 * 5).reshape(2, 5, 5, 1)
      >>> shuffled = linear_cnn.shuffle_patches(images, 2, jax.random.key(0))
      >>> shuffled.shape
      (2, 4, 4, 1)
      >>> np.array_equal(np.sort(shuffled, None), np.sort(images[:, :4, :4], None))
      True
    """
    check_images(images)
    check_keys("key", key, axes=0)
    images = jnp.asarray(images)
    patches = _cut(images, fitting_kernel(images, kernel_size))
    shuffled = jax.random.permutation(key, patches.reshape(-1, *patches.shape[3:]))
    return _join(shuffled.reshape(patches.shape))


def scale_component(
    images: ArrayLike,
    direction: ArrayLike,
    kernel_size: int | Sequence[int],
    alpha: float,
) -> np.ndarray:
    r"""Images whose patches have one component scaled (paper, appendix D.2).

    .. math:: p \to p + (\alpha - 1)\, u\, u^T p

    The images are cropped to a multiple of the kernel (top left corner kept) and cut
    into non-overlapping patches p, which are put back in their places. Taken with
    stride = kernel size, the patches of the result have the variance along u times
    alpha^2, the covariances of u with other directions times alpha, and all else
    unchanged.

    Args:
      images: floating point, (N, H, W, C).
      direction: u, e.g. a PCA vector of the patches; (d,) with d = kh*kw*C in the order
        (kh, kw, C), or (kh, kw, C). It is scaled to unit length.
      kernel_size: kh = kw, or (kh, kw).
      alpha: factor of the component: 1 changes nothing, 0 removes it.

    Returns:
      images, (N, kh * (H // kh), kw * (W // kw), C), of the same dtype.

    Raises:
      TypeError: images of integer dtype, direction or alpha no real numbers.
        ValueError: images of wrong rank, with NaN, or smaller than the kernel; a
        direction of another shape, not finite or zero; alpha not finite.

    Examples:
      Without the component along (1, 1, 1, 1) the mean of every 2x2 patch is 0:

      >>> import linear_cnn
      >>> import numpy as np
      >>> images = np.random.default_rng(0).random((10, 5, 5, 1))
      >>> changed = linear_cnn.scale_component(images, np.ones(4), 2, alpha=0)
      >>> changed.shape
      (10, 4, 4, 1)
      >>> np.allclose(changed.reshape(10, 2, 2, 2, 2).mean(axis=(2, 4)), 0)
      True
    """
    images = host_images(images)
    kernel = fitting_kernel(images, kernel_size)
    unit = unit_direction(direction, (*kernel, images.shape[-1])).ravel()
    factor = real_numbers("alpha", alpha)
    if factor.ndim:
        raise ValueError(f"alpha must be one number, got shape {factor.shape}.")
    rows, columns = images.shape[1] // kernel[0], images.shape[2] // kernel[1]
    result = np.empty(
        (len(images), rows * kernel[0], columns * kernel[1], images.shape[-1]),
        images.dtype,
    )
    for part, block in blocks(images):
        patches = _cut(block, kernel)
        vectors = patches.reshape(-1, len(unit))
        scaled = vectors + np.outer((factor - 1) * (vectors @ unit), unit)
        result[part] = _join(scaled.reshape(patches.shape))
    return result


def _cut(images: _Array, kernel: tuple[int, int]) -> _Array:
    """Non-overlapping patches, (N, H // kh, W // kw, kh, kw, C), without what is left
    at the bottom and the right."""
    (kh, kw), (count, height, width, channels) = kernel, images.shape
    rows, columns = height // kh, width // kw
    cropped = images[:, : rows * kh, : columns * kw]
    return cropped.reshape(count, rows, kh, columns, kw, channels).swapaxes(2, 3)


def _join(patches: _Array) -> _Array:
    """The images that `_cut` cut, (N, rows * kh, columns * kw, C)."""
    count, rows, columns, kh, kw, channels = patches.shape
    return patches.swapaxes(2, 3).reshape(count, rows * kh, columns * kw, channels)
