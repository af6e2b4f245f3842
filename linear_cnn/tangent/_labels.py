"""With which labels curvature is measured: columns that backward passes start from."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from linear_cnn._losses import LOSSES

LABELS = ("exact", "sampled", "given")


class Labels(NamedTuple):
    """The labels of a curvature; those of "given" come with the images."""

    loss: str
    kind: str
    samples: int

    @property
    def draws(self) -> int:
        """How many columns stand for one draw of an image's label."""
        return self.samples if self.kind == "sampled" else 1

    def columns(self, unit: int, outputs: int) -> int:
        """How many columns the curvature of a unit of so many images has."""
        return {"exact": outputs * unit, "sampled": self.samples, "given": 0}[self.kind]


def columns(
    labels: Labels, outputs: jax.Array, key: jax.Array, coupled: bool
) -> jax.Array:
    """(columns, N, M): those of a factor R with R R^T = P, or random ones with E[c c^T]
    = P; none for "given"."""
    count, size = outputs.shape
    if labels.kind == "given":
        return jnp.zeros((0, count, size), outputs.dtype)
    if labels.kind == "sampled":
        drawn = _drawn(labels.loss, outputs, labels.samples, key)
        return jax.vmap(partial(derivatives, labels.loss, outputs))(drawn)
    unit = jnp.eye(size, dtype=outputs.dtype)
    if labels.loss == "mse":
        factor = jnp.broadcast_to(math.sqrt(2) * unit, (count, size, size))
    else:
        root = jnp.sqrt(jax.nn.softmax(outputs))
        outer = root[:, :, None] * root[:, None, :]
        factor = root[:, :, None] * (unit[None] - outer)
    found = jnp.moveaxis(factor, 2, 0)
    if coupled:  # one image after another, the others' derivatives 0
        images = jnp.eye(count, dtype=outputs.dtype)[:, None, :, None]
        found = (images * found[None]).reshape(-1, count, size)
    return found


def derivatives(loss: str, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Those of each image's loss by its outputs, (N, M)."""
    return jax.grad(lambda outputs: jnp.sum(LOSSES[loss](outputs, targets)))(outputs)


def _drawn(loss: str, outputs: jax.Array, samples: int, key: jax.Array) -> jax.Array:
    """Targets from the density exp(-loss) that the outputs say: labels from the
    softmax, or normal ones of variance 1/2. (samples, N) or (samples, N, M)."""
    if loss == "cross_entropy":
        return jax.random.categorical(key, outputs, shape=(samples, len(outputs)))
    shape = (samples, *outputs.shape)
    return outputs[None] + math.sqrt(0.5) * jax.random.normal(key, shape, outputs.dtype)
