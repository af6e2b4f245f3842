"""All convolutions of a file of weights, by their shapes; no numbers are read."""

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from linear_cnn._text import shown
from linear_cnn.weight_files._choice import _TRANSPOSED, _natural
from linear_cnn.weight_files._contents import _LARGEST, Layout, _Contents, _Refused
from linear_cnn.weight_files._first_layer import _check_layout, _opened, _with_filters
from linear_cnn.weight_files._in_memory import _held
from linear_cnn.weight_files._layouts import (
    _TO_HWIO,
    _is_pixel,
    _shared_layout,
    _size,
    _square,
)

_LONGEST_NAME = 1000
_LONGEST_SIDE = 31  # of a kernel that is not square
_KERNEL = re.compile(r"(?:^|[._/:])(?:weights?|kernel|filters?)\d*(?::\d+)?$")
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)


class StoredConvolution(NamedTuple):
    """A convolution of a file of weights, as far as shapes and names tell it.

    Attributes:
      name: of the tensor, control characters written as Python does.
      shape: (kh, kw, C, K), Flax's order, C the channels of one group; as stored where
        there are not four axes, or their order is not known.
      problem: why its filters are not read, or are hardly those of a two-dimensional
        convolution; "" where nothing speaks against it.

    Examples:
      >>> import linear_cnn
      >>> one = linear_cnn.StoredConvolution("conv1.weight", (7, 7, 3, 64), "")
      >>> one.shape[-1], bool(one.problem)
      (64, False)
    """

    name: str
    shape: tuple[int, ...]
    problem: str


def stored_convolutions(
    weights: Any, *, layout: Layout | None = None
) -> list[StoredConvolution]:
    """Every convolution of a file of weights, or of weights in memory, by its shape.

    Only what describes the tensors is read, with the same bounds as in
    `load_first_layer`, which reads the numbers of one. Of files without a graph, those
    of PyTorch, safetensors, Flax and NumPy, shapes and names alone tell what a tensor
    is: whatever has four axes is listed, what has three if its name has "conv" in it.
    Grouped convolutions are seen there by nothing but their few channels.

    Args:
      weights: the path of a file or folder, in any format of `load_first_layer`; or
        what `first_layer` takes.
      layout: order of the axes of all kernels, where it is not recognised.

    Returns:
      the convolutions in the order of the file, or, where that says nothing, of their
      names; empty where there is none.

    Raises:
      FileNotFoundError, ValueError: as `load_first_layer`, of the file as a whole.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> weights = {
      ...     "conv1": np.zeros((8, 3, 5, 5)),
      ...     "conv2": np.zeros((16, 8, 3, 3)),
      ...     "conv_of_time": np.zeros((4, 16, 9)),
      ...     "head": np.zeros((10, 16)),
      ... }
      >>> for one in linear_cnn.stored_convolutions(weights):
      ...     print(one.name, one.shape, one.problem or "is read")
      conv1 (5, 5, 3, 8) is read
      conv2 (3, 3, 8, 16) is read
      conv_of_time (4, 16, 9) it has one axis of space, not two
    """
    _check_layout(layout)
    if isinstance(weights, str | PathLike):
        return _opened(Path(weights), lambda contents: _listed(contents, layout))
    try:
        return _listed(_held(weights), layout)
    except _Refused as error:
        raise ValueError(f"weights: {error}") from error


def _listed(contents: _Contents, layout: Layout | None) -> list[StoredConvolution]:
    contents = _with_filters(contents, None)
    kernels = [t.shape for t in contents.tensors.values() if len(t.shape) == 4]
    known = layout or contents.layout or _shared_layout(kernels) or contents.likely
    found = list(_found(contents, known))
    if not contents.in_order:
        found.sort(key=lambda one: _natural(one.name))
    return found


def _found(contents: _Contents, known: Layout | None) -> Iterator[StoredConvolution]:
    for name, tensor in contents.tensors.items():
        shape, graph = tensor.shape, bool(contents.kernels)
        if min(shape, default=0) <= 0 or not 3 <= len(shape) <= 5:
            continue
        if len(shape) != 4:
            if name in contents.kernels or (
                not graph and (len(shape) == 5 or _CONVOLUTION.search(name))
            ):
                axes = "one axis" if len(shape) == 3 else "three axes"
                problem = f"it has {axes} of space, not two"
                yield StoredConvolution(shown(name, _LONGEST_NAME), shape, problem)
            continue
        problem = _problem(contents, name, known)
        if known:
            shape = tuple(shape[axis] for axis in _TO_HWIO[known])
        yield StoredConvolution(shown(name, _LONGEST_NAME), shape, problem)


def _problem(contents: _Contents, name: str, known: Layout | None) -> str:
    tensor = contents.tensors[name]
    shape = tensor.shape
    if _size(shape) > _LARGEST:
        return f"it has more than {_LARGEST:,} weights, and is not read"
    if tensor.refused:
        return tensor.refused
    if name in contents.others:
        return "the graph gives it to no convolution of one group"
    if known is None:
        return "the order of its axes is ambiguous; layout= decides"
    if name in contents.kernels:
        return ""
    if _TRANSPOSED.search(name):
        return "by its name it may be a transposed convolution"
    height, width, channels, filters = (shape[axis] for axis in _TO_HWIO[known])
    if filters == 1 and "depthwise" in name.lower():
        return "by its name it is depthwise: one filter for each channel"
    if known not in _square(shape) and max(height, width) > _LONGEST_SIDE:
        return f"it would be a kernel of {height}x{width} pixels: hardly one"
    if (
        _is_pixel(shape, known)
        and 1 in (channels, filters)
        and not _KERNEL.search(name)
    ):
        return "it has one number for each channel: a constant, rather than filters"
    return ""
