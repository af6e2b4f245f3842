"""Pickles of PyTorch, without running anything.

They are read by a machine of this module's own, which knows numbers, texts, containers
and tensors, and has no way to call anything. What a pickle would call or make beside
these becomes an object without behaviour, which holds what it was given.
"""

import io
import pickletools
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
_MOST_GLOBALS = 2**10  # names of functions and classes

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
    "torch ComplexFloatStorage": np.dtype("<c8"),
    "torch ComplexDoubleStorage": np.dtype("<c16"),
    "torch QInt32Storage": np.dtype("<i4"),
    "torch QInt8Storage": np.dtype("i1"),
    "torch QUInt8Storage": np.dtype("u1"),
    "torch.storage UntypedStorage": np.dtype("u1"),
}
# Tensors that carry attributes are of these types, and nothing more.
_PLAIN_TENSORS = {
    "torch Tensor",
    "torch.nn.parameter Parameter",
    "torch.nn.parameter Buffer",
}
_KEYS = (str, int, float, bool, bytes, type(None))
# Attributes in which a torch module keeps its parts; names of tensors skip them.
_OF_MODULES = ("_parameters", "_buffers", "_modules")
_SAME = object()  # in place of the key of what has no name of its own


class _Storage(NamedTuple):
    """The numbers that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int


class _View(NamedTuple):
    """A tensor as a pickle describes it: offset, shape and strides in entries of the
    storage; and the function, if any, that would make another tensor of it.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    made_by: str = ""


class _Global(NamedTuple):
    """What a pickle names "module name"; only a name here, with nothing behind it."""

    name: str


class _Object:
    """Stands for what a function or class that is not known here would make: what it
    was given, its attributes and its entries."""

    __slots__ = ("given", "name")

    def __init__(self, name: str, *given: Any) -> None:
        self.name, self.given = name, list(given)


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
    """All tensors in nested containers and objects, by their path; each is entered
    once, however often it is held."""
    found: list[tuple[str, _View]] = []
    entered: set[int] = set()
    # What is left of the containers that are open, the innermost last: of millions of
    # numbers in one with a long name, no two names are there at once.
    waiting: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter([("", content)]))]
    while waiting:
        outer, left = waiting[-1]
        for key, value in left:
            own = "" if key is _SAME else str(key)
            name = f"{outer}.{own}" if outer and key is not _SAME else outer or own
            if len(name) > _LONGEST_NAME:
                raise _Refused(
                    f"it has tensors whose names are longer than {_LONGEST_NAME}"
                    " characters."
                )
            if isinstance(value, _View):
                found.append((name, value))
                continue
            held = isinstance(value, (dict, list, tuple)) and len(value) > 0
            if (held or isinstance(value, _Object)) and id(value) not in entered:
                entered.add(id(value))
                waiting.append((name, _parts(value)))
                break
        else:
            waiting.pop()
    return _named(found)


def _parts(container: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(container, _Object):
        return ((_SAME, given) for given in container.given)
    if isinstance(container, dict):
        return (
            (_label(key, place), value)
            for place, (key, value) in enumerate(container.items())
        )
    return enumerate(container)


def _label(key: Any, place: int) -> Any:
    """What the names of tensors call a key of a dictionary."""
    if isinstance(key, _Object):  # two of them may have one name
        return f"<{shown(key.name.replace(' ', '.'))} {place}>"
    return _SAME if key in _OF_MODULES else key


def _unpickled(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """What the next pickle of a stream describes, made of plain containers, `_View`,
    `_Object` and `_Global`; and its storages.

    Instructions are counted, and so are entries that one of them copies.

    `pickletools` tells the instructions apart without following them. This follows
    those that build data. In place of what one calls stands what `_called` has for its
    name, or an `_Object`.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    storages: dict[str, _Storage] = {}
    named: dict[str, _Global] = {}
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
                | "BINBYTES8"
                | "BINUNICODE8"
                | "BYTEARRAY8"
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
            case "EMPTY_SET":
                stack.append(_Object("builtins set"))
            case "FROZENSET":
                stack.append(_Object("builtins frozenset", marked()))
            case "APPEND":
                value = stack.pop()
                _container(stack, list).append(value)
            case "APPENDS" | "ADDITEMS":
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
            case "BUILD":
                state = stack.pop()
                if type(stack[-1]) is _Object:
                    stack[-1].given.append(state)
                # Attributes of others, such as the _metadata of a state dictionary.
                elif type(stack[-1]) is not _View:
                    _container(stack, dict)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_global(str(argument), named))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str:
                    raise ValueError("a pickle refers to what is no name")
                stack.append(_global(f"{module} {name}", named))
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage {shown(storage.key)} is described twice")
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments, budget))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                stack.append(_instance(kind, arguments))
            case "NEWOBJ_EX":
                more, arguments, kind = stack.pop(), stack.pop(), stack.pop()
                stack.append(_instance(kind, arguments, more))
            case "OBJ":
                kind, *values = marked()
                stack.append(_instance(kind, values))
            case "INST":
                values = marked()
                stack.append(_instance(_global(str(argument), named), values))
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
    """The list or dictionary that is filled next; of an object, one for it."""
    if type(stack[-1]) is _Object:
        entries = kind()
        stack[-1].given.append(entries)
        return entries
    if type(stack[-1]) is not kind:
        raise ValueError(
            f"a pickle fills a {type(stack[-1]).__name__} as if it were a"
            f" {kind.__name__}"
        )
    return stack[-1]


def _fill(container: dict[Any, Any], pairs: Iterable[Any]) -> None:
    for key, value in pairs:
        # The hash of tuples in tuples can take for ever.
        if type(key) not in _KEYS and type(key) is not _Object:
            key = _Object(type(key).__name__)
        # Larger ones can be chosen to have one hash, and then take for ever, too.
        if type(key) is int and abs(key) >= _LARGEST_KEY:
            raise ValueError("a pickle uses a huge number as the key of a dictionary")
        if key in container:
            raise _Refused(
                f"it gives the key {quoted(str(key))} twice, of which one would be"
                " lost; save the weights anew."
            )
        container[key] = value


def _global(name: str, named: dict[str, _Global]) -> _Global:
    if len(named) >= _MOST_GLOBALS and name not in named:
        raise _Refused(
            f"its pickle names more than {_MOST_GLOBALS} functions and classes, far"
            " more than any network; save the weights alone, as a state dictionary."
        )
    return named.setdefault(name, _Global(name))


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
    if type(storage_type) is not _Global or storage_type.name not in _STORAGES:
        raise ValueError("a pickle refers to a storage of an unknown type")
    return _Storage(key, _STORAGES[storage_type.name], count)


def _instance(kind: Any, *given: Any) -> _Object:
    if type(kind) is not _Global:
        raise ValueError("a pickle makes an object of what is no class")
    return _Object(kind.name, *given)


def _called(function: Any, arguments: Any, budget: _Budget) -> Any:
    """What stands here for what a function would return; nothing is called."""
    if type(function) is not _Global or type(arguments) is not tuple:
        raise ValueError("a pickle calls what is no function")
    match function.name:
        case "collections OrderedDict":
            filled: dict[Any, Any] = {}
            for pairs in arguments:
                budget.spend(len(pairs))  # which may be referred to again and again
                _fill(filled, pairs)
            return filled
        case "collections defaultdict" if len(arguments) < 2:
            return {}
        case (
            "torch Size"
            | "torch._utils _rebuild_parameter"
            | "torch._utils _rebuild_parameter_with_state"
        ):
            return arguments[0]
        case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2":
            return _view(arguments)
        case "torch._tensor _rebuild_from_type_v2":
            inner, kind, inner_arguments, _ = arguments
            made = _called(inner, inner_arguments, budget)
            if type(made) is _View and kind.name not in _PLAIN_TENSORS:
                return made._replace(made_by=kind.name)
            return made
        case name:
            budget.spend(len(arguments))
            if arguments[3:] and type(arguments[0]) is _Storage:
                with suppress(TypeError, ValueError):  # it may be none
                    return _view(arguments)._replace(made_by=name)
            given = [
                part._replace(made_by=name) if type(part) is _View else part
                for part in arguments
            ]
            return _Object(name, given)


def _view(arguments: tuple[Any, ...]) -> _View:
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
