"""The numbers of a tensor in a protobuf message."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from linear_cnn.weight_files._contents import _LARGEST, _Refused
from linear_cnn.weight_files._wire import (
    _integers,
    _messages,
    _NoMessage,
    _Value,
)

_MOST_AXES = 32


class _Stored(NamedTuple):
    """A tensor as a message describes it.

    Attributes:
      shape: of the tensor.
      kind: the format's number of its data type.
      dtypes: by these numbers.
      raw: the numbers as bytes; or, each of them one by one or packed:
      floats, doubles, integers: of which at most one has any.
      elsewhere: reads them, as bytes, where they lie in another file.
      repeats: whether the last number counts for all that are missing.
    """

    shape: tuple[int, ...]
    kind: int
    dtypes: Mapping[int, np.dtype[Any]]
    raw: list[_Value]
    floats: list[_Value]
    doubles: list[_Value]
    integers: list[_Value]
    elsewhere: Callable[[], bytes] | None = None
    repeats: bool = False


def _shape(values: list[_Value]) -> tuple[int, ...]:
    """The axes of a tensor, each by itself or packed."""
    parts = [1 if isinstance(value, int) else len(value) for value in values]
    if sum(parts) > 10 * _MOST_AXES:
        raise _NoMessage("a tensor has too many axes")
    return tuple(_integers(values).tolist())


def _weights(stored: _Stored) -> np.ndarray:
    """The entries of a tensor; of integers, which are refused by their type, none."""
    dtype = _dtype(stored)
    return np.empty(0, dtype) if dtype.kind in "iub" else _numbers(stored)


def _dtype(stored: _Stored) -> np.dtype[Any]:
    if stored.kind not in stored.dtypes:
        raise _Refused(
            f"its first layer has the data type number {stored.kind}, which is not"
            " read; save it as floats."
        )
    return stored.dtypes[stored.kind]


def _numbers(stored: _Stored) -> np.ndarray:
    """The entries of a tensor: as bytes, or number by number."""
    dtype, count = _dtype(stored), math.prod(stored.shape)
    if count > _LARGEST:
        raise _Refused("a part of its first layer is larger than any first layer.")
    raw = [stored.elsewhere()] if stored.elsewhere else _messages(stored.raw)
    as_bytes = bool(raw and len(raw[-1]))
    if as_bytes:
        values = np.frombuffer(raw[-1], dtype)
    elif given := _messages(stored.floats):
        values = np.frombuffer(b"".join(given), "<f4").astype(dtype)
    elif given := _messages(stored.doubles):
        values = np.frombuffer(b"".join(given), "<f8").astype(dtype)
    else:
        values = _integers(stored.integers)
        half = dtype.kind not in "iub"  # whose bits are stored as integers
        values = values.astype(np.uint16).view(dtype) if half else values.astype(dtype)
    if stored.repeats and not as_bytes and 0 < len(values) < count:
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers for a tensor of shape {stored.shape}")
    return values.reshape(stored.shape)
