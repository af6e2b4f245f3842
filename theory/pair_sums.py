"""Second moments of patches without forming the patches.

Two rows of a patch that lie `lag` apart contribute, over all locations, a sum of
products of image rows that lie `lag` apart; which rows of the patch they were decides
only where that sum begins and ends. So every pair of image rows is multiplied once, not
once for each pair of rows of the patch (ours; docs/derivations.md, section 9).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from theory._precision import matmul, namespace
from theory.patches import Window

# Products of narrow matrices cost as if every strip were wider by so many entries
# (measured: 20 billion operations a second at 24 entries, 60 at 96).
_OVERHEAD_ENTRIES = 96


class Rows(NamedTuple):
    """Sums of products of rows that lie `lag` apart; the upper one is row `residue`
    modulo the stride."""

    lag: int
    residue: int
    spans: tuple[tuple[int, int], ...]
    """The sums that are needed: first and last + 1 of the upper rows, counted in
    strides."""


def pair_sums(images: Any, where: Window, distances: Sequence[int]) -> list[Any]:
    """All that the images contribute to `assemble_pair_sums`, in a form that is cheap
    to add up over images.

    Args:
      images: (n, H, W, C), padded.
      where: locations of the patches.
      distances: between the two patches of a pair, down the image, in strides; 0 for a
        patch with itself.
    """
    rows, _ = plan(where, tuple(distances))
    image = image_rows(images)
    sums = []
    for columns in _columns(where, images.shape[-1]):
        strips = _strips(image, where, *columns)
        sums.append(strip_sums(strips, strips, where, rows))
    return sums


def assemble_pair_sums(
    sums: list[Any], where: Window, distances: Sequence[int], channels: int
) -> Any:
    """The sums of p(t, u) p(t + distance, u)^T over all locations (t, u) for which both
    exist, (D, d, d)."""
    _, index = plan(where, tuple(distances))
    kh, kw = where.kernel_size
    width = kw * channels
    total: Any = 0
    for (_, locations, _), products in zip(
        _columns(where, channels), sums, strict=True
    ):
        for location in range(locations):
            # The patch row of this location of the strip begins here.
            start = location * where.stride[1] * channels
            total = total + products[:, start : start + width, start : start + width]
    place = np.array(
        [[[number for number, _ in row] for row in block] for block in index]
    )
    swapped = np.array(
        [[[swap for _, swap in row] for row in block] for block in index]
    )[..., None, None]
    blocks = namespace(*sums).where(swapped, total.swapaxes(1, 2)[place], total[place])
    return blocks.swapaxes(2, 3).reshape(len(index), kh * width, kh * width)


def plan(
    where: Window, distances: tuple[int, ...]
) -> tuple[list[Rows], list[list[list[tuple[int, bool]]]]]:
    """Which sums of row products are needed; and for each (distance, patch row, other
    patch row) the number of its sum and whether it is to be transposed."""
    kh, stride = where.kernel_size[0], where.stride[0]
    needed: dict[tuple[int, int], dict[tuple[int, int], None]] = {}
    sources = []
    for distance in distances:
        for upper in range(kh):
            for other in range(kh):
                lag = stride * distance + other - upper
                first, residue = divmod(min(upper, upper + lag), stride)
                span = (first, first + where.locations[0] - distance)
                needed.setdefault((abs(lag), residue), {})[span] = None
                sources.append((abs(lag), residue, span, lag < 0))
    rows = [
        Rows(lag, residue, tuple(spans)) for (lag, residue), spans in needed.items()
    ]
    numbers = {
        key: i
        for i, key in enumerate(
            (r.lag, r.residue, span) for r in rows for span in r.spans
        )
    }
    flat = iter(
        [(numbers[lag, residue, span], swap) for lag, residue, span, swap in sources]
    )
    return rows, [
        [[next(flat) for _ in range(kh)] for _ in range(kh)] for _ in distances
    ]


def _columns(where: Window, channels: int) -> list[tuple[int, int, int]]:
    """Strips that cover all locations of a row: (first location, locations in a strip,
    strips) of one or two widths.

    A wide strip shares its pixels among many locations, but all pairs of its pixels are
    multiplied, far ones in vain.
    """
    count, kw, stride = where.locations[1], where.kernel_size[1], where.stride[1]

    def cost(size: int) -> float:
        entries = ((size - 1) * stride + kw) * channels
        return entries * (entries + _OVERHEAD_ENTRIES)

    def total(size: int) -> float:
        strips, left = divmod(count, size)
        return strips * cost(size) + (cost(left) if left else 0)

    best = min(range(1, count + 1), key=total)
    strips, left = divmod(count, best)
    return [(0, best, strips)] + ([(strips * best, left, 1)] if left else [])


def image_rows(images: Any) -> Any:
    """Rows of all images, (H, n, W, C), contiguous in this order."""
    xp = namespace(images)
    rows = xp.moveaxis(images, 1, 0)
    return np.ascontiguousarray(rows) if xp is np else rows


def _strips(
    rows: Any, where: Window, first: int, locations: int, strips: int
) -> list[Any]:
    """Strips of image rows, (H, n, entries) each; for JAX in one array, since every
    product takes time to compile."""
    height, count, _, channels = rows.shape
    width = (locations - 1) * where.stride[1] + where.kernel_size[1]
    starts = [
        (first + number * locations) * where.stride[1] for number in range(strips)
    ]
    flat = rows.reshape(height, count, -1)
    pieces = [
        flat[:, :, start * channels : (start + width) * channels] for start in starts
    ]
    if namespace(rows) is np:
        return pieces  # views, which BLAS multiplies as they are
    return [jnp.stack(pieces, axis=2).reshape(height, count * strips, width * channels)]


def strip_sums(
    strips: list[Any], others: list[Any], where: Window, rows: list[Rows]
) -> Any:
    """All sums that the plan needs of products of a row of a strip with the lower one
    of another strip, (number of sums, entries, other entries)."""
    stride, dtype = where.stride[0], strips[0].dtype
    xp = namespace(strips[0])
    sizes = strips[0].shape[-1], others[0].shape[-1]
    results = []
    for lag, residue, spans in rows:
        firsts, lasts = zip(*spans, strict=True)

        def products(
            start: int,
            stop: int,
            together: bool,
            lag: int = lag,
            residue: int = residue,
        ) -> Any:
            total: Any = 0
            first, last = start * stride, (stop - 1) * stride + 1
            for strip, other in zip(strips, others, strict=True):
                upper = strip[residue + first : residue + last : stride]
                lower = other[residue + lag + first : residue + lag + last : stride]
                if together:
                    total = total + matmul(
                        upper.reshape(-1, sizes[0]).T, lower.reshape(-1, sizes[1])
                    )
                else:
                    total = total + matmul(upper.swapaxes(1, 2), lower)
            return total

        # Rows that all sums have in common go through one product; only the borders are
        # kept apart.
        common = max(firsts), min(lasts)
        if common[0] >= common[1]:
            common = max(lasts), max(lasts)
        borders = [
            (start, stop)
            for start, stop in ((min(firsts), common[0]), (common[1], max(lasts)))
            if start < stop
        ]
        total = xp.zeros((len(spans), *sizes), dtype)
        if common[0] < common[1]:
            total = total + products(*common, True)[None]
        for start, stop in borders:
            inside = [
                [first <= row < last for row in range(start, stop)]
                for first, last in spans
            ]
            weights = xp.asarray(np.array(inside), dtype)
            each = products(start, stop, False).reshape(stop - start, -1)
            total = total + matmul(weights, each).reshape(total.shape)
        results.append(total)
    return xp.concatenate(results)
