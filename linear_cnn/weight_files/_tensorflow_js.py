"""TensorFlow.js: model.json beside its shards."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linear_cnn._npz import what_it_is
from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._beside import _beside
from linear_cnn.weight_files._contents import (
    _Contents,
    _named,
    _Refused,
    _Tensor,
)
from linear_cnn.weight_files._graph import _checked_count, _Node
from linear_cnn.weight_files._graphdef import _tensor_names, _with_uses

_TFJS_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}


def _tfjs(path: Path, model: Any) -> _Contents:
    """model.json of a layers or a graph model: groups of weights, one after the other
    in the group's shards."""
    tensors: list[tuple[str, _Tensor]] = []
    for group in model["weightsManifest"]:
        if len(set(group["paths"])) < len(group["paths"]):
            raise _Refused("it lists a shard twice; get the files anew.")
        shards = [_beside(path, name, "shard") for name in group["paths"]]
        place = 0
        for weight in group["weights"]:
            name, shape = str(weight["name"]), tuple(map(int, weight["shape"]))
            stored = (weight.get("quantization") or {}).get("dtype", weight["dtype"])
            if stored not in _TFJS_DTYPES:
                raise _Refused(
                    f"the TensorFlow.js weight {quoted(name)} has the type"
                    f" {shown(stored)}, which is not read."
                )
            if min(shape, default=0) < 0:
                raise ValueError(f"{quoted(name)} has the shape {shape}")
            read = partial(_tfjs_numbers, weight, shards, place)
            tensors.append((name, _Tensor(shape, read)))
            place += _TFJS_DTYPES[stored].itemsize * math.prod(shape)
        size = sum(shard.stat().st_size for shard in shards)
        if size != place:
            for shard in shards:
                if what := what_it_is(shard):
                    raise _Refused(f"of its shard {shown(shard.name)}: {what}.")
            names = shown(", ".join(group["paths"]))
            raise ValueError(f"{names} have {size} bytes instead of {place}")
    contents = _Contents("TensorFlow.js", "HWIO", _named(tensors))
    topology = model.get("modelTopology")
    described = topology.get("node") if isinstance(topology, dict) else None
    if not described:
        return contents
    _checked_count(described)
    nodes = [
        _Node(
            node["op"], _tensor_names(list(node.get("input", ()))), (str(node["name"]),)
        )
        for node in described
        if node["op"] != "Const"
    ]
    return _with_uses(contents, nodes)


def _tfjs_numbers(weight: Any, shards: Sequence[Path], place: int) -> np.ndarray:
    quantization = weight.get("quantization") or {}
    dtype = _TFJS_DTYPES[quantization.get("dtype", weight["dtype"])]
    count = math.prod(map(int, weight["shape"]))
    values: np.ndarray = np.frombuffer(
        _part(shards, place, count * dtype.itemsize), dtype, count
    )
    if "scale" in quantization and "min" in quantization:
        values = values * np.float64(quantization["scale"]) + np.float64(
            quantization["min"]
        )
    return values.reshape(weight["shape"])


def _part(shards: Sequence[Path], place: int, size: int) -> bytes:
    """Bytes from a place on in files that continue each other."""
    parts = []
    for shard in shards:
        with shard.open("rb") as file:
            length = shard.stat().st_size
            if place < length and size:
                file.seek(place)
                parts.append(file.read(min(size, length - place)))
                size -= len(parts[-1])
            place = max(place - length, 0)
    return b"".join(parts)
