"""The first layer of a trained network, from its weights in a file, a folder or memory.
Nothing that a file holds is ever run."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from safetensors import SafetensorError

from linear_cnn._checks import integer
from linear_cnn._npz import NPZ_DAMAGE
from linear_cnn._text import escaped, quoted, shown, shown_path
from linear_cnn.weight_files._choice import _chosen
from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    Layout,
    _Contents,
    _Refused,
    _Tensor,
)
from linear_cnn.weight_files._formats import _contents
from linear_cnn.weight_files._in_memory import _held
from linear_cnn.weight_files._layouts import _TO_HWIO
from linear_cnn.weight_files._reparametrised import _computed

# What the readers raise on damaged or foreign content.
_DAMAGE = (
    *NPZ_DAMAGE,
    LookupError,
    AttributeError,
    ArithmeticError,
    SafetensorError,
)


_Taken = TypeVar("_Taken")


class FirstLayer(NamedTuple):
    """The first convolution of a trained network.

    Attributes:
      kernel: float32, (kh, kw, C, K): Flax's order; C = 3 input channels are in the
        order red, green, blue.
      name: of the tensor in its file, control characters written as Python does.
      format: of the file.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> weights = np.zeros((7, 7, 3, 64), np.float32)
      >>> kernel, name, _ = linear_cnn.FirstLayer(weights, "conv1.weight", "PyTorch")
      >>> name, kernel.shape
      ('conv1.weight', (7, 7, 3, 64))
    """

    kernel: np.ndarray
    name: str
    format: str


def load_first_layer(
    path: str | Path,
    name: str | None = None,
    *,
    layout: Layout | None = None,
    channels: int = 3,
    channel_order: Literal["RGB", "BGR"] = "RGB",
) -> FirstLayer:
    """The first layer's filters from a file or folder of weights, of whatever format,
    without the framework that wrote it.

    Formats: safetensors, .npz, .npy, Orbax's folders (of a manager, the latest step),
    Flax's msgpack, PyTorch (state dictionaries, also nested in others or in objects,
    the names then joined by dots; whole networks, by their parameters), shards of these
    (their index, or the folder that holds them all), ONNX, TensorFlow GraphDef with its
    variables frozen, TensorFlow.js (model.json beside its shards; weights of 8 or 16
    bits with scale and minimum are converted back, and so are those of ONNX that
    DequantizeLinear or QLinearConv take). Unless it is named, the first layer is the
    one kernel of `channels` input channels and more than 1x1 pixels; of ONNX, that a
    Conv takes.

    Where the network computes the filter from the tensors in the file, that filter is
    returned, under the name that the network gives it: weight norm, g v / |v| from
    weight_g and weight_v or original0 and original1; spectral norm, w / (u^T W v) from
    weight_orig, weight_u and weight_v or original, 0._u and 0._v; pruning, weight_orig
    times weight_mask.

    Args:
      path: the file or folder; its content says which format it is.
      name: of the tensor, where there are several candidates or none is recognised.
      layout: order of the kernel's axes, (filters, channels, height, width), (height,
        width, channels, filters) or (filters, height, width, channels), as of MLX. By
        default that of the framework; safetensors and .npz have none, and there it is
        recognised by square kernels, of all layers alike, and else by the framework
        that the metadata of safetensors name.
      channels: of the network's input: 1 for grey images.
      channel_order: of 3 channels. No file says so, and "RGB" is the rule;
        networks that came from Caffe or OpenCV take "BGR", and their kernel's channels
        are reversed.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: a file that is truncated, damaged, of an unknown format, or far larger
        in its description than any network; a tensor of PyTorch that a function would
        make which is not called here; several candidates, or none, as of another number
        of input channels; one that may be the last layer of a generator; an ambiguous
        layout; a filter that is computed in a way which the file does not say, as by
        standardised weights; integer weights without a scale; weights that are not
        finite. A protobuf file that was cut between two of its messages is a smaller
        file without fault, and is read.

    Examples:
      The weights of a network with two convolutions, in PyTorch's order of the axes:

      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> import numpy as np
      >>> path = Path(tempfile.mkdtemp()) / "network.npz"
      >>> first, second = np.ones((8, 3, 5, 5)), np.ones((16, 8, 5, 5))
      >>> np.savez(path, **{"conv1.weight": first, "conv2.weight": second})
      >>> layer = linear_cnn.load_first_layer(path)
      >>> layer.name, layer.format, layer.kernel.shape
      ('conv1.weight', 'npz', (5, 5, 3, 8))
    """
    _check_options(layout, channels, channel_order)
    return _opened(
        Path(path),
        lambda contents: _taken(contents, name, layout, channels, channel_order),
    )


def _opened(path: Path, take: Callable[[_Contents], _Taken]) -> _Taken:
    """What is taken of a file's contents; the errors of both name the file."""
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{shown_path(path)} does not exist; give the path of a file of weights."
        )
    if not path.is_file() and not path.is_dir():
        raise ValueError(
            f"{shown_path(path)} is neither a file nor a folder; give one of weights."
        )
    try:
        # What is wrong with the content is for the errors below to say.
        with warnings.catch_warnings(action="ignore"):
            return take(_contents(path))
    except _Refused as error:
        raise ValueError(f"{shown_path(path)}: {error}") from error
    except PermissionError:  # not a fault of the content, and it names the file
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{shown_path(path)} is truncated or damaged ({shown(reason, 160)}); get"
            " the file anew."
        ) from error


def first_layer(
    weights: Any,
    name: str | None = None,
    *,
    layout: Layout | None = None,
    channels: int = 3,
    channel_order: Literal["RGB", "BGR"] = "RGB",
) -> FirstLayer:
    """The first layer's filters of weights that are in memory.

    They are chosen, and computed from their parts, as `load_first_layer` does it.

    Args:
      weights: a Flax module or its state; any other tree of arrays, such as the
        parameters of a Linen module or a dictionary of NumPy's arrays; or one array,
        which is named "array". What is no array is left aside.
      name: of the kernel, keys joined by dots ("conv1.kernel").
      layout: order of the kernel's axes. By default that of Flax for its modules and
        states; others have none, and there it is recognised by square kernels, of all
        layers alike, and else by the name `kernel`, as in `load_first_layer`.
      channels: of the network's input: 1 for grey images.
      channel_order: of 3 channels.

    Raises:
      ValueError: several candidates, or none; an ambiguous layout; weights that are
        integers, abstract or not finite.

    Examples:
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.SmallCNN(classes=10, rngs=nnx.Rngs(0))
      >>> layer = linear_cnn.first_layer(network)
      >>> layer.name, layer.kernel.shape
      ('conv1.kernel', (3, 3, 3, 8))
    """
    _check_options(layout, channels, channel_order)
    try:
        return _taken(_held(weights), name, layout, channels, channel_order)
    except _Refused as error:
        raise ValueError(f"weights: {error}") from error


def _check_options(layout: str | None, channels: int, channel_order: str) -> None:
    _check_layout(layout)
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(
            f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}."
        )
    if integer("channels", channels, minimum=1) != 3 and channel_order == "BGR":
        raise ValueError(
            f"channel_order='BGR' is an order of 3 channels, got channels={channels};"
            " leave it out."
        )


def _check_layout(layout: str | None) -> None:
    if layout not in (None, *_TO_HWIO):
        raise ValueError(
            f"layout must be 'OIHW', 'HWIO', 'OHWI' or None, got {layout!r}."
        )


def _taken(
    contents: _Contents,
    name: str | None,
    layout: Layout | None,
    channels: int,
    channel_order: str,
) -> FirstLayer:
    contents = _with_filters(contents, name)
    chosen, found = _chosen(contents, name, layout, channels)
    kernel = _kernel(contents.tensors[chosen], chosen, found)
    return FirstLayer(
        kernel[:, :, ::-1].copy() if channel_order == "BGR" else kernel,
        escaped(chosen),  # goes to terminals and reports
        contents.format,
    )


def _with_filters(contents: _Contents, name: str | None) -> _Contents:
    """The contents, with filters in place of what the network computes them from."""
    if contents.kernels:  # the graph says it
        return contents
    tensors, wholes = _computed(contents.tensors)
    if name in wholes:
        raise _Refused(
            f"{quoted(name)} is a part of the filter {quoted(wholes[name])}, which the"
            " network computes from it; give that name."
        )
    return contents._replace(tensors=tensors)


def _kernel(tensor: _Tensor, name: str, layout: Layout) -> np.ndarray:
    values = tensor.read()
    if values.dtype != _BFLOAT16 and values.dtype.kind != "f":
        raise _Refused(
            f"the weights of {quoted(name)} are {values.dtype} without a scale; only"
            " quantised weights of TensorFlow.js and ONNX, whose files say what they"
            " stand for, can be converted back. Save them as floats."
        )
    values = values.reshape(tensor.shape).astype(np.float32).transpose(_TO_HWIO[layout])
    if not np.isfinite(values).all():
        raise _Refused(
            f"the weights of {quoted(name)} hold NaN or infinite values; take a network"
            " that did not diverge."
        )
    return np.ascontiguousarray(values)
