"""The images of an experiment: a data set by its name, scaled, and as few of them as
asked for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import linear_cnn


class Inputs(NamedTuple):
    """Images as float32 in [0, 1], (N, H, W, C), with labels (N,) and the names of the
    classes; without labels as in `linear_cnn.ImageSet`."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def load(settings: Any, *, need_labels: bool = True) -> Inputs:
    """The training images that settings name, all of them or as many evenly spaced ones
    as they ask for.

    Args:
      settings: with `dataset`, `data_dir`, `size`, `upright` and `images`, as in
        `frame.Settings`.
      need_labels: as in `linear_cnn.load_images`.

    Raises:
      FileNotFoundError: the data set is not there; the message says how to get it.
        ValueError: its name is unknown.
    """
    images, labels, class_names = linear_cnn.load_images(
        settings.dataset,
        data_dir=settings.data_dir,
        size=settings.size,
        upright=settings.upright,
        need_labels=need_labels,
    )
    limit = settings.images
    if limit is not None and limit < len(labels):
        chosen = np.linspace(0, len(labels) - 1, limit).round().astype(int)
        images, labels = images[chosen], labels[chosen]
    return Inputs(linear_cnn.scale_pixels(images), labels, class_names)


def evenly_spaced(
    labels: np.ndarray, class_names: Sequence[str], count: int
) -> np.ndarray:
    """Places of `count` images, increasing: of each class as many, evenly spaced among
    its own.

    What is left over goes to the first classes, one each.

    Raises:
      ValueError: a class has too few images.
    """
    classes = len(class_names)
    chosen = []
    for label, name in enumerate(class_names):
        of_class = np.flatnonzero(labels == label)
        wanted = count // classes + (label < count % classes)
        if wanted > len(of_class):
            raise ValueError(
                f"{count:,} images of {classes} classes are {wanted:,} of each, but"
                f" there are {len(of_class):,} of {name!r}; take at most"
                f" {classes * len(of_class):,}, or fewer classes."
            )
        chosen.append(
            of_class[np.linspace(0, len(of_class) - 1, wanted).round().astype(int)]
        )
    return np.sort(np.concatenate(chosen))
