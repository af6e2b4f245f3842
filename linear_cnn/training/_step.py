"""The state of one seed: its start, its steps, and what is measured of it."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from linear_cnn._losses import ForEach, Loss, loss_function
from linear_cnn.networks._paths import (
    by_path,
    first_layer_path,
    kernel_path,
    nearest,
    within,
)
from linear_cnn.training._fast import with_fast_convolutions
from linear_cnn.training._mesh import on_all, spread_batch

Init = Callable[[jax.Array], nnx.Module]
# Before the names of metrics and of kernels among what is recorded.
METRIC, KERNEL = "metric ", "kernel "
_OF_AUGMENTATION = 0xFFFFFFFF  # keys apart from those of the epochs, which count up


class _Program(NamedTuple):
    """What a program is compiled for, besides shapes."""

    init: Init
    optimizer: optax.GradientTransformation
    batch_size: int | None
    loss: Loss
    frozen: tuple[str, ...]
    metrics: tuple[tuple[str, ForEach], ...] = ()
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    record: tuple[str, ...] = ()
    first_layer: str | None = None
    fast_convolutions: bool = True
    mesh: Mesh | None = None  # that the images of a batch are spread over


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """All that a run carries from step to step."""

    trained: Any
    frozen: Any
    rest: Any  # batch statistics, random streams, fixed arrays
    moments: Any  # of the optimizer
    order_key: jax.Array
    order: jax.Array  # of the images in this epoch
    loss: jax.Array  # of the last step; of the first failed one if there is one
    failed: jax.Array  # the first step whose loss was not finite, or -1
    training_graph: Any = field(metadata={"static": True})
    inference_graph: Any = field(metadata={"static": True})
    # Paths of the kernels that are recorded, by the names of their records.
    kernels: tuple[tuple[str, str], ...] = field(metadata={"static": True})
    # Shapes and dtypes of the outputs for all images, and their tree.
    outputs: tuple[tuple[Any, ...], Any] = field(metadata={"static": True})


def _start(program: _Program, shape: jax.ShapeDtypeStruct, key: jax.Array) -> _State:
    """The state before step 0 of a run on images of that shape."""
    init_key, order_key = jax.random.split(key)
    if isinstance(program.init, nnx.Module) or not callable(program.init):
        kind = type(program.init).__name__
        raise TypeError(
            f"init must be a function key -> network, got a {kind}; pass one that makes"
            " it, from the key."
        )
    network = program.init(init_key)
    if not isinstance(network, nnx.Module):
        raise TypeError(
            f"init must return a flax.nnx.Module, got {type(network).__name__}; those"
            " of flax.linen are none."
        )
    parameters = by_path(nnx.as_pure(nnx.state(network, nnx.Param)))
    first = first_layer_path(
        network, shape.shape[-1], program.first_layer, "first_layer"
    )
    others = {
        f"{KERNEL}{name}": kernel_path("record", name, parameters)
        for name in program.record
    }
    if program.fast_convolutions:
        network = with_fast_convolutions(network)
    is_frozen = _frozen_filter(parameters, program.frozen)
    network.eval()
    inference_graph = nnx.split(network, is_frozen, nnx.Param, ...)[0]
    network.train()
    training_graph, *variables = nnx.split(network, is_frozen, nnx.Param, ...)
    # Plain arrays: modules' own variables cannot cross the traces of loops and
    # gradients.
    frozen, trained, rest = map(nnx.as_pure, variables)
    if not jax.tree.leaves(trained):
        raise ValueError(
            f"frozen = {program.frozen!r} leaves no parameter of the network to train;"
            " freeze fewer layers."
        )
    images = jax.ShapeDtypeStruct(shape.shape, shape.dtype)
    outputs, _ = jax.eval_shape(
        partial(_predict, training_graph), trained, frozen, rest, images
    )
    state = _State(
        trained=trained,
        frozen=frozen,
        rest=rest,
        moments=program.optimizer.init(trained),
        order_key=order_key,
        order=jnp.arange(shape.shape[0] if program.batch_size else 0),
        loss=jnp.zeros((), _loss_dtype(outputs)),
        failed=jnp.asarray(-1, int),
        training_graph=training_graph,
        inference_graph=inference_graph,
        kernels=(("conv1", first), *others.items()),
        outputs=_outline(outputs),
    )
    return on_all(program.mesh, state)


def _outline(outputs: Any) -> tuple[tuple[Any, ...], Any]:
    leaves, tree = jax.tree.flatten(outputs)
    return tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves), tree


def _loss_dtype(outputs: Any) -> Any:
    """Of the first of the outputs, which the loss is computed from."""
    first = jax.tree.leaves(outputs)[0].dtype
    return first if jnp.issubdtype(first, jnp.floating) else jnp.result_type(float)


def _frozen_filter(
    paths: Iterable[str], names: Sequence[str]
) -> Callable[[Any, Any], bool]:
    """Which variables are parameters of the named layers, or are named themselves;
    `paths` are those of all parameters."""
    for name in names:
        if not within(name, paths):
            layers = [path.rpartition(".")[0] for path in paths]
            raise ValueError(
                f"frozen names {name!r}, which the network does not have; name a layer"
                f" or a parameter: {nearest(name, [*layers, *paths])}."
            )
    prefixes = tuple(f"{name}." for name in names)

    def is_frozen(path: Any, variable: Any) -> bool:
        return issubclass(
            variable.type, nnx.Param
        ) and f"{'.'.join(map(str, path))}.".startswith(prefixes)

    return is_frozen


def _predict(
    graph: Any, trained: Any, frozen: Any, rest: Any, images: jax.Array
) -> tuple[jax.Array, Any]:
    model: Any = nnx.merge(graph, trained, frozen, rest, copy=True)
    outputs = model(images)
    return outputs, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))


def _advance(
    program: _Program,
    state: _State,
    images: jax.Array,
    targets: jax.Array,
    start: jax.Array,
    stop: jax.Array,
) -> _State:
    """Train from step `start` to step `stop`."""
    count, batch_size = images.shape[0], program.batch_size
    per_epoch = count // (batch_size or count)

    def batch_loss(
        trained: Any, state: _State, x: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, Any]:
        outputs, rest = _predict(
            state.training_graph, trained, state.frozen, state.rest, x
        )
        return jnp.mean(loss_function(program.loss)(outputs, y)), rest

    def step(index: jax.Array, state: _State) -> _State:
        x, y, order = images, targets, state.order
        if batch_size is not None:
            position = index % per_epoch
            epoch_key = jax.random.fold_in(state.order_key, index // per_epoch)
            order = lax.cond(
                position == 0,
                lambda: jax.random.permutation(epoch_key, count),
                lambda: order,
            )
            batch = lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
            x, y = images[batch], jax.tree.map(lambda leaf: leaf[batch], targets)
        if program.augment is not None:
            key = jax.random.fold_in(state.order_key, _OF_AUGMENTATION)
            x = program.augment(jax.random.fold_in(key, index), x)
        x, y = spread_batch(program.mesh, (x, y))
        (loss, rest), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            state.trained, state, x, y
        )
        updates, moments = _update(
            program, gradients, state.moments, state.trained, loss
        )
        loss = loss.astype(state.loss.dtype)
        sound = state.failed < 0
        new = replace(
            state,
            trained=optax.apply_updates(state.trained, updates),
            rest=rest,
            moments=moments,
            order=order,
            loss=jnp.where(sound, loss, state.loss),
            failed=jnp.where(sound & ~jnp.isfinite(loss), index, state.failed),
        )
        return on_all(program.mesh, new)

    return lax.fori_loop(start, stop, step, state)


def _update(
    program: _Program, gradients: Any, moments: Any, weights: Any, loss: jax.Array
) -> tuple[Any, Any]:
    """What the optimizer makes of gradients and loss: updates and its next state."""
    update = optax.with_extra_args_support(program.optimizer).update
    # Of those with other arguments than gradients and parameters not all take the loss.
    accepted = inspect.signature(update).parameters.values()
    takes_loss = any(
        parameter.name == "value" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in accepted
    )
    # Some of optax's own arithmetic needs it.
    with jax.numpy_dtype_promotion("standard"):
        found: tuple[Any, Any] = update(
            gradients, moments, weights, **({"value": loss} if takes_loss else {})
        )
    return found


def _measure(
    program: _Program, state: _State, images: jax.Array, targets: Any
) -> dict[str, jax.Array]:
    """Loss, accuracy and metrics over all images, in batches of the training's size: no
    more memory than training."""
    count = images.shape[0]
    size = min(program.batch_size or count, count)

    def measure_batch(first: jax.Array) -> tuple[jax.Array, ...]:
        # The last batch reaches back over images that were counted before, so that all
        # have one shape. Not by the slice's own clamp: spread over devices each clamps
        # its part by itself.
        begin = jnp.minimum(first, count - size)
        new = begin + jnp.arange(size) >= first
        x, y = jax.tree.map(
            lambda values: lax.dynamic_slice_in_dim(values, begin, size),
            (images, targets),
        )
        x, y = spread_batch(program.mesh, (x, y))
        outputs, _ = _predict(
            state.inference_graph, state.trained, state.frozen, state.rest, x
        )
        correct = (
            jnp.argmax(outputs, axis=-1).astype(y.dtype) == y
            if program.loss == "cross_entropy"
            else new
        )

        def total(function: ForEach) -> jax.Array:
            values = function(outputs, y)
            # In float16 the sum over many images would overflow.
            values = values.astype(
                values.dtype if values.dtype.itemsize >= 4 else jnp.float32
            )
            return jnp.sum(jnp.where(new, values, jnp.zeros_like(values)))

        metrics = (total(metric) for _, metric in program.metrics)
        return total(loss_function(program.loss)), jnp.sum(correct & new), *metrics

    starts = jnp.arange(-(-count // size)) * size
    loss, correct, *metrics = (
        measure_batch(starts[0])
        if len(starts) == 1
        else map(jnp.sum, lax.map(measure_batch, starts))
    )
    measured = {"loss": loss / count}
    if program.loss == "cross_entropy":
        measured["accuracy"] = correct.astype(loss.dtype) / count
    names = (f"{METRIC}{name}" for name, _ in program.metrics)
    return measured | {
        name: total / count for name, total in zip(names, metrics, strict=True)
    }


def _kernels(state: _State) -> dict[str, jax.Array]:
    """The kernels that are recorded."""
    parameters = by_path(state.trained) | by_path(state.frozen)
    return {name: parameters[path] for name, path in state.kernels}
