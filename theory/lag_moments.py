"""Second moments of patches with patches at every lag in the plane: what a stationary
gradient from above makes of the images."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from theory._precision import Array, as_results, namespace
from theory.batch_sums import Statistic
from theory.pair_sums import image_rows, plan, strip_sums
from theory.patches import Padding, Window
from theory.streaming import Images, accumulate

# Products of narrow matrices cost as if either were wider by so many entries.
_OVERHEAD_ENTRIES = 12


def lag_moments(
    images: Images,
    kernel_size: int | Sequence[int],
    largest_lag: int,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    mesh: Mesh | None = None,
) -> Array:
    r"""Sums of products of two patches of an image, for every lag between them.

    .. math::

       R(\Delta) = \frac1N \sum_n \sum_{j,\, j + \Delta} p_n(j)\, p_n(j + \Delta)^T

    Ours (docs/derivations.md, section 15). The inner sum is over all pairs of locations
    of the lag, both inside the grid, and about zero. If what flows back to location j
    is independent of the image, of mean 0 and autocovariance C, the gradient
    g = sum_j delta(j) p(j) has

    .. math:: E[g g^T] = \sum_\Delta C(\Delta)\, R(\Delta) .

    White gradients see J Sigma, with the patches' second moment Sigma, and those that
    are the same at all locations J^2 A, with the mean patches' second moment A. These
    are sums over pairs, of every lag with its sign; `cross_moments` has the mean over
    pairs, of distances along either axis, for autocorrelations.

    Args:
      images: floating point, (N, H, W, C), as in `patch_moments`: an array, on the
        host, on a device or sharded, or an iterable of such arrays.
      kernel_size, stride, padding: of the convolution, as in `patch_moments`.
      largest_lag: L, in locations, the largest lag down as well as across; at most one
        less than the longer side of the grid of locations, with which all pairs of the
        image are there.
      mesh: as in `patch_moments`.

    Returns:
      R, (2L + 1, 2L + 1, d, d); the lag (down, across) is at [L + down, L + across],
      and R(-lag) is the transpose of R(lag). 0 where there is no pair. In float64
      under the same rule as `patch_moments`. Of parts of the images the means, weighted
      by the numbers of images, are those of all of them.

    Raises:
      TypeError: a lag that is no integer, or as `patch_moments`. ValueError: a lag that
        is negative or larger than the grid, or as `patch_moments`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 6, 6, 2))
      >>> lags = theory.lag_moments(images, 3, 3)  # of a grid of 4 x 4 locations
      >>> lags.shape
      (7, 7, 18, 18)

      White gradients: the second moment of the patches, times their number.

      >>> moments = theory.patch_moments(images, 3)
      >>> second = moments.covariance + np.outer(moments.mean, moments.mean)
      >>> np.allclose(lags[3, 3], 16 * second)
      True

      An autocovariance that falls with the lag, then one that does not:

      >>> lag = np.arange(-3, 4)
      >>> fall = np.exp(-(lag[:, None] ** 2 + lag**2) / 2)
      >>> np.einsum("yx,yxde->de", fall, lags).shape
      (18, 18)
      >>> means = theory.mean_patch_moments(images, np.zeros(10), 3)
      >>> np.allclose(lags.sum(axis=(0, 1)), 16**2 * means.second)
      True
    """
    try:
        largest = operator.index(largest_lag)
    except TypeError as error:
        raise TypeError(
            f"largest_lag must be an integer, got {largest_lag!r}."
        ) from error
    check = partial(_check_lag, largest)
    geometry = kernel_size, stride, padding
    # About zero, as the result is.
    zero = np.zeros(1)
    return as_results(
        accumulate(
            _LAGS,
            largest,
            images,
            None,
            geometry,
            _mean,
            check,
            origin=zero,
            mesh=mesh,
        )
    )


def _check_lag(largest_lag: int, where: Window, channels: int) -> None:
    longest = max(where.locations) - 1
    if not 0 <= largest_lag <= longest:
        raise ValueError(
            f"largest_lag must lie between 0 and {longest} (the images and a kernel of"
            f" {where.kernel_size} leave {where.locations} locations), got"
            f" {largest_lag}."
        )


class _Columns(NamedTuple):
    """Columns of pixels first <= x < last, and those from low to high - 1 that they are
    multiplied with: all within reach."""

    first: int
    last: int
    low: int
    high: int


def _reach(where: Window, largest_lag: int) -> tuple[tuple[int, ...], int, int]:
    """The lags down, from 0; the largest lag across; and the largest distance across of
    two pixels whose product is needed."""
    down = tuple(range(min(largest_lag, where.locations[0] - 1) + 1))
    across = min(largest_lag, where.locations[1] - 1)
    return down, across, across * where.stride[1] + where.kernel_size[1] - 1


def _blocks(where: Window, reach: int, channels: int, one: bool) -> list[_Columns]:
    """Blocks of columns that cover the patches, of the width that makes the products
    fewest; or one block."""
    width = (where.locations[1] - 1) * where.stride[1] + where.kernel_size[1]

    def blocks(size: int) -> list[_Columns]:
        return [
            _Columns(
                first,
                min(first + size, width),
                max(first - reach, 0),
                min(first + size + reach, width),
            )
            for first in range(0, width, size)
        ]

    def cost(size: int) -> int:
        return sum(
            ((block.last - block.first) * channels + _OVERHEAD_ENTRIES)
            * ((block.high - block.low) * channels + _OVERHEAD_ENTRIES)
            for block in blocks(size)
        )

    return blocks(width if one else min(range(1, width + 1), key=cost))


def _lag_sums(images: Any, targets: Any, where: Window, largest_lag: int) -> Any:
    """Sums over images and over the rows of each pair of patch rows, of products of
    pixels: (number of sums, columns, C, distances across, C)."""
    xp, channels = namespace(images), images.shape[-1]
    down, _, reach = _reach(where, largest_lag)
    sums, _ = plan(where, down)
    rows = image_rows(images)
    height, count, _, _ = rows.shape
    flat = rows.reshape(height, count, -1)
    parts = []
    # Every product of JAX takes time to compile.
    for block in _blocks(where, reach, channels, one=xp is jnp):
        left = flat[:, :, block.first * channels : block.last * channels]
        right = flat[:, :, block.low * channels : block.high * channels]
        products = strip_sums([left], [right], where, sums).reshape(
            -1, block.last - block.first, channels, block.high - block.low, channels
        )
        # So that the partners of every column are 2 reach + 1 neighbours.
        missing = reach - block.first + block.low, block.last + reach - block.high
        products = xp.pad(products, ((0, 0), (0, 0), (0, 0), missing, (0, 0)))
        parts += [
            products[:, column, :, column : column + 2 * reach + 1]
            for column in range(block.last - block.first)
        ]
    return xp.stack(parts, axis=1)


def _finish_lags(
    sums: Any,
    count: Any,
    origin: Any,
    target_origin: Any,
    where: Window,
    largest_lag: int,
) -> Any:
    xp, channels = namespace(sums), sums.shape[2]
    down, across, _ = _reach(where, largest_lag)
    kh, kw = where.kernel_size
    d = kh * kw * channels
    by_lag = xp.stack(
        [_patch_row_sums(sums, where, lag) for lag in range(-across, across + 1)]
    )
    _, index = plan(where, down)
    place = np.array([[[number for number, _ in row] for row in by] for by in index])
    swapped = np.array([[[swap for _, swap in row] for row in by] for by in index])
    # Where the second patch's row is the upper one, the sum is of its product with the
    # first patch's: of the opposite lag, and transposed.
    blocks = xp.where(
        swapped[None, ..., None, None],
        by_lag[::-1].swapaxes(-1, -2)[:, place],
        by_lag[:, place],
    )
    # (across, down, kh, kh, kw*C, kw*C) -> (down, across, d, d).
    half = xp.moveaxis(blocks, 4, 3).reshape(2 * across + 1, len(down), d, d)
    half = half.swapaxes(0, 1) / count
    opposite = half[1:][::-1, ::-1].swapaxes(-1, -2)
    whole = xp.concatenate([opposite, half])
    none = largest_lag - len(down) + 1, largest_lag - across
    return xp.pad(whole, ((none[0],) * 2, (none[1],) * 2, (0, 0), (0, 0)))


def _patch_row_sums(sums: Any, where: Window, lag: int) -> Any:
    """Sums over pairs of locations `lag` columns apart of products of two patch rows,
    (number of sums, kw*C, kw*C)."""
    xp, kw, stride = namespace(sums), where.kernel_size[1], where.stride[1]
    channels, reach = sums.shape[2], sums.shape[3] // 2
    first, last = max(0, -lag), where.locations[1] - max(0, lag)
    entries = []
    for k in range(kw):
        start, middle = first * stride + k, reach + stride * lag - k
        stop = start + (last - first - 1) * stride + 1
        entries.append(sums[:, start:stop:stride, :, middle : middle + kw].sum(axis=1))
    return xp.stack(entries, axis=1).reshape(-1, kw * channels, kw * channels)


def _mean(result: Any, count: int, where: Window, channels: int) -> Any:
    return result


_LAGS = Statistic(_lag_sums, _finish_lags, large=True)
