"""Checks of the arguments of `theory`."""

import warnings
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from theory._precision import concrete, is_traced


def check_kind(name: str, value: Any, kind: type, made_by: str) -> None:
    """Raise TypeError unless a value is of that class."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be {kind.__name__}, of theory.{made_by}, got"
            f" {type(value).__name__}."
        )


def check_unmasked(name: str, value: Any) -> None:
    """Raise TypeError if entries of a NumPy array, or of arrays in a list, are masked:
    JAX would take what lies below the mask."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(
        isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts
    ):
        raise TypeError(
            f"{name} has masked entries, which would count as the numbers below the"
            f" mask; leave them out, or fill them, e.g. {name}.filled(0)."
        )


def check_real(name: str, value: Any) -> None:
    """Raise TypeError unless a value, traced or not, holds real numbers, none of them
    masked."""
    check_unmasked(name, value)
    objects = isinstance(value, np.ndarray) and value.dtype.hasobject
    array = value if hasattr(value, "dtype") and not objects else concrete(value)
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
    count = _count_not_finite(value)
    if count:
        raise ValueError(
            f"{name} has {count} entries that are NaN or infinite; remove or replace"
            " them."
        )


def _count_not_finite(value: Any) -> int:
    """Of a concrete array's entries, on other hosts too; 0 where it is traced."""
    if is_traced(value):
        return 0
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return int((~jnp.isfinite(value)).sum())
    values = concrete(value)
    return 0 if values is None else int((~np.isfinite(values)).sum())


def check_squares(name: str, value: Any) -> None:
    """Raise if squares of a concrete array's largest entries overflow in its dtype, or
    lose digits because they are hardly larger than zero."""
    values = concrete(value)
    if values is None or not values.size:
        return
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(np.float64)
    limits = jnp.finfo(values.dtype)
    largest = float(np.abs(values).max())
    smallest_allowed = float(limits.tiny / limits.eps) ** 0.5
    largest_allowed = (float(limits.max) / values.size) ** 0.5
    if largest > largest_allowed or 0 < largest < smallest_allowed:
        end = "large that their squares overflow"
        if largest < smallest_allowed:
            end = "small that their squares underflow"
        raise ValueError(
            f"{name}: entries of up to {largest:g} are so {end} in {values.dtype};"
            " scale them."
        )


def check_orthonormal(name: str, components: Any) -> None:
    """Raise unless concrete vectors, as columns, are finite and orthonormal up to
    rounding, of half precision too."""
    check_finite(name, components)
    u = concrete(components)
    if u is None:
        return
    tolerance = 1e-3
    if jnp.issubdtype(u.dtype, jnp.floating):
        tolerance = max(tolerance, 4 * float(jnp.finfo(u.dtype).eps))
    u = u.astype(np.float64)
    error = np.abs(u.T @ u - np.eye(u.shape[1])).max(initial=0)
    if error > tolerance:
        raise ValueError(
            f"{name} must be orthonormal columns, but their products differ from 0 and"
            f" 1 by up to {error:.3g}; take them from a spectrum, or make them so by"
            " numpy.linalg.qr(components)[0]."
        )


def check_components(components: Any, d: int) -> None:
    """Raise unless directions of a filter of d weights are orthonormal columns."""
    if np.ndim(components) != 2 or np.shape(components)[0] != d:
        raise ValueError(
            f"components must have shape (d, p) with d = {d}, got"
            f" {np.shape(components)}."
        )
    check_orthonormal("components", components)


def check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise unless a value has this shape."""
    if np.shape(value) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {np.shape(value)}.")


def check_symmetric(name: str, matrices: Any) -> None:
    """Raise unless concrete matrices (..., n, n) are symmetric up to rounding."""
    values = concrete(matrices)
    if values is None:
        return
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    # Sums of many products, in two orders, differ by more than one rounding.
    tolerance = float(jnp.finfo(values.dtype if floating else np.float64).eps) ** 0.5
    if not floating or values.dtype.itemsize < 4:
        values = values.astype(np.float64)
    error = np.abs(values - np.swapaxes(values, -1, -2)).max(axis=(-2, -1))
    largest = np.abs(values).max(axis=(-2, -1))
    if (error > tolerance * largest).any():
        worst = np.unravel_index((error - tolerance * largest).argmax(), error.shape)
        raise ValueError(
            f"{name} must be symmetric, but differs from its transpose by up to"
            f" {error[worst]:.3g}, with entries of up to {largest[worst]:.3g}."
        )


def check_images(images: Any) -> None:
    """Raise unless images are floating-point numbers of shape (N, H, W, C), N > 0;
    of their values only the mask is looked at.

    Warns of shapes that are hardly ever meant, such as (N, 3, 32, 32).
    """
    check_unmasked("images", images)
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


def check_mesh(mesh: Any, images: Any) -> None:
    """Raise TypeError unless a mesh is one of devices, or None; None alone with traced
    images. ValueError: it has a device twice."""
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise TypeError(
            "mesh must be a jax.sharding.Mesh, over whose devices the images are"
            f" spread, got {type(mesh).__name__}; jax.make_mesh((8,), ('images',)) is"
            " one of 8 devices, and without mesh= those that are there are taken."
        )
    [(device, times)] = Counter(mesh.devices.flat).most_common(1)
    if times > 1:
        raise ValueError(
            f"mesh has {device!r} {times} times; each device may stand there once:"
            " jax.make_mesh((8,), ('images',))."
        )
    if is_traced(images):
        raise TypeError(
            "mesh cannot be given under a JAX transformation, where images stay where"
            " they are; leave it out, or compute the moments outside."
        )


def check_kernel(kernel: Any, name: str = "kernel") -> None:
    """Raise unless a kernel has Flax's axes (..., kh, kw, C, K) and finite entries."""
    if np.ndim(kernel) < 4 or 0 in np.shape(kernel):
        raise ValueError(
            f"{name} must have Flax's axes (..., kh, kw, C, K), none of them empty, got"
            f" shape {np.shape(kernel)}."
        )
    check_finite(name, kernel)


def check_initial_kernel(
    kernel: Any, kernel_shape: tuple[int, int, int], filters: int
) -> None:
    """Raise unless an initial kernel, (..., kh, kw, C, K), is that of the moments and
    the head."""
    check_kernel(kernel, "initial_kernel")
    expected = (*kernel_shape, filters)
    if np.shape(kernel)[-4:] != expected:
        raise ValueError(
            f"initial_kernel must end in the axes (kh, kw, C, K) = {expected}, got"
            f" {np.shape(kernel)}."
        )


def check_outputs(head: Any, cross: Any) -> None:
    """Raise unless a head, (K,) or (K, M), has the outputs of the targets in B, (d,) or
    (d, M)."""
    outputs, wanted = (int(np.prod(np.shape(x)[1:])) for x in (head, cross))
    if outputs != wanted:
        raise ValueError(
            f"head of shape {np.shape(head)} has {outputs} outputs, but the targets"
            f" have {wanted}."
        )


def check_head(head: Any, *, or_zero: bool = False) -> None:
    """Raise unless a head is a finite (K,) or (K, M) array that is not all zeros, or
    may be."""
    shape = np.shape(head)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(
            "head must have shape (K,) or (K, M), K filters and M outputs, got"
            f" {shape}."
        )
    check_finite("head", head)
    values = concrete(head)
    if values is not None and not (or_zero or values.any()):
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


def check_iterations(iterations: Any, name: str = "iterations") -> None:
    """Raise if a concrete number of iterations, or a time, is negative or NaN; infinity
    is allowed."""
    check_real(name, iterations)
    values = concrete(iterations)
    if values is not None and not (values >= 0).all():
        raise ValueError(f"{name} must be >= 0 (infinity allowed), got {values.min()}.")


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
