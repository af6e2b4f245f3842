"""Weights that are in memory: modules and states of Flax, other trees of arrays, and an
array alone."""

import os
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from linear_cnn._text import quoted
from linear_cnn.weight_files._contents import _Contents, _named, _Refused, _Tensor


def _held(weights: Any) -> _Contents:
    if isinstance(weights, str | bytes | os.PathLike):
        raise _Refused(
            f"{quoted(str(weights))} is a path; load_first_layer reads files and"
            " folders."
        )
    flax = isinstance(weights, nnx.Module | nnx.State)
    if isinstance(weights, nnx.Module):
        weights = nnx.state(weights)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.as_pure(weights))
    tensors = _named(
        (name := ".".join(map(_key, path)) or "array", _tensor(name, leaf))
        for path, leaf in leaves
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )
    kernels = [name for name, tensor in tensors.items() if len(tensor.shape) == 4]
    # As Flax and Keras call them, whose layout is this.
    named = bool(kernels) and all(name.endswith("kernel") for name in kernels)
    return _Contents(
        "Flax state" if flax else "pytree",
        "HWIO" if flax else None,
        tensors,
        likely="HWIO" if named else None,
        in_order=False,
        is_file=False,
    )


def _key(part: Any) -> str:
    """A part of a path in a tree: a key, an index, or the name of an attribute."""
    for kind in ("key", "idx", "name"):
        if hasattr(part, kind):
            own = getattr(part, kind)
            return "/".join(map(str, own)) if isinstance(own, tuple) else str(own)
    return str(part)


def _tensor(name: str, leaf: Any) -> _Tensor:
    return _Tensor(tuple(leaf.shape), partial(_numbers, name, leaf))


def _numbers(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise _Refused(
            f"{quoted(name)} has a shape and no numbers; give a state that was"
            " initialised or restored."
        )
    numbers = np.asarray(leaf)
    if numbers.dtype == object:
        raise _Refused(f"{quoted(name)} holds Python objects; give floats.")
    return numbers
