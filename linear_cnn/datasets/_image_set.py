"""Labelled images, and their pixels as floats."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import integer
from linear_cnn.datasets._image_files import ImageFiles


class ImageSet(NamedTuple):
    """Labelled images.

    Attributes:
      images: uint8 in 0 ... 255 or float32 in [0, 1], (N, H, W, C): an array, or
        `ImageFiles`, which are read where they are indexed. `scale_pixels` and
        `image_batches` make float32 in [0, 1] of them all.
      labels: int32, (N,), indices into `class_names`; -1 of images without labels.
      class_names: one name a class; of images without labels none.

    Examples:
      >>> import linear_cnn
      >>> images, labels, class_names = linear_cnn.photographs()
      >>> images.shape, labels.shape
      ((2820, 32, 32, 3), (2820,))
      >>> class_names[labels[0]]
      'astronaut'
    """

    images: np.ndarray | ImageFiles
    labels: np.ndarray
    class_names: tuple[str, ...]


def scale_pixels(images: ArrayLike | ImageFiles) -> np.ndarray:
    """Images as float32: uint8 in 0 ... 255 divided by 255, floating point as it is.

    Args:
      images: of any shape.

    Raises:
      TypeError: of another dtype.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> linear_cnn.scale_pixels(np.array([0, 51, 255], np.uint8))
      array([0. , 0.2, 1. ], dtype=float32)
    """
    pixels = np.asarray(images)
    if pixels.dtype == np.uint8:
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    if np.issubdtype(pixels.dtype, np.floating):
        return pixels.astype(np.float32, copy=False)
    raise TypeError(
        f"images must be uint8 or floating point, got {pixels.dtype}; convert them"
        " first."
    )


def image_batches(
    images: np.ndarray | jax.Array | ImageFiles, size: int = 1024
) -> Iterator[np.ndarray]:
    """All images in order, as float32 batches by `scale_pixels`; only one batch is in
    memory at a time.

    An iterator, to be used once.

    Args:
      images: (N, H, W, C), an array or `ImageFiles`. Of files of different sizes a
        batch ends where the size changes.
      size: images in a batch; the last one holds what is left.

    Raises:
      TypeError, ValueError: a malformed size.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> images = np.full((5, 4, 4, 3), 255, np.uint8)
      >>> [(len(batch), float(batch.max()))
      ...  for batch in linear_cnn.image_batches(images, size=2)]
      [(2, 1.0), (2, 1.0), (1, 1.0)]
    """
    size = integer("size", size, minimum=1)
    return (scale_pixels(images[part]) for part in _parts(images, size))


def _parts(images: np.ndarray | jax.Array | ImageFiles, size: int) -> Iterator[slice]:
    """At most so many consecutive images of one height and width, and so on to the
    last."""
    changes: np.ndarray = np.empty(0, int)
    if isinstance(images, ImageFiles):
        differ = (images.sizes[1:] != images.sizes[:-1]).any(axis=1)
        changes = np.flatnonzero(differ) + 1
    for first, last in itertools.pairwise([0, *changes.tolist(), len(images)]):
        for start in range(first, last, size):
            yield slice(start, min(start + size, last))
