"""The sums of one batch of images: by NumPy on the cores of the host, on a device, or
on all devices of a mesh."""

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from threadpoolctl import ThreadpoolController

from theory.patches import Window, pad_images

# Padded pixels whose products are taken at once: on a CPU as many as its cache holds,
# on a device many more.
_CHUNK_ENTRIES_ON_CPU, _CHUNK_ENTRIES_ELSEWHERE = 3 * 2**17, 2**23
_CHUNKS_IN_BATCH = 16


class Statistic(NamedTuple):
    """Sums over images, and what is made of them; both for NumPy arrays as well as for
    JAX arrays.

    Attributes:
      sums: (images, targets, where, settings, *shared) -> pytree of arrays that add up
        over images. The images are padded and, like the targets, given about an origin;
        all zeros, which must not count, stand for no image. Missing targets are ones.
      finish: (sums, count, origin, target_origin, where, settings) -> pytree of arrays.
      large: whether the sums of few images are no smaller than those images. Then a
        core takes its share of a batch at once, lest adding them up take longer.
    """

    sums: Callable[..., Any]
    finish: Callable[..., Any]
    large: bool = False


class Task(NamedTuple):
    """What to compute: the static argument of the compiled programs."""

    statistic: Statistic
    settings: Any
    where: Window
    dtype: Any


def sums_of_batch(
    task: Task,
    images: Any,
    targets: np.ndarray,
    origin: Any,
    target_origin: Any,
    shared: tuple[Any, ...],
    mesh: Mesh | None,
) -> Any:
    """The sums of one batch, where its images are; of those on the host, on all devices
    of the mesh or of this process.

    Without a mesh, and where the host is JAX's backend, NumPy takes the products of the
    latter: nothing needs to be compiled, and they are faster than XLA's.
    """
    others = origin, target_origin, shared, task
    count = images.shape[0]
    if isinstance(images, jax.Array):
        mesh, axes = _shards(images)
        if mesh is None:
            return sums_on_device(images, targets, count, *others)
    elif mesh is None and _on_cpu():
        return _sums_on_host(images, targets, *others)
    else:
        mesh = mesh or Mesh(np.array(jax.local_devices()), ("images",))
        axes = mesh.axis_names
        images = _spread(images, mesh, axes)
    spread_targets = _spread(targets, mesh, axes)
    return _sums_on_mesh(images, spread_targets, count, *others, mesh, axes)


def stays_on_devices(images: Any, mesh: Mesh | None) -> bool:
    """Whether images are summed where they are: on an accelerator or split over
    devices, and if a mesh is asked for, the latter."""
    if not isinstance(images, jax.Array):
        return False
    several = len(images.sharding.device_set) > 1
    if mesh is not None:
        return several and _shards(images)[0] is not None
    return several or not _on_cpu()


def _spread(array: np.ndarray, mesh: Mesh, axes: Any) -> jax.Array:
    """An array of the host, split along its first axis over these axes of a mesh, and
    filled up with zeros; each process reads the parts of its own devices."""
    if array.dtype.kind == "f":  # JAX has no other order of bytes, and nothing wider
        wide = array.dtype.itemsize > 8
        array = array.astype(
            float if wide else array.dtype.newbyteorder("="), copy=False
        )
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    names = (axes,) if isinstance(axes, str) else axes
    parts = math.prod(mesh.shape[name] for name in names)
    size = -(-len(array) // parts)

    def part(index: Any) -> np.ndarray:
        rows = array[index]
        missing = size - len(rows)
        return (
            np.pad(rows, ((0, missing),) + ((0, 0),) * (rows.ndim - 1))
            if missing
            else rows
        )

    shape = (size * parts, *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)


def _shards(images: jax.Array) -> tuple[Mesh | None, Any]:
    """The mesh and its axes over which the first axis of an array, and no other, is
    split; None if it is not."""
    sharding = images.sharding
    if not isinstance(sharding, NamedSharding):
        return None, None
    spec = tuple(sharding.spec)
    if not spec or spec[0] is None or any(axes is not None for axes in spec[1:]):
        return None, None
    return sharding.mesh, spec[0]  # type: ignore[return-value]


def batch_size(shape: tuple[int, ...], where: Window, mesh: Mesh | None) -> int:
    """Images of the host that are taken at a time: several chunks for each device or
    core."""
    if mesh is not None:
        workers = mesh.size
    else:
        workers = _cores() if _on_cpu() else len(jax.local_devices())
    return _chunk_size(shape, where) * _CHUNKS_IN_BATCH * workers


def _chunk_size(shape: tuple[int, ...], where: Window) -> int:
    entries = _CHUNK_ENTRIES_ON_CPU if _on_cpu() else _CHUNK_ENTRIES_ELSEWHERE
    height, width = (
        length + sum(side)
        for length, side in zip(shape[1:3], where.padding, strict=True)
    )
    return max(1, min(shape[0], entries // (height * width * shape[3])))


def _on_cpu() -> bool:
    """Whether the host is JAX's backend."""
    return jax.default_backend() == "cpu"


def _cores() -> int:
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


@functools.cache
def _libraries() -> ThreadpoolController:
    """The thread pools of this process; looking for them takes longer than a batch."""
    return ThreadpoolController()


def _sums_on_host(
    images: np.ndarray,
    targets: np.ndarray,
    origin: np.ndarray,
    target_origin: np.ndarray,
    shared: tuple[np.ndarray, ...],
    task: Task,
) -> Any:
    """The sums of a batch by NumPy, each chunk on one core."""
    statistic, settings, where, dtype = task
    size = _chunk_size(images.shape, where)
    if statistic.large:
        size = max(size, -(-images.shape[0] // _cores()))

    def sums(start: int) -> Any:
        x = images[start : start + size]
        if any(map(any, where.padding)):
            x = pad_images(x, where)
        y = targets[start : start + size] - target_origin
        x = np.subtract(x, origin, dtype=dtype)
        return statistic.sums(x, y, where, settings, *shared)

    starts = range(0, images.shape[0], size)
    workers = min(_cores(), len(starts))
    add = partial(jax.tree.map, np.add)

    # Each core keeps one total, however many chunks it takes.
    @np.errstate(over="ignore", invalid="ignore")
    def total(worker: int) -> Any:
        return functools.reduce(add, map(sums, starts[worker::workers]))

    # BLAS's own threads only wait for one another in products as narrow as these.
    with (
        _libraries().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(workers) as pool,
    ):
        return functools.reduce(add, pool.map(total, range(workers)))


@partial(jax.jit, static_argnames="task")
def sums_on_device(
    images: jax.Array,
    targets: jax.Array,
    count: int | jax.Array,
    origin: jax.Array,
    target_origin: jax.Array,
    shared: tuple[jax.Array, ...],
    task: Task,
) -> Any:
    """The sums of the first `count` images of one device, in chunks."""
    statistic, settings, where, dtype = task
    held = images.shape[0]
    size = _chunk_size(images.shape, where)

    def sums(number: jax.Array) -> Any:
        # The last chunk overlaps the one before it: what was seen already becomes zero.
        start = jnp.minimum(number * size, held - size)
        place = start + jnp.arange(size)
        new = (place >= number * size) & (place < count)
        x, y = (
            lax.dynamic_slice_in_dim(values, start, size).astype(dtype)
            for values in (images, targets)
        )
        x = jnp.where(
            new[:, None, None, None], pad_images(x, where) - origin[None, None, None], 0
        )
        y = jnp.where(new[:, None], y - target_origin[None], 0)
        return statistic.sums(x, y, where, settings, *shared)

    chunks = -(-held // size)
    if chunks == 1:
        result = sums(jnp.zeros((), int))
    else:
        shapes = jax.eval_shape(sums, jnp.zeros((), int))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        add = partial(jax.tree.map, jnp.add)
        result, _ = lax.scan(
            lambda total, number: (add(total, sums(number)), None),
            zeros,
            jnp.arange(chunks),
        )
    return result


@partial(jax.jit, static_argnames=("task", "mesh", "axes"))
def _sums_on_mesh(
    images: jax.Array,
    targets: jax.Array,
    count: int | jax.Array,
    origin: jax.Array,
    target_origin: jax.Array,
    shared: tuple[jax.Array, ...],
    task: Task,
    mesh: Mesh,
    axes: Any,
) -> Any:
    """The sums of the first `count` images, which are split over devices: each its own,
    then all by one collective."""

    def local(images: jax.Array, targets: jax.Array) -> Any:
        held = images.shape[0]
        own = jnp.clip(count - lax.axis_index(axes) * held, 0, held).astype(int)
        sums = sums_on_device(images, targets, own, origin, target_origin, shared, task)
        return lax.psum(sums, axes)

    each = PartitionSpec(axes)
    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(each, each),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return spread(images, targets)
