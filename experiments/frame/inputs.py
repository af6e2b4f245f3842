"""The images of an experiment: a data set by its name, scaled, and as few of them as
asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import linear_cnn


class Inputs(NamedTuple):
    """Images as float32 in [0, 1], (N, H, W, C), with labels (N,) and the names of the
    classes."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def load(dataset: str, data_dir: Path | None, limit: int | None) -> Inputs:
    """The training images of a data set, all of them or `limit` evenly spaced ones.

    Raises:
      FileNotFoundError: the data set is not there; the message says how to get it.
        ValueError: its name is unknown.
    """
    images, labels, class_names = linear_cnn.load_images(dataset, data_dir=data_dir)
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
