"""Files of protobuf messages: ONNX and GraphDef."""

import mmap
from pathlib import Path

from linear_cnn.weight_files._contents import _Contents, _unknown
from linear_cnn.weight_files._graphdef import _graphdef
from linear_cnn.weight_files._onnx import _onnx
from linear_cnn.weight_files._wire import _messages, _NoMessage, _Reader

_ONNX_GRAPH = 7  # field of ONNX's model; a GraphDef has none of this number
_LARGEST_MESSAGE = 2**31  # bytes; protobuf's own limit


def _protobuf(path: Path) -> _Contents:
    with path.open("rb") as file:
        start = file.read(8)
        size = path.stat().st_size
        begins = _unknown(f"a file that begins with {start!r}")
        if not 0 < size <= _LARGEST_MESSAGE:
            raise begins
        # Weights stay in the file until they are asked for.
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        reader = _Reader()
        graphs = reader.collect(content, (_ONNX_GRAPH,))[_ONNX_GRAPH]
        if graphs:
            return _onnx(reader, _messages(graphs), path)
        found = _graphdef(_Reader(), content)
    except _NoMessage as error:
        raise begins from error
    if found is None:
        raise begins
    return found
