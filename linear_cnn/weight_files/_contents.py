"""What a file of weights holds: its tensors by their names."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

Layout = Literal["OIHW", "HWIO"]
# Weights of a kernel; no first layer comes near, and a damaged shape shall not fill the
# memory.
_LARGEST = 2**24
_LISTED = 8  # tensors that an error names
_BFLOAT16 = np.dtype(jnp.bfloat16)


class _Refused(ValueError):
    """A fault that is explained in full, beside the file's name."""


class _Tensor(NamedTuple):
    """A tensor that is read when called for, as floats or, without a scale,
    integers."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class _Contents(NamedTuple):
    """The tensors of a file by their names, and the layout of its kernels where the
    format says so."""

    format: str
    layout: Layout | None
    tensors: dict[str, _Tensor]


def _named(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary, unless two have one name, of which one would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(
                f"two of its tensors are named {name!r}; save them under names of their"
                " own."
            )
        found[name] = value
    return found


def _unknown(what: str) -> _Refused:
    return _Refused(
        f"{what} is none of the formats safetensors, .npz, PyTorch, ONNX, TensorFlow"
        " GraphDef and TensorFlow.js (model.json), or truncated; save the weights as"
        " one of these."
    )
