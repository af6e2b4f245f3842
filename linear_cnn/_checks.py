"""Checks of arguments. `theory` has its own: the two packages share nothing, so that
one can test the other."""

import operator
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

_INSIDE = ("linear_cnn", "flax")
Padding = str | int | Sequence[int | Sequence[int]]


def integer(name: str, value: Any, *, minimum: int) -> int:
    """The value as a Python int; raise unless it is an integer of at least that
    size."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from error
    if number < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {number}.")
    return number


def renamed(old: str, given: Any, new: str, value: Any) -> Any:
    """A stride whose argument once had another name: `given` is what came under the old
    one, None if nothing did; 1 is the default of the new one."""
    if given is None:
        return value
    if np.any(np.asarray(value) != 1):
        raise TypeError(
            f"{old}={given!r} is the old name of {new}={value!r}; give {new} alone."
        )
    warnings.warn(
        f"{old} is now called {new}, as in theory; write {new}={given!r}.",
        DeprecationWarning,
        stacklevel=_outside(),
    )
    return given


def _outside() -> int:
    """The stack level of the caller's first call that came from outside of this package
    and of Flax, whose modules are made by calls of its own."""
    level, frame = 1, sys._getframe(1)
    while (
        frame.f_back is not None
        and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE
    ):
        level, frame = level + 1, frame.f_back
    return level


def pair(name: str, value: Any, *, minimum: int = 1) -> tuple[int, int]:
    """An int, or a pair of them (down, right), as a pair."""
    values = (
        tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value, value)
    )
    if len(values) != 2:
        raise ValueError(
            f"{name} must be an integer or a pair of integers, got {value!r}."
        )
    down, right = (integer(name, number, minimum=minimum) for number in values)
    return down, right


def pixels_of_padding(
    padding: Padding,
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    """Zero padding of a convolution, as Flax and JAX take it, in pixels: [(top,
    bottom), (left, right)]."""
    if isinstance(padding, str):
        if padding.upper() not in ("VALID", "SAME", "SAME_LOWER"):
            raise ValueError(
                "padding must be 'VALID', 'SAME', 'SAME_LOWER', a number of pixels or"
                f" pairs of them, got {padding!r}."
            )
        return lax.padtype_to_pads(image_size, kernel_size, strides, padding)
    sides = (
        tuple(padding)
        if isinstance(padding, (Sequence, np.ndarray))
        else (padding, padding)
    )
    if len(sides) != 2:
        raise ValueError(
            "padding must have one entry for each of the two image axes, got"
            f" {padding!r}."
        )
    return [pair("padding", side, minimum=0) for side in sides]


def check_fits(
    image_size: Sequence[int],
    padding: Sequence[Sequence[int]],
    kernel_size: Sequence[int],
) -> None:
    """Raise if images with their padding in pixels are smaller than the kernel."""
    padded = [
        length + sum(side) for length, side in zip(image_size, padding, strict=True)
    ]
    if any(length < k for length, k in zip(padded, kernel_size, strict=True)):
        raise ValueError(
            f"images of {image_size[0]}x{image_size[1]} pixels (padded to"
            f" {padded[0]}x{padded[1]}) are smaller than the kernel of"
            f" {kernel_size[0]}x{kernel_size[1]}; use larger images, padding, or a"
            " smaller kernel."
        )


def check_images(images: Any, name: str = "images") -> None:
    """Raise unless images are finite floating-point numbers (N, H, W, C), none of the
    axes empty.

    Warns of shapes that are hardly ever meant, such as (N, 3, 32, 32).
    """
    if isinstance(images, str) or hasattr(images, "images"):
        found = (
            f"{images!r}; load_images loads them"
            if isinstance(images, str)
            else "an image set; pass its .images"
        )
        raise TypeError(f"{name} must be an array of shape (N, H, W, C), got {found}.")
    shape, dtype = np.shape(images), _dtype(images)
    if len(shape) != 4 or min(shape) == 0:
        raise ValueError(
            f"{name} must have shape (N, H, W, C), no axis empty, got {shape}; one"
            " image is images[None]."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        remedy = (
            "scale 8-bit ones by linear_cnn.scale_pixels"
            if dtype == np.uint8
            else "convert them, as real numbers"
        )
        raise TypeError(f"{name} must be floating point, got {dtype}; {remedy}.")
    _, height, width, channels = shape
    if height in (1, 3) and min(width, channels) > 4:
        warnings.warn(
            f"{name} of shape {shape} are read as {height} x {width} pixels with"
            f" {channels} channels; if they have their channels first, as PyTorch's do,"
            " bring them into order by numpy.moveaxis(images, 1, -1).",
            stacklevel=2,
        )
    check_finite(name, images)


def check_finite(name: str, values: Any) -> None:
    """Raise if a concrete array holds NaN or infinity."""
    if not isinstance(values, jax.core.Tracer) and not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite, but has NaN or infinite entries; remove or replace"
            " them."
        )


def check_targets(
    name: str, targets: Any, count: int, *, seeds: int | None = None
) -> None:
    """Raise unless targets are finite real numbers, (N,) or (N, M), after an axis of
    `seeds` if given."""
    _check_target_shape(name, np.shape(targets), count, seeds, "(N,) or (N, M)", (1, 2))
    dtype = _dtype(targets)
    if not any(
        jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)
    ):
        remedy = _remedy(dtype, "convert them, e.g. targets.astype('float32')")
        raise TypeError(f"{name} must be real numbers, got {dtype}; {remedy}.")
    check_finite(name, targets)


def check_labels(
    name: str, labels: Any, count: int, *, seeds: int | None = None
) -> None:
    """Raise unless labels are integers (N,), after an axis of `seeds` if given."""
    _check_target_shape(name, np.shape(labels), count, seeds, "(N,)", (1,))
    if not jnp.issubdtype(_dtype(labels), jnp.integer):
        remedy = _remedy(
            _dtype(labels),
            "convert them, e.g. labels.astype('int32'), or choose loss='mse'",
        )
        raise TypeError(
            f"{name} must be integer labels for loss='cross_entropy', got"
            f" {_dtype(labels)}; {remedy}."
        )


def check_leading(
    name: str, targets: Any, count: int, *, seeds: int | None = None
) -> None:
    """Raise unless all leaves of a tree are finite numbers with a leading axis N, after
    one of `seeds` if given."""
    leaves = jax.tree.leaves(targets)
    lead = (count,) if seeds is None else (seeds, count)
    shapes = [np.shape(leaf) for leaf in leaves]
    if not leaves or any(shape[: len(lead)] != lead for shape in shapes):
        axes = "N = " if seeds is None else "(S, N) = "
        raise ValueError(
            f"{name} must be arrays with the leading axis {axes}{lead}, one entry an"
            f" image, got shapes {shapes}."
        )
    for leaf in leaves:
        check_finite(name, leaf)


def _remedy(dtype: Any, of_numbers: str) -> str:
    """What to do with targets of a wrong type: classes by name cannot be converted."""
    return (
        of_numbers
        if dtype.kind in "biufc"
        else "numpy.unique(labels, return_inverse=True)[1] numbers classes"
    )


def check_classes(name: str, labels: Any, classes: int) -> None:
    """Raise unless concrete labels lie between 0 and classes - 1."""
    if isinstance(labels, jax.core.Tracer):
        return
    labels = np.asarray(labels)  # NumPy of an array inside a trace would be traced
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"{name} must lie between 0 and {classes - 1}, since the network has"
            f" {classes} outputs, but they run from {lowest} to {highest}; give the"
            " network more classes or renumber them, e.g. by"
            " linear_cnn.select_classes."
        )


def _check_target_shape(
    name: str,
    shape: tuple[int, ...],
    count: int,
    seeds: int | None,
    wanted: str,
    ranks: tuple[int, ...],
) -> None:
    axes = shape if seeds is None else shape[1:]
    if len(axes) not in ranks or axes[0] != count or 0 in shape:
        raise ValueError(
            f"{name} must have shape {wanted} with N = {count}, the number of images"
            f" (in train_seeds also with a leading seed axis), got {shape}."
        )
    if seeds is not None and shape[0] != seeds:
        raise ValueError(
            f"{name} of shape {shape} hold {shape[0]} sets, but there are {seeds}"
            " seeds."
        )


def check_keys(name: str, keys: Any, *, axes: int) -> None:
    """Raise unless keys are JAX keys, typed or raw, with as many axes of at least one
    key."""
    if isinstance(keys, list | tuple):
        raise TypeError(
            f"{name} must be an array of JAX keys, got a {type(keys).__name__};"
            " jax.numpy.stack makes one."
        )
    shape, dtype = np.shape(keys), getattr(keys, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if (
        not (typed or dtype == np.uint32)
        or len(shape) != axes + (not typed)
        or 0 in shape
    ):
        example = (
            "one JAX key, e.g. jax.random.key(0)"
            if axes == 0
            else "JAX keys (S,), e.g. jax.random.split(key, 8)"
        )
        found = repr(keys) if dtype is None else f"{dtype} of shape {shape}"
        raise TypeError(f"{name} must be {example}, got {found}.")


def check_rngs(rngs: Any) -> None:
    """Raise unless a network gets its random numbers as Flax passes them."""
    if not isinstance(rngs, nnx.Rngs | nnx.RngStream):
        key = hasattr(rngs, "dtype") and jnp.issubdtype(rngs.dtype, jax.dtypes.prng_key)
        found = "a JAX key" if key else f"a {type(rngs).__name__}"
        raise TypeError(f"rngs must be flax.nnx.Rngs, e.g. nnx.Rngs(key), got {found}.")


def _dtype(values: Any) -> Any:
    return values.dtype if hasattr(values, "dtype") else np.asarray(values).dtype
