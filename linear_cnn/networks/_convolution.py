"""Convolution as products of matrices, and pooling, both fast to differentiate on a
CPU.

XLA's own convolution is slow where it matters here: on a CPU its gradients run as plain
loops inside a compiled training loop; and under `jax.vmap` over kernels (training many
seeds at once) it becomes, on every backend, a grouped convolution. Products of matrices
suffer neither.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from linear_cnn._checks import check_fits, integer
from linear_cnn.networks import _winograd

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# With fewer channels or filters, transforming them takes longer than the
# multiplications it saves.
_WINOGRAD_WIDTH = 16

Convolution = Callable[..., jax.Array]
"""With the arguments of `jax.lax.conv_general_dilated`."""


class _Settings(NamedTuple):
    """How images (N, H, W, C) are convolved."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    """((top, bottom), (left, right)); where negative, pixels are cut off."""
    turned: bool
    """Whether filters are given as (kh, kw, K, C), not (kh, kw, C, K), and are to be
    turned by half a circle, as the gradient of images needs them."""
    precision: lax.PrecisionLike
    preferred_element_type: DTypeLike | None


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Whichever convolution is fast on JAX's default backend: `patch_convolution` on a
    CPU, XLA's own elsewhere.

    Accelerators have convolutions of their own, which need no memory for patches; under
    `jax.vmap` `patch_convolution` takes their place. Arguments, result and errors are
    those of `patch_convolution`.
    """
    if jax.default_backend() == "cpu":
        return patch_convolution(lhs, rhs, window_strides, padding, **options)
    given = {
        "window_strides": window_strides,
        "padding": padding,
        "dimension_numbers": NHWC,
    } | options
    by_patches = partial(patch_convolution, **given)
    # What is refused on one backend is refused on all.
    jax.eval_shape(by_patches, lhs, rhs)
    return _unless_mapped(partial(lax.conv_general_dilated, **given), by_patches)(
        lhs, rhs
    )


def patch_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: tuple[str, str, str] | lax.ConvDimensionNumbers | None = NHWC,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    """Two-dimensional convolution of NHWC images, computed as (patches) @ (filters).

    It has the signature of `jax.lax.conv_general_dilated`, so it can be handed to
    `flax.nnx.Conv` as its `conv_general_dilated` argument, and returns the same values
    up to rounding.

    Filters of 3x3 pixels at stride 1, between at least 16 channels and as many filters,
    are applied by Winograd's algorithm, whose products have 4/9 of the multiplications;
    its rounding error is of the same order. At `jax.lax.Precision.HIGHEST` the product
    is always the plain one.

    The gradient is taken in reverse mode; forward mode (`jax.jvp`) raises a TypeError.

    Args:
      lhs: images, (N, H, W, C).
      rhs: filters in Flax order, (kh, kw, C, K).
      window_strides: two strides.
      padding: "SAME", "SAME_LOWER", "VALID", or ((top, bottom), (left, right)).
      lhs_dilation, rhs_dilation, feature_group_count, batch_group_count, out_sharding:
        only their trivial values.
      dimension_numbers: only NHWC images with (kh, kw, C, K) filters.
      precision, preferred_element_type: of the matrix product.

    Returns:
      responses, (N, H', W', K).

    Raises:
      NotImplementedError: dilation, groups, a sharding or another layout were asked
        for.
      ValueError: images with other channels than the filters, or smaller than these,
        padding included.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
      >>> filters = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
      >>> ours = linear_cnn.patch_convolution(images, filters, (1, 1), "SAME")
      >>> order = ("NHWC", "HWIO", "NHWC")
      >>> xlas = jax.lax.conv_general_dilated(
      ...     images, filters, (1, 1), "SAME", dimension_numbers=order
      ... )
      >>> ours.shape, bool(jax.numpy.allclose(ours, xlas, atol=1e-4))
      ((2, 8, 8, 4), True)
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    grouped = feature_group_count != 1 or batch_group_count != 1
    if dilated or grouped or dimension_numbers != NHWC or out_sharding is not None:
        raise NotImplementedError(
            "patch_convolution computes undilated, ungrouped convolutions of NHWC"
            f" images; got lhs_dilation={lhs_dilation}, rhs_dilation={rhs_dilation},"
            f" feature_group_count={feature_group_count},"
            f" batch_group_count={batch_group_count},"
            f" dimension_numbers={dimension_numbers}, out_sharding={out_sharding}. Use"
            " jax.lax.conv_general_dilated for these."
        )
    kh, kw, channels, _ = rhs.shape
    if lhs.shape[-1] != channels:
        raise ValueError(
            f"images of shape {lhs.shape} have {lhs.shape[-1]} channels, but the"
            f" filters {channels}."
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (kh, kw), window_strides, padding)
    check_fits(lhs.shape[1:3], padding, (kh, kw))
    down, right = window_strides
    (top, bottom), (left, right_pad) = padding
    pads = ((top, bottom), (left, right_pad))
    return _convolve(
        lhs,
        rhs,
        _Settings((down, right), pads, False, precision, preferred_element_type),
    )


def _unless_mapped(
    plain: Callable[..., Any], mapped: Callable[..., Any]
) -> Callable[..., Any]:
    """The function `plain`, in the place of which `jax.vmap` takes `mapped`, of the
    same values; its gradients too."""
    choose = jax.custom_batching.custom_vmap(plain)

    @choose.def_vmap
    def under_vmap(
        size: int, is_mapped: list[bool], *arguments: Any
    ) -> tuple[Any, Any]:
        del size
        results = jax.vmap(
            mapped, jax.tree.map(lambda leaf: 0 if leaf else None, tuple(is_mapped))
        )(*arguments)
        return results, jax.tree.map(lambda _: True, results)

    function = jax.custom_vjp(choose)

    def forward(*arguments: Any) -> tuple[Any, Any]:
        return function(*arguments), arguments

    def backward(arguments: Any, cotangents: Any) -> Any:
        def pull_back(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda arguments, cotangents: jax.vjp(function, *arguments)[1](
                cotangents
            )

        return _unless_mapped(pull_back(plain), pull_back(mapped))(
            arguments, cotangents
        )

    function.defvjp(forward, backward)
    return function


def _apply(images: jax.Array, filters: jax.Array, settings: _Settings) -> jax.Array:
    if not _by_winograd(filters, settings):
        return _multiply_patches(images, filters, settings)
    return _winograd.responses(
        _padded(images, settings), filters, settings.turned, _product(settings)
    )


def _by_winograd(filters: jax.Array, settings: _Settings) -> bool:
    kh, kw, *widths = filters.shape
    return (
        (kh, kw, *settings.strides) == (3, 3, 1, 1)
        and min(widths) >= _WINOGRAD_WIDTH
        and settings.precision != lax.Precision.HIGHEST
    )


def _product(settings: _Settings) -> Callable[..., jax.Array]:
    return partial(
        lax.dot_general,
        precision=settings.precision,
        preferred_element_type=settings.preferred_element_type,
    )


_convolve = jax.custom_vjp(_apply, nondiff_argnums=(2,))


def _forward(
    images: jax.Array, filters: jax.Array, settings: _Settings
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(images, filters, settings), (images, filters)


def _backward(
    settings: _Settings, residuals: tuple[jax.Array, jax.Array], cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, filters = residuals
    of_images = _image_gradient(cotangents, filters, images.shape, settings)
    of_filters = _filter_gradient(cotangents, filters, images, settings)
    return of_images.astype(images.dtype), of_filters.astype(filters.dtype)


_convolve.defvjp(_forward, _backward)


def _filter_gradient(
    cotangents: jax.Array, filters: jax.Array, images: jax.Array, settings: _Settings
) -> jax.Array:
    if _by_winograd(filters, settings):
        return _winograd.filter_gradient(
            _padded(images.astype(cotangents.dtype), settings),
            cotangents,
            settings.turned,
            _product(settings),
        )
    _, pull_back = jax.vjp(lambda filters: _apply(images, filters, settings), filters)
    return pull_back(cotangents)[0]


def _image_gradient(
    cotangents: jax.Array,
    filters: jax.Array,
    shape: tuple[int, ...],
    settings: _Settings,
) -> jax.Array:
    """Gradient of images of this shape, as a convolution too: of cotangents spread by
    the strides.

    Automatic differentiation would add up overlapping patches, which takes several
    times longer.
    """
    edges = []
    for pixels, responses, taps, stride, (before, _) in zip(
        shape[1:3],
        cotangents.shape[1:3],
        filters.shape[:2],
        settings.strides,
        settings.pads,
        strict=True,
    ):
        low = taps - 1 - before
        spread = (responses - 1) * stride + 1
        edges.append((low, pixels + taps - 1 - spread - low, stride - 1))
    plain = settings._replace(
        strides=(1, 1), pads=((0, 0), (0, 0)), turned=not settings.turned
    )
    return _convolve(_pad(cotangents, edges), filters.astype(cotangents.dtype), plain)


def _pad(images: jax.Array, edges: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Zeros (low, high, interior) along the rows and the columns of images; where
    negative, pixels cut off."""
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def _padded(images: jax.Array, settings: _Settings) -> jax.Array:
    return _pad(images, [(low, high, 0) for low, high in settings.pads])


def _multiply(vectors: jax.Array, matrix: jax.Array, settings: _Settings) -> jax.Array:
    """(..., C) @ (C, K). As one plain matrix product, whose gradient is one too: XLA
    would copy other arrays before."""
    flat = jnp.matmul(
        vectors.reshape(-1, vectors.shape[-1]),
        matrix,
        precision=settings.precision,
        preferred_element_type=settings.preferred_element_type,
    )
    return flat.reshape(*vectors.shape[:-1], -1)


def _multiply_patches(
    images: jax.Array, filters: jax.Array, settings: _Settings
) -> jax.Array:
    if settings.turned:
        filters = filters[::-1, ::-1].swapaxes(2, 3)
    kh, kw, _, count = filters.shape
    images = _padded(images, settings)
    # Columns first, then rows: the last axis is in the order (kh, kw, C) of the
    # filters.
    patches = _shifted(images, 2, kw, settings.strides[1])
    patches = _shifted(patches, 1, kh, settings.strides[0])
    return _multiply(patches, filters.reshape(-1, count), settings)


def _shifted(images: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """Windows of a length along an axis, every so-manyth, side by side on the last."""
    span = (images.shape[axis] - length) // stride * stride + 1
    windows = [
        lax.slice_in_dim(images, start, start + span, stride, axis)
        for start in range(length)
    ]
    return jnp.concatenate(windows, axis=-1)


def max_pool(images: jax.Array, window: int = 2) -> jax.Array:
    """Largest entries of windows that do not overlap; rows and columns left over are
    dropped.

    Of equal entries the first, row by row, gets the gradient, as in XLA and PyTorch;
    but not by XLA's select-and-scatter, which is slow on a CPU.

    Args:
      images: (N, H, W, C).
      window: its height and width in pixels.

    Returns:
      images, (N, H // window, W // window, C).

    Raises:
      TypeError: window is no integer. ValueError: window < 1 or larger than the images.
    """
    window = integer("window", window, minimum=1)
    height, width = images.shape[1:3]
    if min(height, width) < window:
        raise ValueError(
            f"window must be at most the size of the images, {height}x{width} pixels,"
            f" got {window}."
        )
    return _pool(
        images[:, : height // window * window, : width // window * window], window
    )


def _windows(images: jax.Array, window: int) -> list[jax.Array]:
    """Pixel k of every window, for each k, row by row; (N, H / window, W / window, C)
    each."""
    return [
        images[:, i::window, j::window] for i in range(window) for j in range(window)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(images: jax.Array, window: int) -> jax.Array:
    return reduce(jnp.maximum, _windows(images, window))


def _pool_forward(images: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """The largest entry of each window, and which one it is."""
    largest, *others = _windows(images, window)
    winner = jnp.zeros(largest.shape, jnp.int32)
    for index, pixels in enumerate(others, start=1):
        winner = jnp.where(pixels > largest, index, winner)
        largest = jnp.maximum(pixels, largest)
    return largest, winner


def _pool_backward(
    window: int, winner: jax.Array, cotangents: jax.Array
) -> tuple[jax.Array]:
    index = jnp.arange(window**2, dtype=winner.dtype).reshape(
        1, 1, window, 1, window, 1
    )
    spread = jnp.where(
        winner[:, :, None, :, None] == index, cotangents[:, :, None, :, None], 0
    )
    count, rows, _, columns, _, channels = spread.shape
    return (spread.reshape(count, rows * window, columns * window, channels),)


_pool.defvjp(_pool_forward, _pool_backward)
