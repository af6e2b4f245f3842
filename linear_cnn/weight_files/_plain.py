"""Formats that hold arrays and nothing else: safetensors and .npz."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import safe_open

from linear_cnn.weight_files._contents import _Contents, _Refused, _Tensor


def _safetensors(path: Path) -> _Contents:
    def read(name: str) -> np.ndarray:
        with safe_open(path, framework="numpy") as stored:
            dtype = stored.get_slice(name).get_dtype()
            if dtype.startswith("F8"):
                raise _Refused(
                    f"the weights of {name!r} are {dtype}, which is not read; save them"
                    " as float32."
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
    return _Contents("safetensors", None, tensors)


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return tuple(read(file)[0])


def _npy(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        values = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        if file.read(1):  # the checksum is only compared at the end of the member
            raise ValueError("it holds more numbers than its header says")
    return values
