"""Kernels of a network by their attribute paths, and which of them is the first
layer's."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import jax
import numpy as np
from flax import nnx

FIRST = "conv1"  # what the networks here call their first convolution
_NEAREST = 5  # paths in a message


def first_kernel(
    parameters: Mapping[str, Mapping[str, jax.Array]], layer: str = FIRST
) -> jax.Array:
    """The first layer's kernel, (kh, kw, C, K), among the parameters of a network.

    Args:
      parameters: plain arrays by the names of the layers, as
        `nnx.as_pure(nnx.state(network, nnx.Param))` gives them.
      layer: its attribute path; every network here has its first convolution in
        `conv1`.

    Raises:
      ValueError: it has no such layer, or one without a kernel.

    Examples:
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.LinearCNN(3, 4, rngs=nnx.Rngs(0))
      >>> parameters = nnx.as_pure(nnx.state(network, nnx.Param))
      >>> linear_cnn.first_kernel(parameters).shape
      (3, 3, 3, 4)
    """
    arrays = by_path(parameters)
    return arrays[kernel_path("layer", layer, arrays)]


def by_path(parameters: Any) -> dict[str, Any]:
    """The arrays of a tree by their attribute paths, such as "blocks.0.conv.kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)
    }


def kernel_path(argument: str, name: str, parameters: Mapping[str, Any]) -> str:
    """The path of a kernel, which is named by itself or by its layer. A kernel is any
    parameter of two or more axes.

    Raises:
      ValueError: there is none of that name; the message has the nearest.
    """
    kernels = [path for path, leaf in parameters.items() if np.ndim(leaf) >= 2]
    for path in (name, f"{name}.kernel"):
        if path in kernels:
            return path
    layers = [path.removesuffix(".kernel") for path in kernels]
    there = within(name, parameters)
    fault = "which is no kernel" if there else "which the network does not have"
    raise ValueError(
        f"{argument} names {name!r}, {fault}; name a layer with a kernel, or a"
        f" parameter of two or more axes: {nearest(name, layers)}."
    )


def within(name: str, paths: Iterable[str]) -> list[str]:
    """The paths that are what a path names, or inside it."""
    return [path for path in paths if f"{path}.".startswith(f"{name}.")]


def nearest(name: str, paths: Iterable[str]) -> str:
    """The paths most like a name, for a message."""
    different = sorted({path for path in paths if path})
    found = get_close_matches(name, different, n=_NEAREST, cutoff=0)
    if not found:
        return "there is none"
    return ("nearest are " if len(different) > len(found) else "there are ") + (
        ", ".join(map(repr, found))
    )


def first_layer_path(
    network: nnx.Module, channels: int, named: str | None, argument: str
) -> str:
    """The path of the first layer's kernel: the one that is named; else that of
    `conv1`; else that of the only convolution of two image axes that takes so many
    channels or, where none does, of the only one at all.

    Args:
      channels: of the images.
      named: attribute path, of the kernel or its layer, or None.
      argument: that it is given by, for messages.

    Raises:
      ValueError: none is of that name, or not one alone can be the first.
    """
    parameters = by_path(nnx.as_pure(nnx.state(network, nnx.Param)))
    if named is not None:
        return kernel_path(argument, named, parameters)
    if f"{FIRST}.kernel" in parameters:
        return f"{FIRST}.kernel"
    kernels = [path for path, leaf in parameters.items() if np.ndim(leaf) >= 2]
    convolutions = {
        ".".join([*map(str, path), "kernel"]): module
        for path, module in nnx.iter_modules(network)
        if isinstance(module, nnx.Conv)
    }
    plain = {
        path: module.in_features
        for path, module in convolutions.items()
        if module.feature_group_count == 1
        and path in kernels
        and module.kernel.ndim == 4
    }
    candidates = [path for path, own in plain.items() if own == channels] or [*plain]
    if len(candidates) == 1:
        return candidates[0]
    layers = sorted(path.removesuffix(".kernel") for path in candidates)
    found = (
        f"{layers} all could be"
        if layers
        else f"no flax.nnx.Conv of two image axes is among its kernels {kernels}"
    )
    example = layers[0] if layers else "path of its layer"
    raise ValueError(
        f"which convolution is the network's first one? It has no attribute {FIRST!r},"
        f" and {found}; name it by {argument}={example!r}, or call it {FIRST!r}."
    )
