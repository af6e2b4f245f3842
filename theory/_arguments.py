"""What every module of `theory` does to its arguments: checks, dtypes, and the float64 rule."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Function = TypeVar("Function", bound=Callable[..., Any])

# Accelerators multiply float32 matrices in reduced precision unless told otherwise.
matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is being traced (values cannot be checked there)."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    return None if traced else np.asarray(value)


def as_floats(*values: Any) -> list[jax.Array]:
    """The values as arrays of their common floating dtype (JAX's default one if none is floating)."""
    values = tuple(jnp.asarray(value) if isinstance(value, (list, tuple)) else value for value in values)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*values)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.result_type(float)
    return [jnp.asarray(value, dtype) for value in values]


def square_root(x: jax.Array) -> jax.Array:
    """sqrt(x), and 0 where rounding left x slightly negative; its derivative at 0 is taken as 0, not as infinity."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def without_rounding(eigenvalues: jax.Array) -> jax.Array:
    """Descending eigenvalues of a positive semidefinite matrix, zeros restored where rounding moved them."""
    tolerance = eigenvalues.shape[0] * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[0]
    return jnp.where(eigenvalues > tolerance, eigenvalues, 0)


def float64_outside_traces(function: Function) -> Function:
    """Compute in float64 whatever JAX's float64 flag, unless an argument is being traced.

    Patch spectra span five orders of magnitude and mean-patch spectra nearly nine, so float32 (relative
    precision 6e-8) cannot hold them. With the flag off the results are NumPy float64 arrays,
    which lose nothing until a JAX function rounds them. Under `jit`, `vmap` or `grad` the
    computation runs in the dtype of the traced arguments.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(*args, **kwargs)
        flag = jax.config.read("jax_enable_x64")
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            args, kwargs = jax.tree.map(_to_float64, (args, kwargs))
            result = function(*args, **kwargs)
            return result if flag else jax.tree.map(np.asarray, result)

    return wrapped  # type: ignore[return-value]


def _to_float64(leaf: Any) -> Any:
    floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if floating else leaf


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError if a concrete array holds NaN or infinity."""
    values = concrete(value)
    if values is not None and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{name} has {count} entries that are NaN or infinite; remove or replace them.")


def check_images(images: Any) -> None:
    """Raise unless images are finite floating-point numbers of shape (N, H, W, C), N > 0."""
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"images must have shape (N, H, W, C) with no empty axis, got {shape}; "
            "a single image is images[None], a grey one images[..., None]."
        )
    dtype = jnp.asarray(images).dtype if not hasattr(images, "dtype") else images.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point, got {dtype}; scale them explicitly, "
            "for example images.astype('float32') / 255 for 8-bit images."
        )
    check_finite("images", images)


def check_kernel(kernel: Any) -> None:
    """Raise unless a kernel has Flax's axes (..., kh, kw, C, K)."""
    if np.ndim(kernel) < 4 or 0 in np.shape(kernel):
        raise ValueError(
            f"kernel must have Flax's axes (..., kh, kw, C, K), none of them empty, got shape {np.shape(kernel)}."
        )


def flatten_kernel(kernel: jax.Array) -> jax.Array:
    """(..., kh, kw, C, K) -> (..., d, K) with d = kh*kw*C, the flattening order of patches."""
    return kernel.reshape(*kernel.shape[:-4], -1, kernel.shape[-1])


def check_head(head: Any) -> None:
    """Raise unless a head is a finite (K,) or (K, M) array that is not all zeros."""
    shape = np.shape(head)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"head must have shape (K,) or (K, M), K filters and M outputs, got {shape}.")
    check_finite("head", head)
    values = concrete(head)
    if values is not None and not values.any():
        raise ValueError("head is all zeros, so that no gradient reaches the filters; use for example ones.")


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raise unless a concrete scalar is finite and > 0, or >= 0 if that is allowed."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}; map over several with jax.vmap.")
    number = concrete(value)
    if number is not None and not (np.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        raise ValueError(f"{name} must be finite and {'>=' if or_zero else '>'} 0, got {number}.")


def check_probabilities(name: str, value: Any) -> None:
    """Raise unless concrete probabilities lie strictly between 0 and 1."""
    values = concrete(value)
    if values is not None and not ((values > 0) & (values < 1)).all():
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {values.min()} to {values.max()}.")


def check_iterations(iterations: Any) -> None:
    """Raise if a concrete number of iterations is negative or NaN; infinity is allowed."""
    values = concrete(iterations)
    if values is not None and not (values >= 0).all():
        raise ValueError(f"iterations must be >= 0 (infinity allowed), got {values.min()}.")


def check_stable(name: str, learning_rate: Any, curvature: Any) -> None:
    """Raise if a concrete learning rate reaches 2 / (the largest curvature), where a mode stops decaying."""
    rate, largest = concrete(learning_rate), concrete(curvature)
    if rate is None or largest is None or not largest.max() > 0:
        return
    border = 2 / largest.max()
    # The border is known up to the rounding of eigenvalues.
    if rate >= border * (1 - 64 * jnp.finfo(largest.dtype).eps):
        raise ValueError(
            f"{name} = {rate} is at or beyond the border of stability; the largest stable one is below {border}."
        )
