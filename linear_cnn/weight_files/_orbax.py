"""Orbax's folders: a description in JSON, and arrays in a store of zarr."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import (
    _LARGEST,
    _LARGEST_JSON,
    _Contents,
    _json,
    _named,
    _Refused,
    _Tensor,
)

_DESCRIPTION = "_METADATA"
_MOST_ARRAYS = 2**15


def _orbax_folder(path: Path) -> Path | None:
    """Where a checkpoint lies in a folder: there, in its latest step, or in an item of
    that, such as `default`; None if there is none."""
    if (path / _DESCRIPTION).is_file():
        return path
    children = [child for child in path.iterdir() if child.is_dir()]
    steps = [child for child in children if child.name.isdecimal()]
    if steps:
        latest = max(steps, key=lambda step: int(step.name))
        if (latest / _DESCRIPTION).is_file():
            return latest
        children = [child for child in latest.iterdir() if child.is_dir()]
    items = [child for child in children if (child / _DESCRIPTION).is_file()]
    if len(items) > 1:
        names = ", ".join(sorted(str(item.relative_to(path)) for item in items))
        raise _Refused(
            "it holds several Orbax checkpoints; give the folder of one:"
            f" {shown(names)}."
        )
    return items[0] if items else None


def _orbax(folder: Path) -> _Contents:
    with (folder / _DESCRIPTION).open("rb") as file:
        described = _json(file.read(_LARGEST_JSON + 1), _DESCRIPTION)
    ocdbt = bool(described.get("use_ocdbt", (folder / "manifest.ocdbt").exists()))
    driver = "zarr3" if described.get("use_zarr3") else "zarr"
    tensors = _named(_arrays(folder, described["tree_metadata"], driver, ocdbt))
    return _Contents("Orbax", "HWIO", tensors, in_order=False, is_file=False)


def _arrays(
    folder: Path, tree: dict[str, Any], driver: str, ocdbt: bool
) -> Iterator[tuple[str, _Tensor]]:
    if len(tree) > _MOST_ARRAYS:
        raise _Refused(f"it describes more than {_MOST_ARRAYS} arrays.")
    for entry in tree.values():
        keys = [str(part["key"]) for part in entry["key_metadata"]]
        value = entry["value_metadata"]
        if value.get("skip_deserialize") or value.get("value_type") == "string":
            continue
        path = ".".join(keys)
        if ".." in path.split("/") or path.startswith("/"):
            raise _Refused(f"its array {quoted(path)} lies outside of the folder.")
        shape = value.get("write_shape")
        if shape is None:  # of NumPy's arrays only the store says it
            shape = _open(folder, path, driver, ocdbt).shape
        shape = tuple(map(int, shape))
        read = partial(_numbers, folder, path, driver, ocdbt, shape)
        # Flax's variables hold their array as `value`.
        named = keys[:-1] if keys[1:] and keys[-1] == "value" else keys
        yield ".".join(named), _Tensor(shape, read)


def _numbers(
    folder: Path, path: str, driver: str, ocdbt: bool, shape: tuple[int, ...]
) -> np.ndarray:
    store = _open(folder, path, driver, ocdbt)
    if tuple(store.shape) != shape:
        raise ValueError(f"{quoted(path)} has the shape {shown(store.shape)}")
    chunk = store.chunk_layout.read_chunk.shape or store.shape
    if max(math.prod(store.shape), math.prod(chunk)) > _LARGEST:
        raise _Refused(f"{quoted(path)} is larger than any first layer.")
    return np.asarray(store.read().result())


def _open(folder: Path, path: str, driver: str, ocdbt: bool) -> Any:
    import tensorstore  # takes long to import

    base = {"driver": "file", "path": f"{folder.resolve().as_posix()}/"}
    store = (
        {"driver": "ocdbt", "base": base, "path": f"{path}/"}
        if ocdbt
        else {**base, "path": f"{base['path']}{path}/"}
    )
    return tensorstore.open({"driver": driver, "kvstore": store}, read=True).result()
