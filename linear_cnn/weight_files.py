"""The first layer of a trained network, from a file of its weights. Nothing that a file holds is ever run.

Formats are recognised by content: safetensors, NumPy's .npz, PyTorch (zip archives, and the stream of pickles that
torch.save wrote before version 1.6), ONNX, TensorFlow's frozen GraphDef, and model.json of TensorFlow.js.

Pickles are read by a machine of this module's own, which knows numbers, texts, containers and tensors, and has no way
to call anything else. ONNX and GraphDef are protobuf messages, of which `_MESSAGES` has the few fields that matter.
"""

import io
import json
import math
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from safetensors import SafetensorError, safe_open

from linear_cnn.datasets import NPZ_DAMAGE

Layout = Literal["OIHW", "HWIO"]

_TO_HWIO: dict[Layout, tuple[int, ...]] = {"OIHW": (2, 3, 1, 0), "HWIO": (0, 1, 2, 3)}
_COLOURS = 3
_LARGEST = 2**24  # weights of a kernel; no first layer comes near, and a damaged shape shall not fill the memory
_LARGEST_PICKLE = 2**24  # bytes; that of a network with ten thousand tensors has two million
_LONGEST_NAME = 1000
_LISTED = 8  # tensors that an error names
_BFLOAT16 = np.dtype(jnp.bfloat16)
# What the readers below raise on damaged or foreign content.
_DAMAGE = (*NPZ_DAMAGE, LookupError, AttributeError, ArithmeticError, message.DecodeError, SafetensorError)


class FirstLayer(NamedTuple):
    """The first convolution of a trained network.

    Attributes:
      kernel: float32, (kh, kw, C, K): Flax's order, C = 3 input channels in the order red, green, blue.
      name: of the tensor in its file.
      format: of the file.
    """

    kernel: np.ndarray
    name: str
    format: str


class _Refused(ValueError):
    """A fault that is explained in full, beside the file's name."""


class _Tensor(NamedTuple):
    """A tensor that is read when called for, as floats or, without a scale, integers."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class _Contents(NamedTuple):
    """The tensors of a file by their names, and the layout of its kernels where the format says so."""

    format: str
    layout: Layout | None
    tensors: dict[str, _Tensor]


def load_first_layer(
    path: str | Path,
    name: str | None = None,
    *,
    layout: Layout | None = None,
    channel_order: Literal["RGB", "BGR"] = "RGB",
) -> FirstLayer:
    """The first layer's filters from a file of weights, of whatever format, without the framework that wrote it.

    Formats: safetensors, .npz, PyTorch (state dictionaries, also nested in others, the names then joined by dots),
    ONNX, TensorFlow GraphDef with its variables frozen, TensorFlow.js (model.json beside its shards; weights of 8 or
    16 bits with scale and minimum are converted back). Unless it is named, the first layer is the one kernel of
    3 input channels and more than 1x1 pixels.

    Args:
      path: the file; its content says which format it is.
      name: of the tensor, where there are several candidates or none is recognised.
      layout: order of the kernel's axes, (filters, channels, height, width) or (height, width, channels, filters). By
        default that of the framework; safetensors and .npz have none, and there it is recognised by square kernels, of
        all layers alike.
      channel_order: of the network's input. No file says so, and "RGB" is the rule; networks that came from Caffe or
        OpenCV take "BGR", and their kernel's channels are reversed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is truncated, damaged, of an unknown format, or a pickle with anything but tensors in
        plain containers; several candidates, or none, as for grey or 4-channel input; an ambiguous layout; integer
        weights without a scale; weights that are not finite. A protobuf file that was cut between two of its messages
        is a smaller file without fault, and is read.
    """
    path = Path(path).expanduser()
    if layout not in (None, *_TO_HWIO):
        raise ValueError(f"layout must be 'OIHW', 'HWIO' or None, got {layout!r}.")
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a file of weights.")
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a file of weights (of TensorFlow.js: model.json).")
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong with the content is for the errors below to say
            contents = _contents(path)
            chosen, found = _chosen(contents, name, layout)
            kernel = _kernel(contents.tensors[chosen], chosen, found)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except PermissionError:  # not a fault of the content, and it names the file
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is truncated or damaged ({reason}); get the file anew.") from error
    return FirstLayer(kernel[:, :, ::-1].copy() if channel_order == "BGR" else kernel, chosen, contents.format)


# --- which tensor ---


def _chosen(contents: _Contents, name: str | None, layout: Layout | None) -> tuple[str, Layout]:
    """Name and layout of the first layer."""
    kernels = {key: tensor.shape for key, tensor in contents.tensors.items() if len(tensor.shape) == 4}
    known = layout or contents.layout
    shared = known or _shared_layout(list(kernels.values()))
    if name is None:
        layouts = {key: _layouts(shape, known) for key, shape in kernels.items() if math.prod(shape) <= _LARGEST}
        layouts = {
            key: [fit for fit in fits if shared in (None, fit) and not _is_pixel(kernels[key], fit)]
            for key, fits in layouts.items()
        }
        candidates = [key for key, fits in layouts.items() if fits]
    elif name in contents.tensors:
        shape = contents.tensors[name].shape
        layouts, candidates = {name: _layouts(shape, known)}, [name]
        if len(layouts[name]) > 1 and shared:
            layouts[name] = [shared]
        if not layouts[name] or math.prod(shape) > _LARGEST:
            hint = "" if known else " Without layout=, kernels must be square."
            raise _Refused(
                f"the {contents.format} tensor {name!r} has the shape {shape}, which is no convolution with "
                f"{_COLOURS} input channels{f' in the layout {known}' if known else ''}.{hint}"
            )
    else:
        raise _Refused(f"no tensor of this {contents.format} file is named {name!r}; it holds {_listed(kernels)}.")
    if len(candidates) > 1:
        several = _listed({key: kernels[key] for key in candidates})
        raise _Refused(f"several tensors of this {contents.format} file could be the first layer, name= decides: "
                       f"{several}.")  # fmt: skip
    if not candidates:
        hint = "" if known else "; a kernel that is not square needs layout="
        raise _Refused(
            f"no tensor of this {contents.format} file is a convolution with {_COLOURS} input channels (grey, "
            f"4-channel and 1x1 first layers are not recognised{hint}); it holds {_listed(kernels)}."
        )
    [chosen] = candidates
    if len(layouts[chosen]) > 1:
        shape = contents.tensors[chosen].shape
        raise _Refused(f"the layout of {chosen!r}, {shape}, is ambiguous; layout='OIHW' or 'HWIO' decides.")
    [found] = layouts[chosen]
    before = {key: shape for key, shape in kernels.items() if _feeds_three_channels(shape, found)}
    if name is None and before:
        raise _Refused(
            f"{_listed(before)} may come before {chosen!r}, as in a network of grey or 4-channel input; name= decides."
        )
    return chosen, found


def _square(shape: tuple[int, ...]) -> list[Layout]:
    """The layouts in which a kernel is square."""
    return [layout for layout, (height, width, *_) in _TO_HWIO.items() if shape[height] == shape[width]]


def _shared_layout(shapes: Sequence[tuple[int, ...]]) -> Layout | None:
    """The one layout in which all kernels are square, those aside that are so in none or may be single pixels.

    The kernel of a later layer, (64, 64, 3, 3), could be one of 64x64 pixels; but then others would not be square.
    """
    wide = [shape for shape in shapes if not any(_is_pixel(shape, layout) for layout in _TO_HWIO)]
    fits = [square for shape in wide if (square := _square(shape))]
    common = [layout for layout in _TO_HWIO if fits and all(layout in square for square in fits)]
    return common[0] if len(common) == 1 else None


def _feeds_three_channels(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether this can be the first layer of a network whose second one has 3 input channels."""
    height, width, channels, filters = (shape[axis] for axis in _TO_HWIO[layout])
    return (height, width) != (1, 1) and channels in (1, 2, 4) and filters == _COLOURS


def _layouts(shape: tuple[int, ...], known: Layout | None) -> list[Layout]:
    """The layouts, or the known one, in which a tensor is a kernel with 3 input channels."""
    if len(shape) != 4 or not all(shape):
        return []
    return [layout for layout in ([known] if known else _square(shape)) if shape[_TO_HWIO[layout][2]] == _COLOURS]


def _is_pixel(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a kernel sees a single pixel, as the constants by which some networks normalise their input."""
    return all(shape[axis] == 1 for axis in _TO_HWIO[layout][:2])


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if not shapes:
        return "no tensor with 4 axes"
    names = [f"{name!r} {shape}" for name, shape in list(shapes.items())[:_LISTED]]
    more = f" and {len(shapes) - _LISTED} more with 4 axes" if len(shapes) > _LISTED else ""
    return ", ".join(names) + more


def _kernel(tensor: _Tensor, name: str, layout: Layout) -> np.ndarray:
    values = tensor.read()
    if values.dtype != _BFLOAT16 and values.dtype.kind != "f":
        raise _Refused(
            f"the weights of {name!r} are {values.dtype} without a scale; only TensorFlow.js's quantised weights, "
            "with scale and minimum, can be converted back. Save them as floats."
        )
    values = values.reshape(tensor.shape).astype(np.float32).transpose(_TO_HWIO[layout])
    if not np.isfinite(values).all():
        raise _Refused(f"the weights of {name!r} hold NaN or infinite values; take a network that did not diverge.")
    return np.ascontiguousarray(values)


# --- formats ---


def _named(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary, unless two have one name, of which one would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(f"two of its tensors are named {name!r}; save them under names of their own.")
        found[name] = value
    return found


def _contents(path: Path) -> _Contents:
    with path.open("rb") as file:
        start = file.read(64)
    if start[:4] == b"PK\x03\x04":
        return _zip_contents(path)
    if start.startswith(_LEGACY_START):
        return _legacy_torch(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return _safetensors(path)
    if start.lstrip()[:1] == b"{":
        return _tfjs(path)
    if start[:1] == b"\x80":
        raise _Refused("this is a pickle, but not one of torch.save, and is not read; save the weights as .npz.")
    return _protobuf(path)


def _unknown(what: str) -> _Refused:
    return _Refused(
        f"{what} is none of the formats safetensors, .npz, PyTorch, ONNX, TensorFlow GraphDef and TensorFlow.js "
        "(model.json), or truncated; save the weights as one of these."
    )


def _safetensors(path: Path) -> _Contents:
    def read(name: str) -> np.ndarray:
        with safe_open(path, framework="numpy") as stored:
            dtype = stored.get_slice(name).get_dtype()
            if dtype.startswith("F8"):
                raise _Refused(f"the weights of {name!r} are {dtype}, which is not read; save them as float32.")
            if dtype != "BF16":
                return np.asarray(stored.get_tensor(name))
        with safe_open(path, framework="flax") as stored:  # NumPy has no bfloat16 of its own
            return np.asarray(stored.get_tensor(name))

    with safe_open(path, framework="numpy") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    tensors = {name: _Tensor(shape, partial(read, name)) for name, shape in shapes.items()}
    return _Contents("safetensors", None, tensors)


def _zip_contents(path: Path) -> _Contents:
    """A zip archive: of PyTorch, or of NumPy's arrays."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) == 1:
            return _zip_torch(path, archive, pickles[0])
        if not names or not all(name.endswith(".npy") for name in names):
            raise _unknown(f"a zip archive with {', '.join(names[:_LISTED]) or 'nothing'}")
        shapes = _named((name.removesuffix(".npy"), _npy_shape(archive, name)) for name in names)
    tensors = {name: _Tensor(shape, partial(_npy, path, f"{name}.npy")) for name, shape in shapes.items()}
    return _Contents("npz", None, tensors)


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(read(file)[0])


def _npy(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        values = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        if file.read(1):  # the checksum is only compared at the end of the member
            raise ValueError("it holds more numbers than its header says")
    return values


# --- PyTorch ---

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
# A pickle of the number 0x1950a86a20f9469cfc6c, by which torch.save began its files before version 1.6.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class _Storage(NamedTuple):
    """The numbers that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int


class _View(NamedTuple):
    """A tensor as a pickle describes it: offset, shape and strides in entries of the storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    """What a pickle names "module name"; only a name here, with nothing behind it."""

    name: str


def _zip_torch(path: Path, archive: zipfile.ZipFile, pickle: str) -> _Contents:
    prefix = pickle.removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
        raise _Refused("this PyTorch file was written on a big-endian machine, which is not supported.")
    if archive.getinfo(pickle).file_size > _LARGEST_PICKLE:
        raise _Refused(f"its {pickle} is far too large for a description of tensors.")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):  # a small file may hold much
        raise _Refused("its zip archive is compressed, as torch.save never does; write it anew with torch.save.")
    content, _ = _unpickled(io.BytesIO(archive.read(pickle)))

    def data(storage: _Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{prefix}data/{storage.key}")

    for view in (views := _views(content)).values():  # a directory that lists them all: the archive is whole
        size = archive.getinfo(f"{prefix}data/{view.storage.key}").file_size
        if size != view.storage.size * view.storage.dtype.itemsize:
            raise ValueError(f"storage {view.storage.key} has {size} bytes, not {view.storage.size} numbers")
    return _Contents("PyTorch", "OIHW", _torch_tensors(views, data))


def _legacy_torch(path: Path) -> _Contents:
    """Pickles of a magic number, a version, the machine, the content and the keys of its storages; then their data."""
    stream = io.BytesIO(path.read_bytes())
    (_, _), (_, _), (machine, _), (content, storages), (keys, _) = (_unpickled(stream) for _ in range(5))
    if not machine["little_endian"]:
        raise _Refused("this PyTorch file was written on a big-endian machine, which is not supported.")
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


def _torch_tensors(views: Mapping[str, _View], data: Callable[[_Storage], bytes]) -> dict[str, _Tensor]:
    def read(view: _View) -> np.ndarray:
        storage, size = view.storage, view.storage.dtype.itemsize
        last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
        if min(view.offset, *view.strides) < 0 or last >= storage.size:
            raise ValueError("a tensor lies outside of its storage")
        values = np.frombuffer(data(storage), storage.dtype, storage.size)[view.offset :]
        return np.lib.stride_tricks.as_strided(values, view.shape, [size * stride for stride in view.strides])

    return {name: _Tensor(view.shape, partial(read, view)) for name, view in views.items()}


def _views(content: Any) -> dict[str, _View]:
    """All tensors in nested containers, by their path; each container is entered once, however often it is held."""
    found: list[tuple[str, _View]] = []
    entered: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if len(name) > _LONGEST_NAME:
            raise _Refused(f"it has tensors whose names are longer than {_LONGEST_NAME} characters.")
        if isinstance(value, _View):
            found.append((name, value))
        elif isinstance(value, (dict, list, tuple)) and id(value) not in entered:
            entered.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            parts = [(f"{name}.{key}" if name else str(key), part) for key, part in items]
            waiting += reversed(parts)
    return _named(found)


def _unpickled(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """What the next pickle of a stream describes, made of plain containers, `_View` and `_Global`; and its storages.

    `pickletools` tells the instructions apart without following them. This follows those that build data. One that
    calls something is obeyed for the names in `_CALLABLE` alone, by what stands here in their place.
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
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES":
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
                _fill(_container(stack, dict), zip(values[::2], values[1::2], strict=True))
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
                    f"its pickle uses {other}, which tensors in plain containers do not need; it may carry code, and "
                    "nothing of it was run. Save the weights alone, as a state dictionary."
                )
    raise ValueError("a pickle without end")


def _container(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise ValueError(f"a pickle fills a {type(stack[-1]).__name__} as if it were a {kind.__name__}")
    return stack[-1]


def _fill(container: dict[Any, Any], pairs: Iterable[Any]) -> None:
    for key, value in pairs:
        if type(key) not in _KEYS:  # the hash of tuples in tuples can take for ever
            raise ValueError(f"a pickle uses a {type(key).__name__} as the key of a dictionary")
        container[key] = value


def _allowed(name: str) -> _Global:
    if name not in _CALLABLE and name not in _STORAGES:
        raise _Refused(
            f"its pickle refers to {name.replace(' ', '.')}, which is no part of tensors in plain containers; it may "
            "carry code, and nothing of it was run. Save the weights alone, as a state dictionary."
        )
    return _Global(name)


def _storage(identifier: Any) -> _Storage:
    kind, storage_type, key, _, count, *view = identifier
    if type(kind) is not str:
        raise ValueError(f"a pickle refers to a {type(kind).__name__} in an unknown way")
    if kind != "storage" or any(part is not None for part in view) or type(key) is not str or type(count) is not int:
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
            if type(storage) is not _Storage or any(type(n) is not int for n in integers) or min(*integers, 0) < 0:
                raise ValueError("a pickle describes a tensor that cannot be")
            return _View(storage, offset, tuple(shape), tuple(strides))
        case name:
            raise ValueError(f"a pickle calls {name}")


# --- ONNX and GraphDef ---

# The fields that are needed, by message: number and type; [] for repeated ones. Readers skip fields that are not here.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "OnnxModel": {"graph": (7, "OnnxGraph")},
    "OnnxGraph": {"nodes": (1, "[OnnxNode]"), "initializers": (5, "[OnnxTensor]")},
    "OnnxNode": {"outputs": (2, "[bytes]"), "operation": (4, "bytes"), "attributes": (5, "[OnnxAttribute]")},
    "OnnxAttribute": {"tensor": (5, "OnnxTensor")},
    "OnnxTensor": {
        "shape": (1, "[int64]"),
        "dtype": (2, "int32"),
        "floats": (4, "[float]"),
        "integers": (5, "[int32]"),
        "name": (8, "bytes"),
        "raw": (9, "bytes"),
        "doubles": (10, "[double]"),
        "location": (14, "int32"),
    },
    "Graph": {"nodes": (1, "[GraphNode]")},
    "GraphNode": {"name": (1, "bytes"), "operation": (2, "bytes"), "attributes": (5, "[GraphAttribute]")},
    "GraphAttribute": {"key": (1, "bytes"), "value": (2, "GraphValue")},
    "GraphValue": {"tensor": (8, "GraphTensor")},
    "GraphTensor": {
        "dtype": (1, "int32"),
        "shape": (2, "GraphShape"),
        "raw": (4, "bytes"),
        "floats": (5, "[float]"),
        "doubles": (6, "[double]"),
        "halves": (13, "[int32]"),
    },
    "GraphShape": {"axes": (2, "[GraphAxis]")},
    "GraphAxis": {"size": (1, "int64")},
}
_ONNX_DTYPES = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 10: np.dtype("<f2"), 11: np.dtype("<f8"), 16: _BFLOAT16,
}  # fmt: skip
_GRAPH_DTYPES = {
    1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i4"), 4: np.dtype("u1"), 5: np.dtype("<i2"),
    6: np.dtype("i1"), 9: np.dtype("<i8"), 11: np.dtype("i1"), 12: np.dtype("u1"), 13: np.dtype("<i4"), 14: _BFLOAT16,
    19: np.dtype("<f2"),
}  # fmt: skip


def _message_classes() -> dict[str, type[Any]]:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="linear_cnn_weight_files.proto", package="linear_cnn")
    for title, fields in _MESSAGES.items():
        described = file.message_type.add(name=title)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = field_type.LABEL_REPEATED if kind[0] == "[" else field_type.LABEL_OPTIONAL
            if (plain := kind.strip("[]")) in _MESSAGES:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".linear_cnn.{plain}"
            else:
                field.type = getattr(field_type, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"linear_cnn.{name}")) for name in _MESSAGES
    }


_CLASSES = _message_classes()


def _protobuf(path: Path) -> _Contents:
    content = path.read_bytes()
    try:
        model = _CLASSES["OnnxModel"].FromString(content)
        if model.HasField("graph"):
            return _onnx(model.graph)
        graph = _CLASSES["Graph"].FromString(content)
    except message.DecodeError as error:
        raise _unknown(f"a file that begins with {content[:8]!r}") from error
    if not any(node.name and node.operation for node in graph.nodes):
        raise _unknown(f"a file that begins with {content[:8]!r}")
    constants = _named(
        (_text(node.name), attribute.value.tensor)
        for node in graph.nodes
        if node.operation == b"Const"
        for attribute in node.attributes
        if attribute.key == b"value"
    )
    tensors = {}
    for name, tensor in constants.items():
        shape = tuple(axis.size for axis in tensor.shape.axes)
        numbers = [tensor.floats, tensor.doubles, tensor.halves]
        tensors[name] = _Tensor(shape, partial(_numbers, tensor, shape, numbers, _GRAPH_DTYPES))
    return _Contents("TensorFlow GraphDef", "HWIO", tensors)


def _onnx(graph: Any) -> _Contents:
    stored = [(_text(tensor.name), tensor) for tensor in graph.initializers]
    for node in graph.nodes:
        if node.operation == b"Constant" and node.outputs and node.attributes:
            stored.append((_text(node.outputs[0]), node.attributes[0].tensor))
    tensors = {}
    for name, tensor in _named(stored).items():
        numbers = [tensor.floats, tensor.doubles, tensor.integers]
        shape = tuple(tensor.shape)
        tensors[name] = _Tensor(shape, partial(_numbers, tensor, shape, numbers, _ONNX_DTYPES))
    return _Contents("ONNX", "OIHW", tensors)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _numbers(
    tensor: Any, shape: tuple[int, ...], numbers: Sequence[Sequence[float]], dtypes: Mapping[int, np.dtype[Any]]
) -> np.ndarray:
    """The entries of a tensor: as bytes, or number by number, GraphDef's last one repeated up to the end."""
    if getattr(tensor, "location", 0):
        raise _Refused("its weights lie in another file beside it; save the model as one file.")
    if tensor.dtype not in dtypes:
        raise _Refused(
            f"its first layer has the data type number {tensor.dtype}, which is not read; save it as floats."
        )
    dtype, count = dtypes[tensor.dtype], math.prod(shape)
    if dtype.kind in "iub":  # refused by their type, in whichever field they are
        return np.empty(0, dtype)
    if tensor.raw:
        values = np.frombuffer(tensor.raw, dtype)
    else:
        given = next((list(values) for values in numbers if len(values)), [])
        half = dtype.itemsize == 2  # whose bits are stored as integers
        values = np.array(given, np.uint16).view(dtype) if half else np.array(given, dtype)
        if dtypes is _GRAPH_DTYPES and 0 < len(values) < count:
            values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers for a tensor of shape {shape}")
    return values.reshape(shape)


# --- TensorFlow.js ---

_TFJS_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}


def _tfjs(path: Path) -> _Contents:
    """model.json of a layers or a graph model: groups of weights, one after the other in the group's shards."""
    model = json.loads(path.read_bytes())
    if "weightsManifest" not in model:
        raise _unknown(f"JSON with {', '.join(list(model)[:_LISTED])}")
    tensors: list[tuple[str, _Tensor]] = []
    for group in model["weightsManifest"]:
        if len(set(group["paths"])) < len(group["paths"]):
            raise _Refused("it lists a shard twice; get the files anew.")
        shards = [_shard(path, name) for name in group["paths"]]
        place = 0
        for weight in group["weights"]:
            name, shape = str(weight["name"]), tuple(map(int, weight["shape"]))
            stored = (weight.get("quantization") or {}).get("dtype", weight["dtype"])
            if stored not in _TFJS_DTYPES:
                raise _Refused(f"the TensorFlow.js weight {name!r} has the type {stored}, which is not read.")
            if min(shape, default=0) < 0:
                raise ValueError(f"{name!r} has the shape {shape}")
            read = partial(_tfjs_numbers, weight, shards, place)
            tensors.append((name, _Tensor(shape, read)))
            place += _TFJS_DTYPES[stored].itemsize * math.prod(shape)
        size = sum(shard.stat().st_size for shard in shards)
        if size != place:
            raise ValueError(f"{', '.join(group['paths'])} have {size} bytes instead of {place}")
    return _Contents("TensorFlow.js", "HWIO", _named(tensors))


def _shard(path: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise _Refused(f"its shard {name!r} lies outside of the model's folder; put all shards beside model.json.")
    shard = path.parent / name
    if not shard.is_file():
        raise _Refused(f"its shard {name} is not beside it; put all shards beside model.json.")
    return shard


def _tfjs_numbers(weight: Any, shards: Sequence[Path], place: int) -> np.ndarray:
    quantization = weight.get("quantization") or {}
    dtype = _TFJS_DTYPES[quantization.get("dtype", weight["dtype"])]
    content = b"".join(shard.read_bytes() for shard in shards)
    values: np.ndarray = np.frombuffer(content, dtype, math.prod(map(int, weight["shape"])), place)
    if "scale" in quantization and "min" in quantization:
        values = values * np.float64(quantization["scale"]) + np.float64(quantization["min"])
    return values.reshape(weight["shape"])
