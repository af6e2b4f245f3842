"""ONNX: the graph says which tensors its convolutions take, and how quantised ones
become floats."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._beside import _beside
from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _Contents,
    _named,
    _Refused,
    _refusing,
    _Tensor,
)
from linear_cnn.weight_files._graph import _checked_count, _computed_by, _Node, _uses
from linear_cnn.weight_files._numbers import _numbers, _shape, _Stored, _weights
from linear_cnn.weight_files._wire import (
    _Bytes,
    _integer,
    _messages,
    _Reader,
    _text,
)

_DTYPES: dict[int, np.dtype[Any]] = {
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
_CONVOLUTIONS = ("Conv", "FusedConv", "ConvInteger")
_PASSING = ("Identity", "Cast", "DequantizeLinear")
_AXIS_DEFAULT = 1  # of DequantizeLinear
_WITH_ATTRIBUTES = ("Constant", "DequantizeLinear", *_CONVOLUTIONS)


def _onnx(reader: _Reader, graphs: list[_Bytes], path: Path) -> _Contents:
    nodes: list[_Node] = []
    stored: list[tuple[str, _Bytes]] = []
    for graph in graphs:  # of several, all are parts of one
        for number, message in reader.fields(graph):
            if isinstance(message, int):
                continue
            if number == 5:
                [name] = reader.collect(message, (8,)).values()
                stored.append((_text(name), message))
            elif number == 1:
                node = _node(reader, message)
                if node.operation == "Constant" and "tensor" in node.more:
                    stored.append((node.outputs[0], node.more["tensor"]))
                elif node.operation:
                    nodes.append(node)
            _checked_count(nodes)
            _checked_count(stored)
    found = {
        name: _tensor(reader, message, path) for name, message in _named(stored).items()
    }
    return _with_uses(found, nodes)


def _node(reader: _Reader, message: _Bytes) -> _Node:
    # Inputs, outputs, operation, attributes.
    fields = reader.collect(message, (1, 2, 4, 5))
    operation = _text(fields[4])
    inputs = tuple(_text([value]) for value in fields[1])
    outputs = tuple(_text([value]) for value in fields[2])
    more: dict[str, Any] = {}
    if operation in _WITH_ATTRIBUTES:
        for attribute in _messages(fields[5]):
            # Name, integer, tensor.
            parts = reader.collect(attribute, (1, 3, 5))
            if parts[3]:
                more[_text(parts[1])] = _integer(parts[3])
            if parts[5] and outputs:
                more["tensor"] = _messages(parts[5])[-1]
    return _Node(operation, inputs, outputs, more)


def _tensor(reader: _Reader, message: _Bytes, path: Path) -> _Stored:
    # Shape, type, floats, integers, bytes, doubles, external data, location.
    fields = reader.collect(message, (1, 2, 4, 5, 9, 10, 13, 14))
    shape, kind = _shape(fields[1]), _integer(fields[2])
    elsewhere = None
    if _integer(fields[14]) != 0:
        pairs = [reader.collect(pair, (1, 2)) for pair in _messages(fields[13])]
        where = {_text(pair[1]): _text(pair[2]) for pair in pairs}
        elsewhere = partial(_external, path, where, shape, kind)
    return _Stored(
        shape,
        kind,
        _DTYPES,
        raw=fields[9],
        floats=fields[4],
        doubles=fields[10],
        integers=fields[5],
        elsewhere=elsewhere,
    )


def _external(
    path: Path, where: dict[str, str], shape: tuple[int, ...], kind: int
) -> bytes:
    """The numbers of a tensor that lie in another file, as bytes."""
    file = _beside(path, where.get("location", ""), "file of weights")
    size = math.prod(shape) * _DTYPES[kind].itemsize
    start, length = int(where.get("offset") or 0), int(where.get("length") or size)
    if length != size or not 0 <= start <= file.stat().st_size - size:
        raise _Refused(
            f"its file of weights {shown(file.name)} does not hold the {size} bytes of"
            f" a tensor of the shape {shown(shape)} where the model says; get both"
            " anew."
        )
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(size)


def _with_uses(stored: dict[str, _Stored], nodes: list[_Node]) -> _Contents:
    """The tensors that the convolutions take, as these take them."""
    tensors = {
        name: _Tensor(tensor.shape, partial(_weights, tensor))
        for name, tensor in stored.items()
    }
    for node in nodes:
        if node.operation == "DequantizeLinear":
            _scaled(tensors, stored, node.inputs, node.more.get("axis", _AXIS_DEFAULT))
        elif node.operation == "QLinearConv":
            _scaled(tensors, stored, node.inputs[3:6], 0)
    plain = [
        _Node("Conv", node.inputs[:1] + node.inputs[3:4], node.outputs, node.more)
        if node.operation == "QLinearConv"
        else node
        for node in nodes
    ]
    uses = _uses(plain, stored.keys(), _PASSING, _CONVOLUTIONS)
    kernels = set()
    for name, takers in uses.plain.items():
        for node, place in takers:
            if node.operation not in _CONVOLUTIONS or place != 1:
                continue
            groups, shape = node.more.get("group", 1), stored[name].shape
            if groups != 1:
                reason = (
                    f"the Conv that takes it has {groups} groups of as many channels;"
                    " first layers of several groups are not read."
                )
                tensors[name] = _refusing(shape, reason)
                continue
            kernels.add(name)
            if node.operation == "ConvInteger":
                reason = (
                    f"{quoted(name)} is quantised, and its scale is applied behind its"
                    " ConvInteger, where it is not looked for; export the network with"
                    " DequantizeLinear or QLinearConv, or as floats."
                )
                tensors[name] = _refusing(shape, reason)
    for name, operation in uses.computed.items():
        if name not in kernels:
            reason = _computed_by(name, operation, "Conv")
            tensors[name] = _refusing(stored[name].shape, reason)
    others = stored.keys() - kernels - uses.computed.keys()
    return _Contents("ONNX", "OIHW", tensors, frozenset(others), frozenset(kernels))


def _scaled(
    tensors: dict[str, _Tensor],
    stored: dict[str, _Stored],
    inputs: tuple[str, ...],
    axis: int,
) -> None:
    """Lets a quantised tensor be read as the floats it stands for."""
    name, *rest = inputs or ("",)
    if name not in stored:
        return
    shape = stored[name].shape

    def read() -> np.ndarray:
        missing = [part for part in rest if part and part not in stored]
        if missing or not rest:
            raise _Refused(
                f"{quoted(name)} is quantised with a scale that the graph computes;"
                " export the network as floats."
            )
        scale, zero = (
            _along(_numbers(stored[part]), shape, axis) if part else np.zeros(())
            for part in (*rest, "")[:2]
        )
        values = _numbers(stored[name]).astype(float)
        return ((values - zero) * scale).astype(np.float32)

    tensors[name] = _Tensor(shape, read)


def _along(numbers: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """A number for all of a tensor, or one for each index of an axis."""
    numbers = numbers.astype(float)
    if numbers.size == 1:
        return numbers.reshape(())
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape) or numbers.shape != (shape[axis],):
        raise _Refused(
            f"its first layer is quantised in blocks: {numbers.shape} scales for a"
            f" tensor of shape {shape}; export the network as floats."
        )
    return numbers.reshape([-1 if place == axis else 1 for place in range(len(shape))])
