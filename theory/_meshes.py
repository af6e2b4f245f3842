"""Arrays and programs on a mesh of the user's."""

import contextlib
from collections.abc import Iterator

import jax
from jax.extend.core import get_opaque_trace_state
from jax.sharding import AxisType, Mesh, NamedSharding

_OUTSIDE_TRACES = get_opaque_trace_state()


@contextlib.contextmanager
def no_active_mesh() -> Iterator[None]:
    """Without the mesh that `jax.set_mesh` has made active, whose programs take arrays
    of no other; inside a JAX transformation it stays."""
    outside = get_opaque_trace_state() == _OUTSIDE_TRACES
    with jax.set_mesh(None) if outside else contextlib.nullcontext():
        yield


def with_automatic_axes(array: jax.Array) -> jax.Array:
    """The same array on the same devices, without the explicit axes of its mesh, which
    would ask where the result of each operation should be."""
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
