"""Checked arguments, and the images in batches."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import (
    check_images,
    check_keys,
    check_labels,
    check_targets,
    integer,
)
from linear_cnn._losses import check_loss, check_outputs, matched_targets
from linear_cnn._progress import progress_bar
from linear_cnn.tangent._labels import LABELS, Labels


class Batch(NamedTuple):
    """As many images in each; those beyond the first `valid` ones only fill it up."""

    images: jax.Array
    targets: jax.Array
    valid: int
    key: jax.Array


class Data(NamedTuple):
    """Images with targets, to be read in batches."""

    images: Any
    targets: Any
    size: int
    coupled: bool
    """Whether images of a batch see one another: then a smaller last one is left
    out."""
    key: jax.Array

    @property
    def batches(self) -> int:
        count = len(self.images)
        return count // self.size if self.coupled else -(-count // self.size)

    @property
    def used(self) -> int:
        """Images that count."""
        return min(len(self.images), self.batches * self.size)

    def read(self, progress: bool, description: str) -> Iterator[Batch]:
        bar = progress_bar(
            range(self.batches), desc=description, disable=not progress, unit="batch"
        )
        for batch in bar:
            first, last = batch * self.size, len(self.images) - 1
            chosen = np.minimum(np.arange(first, first + self.size), last)
            yield Batch(
                jnp.asarray(self.images[chosen]),
                jnp.asarray(self.targets[chosen]),
                min(self.size, len(self.images) - first),
                jax.random.fold_in(self.key, batch),
            )

    def matched(self, loss: str, outputs: jax.ShapeDtypeStruct) -> "Data":
        """With the targets in the form that the network's outputs need."""
        check_outputs(outputs)
        targets = np.zeros(len(self.images))  # read by nobody
        if self.targets is not None:
            targets = np.asarray(
                matched_targets(loss, outputs, "targets", self.targets)
            )
        return self._replace(targets=targets)


def checked_labels(loss: str, labels: str, samples: int) -> Labels:
    check_loss(loss)
    if labels not in LABELS:
        raise ValueError(f"labels must be one of {list(LABELS)}, got {labels!r}.")
    return Labels(loss, labels, integer("samples", samples, minimum=1))


def checked_data(
    images: ArrayLike,
    targets: ArrayLike | None,
    labels: Labels,
    batch_size: int,
    coupled: bool,
    key: jax.Array | None,
) -> Data:
    check_images(images)
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    count = images.shape[0]
    if targets is not None:
        check = check_labels if labels.loss == "cross_entropy" else check_targets
        check("targets", targets, count)
    size = min(integer("batch_size", batch_size, minimum=1), count)
    if key is None and labels.kind == "sampled":
        raise ValueError(
            "labels='sampled' needs a key, e.g. key=jax.random.key(0); labels='exact'"
            " needs none and has no noise."
        )
    key = jax.random.key(0) if key is None else key  # from which nothing is drawn
    check_keys("key", key, axes=0)
    return Data(images, targets, size, coupled, key)
