"""The contents of a file of weights, of whatever format.

Formats are recognised by content: safetensors, NumPy's .npz and .npy, PyTorch (zip
archives, and the stream of pickles that torch.save wrote before version 1.6), Flax's
msgpack, ONNX, TensorFlow's frozen GraphDef, model.json of TensorFlow.js, the index of
shards; and of folders, Orbax's, shards, and those with one file of weights.
"""

from pathlib import Path, PurePosixPath

from linear_cnn._npz import open_archive, what_it_is
from linear_cnn._text import shown
from linear_cnn.weight_files._contents import (
    _LARGEST_JSON,
    _LISTED,
    _Contents,
    _json,
    _Refused,
    _unknown,
)
from linear_cnn.weight_files._msgpack import _begins_msgpack, _msgpack
from linear_cnn.weight_files._orbax import _orbax, _orbax_folder
from linear_cnn.weight_files._plain import _npy, _npz, _safetensors
from linear_cnn.weight_files._protobuf import _protobuf
from linear_cnn.weight_files._pytorch import _LEGACY_START, _legacy_torch, _zip_torch
from linear_cnn.weight_files._sharded import _indexed, _numbered
from linear_cnn.weight_files._tensorflow_js import _tfjs

# Other files that are often taken for weights, by how they begin.
_FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras writes it,",
    b"\x1f\x8b": "a file compressed by gzip (unpack it)",
    b"BZh": "a file compressed by bzip2 (unpack it)",
    b"\xfd7zXZ": "a file compressed by xz (unpack it)",
    b"\x28\xb5\x2f\xfd": "a file compressed by Zstandard (unpack it)",
    b"7z\xbc\xaf": "a 7-Zip archive (unpack it)",
    b"Rar!": "a RAR archive (unpack it)",
    b"GGUF": "a GGUF file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}

# Of the files in a folder, those that may be of weights.
_SUFFIXES = {
    *(".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy", ".msgpack", ".onnx"),
    ".pb",
}


def _contents(path: Path) -> _Contents:
    if path.is_dir():
        return _folder_contents(path)
    with path.open("rb") as file:
        start = file.read(64)
    if what := what_it_is(path):
        raise _Refused(f"{what}.")
    for beginning, what in _FOREIGN.items():
        if start.startswith(beginning):
            raise _unknown(what)
    if start[:4] == b"PK\x03\x04":
        return _zip_contents(path)
    if start.startswith(_LEGACY_START):
        return _legacy_torch(path)
    if start.startswith(b"\x93NUMPY"):
        return _npy(path)
    if _begins_msgpack(start):
        return _msgpack(path)
    if (
        start[8:9] == b"{"
        and int.from_bytes(start[:8], "little") <= path.stat().st_size
    ):
        return _safetensors(path)
    if start.lstrip()[:1] == b"{":
        return _json_contents(path)
    if start[:1] == b"\x80":
        raise _Refused(
            "this is a pickle, but not one of torch.save, and is not read; save the"
            " weights as .npz."
        )
    return _protobuf(path)


def _folder_contents(path: Path) -> _Contents:
    if checkpoint := _orbax_folder(path):
        return _orbax(checkpoint)
    files = sorted(child for child in path.iterdir() if child.is_file())
    described = [
        file
        for file in files
        if file.name == "model.json" or file.name.endswith(".index.json")
    ]
    weights = described or [file for file in files if file.suffix in _SUFFIXES]
    if not described and (found := _numbered(weights, _shard)):
        return found
    if len(weights) == 1:
        return _contents(weights[0])
    listed = shown(", ".join(file.name for file in weights[:_LISTED]))
    raise _Refused(
        "this is a folder of"
        f" {f'several files of weights, {listed}' if weights else 'no weights'}; give"
        " the path of a file of weights."
    )


def _json_contents(path: Path) -> _Contents:
    """What a file of JSON describes: a model of TensorFlow.js, or where shards are."""
    with path.open("rb") as file:
        described = _json(file.read(_LARGEST_JSON + 1), "JSON")
    if "weight_map" in described:
        return _indexed(path, described["weight_map"], _shard)
    if "weightsManifest" in described:
        return _tfjs(path, described)
    raise _unknown(f"JSON with {', '.join(list(described)[:_LISTED])}")


def _shard(path: Path) -> _Contents:
    """A file of tensors that names no other one."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start[:1] == b"{":
        raise _unknown("JSON in the place of a shard")
    contents = _contents(path)
    if contents.kernels or contents.others:
        raise _Refused(f"a shard is a graph of {contents.format}.")
    return contents


def _zip_contents(path: Path) -> _Contents:
    """A zip archive: of PyTorch, or of NumPy's arrays."""
    with open_archive(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) == 1:
            return _zip_torch(path, archive, pickles[0])
        if not names or not all(name.endswith(".npy") for name in names):
            listed = ", ".join(names[:_LISTED]) or "nothing"
            raise _unknown(f"a zip archive with {listed}")
        return _npz(path, archive)
