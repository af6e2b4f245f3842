"""Exact shortcuts for training a linear CNN: smaller data with the same trajectory."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from linear_cnn._checks import (
    Padding,
    check_finite,
    check_fits,
    check_images,
    pair,
    pixels_of_padding,
    renamed,
)


def mean_patch_images(
    images: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    strides: int | Sequence[int] | None = None,
) -> jax.Array:
    """The mean patch of every image, as an image of the kernel's size with one
    location.

    A network that pools its convolution globally sees an image only through its mean
    patch: the same network with padding "VALID" gives the same outputs and gradients on
    these images (ours; docs/derivations.md, section 7).

    Args:
      images: floating point, (N, H, W, C).
      kernel_size, stride, padding: of the convolution, as `LinearCNN` takes them; zero
        padding only.
      strides: the old name of `stride`; warns.

    Returns:
      images, (N, kh, kw, C), of the same dtype.

    Raises:
      TypeError: images of integer dtype. ValueError: wrong rank, NaN, or smaller than
        the kernel; malformed or other than zero padding.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> images = np.random.default_rng(0).random((5, 8, 8, 3))
      >>> small = linear_cnn.mean_patch_images(images, 3)
      >>> small.shape
      (5, 3, 3, 3)

      The pixel in the middle of a patch is anywhere but on the border of the image:

      >>> means = images[:, 1:-1, 1:-1].mean(axis=(1, 2))
      >>> np.allclose(small[:, 1, 1], means, atol=1e-5)
      True
    """
    check_images(images)
    images = jnp.asarray(images)
    stride = renamed("strides", strides, "stride", stride)
    kernel, steps = pair("kernel_size", kernel_size), pair("stride", stride)
    pads = pixels_of_padding(padding, images.shape[1:3], kernel, steps)
    check_fits(images.shape[1:3], pads, kernel)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    rows, columns = (
        (n - k) // s + 1
        for n, k, s in zip(padded.shape[1:3], kernel, steps, strict=True)
    )
    # Entry (i, j) of the mean patch averages the pixels (i, j) + stride * location.
    sums = lax.reduce_window(
        padded,
        0.0,
        lax.add,
        (1, rows, columns, 1),
        (1, 1, 1, 1),
        "VALID",
        window_dilation=(1, *steps, 1),
    )
    return sums[:, : kernel[0], : kernel[1]] / (rows * columns)


def compress(images: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    r"""The smallest data with the same full-batch trajectory: r = min(N, d)
    pseudo-images and pseudo-targets.

    With the QR decomposition :math:`P = Q R` of the N x d matrix of mean patches, they
    are :math:`\sqrt{r/N}\, R` and :math:`\sqrt{r/N}\, Q^T y`: the "mse" loss changes by
    a constant, its gradient not at all (ours; docs/derivations.md, section 7). Not for
    minibatches.

    Args:
      images: mean-patch images, (N, kh, kw, C), from `mean_patch_images`.
      targets: (N, ...): (N,), (N, M), or the targets of many seeds side by side, (N,
        S).

    Returns:
      images (r, kh, kw, C) and targets (r, ...), r = min(N, kh*kw*C), to be given to
      `train` in place of the originals.

    Raises:
      TypeError, ValueError: malformed images, or targets of another length.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> patches = jax.random.normal(jax.random.key(0), (100, 3, 3, 1))
      >>> targets = patches[:, 1, 1, 0]
      >>> few, values = linear_cnn.compress(patches, targets)
      >>> few.shape, values.shape
      ((9, 3, 3, 1), (9,))

      The mean of patch times target is the same, and with it the gradient:

      >>> means = [(y @ x.reshape(-1, 9)) / len(x)
      ...          for x, y in ((patches, targets), (few, values))]
      >>> bool(jax.numpy.allclose(*means, atol=1e-5))
      True
    """
    check_images(images)
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    count = images.shape[0]
    if targets.ndim == 0 or targets.shape[0] != count:
        raise ValueError(
            f"targets must have shape (N, ...) with N = {count}, the number of images,"
            f" got {targets.shape}."
        )
    check_finite("targets", targets)
    q, r = jnp.linalg.qr(images.reshape(count, -1))
    # A Python number, which leaves the images' dtype alone.
    scale = math.sqrt(r.shape[0] / count)
    projected = jnp.tensordot(
        q.T, targets.astype(q.dtype), axes=1, precision=lax.Precision.HIGHEST
    )
    return scale * r.reshape(-1, *images.shape[1:]), scale * projected
