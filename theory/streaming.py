"""Sums over images without limit of their number: those of batches, about an origin
near the mean."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import check_finite, check_images, check_mesh
from theory._meshes import check_traced, no_active_mesh, with_automatic_axes
from theory._precision import float64_now, is_traced, matmul, namespace
from theory.batch_sums import (
    Statistic,
    Task,
    batch_size,
    stays_on_devices,
    sums_of_batch,
    sums_on_device,
)
from theory.patches import Padding, Window, window

# An array (N, H, W, C), or batches of them that are read one after the other.
Images = ArrayLike | Iterable[ArrayLike]
Result = TypeVar("Result")

# Squares below it miss digits.
_DIGITS_LOST = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)


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
    mesh: Mesh | None = None,
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
      mesh: over whose devices images are spread that are not yet split over some; None
        for the cores of the host or the accelerators of this process.

    Outside traces everything is float64 and the result NumPy's, whatever JAX's flag;
    inside, of the images' dtype.
    """
    check_mesh(mesh, images)
    if is_traced(images, targets, origin, shared):
        if not hasattr(images, "shape"):
            raise TypeError(
                "under a JAX transformation images must be one array, not an iterable"
                " of batches."
            )
        check_images(images)
        images = jnp.asarray(images)
        check_traced(images)
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
        task = Task(statistic, settings, where, dtype)
        sums = sums_on_device(images, y, images.shape[0], *means, constants, task)
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
        for batch, y in _batches(images, targets, geometry, mesh):
            where = window(batch.shape, *geometry)
            check(where, batch.shape[-1])
            # An error of our own follows.
            with np.errstate(over="ignore", invalid="ignore"), no_active_mesh():
                if not origins:
                    origins = [
                        np.asarray(near, np.float64)
                        for near in _origins(batch, y, targets, origin)
                    ]
                task = Task(statistic, settings, where, jnp.dtype(jnp.float64))
                sums = sums_of_batch(
                    task, batch, y, origins[0], origins[1], arrays, mesh
                )
                sums = jax.tree.map(np.asarray, sums)
                # Other types hold no number that small.
                if largest_pixel < _DIGITS_LOST**0.5 and batch.dtype == np.float64:
                    largest_pixel = max(largest_pixel, float(abs(batch).max()))
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sums)):
                check_finite("images", batch)
                raise ValueError(
                    "images are so large that their second moment overflows; scale"
                    " them."
                )
            total = sums if total is None else jax.tree.map(np.add, total, sums)
            count += batch.shape[0]
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


def _batches(
    images: Any, targets: Any, geometry: Any, mesh: Mesh | None
) -> Iterator[tuple[Any, Any]]:
    """Batches of images and their targets; arrays on the host in pieces, those on
    devices as they are."""
    seen, shape = 0, None
    for item in [images] if hasattr(images, "shape") else iterated(images):
        if not hasattr(item, "shape") or (
            isinstance(item, jax.Array) and not stays_on_devices(item, mesh)
        ):
            item = np.asarray(item)
        if isinstance(item, jax.Array):
            item = with_automatic_axes(item)
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
            else batch_size(item.shape, window(shape, *geometry), mesh)
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


def _at_least_float32(dtype: Any) -> Any:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32
