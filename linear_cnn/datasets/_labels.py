"""Other labels, and other classes, for the images of a data set."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import check_keys, integer
from linear_cnn.datasets._blocks import (
    blocks,
    fitting_kernel,
    host_images,
    unit_direction,
)
from linear_cnn.datasets._image_set import ImageSet


def shuffle_labels(labels: ArrayLike, key: jax.Array) -> np.ndarray:
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

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import numpy as np
      >>> labels = np.repeat([0, 1, 2], 20)
      >>> shuffled = linear_cnn.shuffle_labels(labels, jax.random.key(0))
      >>> np.bincount(shuffled).tolist(), bool((shuffled == labels).all())
      ([20, 20, 20], False)
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

    Examples:
      >>> import linear_cnn
      >>> photographs = linear_cnn.photographs()
      >>> two = linear_cnn.select_classes(photographs, ("rocket", "flower"))
      >>> two.class_names, sorted(set(two.labels.tolist()))
      (('rocket', 'flower'), [0, 1])
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
    images: ArrayLike,
    direction: ArrayLike,
    kernel_size: int | Sequence[int],
    classes: int,
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

    Examples:
      Images of constant brightness: the darker half is the first class.

      >>> import linear_cnn
      >>> import numpy as np
      >>> brightness = np.array([0.3, 0.1, 0.4, 0.2])
      >>> images = np.broadcast_to(brightness[:, None, None, None], (4, 5, 5, 1))
      >>> linear_cnn.label_by_energy(images, np.ones(4), 2, classes=2).tolist()
      [1, 0, 1, 0]
    """
    images = host_images(images)
    kernel = fitting_kernel(images, kernel_size)
    unit = unit_direction(direction, (*kernel, images.shape[-1]))
    classes = integer("classes", classes, minimum=2)
    if classes > len(images):
        raise ValueError(
            f"classes must be at most the number of images {len(images)}, got"
            f" {classes}."
        )
    energy = np.concatenate([_energies(block, unit) for _, block in blocks(images)])
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
