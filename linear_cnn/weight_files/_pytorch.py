"""PyTorch's files: a pickle that describes tensors, and the numbers of these."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from linear_cnn._npz import open_archive, read_member
from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import (
    _Contents,
    _named,
    _Refused,
    _refusing,
    _Tensor,
)
from linear_cnn.weight_files._pickle import _Storage, _unpickled, _View, _views

# Bytes; that of a network with ten thousand tensors has two million.
_LARGEST_PICKLE = 2**24
# A pickle of the number 0x1950a86a20f9469cfc6c, by which torch.save began its files
# before version 1.6.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BIG_ENDIAN = (
    "this PyTorch file was written on a big-endian machine, which is not supported."
)


def _zip_torch(path: Path, archive: zipfile.ZipFile, pickle: str) -> _Contents:
    prefix = pickle.removesuffix("data.pkl")
    # A small file may hold much. TorchScript compresses its code, which is not read.
    if any(
        member.compress_type != zipfile.ZIP_STORED
        for member in archive.infolist()
        if not member.filename.startswith(f"{prefix}code/")
    ):
        raise _Refused(
            "its zip archive is compressed, as torch.save never does; write it anew"
            " with torch.save."
        )
    members = _named((member.filename, member) for member in archive.infolist())
    order = members.get(f"{prefix}byteorder")
    if order and read_member(archive, order, stop=10) != b"little":
        raise _Refused(_BIG_ENDIAN)
    if members[pickle].file_size > _LARGEST_PICKLE:
        raise _Refused(
            f"its {shown(pickle)} is far too large for a description of tensors."
        )
    content, _ = _unpickled(io.BytesIO(read_member(archive, members[pickle])))

    def data(storage: _Storage, start: int, stop: int) -> bytes:
        with open_archive(path) as archive:
            member = archive.getinfo(f"{prefix}data/{storage.key}")
            return bytes(read_member(archive, member, start, stop))

    # A directory that lists them all: the archive is whole.
    for view in (views := _views(content)).values():
        size = members[f"{prefix}data/{view.storage.key}"].file_size
        if size != view.storage.size * view.storage.dtype.itemsize:
            raise ValueError(
                f"storage {view.storage.key} has {size} bytes, not {view.storage.size}"
                " numbers"
            )
    return _Contents("PyTorch", "OIHW", _torch_tensors(views, data))


def _legacy_torch(path: Path) -> _Contents:
    """Pickles of a magic number, a version, the machine, the content and the keys of
    its storages; then their data."""
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(_LARGEST_PICKLE))
    (_, _), (_, _), (machine, _), (content, storages), (keys, _) = (
        _unpickled(stream) for _ in range(5)
    )
    if not machine["little_endian"]:
        raise _Refused(_BIG_ENDIAN)
    place, places = stream.tell(), {}
    end = path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            if type(key) is not str:
                raise ValueError("the key of a storage is no text")
            storage = storages[key]
            file.seek(place)
            [count] = struct.unpack("<q", file.read(8))
            place += 8
            places[key] = place
            place += count * storage.dtype.itemsize
            if count != storage.size or not 0 <= place <= end:
                raise ValueError(f"the data of storage {shown(key)} is not whole")

    def data(storage: _Storage, start: int, stop: int) -> bytes:
        with path.open("rb") as file:
            file.seek(places[storage.key] + start)
            return file.read(stop - start)

    views = _views(content)
    if any(view.storage.key not in places for view in views.values()):
        raise ValueError("the data of a storage is missing")
    return _Contents("PyTorch before 1.6", "OIHW", _torch_tensors(views, data))


def _torch_tensors(
    views: Mapping[str, _View], data: Callable[[_Storage, int, int], bytes]
) -> dict[str, _Tensor]:
    def read(view: _View) -> np.ndarray:
        storage, size = view.storage, view.storage.dtype.itemsize
        last = view.offset + sum(
            (n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)
        )
        if min((view.offset, *view.strides)) < 0 or last >= storage.size:
            raise ValueError("a tensor lies outside of its storage")
        # Of a storage that many tensors share, only what this one takes.
        content = data(storage, view.offset * size, (last + 1) * size)
        values = np.frombuffer(content, storage.dtype, last + 1 - view.offset)
        return np.lib.stride_tricks.as_strided(
            values, view.shape, [size * stride for stride in view.strides]
        )

    return {
        name: _refusing(
            view.shape,
            f"{quoted(name)} is not stored as the network uses it:"
            f" {shown(view.made_by.replace(' ', '.'))} would make it, and is not"
            " called. Save the weights as plain tensors of floats.",
        )
        if view.made_by
        else _Tensor(view.shape, partial(read, view))
        for name, view in views.items()
    }
