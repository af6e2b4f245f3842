"""Checks of the arguments of `theory`."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from theory._precision import concrete


def check_kind(name: str, value: Any, kind: type, made_by: str) -> None:
    """Raise TypeError unless a value is of that class."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be {kind.__name__}, of theory.{made_by}, got"
            f" {type(value).__name__}."
        )


def check_real(name: str, value: Any) -> None:
    """Raise TypeError unless a value, traced or not, holds real numbers."""
    array = value if hasattr(value, "dtype") else concrete(value)
    if array is not None and not any(
        jnp.issubdtype(array.dtype, kind)
        for kind in (jnp.floating, jnp.integer, jnp.bool_)
    ):
        found = type(value).__name__ if array.dtype == object else array.dtype
        remedy = f"; pass its .{name}" if hasattr(value, name) else ""
        raise TypeError(f"{name} must be real numbers, got {found}{remedy}.")


def check_finite(name: str, value: Any) -> None:
    """Raise TypeError or ValueError if a concrete array holds anything but real
    numbers, or NaN or infinity."""
    check_real(name, value)
    values = concrete(value)
    if values is not None and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{name} has {count} entries that are NaN or infinite; remove or replace"
            " them."
        )


def check_images(images: Any) -> None:
    """Raise unless images are floating-point numbers of shape (N, H, W, C), N > 0;
    their values are not looked at.

    Warns of shapes that are hardly ever meant, such as (N, 3, 32, 32).
    """
    shape = images.shape if hasattr(images, "shape") else np.shape(images)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"images must have shape (N, H, W, C) with no empty axis, got {shape}; "
            "a single image is images[None], a grey one images[..., None]."
        )
    _, height, width, channels = shape
    if height in (1, 3) and min(width, channels) > 4:
        warnings.warn(
            f"images of shape {shape} are read as {height} x {width} pixels with"
            f" {channels} channels; if they have their channels first, as PyTorch's do,"
            " bring them into order by numpy.moveaxis(images, 1, -1).",
            stacklevel=2,
        )
    dtype = jnp.asarray(images).dtype if not hasattr(images, "dtype") else images.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"images must be floating point, got {dtype}; scale them explicitly, "
            "for example numpy.asarray(images, 'float32') / 255 for 8-bit images."
        )


def check_kernel(kernel: Any) -> None:
    """Raise unless a kernel has Flax's axes (..., kh, kw, C, K)."""
    if np.ndim(kernel) < 4 or 0 in np.shape(kernel):
        raise ValueError(
            "kernel must have Flax's axes (..., kh, kw, C, K), none of them empty, got"
            f" shape {np.shape(kernel)}."
        )
    check_real("kernel", kernel)


def check_head(head: Any) -> None:
    """Raise unless a head is a finite (K,) or (K, M) array that is not all zeros."""
    shape = np.shape(head)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(
            "head must have shape (K,) or (K, M), K filters and M outputs, got"
            f" {shape}."
        )
    check_finite("head", head)
    values = concrete(head)
    if values is not None and not values.any():
        raise ValueError(
            "head is all zeros, so that no gradient reaches the filters; use for"
            " example ones."
        )


def check_variance(variance: Any, *, one_axis: bool = False) -> None:
    """Raise unless concrete variances are finite and not negative, and (d,) if they
    must have one axis."""
    check_real("variance", variance)
    if one_axis and np.ndim(variance) != 1:
        raise ValueError(
            f"variance must have shape (d,), got {np.shape(variance)}; map over others"
            " with jax.vmap."
        )
    values = concrete(variance)
    if values is not None and not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(
            f"variance must be finite and >= 0, smallest entry {values.min()}; clip"
            " rounding errors to 0."
        )


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raise unless a concrete scalar is finite and > 0, or >= 0 if that is allowed."""
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got shape {np.shape(value)}; map over several"
            " with jax.vmap."
        )
    check_real(name, value)
    number = concrete(value)
    if number is not None and not (
        np.isfinite(number) and (number > 0 or (or_zero and number == 0))
    ):
        raise ValueError(
            f"{name} must be finite and {'>=' if or_zero else '>'} 0, got {number}."
        )


def check_probabilities(name: str, value: Any) -> None:
    """Raise unless concrete probabilities lie strictly between 0 and 1."""
    check_real(name, value)
    values = concrete(value)
    if values is not None and not ((values > 0) & (values < 1)).all():
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {values.min()} to"
            f" {values.max()}."
        )


def check_iterations(iterations: Any) -> None:
    """Raise if a concrete number of iterations is negative or NaN; infinity is
    allowed."""
    check_real("iterations", iterations)
    values = concrete(iterations)
    if values is not None and not (values >= 0).all():
        raise ValueError(
            f"iterations must be >= 0 (infinity allowed), got {values.min()}."
        )


def check_stable(name: str, learning_rate: Any, curvature: Any) -> None:
    """Raise if a concrete learning rate reaches 2 / (the largest curvature), where a
    mode stops decaying."""
    rate, largest = concrete(learning_rate), concrete(curvature)
    if rate is None or largest is None or not largest.max() > 0:
        return
    border = 2 / largest.max()
    # The border is known up to the rounding of eigenvalues.
    if rate >= border * (1 - 64 * jnp.finfo(largest.dtype).eps):
        raise ValueError(
            f"{name} = {rate} is at or beyond the border of stability; the largest"
            f" stable one is below {border}."
        )
