"""What a file of weights holds: its tensors by their names."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from linear_cnn._text import MOST_QUOTED, quoted, shown

Layout = Literal["OIHW", "HWIO", "OHWI"]
# Weights of a kernel; no first layer comes near, and a damaged shape shall not fill the
# memory.
_LARGEST = 2**23
_LISTED = 8  # tensors that an error names
_BFLOAT16 = np.dtype(jnp.bfloat16)
# Of JSON: bytes, and brackets and commas, of which each can make an object of Python's.
# That of a network of ten thousand tensors has a million bytes and a hundred thousand
# of these.
_LARGEST_JSON = 2**24
_MOST_JSON = 2**20


class _Refused(ValueError):
    """A fault that is explained in full, beside the file's name."""


class _Tensor(NamedTuple):
    """A tensor that is read when called for, as floats or, without a scale,
    integers; `refused` says why reading it raises, where that is known before."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    refused: str = ""


class _Contents(NamedTuple):
    """What a file holds.

    Attributes:
      format: of the file.
      layout: of its kernels, where the format says so.
      tensors: by their names.
      others: those that the network's graph gives to no convolution.
      kernels: those that it gives to one; both empty where there is no graph.
      likely: the layout where the shapes leave it open, by who wrote the file.
      in_order: whether the tensors come in the order of the layers.
      is_file: not a folder, or what is in memory.
    """

    format: str
    layout: Layout | None
    tensors: dict[str, _Tensor]
    others: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()
    likely: Layout | None = None
    in_order: bool = True
    is_file: bool = True

    @property
    def what(self) -> str:
        """What errors call it."""
        return f"{self.format} file" if self.is_file else self.format


def _named(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary, unless two have one name, of which one would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(
                f"two of its tensors are named {quoted(name)}; save them under names of"
                " their own."
            )
        found[name] = value
    return found


def _json(content: bytes, what: str) -> Any:
    """JSON without a key that is given twice, unless it is more than any network's."""
    if len(content) > _LARGEST_JSON or (
        sum(content.count(mark) for mark in (b",", b"[", b"{")) > _MOST_JSON
    ):
        raise _Refused(f"its {what} is far larger than that of any network.")
    return json.loads(content, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(
            f"it gives the key {quoted(twice)} twice, of which one would be lost; save"
            " the weights anew."
        )
    return found


def _refusing(shape: tuple[int, ...], reason: str) -> _Tensor:
    """A tensor that the network does not convolve with as it is stored."""

    def read() -> np.ndarray:
        raise _Refused(reason)

    return _Tensor(shape, read, reason)


def _unknown(what: str) -> _Refused:
    return _Refused(
        f"{shown(what, MOST_QUOTED)} is none of the formats safetensors, .npz, .npy,"
        " PyTorch, Flax msgpack, ONNX, TensorFlow GraphDef and TensorFlow.js"
        " (model.json), or truncated; save the weights as one of these."
    )
