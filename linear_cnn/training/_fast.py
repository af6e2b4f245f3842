"""Networks of one's own, as fast to train as those of this package."""

import warnings
from typing import Any

import numpy as np
from flax import nnx
from jax import lax

from linear_cnn.networks._convolution import convolution


def with_fast_convolutions(network: nnx.Module) -> nnx.Module:
    """The network itself or, where layers convolve images by JAX's default, a copy in
    which they do so by `convolution`.

    Not where that would leave it to JAX's all the same: dilated, grouped or not of two
    dimensions.
    """
    slow = len(_by_default(network))
    if not slow:
        return network
    warnings.warn(
        "jax.lax.conv_general_dilated, the default of nnx.Conv, is several times slower"
        " to train on a CPU, and everywhere with many seeds; layers that have it"
        f" ({slow}) are trained with this library's, of the same values up to rounding."
        " Give nnx.Conv conv_general_dilated=linear_cnn.patch_convolution to choose"
        " that yourself, or fast_convolutions=False to keep JAX's.",
        stacklevel=2,
    )
    network = nnx.clone(network)
    for layer in _by_default(network):
        layer.conv_general_dilated = convolution
    return network


def _by_default(network: nnx.Module) -> list[nnx.Conv]:
    return [
        layer
        for _, layer in nnx.iter_modules(network)
        if isinstance(layer, nnx.Conv)
        and layer.conv_general_dilated is lax.conv_general_dilated
        and np.size(layer.kernel_size) == 2
        and layer.feature_group_count == 1
        and not _dilates(layer.input_dilation)
        and not _dilates(layer.kernel_dilation)
    ]


def _dilates(dilation: Any) -> bool:
    return dilation is not None and bool(np.any(np.asarray(dilation) != 1))
