"""Files of weights of each format, written by hand."""

import collections
import io
import json
import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

RANDOM = np.random.default_rng(3)


HWIO = RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32)


OIHW = np.ascontiguousarray(HWIO.transpose(3, 2, 0, 1))


OTHERS = {  # no first layer, in any layout
    "bias": np.zeros(5, np.float32),
    "later": RANDOM.normal(size=(8, 5, 3, 3)).astype(np.float32),
    "mean": np.ones((1, 3, 1, 1), np.float32),
    "count": np.array(7, np.int64),
}


NAME = "stem.weight"


def write_npz(path, tensors):
    with path.open("wb") as file:  # whatever its suffix
        np.savez(file, **tensors)
    return path


def write_safetensors(path, tensors):
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path
    )
    return path


STORAGE_NAMES = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "bfloat16": "BFloat16",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
    "b1": "Bool",
}


class Persistent:
    """Pickled as a reference to a storage, as torch.save does."""

    def __init__(self, *identifier):
        self.identifier = identifier


class TorchPickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identifier if isinstance(value, Persistent) else None


class Called:
    """Pickled as a call of `function`; and with attributes, as a state dictionary
    has."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def described(tensors, legacy=False, wrap=lambda state: state):
    """The content of a torch.save, and its storages by their keys."""
    torch, utils = sys.modules["torch"], sys.modules["torch._utils"]
    state, storages = collections.OrderedDict(), {}
    for key, (name, tensor) in enumerate(tensors.items()):
        kind = (
            "bfloat16" if tensor.dtype == ml_dtypes.bfloat16 else tensor.dtype.str[1:]
        )
        storage = getattr(torch, f"{STORAGE_NAMES[kind]}Storage")
        # The storage begins two numbers before the tensor, which lies transposed in it.
        flat = np.concatenate([np.zeros(2, tensor.dtype), tensor.T.ravel()])
        strides = tuple(np.cumprod([1, *tensor.shape])[:-1].tolist())
        identifier = (
            "storage",
            storage,
            str(key),
            "cuda:0",
            flat.size,
            *([None] if legacy else []),
        )
        arguments = (
            Persistent(*identifier),
            2,
            tensor.shape,
            strides,
            False,
            collections.OrderedDict(),
        )
        state[name] = Called(utils._rebuild_tensor_v2, *arguments)
        storages[str(key)] = flat
    first = next(iter(state))
    state[first] = Called(
        utils._rebuild_parameter, state[first], True, collections.OrderedDict()
    )
    state._metadata = {"version": 1}
    return wrap(state), storages


def pickled(value, protocol=2):
    stream = io.BytesIO()
    TorchPickler(stream, protocol).dump(value)
    return stream.getvalue()


def write_torch(path, tensors, protocol=2, **options):
    content, storages = described(tensors, **options)
    return write_torch_zip(path, pickled(content, protocol), storages)


def write_torch_zip(path, content, storages=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/byteorder", b"little")
        for key, numbers in (storages or {}).items():
            archive.writestr(f"net/data/{key}", numbers.tobytes())
    return path


def write_legacy(path, tensors, protocol=2, **options):
    content, storages = described(tensors, legacy=True, **options)
    return write_legacy_stream(path, pickled(content, protocol), storages, protocol)


def write_legacy_stream(path, content, storages, protocol=2, little_endian=True):
    machine = {
        "protocol_version": 1001,
        "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4},
    }
    head = [
        pickled(value, protocol) for value in (0x1950A86A20F9469CFC6C, 1001, machine)
    ]
    data = [
        struct.pack("<q", numbers.size) + numbers.tobytes()
        for numbers in storages.values()
    ]
    path.write_bytes(
        b"".join([*head, content, pickled(list(storages), protocol), *data])
    )
    return path


def varint(number):
    number &= 2**64 - 1
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number, value):
    """One field of a protobuf message: an integer, or bytes (texts, messages, packed
    numbers)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


ONNX_TYPES = {"f4": 1, "u1": 2, "i1": 3, "i4": 6, "i8": 7, "f2": 10, "f8": 11}


def onnx_tensor(name, tensor, packed=False):
    axes = b"".join(field(1, axis) for axis in tensor.shape)
    content = field(4, tensor.tobytes()) if packed else field(9, tensor.tobytes())
    return (
        axes
        + field(2, ONNX_TYPES[tensor.dtype.str[1:]])
        + field(8, name.encode())
        + content
    )


def onnx_node(operation, inputs, output, *attributes):
    names = b"".join(field(1, name.encode()) for name in inputs)
    rest = b"".join(field(5, attribute) for attribute in attributes)
    return field(
        1, names + field(2, output.encode()) + field(4, operation.encode()) + rest
    )


def onnx_attribute(name, number):
    return field(1, name.encode()) + field(3, number) + field(20, 2)


def onnx_model(graph):
    opset = field(1, b"") + field(2, 13)
    return field(1, 8) + field(2, b"by hand") + field(7, graph) + field(8, opset)


def write_onnx(path, tensors, packed=False, constants=False):
    """Each tensor of 4 axes is taken by a Conv."""
    graph = field(2, b"graph")
    for name, tensor in tensors.items():
        if constants:
            attribute = (
                field(1, b"value")
                + field(5, onnx_tensor("", tensor, packed))
                + field(20, 4)
            )
            graph += onnx_node("Constant", [], name, attribute)
        else:
            graph += field(
                5, onnx_tensor(name, tensor, packed and tensor.dtype == np.float32)
            )
        if tensor.ndim == 4:
            graph += onnx_node("Conv", ["input", name], f"{name} applied")
    path.write_bytes(onnx_model(graph))
    return path


GRAPH_TYPES = {"f4": 1, "f8": 2, "i4": 3, "u1": 4, "i8": 9, "f2": 19}


def graph_tensor(tensor, numbers=None):
    shape = b"".join(field(2, field(1, axis)) for axis in tensor.shape)
    content = field(4, tensor.tobytes()) if numbers is None else field(5, numbers)
    return field(1, GRAPH_TYPES[tensor.dtype.str[1:]]) + field(2, shape) + content


def write_graph(path, tensors, numbers=None):
    nodes = field(1, field(1, b"input") + field(2, b"Placeholder"))
    for name, tensor in tensors.items():
        value = field(1, b"value") + field(2, field(8, graph_tensor(tensor, numbers)))
        dtype = field(1, b"dtype") + field(2, field(6, 1))
        nodes += field(
            1,
            field(1, name.encode())
            + field(2, b"Const")
            + field(5, dtype)
            + field(5, value),
        )
    nodes += field(
        1,
        field(1, b"conv")
        + field(2, b"Conv2D")
        + field(3, b"input")
        + field(3, NAME.encode()),
    )
    path.write_bytes(nodes + field(4, field(1, 21)))
    return path


def write_tfjs(path, tensors, quantized=None, cuts=(100, 300)):
    """model.json beside three shards; `quantized` is None or the dtype of the stored
    integers."""
    path.mkdir()
    weights, content = [], b""
    for name, tensor in tensors.items():
        weight = {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": {"f": "float32", "i": "int32"}[tensor.dtype.kind],
        }
        if quantized and tensor.dtype.kind == "f":
            low, scale = (
                float(tensor.min()),
                float(np.ptp(tensor)) / np.iinfo(quantized).max or 1.0,
            )
            weight["quantization"] = {
                "dtype": np.dtype(quantized).name,
                "min": low,
                "scale": scale,
            }
            content += (
                np.round((tensor.astype(float) - low) / scale)
                .astype(quantized)
                .tobytes()
            )
        else:
            content += tensor.astype(
                "<f4" if tensor.dtype.kind == "f" else "<i4"
            ).tobytes()
        weights.append(weight)
    shards = [content[slice(*ends)] for ends in [(0, cuts[0]), cuts, (cuts[1], None)]]
    names = [f"group1-shard{n}of3.bin" for n in (1, 2, 3)]
    for name, shard in zip(names, shards, strict=True):
        (path / name).write_bytes(shard)
    model = {
        "format": "layers-model",
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    (path / "model.json").write_text(json.dumps(model))
    return path / "model.json"


# by format: how it is written, its name, its layout
FORMATS = {
    "npz": (write_npz, "npz", "OIHW"),
    "npz, HWIO": (write_npz, "npz", "HWIO"),
    "safetensors": (write_safetensors, "safetensors", "OIHW"),
    "safetensors, HWIO": (write_safetensors, "safetensors", "HWIO"),
    "torch": (write_torch, "PyTorch", "OIHW"),
    "torch, protocol 4": (
        lambda *args: write_torch(*args, protocol=4),
        "PyTorch",
        "OIHW",
    ),
    "legacy torch": (write_legacy, "PyTorch before 1.6", "OIHW"),
    "onnx": (write_onnx, "ONNX", "OIHW"),
    "onnx, packed floats": (
        lambda *args: write_onnx(*args, packed=True),
        "ONNX",
        "OIHW",
    ),
    "onnx, constant nodes": (
        lambda *args: write_onnx(*args, constants=True),
        "ONNX",
        "OIHW",
    ),
    "graphdef": (write_graph, "TensorFlow GraphDef", "HWIO"),
    "tfjs": (write_tfjs, "TensorFlow.js", "HWIO"),
}


every_format = pytest.mark.parametrize("kind", FORMATS)


def written(kind, path, tensors=None, others=OTHERS):
    """A file with the kernel, or other tensors, in the layout of its format; `tensors`
    are given as OIHW."""
    write, _, layout = FORMATS[kind]
    tensors = {NAME: OIHW} if tensors is None else tensors
    tensors = {**tensors, **others}  # a generator's last layer comes last
    if layout == "HWIO":
        tensors = {
            name: t.transpose(2, 3, 1, 0) if t.ndim == 4 else t
            for name, t in tensors.items()
        }
    return write(
        path, {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    )
