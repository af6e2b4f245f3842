"""What every module of `theory` computes with: dtypes, products at full precision, and
the float64 rule."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import get_opaque_trace_state

Function = TypeVar("Function", bound=Callable[..., Any])

# What statistics and dynamics are: JAX arrays, but outside of JAX transformations NumPy
# arrays of float64 where JAX's float64 is off (`float64_outside_traces`).
Array = jax.Array | np.ndarray

_OUTSIDE_TRACES = get_opaque_trace_state()


def namespace(*arrays: Any) -> Any:
    """jax.numpy if any of the arrays is JAX's, else NumPy: for what is computed with
    both."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


# Accelerators multiply float32 matrices in reduced precision unless told otherwise.
def matmul(a: Any, b: Any) -> Any:
    """Matrix product at full precision."""
    xp = namespace(a, b)
    return (
        xp.matmul(a, b)
        if xp is np
        else jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
    )


def einsum(subscripts: str, *arrays: Any) -> Any:
    """Sum of products at full precision."""
    xp = namespace(*arrays)
    return (
        xp.einsum(subscripts, *arrays)
        if xp is np
        else jnp.einsum(subscripts, *arrays, precision="highest")
    )


def is_traced(*values: Any) -> bool:
    """Whether any leaf of the values is being traced by a JAX transformation."""
    # Iterators and views are no pytrees; what they will yield is looked at when it
    # comes.
    trees = [
        v
        for v in values
        if isinstance(v, list | tuple | dict)
        or hasattr(v, "shape")
        or not isinstance(v, Iterable)
    ]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is being traced (values cannot be
    checked there)."""
    return None if is_traced(value) else _as_array(value)


def _as_array(value: Any) -> np.ndarray:
    """As a NumPy array; integers that no fixed size holds as float64, those beyond it
    as infinity."""
    array = np.asarray(value)
    if array.dtype != object or not all(
        isinstance(entry, int | float) for entry in array.flat
    ):
        return array
    entries = [_as_float(entry) for entry in array.flat]
    return np.array(entries, np.float64).reshape(array.shape)


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return np.inf if number > 0 else -np.inf


def as_floats(*values: Any) -> list[jax.Array]:
    """The values as arrays of their common floating dtype (JAX's default one if none is
    floating)."""
    values = tuple(map(with_dtype, values))
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*values)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.result_type(float)
    return [jnp.asarray(value, dtype) for value in values]


def with_dtype(value: Any) -> Any:
    """A list as an array; integers that no array of them holds in floating point."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return _as_float(value)
    if isinstance(value, (list, tuple)):
        # NumPy's integers may be larger than JAX's.
        return jnp.asarray(value) if is_traced(value) else _as_array(value)
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return _as_array(value)
    return value


def square_root(x: jax.Array) -> jax.Array:
    """sqrt(x), and 0 where rounding left x slightly negative; its derivative at 0 is
    taken as 0, not as infinity."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def as_steps(iterations: Any) -> Any:
    """Steps as they are, but infinity for concrete ones that JAX's floats do not reach,
    which NumPy would warn of."""
    values = concrete(iterations)
    if values is None:
        return iterations
    beyond = values.astype(np.float64) > float(jnp.finfo(jnp.result_type(float)).max)
    return np.where(beyond, np.inf, values) if beyond.any() else iterations


def as_float_like(other: Any, value: Any) -> Any:
    """A concrete value in the floating-point dtype of another: steps may be integers,
    and int32 ends at 2e9."""
    known = concrete(value)
    return value if known is None else known.astype(other.dtype)


def power_of_two_near(largest: jax.Array) -> jax.Array:
    """A power of two by which numbers up to `largest` are divided, exactly, so that
    their squares neither overflow nor underflow; 1 for zero."""
    _, exponent = jnp.frexp(lax.stop_gradient(largest))
    # The ends of the range are no powers that can be divided by.
    few = jnp.finfo(largest.dtype).maxexp - 3
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -few, few))


def without_rounding(eigenvalues: Any, eps: Any = None) -> Any:
    """Descending eigenvalues of positive semidefinite matrices, (..., n), zeros
    restored where rounding, by `eps` or that of their dtype, moved them."""
    xp = namespace(eigenvalues)
    if eps is None:
        eps = xp.finfo(eigenvalues.dtype).eps
    tolerance = eigenvalues.shape[-1] * eps * eigenvalues[..., :1]
    return xp.where(eigenvalues > tolerance, eigenvalues, 0)


@contextlib.contextmanager
def float64_now() -> Iterator[None]:
    """Compute in float64 and at once, also on concrete arguments within a function that
    is being traced."""
    # What follows evaluates constants of the programs that it traces one by one, so
    # only where it is needed.
    traced = get_opaque_trace_state() != _OUTSIDE_TRACES
    with (
        jax.ensure_compile_time_eval() if traced else contextlib.nullcontext(),
        jax.enable_x64(True),
    ):
        yield


def as_results(values: Any) -> Any:
    """NumPy arrays of a pytree as JAX arrays, if those may be float64; JAX arrays as
    they are."""
    if not jax.config.read("jax_enable_x64"):
        return values
    with float64_now():
        return jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf),
            values,
        )


def float64_outside_traces(function: Function) -> Function:
    """Compute in float64 whatever JAX's float64 flag, unless an argument is being
    traced.

    Patch spectra span five orders of magnitude and mean-patch spectra nearly nine, so
    float32 (relative precision 6e-8) cannot hold them. With the flag off the results
    are NumPy float64 arrays, which lose nothing until a JAX function rounds them. Under
    `jit`, `vmap` or `grad` the computation runs in the dtype of the traced arguments.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if is_traced(args, kwargs):
            return function(*args, **kwargs)
        flag = jax.config.read("jax_enable_x64")
        with float64_now():
            args, kwargs = jax.tree.map(_to_float64, (args, kwargs))
            result = function(*args, **kwargs)
            return result if flag else jax.tree.map(np.asarray, result)

    return wrapped  # type: ignore[return-value]


def _to_float64(leaf: Any) -> Any:
    floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    # A mask would be lost, and the checks not see it.
    kept = not floating or np.ma.is_masked(leaf)
    return leaf if kept else jnp.asarray(leaf, jnp.float64)
