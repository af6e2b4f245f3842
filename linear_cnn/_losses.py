"""The losses, and targets in the form that a network's outputs need."""

from collections.abc import Callable, Mapping
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

# (outputs, targets) of N images -> (N,): a value for each.
ForEach = Callable[[Any, Any], jax.Array]
Loss = str | ForEach


def loss_function(loss: Loss) -> ForEach:
    """The loss of each image."""
    return LOSSES[loss] if isinstance(loss, str) else loss


def check_loss(loss: Any, *, own: bool = False) -> None:
    """Raise unless it is the name of a loss, or a function if those are allowed."""
    if own and callable(loss):
        return
    if not isinstance(loss, str) or loss not in LOSSES:
        or_own = " or a function (outputs, targets) -> (N,)" if own else ""
        raise ValueError(f"loss must be one of {sorted(LOSSES)}{or_own}, got {loss!r}.")


def check_metrics(metrics: Any) -> dict[str, ForEach]:
    """Functions by their names, as a dictionary."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and callable(metric) for name, metric in metrics.items()
    ):
        raise TypeError(
            "metrics must be functions (outputs, targets) -> (N,) by their names, e.g."
            f" {{'error': error}}, got {metrics!r}."
        )
    own = {"loss", "accuracy"}
    taken = sorted((own | {f"validation_{name}" for name in own}) & set(metrics))
    if taken:
        raise ValueError(
            f"metrics has {taken}, which is recorded as it is; give it another name."
        )
    return dict(metrics)


def check_for_each(name: str, function: ForEach, outputs: Any, targets: Any) -> None:
    """Raise unless a function gives a real number for each of N images; nothing is
    computed."""
    count = jax.tree.leaves(outputs)[0].shape[0]
    found = jax.eval_shape(function, outputs, targets)
    sound = (
        isinstance(found, jax.ShapeDtypeStruct)
        and found.shape == (count,)
        and not jnp.issubdtype(found.dtype, jnp.complexfloating)
    )
    if not sound:
        what = (
            f"{found.dtype}{list(found.shape)}"
            if isinstance(found, jax.ShapeDtypeStruct)
            else type(found).__name__
        )
        raise ValueError(
            f"{name} must give one real number for each image, ({count},), got {what};"
            " take the mean over all other axes and not over the images."
        )


def check_outputs(outputs: jax.ShapeDtypeStruct) -> None:
    """Raise unless a network's outputs are (N, M)."""
    if len(outputs.shape) != 2:
        raise ValueError(
            "the network's outputs must be (N, M), a row for each image, got shape"
            f" {outputs.shape}; return outputs[:, None] if there is one for each."
        )


def matched_targets(
    loss: Loss,
    outputs: Any,
    name: str,
    targets: Any,
    *,
    of_each: bool = False,
) -> Any:
    """Checked targets of N images as the outputs (..., M) need them, after an axis of
    seeds if they are `of_each`; for a loss of the user's own, as they are."""
    if not isinstance(loss, str):
        return jax.tree.map(jnp.asarray, targets)
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
