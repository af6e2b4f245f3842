"""Many seeds in one compiled program, spread over devices and in blocks."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linear_cnn.training._compilation import known_options
from linear_cnn.training._mesh import SEEDS, check_traced, with_automatic_axes
from linear_cnn.training._plan import _Plan
from linear_cnn.training._step import (
    _advance,
    _kernels,
    _measure,
    _predict,
    _Program,
    _start,
    _State,
)


class _Layout(NamedTuple):
    """How many seeds run where: on each device of the mesh blocks one after the other,
    of `size` seeds in one vmap."""

    mesh: Mesh
    blocks: int
    size: int
    targets_of_each: bool


def _spread(
    layout: _Layout | None,
    function: Callable[..., Any],
    seeded: Sequence[bool],
    batch: bool = True,
) -> Callable[..., Any]:
    """The function of one seed for all of them: arguments and results that are `seeded`
    get a leading seed axis.

    The compiler spreads what it likes over the axis of the batch, unless `batch` is
    False: then the devices of a batch compute the same, as one alone does.
    """
    if layout is None:
        return function
    axes = tuple(0 if own else None for own in seeded)

    def on_device(*arguments: Any) -> Any:
        own = tuple(
            value for value, axis in zip(arguments, axes, strict=True) if axis == 0
        )

        def on_block(own: Any) -> Any:
            values = iter(own)
            complete = (
                next(values) if axis == 0 else value
                for value, axis in zip(arguments, axes, strict=True)
            )
            return (function if layout.size == 1 else jax.vmap(function, axes))(
                *complete
            )

        if layout.blocks == 1 and layout.size > 1:
            return on_block(own)
        sizes = () if layout.size == 1 else (layout.size,)
        blocks = jax.tree.map(
            lambda values: values.reshape(layout.blocks, *sizes, *values.shape[1:]), own
        )
        results = lax.map(on_block, blocks)
        total = layout.blocks * layout.size
        return jax.tree.map(
            lambda values: values.reshape(total, *values.shape[1 + len(sizes) :]),
            results,
        )

    return jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=tuple(PartitionSpec(*((SEEDS,) if own else ())) for own in seeded),
        out_specs=PartitionSpec(SEEDS),
        axis_names={SEEDS} if batch else set(layout.mesh.axis_names),
        check_vma=False,
    )


def _start_traced(
    program: _Program,
    layout: _Layout | None,
    shape: jax.ShapeDtypeStruct,
    keys: jax.Array,
) -> _State:
    # Its bits are a part of what a checkpoint on any mesh must agree with.
    start = partial(_start, program if layout is None else program._replace(mesh=None))
    return _spread(layout, partial(start, shape), [True], batch=False)(keys)


@cache
def _start_all() -> Any:
    """`_start_traced`, compiled with little effort, since it runs once: random numbers
    are thousands of operations. The weights are the same bits, as those of level 0 are
    not."""
    options = {
        "xla_backend_optimization_level": 1,
        "xla_cpu_use_fusion_emitters": False,  # they take longest, on CPUs
    }
    return jax.jit(
        _start_traced,
        static_argnums=(0, 1, 2),
        compiler_options=known_options(options),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _advance_all(
    program: _Program, layout: _Layout | None, state: _State, *arguments: jax.Array
) -> _State:
    of_each = layout is not None and layout.targets_of_each
    return _spread(
        layout, partial(_advance, program), [True, False, of_each, False, False]
    )(state, *arguments)


@partial(jax.jit, static_argnums=(0, 1))
def _record_all(
    program: _Program, layout: _Layout | None, state: _State, data: Any, validation: Any
) -> Any:
    """The fields of a `Trajectory` at this step."""

    def record(state: _State, data: Any, targets: Any, validation: Any) -> Any:
        fields = _kernels(state) | _measure(program, state, data, targets)
        if validation is not None:
            of_validation = _measure(program, state, *validation)
            fields |= {f"validation_{name}": v for name, v in of_validation.items()}
        return fields

    of_each = layout is not None and layout.targets_of_each
    return _spread(layout, record, [True, False, of_each, False])(
        state, *data, validation
    )


def _layout(
    program: _Program, keys: jax.Array, plan: _Plan, mesh: Mesh | None
) -> _Layout:
    """Blocks of equal size, spread over the devices and filled up by repeating seeds so
    that one trace serves all.

    The size of a block is the same on any number of devices, and with it the bits of
    every seed.
    """
    seeds = keys.shape[0]
    key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    size = _size(seeds, *_bounds(program, key, plan.images))
    if jax.random.key_impl(keys) != "threefry2x32":
        size = 1  # a vmap of others draws all of its numbers from the first key
    if mesh is None:
        mesh = Mesh(np.array(jax.devices()), (SEEDS,))
    elif SEEDS not in mesh.axis_names:
        mesh = Mesh(mesh.devices[None], (SEEDS, *mesh.axis_names))
    blocks = -(-seeds // (size * mesh.shape[SEEDS]))
    # Each process of a job takes part.
    used = None if jax.process_count() > 1 else -(-seeds // (size * blocks))
    mesh = Mesh(mesh.devices[:used], mesh.axis_names)
    return _Layout(mesh, blocks, size, plan.targets_of_each)


def _one_block(layout: _Layout) -> _Layout:
    """That of a single block, on one device."""
    device = np.array(jax.local_devices()[:1])
    return layout._replace(mesh=Mesh(device, (SEEDS,)), blocks=1)


# Devices that a machine usually has: those that the size of a block should suit.
_USUAL = (1, 2, 4, 8)


def _size(seeds: int, least: int, most: int) -> int:
    """How many of the seeds go through one vmap: at least so many that more would not
    be faster; of such sizes the one that the usual numbers of devices are fastest with,
    by the geometric mean."""
    if seeds <= least:
        return seeds

    def seconds(size: int) -> int:
        return math.prod(-(-seeds // (size * devices)) * size for devices in _USUAL)

    return min(range(least, min(2 * least, most) + 1), key=seconds)


# Of one vmap: the bytes of activations from which on more seeds are not faster, the
# bytes that it may have, the seeds that it may have.
_ON_CPU, _ELSEWHERE = (1e5, 4e6, 32), (2e8, 5e8, 4096)


def _bounds(
    program: _Program, key: jax.ShapeDtypeStruct, images: Any
) -> tuple[int, int]:
    """How many seeds should go through one vmap at least, where there are as many, and
    at most.

    A CPU is fast while the activations of a batch stay in its cache. CPU seconds,
    measured on 2 cores: networks of 100 kB to 1 MB take 1.6 times as long one by one as
    in blocks of 2, and no less in blocks of 32; those of 10 kB gain four times, until
    blocks of 8. Those of several megabytes lose up to twofold. An accelerator wants to
    be filled. Measured on an H100: networks of 12 MB are 2.8 times faster in a block of
    32 seeds than one by one, those of 40 MB 1.8 times in a block of 4; those of 1.1 GB
    lose a quarter.
    """
    state = _start_all().eval_shape(
        program, None, jax.ShapeDtypeStruct(images.shape, images.dtype), key
    )
    batch = jax.ShapeDtypeStruct(
        (program.batch_size or images.shape[0], *images.shape[1:]), images.dtype
    )
    predict = partial(_predict, state.training_graph)
    operations = jax.make_jaxpr(predict)(
        state.trained, state.frozen, state.rest, batch
    ).eqns
    arrays = [array.aval for operation in operations for array in operation.outvars]
    size = sum(array.size * array.dtype.itemsize for array in arrays)
    least_bytes, most_bytes, most_seeds = (
        _ON_CPU if jax.default_backend() == "cpu" else _ELSEWHERE
    )
    most = int(np.clip(most_bytes // max(size, 1), 1, most_seeds))
    # Two in a vmap are faster than one by one wherever two fit.
    return int(np.clip(least_bytes // max(size, 1), min(2, most), most)), most


def _place(
    program: _Program, layout: _Layout | None, values: Any, of_each: bool
) -> Any:
    """Put arrays where the seeds run: shared ones on every device, those `of_each` seed
    beside it."""
    mesh = program.mesh if layout is None else layout.mesh
    if mesh is None:
        values = jax.tree.map(jnp.asarray, values)
        jax.tree.map(check_traced, values)
        return jax.tree.map(with_automatic_axes, values)
    spread = of_each and layout is not None
    total = layout.blocks * layout.size * mesh.shape[SEEDS] if layout else 1
    sharding = NamedSharding(mesh, PartitionSpec(*((SEEDS,) if spread else ())))

    def place(array: Any) -> jax.Array:
        array = with_automatic_axes(jnp.asarray(array))
        if spread and array.shape[0] != total:
            array = array[np.arange(total) % array.shape[0]]
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(array))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        # Every process has all of it.
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(place, values)


def _on_host(values: Any, seeds: int | None) -> Any:
    """Arrays with a seed axis, or none if `seeds` is None, on the host, without the
    seeds that only filled up a block; keys as those of one device."""

    def one(leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        return array if seeds is None else array[:seeds]

    return jax.tree.map(one, values)


def _first(values: Any, seeds: int | None = None) -> Any:
    """Shapes and types of arrays, those with a seed axis of so many seeds."""

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        shape = leaf.shape if seeds is None else (seeds, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(one, values)
