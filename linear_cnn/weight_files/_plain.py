"""Formats that hold arrays and nothing else: safetensors, .npz and .npy."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import safe_open

from linear_cnn._npz import (
    Header,
    array_header,
    array_name,
    open_archive,
    read_array,
    read_header,
)
from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import (
    _LARGEST_JSON,
    Layout,
    _Contents,
    _json,
    _named,
    _Refused,
    _Tensor,
)

# The layout of the framework that a file of safetensors names.
_WRITERS: dict[str, Layout] = {
    "pt": "OIHW",
    "mlx": "OHWI",
    "tf": "HWIO",
    "flax": "HWIO",
}


def _safetensors(path: Path) -> _Contents:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LARGEST_JSON:
            raise _Refused("its header is far larger than that of any network.")
        # Of a key that is given twice safetensors itself takes one.
        header = _json(file.read(size), "header")

    def read(name: str) -> np.ndarray:
        with safe_open(path, framework="numpy") as stored:
            dtype = stored.get_slice(name).get_dtype()
            if dtype.startswith("F8"):
                raise _Refused(
                    f"the weights of {quoted(name)} are {dtype}, which is not read;"
                    " save them as float32."
                )
            if dtype != "BF16":
                return np.asarray(stored.get_tensor(name))
        # NumPy has no bfloat16 of its own.
        with safe_open(path, framework="flax") as stored:
            return np.asarray(stored.get_tensor(name))

    with safe_open(path, framework="numpy") as stored:
        names = stored.keys()
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
    tensors = {
        name: _Tensor(shape, partial(read, name)) for name, shape in shapes.items()
    }
    writer = str((header.get("__metadata__") or {}).get("format"))
    # The file's order is that of the names, or of where the numbers lie.
    return _Contents(
        "safetensors", None, tensors, likely=_WRITERS.get(writer), in_order=False
    )


def _npz(path: Path, archive: zipfile.ZipFile) -> _Contents:
    shapes = _named(
        (array_name(member), read_header(archive, member).shape)
        for member in archive.infolist()
    )
    tensors = {
        name: _Tensor(shape, partial(_npz_array, path, name))
        for name, shape in shapes.items()
    }
    return _Contents("npz", None, tensors)


def _npz_array(path: Path, name: str) -> np.ndarray:
    with open_archive(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        _check_numbers(name, read_header(archive, member))
        return read_array(archive, member)


def _check_numbers(name: str, header: Header) -> None:
    if header.dtype.kind not in "fiub":
        raise _Refused(
            f"{quoted(name)} holds {shown(header.dtype)}, which are no weights; save"
            " them as floats."
        )


def _npy(path: Path) -> _Contents:
    """A single array, which has the name of its file."""
    name = path.stem
    with path.open("rb") as file:
        header, start = array_header(file, path.name)
    held = path.stat().st_size - start
    if not header.dtype.hasobject and header.size != held:
        raise ValueError(f"it has {held} bytes of numbers instead of {header.size}")

    def read() -> np.ndarray:
        _check_numbers(name, header)
        with path.open("rb") as file:
            file.seek(start)
            values = np.frombuffer(file.read(header.size), header.dtype)
        order: Literal["F", "C"] = "F" if header.fortran_order else "C"
        return values.reshape(header.shape, order=order)

    return _Contents("npy", None, {name: _Tensor(header.shape, read)})
