"""Transformations of data sets."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linear_cnn._arguments import check_fits, check_images, check_keys, pair


def shuffle_patches(images: Any, kernel_size: int | Sequence[int], key: jax.Array) -> jax.Array:
    """Images put together from patches drawn without replacement across all images.

    The images are cropped to a multiple of the kernel (top left corner kept), cut into non-overlapping patches,
    and the patches of all images are permuted. Taken with stride = kernel size, the patches of the result are
    the same set, so their spectrum is the same; but those of one image are now unrelated, as
    Theorem 4.2 of the paper assumes (up to their common mean: subtract it first).

    Args:
      images: floating point, (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw).
      key: JAX key of the permutation.

    Returns:
      images, (N, kh * (H // kh), kw * (W // kw), C), of the same dtype.

    Raises:
      TypeError: images of integer dtype, or no key. ValueError: wrong rank, NaN, or smaller than the kernel.
    """
    check_images(images)
    check_keys("key", key, axes=0)
    kh, kw = pair("kernel_size", kernel_size)
    count, height, width, channels = np.shape(images)
    check_fits((height, width), ((0, 0), (0, 0)), (kh, kw))
    rows, columns = height // kh, width // kw
    blocks = jnp.asarray(images)[:, : rows * kh, : columns * kw].reshape(count, rows, kh, columns, kw, channels)
    patches = blocks.swapaxes(2, 3).reshape(-1, kh, kw, channels)
    shuffled = jax.random.permutation(key, patches).reshape(count, rows, columns, kh, kw, channels)
    return shuffled.swapaxes(2, 3).reshape(count, rows * kh, columns * kw, channels)
