"""Meshes of devices: seeds over one axis, the images of a batch over another."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import get_opaque_trace_state
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SEEDS, BATCH = "seeds", "batch"
_OUTSIDE_TRACES = get_opaque_trace_state()


@contextlib.contextmanager
def no_active_mesh() -> Iterator[None]:
    """Without the mesh that `jax.set_mesh` has made active, whose programs take arrays
    of no other; inside a JAX transformation it stays."""
    if get_opaque_trace_state() != _OUTSIDE_TRACES:
        yield
        return
    # Flax would look for it, to spread parameters that are annotated.
    with jax.set_mesh(None), nnx.use_eager_sharding(False):
        yield


def check_active_mesh(mesh: Mesh) -> None:
    """Raise ValueError if another mesh is active than the one that a program runs on,
    as inside of a JAX transformation."""
    active = jax.sharding.get_abstract_mesh()
    of_program = SEEDS in mesh.axis_names or AxisType.Explicit in active.axis_types
    if of_program and not active.empty and active != mesh.abstract_mesh:
        raise ValueError(
            f"the active mesh {dict(active.shape)} cannot be left for that of this call"
            " inside a JAX transformation; call it outside, or without jax.set_mesh."
        )


def with_automatic_axes(array: jax.Array) -> jax.Array:
    """The same array on the same devices, without the explicit axes of its mesh, which
    would ask every operation of a network where its result should be."""
    sharding = None if isinstance(array, jax.core.Tracer) else array.sharding
    if (
        not isinstance(sharding, NamedSharding)
        or AxisType.Explicit not in sharding.mesh.axis_types
    ):
        return array
    mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names)
    return jax.device_put(
        array,
        NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind),
    )


def check_traced(array: jax.Array) -> None:
    """Raise ValueError if an array that is being traced is spread over explicit axes,
    or lies on another mesh than the one that is active."""
    if not isinstance(array, jax.core.Tracer):
        return
    sharding, active = jax.typeof(array).sharding, jax.sharding.get_abstract_mesh()
    explicit = AxisType.Explicit in sharding.mesh.axis_types and any(sharding.spec)
    both = not (sharding.mesh.empty or active.empty)
    if explicit or (both and sharding.mesh != active):
        raise ValueError(
            f"an array of shape {array.shape} is being traced on the explicit or"
            f" inactive mesh {dict(sharding.mesh.shape)}, which is not possible here;"
            " call the function outside of jax.jit, or put the array on a mesh of"
            " jax.sharding.AxisType.Auto, without jax.set_mesh."
        )


def checked_mesh(mesh: Any, axes: tuple[str, ...], batch: int) -> Mesh | None:
    """The mesh with the axes in their order, or None.

    Args:
      axes: that it may have.
      batch: images of a step.

    Raises:
      TypeError: it is no mesh. ValueError: it has other axes, has a device twice, or
        its devices do not divide the batch.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__};"
            f" {_example(axes)} is one of 8 devices."
        )
    if not mesh.axis_names or not set(mesh.axis_names) <= set(axes):
        other = (
            "; only train_seeds has seeds to spread"
            if SEEDS in mesh.axis_names and SEEDS not in axes
            else ""
        )
        raise ValueError(
            f"mesh has the axes {mesh.axis_names}, but may have {' and '.join(axes)}"
            f" alone{other}: {_example(axes)}."
        )
    parts = mesh.shape.get(BATCH, 1)
    if batch % parts:
        raise ValueError(
            f"mesh spreads the {batch} images of a step over {parts} devices, which do"
            f" not divide them; choose a batch_size that is a multiple of {parts}."
        )
    [(device, times)] = Counter(mesh.devices.flat).most_common(1)
    if times > 1:
        raise ValueError(
            f"mesh has {device!r} {times} times; each device may stand there once:"
            f" {_example(axes)}."
        )
    own = [axis for axis in axes if axis in mesh.axis_names]
    order = [mesh.axis_names.index(axis) for axis in own]
    # Its axes may be explicit, as those of `jax.make_mesh` are.
    return Mesh(np.transpose(mesh.devices, order), own)


def _example(axes: tuple[str, ...]) -> str:
    shape = (2, 4) if len(axes) == 2 else (8,)
    return f"jax.make_mesh({shape}, {axes})"


def spread_batch(mesh: Mesh | None, values: Any) -> Any:
    """Arrays that begin with the images of a batch, spread over the devices if these
    divide it."""
    if mesh is None or BATCH not in mesh.axis_names:
        return values

    def spread(leaf: jax.Array) -> jax.Array:
        divides = leaf.shape[0] % mesh.shape[BATCH] == 0
        return _constrained(mesh, leaf, PartitionSpec(BATCH)) if divides else leaf

    return jax.tree.map(spread, values)


def on_all(mesh: Mesh | None, values: Any) -> Any:
    """Arrays that are the same on all devices of a batch: the compiler would spread
    some otherwise, and not the same ones in every program."""
    if mesh is None or BATCH not in mesh.axis_names:
        return values
    return jax.tree.map(
        lambda leaf: _constrained(mesh, leaf, PartitionSpec()) if leaf.size else leaf,
        values,
    )


def _constrained(mesh: Mesh, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    # Where seeds are spread, their axis is the business of `jax.shard_map` alone.
    around = jax.sharding.get_abstract_mesh()
    inside = SEEDS in getattr(around, "manual_axes", ())
    return lax.with_sharding_constraint(
        leaf, NamedSharding(around if inside else mesh, spec)
    )
