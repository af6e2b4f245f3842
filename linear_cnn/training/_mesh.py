"""Meshes of devices: seeds over one axis, the images of a batch over another."""

from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SEEDS, BATCH = "seeds", "batch"


def checked_mesh(mesh: Any, axes: tuple[str, ...], batch: int) -> Mesh | None:
    """The mesh with the axes in their order, or None.

    Args:
      axes: that it may have.
      batch: images of a step.

    Raises:
      TypeError: it is no mesh. ValueError: it has other axes, or its devices do not
        divide the batch.
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
