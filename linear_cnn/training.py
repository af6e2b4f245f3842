"""A jit-compiled training loop that records the first layer's trajectory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linear_cnn._arguments import check_images, check_keys, check_targets, integer
from linear_cnn.networks import first_kernel

Init = Callable[[jax.Array], nnx.Module]


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over images of the squared error summed over outputs; both (N, M)."""
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


_LOSSES = {"mse": mean_squared_error}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """What training recorded; a pytree. `train_seeds` puts a leading seed axis S on `conv1` and `loss`.

    Attributes:
      steps: the recorded steps, (R,), increasing from 0.
      conv1: the first layer's kernel at these steps, (R, kh, kw, C, K).
      loss: the loss over all images at these steps, (R,), taken in batches of the training's size.
    """

    steps: jax.Array
    conv1: jax.Array
    loss: jax.Array


def train(
    init: Init,
    images: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: jax.Array,
    record_steps: Sequence[int] | np.ndarray,
    batch_size: int | None = None,
    loss: str = "mse",
) -> Trajectory:
    """Train a network and record the trajectory of its first layer. Pure in `key`.

    One compiled program runs all steps. It is compiled anew only for new shapes, or new `init`, `optimizer`,
    `batch_size` or `loss` objects, so make `init` and `optimizer` once and reuse them; keys, data, steps and
    the values of `record_steps` are free.

    Args:
      init: key -> `flax.nnx.Module` that maps images to outputs (N, M) and has its first convolution in `conv1`.
      images: floating point, (N, H, W, C); their dtype should be that of the network (`LinearCNN` converts them).
      targets: (N,) or (N, M), real numbers; converted to the dtype of the outputs.
      optimizer: any optax transformation; its learning rate refers to the stated loss.
      steps: length of the run, at least the last recorded step; later steps leave no trace and are not run.
      key: of the initialisation and the order of the batches.
      record_steps: increasing steps to record, such as log-spaced ones; step 0, before training, is always recorded.
      batch_size: images per step; all of them (full-batch gradient descent) if None. Every epoch is a new
        permutation; images left over when N is no multiple are skipped for that epoch.
      loss: "mse", the mean over images of the squared error summed over outputs.

    Returns:
      the trajectory.

    Raises:
      TypeError, ValueError: malformed arguments, a network without `conv1`, or outputs that do not match the
        targets, before anything is compiled; the message names the remedy.
    """
    check_keys("key", key, axes=0)
    check_images(images)
    images = jnp.asarray(images)
    check_targets(targets, images.shape[0])
    batch_size, records = _checked_run(images.shape[0], optimizer, steps, record_steps, batch_size, loss)
    targets = jnp.asarray(targets).reshape(images.shape[0], -1)
    conv1, losses = _train(init, optimizer, loss, batch_size, key, images, targets, records)
    return Trajectory(records, conv1, losses)


def train_seeds(
    init: Init,
    images: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    keys: jax.Array,
    record_steps: Sequence[int] | np.ndarray,
    batch_size: int | None = None,
    loss: str = "mse",
) -> Trajectory:
    """Train many seeds in one compiled program; the same as `train` for each of the keys, up to rounding.

    The seeds are spread over the devices of this process, and within each go through `jax.vmap` in blocks (on a CPU
    of 32, whose arrays stay in its cache; elsewhere all at once). A CPU counts as one device unless told otherwise
    before JAX first computes: `jax.config.update("jax_num_cpu_devices", 2)` uses two cores.

    Args:
      targets: shared, (N,) or (N, M), or one set a seed, (S, N) or (S, N, M).
      keys: (S,), one a seed, for example `jax.random.split(key, S)`.
      others: as in `train`.

    Returns:
      the trajectories, with a leading seed axis on `conv1` and `loss`, gathered on the first of these devices.

    Raises:
      TypeError, ValueError: as `train`; also where (N, M) and (S, N) targets cannot be told apart.
    """
    check_keys("keys", keys, axes=1)
    check_images(images)
    images = jnp.asarray(images)
    seeds, count, shape = keys.shape[0], images.shape[0], np.shape(targets)
    if shape == (seeds, count) and seeds == count:
        raise ValueError(
            f"targets of shape {shape} could be {count} outputs or {seeds} seeds; give one set a seed as (S, N, 1)."
        )
    per_seed = len(shape) == 3 or shape == (seeds, count)
    check_targets(targets, count, seeds=seeds if per_seed else None)
    batch_size, records = _checked_run(count, optimizer, steps, record_steps, batch_size, loss)
    targets = jnp.asarray(targets).reshape(*shape[: 1 + per_seed], -1)
    mesh = Mesh(np.array(jax.local_devices()[:seeds]), ("seeds",))
    # Data may lie on any one device, and results are to be used with other arrays: so they go to one again.
    data = jax.device_put((jnp.asarray(keys), images, targets, records), NamedSharding(mesh, PartitionSpec()))
    results = _train_seeds(init, optimizer, loss, batch_size, per_seed, mesh, *data)
    conv1, losses = jax.device_put(results, mesh.devices[0])
    return Trajectory(records, conv1, losses)


def _run(
    init: Init,
    optimizer: optax.GradientTransformation,
    loss: str,
    batch_size: int | None,
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    record_steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    init_key, order_key = jax.random.split(key)
    network = init(init_key)
    if not isinstance(network, nnx.Module):
        raise TypeError(f"init must return a flax.nnx.Module, got {type(network).__name__}.")
    graph, *variables = nnx.split(network, nnx.Param, ...)
    # Plain arrays: modules' own variables cannot cross the traces of scan and grad.
    parameters, state = map(nnx.as_pure, variables)
    count = images.shape[0]
    per_epoch = count // (batch_size or count)

    def predict(parameters: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graph, parameters, state, copy=True)
        outputs = model(x)
        return outputs, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

    def evaluate(parameters: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        outputs, state = predict(parameters, state, x)
        return _LOSSES[loss](outputs, y), state

    def loss_over_all(parameters: Any, state: Any) -> jax.Array:
        """In batches of the training's size, so that recording needs no more memory than training."""
        size = batch_size or count

        def summed(start: Any, size: int) -> jax.Array:
            x, y = (lax.dynamic_slice_in_dim(values, start, size) for values in (images, targets))
            return evaluate(parameters, state, x, y)[0] * size

        total = (
            summed(0, size)
            if per_epoch == 1
            else lax.map(partial(summed, size=size), jnp.arange(per_epoch) * size).sum()
        )
        left = count - per_epoch * size
        return (total + summed(count - left, left) if left else total) / count

    outputs, _ = jax.eval_shape(predict, parameters, state, images)
    if outputs.shape != targets.shape:  # they might broadcast
        raise ValueError(
            f"the network's outputs have shape {outputs.shape}, but the targets {targets.shape}; give the network one "
            "output for each target, e.g. a head (K, M), or encode class labels, e.g. jax.nn.one_hot(labels, M)."
        )
    targets = targets.astype(outputs.dtype)

    def step(index: jax.Array, carry: Any) -> Any:
        parameters, state, moments, order = carry
        x, y = images, targets
        if batch_size is not None:
            position = index % per_epoch
            epoch_key = jax.random.fold_in(order_key, index // per_epoch)
            order = lax.cond(position == 0, lambda: jax.random.permutation(epoch_key, count), lambda: order)
            batch = lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
            x, y = images[batch], targets[batch]
        gradients, state = jax.grad(evaluate, has_aux=True)(parameters, state, x, y)
        with jax.numpy_dtype_promotion("standard"):  # some of optax's own arithmetic needs it
            updates, moments = optimizer.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), state, moments, order

    def until(carry: Any, record_step: jax.Array) -> Any:
        previous, trained = carry
        trained = lax.fori_loop(previous, record_step, step, trained)
        parameters, state = trained[:2]
        return (record_step, trained), (first_kernel(parameters), loss_over_all(parameters, state))

    start = (parameters, state, optimizer.init(parameters), jnp.arange(count if batch_size else 0))
    _, records = lax.scan(until, (jnp.zeros_like(record_steps[0]), start), record_steps)
    return records


_train = jax.jit(_run, static_argnums=(0, 1, 2, 3))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _train_seeds(
    init: Init,
    optimizer: optax.GradientTransformation,
    loss: str,
    batch_size: int | None,
    per_seed: bool,
    mesh: Mesh,
    keys: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    record_steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    seeds = keys.shape[0]
    blocks, size = _layout(seeds, mesh.size)
    run = jax.vmap(partial(_run, init, optimizer, loss, batch_size), in_axes=(0, None, 0 if per_seed else None, None))

    def run_blocks(keys: jax.Array, images: jax.Array, targets: jax.Array, record_steps: jax.Array) -> Any:
        def run_block(block: tuple[jax.Array, jax.Array | None]) -> Any:
            return run(block[0], images, targets if block[1] is None else block[1], record_steps)

        results = lax.map(run_block, (keys[0], targets[0] if per_seed else None))
        return jax.tree.map(lambda values: values.reshape(1, -1, *values.shape[2:]), results)

    # Blocks of equal size, filled up by repeating seeds, so that one trace serves them all.
    filled = jnp.arange(mesh.size * blocks * size).reshape(mesh.size, blocks, size) % seeds
    results = jax.shard_map(
        run_blocks,
        mesh=mesh,
        in_specs=(
            PartitionSpec("seeds"),
            PartitionSpec(),
            PartitionSpec("seeds" if per_seed else None),
            PartitionSpec(),
        ),
        out_specs=PartitionSpec("seeds"),
        check_vma=False,
    )(keys[filled], images, targets[filled] if per_seed else targets, record_steps)
    return jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:])[:seeds], results)


def _layout(seeds: int, devices: int) -> tuple[int, int]:
    """How many blocks on each device, and seeds in each block."""
    block = 32 if jax.default_backend() == "cpu" else seeds
    blocks = -(-seeds // (devices * block))
    return blocks, -(-seeds // (devices * blocks))


def _checked_run(
    count: int,
    optimizer: optax.GradientTransformation,
    steps: int,
    record_steps: Sequence[int] | np.ndarray,
    batch_size: int | None,
    loss: str,
) -> tuple[int | None, jax.Array]:
    """The batch size and the steps to record, beginning with 0, after checking how the run is specified."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax transformation, e.g. optax.sgd(0.1), got {optimizer!r}.")
    if loss not in _LOSSES:
        raise ValueError(f"loss must be one of {sorted(_LOSSES)}, got {loss!r}.")
    if batch_size is not None:
        batch_size = integer("batch_size", batch_size, minimum=1)
        if batch_size > count:
            raise ValueError(f"batch_size must be at most the number of images {count}, got {batch_size}.")
    steps = integer("steps", steps, minimum=0)
    records = np.atleast_1d(np.asarray(record_steps))
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
    return batch_size, jnp.asarray(records, int)
