"""A jit-compiled training loop that records the first layer's trajectory.

The run is cut into stretches of steps, each of them one call of a compiled program (no Python between steps): to the
next step to record, or as far as about a second takes. Between them the host records, reports and keeps checkpoints.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from linear_cnn._arguments import check_classes, check_images, check_keys, check_labels, check_targets, integer
from linear_cnn.checkpoints import Checkpoints, identify
from linear_cnn.networks import first_kernel

Init = Callable[[jax.Array], nnx.Module]


def squared_errors(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared error of each image, summed over outputs; both (N, M)."""
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def cross_entropies(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each image in nats; logits (N, M), labels (N,)."""
    chosen = jnp.take_along_axis(outputs, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(outputs, axis=-1) - chosen


_LOSSES = {"mse": squared_errors, "cross_entropy": cross_entropies}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """What training recorded; a pytree. `train_seeds` puts a leading seed axis S on all but `steps`.

    Losses and accuracies are those of the network in inference mode (running batch statistics, no dropout), over all
    images of the set.

    Attributes:
      steps: the recorded steps, (R,), increasing from 0.
      conv1: the first layer's kernel at these steps, (R, kh, kw, C, K).
      loss: the training loss at these steps, (R,).
      accuracy: share of training images whose largest output is their label, (R,); None unless the loss is
        "cross_entropy".
      validation_loss, validation_accuracy: the same of the validation images; None without them.
    """

    steps: jax.Array
    conv1: jax.Array
    loss: jax.Array
    accuracy: jax.Array | None = None
    validation_loss: jax.Array | None = None
    validation_accuracy: jax.Array | None = None


class TrainingDiverged(FloatingPointError):
    """A loss was infinite or NaN. `trajectory` holds what was recorded until then."""

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


def train(
    init: Init,
    images: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: str = "mse",
    validation: tuple[Any, Any] | None = None,
    frozen: Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train a network and record the trajectory of its first layer. Pure in `key`.

    Programs are compiled anew only for new shapes, or new `init`, `optimizer`, `batch_size`, `loss` or `frozen`
    objects, so make `init` and `optimizer` once and reuse them; keys, data, steps and the values of `record_steps`
    are free. Inside `jax.jit` or `jax.vmap` it works too, without checks of the values, checkpoints or progress.

    Args:
      init: key -> `flax.nnx.Module` that maps images to outputs (N, M) and has its first convolution in `conv1`. It is
        trained in training mode (`network.train()`) and recorded in inference mode (`network.eval()`).
      images: floating point, (N, H, W, C); their dtype should be that of the network (`LinearCNN` converts them).
      targets: for "mse" real numbers, (N,) or (N, M), converted to the dtype of the outputs; for "cross_entropy"
        integer labels (N,) from 0 to M - 1.
      optimizer: any optax transformation; its learning rate refers to the stated loss. Weight decay is a part of it,
        e.g. `optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01))`.
      key: of the initialisation and the order of the batches.
      steps, epochs: length of the run, one of the two. Steps after the last recorded one leave no trace and are not
        run.
      record_steps: increasing steps to record, such as log-spaced ones; after every epoch if None. Step 0, before
        training, is always recorded.
      batch_size: images per step; all of them (full-batch gradient descent) if None. Every epoch is a new
        permutation; images left over when N is no multiple are skipped for that epoch.
      loss: "mse", the mean over images of the squared error summed over outputs, or "cross_entropy", the mean over
        images of the softmax cross-entropy in nats.
      validation: images and targets that are only evaluated.
      frozen: names of layers that keep their initial parameters, as attribute paths: ("conv1",).
      checkpoint_dir: folder for checkpoints (Orbax). Killed at any moment and called again with the same arguments,
        the run continues from the last one and ends bit-identical to one that was never interrupted.
      progress: show a progress bar with loss, accuracy and rate.

    Returns:
      the trajectory.

    Raises:
      TypeError, ValueError: malformed arguments, a network without `conv1`, outputs that do not match the targets, a
        checkpoint of another run, before anything is compiled; the message names the remedy.
      TrainingDiverged: a loss is not finite; it holds what was recorded until then.
    """
    check_keys("key", key, axes=0)
    plan = _plan(images, targets, optimizer, steps, epochs, record_steps, batch_size, loss, validation, frozen)
    return _run(_Program(init, *plan.settings), None, key, plan, checkpoint_dir, progress)


def train_seeds(
    init: Init,
    images: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: str = "mse",
    validation: tuple[Any, Any] | None = None,
    frozen: Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train many seeds in one compiled program; the same as `train` for each of the keys, up to rounding.

    The seeds are spread over the devices of this process. A CPU counts as one device unless told otherwise
    before JAX first computes: `jax.config.update("jax_num_cpu_devices", 2)` uses two cores.

    Args:
      targets: shared, as in `train`, or one set a seed with a leading seed axis S.
      keys: (S,), one a seed, for example `jax.random.split(key, S)`.
      others: as in `train`; the validation set is shared.

    Returns:
      the trajectories, with a leading seed axis on all fields but `steps`.

    Raises:
      as `train`; also ValueError where (N, M) and (S, N) targets cannot be told apart. `TrainingDiverged` if any of the
      seeds diverges.
    """
    check_keys("keys", keys, axes=1)
    plan = _plan(
        images, targets, optimizer, steps, epochs, record_steps, batch_size, loss, validation, frozen, keys.shape[0]
    )
    program = _Program(init, *plan.settings)
    layout = _layout(program, keys, plan)
    return _run(program, layout, keys, plan, checkpoint_dir, progress)


# --- One seed ---------------------------------------------------------------------------------------------------------


class _Program(NamedTuple):
    """What a program is compiled for, besides shapes."""

    init: Init
    optimizer: optax.GradientTransformation
    batch_size: int | None
    loss: str
    frozen: tuple[str, ...]


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
    outputs: Any = field(metadata={"static": True})  # shape and dtype of the outputs for all images


def _start(program: _Program, shape: jax.ShapeDtypeStruct, key: jax.Array) -> _State:
    """The state before step 0 of a run on images of that shape."""
    init_key, order_key = jax.random.split(key)
    if isinstance(program.init, nnx.Module) or not callable(program.init):
        kind = type(program.init).__name__
        raise TypeError(f"init must be a function key -> network, got a {kind}; pass one that makes it, from the key.")
    network = program.init(init_key)
    if not isinstance(network, nnx.Module):
        raise TypeError(
            f"init must return a flax.nnx.Module, got {type(network).__name__}; those of flax.linen are none."
        )
    first_kernel(nnx.as_pure(nnx.state(network, nnx.Param)))
    is_frozen = _frozen_filter(network, program.frozen)
    network.eval()
    inference_graph = nnx.split(network, is_frozen, nnx.Param, ...)[0]
    network.train()
    training_graph, *variables = nnx.split(network, is_frozen, nnx.Param, ...)
    # Plain arrays: modules' own variables cannot cross the traces of loops and gradients.
    frozen, trained, rest = map(nnx.as_pure, variables)
    if not jax.tree.leaves(trained):
        raise ValueError(
            f"frozen = {program.frozen!r} leaves no parameter of the network to train; freeze fewer layers."
        )
    images = jax.ShapeDtypeStruct(shape.shape, shape.dtype)
    outputs, _ = jax.eval_shape(partial(_predict, training_graph), trained, frozen, rest, images)
    return _State(
        trained=trained,
        frozen=frozen,
        rest=rest,
        moments=program.optimizer.init(trained),
        order_key=order_key,
        order=jnp.arange(shape.shape[0] if program.batch_size else 0),
        loss=jnp.zeros((), outputs.dtype),
        failed=jnp.asarray(-1, int),
        training_graph=training_graph,
        inference_graph=inference_graph,
        outputs=jax.ShapeDtypeStruct(outputs.shape, outputs.dtype),
    )


def _frozen_filter(network: nnx.Module, names: Sequence[str]) -> Callable[[Any, Any], bool]:
    """Which variables are parameters of the named layers."""
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))]
    prefixes = tuple(f"{name}." for name in names)
    for name, prefix in zip(names, prefixes, strict=True):
        if not any(f"{path}.".startswith(prefix) for path in paths):
            layers = sorted({path.rpartition(".")[0] for path in paths})
            raise ValueError(f"frozen names the layer {name!r}, but the network's layers with parameters are {layers}.")

    def is_frozen(path: Any, variable: Any) -> bool:
        return issubclass(variable.type, nnx.Param) and f"{'.'.join(map(str, path))}.".startswith(prefixes)

    return is_frozen


def _predict(graph: Any, trained: Any, frozen: Any, rest: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    model: Any = nnx.merge(graph, trained, frozen, rest, copy=True)
    outputs = model(images)
    return outputs, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))


def _advance(
    program: _Program, state: _State, images: jax.Array, targets: jax.Array, start: jax.Array, stop: jax.Array
) -> _State:
    """Train from step `start` to step `stop`."""
    count, batch_size = images.shape[0], program.batch_size
    per_epoch = count // (batch_size or count)

    def batch_loss(trained: Any, state: _State, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        outputs, rest = _predict(state.training_graph, trained, state.frozen, state.rest, x)
        return jnp.mean(_LOSSES[program.loss](outputs, y)), rest

    def step(index: jax.Array, state: _State) -> _State:
        x, y, order = images, targets, state.order
        if batch_size is not None:
            position = index % per_epoch
            epoch_key = jax.random.fold_in(state.order_key, index // per_epoch)
            order = lax.cond(position == 0, lambda: jax.random.permutation(epoch_key, count), lambda: order)
            batch = lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
            x, y = images[batch], targets[batch]
        (loss, rest), gradients = jax.value_and_grad(batch_loss, has_aux=True)(state.trained, state, x, y)
        with jax.numpy_dtype_promotion("standard"):  # some of optax's own arithmetic needs it
            updates, moments = program.optimizer.update(gradients, state.moments, state.trained)
        sound = state.failed < 0
        return replace(
            state,
            trained=optax.apply_updates(state.trained, updates),
            rest=rest,
            moments=moments,
            order=order,
            loss=jnp.where(sound, loss, state.loss),
            failed=jnp.where(sound & ~jnp.isfinite(loss), index, state.failed),
        )

    return lax.fori_loop(start, stop, step, state)


def _measure(
    program: _Program, state: _State, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Loss and accuracy over all images, in batches of the training's size: no more memory than training."""
    count = images.shape[0]
    size = min(program.batch_size or count, count)

    def measure_batch(first: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, y = (lax.dynamic_slice_in_dim(values, first, size) for values in (images, targets))
        # The last batch reaches back over images that were counted before, so that all have one shape.
        new = jnp.minimum(first, count - size) + jnp.arange(size) >= first
        outputs, _ = _predict(state.inference_graph, state.trained, state.frozen, state.rest, x)
        correct = jnp.argmax(outputs, axis=-1).astype(y.dtype) == y if program.loss == "cross_entropy" else new
        losses = _LOSSES[program.loss](outputs, y)
        # In float16 the sum over many images would overflow.
        losses = losses.astype(losses.dtype if losses.dtype.itemsize >= 4 else jnp.float32)
        return jnp.sum(jnp.where(new, losses, jnp.zeros_like(losses))), jnp.sum(correct & new)

    starts = jnp.arange(-(-count // size)) * size
    loss, correct = measure_batch(starts[0]) if len(starts) == 1 else map(jnp.sum, lax.map(measure_batch, starts))
    return loss / count, correct.astype(loss.dtype) / count if program.loss == "cross_entropy" else None


def _kernel(state: _State) -> jax.Array:
    return first_kernel(state.frozen if "kernel" in state.frozen.get("conv1", {}) else state.trained)


# --- Many seeds -------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How many seeds run where: on each device of the mesh blocks one after the other, of `size` seeds in one vmap."""

    mesh: Mesh
    blocks: int
    size: int
    targets_of_each: bool


def _spread(layout: _Layout | None, function: Callable[..., Any], seeded: Sequence[bool]) -> Callable[..., Any]:
    """The function of one seed for all of them: arguments and results that are `seeded` get a leading seed axis."""
    if layout is None:
        return function
    axes = tuple(0 if own else None for own in seeded)

    def on_device(*arguments: Any) -> Any:
        own = tuple(value for value, axis in zip(arguments, axes, strict=True) if axis == 0)

        def on_block(own: Any) -> Any:
            values = iter(own)
            complete = (next(values) if axis == 0 else value for value, axis in zip(arguments, axes, strict=True))
            return (function if layout.size == 1 else jax.vmap(function, axes))(*complete)

        if layout.blocks == 1 and layout.size > 1:
            return on_block(own)
        sizes = () if layout.size == 1 else (layout.size,)
        blocks = jax.tree.map(lambda values: values.reshape(layout.blocks, *sizes, *values.shape[1:]), own)
        results = lax.map(on_block, blocks)
        total = layout.blocks * layout.size
        return jax.tree.map(lambda values: values.reshape(total, *values.shape[1 + len(sizes) :]), results)

    return jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=tuple(PartitionSpec(*(("seeds",) if own else ())) for own in seeded),
        out_specs=PartitionSpec("seeds"),
        check_vma=False,
    )


def _start_traced(program: _Program, layout: _Layout | None, shape: jax.ShapeDtypeStruct, keys: jax.Array) -> _State:
    return _spread(layout, partial(_start, program, shape), [True])(keys)


# It runs once, so that little optimisation is enough: random numbers then compile in a tenth of the time.
_start_all = jax.jit(_start_traced, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 1})


@partial(jax.jit, static_argnums=(0, 1))
def _advance_all(program: _Program, layout: _Layout | None, state: _State, *arguments: jax.Array) -> _State:
    of_each = layout is not None and layout.targets_of_each
    return _spread(layout, partial(_advance, program), [True, False, of_each, False, False])(state, *arguments)


@partial(jax.jit, static_argnums=(0, 1))
def _record_all(program: _Program, layout: _Layout | None, state: _State, data: Any, validation: Any) -> Any:
    """The fields of a `Trajectory` at this step."""

    def record(state: _State, data: Any, targets: Any, validation: Any) -> Any:
        loss, accuracy = _measure(program, state, data, targets)
        fields = {"conv1": _kernel(state), "loss": loss, "accuracy": accuracy}
        if validation is not None:
            fields["validation_loss"], fields["validation_accuracy"] = _measure(program, state, *validation)
        return {name: value for name, value in fields.items() if value is not None}

    of_each = layout is not None and layout.targets_of_each
    return _spread(layout, record, [True, False, of_each, False])(state, *data, validation)


def _layout(program: _Program, keys: jax.Array, plan: "_Plan") -> _Layout:
    """Spread over the devices, then blocks of equal size, filled up by repeating seeds so that one trace serves all."""
    seeds = keys.shape[0]
    devices = jax.local_devices()[:seeds]
    block = _block(program, keys[0], plan.images)
    blocks = -(-seeds // (len(devices) * block))
    size = -(-seeds // (len(devices) * blocks))
    return _Layout(Mesh(np.array(devices), ("seeds",)), blocks, size, plan.targets_of_each)


# Bytes of activations that a block may have, and seeds at most.
_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = (4e6, 32), (5e8, 4096)


def _block(program: _Program, key: jax.Array, images: Any) -> int:
    """How many seeds should go through one vmap: as many as the activations of a batch fit the bytes of a block.

    A CPU is fast while they stay in its cache. Measured on 2 cores: tiny networks (activations of 10 to 700 kB) are up
    to three times faster in blocks, with little difference between 4 and 64 seeds; those of several megabytes lose up
    to twofold. An accelerator wants to be filled. Measured on an H100: networks of 12 MB are 2.8 times faster in a
    block of 32 seeds than one by one, those of 40 MB 1.8 times in a block of 4; those of 1.1 GB lose a quarter.
    """
    state = _start_all.eval_shape(program, None, jax.ShapeDtypeStruct(images.shape, images.dtype), key)
    batch = jax.ShapeDtypeStruct((program.batch_size or images.shape[0], *images.shape[1:]), images.dtype)
    predict = partial(_predict, state.training_graph)
    operations = jax.make_jaxpr(predict)(state.trained, state.frozen, state.rest, batch).eqns
    arrays = [array.aval for operation in operations for array in operation.outvars]
    size = sum(array.size * array.dtype.itemsize for array in arrays)
    most_bytes, most_seeds = _BLOCK_ON_CPU if jax.default_backend() == "cpu" else _BLOCK_ELSEWHERE
    return int(np.clip(most_bytes // max(size, 1), 1, most_seeds))


# --- The host's part --------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """The checked arguments of a run."""

    settings: tuple[optax.GradientTransformation, int | None, str, tuple[str, ...]]
    images: Any
    targets: Any
    validation: tuple[Any, Any] | None
    records: np.ndarray
    targets_of_each: bool


def _run(
    program: _Program,
    layout: _Layout | None,
    keys: jax.Array,
    plan: _Plan,
    checkpoint_dir: str | Path | None,
    progress: bool,
) -> Trajectory:
    count, records = plan.images.shape[0], plan.records
    seeds = 1 if layout is None else keys.shape[0]
    shape = jax.ShapeDtypeStruct(plan.images.shape, plan.images.dtype)
    keys = _place(layout, keys, of_each=True)
    outline = _start_all.eval_shape(program, layout, shape, keys)
    data, validation = _matched(program.loss, plan, outline.outputs)
    data = tuple(_place(layout, values, own) for values, own in zip(data, (False, plan.targets_of_each), strict=True))
    validation = _place(layout, validation, of_each=False)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((keys, data, validation)))

    if checkpoint_dir is not None and traced:
        raise ValueError("checkpoint_dir must be None inside jax.jit or jax.vmap: a trace has nothing to keep.")
    start = _start_traced if traced else _start_all  # compiler options cannot be given inside a trace
    state, step = start(program, layout, shape, keys), 0
    rows: list[dict[str, Any]] = []
    checkpoints = None
    if checkpoint_dir is not None:
        zero = _index(0)
        text = _advance_all.lower(program, layout, outline, *data, zero, zero).as_text()
        arrays = {
            "keys": keys,
            "images": data[0],
            "targets": data[1],
            "validation": validation,
            "record_steps": records,
            # Those of the same key differ too: by the scale of the initialisation, or a fixed head.
            "initial weights": (state.trained, state.frozen, state.rest),
        }
        checkpoints = Checkpoints(Path(checkpoint_dir), identify(outline.trained, outline.frozen, arrays, text))
        restored = checkpoints.restore(outline)
        if restored is not None:
            state, step, rows = restored
            state = _place(layout, state, of_each=True)
    stretch, saved = 1, -np.inf
    images_per_step = seeds * (program.batch_size or count)
    with (
        nullcontext() if checkpoints is None else closing(checkpoints),
        tqdm(total=int(records[-1]), initial=step, disable=not progress, unit="step", dynamic_ncols=True) as bar,
    ):
        while len(rows) < len(records):
            target = int(records[len(rows)])
            if step < target:
                stop = target if traced else min(target, step + stretch)
                began = time.perf_counter()
                state = _advance_all(program, layout, state, *data, _index(step), _index(stop))
                if not traced:
                    _check_steps(state, rows, records, layout, seeds)  # waits for the result
                    seconds = time.perf_counter() - began
                    bar.update(stop - step)
                    _report(bar, state, rows, (stop - step) * images_per_step / seconds)
                    stretch = stretch * 2 if seconds < _STRETCH_SECONDS else stretch
                step = stop
            if step == target:
                row = _record_all(program, layout, state, data, validation)
                if not traced:
                    row = {name: np.asarray(value) for name, value in row.items()}
                    _check_record(row, step, rows, records, layout, seeds)
                rows.append(row)
            if checkpoints is not None and (
                time.perf_counter() - saved > _CHECKPOINT_SECONDS or len(rows) == len(records)
            ):
                checkpoints.save(state, step, rows)
                saved = time.perf_counter()
    return _trajectory(records, rows, layout, seeds)


_STRETCH_SECONDS = 1.0  # long beside the cost of a call, short beside patience
_CHECKPOINT_SECONDS = 20.0


def _index(step: int) -> jax.Array:
    return jnp.asarray(step, int)


def _place(layout: _Layout | None, values: Any, of_each: bool) -> Any:
    """Put arrays where the seeds run: shared ones on every device, those `of_each` seed beside it."""
    if layout is None:
        return jax.tree.map(jnp.asarray, values)
    total = layout.mesh.size * layout.blocks * layout.size

    def place(array: Any) -> jax.Array:
        array = jnp.asarray(array)
        if of_each and array.shape[0] != total:
            array = array[np.arange(total) % array.shape[0]]
        return jax.device_put(array, NamedSharding(layout.mesh, PartitionSpec(*(("seeds",) if of_each else ()))))

    return jax.tree.map(place, values)


def _trajectory(records: np.ndarray, rows: list[dict[str, Any]], layout: _Layout | None, seeds: int) -> Trajectory:
    """The rows side by side; seeds that only filled up a block are dropped."""
    rows = rows if layout is None else [{name: value[:seeds] for name, value in row.items()} for row in rows]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(rows))
    stack = partial((jnp if traced else np).stack, axis=0 if layout is None else 1)
    fields = {name: jnp.asarray(stack([row[name] for row in rows])) for name in rows[0]} if rows else {}
    empty = jnp.zeros((0,))
    return Trajectory(jnp.asarray(records[: len(rows)], int), **({"conv1": empty, "loss": empty} | fields))


def _check_steps(state: _State, rows: Any, records: np.ndarray, layout: _Layout | None, seeds: int) -> None:
    """Raise if the loss of a step was not finite."""
    failed, loss = np.atleast_1d(state.failed)[:seeds], np.atleast_1d(state.loss)[:seeds]
    if (failed < 0).all():
        return
    seed = int(np.argmin(np.where(failed < 0, np.iinfo(failed.dtype).max, failed)))
    _diverged("the loss", loss[seed], f"step {failed[seed]}", seed, rows, records, layout, seeds)


def _check_record(row: Any, step: int, rows: Any, records: np.ndarray, layout: _Layout | None, seeds: int) -> None:
    """Raise if a recorded loss is not finite."""
    for name in ("loss", "validation_loss"):
        values = np.atleast_1d(row.get(name, 0.0))[:seeds]
        if not np.isfinite(values).all():
            seed = int(np.argmin(np.isfinite(values)))
            what = f"the recorded {name.replace('_', ' ')}"
            _diverged(what, values[seed], f"step {step}", seed, rows, records, layout, seeds)


def _diverged(what: str, value: Any, when: str, seed: int, rows: Any, records: Any, layout: Any, seeds: int) -> None:
    of_seed = "" if layout is None else f" of seed {seed}"
    raise TrainingDiverged(
        f"{what}{of_seed} is {value} at {when}; lower the learning rate or scale the images. "
        f"The {len(rows)} records until then are in this error's `trajectory`.",
        _trajectory(records, rows, layout, seeds),
    )


def _report(bar: Any, state: _State, rows: list[dict[str, Any]], rate: float) -> None:
    """Loss of the last batch and last recorded accuracies (means over seeds), and images a second."""
    shown = {"loss": f"{np.mean(state.loss):.4g}"}
    for name in ("accuracy", "validation_accuracy"):
        if name in rows[-1]:
            shown[name.replace("_", " ")] = f"{np.mean(rows[-1][name]):.3f}"
    bar.set_postfix(shown | {"images/s": f"{rate:,.0f}"})


def _matched(loss: str, plan: _Plan, outputs: jax.ShapeDtypeStruct) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Data and validation, the targets in the form that the outputs (N, M) need."""
    if len(outputs.shape) != 2:
        raise ValueError(
            f"the network's outputs must be (N, M), a row for each image, got shape {outputs.shape}; return "
            "outputs[:, None] if there is one for each."
        )

    def match(name: str, images: Any, targets: Any, of_each: bool) -> tuple[Any, Any]:
        lead = np.shape(targets)[: 1 + of_each]
        if loss == "cross_entropy":
            check_classes(name, targets, outputs.shape[1])
            return images, jnp.asarray(targets, jnp.int32)
        targets = jnp.asarray(targets).reshape(*lead, -1)
        if (lead[-1], *outputs.shape[1:]) != targets.shape[of_each:]:  # they might broadcast
            raise ValueError(
                f"the network's outputs have shape {outputs.shape}, but the {name} {targets.shape[of_each:]}; give the "
                "network one output for each target, e.g. a head (K, M), or encode class labels, e.g. "
                "jax.nn.one_hot(labels, M), or choose loss='cross_entropy'."
            )
        return images, targets.astype(outputs.dtype)

    validation = plan.validation and match("validation targets", *plan.validation, of_each=False)
    return match("targets", plan.images, plan.targets, plan.targets_of_each), validation


def _plan(
    images: Any,
    targets: Any,
    optimizer: optax.GradientTransformation,
    steps: int | None,
    epochs: int | None,
    record_steps: Sequence[int] | np.ndarray | None,
    batch_size: int | None,
    loss: str,
    validation: tuple[Any, Any] | None,
    frozen: Sequence[str],
    seeds: int | None = None,
) -> _Plan:
    """Check how a run is specified."""
    check_images(images)
    if loss not in _LOSSES:
        raise ValueError(f"loss must be one of {sorted(_LOSSES)}, got {loss!r}.")
    images = jnp.asarray(images)
    count, shape = images.shape[0], np.shape(targets)
    check = check_labels if loss == "cross_entropy" else check_targets
    ambiguous = loss == "mse" and shape == (seeds, count) and seeds == count
    if ambiguous:
        raise ValueError(
            f"targets of shape {shape} could be {count} outputs or {seeds} seeds; give one set a seed as (S, N, 1)."
        )
    of_each = seeds is not None and (len(shape) == 3 or shape == (seeds, count))
    check("targets", targets, count, seeds=seeds if of_each else None)
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(f"validation must be a pair (images, targets), got {type(validation).__name__}.")
        check_images(validation[0], "validation images")
        check("validation targets", validation[1], np.shape(validation[0])[0])
        if np.shape(validation[0])[1:] != images.shape[1:]:
            raise ValueError(
                f"validation images must have the shape of the training images {images.shape[1:]}, "
                f"got {np.shape(validation[0])[1:]}."
            )
        validation = (jnp.asarray(validation[0]), validation[1])
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax transformation, e.g. optax.sgd(0.1), got {optimizer!r}.")
    if isinstance(frozen, str) or not all(isinstance(name, str) for name in frozen):
        raise TypeError(f"frozen must be a sequence of layer names, e.g. ('conv1',), got {frozen!r}.")
    if batch_size is not None:
        batch_size = integer("batch_size", batch_size, minimum=1)
        if batch_size > count:
            raise ValueError(f"batch_size must be at most the number of images {count}, got {batch_size}.")
    records = _checked_records(steps, epochs, record_steps, count // (batch_size or count))
    settings = (optimizer, batch_size, loss, tuple(frozen))
    return _Plan(settings, images, targets, validation, records, of_each)


def _checked_records(
    steps: int | None, epochs: int | None, record_steps: Sequence[int] | np.ndarray | None, per_epoch: int
) -> np.ndarray:
    """The steps to record, beginning with 0."""
    if (steps is None) == (epochs is None):
        raise TypeError(f"give the length of the run as either steps or epochs, got steps={steps}, epochs={epochs}.")
    if steps is None:
        steps = integer("epochs", epochs, minimum=0) * per_epoch
    steps = integer("steps", steps, minimum=0)
    records = np.arange(0, steps + 1, per_epoch) if record_steps is None else np.atleast_1d(np.asarray(record_steps))
    if records.ndim != 1 or (records.size and not np.issubdtype(records.dtype, np.integer)):
        raise TypeError(f"record_steps must be a list of integers, got {record_steps!r}.")
    records = records.astype(np.int64)  # differences of unsigned integers are never negative
    if records.size and (records[0] < 0 or (np.diff(records) <= 0).any() or records[-1] > steps):
        raise ValueError(
            f"record_steps must increase and lie between 0 and steps = {steps}, got {records.tolist()}; "
            "numpy.unique sorts them and drops repeated ones."
        )
    if not records.size or records[0] != 0:
        records = np.concatenate([np.zeros(1, np.int64), records])
    return records
