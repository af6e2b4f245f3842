"""Every convolution of a file of weights, or of a Flax module."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import nnx
from jax.typing import ArrayLike

import linear_cnn
import theory
from experiments.analyse.activations import reached
from experiments.analyse.layers import Layer, measured

LARGEST = 2304  # 3x3 pixels of 256 channels
MOST_IMAGES = 500


def analyse(
    network: str | Path | nnx.Module,
    images: ArrayLike,
    *,
    name: str | None = None,
    layout: Literal["OIHW", "HWIO", "OHWI"] | None = None,
    channel_order: Literal["RGB", "BGR"] = "RGB",
    largest: int = LARGEST,
    most_images: int = MOST_IMAGES,
    seed: int = 0,
) -> list[Layer]:
    """Every convolution of a network: its shape, its energy profile, the formula fitted
    to it, and its distance from random filters of the same number and shape.

    Of a file only the first layer is analysed, in the patches of the images (stride 1,
    no padding); what reaches the others only the network knows. A module is run in
    inference mode, as a copy, and each of its convolutions is analysed in the patches
    that it sees, with its stride and padding.

    Args:
      network: the path of a file of weights, as `linear_cnn.load_first_layer` takes it;
        or a Flax module that maps images to anything.
      images: floating point, (N, H, W, C), scaled as those that the network was trained
        on.
      name, layout, channel_order: of a file's first layer, as in `load_first_layer`;
        the number of its channels is that of the images.
      largest: the most components, kh kw C, of a layer that is analysed. The time grows
        with the cube: 2,304 take ten seconds on two cores, 4,608 a minute.
      most_images: so many, evenly spaced, go through a module.
      seed: of the random filters.

    Returns:
      a `Layer` for each convolution, of a module in the order of the calls.

    Raises:
      FileNotFoundError, ValueError: a file without a convolution, or of which none is
        the first layer, with the reason; a module without a convolution, or that fails
        on the images. TypeError: something else in place of a network.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> from experiments.analyse import analyse
      >>> from flax import nnx
      >>> network = linear_cnn.SmallCNN(features=(4, 8), rngs=nnx.Rngs(0))
      >>> images = linear_cnn.photographs().images[:20]
      >>> for layer in analyse(network, images):
      ...     print(layer.name, layer.shape, layer.measured.profile.shape)
      conv1 (3, 3, 3, 4) (27,)
      features.layers.2 (3, 3, 4, 8) (36,)
    """
    pixels = _checked(images, largest, most_images)
    random = np.random.default_rng(seed)
    if isinstance(network, nnx.Module):
        given = {"name": name, "layout": layout}
        if unused := [key for key, value in given.items() if value is not None]:
            raise ValueError(
                f"{' and '.join(unused)} say which tensor of a file is the first layer;"
                " a module needs none of them."
            )
        return _module(network, pixels, largest, most_images, random)
    if not isinstance(network, str | Path):
        raise TypeError(
            "network must be the path of a file of weights or a flax.nnx.Module, got"
            f" {type(network).__name__}; of flax.linen save the parameters, e.g. by"
            " numpy.savez."
        )
    options: dict[str, Any] = {"layout": layout, "channel_order": channel_order}
    return _file(Path(network), pixels, name, options, random)


def _checked(images: ArrayLike, largest: int, most_images: int) -> np.ndarray:
    for option, value in (("largest", largest), ("most_images", most_images)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}.")
    pixels = np.asarray(images)
    if pixels.ndim != 4 or not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(
            "images must be floating point, (N, H, W, C), got"
            f" {pixels.dtype} {pixels.shape}; linear_cnn.scale_pixels scales 8-bit"
            " ones."
        )
    if not len(pixels) or not np.isfinite(pixels).all():
        raise ValueError(
            f"images must be at least one, and finite, got {pixels.shape} of which"
            f" {np.isnan(pixels).sum()} entries are NaN; leave these out."
        )
    return pixels


def _file(
    path: Path,
    images: np.ndarray,
    name: str | None,
    options: dict[str, Any],
    random: np.random.Generator,
) -> list[Layer]:
    stored = linear_cnn.stored_convolutions(path, layout=options["layout"])
    if not stored:
        raise ValueError(
            f"{path} holds no convolution: no tensor in it has four axes, or is one by"
            " its name; there is no first layer to analyse."
        )
    channels = images.shape[-1]
    first = linear_cnn.load_first_layer(path, name, channels=channels, **options)
    moments = theory.patch_moments(images, first.kernel.shape[:2])
    shape = tuple(map(int, first.kernel.shape))
    layers = [Layer(first.name, shape, "", measured(first.kernel, moments, random))]
    unknown = "a file does not say what reaches it; give the module"
    return layers + [
        Layer(one.name, one.shape, one.problem or unknown)
        for one in stored
        if one.name != first.name
    ]


def _module(
    network: nnx.Module,
    images: np.ndarray,
    largest: int,
    most_images: int,
    random: np.random.Generator,
) -> list[Layer]:
    if len(images) > most_images:
        chosen = np.linspace(0, len(images) - 1, most_images).round().astype(int)
        images = images[chosen]
    found = reached(network, images, largest)
    if not found.shapes:
        raise ValueError(
            f"{type(network).__name__} has no flax.nnx.Conv; there is nothing to"
            " analyse."
        )
    layers = []
    for name, shape in found.shapes.items():
        # A convolution alone has no path.
        shown = name or type(network).__name__
        layer = Layer(shown, shape, found.problems.get(name, ""))
        if not layer.problem:
            moments = found.moments[name]
            try:
                if isinstance(moments, ValueError):
                    raise moments
                what = measured(found.kernels[name], moments, random)
                layer = layer._replace(measured=what)
            except ValueError as error:
                layer = layer._replace(problem=str(error))
        layers.append(layer)
    return layers
