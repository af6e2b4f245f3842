"""Messages of protobuf, field by field, where they lie in the file: nothing is copied
that is not asked for, and every field counts."""

from collections.abc import Collection, Iterator

import numpy as np

from linear_cnn.weight_files._contents import _Refused

# A large graph has fifty thousand nodes of ten fields.
_MOST_FIELDS = 2**20
_LARGEST_VARINTS = 2**22  # bytes of numbers that are decoded one by one
_SIZES = {1: 8, 5: 4}  # bytes of a field, by its wire type

_Bytes = bytes | memoryview
_Value = int | _Bytes


class _NoMessage(ValueError):
    """No message of protobuf, or a part of one."""


class _Reader:
    """Reads messages of one file; what it may read is counted over all of them."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def fields(self, message: _Bytes) -> Iterator[tuple[int, _Value]]:
        """Number and value of each field: an integer, or where its bytes lie."""
        place, end = 0, len(message)
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise _Refused(
                    f"its graph has more than {_MOST_FIELDS} parts, far more than any"
                    " network."
                )
            key, place = _varint(message, place)
            number, wire = key >> 3, key & 7
            value: _Value
            if wire == 0:
                value, place = _varint(message, place)
            else:
                if wire == 2:
                    size, place = _varint(message, place)
                elif wire in _SIZES:
                    size = _SIZES[wire]
                else:
                    raise _NoMessage(f"it has fields of the unknown type {wire}")
                value, place = message[place : place + size], place + size
                if place > end:
                    raise _NoMessage("a field ends behind its message")
            if number == 0:
                raise _NoMessage("a field has no number")
            yield number, value

    def collect(
        self, message: _Bytes, wanted: Collection[int]
    ) -> dict[int, list[_Value]]:
        """The values of these fields, all that are there."""
        found: dict[int, list[_Value]] = {number: [] for number in wanted}
        for number, value in self.fields(message):
            if number in found:
                # A view of a few bytes takes much more than they do.
                if not isinstance(value, int) and len(value) <= 8:
                    value = bytes(value)
                found[number].append(value)
        return found


def _varint(message: _Bytes, place: int) -> tuple[int, int]:
    """An integer of variable length, and where it ends."""
    value = shift = 0
    while shift < 70:
        try:
            byte = message[place]
        except IndexError:
            raise _NoMessage("it ends within a number") from None
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
        shift += 7
    raise _NoMessage("a number is longer than ten bytes")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _messages(values: list[_Value]) -> list[_Bytes]:
    """Those of a field's values that are messages, texts or packed numbers."""
    return [value for value in values if not isinstance(value, int)]


def _text(values: list[_Value]) -> str:
    """The last of a field's values, which counts, as text."""
    found = _messages(values)
    return bytes(found[-1]).decode(errors="replace") if found else ""


def _integer(values: list[_Value]) -> int:
    """The last of a field's values as an integer, 0 by default."""
    found = [value for value in values if isinstance(value, int)]
    return _signed(found[-1]) if found else 0


def _integers(values: list[_Value]) -> np.ndarray:
    """The integers of a repeated field, each by itself or packed."""
    parts = []
    for value in values:
        if isinstance(value, int):
            parts.append(np.array([value], np.uint64))
        else:
            parts.append(_unpacked(value))
    return np.concatenate(parts or [np.empty(0, np.uint64)]).view(np.int64)


def _unpacked(packed: _Bytes) -> np.ndarray:
    if len(packed) > _LARGEST_VARINTS:
        raise _Refused(
            "its numbers are written one by one, more of them than any first layer has."
        )
    groups = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(groups < 128)
    if len(groups) and (not len(last) or last[-1] != len(groups) - 1):
        raise _NoMessage("it ends within a number")
    first = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    lengths = last - first + 1
    if len(lengths) and lengths.max() > 10:
        raise _NoMessage("a number is longer than ten bytes")
    values = np.zeros(len(last), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        group = groups[first[longer] + place].astype(np.uint64) & np.uint64(127)
        values[longer] |= group << np.uint64(7 * place)
    return values
