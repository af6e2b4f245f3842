"""TensorFlow's GraphDef, its variables frozen to constants."""

from functools import partial
from typing import Any

import numpy as np

from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _Contents,
    _named,
    _refusing,
    _Tensor,
)
from linear_cnn.weight_files._graph import _checked_count, _computed_by, _Node, _uses
from linear_cnn.weight_files._numbers import _Stored, _weights
from linear_cnn.weight_files._wire import (
    _Bytes,
    _integer,
    _messages,
    _Reader,
    _text,
    _Value,
)

_DTYPES: dict[int, np.dtype[Any]] = {
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
_CONVOLUTIONS = ("Conv2D", "_FusedConv2D", "QuantizedConv2D")
_PASSING = ("Identity", "Cast", "StopGradient", "Snapshot", "Enter")


def _graphdef(reader: _Reader, content: _Bytes) -> _Contents | None:
    """None where no node has a name and an operation."""
    nodes: list[_Node] = []
    constants: list[tuple[str, _Bytes]] = []
    for number, message in reader.fields(content):
        if number != 1 or isinstance(message, int):
            continue
        # Name, operation, inputs, attributes.
        fields = reader.collect(message, (1, 2, 3, 5))
        name, operation = _text(fields[1]), _text(fields[2])
        if not name or not operation:
            continue
        if operation == "Const":
            constants += [
                (name, tensor) for tensor in _constants(reader, _messages(fields[5]))
            ]
        else:
            inputs = [_text([value]) for value in fields[3]]
            nodes.append(_Node(operation, _tensor_names(inputs), (name,)))
        _checked_count(nodes)
        _checked_count(constants)
    if not nodes and not constants:
        return None
    found = _named(constants)
    tensors = {name: _tensor(reader, message) for name, message in found.items()}
    return _with_uses(_Contents("TensorFlow GraphDef", "HWIO", tensors), nodes)


def _tensor_names(inputs: list[str]) -> tuple[str, ...]:
    """Of a node's inputs, without the number of the output they come from and without
    those that only say what runs before."""
    return tuple(name.removesuffix(":0") for name in inputs if not name.startswith("^"))


def _with_uses(contents: _Contents, nodes: list[_Node]) -> _Contents:
    """The contents, with what a graph of TensorFlow does with them."""
    uses = _uses(nodes, contents.tensors.keys(), _PASSING, _CONVOLUTIONS)
    kernels = {
        name
        for name, takers in uses.plain.items()
        if any(node.operation in _CONVOLUTIONS and place == 1 for node, place in takers)
    }
    tensors = dict(contents.tensors)
    for name, operation in uses.computed.items():
        if name not in kernels:
            reason = _computed_by(name, operation, "Conv2D")
            tensors[name] = _refusing(tensors[name].shape, reason)
    return contents._replace(
        tensors=tensors,
        others=frozenset(uses.plain.keys() - kernels - uses.computed.keys()),
        kernels=frozenset(kernels),
    )


def _constants(reader: _Reader, attributes: list[_Bytes]) -> list[_Bytes]:
    """The tensor of a constant, among its attributes."""
    found: list[_Value] = []
    for attribute in attributes:
        fields = reader.collect(attribute, (1, 2))
        if _text(fields[1]) == "value":
            for value in _messages(fields[2]):
                found += reader.collect(value, (8,))[8]
    return _messages(found)[-1:]


def _tensor(reader: _Reader, message: _Bytes) -> _Tensor:
    # Type, shape, bytes, floats, doubles, halves.
    fields = reader.collect(message, (1, 2, 4, 5, 6, 13))
    axes = [
        _integer(reader.collect(axis, (1,))[1])
        for shape in _messages(fields[2])
        for axis in _messages(reader.collect(shape, (2,))[2])
    ]
    stored = _Stored(
        tuple(axes),
        _integer(fields[1]),
        _DTYPES,
        raw=fields[4],
        floats=fields[5],
        doubles=fields[6],
        integers=fields[13],
        repeats=True,
    )
    return _Tensor(stored.shape, partial(_weights, stored))
