"""Pickles that are made to fill the memory or to take for ever, each of about so many
bytes; tests/attack.py has them read."""

import struct
from collections.abc import Callable


def long_key(count: int) -> bytes:
    """{"a" * 990: [None] * count}"""
    key = b"X" + struct.pack("<I", 990) + b"a" * 990
    return b"\x80\x02}" + key + b"](" + b"N" * count + b"es."


def empty_containers(letter: bytes) -> Callable[[int], bytes]:
    return lambda count: b"\x80\x02](" + letter * count + b"e."


def memoised(count: int) -> bytes:
    return b"\x80\x04](" + b"}\x94" * (count // 2) + b"e."


def copied(count: int) -> bytes:
    """A list of pairs, made into a dictionary again and again."""
    pairs = b"](" + b"K\x01K\x02\x86" * (count // 10) + b"eq\x00"
    calls = b"h\x01h\x00\x85R" * (count // 10)
    return b"\x80\x02](ccollections\nOrderedDict\nq\x01" + pairs + calls + b"e."


def colliding(count: int) -> bytes:
    """Keys that are all of one hash."""
    keys = [
        b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N"
        for n in range(1, count)
    ]
    return b"\x80\x02}(" + b"".join(keys) + b"u."


def objects(made: bytes) -> Callable[[int], bytes]:
    """Objects of classes that are not known, each made by these instructions."""
    start = b"\x80\x02cnobody\nKnows\nq\x00]("
    return lambda size: start + made * (size // len(made)) + b"e\x86."


def classes(count: int) -> bytes:
    """Names, each of another class."""
    names = [f"c{n}\nA\n".encode() for n in range(count)]
    return b"\x80\x02](" + b"".join(names) + b"e."


def shared_state(count: int) -> bytes:
    """Objects that all have the same thousands of attributes, and calls that all are
    given them."""
    state = b"](" + b"}" * (count // 8) + b"e\x85q\x01"
    made = b"h\x00)\x81h\x01b" + b"h\x00h\x01R"
    return (
        b"\x80\x02cnobody\nKnows\nq\x00"
        + state
        + b"]("
        + made * (count // 10)
        + b"e\x87."
    )


def deep(count: int) -> bytes:
    return b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b"."
