"""Spatial autocorrelation of a filter bank's responses, without convolving (paper, Fig. 6)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from theory._arguments import (
    as_floats,
    check_images,
    check_kernel,
    einsum,
    flatten_kernel,
    float64_outside_traces,
)
from theory.patches import Window, extract_patches, mean_patches, sum_over_images, window


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossMoments:
    """Second moments of pairs of patches at given distances.

    Attributes:
      second: R(0), (d, d), over all locations.
      cross: R at each distance, (D, d, d), mean of the horizontal and the vertical one; symmetrised, as a
        quadratic form cannot tell.
      distances: in pixels, D integers.
      kernel_shape: (kh, kw, C).
      centered: whether the mean patch was subtracted.
    """

    second: jax.Array
    cross: jax.Array
    distances: tuple[int, ...] = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    centered: bool = field(metadata={"static": True})


@float64_outside_traces
def cross_moments(
    images: Any, kernel_size: int | Sequence[int], distances: Sequence[int] | int, *, center: bool = True
) -> CrossMoments:
    r"""Second moments of patches with patches at a distance.

    .. math:: R(\delta) = E[p(i)\, p(i + \delta)^T]

    Ours (docs/derivations.md, section 8): over all images and all pairs of locations inside the image
    (stride 1, no padding), the mean over horizontal pairs averaged with the mean over vertical pairs.

    Args:
      images: floating point, (N, H, W, C).
      kernel_size: kh = kw, or (kh, kw); 1 with an identity kernel gives the autocorrelation of the raw channels.
      distances: integers >= 0, in pixels.
      center: subtract the mean patch (of all images and locations) from every patch first.

    Raises:
      TypeError: images or distances of the wrong dtype. ValueError: images as in `patch_spectrum`, or a
        distance that is negative or longer than the image allows.
    """
    check_images(images)
    where = window(np.shape(images), kernel_size, 1, "VALID")
    steps = np.atleast_1d(np.asarray(distances))
    if steps.ndim != 1 or not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"distances must be a list of integers, got {distances!r}.")
    longest = min(where.locations) - 1
    if steps.size == 0 or steps.min() < 0 or steps.max() > longest:
        raise ValueError(
            f"distances must lie between 0 and {longest} pixels (images of {np.shape(images)[1:3]} and a kernel of "
            f"{where.kernel_size} leave {where.locations} locations), got {distances!r}."
        )
    return _cross_moments(jnp.asarray(images), where, tuple(int(step) for step in steps), bool(center))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _cross_moments(images: jax.Array, where: Window, distances: tuple[int, ...], center: bool) -> CrossMoments:
    mean = mean_patches(images, where).mean(axis=0)
    origin = mean if center else jnp.zeros_like(mean)
    rows, columns = where.locations

    steps = jnp.asarray(distances)
    reach = max(distances)

    def pair_sums(chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
        patches = extract_patches(chunk, where) - origin[None, None, None]
        # Beyond the image there are zeros, which add nothing: so one shape, and one program, serves every distance.
        padded = jnp.pad(patches, ((0, 0), (0, reach), (0, reach), (0, 0)))

        def at(step: jax.Array) -> jax.Array:
            right = lax.dynamic_slice_in_dim(padded[:, :rows], step, columns, axis=2)
            below = lax.dynamic_slice_in_dim(padded[:, :, :columns], step, rows, axis=1)
            pairs_across, pairs_down = rows * (columns - step), (rows - step) * columns
            across = einsum("nijd,nije->de", patches, right) / pairs_across.astype(patches.dtype)
            down = einsum("nijd,nije->de", patches, below) / pairs_down.astype(patches.dtype)
            both = across + down
            return (both + both.T) / 4

        return einsum("nijd,nije->de", patches, patches) / (rows * columns), lax.map(at, steps)

    second, cross = (total / images.shape[0] for total in sum_over_images(pair_sums, images, where))
    kernel_shape = (*where.kernel_size, images.shape[-1])
    return CrossMoments(second, cross, distances, kernel_shape, center)


@float64_outside_traces
def autocorrelation(kernel: Any, cross_moments: CrossMoments) -> jax.Array:
    r"""Autocorrelation of the vector of all filters' responses against distance.

    .. math:: C(\delta) = \frac{\operatorname{tr}(G R(\delta))}{\operatorname{tr}(G R(0))},
       \qquad G = \sum_k w_k w_k^T

    Ours (docs/derivations.md, section 8); the same number as convolving the images with the filters and
    averaging z(i) . z(i + delta) over all pairs inside the image, at no cost per image.

    Args:
      kernel: filters in Flax order, (..., kh, kw, C, K).
      cross_moments: of patches of the kernel's size.

    Returns:
      (..., D), 1 at distance 0; in float64 under the same rule as `patch_spectrum`.

    Raises:
      ValueError: the kernel's shape is not that of the moments.
    """
    check_kernel(kernel)
    if np.shape(kernel)[-4:-1] != cross_moments.kernel_shape:
        raise ValueError(
            f"kernel of shape {np.shape(kernel)} does not match cross moments of patches of shape "
            f"{cross_moments.kernel_shape}; its axes (kh, kw, C) must be these."
        )
    w, second, cross = as_floats(kernel, cross_moments.second, cross_moments.cross)
    w = flatten_kernel(w)
    gram = einsum("...dk,...ek->...de", w, w)
    return einsum("...de,nde->...n", gram, cross) / einsum("...de,de->...", gram, second)[..., None]
