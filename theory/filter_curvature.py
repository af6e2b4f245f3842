"""Curvature of the loss in one filter: the second moment of the patches that its
activation, batch norm and pool let through."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import check_finite, check_kernel, check_kind, check_positive
from theory._precision import (
    Array,
    as_floats,
    as_results,
    is_traced,
    matmul,
    namespace,
)
from theory.batch_sums import Statistic
from theory.moments import PatchMoments, accumulated_moments
from theory.patches import Padding, Window, flatten_kernel, pair
from theory.streaming import Images, accumulate

# Products of entries of patches that NumPy takes at a time, as many as stay in a cache.
_PRODUCTS_AT_ONCE = 2**18


def filter_curvature(
    images: Images,
    filters: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    pool: int | Sequence[int] | None = None,
    activation: str = "relu",
    batch_norm: bool = True,
    epsilon: float = 1e-5,
    moments: PatchMoments | None = None,
    mesh: Mesh | None = None,
) -> Array:
    r"""The second moment of what reaches each filter of a first layer followed by batch
    norm, an activation and a max pool.

    .. math::

       M_k = \frac{1}{\sigma_k^2} E\left[1_k\, q_k q_k^T\right], \qquad
       q_k = p - E p - z_k E[z_k p], \qquad z_k = \frac{w_k^T (p - E p)}{\sigma_k}

    Ours (docs/derivations.md, section 12). The means E are over all patches of all
    images, sigma_k^2 = w_k^T Cov(p) w_k + epsilon, and the gate 1_k is 1 where z_k > 0
    (with ReLU) and z_k is the largest of its window (with a pool), else 0. With batch
    norm over all images, scale 1 and shift 0, the gradient of a filter is
    sigma_k^{-1} sum_j 1_k(j) delta_k(j) q_k(j) for whatever delta_k(j) flows back to
    location j. If that is white and independent of the patch, M_k is proportional to
    the block of the loss's curvature that belongs to the filter, with the same factor
    for all filters.

    Args:
      images: floating point, (N, H, W, C), as in `patch_moments`: an array, on the
        host, on a device or sharded, or an iterable of such arrays. With batch norm
        they are read twice, first for the mean and covariance of their patches.
      filters: w_k in Flax order, (kh, kw, C, K).
      stride, padding: of the convolution, as in `patch_moments`.
      pool: height and width of the max pool's windows, one number for both, or None
        without a pool. Windows do not overlap; rows and columns of locations that are
        left over are dropped.
      activation: "relu", or "identity" for none.
      batch_norm: whether batch norm stands between convolution and activation. If not,
        sigma_k = 1, z_k = w_k^T p, and q_k is the patch followed by a 1, for the bias,
        which is 0.
      epsilon: what batch norm adds to the variance, in squared units of the images;
        the default is that of Flax and PyTorch. At 0 M_k w_k = 0 exactly.
      moments: of the patches, from `patch_moments`; the images are then read once. They
        may be those of more images. Not used without batch norm.
      mesh: as in `patch_moments`.

    Returns:
      M_k, (K, d, d), or (K, d + 1, d + 1) without batch norm, the bias last; d entries
      in the order (kh, kw, C). Normalised by the number of patches, those included that
      the pool drops. In float64 under the same rule as `patch_moments`. Of equal
      largest entries of a window one counts.

    Raises:
      TypeError: images, or moments, of another kind; an iterator, which can be read
        only once, where two readings are needed. ValueError: filters that do not fit
        the images, are constant on them at epsilon = 0 or respond with a variance that
        overflows, moments of other patches, a window larger than the grid of locations,
        or values that are not finite (not checked under tracing).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images = random.normal(size=(20, 8, 8, 3))
      >>> filters = random.normal(size=(3, 3, 3, 4))
      >>> curvature = theory.filter_curvature(images, filters, pool=2, epsilon=0)
      >>> curvature.shape
      (4, 27, 27)

      Batch norm undoes any change of a filter's size, so nothing is learned along it:

      >>> w = filters.reshape(27, 4)
      >>> np.allclose(curvature[0] @ w[:, 0], 0)
      True

      Without batch norm and activation all patches count alike:

      >>> plain = theory.filter_curvature(
      ...     images, filters, activation="identity", batch_norm=False)
      >>> moments = theory.patch_moments(images, 3, padding="SAME")
      >>> np.allclose(plain[0, -1, :-1], moments.mean)  # of the bias and the patch
      True

      The same from batches, which a list lets be read twice:

      >>> batches = [images[:10], images[10:]]
      >>> again = theory.filter_curvature(batches, filters, pool=2, epsilon=0)
      >>> np.allclose(again, curvature)
      True
    """
    check_filters(filters)
    check_positive("epsilon", epsilon, or_zero=True)
    if activation not in ("relu", "identity"):
        raise ValueError(
            f"activation must be 'relu' or 'identity', got {activation!r}."
        )
    kernel_shape = tuple(np.shape(filters)[:3])
    pool_size = None if pool is None else pair("pool", pool)
    if moments is not None:
        _check_moments(moments)

    def check(where: Window, channels: int) -> None:
        _check_geometry(kernel_shape, where, channels, pool_size, moments)

    traced = is_traced(images, filters, moments, epsilon)
    xp = jnp if traced else np
    w: Any = as_floats(filters)[0] if traced else np.asarray(filters, np.float64)
    w = flatten_kernel(w)
    geometry = kernel_shape[:2], stride, padding
    if batch_norm:
        if moments is None:
            _check_readable_twice(images)
            moments = accumulated_moments(images, geometry, check, mesh)
        origin, threshold, transform = _batch_normalised(w, moments, epsilon)
    else:
        origin = xp.zeros(kernel_shape[2], w.dtype)
        threshold, transform = xp.zeros(w.shape[1], w.dtype), None

    def build(total: Any, count: int, where: Window, channels: int) -> Any:
        second = total / (count * where.locations[0] * where.locations[1])
        if transform is None:
            return second
        t = transform.astype(second.dtype)
        second = matmul(matmul(t, second), t.swapaxes(1, 2))
        return (second + second.swapaxes(1, 2)) / 2

    settings = pool_size, activation == "relu"
    return as_results(
        accumulate(
            _GATED,
            settings,
            images,
            None,
            geometry,
            build,
            check,
            origin=origin,
            shared=(w, threshold),
            mesh=mesh,
        )
    )


def check_filters(filters: Any) -> None:
    """Raise unless filters have Flax's four axes and finite entries."""
    if np.ndim(filters) > 4:
        raise ValueError(
            "filters must be one bank, (kh, kw, C, K), got shape"
            f" {np.shape(filters)}; map over several with jax.vmap."
        )
    check_kernel(filters, "filters")


def _check_moments(moments: Any) -> None:
    check_kind("moments", moments, PatchMoments, "patch_moments")
    for name in ("mean", "covariance"):
        check_finite(f"moments.{name}", getattr(moments, name))


def _check_geometry(
    kernel_shape: tuple[int, ...],
    where: Window,
    channels: int,
    pool: tuple[int, int] | None,
    moments: PatchMoments | None,
) -> None:
    """Raise ValueError unless filters, images, pool and moments fit together."""
    if channels != kernel_shape[2]:
        raise ValueError(
            f"filters of {kernel_shape[2]} channels do not fit images of {channels};"
            " their axes must be (kh, kw, C, K)."
        )
    if pool is not None and any(
        size > length for size, length in zip(pool, where.locations, strict=True)
    ):
        raise ValueError(
            f"pool of {pool[0]}x{pool[1]} is larger than the grid of"
            f" {where.locations[0]}x{where.locations[1]} locations."
        )
    if moments is not None:
        taken = moments.kernel_shape, moments.stride, moments.padding
        needed = kernel_shape, where.stride, where.padding
        if taken != needed:
            raise ValueError(
                "moments must be those of the patches that the filters see, of"
                " kernel_shape, stride and padding {}, {}, {}; they are of {}, {},"
                " {}.".format(*needed, *taken)
            )


def _check_readable_twice(images: Any) -> None:
    if isinstance(images, Iterator):
        raise TypeError(
            f"images is an iterator ({type(images).__name__}), which can be read only"
            " once, but batch norm needs the mean and covariance of all patches first;"
            " pass a list of batches or another iterable that starts anew, or pass"
            " moments=theory.patch_moments(...) of the same images."
        )


def _batch_normalised(
    w: Any, moments: PatchMoments, epsilon: Any
) -> tuple[Any, Any, Any]:
    """What batch norm makes of patches given about an origin.

    Args:
      w: (d, K).

    Returns:
      the origin, (C,); the response about it above which z > 0, (K,); and the maps from
      a patch about it, followed by a 1, to q / sigma, (K, d, d + 1).
    """
    xp = namespace(w)
    mean, covariance = (
        xp.asarray(values, w.dtype) for values in (moments.mean, moments.covariance)
    )
    passed = matmul(covariance, w)  # Cov(p) w_k
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        variance = (w * passed).sum(axis=0)
    _check_variance(w, covariance, variance, epsilon)
    variance = xp.maximum(variance, 0) + xp.asarray(epsilon, w.dtype)
    sigma = xp.sqrt(variance)
    channels = moments.kernel_shape[2]
    origin = mean.reshape(-1, channels).mean(axis=0)
    rest = mean - xp.tile(origin, mean.shape[0] // channels)
    threshold = matmul(rest, w)
    # q = p - E p - Cov(p) w (w^T p - w^T E p) / sigma^2.
    along = (passed / variance[None, :]).T
    linear = xp.eye(len(w), dtype=w.dtype)[None] - along[:, :, None] * w.T[:, None, :]
    constant = along * threshold[:, None] - rest[None, :]
    both = xp.concatenate([linear, constant[:, :, None]], axis=2)
    return origin, threshold, both / sigma[:, None, None]


def _check_variance(w: Any, covariance: Any, variance: Any, epsilon: Any) -> None:
    """Raise ValueError if the variance of a concrete filter's responses overflows, or
    if without epsilon they are constant up to rounding."""
    if is_traced(w, covariance, variance, epsilon):
        return
    (large,) = np.nonzero(~np.isfinite(variance))
    if len(large):
        raise ValueError(
            f"filters {large.tolist()} respond so strongly that the variance of their"
            " responses overflows; scale the filters or the images."
        )
    if epsilon != 0:
        return
    size = np.abs(w)
    rounding = (
        len(w) * np.finfo(float).eps * (size * (np.abs(covariance) @ size)).sum(0)
    )
    (constant,) = np.nonzero(variance <= rounding)
    if len(constant):
        raise ValueError(
            f"filters {constant.tolist()} respond alike to all patches (variance"
            f" {variance[constant[0]]:g}), so that batch norm divides by 0; leave them"
            " out, or pass the network's epsilon."
        )


def _gated_sums(
    images: Any, targets: Any, where: Window, settings: Any, w: Any, threshold: Any
) -> Any:
    """Sums of [p; 1] [p; 1]^T over the locations that each filter lets through."""
    if namespace(images) is not np:
        rows = _patch_rows(images, targets, where)
        gates = _gates(rows, where, settings, w, threshold)
        # One row of all matrices after the other: the products of all filters with all
        # patches would fill the memory.
        moments = lax.map(lambda row: matmul(gates * row[None], rows.T), rows)
        return moments.swapaxes(0, 1)
    d = len(w)
    pairs = (d + 1) * (d + 2) // 2
    size = max(
        1, _PRODUCTS_AT_ONCE // (pairs * where.locations[0] * where.locations[1])
    )
    total = np.zeros((pairs, w.shape[1]))
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        rows = _patch_rows(images[part], targets[part], where)
        _add_products(total, rows, _gates(rows, where, settings, w, threshold))
    moments = np.empty((w.shape[1], d + 1, d + 1))
    first, second = np.triu_indices(d + 1)
    moments[:, first, second] = moments[:, second, first] = total.T
    return moments


def _patch_rows(images: Any, ones: Any, where: Window) -> Any:
    """Patches as columns, (d + 1, n * locations): rows are entries, hence windows of
    the images. Below each patch a 1, or a 0 if its image does not count."""
    xp = namespace(images)
    (kh, kw), (down, right) = where.kernel_size, where.stride
    height, width = where.locations
    planes = xp.moveaxis(images, 3, 0)
    entries = [
        planes[
            :,
            :,
            i : i + (height - 1) * down + 1 : down,
            j : j + (width - 1) * right + 1 : right,
        ]
        for i in range(kh)
        for j in range(kw)
    ]
    last = xp.broadcast_to(ones.reshape(1, -1, 1, 1), entries[0][:1].shape)
    rows = xp.concatenate([*entries, last])
    return rows.reshape(rows.shape[0], -1)


def _gates(rows: Any, where: Window, settings: Any, w: Any, threshold: Any) -> Any:
    """1 where a filter's response passes activation and pool, else 0; (K, n *
    locations)."""
    pool, relu = settings
    xp = namespace(rows)
    excess = matmul(w.T, rows[:-1]) - threshold[:, None]
    passed = excess > 0 if relu else xp.ones(excess.shape, bool)
    if pool is not None:
        passed = passed & _largest(excess, where, pool)
    return passed.astype(rows.dtype)


def _largest(values: Any, where: Window, pool: tuple[int, int]) -> Any:
    """Whether a location has the largest value of its window, the first of them if
    there are several; (K, n * locations)."""
    xp = namespace(values)
    height, width = where.locations
    grid = values.reshape(len(values), -1, height, width)
    left_over = height % pool[0], width % pool[1]
    grid = grid[:, :, : height - left_over[0], : width - left_over[1]]
    windows = grid.reshape(
        *grid.shape[:2], height // pool[0], pool[0], width // pool[1], pool[1]
    )
    places = [windows[:, :, :, i, :, j] for i in range(pool[0]) for j in range(pool[1])]
    largest = places[0]
    for place in places[1:]:
        largest = xp.maximum(largest, place)
    free = xp.ones(largest.shape, bool)
    winners = []
    for place in places:
        winners.append(free & (place == largest))
        free = free & ~winners[-1]
    stacked = xp.stack(winners, axis=-1).reshape(*largest.shape, *pool)
    whole = xp.moveaxis(stacked, 4, 3).reshape(grid.shape)
    padding = ((0, 0), (0, 0), (0, left_over[0]), (0, left_over[1]))
    return xp.pad(whole, padding).reshape(values.shape)


def _add_products(total: np.ndarray, rows: np.ndarray, gates: np.ndarray) -> None:
    """Add the gated sums of all products of two rows, (pairs, K); every product is
    taken once for all filters."""
    size = max(256, _PRODUCTS_AT_ONCE // len(total))
    products = np.empty((len(total), min(size, rows.shape[1])))
    for start in range(0, rows.shape[1], size):
        block = rows[:, start : start + size]
        taken = products[:, : block.shape[1]]
        at = 0
        for number, row in enumerate(block):
            below = len(block) - number
            np.multiply(row, block[number:], out=taken[at : at + below])
            at += below
        total += taken @ gates[:, start : start + size].T


def _finish_gated(
    sums: Any, count: Any, origin: Any, target_origin: Any, where: Window, settings: Any
) -> Any:
    return sums


_GATED = Statistic(_gated_sums, _finish_gated)
