"""Symmetric matrices as vectors, in a basis that is orthonormal in the Frobenius inner
product."""

from typing import Any

import numpy as np

from theory._precision import namespace


def pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the d (d + 1) / 2 entries on and above the diagonal, row by
    row."""
    return np.triu_indices(d)


def pair_products(vectors: Any) -> Any:
    """Products of the entries of vectors (..., d): (..., d (d + 1) / 2), what `pack`
    makes of the matrices p p^T."""
    i, j = pairs(vectors.shape[-1])
    upper = vectors[..., i] * vectors[..., j]
    return upper * _weights(upper, vectors.shape[-1])


def pack(matrices: Any) -> Any:
    """Symmetric matrices (..., d, d) as vectors (..., d (d + 1) / 2) with the same
    inner products: entries off the diagonal, that occur twice, times sqrt(2)."""
    i, j = pairs(matrices.shape[-1])
    upper = matrices[..., i, j]
    return upper * _weights(upper, matrices.shape[-1])


def unpack(vectors: Any, d: int) -> Any:
    """The symmetric matrices (..., d, d) that `pack` made vectors of."""
    place = np.zeros((d, d), int)
    i, j = pairs(d)
    place[i, j] = place[j, i] = np.arange(len(i))
    return (vectors / _weights(vectors, d))[..., place]


def _weights(vectors: Any, d: int) -> Any:
    """Of the entries of vectors (..., d (d + 1) / 2), in an array of as many axes."""
    i, j = pairs(d)
    weights = np.where(i == j, 1, 2**0.5).reshape(*(1,) * (vectors.ndim - 1), -1)
    return namespace(vectors).asarray(weights, vectors.dtype)
