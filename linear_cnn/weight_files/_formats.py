"""The contents of a file of weights, of whatever format.

Formats are recognised by content: safetensors, NumPy's .npz, PyTorch (zip archives, and
the stream of pickles that torch.save wrote before version 1.6), ONNX, TensorFlow's
frozen GraphDef, and model.json of TensorFlow.js.
"""

from pathlib import Path

from linear_cnn.weight_files._contents import _Contents, _Refused
from linear_cnn.weight_files._plain import _safetensors
from linear_cnn.weight_files._protobuf import _protobuf
from linear_cnn.weight_files._pytorch import _LEGACY_START, _legacy_torch, _zip_contents
from linear_cnn.weight_files._tensorflow_js import _tfjs


def _contents(path: Path) -> _Contents:
    with path.open("rb") as file:
        start = file.read(64)
    if start[:4] == b"PK\x03\x04":
        return _zip_contents(path)
    if start.startswith(_LEGACY_START):
        return _legacy_torch(path)
    if (
        start[8:9] == b"{"
        and int.from_bytes(start[:8], "little") <= path.stat().st_size
    ):
        return _safetensors(path)
    if start.lstrip()[:1] == b"{":
        return _tfjs(path)
    if start[:1] == b"\x80":
        raise _Refused(
            "this is a pickle, but not one of torch.save, and is not read; save the"
            " weights as .npz."
        )
    return _protobuf(path)
