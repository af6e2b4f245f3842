"""Patches of images: where they lie, their mean, and their second moments.

A patch is flattened in the order (kh, kw, C) of a Flax kernel, d = kh*kw*C numbers. Zero padding is
part of the patches, as it is of the convolution.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from theory._arguments import check_finite, check_images, einsum, float64_outside_traces, without_rounding

# One chunk of patches should stay in the processor's cache while its moment is taken.
_CHUNK_ENTRIES = 2**18

Padding = str | int | Sequence[int | Sequence[int]]


class Window(NamedTuple):
    """The locations of a convolution's patches in images of one size."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    locations: tuple[int, int]


def pair(name: str, value: int | Sequence[int], *, minimum: int = 1) -> tuple[int, int]:
    """An int or a pair of them, as a pair."""
    values = tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value, value)
    try:
        values = tuple(operator.index(v) for v in values)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer or a pair of integers, got {value!r}.") from error
    if len(values) != 2 or min(values) < minimum:
        raise ValueError(f"{name} must be one or two integers >= {minimum}, got {value!r}.")
    return values


def window(
    image_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
) -> Window:
    """The locations of patches, in the conventions of `jax.lax` and `flax.nnx.Conv`.

    Args:
      image_shape: (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw).
      stride: of the convolution, both axes or (down, right).
      padding: "VALID", "SAME", "SAME_LOWER", a number of pixels, or ((top, bottom), (left, right)).

    Raises:
      ValueError: an argument is malformed, or the padded image is smaller than the kernel.
    """
    size = pair("kernel_size", kernel_size)
    steps = pair("stride", stride)
    if isinstance(padding, str):
        if padding.upper() not in ("VALID", "SAME", "SAME_LOWER"):
            raise ValueError(
                f"padding must be 'VALID', 'SAME', 'SAME_LOWER', a number of pixels or pairs of them, got {padding!r}."
            )
        pads = tuple(lax.padtype_to_pads(image_shape[1:3], size, steps, padding.upper()))
    else:
        sides: Any = padding if isinstance(padding, (Sequence, np.ndarray)) else (padding, padding)
        if len(sides) != 2:
            raise ValueError(f"padding must have one entry for each of the two image axes, got {padding!r}.")
        pads = tuple(pair("padding", side, minimum=0) for side in sides)
    padded = [length + sum(side) for length, side in zip(image_shape[1:3], pads, strict=True)]
    if any(length < k for length, k in zip(padded, size, strict=True)):
        raise ValueError(
            f"images of {image_shape[1]}x{image_shape[2]} pixels (padded to {padded[0]}x{padded[1]}) are smaller "
            f"than kernel_size {size[0]}x{size[1]}; use larger images, padding, or a smaller kernel."
        )
    locations = [(length - k) // s + 1 for length, k, s in zip(padded, size, steps, strict=True)]
    return Window(size, steps, pads, (locations[0], locations[1]))  # type: ignore[arg-type]


def shifted_images(images: jax.Array, where: Window) -> list[jax.Array]:
    """Entry (i, j) of every patch, in order: kh*kw arrays of shape (N, rows, columns, C)."""
    padded = jnp.pad(images, ((0, 0), *where.padding, (0, 0)))
    (kh, kw), (down, right), (rows, columns) = where.kernel_size, where.stride, where.locations
    return [
        padded[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(kh)
        for j in range(kw)
    ]


def extract_patches(images: jax.Array, where: Window) -> jax.Array:
    """All patches, (N, rows, columns, d)."""
    stacked = jnp.stack(shifted_images(images, where), axis=-2)
    return stacked.reshape(*stacked.shape[:3], -1)


def mean_patches(images: jax.Array, where: Window) -> jax.Array:
    """The mean patch of every image, (N, d), without forming the patches."""
    means = jnp.stack([shifted.mean(axis=(1, 2)) for shifted in shifted_images(images, where)], axis=1)
    return means.reshape(images.shape[0], -1)


def sum_over_images(statistic: Callable[[jax.Array], Any], images: jax.Array, where: Window) -> Any:
    """Sum `statistic(images)` over chunks of the images, whose patches stay small.

    Args:
      statistic: (n, H, W, C) -> any pytree of sums over the n images.
      images: (N, H, W, C).
      where: the patches that the statistic forms.
    """
    entries = int(np.prod(where.locations)) * int(np.prod(where.kernel_size)) * images.shape[-1]
    size = max(1, min(images.shape[0], _CHUNK_ENTRIES // entries))
    chunks = images.shape[0] // size
    body = images[: chunks * size].reshape(chunks, size, *images.shape[1:])
    total = jax.tree.map(lambda sums: sums.sum(axis=0), lax.map(statistic, body)) if chunks > 1 else statistic(body[0])
    if chunks * size < images.shape[0]:
        total = jax.tree.map(jnp.add, total, statistic(images[chunks * size :]))
    return total


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchSpectrum:
    """Principal components of image patches, and how they were taken (paper, Definition 2.1).

    Attributes:
      variance: lambda_i^2, (d,), descending, in squared units of the images.
      components: the PCA vectors u_i as orthonormal columns, (d, d), rows in the order (kh, kw, C).
      mean: the mean patch, (d,); computed, but not subtracted, when `centered` is False.
      count: number of patches, N*J.
      kernel_shape: (kh, kw, C).
      stride, padding: of the patches; padding in pixels, ((top, bottom), (left, right)).
      centered: whether the second moment was taken about the mean patch or about zero.
    """

    variance: jax.Array
    components: jax.Array
    mean: jax.Array
    count: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})
    centered: bool = field(metadata={"static": True})


@float64_outside_traces
def patch_spectrum(
    images: Any,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    center: bool = True,
) -> PatchSpectrum:
    r"""Eigenvalues and eigenvectors of the second moment of all patches.

    .. math:: \Sigma = \frac{1}{NJ} \sum_{n,j} p_{n,j} p_{n,j}^T = U \operatorname{diag}(\lambda^2) U^T

    Paper, Definitions 2.1 and 4.1. The paper defines the PCA about zero, its authors' code subtracts the
    mean patch first; the latter is the default here (`center=True`). Each u_i has its entry of largest magnitude
    positive.

    Args:
      images: floating point, (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw).
      stride, padding: as of the convolution; padding "VALID", "SAME", pixels, or pairs of them.
      center: subtract the mean patch (of all images and locations) before taking the second moment.

    Returns:
      the spectrum, in float64 when called outside a JAX transformation (NumPy arrays if JAX's float64 is
      off) and in the images' dtype inside, where values are not checked. Variances below rounding (d * eps * the
      largest) are 0.

    Raises:
      TypeError: images of integer dtype. ValueError: wrong rank, NaN, or smaller than the kernel.
    """
    check_images(images)
    where = window(np.shape(images), kernel_size, stride, padding)
    return _patch_spectrum(jnp.asarray(images), where, bool(center))


@partial(jax.jit, static_argnums=(1, 2))
def _patch_spectrum(images: jax.Array, where: Window, center: bool) -> PatchSpectrum:
    mean, second, count = patch_moments(images, where, center)
    variance, components = jnp.linalg.eigh(second)
    variance, components = variance[::-1], components[:, ::-1]
    largest = jnp.argmax(jnp.abs(components), axis=0)
    components = components * jnp.sign(jnp.take_along_axis(components, largest[None], axis=0))
    return PatchSpectrum(
        variance=without_rounding(variance),
        components=components,
        mean=mean,
        count=count,
        kernel_shape=(*where.kernel_size, images.shape[-1]),
        stride=where.stride,
        padding=where.padding,
        centered=center,
    )


def patch_moments(images: jax.Array, where: Window, center: bool) -> tuple[jax.Array, jax.Array, int]:
    """The mean patch (d,), the second moment (d, d) about it or about zero, and the number of patches."""
    mean = mean_patches(images, where).mean(axis=0)
    origin = mean if center else jnp.zeros_like(mean)

    def second(chunk: jax.Array) -> jax.Array:
        patches = extract_patches(chunk, where) - origin[None, None, None]
        return einsum("nijd,nije->de", patches, patches)

    count = images.shape[0] * where.locations[0] * where.locations[1]
    return mean, sum_over_images(second, images, where) / count, count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanPatchMoments:
    """All that full-batch gradient descent on a linear CNN sees of its data.

    Attributes:
      second: A = (1/N) sum of p p^T over the images' mean patches p, (d, d), never centred.
      cross: b = (1/N) sum of p y, (d,) for targets (N,), or B, (d, M) for targets (N, M).
      mean: the mean over images of p, (d,).
      target_mean: () or (M,).
      target_covariance: () or (M, M), normalised by N - 1; zero for a single image.
      count: N, the number of images.
      patches_per_image: J.
      kernel_shape, stride, padding: as in `PatchSpectrum`.
    """

    second: jax.Array
    cross: jax.Array
    mean: jax.Array
    target_mean: jax.Array
    target_covariance: jax.Array
    count: int = field(metadata={"static": True})
    patches_per_image: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})


@float64_outside_traces
def mean_patch_moments(
    images: Any,
    targets: Any,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
) -> MeanPatchMoments:
    r"""Moments of the images' mean patches and their targets (ours, docs/derivations.md, section 3).

    .. math:: A = \frac1N \sum_n \bar p_n \bar p_n^T, \qquad B = \frac1N \sum_n \bar p_n y_n^T

    Args:
      images: floating point, (N, H, W, C).
      targets: (N,) or (N, M), real numbers; integers count as such (a class index is not one-hot encoded).
      kernel_size, stride, padding: of the convolution, as in `patch_spectrum`.

    Returns:
      the moments, in float64 under the same rule as `patch_spectrum`.

    Raises:
      TypeError: images of integer dtype. ValueError: wrong rank or length, NaN, or images smaller than the kernel.
    """
    check_images(images)
    shape = np.shape(targets)
    if len(shape) not in (1, 2) or shape[0] != np.shape(images)[0] or 0 in shape:
        raise ValueError(
            f"targets must have shape (N,) or (N, M) with N = {np.shape(images)[0]} as the images have, got {shape}."
        )
    check_finite("targets", targets)
    where = window(np.shape(images), kernel_size, stride, padding)
    return _mean_patch_moments(jnp.asarray(images), jnp.asarray(targets), where)


@partial(jax.jit, static_argnums=2)
def _mean_patch_moments(images: jax.Array, targets: jax.Array, where: Window) -> MeanPatchMoments:
    patches = mean_patches(images, where)
    y = targets.astype(patches.dtype)
    count = patches.shape[0]
    deviation = y - y.mean(axis=0, keepdims=True)
    return MeanPatchMoments(
        second=einsum("nd,ne->de", patches, patches) / count,
        cross=einsum("nd,n...->d...", patches, y) / count,
        mean=patches.mean(axis=0),
        target_mean=y.mean(axis=0),
        target_covariance=einsum("n...,n...->..." if y.ndim == 1 else "ni,nj->ij", deviation, deviation)
        / max(count - 1, 1),
        count=count,
        patches_per_image=where.locations[0] * where.locations[1],
        kernel_shape=(*where.kernel_size, images.shape[-1]),
        stride=where.stride,
        padding=where.padding,
    )
