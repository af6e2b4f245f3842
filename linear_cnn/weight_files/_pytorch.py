"""PyTorch's files.

Pickles are read by a machine of this module's own, which knows numbers, texts,
containers and tensors, and has no way to call anything else.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _LISTED,
    _Contents,
    _named,
    _Refused,
    _Tensor,
    _unknown,
)
from linear_cnn.weight_files._plain import _npy, _npy_shape

# Bytes; that of a network with ten thousand tensors has two million.
_LARGEST_PICKLE = 2**24
_LONGEST_NAME = 1000


def _zip_contents(path: Path) -> _Contents:
    """A zip archive: of PyTorch, or of NumPy's arrays."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) == 1:
            return _zip_torch(path, archive, pickles[0])
        if not names or not all(name.endswith(".npy") for name in names):
            raise _unknown(
                f"a zip archive with {', '.join(names[:_LISTED]) or 'nothing'}"
            )
        shapes = _named(
            (name.removesuffix(".npy"), _npy_shape(archive, name)) for name in names
        )
    tensors = {
        name: _Tensor(shape, partial(_npy, path, f"{name}.npy"))
        for name, shape in shapes.items()
    }
    return _Contents("npz", None, tensors)


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
# A pickle of the number 0x1950a86a20f9469cfc6c, by which torch.save began its files
# before version 1.6.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


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


def _zip_torch(path: Path, archive: zipfile.ZipFile, pickle: str) -> _Contents:
    prefix = pickle.removesuffix("data.pkl")
    if (
        f"{prefix}byteorder" in archive.namelist()
        and archive.read(f"{prefix}byteorder") != b"little"
    ):
        raise _Refused(
            "this PyTorch file was written on a big-endian machine, which is not"
            " supported."
        )
    if archive.getinfo(pickle).file_size > _LARGEST_PICKLE:
        raise _Refused(f"its {pickle} is far too large for a description of tensors.")
    # A small file may hold much.
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise _Refused(
            "its zip archive is compressed, as torch.save never does; write it anew"
            " with torch.save."
        )
    content, _ = _unpickled(io.BytesIO(archive.read(pickle)))

    def data(storage: _Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{prefix}data/{storage.key}")

    # A directory that lists them all: the archive is whole.
    for view in (views := _views(content)).values():
        size = archive.getinfo(f"{prefix}data/{view.storage.key}").file_size
        if size != view.storage.size * view.storage.dtype.itemsize:
            raise ValueError(
                f"storage {view.storage.key} has {size} bytes, not {view.storage.size}"
                " numbers"
            )
    return _Contents("PyTorch", "OIHW", _torch_tensors(views, data))


def _legacy_torch(path: Path) -> _Contents:
    """Pickles of a magic number, a version, the machine, the content and the keys of
    its storages; then their data."""
    stream = io.BytesIO(path.read_bytes())
    (_, _), (_, _), (machine, _), (content, storages), (keys, _) = (
        _unpickled(stream) for _ in range(5)
    )
    if not machine["little_endian"]:
        raise _Refused(
            "this PyTorch file was written on a big-endian machine, which is not"
            " supported."
        )
    buffer, place, places = stream.getbuffer(), stream.tell(), {}
    for key in keys:
        if type(key) is not str:
            raise ValueError("the key of a storage is no text")
        storage = storages[key]
        [count] = struct.unpack_from("<q", buffer, place)
        place += 8
        places[key] = place
        place += count * storage.dtype.itemsize
        if count != storage.size or place > len(buffer):
            raise ValueError(f"the data of storage {key} is not whole")

    def data(storage: _Storage) -> bytes:
        start = places[storage.key]
        return bytes(buffer[start : start + storage.size * storage.dtype.itemsize])

    views = _views(content)
    if any(view.storage.key not in places for view in views.values()):
        raise ValueError("the data of a storage is missing")
    return _Contents("PyTorch before 1.6", "OIHW", _torch_tensors(views, data))


def _torch_tensors(
    views: Mapping[str, _View], data: Callable[[_Storage], bytes]
) -> dict[str, _Tensor]:
    def read(view: _View) -> np.ndarray:
        storage, size = view.storage, view.storage.dtype.itemsize
        last = view.offset + sum(
            (n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)
        )
        if min(view.offset, *view.strides) < 0 or last >= storage.size:
            raise ValueError("a tensor lies outside of its storage")
        values = np.frombuffer(data(storage), storage.dtype, storage.size)[
            view.offset :
        ]
        return np.lib.stride_tricks.as_strided(
            values, view.shape, [size * stride for stride in view.strides]
        )

    return {
        name: _Tensor(view.shape, partial(read, view)) for name, view in views.items()
    }


def _views(content: Any) -> dict[str, _View]:
    """All tensors in nested containers, by their path; each container is entered once,
    however often it is held."""
    found: list[tuple[str, _View]] = []
    entered: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if len(name) > _LONGEST_NAME:
            raise _Refused(
                f"it has tensors whose names are longer than {_LONGEST_NAME}"
                " characters."
            )
        if isinstance(value, _View):
            found.append((name, value))
        elif isinstance(value, (dict, list, tuple)) and id(value) not in entered:
            entered.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            parts = [
                (f"{name}.{key}" if name else str(key), part) for key, part in items
            ]
            waiting += reversed(parts)
    return _named(found)


def _unpickled(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """What the next pickle of a stream describes, made of plain containers, `_View` and
    `_Global`; and its storages.

    `pickletools` tells the instructions apart without following them. This follows
    those that build data. One that calls something is obeyed for the names in
    `_CALLABLE` alone, by what stands here in their place.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    storages: dict[str, _Storage] = {}

    def marked() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for instruction, argument, _ in pickletools.genops(stream):
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
                    raise ValueError(f"storage {storage.key} is described twice")
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
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
        container[key] = value


def _allowed(name: str) -> _Global:
    if name not in _CALLABLE and name not in _STORAGES:
        raise _Refused(
            f"its pickle refers to {name.replace(' ', '.')}, which is no part of"
            " tensors in plain containers; it may carry code, and nothing of it was"
            " run. Save the weights alone, as a state dictionary."
        )
    return _Global(name)


def _storage(identifier: Any) -> _Storage:
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
        raise ValueError(f"a pickle refers to {kind!r} in an unknown way")
    return _Storage(key, _STORAGES[storage_type.name], count)


def _called(function: Any, arguments: Any) -> Any:
    """What the names in `_CALLABLE` stand for."""
    if type(function) is not _Global or type(arguments) is not tuple:
        raise ValueError("a pickle calls what is no function")
    match function.name:
        case "collections OrderedDict":
            filled: dict[Any, Any] = {}
            for pairs in arguments:
                _fill(filled, pairs)
            return filled
        case "torch Size" | "torch._utils _rebuild_parameter":
            return arguments[0]
        case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
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
