"""The losses, and targets in the form that a network's outputs need."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linear_cnn._checks import check_classes


def squared_errors(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared error of each image, summed over outputs; both (N, M)."""
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def cross_entropies(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each image in nats; logits (N, M), labels (N,)."""
    # Not by an index: its gradient would be scattered, which takes long to compile.
    is_label = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    chosen = jnp.sum(jnp.where(is_label, outputs, 0), axis=-1)
    return jax.nn.logsumexp(outputs, axis=-1) - chosen


LOSSES = {"mse": squared_errors, "cross_entropy": cross_entropies}


def check_loss(loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {sorted(LOSSES)}, got {loss!r}.")


def check_outputs(outputs: jax.ShapeDtypeStruct) -> None:
    """Raise unless a network's outputs are (N, M)."""
    if len(outputs.shape) != 2:
        raise ValueError(
            "the network's outputs must be (N, M), a row for each image, got shape"
            f" {outputs.shape}; return outputs[:, None] if there is one for each."
        )


def matched_targets(
    loss: str,
    outputs: jax.ShapeDtypeStruct,
    name: str,
    targets: Any,
    *,
    of_each: bool = False,
) -> jax.Array:
    """Checked targets of N images as the outputs (..., M) need them, after an axis of
    seeds if they are `of_each`."""
    if loss == "cross_entropy":
        check_classes(name, targets, outputs.shape[1])
        return jnp.asarray(targets, jnp.int32)
    lead = np.shape(targets)[: 1 + of_each]
    targets = jnp.asarray(targets).reshape(*lead, -1)
    # They might broadcast.
    if (lead[-1], *outputs.shape[1:]) != targets.shape[of_each:]:
        raise ValueError(
            f"the network's outputs have shape {outputs.shape}, but the {name}"
            f" {targets.shape[of_each:]}; give the network one output for each"
            " target, e.g. a head (K, M), or encode class labels, e.g."
            " jax.nn.one_hot(labels, M), or choose loss='cross_entropy'."
        )
    return targets.astype(outputs.dtype)
