"""ONNX and GraphDef.

They are protobuf messages, of which `_MESSAGES` has the few fields that matter.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _Contents,
    _named,
    _Refused,
    _Tensor,
    _unknown,
)

# The fields that are needed, by message: number and type; [] for repeated ones. Readers
# skip fields that are not here.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "OnnxModel": {"graph": (7, "OnnxGraph")},
    "OnnxGraph": {"nodes": (1, "[OnnxNode]"), "initializers": (5, "[OnnxTensor]")},
    "OnnxNode": {
        "outputs": (2, "[bytes]"),
        "operation": (4, "bytes"),
        "attributes": (5, "[OnnxAttribute]"),
    },
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
    "GraphNode": {
        "name": (1, "bytes"),
        "operation": (2, "bytes"),
        "attributes": (5, "[GraphAttribute]"),
    },
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
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: _BFLOAT16,
}
_GRAPH_DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    11: np.dtype("i1"),
    12: np.dtype("u1"),
    13: np.dtype("<i4"),
    14: _BFLOAT16,
    19: np.dtype("<f2"),
}


def _message_classes() -> dict[str, type[Any]]:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="linear_cnn_weight_files.proto", package="linear_cnn"
    )
    for title, fields in _MESSAGES.items():
        described = file.message_type.add(name=title)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = (
                field_type.LABEL_REPEATED
                if kind[0] == "["
                else field_type.LABEL_OPTIONAL
            )
            if (plain := kind.strip("[]")) in _MESSAGES:
                field.type, field.type_name = (
                    field_type.TYPE_MESSAGE,
                    f".linear_cnn.{plain}",
                )
            else:
                field.type = getattr(field_type, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"linear_cnn.{name}")
        )
        for name in _MESSAGES
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
        tensors[name] = _Tensor(
            shape, partial(_numbers, tensor, shape, numbers, _GRAPH_DTYPES)
        )
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
        tensors[name] = _Tensor(
            shape, partial(_numbers, tensor, shape, numbers, _ONNX_DTYPES)
        )
    return _Contents("ONNX", "OIHW", tensors)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _numbers(
    tensor: Any,
    shape: tuple[int, ...],
    numbers: Sequence[Sequence[float]],
    dtypes: Mapping[int, np.dtype[Any]],
) -> np.ndarray:
    """The entries of a tensor: as bytes, or number by number, GraphDef's last one
    repeated up to the end."""
    if getattr(tensor, "location", 0):
        raise _Refused(
            "its weights lie in another file beside it; save the model as one file."
        )
    if tensor.dtype not in dtypes:
        raise _Refused(
            f"its first layer has the data type number {tensor.dtype}, which is not"
            " read; save it as floats."
        )
    dtype, count = dtypes[tensor.dtype], math.prod(shape)
    if dtype.kind in "iub":  # refused by their type, in whichever field they are
        return np.empty(0, dtype)
    if tensor.raw:
        values = np.frombuffer(tensor.raw, dtype)
    else:
        given = next((list(values) for values in numbers if len(values)), [])
        half = dtype.itemsize == 2  # whose bits are stored as integers
        values = (
            np.array(given, np.uint16).view(dtype) if half else np.array(given, dtype)
        )
        if dtypes is _GRAPH_DTYPES and 0 < len(values) < count:
            values = np.concatenate(
                [values, np.repeat(values[-1:], count - len(values))]
            )
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers for a tensor of shape {shape}")
    return values.reshape(shape)
