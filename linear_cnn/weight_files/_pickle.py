"""Pickles of PyTorch, without running anything.

They are read by a machine of this module's own, which knows numbers, texts, containers
and tensors, and has no way to call anything else.
"""

import io
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import _BFLOAT16, _named, _Refused

_LONGEST_NAME = 1000
_MOST_AXES = 64
# Instructions of a pickle, each of which can make an object of Python's: a tensor takes
# about 40.
_MOST_INSTRUCTIONS = 2**20
_LARGEST_KEY = 2**61 - 1

_STORAGES = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": _BFLOAT16,
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
_CALLABLE = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
}
_KEYS = (str, int, float, bool, bytes, type(None))


class _Storage(NamedTuple):
    """The numbers that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int


class _View(NamedTuple):
    """A tensor as a pickle describes it: offset, shape and strides in entries of the
    storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    """What a pickle names "module name"; only a name here, with nothing behind it."""

    name: str


class _Budget:
    """How much a pickle may still make."""

    def __init__(self) -> None:
        self._left = _MOST_INSTRUCTIONS

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _Refused(
                f"its pickle has more than {_MOST_INSTRUCTIONS} instructions, far more"
                " than a description of tensors."
            )


def _views(content: Any) -> dict[str, _View]:
    """All tensors in nested containers, by their path; each container is entered once,
    however often it is held."""
    found: list[tuple[str, _View]] = []
    entered: set[int] = set()
    # What is left of the containers that are open, the innermost last: of millions of
    # numbers in one with a long name, no two names are there at once.
    waiting: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter([("", content)]))]
    while waiting:
        outer, left = waiting[-1]
        for key, value in left:
            name = f"{outer}.{key}" if outer else str(key)
            if len(name) > _LONGEST_NAME:
                raise _Refused(
                    f"it has tensors whose names are longer than {_LONGEST_NAME}"
                    " characters."
                )
            if isinstance(value, _View):
                found.append((name, value))
                continue
            held = isinstance(value, (dict, list, tuple)) and len(value) > 0
            if held and id(value) not in entered:
                entered.add(id(value))
                waiting.append((name, _parts(value)))
                break
        else:
            waiting.pop()
    return _named(found)


def _parts(container: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(container, dict):
        return iter(container.items())
    return enumerate(container)


def _unpickled(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """What the next pickle of a stream describes, made of plain containers, `_View` and
    `_Global`; and its storages.

    Instructions are counted, and so are entries that one of them copies.

    `pickletools` tells the instructions apart without following them. This follows
    those that build data. One that calls something is obeyed for the names in
    `_CALLABLE` alone, by what stands here in their place.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    storages: dict[str, _Storage] = {}
    budget = _Budget()

    def marked() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for instruction, argument, _ in pickletools.genops(stream):
        budget.spend(1)
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(
                    {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name]
                )
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case (
                "BINUNICODE"
                | "SHORT_BINUNICODE"
                | "BINSTRING"
                | "SHORT_BINSTRING"
                | "BINBYTES"
                | "SHORT_BINBYTES"
            ):
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(marked()))
            case "LIST":
                stack.append(marked())
            case "APPEND":
                value = stack.pop()
                _container(stack, list).append(value)
            case "APPENDS":
                values = marked()
                _container(stack, list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(_container(stack, dict), [(key, value)])
            case "SETITEMS":
                values = marked()
                _fill(
                    _container(stack, dict), zip(values[::2], values[1::2], strict=True)
                )
            case "BUILD":  # attributes, such as the _metadata of a state dictionary
                stack.pop()
                _container(stack, dict)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(str(argument)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str:
                    raise ValueError("a pickle refers to what is no name")
                stack.append(_allowed(f"{module} {name}"))
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage {shown(storage.key)} is described twice")
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments, budget))
            case "STOP":
                [value] = stack
                return value, storages
            case other:
                raise _Refused(
                    f"its pickle uses {other}, which tensors in plain containers do not"
                    " need; it may carry code, and nothing of it was run. Save the"
                    " weights alone, as a state dictionary."
                )
    raise ValueError("a pickle without end")


def _container(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise ValueError(
            f"a pickle fills a {type(stack[-1]).__name__} as if it were a"
            f" {kind.__name__}"
        )
    return stack[-1]


def _fill(container: dict[Any, Any], pairs: Iterable[Any]) -> None:
    for key, value in pairs:
        if type(key) not in _KEYS:  # the hash of tuples in tuples can take for ever
            raise ValueError(
                f"a pickle uses a {type(key).__name__} as the key of a dictionary"
            )
        # Larger ones can be chosen to have one hash, and then take for ever, too.
        if type(key) is int and abs(key) >= _LARGEST_KEY:
            raise ValueError("a pickle uses a huge number as the key of a dictionary")
        if key in container:
            raise _Refused(
                f"it gives the key {quoted(str(key))} twice, of which one would be"
                " lost; save the weights anew."
            )
        container[key] = value


def _allowed(name: str) -> _Global:
    if name not in _CALLABLE and name not in _STORAGES:
        raise _Refused(
            f"its pickle refers to {shown(name.replace(' ', '.'))}, which is no part of"
            " tensors in plain containers; it may carry code, and nothing of it was"
            " run. Save the weights alone, as a state dictionary."
        )
    return _Global(name)


def _storage(identifier: Any) -> _Storage:
    if type(identifier) is not tuple or len(identifier) > 7:
        raise ValueError("a pickle refers to a storage in an unknown way")
    kind, storage_type, key, _, count, *view = identifier
    if type(kind) is not str:
        raise ValueError(
            f"a pickle refers to a {type(kind).__name__} in an unknown way"
        )
    if (
        kind != "storage"
        or any(part is not None for part in view)
        or type(key) is not str
        or type(count) is not int
    ):
        raise ValueError(f"a pickle refers to {quoted(kind)} in an unknown way")
    return _Storage(key, _STORAGES[storage_type.name], count)


def _called(function: Any, arguments: Any, budget: _Budget) -> Any:
    """What the names in `_CALLABLE` stand for."""
    if type(function) is not _Global or type(arguments) is not tuple:
        raise ValueError("a pickle calls what is no function")
    match function.name:
        case "collections OrderedDict":
            filled: dict[Any, Any] = {}
            for pairs in arguments:
                budget.spend(len(pairs))  # which may be referred to again and again
                _fill(filled, pairs)
            return filled
        case "torch Size" | "torch._utils _rebuild_parameter":
            return arguments[0]
        case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            if max(len(shape), len(strides)) > _MOST_AXES:
                raise ValueError("a pickle describes a tensor that cannot be")
            integers = [offset, *shape, *strides]
            if (
                type(storage) is not _Storage
                or any(type(n) is not int for n in integers)
                or min(*integers, 0) < 0
            ):
                raise ValueError("a pickle describes a tensor that cannot be")
            return _View(storage, offset, tuple(shape), tuple(strides))
        case name:
            raise ValueError(f"a pickle calls {name}")
