"""Transformations of data sets: channels, labels, classes and patches.

Those that return NumPy arrays compute in float64 a few images at a time and round once
to the images' dtype, so beside the images and the result they need little memory, and
JAX's float64 flag does not matter.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from linear_cnn._checks import (
    check_finite,
    check_fits,
    check_images,
    check_keys,
    integer,
    pair,
)
from linear_cnn.datasets._image_set import ImageSet

# Float64 numbers of one block of images, which should stay in the processor's cache.
_BLOCK_ENTRIES = 2**17

_Array = TypeVar("_Array", np.ndarray, jax.Array)


def normalize_channels(images: Any, mean: Any = None, std: Any = None) -> np.ndarray:
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
    """
    images = _host_images(images)
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
    for part, block in _blocks(images):
        result[part] = (block - center) / scale
    return result


def _channel_values(name: str, values: Any, channels: int) -> np.ndarray:
    values = _real_numbers(name, values)
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
    differences = sum((block - origin).sum(axis=0) for _, block in _blocks(images))
    mean = first + np.mean(differences, axis=(0, 1)) / len(images)
    center = _at_every_pixel(mean, images)
    squares = sum(np.square(block - center).sum(axis=0) for _, block in _blocks(images))
    return mean, np.sqrt(np.mean(squares, axis=(0, 1)) / len(images))


def _at_every_pixel(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """One number a channel as an image (H, W, C): in NumPy much faster to subtract than
    (C,) is."""
    return np.broadcast_to(values, images.shape[1:]).copy()


def shuffle_labels(labels: Any, key: jax.Array) -> np.ndarray:
    """The same labels in random order: they no longer say anything about the images,
    and every class keeps its size.

    The paper's random labels: permuted once, before training (its figure 3).

    Args:
      labels: of any dtype, (N,), or one row an image, (N, ...).
      key: JAX key of the permutation.

    Returns:
      labels, of the same shape and dtype.

    Raises:
      TypeError: no key. ValueError: labels of rank 0.
    """
    labels = np.asarray(labels)
    if labels.ndim == 0:
        raise ValueError(
            "labels must have shape (N,) or (N, ...), got the single value"
            f" {labels.item()!r}."
        )
    check_keys("key", key, axes=0)
    return labels[np.asarray(jax.random.permutation(key, len(labels)))]


def select_classes(image_set: ImageSet, classes: Sequence[str | int]) -> ImageSet:
    """The images of some classes, in the order of the set, as a set of its own.

    With two classes, e.g. ("automobile", "truck"), these are the paper's binary
    subsets.

    Args:
      image_set: its `images` may be anything that takes an array of integers as index.
      classes: names, or indices into `image_set.class_names`; at least two, none twice.

    Returns:
      image set; its label k, int32, is the k-th of `classes`.

    Raises:
      TypeError: one name in the place of a sequence; classes that are neither names nor
        integers. ValueError: fewer than two classes, one named twice, one that the set
        does not have or has no images of; a label without a name.
    """
    names = tuple(image_set.class_names)
    if isinstance(classes, str):
        raise TypeError(
            f"classes must be a sequence of names or indices, e.g. {names[:2]}, got"
            f" {classes!r}."
        )
    chosen = [_class_index(value, names) for value in classes]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"classes must name at least two different classes, got {list(classes)};"
            f" there are {names}."
        )
    labels = np.asarray(image_set.labels)
    if labels.size and (labels.min() < 0 or labels.max() >= len(names)):
        raise ValueError(
            f"labels must lie between 0 and {len(names) - 1}, the places of the class"
            f" names {names}, got {labels.min()} to {labels.max()}; leave out images"
            " without a class."
        )
    new_label = np.full(len(names), -1, np.int32)
    new_label[chosen] = np.arange(len(chosen))
    labels = new_label[labels]
    kept = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[kept], minlength=len(chosen))
    if not counts.all():
        empty = [
            names[index]
            for index, count in zip(chosen, counts, strict=True)
            if count == 0
        ]
        raise ValueError(
            f"the image set has no images of {empty}; choose other classes."
        )
    return ImageSet(
        image_set.images[kept], labels[kept], tuple(names[index] for index in chosen)
    )


def _class_index(value: str | int, names: tuple[str, ...]) -> int:
    if isinstance(value, str):
        if value not in names:
            raise ValueError(
                f"classes has {value!r}, which is none of the class names {names}."
            )
        return names.index(value)
    index = integer("classes, unless names,", value, minimum=0)
    if index >= len(names):
        raise ValueError(
            f"classes has the index {index}, but there are {len(names)} classes:"
            f" {names}."
        )
    return index


def label_by_energy(
    images: Any, direction: Any, kernel_size: int | Sequence[int], classes: int
) -> np.ndarray:
    r"""Labels that the patches decide: classes of equal size by the energy of a
    projection (paper, appendix D.1).

    .. math:: E_n = \sum_j (u^T p_{n,j})^2

    over all patches of image n (stride 1, no padding). The images are sorted by E and
    cut into classes whose sizes differ by at most one; of images with the same E the
    first in the data set comes first. Patches are taken as they are: subtract a mean
    from the images before, if it should not count.

    Args:
      images: floating point, (N, H, W, C).
      direction: u, e.g. a PCA vector of the patches; (d,) with d = kh*kw*C in the order
        (kh, kw, C), or (kh, kw, C). Its length does not matter.
      kernel_size: kh = kw, or (kh, kw).
      classes: their number, from 2 to N.

    Returns:
      labels, int32, (N,): 0 for the lowest energies, classes - 1 for the highest.

    Raises:
      TypeError: images of integer dtype, direction no real numbers, classes no integer.
        ValueError: images of wrong rank, with NaN, or smaller than the kernel; a
        direction of another shape, not finite or zero; fewer than 2 classes, or more
        than images.
    """
    images = _host_images(images)
    kernel = _fitting_kernel(images, kernel_size)
    unit = _unit_direction(direction, (*kernel, images.shape[-1]))
    classes = integer("classes", classes, minimum=2)
    if classes > len(images):
        raise ValueError(
            f"classes must be at most the number of images {len(images)}, got"
            f" {classes}."
        )
    energy = np.concatenate([_energies(block, unit) for _, block in _blocks(images)])
    labels = np.empty(len(images), np.int32)
    labels[np.argsort(energy, kind="stable")] = (
        np.arange(len(images)) * classes // len(images)
    )
    return labels


def _energies(images: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Sum over all patches of the squared projection on `direction` (kh, kw, C), (N,).

    Numbers are multiplied and added one by one, not by a matrix product, whose rounding
    may depend on the place of an image in the block: equal images must have equal
    energies.
    """
    kh, kw, _ = direction.shape
    rows, columns = images.shape[1] - kh + 1, images.shape[2] - kw + 1
    # Images last: long loops, the same for every image.
    planes = np.ascontiguousarray(images.transpose(3, 1, 2, 0))
    projections = np.zeros((rows, columns, len(images)))
    for (i, j, channel), weight in np.ndenumerate(direction):
        projections += weight * planes[channel, i : i + rows, j : j + columns]
    return np.square(projections).sum(axis=(0, 1))


def shuffle_patches(
    images: Any, kernel_size: int | Sequence[int], key: jax.Array
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
    """
    check_images(images)
    check_keys("key", key, axes=0)
    images = jnp.asarray(images)
    patches = _cut(images, _fitting_kernel(images, kernel_size))
    shuffled = jax.random.permutation(key, patches.reshape(-1, *patches.shape[3:]))
    return _join(shuffled.reshape(patches.shape))


def scale_component(
    images: Any, direction: Any, kernel_size: int | Sequence[int], alpha: float
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
    """
    images = _host_images(images)
    kernel = _fitting_kernel(images, kernel_size)
    unit = _unit_direction(direction, (*kernel, images.shape[-1])).ravel()
    factor = _real_numbers("alpha", alpha)
    if factor.ndim:
        raise ValueError(f"alpha must be one number, got shape {factor.shape}.")
    rows, columns = images.shape[1] // kernel[0], images.shape[2] // kernel[1]
    result = np.empty(
        (len(images), rows * kernel[0], columns * kernel[1], images.shape[-1]),
        images.dtype,
    )
    for part, block in _blocks(images):
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


def _blocks(images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The images in float64, a few at a time, each time with their place."""
    size = max(1, _BLOCK_ENTRIES // images[0].size)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield part, images[part].astype(np.float64)


def _host_images(images: Any) -> np.ndarray:
    images = np.asarray(images)
    check_images(images)
    return images


def _fitting_kernel(
    images: np.ndarray | jax.Array, kernel_size: int | Sequence[int]
) -> tuple[int, int]:
    kernel = pair("kernel_size", kernel_size)
    check_fits(images.shape[1:3], ((0, 0), (0, 0)), kernel)
    return kernel


def _unit_direction(direction: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """The direction as a filter (kh, kw, C) of length 1, in float64."""
    values = _real_numbers("direction", direction)
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


def _real_numbers(name: str, values: Any) -> np.ndarray:
    """The values in float64; raise unless they are finite real numbers."""
    values = np.asarray(values)
    if not any(
        jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer)
    ):
        raise TypeError(f"{name} must be real numbers, got {values.dtype}.")
    values = values.astype(np.float64)
    check_finite(name, values)
    return values
