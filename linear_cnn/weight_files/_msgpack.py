"""What flax.serialization.to_bytes writes: MessagePack, with arrays in extensions of
its own. Numbers stay in the file until they are asked for."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _Contents,
    _named,
    _Refused,
    _refusing,
    _Tensor,
)

# A network of ten thousand tensors has forty thousand.
_MOST_VALUES = 2**18
_MOST_TENSORS = 2**15
_LONGEST_NAME = 1000
_DEEPEST = 64
_MOST_AXES = 64
_ARRAY = 1  # the extension that holds an array: its shape, type and bytes
_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in "?bBhHiIlLqQefd"}
_DTYPES["bfloat16"] = _BFLOAT16
# Bytes that follow, by how a value begins: of a number, or of the length of what is
# next.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_FIXED |= {0xCC + n: 2**n for n in range(4)} | {0xD0 + n: 2**n for n in range(4)}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def _begins_msgpack(start: bytes) -> bool:
    """Whether this is a dictionary whose first key is a text."""
    first = start[:1]
    if not (b"\x81" <= first <= b"\x8f" or first in (b"\xde", b"\xdf")):
        return False
    key = start[{0xDE: 3, 0xDF: 5}.get(first[0], 1) :][:1]
    return b"\xa0" <= key <= b"\xbf" or key in (b"\xd9", b"\xda")


def _msgpack(path: Path) -> _Contents:
    with path.open("rb") as file:
        reader = _Reader(path, file)
        tensors = _named(reader.tensors("", 0))
        if file.tell() != reader.size:
            raise ValueError("more follows behind its dictionary")
    return _Contents("Flax msgpack", "HWIO", tensors, in_order=False)


class _Reader:
    """Goes through one file; what it may find is counted over all of it."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self.size = path.stat().st_size
        self._values = self._tensors = 0

    def tensors(self, outer: str, depth: int) -> Iterator[tuple[str, _Tensor]]:
        """The tensors of the next value, by their paths."""
        if depth > _DEEPEST:
            raise _Refused(f"its dictionaries are nested more than {_DEEPEST} deep.")
        kind, length = self._head()
        if kind == "extension":
            code = self._take(1)[0]
            end = self._file.tell() + length
            if code == _ARRAY:
                self._tensors += 1
                if self._tensors > _MOST_TENSORS:
                    raise _Refused(
                        f"it has more than {_MOST_TENSORS} arrays, far more than any"
                        " network."
                    )
                yield outer, self._array(outer, end)
            self._skip(end - self._file.tell())
        elif kind in ("map", "list"):
            for place in range(length):
                key = self._text() if kind == "map" else str(place)
                name = f"{outer}.{key}" if outer else key
                if len(name) > _LONGEST_NAME:
                    raise _Refused(
                        "it has tensors whose names are longer than"
                        f" {_LONGEST_NAME} characters."
                    )
                yield from self.tensors(name, depth + 1)
        else:
            self._skip(length)

    def _array(self, name: str, end: int) -> _Tensor:
        if self._head() != ("list", 3):
            raise ValueError(f"{quoted(name)} is no array of Flax's")
        kind, count = self._head()
        if kind != "list" or count > _MOST_AXES:
            raise ValueError(f"{quoted(name)} has no shape")
        shape = tuple(self._integer() for _ in range(count))
        dtype_name = self._text()
        kind, length = self._head()
        place = self._file.tell()
        if kind != "bytes" or place + length != end:
            raise ValueError(f"{quoted(name)} has no numbers")
        dtype = _DTYPES.get(dtype_name)
        if dtype is None:
            return _refusing(
                shape,
                f"{quoted(name)} holds {shown(dtype_name)}, which is not read; save it"
                " as float32.",
            )
        if math.prod(shape) * dtype.itemsize != length:
            raise ValueError(f"{quoted(name)} has {length} bytes for {shown(shape)}")
        return _Tensor(shape, partial(_numbers, self._path, place, shape, dtype))

    def _head(self) -> tuple[str, int]:
        """What comes next, and its length: bytes, or entries of a list or a map."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _Refused(
                f"it has more than {_MOST_VALUES} values, far more than any network."
            )
        first = self._take(1)[0]
        if first <= 0x7F or first >= 0xE0:
            return "number", 0
        if first <= 0x8F:
            return "map", first & 0x0F
        if first <= 0x9F:
            return "list", first & 0x0F
        if first <= 0xBF:
            return "text", first & 0x1F
        if first in _FIXED:
            return "number", _FIXED[first]
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        for kind, widths in (
            ("text", _TEXTS),
            ("bytes", _BYTES),
            ("extension", _EXTENSIONS),
            ("list", _LISTS),
            ("map", _MAPS),
        ):
            if first in widths:
                return kind, int.from_bytes(self._take(widths[first]), "big")
        raise ValueError(f"a value begins with the unknown byte {first:#x}")

    def _integer(self) -> int:
        first = self._take(1)
        if first[0] <= 0x7F:
            return first[0]
        if not 0xCC <= first[0] <= 0xCF:
            raise ValueError("an axis is no number")
        return int.from_bytes(self._take(_FIXED[first[0]]), "big")

    def _text(self) -> str:
        kind, length = self._head()
        if kind not in ("text", "bytes") or length > _LONGEST_NAME:
            raise ValueError("a key is no text, or far too long")
        return self._take(length).decode(errors="replace")

    def _take(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) != count:
            raise EOFError("it ends within a value")
        return found

    def _skip(self, count: int) -> None:
        if not 0 <= count <= self.size - self._file.tell():
            raise EOFError("it ends within a value")
        self._file.seek(count, 1)


def _numbers(
    path: Path, place: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(place)
        content = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape)
