"""Checks of arguments. `theory` has its own: the two packages share nothing, so that one can test the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_images(images: Any) -> None:
    """Raise unless images are finite floating-point numbers (N, H, W, C), none of the axes empty."""
    shape, dtype = np.shape(images), jnp.result_type(images)
    if len(shape) != 4 or min(shape) == 0:
        raise ValueError(f"images must have shape (N, H, W, C), no axis empty, got {shape}; one image is images[None].")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"images must be floating point, got {dtype}; scale them, e.g. images.astype('float32') / 255.")
    check_finite("images", images)


def check_finite(name: str, values: Any) -> None:
    """Raise if a concrete array holds NaN or infinity."""
    if not isinstance(values, jax.core.Tracer) and not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but has NaN or infinite entries; remove or replace them.")


def check_targets(targets: Any, count: int, *, seeds: int | None = None) -> None:
    """Raise unless targets are finite numbers, (N,) or (N, M), after an axis of `seeds` if given."""
    shape = np.shape(targets)
    axes = shape if seeds is None else shape[1:]
    if len(axes) not in (1, 2) or axes[0] != count or 0 in shape:
        raise ValueError(
            f"targets must have shape (N,) or (N, M) with N = {count}, the number of images (in train_seeds also with "
            f"a leading seed axis), got {shape}."
        )
    if seeds is not None and shape[0] != seeds:
        raise ValueError(f"targets of shape {shape} hold {shape[0]} sets, but there are {seeds} seeds.")
    check_finite("targets", targets)
