"""Every channel of a data set shifted and scaled."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from linear_cnn.datasets._blocks import blocks, host_images, real_numbers


def normalize_channels(
    images: ArrayLike,
    mean: ArrayLike | Sequence[float] | None = None,
    std: ArrayLike | Sequence[float] | None = None,
) -> np.ndarray:
    """Every channel shifted and scaled, (x - mean) / std.

    With neither given, each channel of the result has mean 0 and standard deviation 1
    over all images and pixels. For test images give the values of the training images;
    the paper's, for CIFAR-10 with pixels in [0, 1], are mean (0.4914, 0.4822, 0.4465)
    and std (0.2471, 0.2435, 0.2616).

    Args:
      images: floating point, (N, H, W, C).
      mean: (C,), in units of the pixels; None: that of the images.
      std: (C,), in units of the pixels, > 0; None: that of the images, divided by their
        number of pixels N*H*W.

    Returns:
      images, (N, H, W, C), of the same dtype.

    Raises:
      TypeError: images of integer dtype, or mean or std no real numbers. ValueError:
        images of wrong rank or with NaN; mean or std of another length, not finite, or
        std not > 0; a channel without variation.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> images = np.random.default_rng(0).random((10, 8, 8, 3))
      >>> normal = linear_cnn.normalize_channels(images)
      >>> np.allclose(normal.mean(axis=(0, 1, 2)), 0), np.allclose(normal.std(), 1)
      (True, True)

      Test images by the values of the training images:

      >>> mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
      >>> linear_cnn.normalize_channels(images[:2], mean, std).shape
      (2, 8, 8, 3)
    """
    images = host_images(images)
    channels = images.shape[-1]
    center = None if mean is None else _channel_values("mean", mean, channels)
    scale = None if std is None else _channel_values("std", std, channels)
    if scale is not None and not (scale > 0).all():
        raise ValueError(
            f"std must be > 0, got {scale.tolist()}; 1 leaves a channel's scale as"
            " it is."
        )
    if center is None or scale is None:
        own_mean, own_std = _channel_statistics(images)
        center = own_mean if center is None else center
        scale = own_std if scale is None else scale
    if not scale.all():
        constant = np.flatnonzero(scale == 0).tolist()
        raise ValueError(
            f"channels {constant} of the images are constant (std = 0); leave them out,"
            " or give std."
        )
    center, scale = (_at_every_pixel(values, images) for values in (center, scale))
    result = np.empty(images.shape, images.dtype)
    for part, block in blocks(images):
        result[part] = (block - center) / scale
    return result


def _channel_values(
    name: str, values: ArrayLike | Sequence[float], channels: int
) -> np.ndarray:
    values = real_numbers(name, values)
    if values.shape != (channels,):
        raise ValueError(
            f"{name} must have shape ({channels},), one number a channel, got shape"
            f" {values.shape}."
        )
    return values


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over images and pixels, (C,) each."""
    # Differences from one pixel are exactly 0 in a constant channel, so its standard
    # deviation is too.
    first = images[0, 0, 0]
    origin = _at_every_pixel(first, images)
    differences = sum((block - origin).sum(axis=0) for _, block in blocks(images))
    mean = first + np.mean(differences, axis=(0, 1)) / len(images)
    center = _at_every_pixel(mean, images)
    squares = sum(np.square(block - center).sum(axis=0) for _, block in blocks(images))
    return mean, np.sqrt(np.mean(squares, axis=(0, 1)) / len(images))


def _at_every_pixel(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """One number a channel as an image (H, W, C): in NumPy much faster to subtract than
    (C,) is."""
    return np.broadcast_to(values, images.shape[1:]).copy()
