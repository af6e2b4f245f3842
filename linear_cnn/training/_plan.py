"""The checked arguments of a run."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from linear_cnn._checks import (
    check_images,
    check_labels,
    check_targets,
    integer,
)
from linear_cnn._losses import check_loss, check_outputs, matched_targets


class _Plan(NamedTuple):
    """The checked arguments of a run."""

    settings: tuple[optax.GradientTransformation, int | None, str, tuple[str, ...]]
    images: Any
    targets: Any
    validation: tuple[Any, Any] | None
    records: np.ndarray
    targets_of_each: bool


def _matched(
    loss: str, plan: _Plan, outputs: jax.ShapeDtypeStruct
) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Data and validation, the targets in the form that the outputs (N, M) need."""
    check_outputs(outputs)
    match = partial(matched_targets, loss, outputs)
    targets = match("targets", plan.targets, of_each=plan.targets_of_each)
    validation = plan.validation and (
        plan.validation[0],
        match("validation targets", plan.validation[1]),
    )
    return (plan.images, targets), validation


def _plan(
    images: ArrayLike,
    targets: ArrayLike,
    optimizer: optax.GradientTransformation,
    steps: int | None,
    epochs: int | None,
    record_steps: Sequence[int] | np.ndarray | None,
    batch_size: int | None,
    loss: str,
    validation: tuple[ArrayLike, ArrayLike] | None,
    frozen: Sequence[str],
    seeds: int | None = None,
) -> _Plan:
    """Check how a run is specified."""
    check_images(images)
    check_loss(loss)
    images = jnp.asarray(images)
    count, shape = images.shape[0], np.shape(targets)
    check = check_labels if loss == "cross_entropy" else check_targets
    ambiguous = loss == "mse" and shape == (seeds, count) and seeds == count
    if ambiguous:
        raise ValueError(
            f"targets of shape {shape} could be {count} outputs or {seeds} seeds; give"
            " one set a seed as (S, N, 1)."
        )
    of_each = seeds is not None and (len(shape) == 3 or shape == (seeds, count))
    check("targets", targets, count, seeds=seeds if of_each else None)
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(
                "validation must be a pair (images, targets), got"
                f" {type(validation).__name__}."
            )
        check_images(validation[0], "validation images")
        check("validation targets", validation[1], np.shape(validation[0])[0])
        if np.shape(validation[0])[1:] != images.shape[1:]:
            raise ValueError(
                "validation images must have the shape of the training images"
                f" {images.shape[1:]}, got {np.shape(validation[0])[1:]}."
            )
        validation = (jnp.asarray(validation[0]), validation[1])
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "optimizer must be an optax transformation, e.g. optax.sgd(0.1), got"
            f" {optimizer!r}."
        )
    if isinstance(frozen, str) or not all(isinstance(name, str) for name in frozen):
        raise TypeError(
            "frozen must be a sequence of layer names, e.g. ('conv1',), got"
            f" {frozen!r}."
        )
    if batch_size is not None:
        batch_size = integer("batch_size", batch_size, minimum=1)
        if batch_size > count:
            raise ValueError(
                f"batch_size must be at most the number of images {count}, got"
                f" {batch_size}."
            )
    records = _checked_records(
        steps, epochs, record_steps, count // (batch_size or count)
    )
    settings = (optimizer, batch_size, loss, tuple(frozen))
    return _Plan(settings, images, targets, validation, records, of_each)


def _checked_records(
    steps: int | None,
    epochs: int | None,
    record_steps: Sequence[int] | np.ndarray | None,
    per_epoch: int,
) -> np.ndarray:
    """The steps to record, beginning with 0."""
    if (steps is None) == (epochs is None):
        raise TypeError(
            f"give the length of the run as either steps or epochs, got steps={steps},"
            f" epochs={epochs}."
        )
    if steps is None:
        steps = integer("epochs", epochs, minimum=0) * per_epoch
    steps = integer("steps", steps, minimum=0)
    records = (
        np.arange(0, steps + 1, per_epoch)
        if record_steps is None
        else np.atleast_1d(np.asarray(record_steps))
    )
    if records.ndim != 1 or (
        records.size and not np.issubdtype(records.dtype, np.integer)
    ):
        raise TypeError(
            f"record_steps must be a list of integers, got {record_steps!r}."
        )
    # Differences of unsigned integers are never negative.
    records = records.astype(np.int64)
    if records.size and (
        records[0] < 0 or (np.diff(records) <= 0).any() or records[-1] > steps
    ):
        raise ValueError(
            f"record_steps must increase and lie between 0 and steps = {steps}, got"
            f" {records.tolist()}; numpy.unique sorts them and drops repeated ones."
        )
    if not records.size or records[0] != 0:
        records = np.concatenate([np.zeros(1, np.int64), records])
    return records
