"""Filters of 3x3 pixels at stride 1 with 4/9 of the multiplications.

.. math:: A^T [(G g G^T) \\odot (B^T d B)] A

is F(2x2, 3x3) of Lavin and Gray (2016): every tile d of 4x4 pixels gives 2x2 responses
to the filter g by 16 products, not 36. The matrices A, B and G hold only 0, 1, -1 and
1/2. Over all tiles, channels and filters the products are one batched product of
matrices, its batch the 16 places of a transformed tile.

What takes time to compile are the loops that XLA writes for all that is no product of
matrices. So there are few: A and G are products too, and B, of tiles that overlap, is
one loop for the columns and one for the rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
# On rows and columns: the 16 places (row, column) of a tile to the 4 of its responses,
# and the 9 of a filter to the 16.
_TO_RESPONSES, _FROM_FILTERS = np.kron(_A, _A), np.kron(_G, _G)

Product = Callable[..., jax.Array]
"""`jax.lax.dot_general` with its precision and the type of its result."""


def responses(
    images: jax.Array, filters: jax.Array, turned: bool, product: Product
) -> jax.Array:
    """Responses (N, H - 2, W - 2, K) of images (N, H, W, C) to filters (3, 3, C, K); or
    to filters (3, 3, K, C) that are `turned` by half a circle."""
    count, rows, columns, _ = images.shape
    from_filters = _FROM_FILTERS[:, ::-1] if turned else _FROM_FILTERS
    kernels = _transform(from_filters, filters.reshape(9, -1))
    # The product takes the filters as they lie: reading them across takes long.
    places = product(
        _tiles(images),
        kernels.reshape(16, *filters.shape[2:]),
        (((2,), (2 if turned else 1,)), ((0,), (0,))),
    )
    height, width = -(-(rows - 2) // 2), -(-(columns - 2) // 2)
    quarters = _transform(_TO_RESPONSES, places.reshape(16, -1))
    # Response (2 t + p, 2 u + q) is entry (t, u) of quarter (p, q).
    features = places.shape[2]
    whole = quarters.reshape(2, 2, count, height, width, features)
    whole = whole.transpose(2, 3, 0, 4, 1, 5).reshape(
        count, 2 * height, 2 * width, features
    )
    return whole[:, : rows - 2, : columns - 2]


def filter_gradient(
    images: jax.Array, cotangents: jax.Array, product: Product
) -> jax.Array:
    """Gradient of the filters (3, 3, C, K) from the cotangents (N, H - 2, W - 2, K) of
    the responses.

    The cotangents are brought into the order (16, K, tiles), in which a product over
    the tiles takes half as long on a CPU as in that of the tiles themselves.
    """
    _, rows, columns, features = cotangents.shape
    whole = _even(cotangents, (rows, columns))
    count, rows, columns, _ = whole.shape
    quarters = whole.reshape(count, rows // 2, 2, columns // 2, 2, features)
    quarters = quarters.transpose(2, 4, 5, 0, 1, 3).reshape(4, -1)
    places = _transform(_TO_RESPONSES.T, quarters).reshape(16, features, -1)
    kernels = product(places, _tiles(images), (((2,), (1,)), ((0,), (0,))))
    gradient = _transform(_FROM_FILTERS.T, kernels.reshape(16, -1))
    return gradient.reshape(3, 3, features, -1).swapaxes(2, 3)


def _tiles(images: jax.Array) -> jax.Array:
    """The transformed tiles of images (N, H, W, C): (16, tiles, C)."""
    images = _even(images, images.shape[1:3])
    height, width = images.shape[1] - 2, images.shape[2] - 2
    columns = _transform_tiles([images[:, :, j : j + width : 2] for j in range(4)])
    rows = _transform_tiles([columns[:, :, i : i + height : 2] for i in range(4)])
    return rows.reshape(16, -1, images.shape[3])


def _transform_tiles(d: list[jax.Array]) -> jax.Array:
    return jnp.stack([d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]])


def _even(images: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Images with a row and a column of zeros more where their numbers are odd."""
    rest: Any = [(0, length % 2) for length in size]
    return jnp.pad(images, ((0, 0), *rest, (0, 0))) if any(map(sum, rest)) else images


def _transform(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    """The matrix on the first axis of the values, (places, ...), exactly on every
    backend."""
    return jnp.matmul(
        jnp.asarray(matrix, values.dtype), values, precision=lax.Precision.HIGHEST
    )
