"""TensorFlow.js: model.json beside its shards."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from linear_cnn.weight_files._contents import (
    _LISTED,
    _Contents,
    _named,
    _Refused,
    _Tensor,
    _unknown,
)

_TFJS_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}


def _tfjs(path: Path) -> _Contents:
    """model.json of a layers or a graph model: groups of weights, one after the other
    in the group's shards."""
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
                raise _Refused(
                    f"the TensorFlow.js weight {name!r} has the type {stored}, which is"
                    " not read."
                )
            if min(shape, default=0) < 0:
                raise ValueError(f"{name!r} has the shape {shape}")
            read = partial(_tfjs_numbers, weight, shards, place)
            tensors.append((name, _Tensor(shape, read)))
            place += _TFJS_DTYPES[stored].itemsize * math.prod(shape)
        size = sum(shard.stat().st_size for shard in shards)
        if size != place:
            raise ValueError(
                f"{', '.join(group['paths'])} have {size} bytes instead of {place}"
            )
    return _Contents("TensorFlow.js", "HWIO", _named(tensors))


def _shard(path: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise _Refused(
            f"its shard {name!r} lies outside of the model's folder; put all shards"
            " beside model.json."
        )
    shard = path.parent / name
    if not shard.is_file():
        raise _Refused(
            f"its shard {name} is not beside it; put all shards beside model.json."
        )
    return shard


def _tfjs_numbers(weight: Any, shards: Sequence[Path], place: int) -> np.ndarray:
    quantization = weight.get("quantization") or {}
    dtype = _TFJS_DTYPES[quantization.get("dtype", weight["dtype"])]
    content = b"".join(shard.read_bytes() for shard in shards)
    values: np.ndarray = np.frombuffer(
        content, dtype, math.prod(map(int, weight["shape"])), place
    )
    if "scale" in quantization and "min" in quantization:
        values = values * np.float64(quantization["scale"]) + np.float64(
            quantization["min"]
        )
    return values.reshape(weight["shape"])
