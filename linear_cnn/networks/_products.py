"""Convolution and its two gradients as products of matrices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from linear_cnn.networks import _winograd

# With fewer channels or filters, transforming them takes longer than the
# multiplications it saves.
_WINOGRAD_WIDTH = 16


class Settings(NamedTuple):
    """How images (N, H, W, C) are convolved."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    """((top, bottom), (left, right)); where negative, pixels are cut off."""
    precision: lax.PrecisionLike
    preferred_element_type: DTypeLike | None
    turned: bool = False
    """Whether filters are given as (kh, kw, K, C), not (kh, kw, C, K), and are to be
    turned by half a circle, as the gradient of images needs them."""


def convolved(images: jax.Array, filters: jax.Array, settings: Settings) -> jax.Array:
    """Responses (N, H', W', K) of images (N, H, W, C) to filters (kh, kw, C, K)."""
    if not _by_winograd(filters.shape, settings):
        return _multiply(_patches(images, filters.shape, settings), filters, settings)
    return _winograd.responses(
        _padded(images, settings), filters, settings.turned, _product(settings)
    )


def image_gradient(
    responses: jax.Array,
    filters: jax.Array,
    size: tuple[int, int],
    settings: Settings,
) -> jax.Array:
    """Gradient of images of this size, as a convolution too: of responses' cotangents
    (N, H', W', K) spread by the strides.

    Automatic differentiation would add up overlapping patches, which takes several
    times longer.
    """
    edges = []
    for pixels, places, taps, stride, (before, _) in zip(
        size,
        responses.shape[1:3],
        filters.shape[:2],
        settings.strides,
        settings.pads,
        strict=True,
    ):
        low = taps - 1 - before
        spread = (places - 1) * stride + 1
        edges.append((low, pixels + taps - 1 - spread - low, stride - 1))
    plain = settings._replace(strides=(1, 1), pads=((0, 0), (0, 0)), turned=True)
    gradient = convolved(_pad(responses, edges), filters.astype(responses.dtype), plain)
    return gradient.astype(filters.dtype)


def filter_gradient(
    images: jax.Array,
    responses: jax.Array,
    size: tuple[int, int],
    settings: Settings,
) -> jax.Array:
    """Gradient of filters of this size, (kh, kw, C, K)."""
    shape = (*size, images.shape[-1], responses.shape[-1])
    wide, product = images.astype(responses.dtype), _product(settings)
    if _by_winograd(shape, settings):
        gradient = _winograd.filter_gradient(
            _padded(wide, settings), responses, product
        )
    else:
        patches = _patches(wide, shape, settings)
        gradient = product(_flat(responses), _flat(patches), (((0,), (0,)), ((), ())))
        gradient = gradient.T.reshape(shape)
    return gradient.astype(images.dtype)


def _by_winograd(shape: tuple[int, ...], settings: Settings) -> bool:
    kh, kw, *widths = shape
    return (
        (kh, kw, *settings.strides) == (3, 3, 1, 1)
        and min(widths) >= _WINOGRAD_WIDTH
        and lax.Precision.HIGHEST not in _precisions(settings.precision)
    )


def _precisions(precision: Any) -> list[Any]:
    """Of both operands, by their names too."""
    both = precision if isinstance(precision, tuple) else (precision,)
    return [lax.Precision(one) if isinstance(one, str) else one for one in both]


def _product(settings: Settings) -> Callable[..., jax.Array]:
    return partial(
        lax.dot_general,
        precision=settings.precision,
        preferred_element_type=settings.preferred_element_type,
    )


def _pad(images: jax.Array, edges: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Zeros (low, high, interior) along the rows and the columns of images; where
    negative, pixels cut off."""
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def _padded(images: jax.Array, settings: Settings) -> jax.Array:
    return _pad(images, [(low, high, 0) for low, high in settings.pads])


def _multiply(patches: jax.Array, filters: jax.Array, settings: Settings) -> jax.Array:
    """(..., kh kw C) @ (kh kw C, K). As one plain matrix product, whose gradient is one
    too: XLA would copy other arrays before."""
    if settings.turned:
        filters = filters[::-1, ::-1].swapaxes(2, 3)
    flat = jnp.matmul(
        _flat(patches),
        filters.reshape(-1, filters.shape[-1]),
        precision=settings.precision,
        preferred_element_type=settings.preferred_element_type,
    )
    return flat.reshape(*patches.shape[:-1], filters.shape[-1])


def _flat(images: jax.Array) -> jax.Array:
    """(N, H, W, C) as one matrix, (N H W, C)."""
    return images.reshape(-1, images.shape[-1])


def _patches(
    images: jax.Array, shape: tuple[int, ...], settings: Settings
) -> jax.Array:
    """The patches that filters of this shape see, (N, H', W', kh kw C)."""
    images = _padded(images, settings)
    # Columns first, then rows: the last axis is in the order (kh, kw, C) of the
    # filters.
    columns = _shifted(images, 2, shape[1], settings.strides[1])
    return _shifted(columns, 1, shape[0], settings.strides[0])


def _shifted(images: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """Windows of a length along an axis, every so-manyth, side by side on the last."""
    span = (images.shape[axis] - length) // stride * stride + 1
    windows = [
        lax.slice_in_dim(images, start, start + span, stride, axis)
        for start in range(length)
    ]
    return jnp.concatenate(windows, axis=-1)
