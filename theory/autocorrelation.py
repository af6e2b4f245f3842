"""Spatial autocorrelation of a filter bank's responses, without convolving (paper, Fig.
6)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import check_finite, check_kernel, check_kind
from theory._precision import (
    Array,
    as_floats,
    as_results,
    einsum,
    float64_outside_traces,
    namespace,
    power_of_two_near,
)
from theory.batch_sums import Statistic
from theory.moments import check_same_patches, repeated, weighted_mean
from theory.pair_sums import assemble_pair_sums, pair_sums
from theory.patches import Window, flatten_kernel, patch_sums
from theory.streaming import Images, accumulate


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossMoments:
    """Second moments of pairs of patches at given distances; `a + b` are those of both
    sets of images.

    Attributes:
      second: R(0), (d, d), over all locations.
      cross: R at each distance, (D, d, d), mean of the horizontal and the vertical one;
        symmetrised, as a quadratic form cannot tell.
      mean: the mean patch, (d,), over all locations.
      pair_mean: the mean over the pairs at each distance of both their patches, (D, d),
        from which patches near the border are missing.
      distances: in pixels, D integers.
      count: number of images.
      locations: of patches in an image, (rows, columns).
      kernel_shape: (kh, kw, C).
      centered: whether the mean patch was subtracted.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 3))
      >>> moments = theory.cross_moments(images, 2, [0, 1, 3])
      >>> moments.cross.shape, moments.locations
      ((3, 12, 12), (7, 7))
      >>> np.allclose(moments.cross[0], moments.second)  # a patch with itself
      True
    """

    second: Array
    cross: Array
    mean: Array
    pair_mean: Array
    distances: tuple[int, ...] = field(metadata={"static": True})
    count: int = field(metadata={"static": True})
    locations: tuple[int, int] = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    centered: bool = field(metadata={"static": True})

    def __add__(self, other: "CrossMoments") -> "CrossMoments":
        check_same_patches(
            self, other, "distances", "locations", "kernel_shape", "centered"
        )
        means = weighted_mean(self, other, "mean", "pair_mean")

        def about_both(part: CrossMoments) -> tuple[Array, Array]:
            if not self.centered:
                return part.second, part.cross
            shift, pair = part.mean - means["mean"], part.pair_mean - part.mean[None]
            moved, products = (
                shift[:, None] * shift[None, :],
                pair[:, :, None] * shift[None, None, :],
            )
            return (
                part.second + moved,
                part.cross + products + products.swapaxes(1, 2) + moved[None],
            )

        count = self.count + other.count
        second, cross = (
            (self.count / count) * mine + (other.count / count) * theirs
            for mine, theirs in zip(about_both(self), about_both(other), strict=True)
        )
        return CrossMoments(
            second,
            cross,
            means["mean"],
            means["pair_mean"],
            self.distances,
            count,
            self.locations,
            self.kernel_shape,
            self.centered,
        )


def cross_moments(
    images: Images,
    kernel_size: int | Sequence[int],
    distances: Sequence[int] | int,
    *,
    center: bool = True,
    mesh: Mesh | None = None,
) -> CrossMoments:
    r"""Second moments of patches with patches at a distance.

    .. math:: R(\delta) = E[p(i)\, p(i + \delta)^T]

    Ours (docs/derivations.md, section 8): over all images and all pairs of locations
    inside the image (stride 1, no padding), the mean over horizontal pairs averaged
    with the mean over vertical pairs. Like `patch_moments` it forms no patch, and its
    memory does not grow with the number of images. `lag_moments` has the sums over
    pairs in the place of these means, of every lag in the plane.

    Args:
      images: as in `patch_moments`: an array (N, H, W, C), or an iterable of such
        arrays.
      kernel_size: kh = kw, or (kh, kw); 1 with an identity kernel gives the
        autocorrelation of the raw channels.
      distances: integers >= 0, in pixels.
      center: subtract the mean patch (of all images and locations) from every patch
        first.
      mesh: as in `patch_moments`.

    Returns:
      the moments, in float64 under the same rule as `patch_moments`.

    Raises:
      TypeError: images or distances of the wrong dtype. ValueError: images as in
        `patch_moments`, or a distance that is negative or longer than the image allows.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 3))
      >>> moments = theory.cross_moments(images, 2, [0, 1, 3])
      >>> np.allclose(moments.second, theory.patch_moments(images, 2).covariance)
      True
    """
    steps = np.atleast_1d(np.asarray(distances))
    if steps.ndim != 1 or not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"distances must be a list of integers, got {distances!r}.")
    settings = tuple(int(step) for step in steps), bool(center)

    def build(result: Any, count: int, where: Window, channels: int) -> CrossMoments:
        second, cross, mean, pair_mean = result
        shape = (*where.kernel_size, channels)
        return CrossMoments(
            second,
            cross,
            mean,
            pair_mean,
            settings[0],
            count,
            where.locations,
            shape,
            settings[1],
        )

    check = partial(_check_distances, settings[0])
    return as_results(
        accumulate(
            _PAIRS,
            settings,
            images,
            None,
            (kernel_size, 1, "VALID"),
            build,
            check,
            mesh=mesh,
        )
    )


def _check_distances(distances: tuple[int, ...], where: Window, channels: int) -> None:
    longest = min(where.locations) - 1
    if not distances or min(distances) < 0 or max(distances) > longest:
        raise ValueError(
            f"distances must lie between 0 and {longest} pixels (the images and a"
            f" kernel of {where.kernel_size} leave {where.locations} locations), got"
            f" {list(distances)}."
        )


def _turned(where: Window) -> Window:
    """The window of images whose rows and columns are exchanged."""
    return Window(*(parts[::-1] for parts in where))  # type: ignore[arg-type]


def _pair_sums(images: Any, targets: Any, where: Window, settings: Any) -> Any:
    down = pair_sums(images, where, (0, *settings[0]))
    across = pair_sums(images.swapaxes(1, 2), _turned(where), settings[0])
    return images.sum(axis=0), down, across


def _finish_pairs(
    sums: Any, count: Any, origin: Any, target_origin: Any, where: Window, settings: Any
) -> tuple[Any, ...]:
    image, down, across = sums
    distances, center = settings
    (rows, columns), (kh, kw), channels = (
        where.locations,
        where.kernel_size,
        image.shape[-1],
    )
    xp = namespace(image)

    def mean(row_span: tuple[int, int], column_span: tuple[int, int]) -> Any:
        pixels = (row_span[1] - row_span[0]) * (column_span[1] - column_span[0])
        return patch_sums(image[None], where, row_span, column_span)[0] / (
            count * pixels
        )

    def normalised(sums: Any, pairs: list[int]) -> Any:
        return sums / (count * xp.asarray(pairs, image.dtype))[:, None, None]

    deviation = mean((0, rows), (0, columns))
    pair_mean = (
        xp.stack(
            [
                mean((0, rows - step), (0, columns))
                + mean((step, rows), (0, columns))
                + mean((0, rows), (0, columns - step))
                + mean((0, rows), (step, columns))
                for step in distances
            ]
        )
        / 4
    )
    vertical = assemble_pair_sums(down, where, (0, *distances), channels)
    second = vertical[0] / (count * rows * columns)
    vertical = normalised(vertical[1:], [(rows - step) * columns for step in distances])
    horizontal = assemble_pair_sums(across, _turned(where), distances, channels)
    # Entries in the order (kw, kh, C) of exchanged rows and columns, brought back to
    # (kh, kw, C).
    order = (
        np.arange(kh * kw * channels).reshape(kw, kh, channels).swapaxes(0, 1).ravel()
    )
    horizontal = normalised(
        horizontal[:, order][:, :, order],
        [rows * (columns - step) for step in distances],
    )
    both = vertical + horizontal
    cross = (both + both.swapaxes(1, 2)) / 4

    # From about the origin to about the mean, or to about zero.
    tiled = repeated(origin, where)
    shift = -deviation if center else tiled
    moved = shift[:, None] * shift[None, :]
    products = pair_mean[:, :, None] * shift[None, None, :]
    cross = cross + products + products.swapaxes(1, 2) + moved[None]
    once = deviation[:, None] * shift[None, :]
    return (
        second + once + once.T + moved,
        cross,
        deviation + tiled,
        pair_mean + tiled[None],
    )


_PAIRS = Statistic(_pair_sums, _finish_pairs)


@float64_outside_traces
def autocorrelation(kernel: ArrayLike, cross_moments: CrossMoments) -> Array:
    r"""Autocorrelation of the vector of all filters' responses against distance.

    .. math::

       C(\delta) = \frac{\operatorname{tr}(G R(\delta))}{\operatorname{tr}(G R(0))},
       \qquad G = \sum_k w_k w_k^T

    Ours (docs/derivations.md, section 8); the same number as convolving the images with
    the filters and averaging z(i) . z(i + delta) over all pairs inside the image, at no
    cost per image.

    Args:
      kernel: filters in Flax order, (..., kh, kw, C, K).
      cross_moments: of patches of the kernel's size.

    Returns:
      (..., D), 1 at distance 0; NaN of filters that no patch excites, above rounding,
        such as zeros. In float64 under the same rule as `patch_spectrum`.

    Raises:
      TypeError: other moments. ValueError: the kernel's shape is not that of the
        moments, or an entry is not finite (not checked under tracing).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> board = (-1.0) ** np.add.outer(np.arange(8), np.arange(8))
      >>> moments = theory.cross_moments(board[None, :, :, None], 1, [0, 1, 2, 3])
      >>> print(theory.autocorrelation(np.ones((1, 1, 1, 1)), moments))
      [ 1. -1.  1. -1.]
    """
    check_kind("cross_moments", cross_moments, CrossMoments, "cross_moments")
    for name in ("second", "cross"):
        check_finite(f"cross_moments.{name}", getattr(cross_moments, name))
    check_kernel(kernel)
    if np.shape(kernel)[-4:-1] != cross_moments.kernel_shape:
        raise ValueError(
            f"kernel of shape {np.shape(kernel)} does not match cross moments of"
            f" patches of shape {cross_moments.kernel_shape}; its axes (kh, kw, C) must"
            " be these."
        )
    w, second, cross = as_floats(kernel, cross_moments.second, cross_moments.cross)
    w = flatten_kernel(w)
    w = w / power_of_two_near(jnp.abs(w).max(axis=(-2, -1)))[..., None, None]
    gram = einsum("...dk,...ek->...de", w, w)
    energy = einsum("...de,de->...", gram, second)
    rounding = jnp.finfo(w.dtype).eps * einsum("...dd,ee->...", gram, jnp.abs(second))
    seen = energy > rounding
    return jnp.where(
        seen[..., None],
        einsum("...de,nde->...n", gram, cross) / jnp.where(seen, energy, 1)[..., None],
        jnp.nan,
    )
