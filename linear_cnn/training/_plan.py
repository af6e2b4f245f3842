"""The checked arguments of a run."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
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
    check_leading,
    check_targets,
    integer,
)
from linear_cnn._losses import (
    ForEach,
    Loss,
    check_for_each,
    check_loss,
    check_metrics,
    check_outputs,
    loss_function,
    matched_targets,
)

Augment = Callable[[jax.Array, jax.Array], jax.Array]


class _Plan(NamedTuple):
    """The checked arguments of a run."""

    settings: tuple[Any, ...]  # the fields of a program after `init`
    images: Any
    targets: Any
    validation: tuple[Any, Any] | None
    records: np.ndarray
    steps: int
    targets_of_each: bool

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.settings[1] or self.images.shape[0]


def _matched(
    loss: Loss,
    metrics: Sequence[tuple[str, ForEach]],
    plan: _Plan,
    outputs: Any,
) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Data and validation, the targets in the form that the outputs (N, M) need."""
    if isinstance(loss, str):
        check_outputs(outputs)
    match = partial(matched_targets, loss, outputs)
    targets = match("targets", plan.targets, of_each=plan.targets_of_each)
    own = [] if isinstance(loss, str) else [("loss", loss_function(loss))]
    of_one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape[plan.targets_of_each :], leaf.dtype
        ),
        targets,
    )
    for name, function in (*own, *((f"metrics[{n!r}]", f) for n, f in metrics)):
        check_for_each(name, function, outputs, of_one)
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
    loss: Loss,
    validation: tuple[ArrayLike, Any] | None,
    frozen: Sequence[str],
    metrics: Mapping[str, ForEach] | None,
    augment: Augment | None,
    record: Sequence[str],
    first_layer: str | None,
    on_record: Any,
    seeds: int | None = None,
) -> _Plan:
    """Check how a run is specified."""
    check_images(images)
    check_loss(loss, own=True)
    metrics = check_metrics(metrics)
    images = jnp.asarray(images)
    count = images.shape[0]
    if isinstance(loss, str):
        check = check_labels if loss == "cross_entropy" else check_targets
        of_each = _of_each(loss, np.shape(targets), count, seeds)
    else:
        check = check_leading
        leaves = [np.shape(leaf) for leaf in jax.tree.leaves(targets)]
        # Where both fit they are shared: a set a seed then needs other numbers.
        shared = all(shape[:1] == (count,) for shape in leaves)
        of_each = seeds is not None and not shared
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
    _check_names("frozen", frozen)
    _check_names("record", record)
    if len(set(record)) < len(record):
        raise ValueError(f"record names a kernel twice, got {tuple(record)}.")
    if first_layer is not None and not isinstance(first_layer, str):
        raise TypeError(
            "first_layer must be the attribute path of one layer, e.g. 'stem.conv', got"
            f" {first_layer!r}."
        )
    if on_record is not None and not _takes_two(on_record):
        raise TypeError(
            "on_record must be a function (step, record) -> True, which stops the run,"
            f" False or None, got {on_record!r}."
        )
    if batch_size is not None:
        batch_size = integer("batch_size", batch_size, minimum=1)
        if batch_size > count:
            raise ValueError(
                f"batch_size must be at most the number of images {count}, got"
                f" {batch_size}."
            )
    if augment is not None:
        _check_augment(augment, images, batch_size)
    records, last = _checked_records(
        steps, epochs, record_steps, count // (batch_size or count)
    )
    settings = (
        optimizer,
        batch_size,
        loss,
        tuple(frozen),
        tuple(metrics.items()),
        augment,
        tuple(record),
        first_layer,
    )
    return _Plan(settings, images, targets, validation, records, last, of_each)


def _takes_two(function: Any) -> bool:
    """Whether it can be called with two arguments, as far as Python knows."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # some of those written in C have no signature
        pass
    return True


def _check_names(argument: str, names: Any) -> None:
    """Raise unless they are attribute paths."""
    if isinstance(names, str) or not (
        isinstance(names, Collection) and all(isinstance(name, str) for name in names)
    ):
        raise TypeError(
            f"{argument} must be a sequence of attribute paths, e.g. ('conv1',), got"
            f" {names!r}."
        )


def _of_each(loss: str, shape: tuple[int, ...], count: int, seeds: int | None) -> bool:
    """Whether targets have an axis of seeds."""
    if loss == "mse" and shape == (seeds, count) and seeds == count:
        raise ValueError(
            f"targets of shape {shape} could be {count} outputs or {seeds} seeds; give"
            " one set a seed as (S, N, 1)."
        )
    return seeds is not None and (len(shape) == 3 or shape == (seeds, count))


def _check_augment(augment: Any, images: jax.Array, batch_size: int | None) -> None:
    """Raise unless it maps a key and a batch to a batch of that shape and type; nothing
    is computed."""
    if not callable(augment):
        raise TypeError(
            f"augment must be a function (key, images) -> images, got {augment!r}."
        )
    shape = (batch_size or images.shape[0], *images.shape[1:])
    batch = jax.ShapeDtypeStruct(shape, images.dtype)
    key = jax.eval_shape(jax.random.key, 0)
    found = jax.eval_shape(augment, key, batch)
    if (getattr(found, "shape", None), getattr(found, "dtype", None)) != (
        batch.shape,
        batch.dtype,
    ):
        raise ValueError(
            "augment must keep the shape and type of the images,"
            f" {batch.dtype}{list(batch.shape)}, but gives {found}."
        )


def _checked_records(
    steps: int | None,
    epochs: int | None,
    record_steps: Sequence[int] | np.ndarray | None,
    per_epoch: int,
) -> tuple[np.ndarray, int]:
    """The steps to record, beginning with 0, and the last step of all."""
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
    return records, int(steps)
