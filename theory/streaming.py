"""Sums over images without limit of their number: batches from the host, shards on
devices, chunks in the cache."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from theory._checks import check_finite, check_images
from theory._precision import float64_now, is_traced, matmul, namespace
from theory.patches import Padding, Window, pad_images, window

# An array (N, H, W, C), or batches of them that are read one after the other.
Images = ArrayLike | Iterable[ArrayLike]
Result = TypeVar("Result")

# Padded pixels whose products are taken at once: on a CPU as many as its cache holds,
# on a device many more.
_CHUNK_ENTRIES_ON_CPU, _CHUNK_ENTRIES_ELSEWHERE = 3 * 2**17, 2**23
_CHUNKS_IN_BATCH = 16

# Squares below it miss digits.
_DIGITS_LOST = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)


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


class _Task(NamedTuple):
    """What to compute: the static argument of the compiled programs."""

    statistic: Statistic
    settings: Any
    where: Window
    dtype: Any


def accumulate(
    statistic: Statistic,
    settings: Any,
    images: Any,
    targets: Any,
    geometry: tuple[Any, Any, Padding],
    build: Callable[[Any, int, Window, int], Result],
    check: Callable[[Window, int], None] = lambda where, channels: None,
    *,
    origin: Any = None,
    shared: tuple[Any, ...] = (),
) -> Result:
    """A statistic of all images, from sums about an origin near their mean.

    Sums about zero would lose the digits that a large mean takes up. Near is enough:
    the mean of the first batch, where no other is given.

    Args:
      statistic, settings: what to compute; both hashable.
      images: array (N, H, W, C), on the host or on devices, or an iterable of such
        arrays.
      targets: (N, M), or None.
      geometry: kernel_size, stride, padding.
      build: (result of `statistic.finish`, count, window, channels) -> the result.
      check: raises, before anything is computed, where the settings do not fit the
        images' window and channels.
      origin: one number a channel, (C,), or one for all, (1,).
      shared: arrays that the sums of every batch need.

    Outside traces everything is float64 and the result NumPy's, whatever JAX's flag;
    inside, of the images' dtype.
    """
    if is_traced(images, targets, origin, shared):
        if not hasattr(images, "shape"):
            raise TypeError(
                "under a JAX transformation images must be one array, not an iterable"
                " of batches."
            )
        check_images(images)
        images = jnp.asarray(images)
        where = window(images.shape, *geometry)
        check(where, images.shape[-1])
        dtype = _at_least_float32(images.dtype)
        y = (
            jnp.ones((images.shape[0], 1), dtype)
            if targets is None
            else jnp.asarray(targets).astype(dtype)
        )
        # Rounded to fewer bits, lest the compiler work the mean into each expression
        # that uses it, to be rounded differently in each.
        bits = jnp.finfo(dtype)
        means = [
            lax.reduce_precision(mean.astype(dtype), bits.nexp, bits.nmant - 4)
            for mean in map(jnp.asarray, _origins(images, y, targets, origin))
        ]
        constants = tuple(jnp.asarray(array).astype(dtype) for array in shared)
        task = _Task(statistic, settings, where, dtype)
        sums = _sums(images, y, *means, constants, task)
        result = statistic.finish(sums, images.shape[0], *means, where, settings)
        return build(result, images.shape[0], where, images.shape[-1])
    if isinstance(images, (list, tuple)) and images and not hasattr(images[0], "shape"):
        images = np.asarray(images)  # nested lists of numbers
    with float64_now():
        total: Any = None
        origins: list[Any] = []
        arrays = tuple(np.asarray(array, np.float64) for array in shared)
        count = 0
        largest_pixel = 0.0  # looked at until one is large enough
        for batch, y in _batches(images, targets, geometry):
            where = window(batch.shape, *geometry)
            check(where, batch.shape[-1])
            # An error of our own follows.
            with np.errstate(over="ignore", invalid="ignore"):
                if not origins:
                    origins = [
                        np.asarray(near, np.float64)
                        for near in _origins(batch, y, targets, origin)
                    ]
                task = _Task(statistic, settings, where, jnp.dtype(jnp.float64))
                sums = _evaluate(task, batch, y, origins[0], origins[1], arrays)
                sums = jax.tree.map(np.asarray, sums)
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sums)):
                check_finite("images", batch)
                raise ValueError(
                    "images are so large that their second moment overflows; scale"
                    " them."
                )
            total = sums if total is None else jax.tree.map(np.add, total, sums)
            count += batch.shape[0]
            # Other types hold no number that small.
            if largest_pixel < _DIGITS_LOST**0.5 and batch.dtype == np.float64:
                largest_pixel = max(largest_pixel, float(abs(batch).max()))
        if 0 < largest_pixel < _DIGITS_LOST**0.5:
            raise ValueError(
                f"images of values up to {largest_pixel:g} are so small that their"
                " second moment underflows; scale them."
            )
        return build(
            statistic.finish(total, count, *origins, where, settings),
            count,
            where,
            batch.shape[-1],
        )


def _batches(images: Any, targets: Any, geometry: Any) -> Iterator[tuple[Any, Any]]:
    """Batches of images and their targets; arrays on the host in pieces, those on
    devices as they are."""
    seen, shape = 0, None
    for item in [images] if hasattr(images, "shape") else iterated(images):
        if not hasattr(item, "shape") or (
            isinstance(item, jax.Array) and _is_on_host(item)
        ):
            item = np.asarray(item)
        check_images(item)
        if shape is None:
            shape = tuple(item.shape)
            window(shape, *geometry)  # raises before anything is computed
        if tuple(item.shape[1:]) != shape[1:]:
            raise ValueError(
                f"batches must hold images of one shape here, got {shape[1:]}, then"
                f" {tuple(item.shape[1:])}; scale and crop them to one."
            )
        size = (
            item.shape[0]
            if isinstance(item, jax.Array)
            else _batch_size(item.shape, window(shape, *geometry))
        )
        for start in range(0, item.shape[0], size):
            batch = (
                item
                if isinstance(item, jax.Array)
                else np.asarray(item[start : start + size])
            )
            last = seen + batch.shape[0]
            if targets is not None and last > len(targets):
                raise ValueError(
                    f"targets has {len(targets)} rows, but there are at least {last}"
                    " images."
                )
            yield (
                batch,
                (
                    np.ones((batch.shape[0], 1))
                    if targets is None
                    else np.asarray(targets[seen:last], np.float64)
                ),
            )
            seen = last
    if shape is None:
        raise ValueError(
            "images is an iterable without any batch; an iterator can be read only"
            " once."
        )
    if targets is not None and seen != len(targets):
        raise ValueError(
            f"targets has {len(targets)} rows, but there are {seen} images."
        )


def iterated(images: Any) -> Iterable[Any]:
    labelled = hasattr(images, "images")  # a named tuple is an iterable too
    if isinstance(images, Iterable) and not isinstance(images, str) and not labelled:
        return images
    found = f"{type(images).__name__}{'; pass its .images' if labelled else ''}"
    raise TypeError(
        "images must be an array (N, H, W, C) or an iterable of such arrays, got"
        f" {found}."
    )


def _evaluate(
    task: _Task,
    images: Any,
    targets: np.ndarray,
    origin: Any,
    target_origin: Any,
    shared: tuple[Any, ...],
) -> Any:
    """The sums of one batch, where its images are: on the host, on a device, or on all
    that hold a part of it.

    Where the host is also JAX's backend, NumPy takes the products: nothing needs to be
    compiled, and they are faster than XLA's. Arrays that were sharded over several
    devices stay there.
    """
    others = origin, target_origin, shared, task
    if isinstance(images, jax.Array):
        mesh, axes = _shards(images)
        if mesh is not None:
            return _sharded_sums(images, targets, *others, mesh, axes)
        return _sums(images, targets, *others)
    if _on_cpu():
        return _sums_on_host(images, targets, *others)
    devices = jax.local_devices()
    if len(devices) == 1 or images.shape[0] % len(devices):
        return _sums(images, targets, *others)
    mesh = Mesh(np.array(devices), ("images",))
    spread = jax.device_put(
        (images, targets), NamedSharding(mesh, PartitionSpec("images"))
    )
    return _sharded_sums(*spread, *others, mesh, "images")


def _is_on_host(images: jax.Array) -> bool:
    return _on_cpu() and len(images.sharding.device_set) == 1


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


def _batch_size(shape: tuple[int, ...], where: Window) -> int:
    """Images of the host that are taken at a time: several chunks for each device or
    core."""
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
    task: _Task,
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


def _origins(images: Any, y: Any, targets: Any, origin: Any) -> list[Any]:
    """What images and targets are given about; ones, in place of targets, about 0."""
    return [
        _pixel_mean(images) if origin is None else origin,
        np.zeros(1) if targets is None else y.mean(axis=0),
    ]


def _pixel_mean(images: Any) -> Any:
    """The mean of each channel, as precise as an origin near the mean has to be."""
    count, channels = images.shape[0], images.shape[-1]
    dtype = _at_least_float32(images.dtype)
    share = namespace(images).full((1, count), 1 / count, dtype)
    return (
        matmul(share, images.reshape(count, -1).astype(dtype))
        .reshape(-1, channels)
        .mean(axis=0)
    )


@partial(jax.jit, static_argnames="task")
def _sums(
    images: jax.Array,
    targets: jax.Array,
    origin: jax.Array,
    target_origin: jax.Array,
    shared: tuple[jax.Array, ...],
    task: _Task,
) -> Any:
    """The sums of the images of one device, in chunks."""
    statistic, settings, where, dtype = task
    count = images.shape[0]
    size = _chunk_size(images.shape, where)

    def sums(number: jax.Array) -> Any:
        # The last chunk overlaps the one before it: what was seen already becomes zero.
        start = jnp.minimum(number * size, count - size)
        new = start + jnp.arange(size) >= number * size
        x, y = (
            lax.dynamic_slice_in_dim(values, start, size).astype(dtype)
            for values in (images, targets)
        )
        x = jnp.where(
            new[:, None, None, None], pad_images(x, where) - origin[None, None, None], 0
        )
        y = jnp.where(new[:, None], y - target_origin[None], 0)
        return statistic.sums(x, y, where, settings, *shared)

    chunks = -(-count // size)
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
def _sharded_sums(
    images: jax.Array,
    targets: jax.Array,
    origin: jax.Array,
    target_origin: jax.Array,
    shared: tuple[jax.Array, ...],
    task: _Task,
    mesh: Mesh,
    axes: Any,
) -> Any:
    """The sums of images that are split over devices: each its own, then all by one
    collective."""

    def local(images: jax.Array, targets: jax.Array) -> Any:
        sums = _sums(images, targets, origin, target_origin, shared, task)
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


def _at_least_float32(dtype: Any) -> Any:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32
