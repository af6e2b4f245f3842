"""The first layer of a trained network, from a file of its weights. Nothing that a file
holds is ever run."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from google.protobuf import message
from safetensors import SafetensorError

from linear_cnn._npz import NPZ_DAMAGE
from linear_cnn.weight_files._contents import (
    _BFLOAT16,
    _LARGEST,
    _LISTED,
    Layout,
    _Contents,
    _Refused,
    _Tensor,
)
from linear_cnn.weight_files._formats import _contents

_TO_HWIO: dict[Layout, tuple[int, ...]] = {"OIHW": (2, 3, 1, 0), "HWIO": (0, 1, 2, 3)}
_COLOURS = 3
# What the readers raise on damaged or foreign content.
_DAMAGE = (
    *NPZ_DAMAGE,
    LookupError,
    AttributeError,
    ArithmeticError,
    message.DecodeError,
    SafetensorError,
)


class FirstLayer(NamedTuple):
    """The first convolution of a trained network.

    Attributes:
      kernel: float32, (kh, kw, C, K): Flax's order, C = 3 input channels in the order
        red, green, blue.
      name: of the tensor in its file.
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
    channel_order: Literal["RGB", "BGR"] = "RGB",
) -> FirstLayer:
    """The first layer's filters from a file of weights, of whatever format, without the
    framework that wrote it.

    Formats: safetensors, .npz, PyTorch (state dictionaries, also nested in others, the
    names then joined by dots), ONNX, TensorFlow GraphDef with its variables frozen,
    TensorFlow.js (model.json beside its shards; weights of 8 or 16 bits with scale and
    minimum are converted back). Unless it is named, the first layer is the one kernel
    of 3 input channels and more than 1x1 pixels.

    Args:
      path: the file; its content says which format it is.
      name: of the tensor, where there are several candidates or none is recognised.
      layout: order of the kernel's axes, (filters, channels, height, width) or (height,
        width, channels, filters). By default that of the framework; safetensors and
        .npz have none, and there it is recognised by square kernels, of all layers
        alike.
      channel_order: of the network's input. No file says so, and "RGB" is the rule;
        networks that came from Caffe or OpenCV take "BGR", and their kernel's channels
        are reversed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is truncated, damaged, of an unknown format, or a pickle
        with anything but tensors in plain containers; several candidates, or none, as
        for grey or 4-channel input; an ambiguous layout; integer weights without a
        scale; weights that are not finite. A protobuf file that was cut between two of
        its messages is a smaller file without fault, and is read.

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
    path = Path(path).expanduser()
    if layout not in (None, *_TO_HWIO):
        raise ValueError(f"layout must be 'OIHW', 'HWIO' or None, got {layout!r}.")
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(
            f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}."
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give the path of a file of weights."
        )
    if not path.is_file():
        raise ValueError(
            f"{path} is no file; give a file of weights (of TensorFlow.js: model.json)."
        )
    try:
        # What is wrong with the content is for the errors below to say.
        with warnings.catch_warnings(action="ignore"):
            contents = _contents(path)
            chosen, found = _chosen(contents, name, layout)
            kernel = _kernel(contents.tensors[chosen], chosen, found)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except PermissionError:  # not a fault of the content, and it names the file
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is truncated or damaged ({reason}); get the file anew."
        ) from error
    return FirstLayer(
        kernel[:, :, ::-1].copy() if channel_order == "BGR" else kernel,
        chosen,
        contents.format,
    )


# --- which tensor ---


def _chosen(
    contents: _Contents, name: str | None, layout: Layout | None
) -> tuple[str, Layout]:
    """Name and layout of the first layer."""
    kernels = {
        key: tensor.shape
        for key, tensor in contents.tensors.items()
        if len(tensor.shape) == 4
    }
    known = layout or contents.layout
    shared = known or _shared_layout(list(kernels.values()))
    if name is None:
        layouts = {
            key: _layouts(shape, known)
            for key, shape in kernels.items()
            if math.prod(shape) <= _LARGEST
        }
        layouts = {
            key: [
                fit
                for fit in fits
                if shared in (None, fit) and not _is_pixel(kernels[key], fit)
            ]
            for key, fits in layouts.items()
        }
        candidates = [key for key, fits in layouts.items() if fits]
    elif name in contents.tensors:
        shape = contents.tensors[name].shape
        layouts, candidates = {name: _layouts(shape, known)}, [name]
        if len(layouts[name]) > 1 and shared:
            layouts[name] = [shared]
        if not layouts[name] or math.prod(shape) > _LARGEST:
            hint = "" if known else " Without layout=, kernels must be square."
            raise _Refused(
                f"the {contents.format} tensor {name!r} has the shape {shape}, which is"
                f" no convolution with {_COLOURS} input"
                f" channels{f' in the layout {known}' if known else ''}.{hint}"
            )
    else:
        raise _Refused(
            f"no tensor of this {contents.format} file is named {name!r}; it holds"
            f" {_listed(kernels)}."
        )
    if len(candidates) > 1:
        several = _listed({key: kernels[key] for key in candidates})
        raise _Refused(
            f"several tensors of this {contents.format} file could be the first layer,"
            f" name= decides: {several}."
        )
    if not candidates:
        hint = "" if known else "; a kernel that is not square needs layout="
        raise _Refused(
            f"no tensor of this {contents.format} file is a convolution with {_COLOURS}"
            " input channels (grey, 4-channel and 1x1 first layers are not"
            f" recognised{hint}); it holds {_listed(kernels)}."
        )
    [chosen] = candidates
    if len(layouts[chosen]) > 1:
        shape = contents.tensors[chosen].shape
        raise _Refused(
            f"the layout of {chosen!r}, {shape}, is ambiguous; layout='OIHW' or 'HWIO'"
            " decides."
        )
    [found] = layouts[chosen]
    before = {
        key: shape
        for key, shape in kernels.items()
        if _feeds_three_channels(shape, found)
    }
    if name is None and before:
        raise _Refused(
            f"{_listed(before)} may come before {chosen!r}, as in a network of grey or"
            " 4-channel input; name= decides."
        )
    return chosen, found


def _square(shape: tuple[int, ...]) -> list[Layout]:
    """The layouts in which a kernel is square."""
    return [
        layout
        for layout, (height, width, *_) in _TO_HWIO.items()
        if shape[height] == shape[width]
    ]


def _shared_layout(shapes: Sequence[tuple[int, ...]]) -> Layout | None:
    """The one layout in which all kernels are square, those aside that are so in none
    or may be single pixels.

    The kernel of a later layer, (64, 64, 3, 3), could be one of 64x64 pixels; but then
    others would not be square.
    """
    wide = [
        shape
        for shape in shapes
        if not any(_is_pixel(shape, layout) for layout in _TO_HWIO)
    ]
    fits = [square for shape in wide if (square := _square(shape))]
    common = [
        layout
        for layout in _TO_HWIO
        if fits and all(layout in square for square in fits)
    ]
    return common[0] if len(common) == 1 else None


def _feeds_three_channels(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether this can be the first layer of a network whose second one has 3 input
    channels."""
    height, width, channels, filters = (shape[axis] for axis in _TO_HWIO[layout])
    return (height, width) != (1, 1) and channels in (1, 2, 4) and filters == _COLOURS


def _layouts(shape: tuple[int, ...], known: Layout | None) -> list[Layout]:
    """The layouts, or the known one, in which a tensor is a kernel with 3 input
    channels."""
    if len(shape) != 4 or not all(shape):
        return []
    return [
        layout
        for layout in ([known] if known else _square(shape))
        if shape[_TO_HWIO[layout][2]] == _COLOURS
    ]


def _is_pixel(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether a kernel sees a single pixel, as the constants by which some networks
    normalise their input."""
    return all(shape[axis] == 1 for axis in _TO_HWIO[layout][:2])


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if not shapes:
        return "no tensor with 4 axes"
    names = [f"{name!r} {shape}" for name, shape in list(shapes.items())[:_LISTED]]
    more = (
        f" and {len(shapes) - _LISTED} more with 4 axes"
        if len(shapes) > _LISTED
        else ""
    )
    return ", ".join(names) + more


def _kernel(tensor: _Tensor, name: str, layout: Layout) -> np.ndarray:
    values = tensor.read()
    if values.dtype != _BFLOAT16 and values.dtype.kind != "f":
        raise _Refused(
            f"the weights of {name!r} are {values.dtype} without a scale; only"
            " TensorFlow.js's quantised weights, with scale and minimum, can be"
            " converted back. Save them as floats."
        )
    values = values.reshape(tensor.shape).astype(np.float32).transpose(_TO_HWIO[layout])
    if not np.isfinite(values).all():
        raise _Refused(
            f"the weights of {name!r} hold NaN or infinite values; take a network that"
            " did not diverge."
        )
    return np.ascontiguousarray(values)
