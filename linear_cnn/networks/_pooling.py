"""Pooling that is fast to differentiate on a CPU."""

from functools import partial, reduce

import jax
import jax.numpy as jnp

from linear_cnn._checks import integer


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


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _pool(images: jax.Array, window: int) -> jax.Array:
    return reduce(jnp.maximum, _windows(images, window))


@_pool.defjvp
def _pool_tangent(
    window: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (images,), (tangent,) = primals, tangents
    winner = _winner(images, window)
    index = jnp.arange(window**2, dtype=winner.dtype).reshape(
        1, 1, window, 1, window, 1
    )
    count, rows, columns, channels = winner.shape
    # The winner's as a sum over masked windows, whose transpose writes each cotangent
    # once; that of a slice would add up as many arrays as a window has pixels.
    windows = tangent.reshape(count, rows, window, columns, window, channels)
    masked = jnp.where(winner[:, :, None, :, None] == index, windows, 0)
    return _pool(images, window), masked.sum((2, 4), dtype=tangent.dtype)


def _winner(images: jax.Array, window: int) -> jax.Array:
    """Which entry of each window is the largest, and the first of those."""
    largest, *others = _windows(images, window)
    winner = jnp.zeros(largest.shape, jnp.int32)
    for index, pixels in enumerate(others, start=1):
        winner = jnp.where(pixels > largest, index, winner)
        largest = jnp.maximum(largest, pixels)
    return winner
