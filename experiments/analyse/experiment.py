"""Every convolution of files of weights of one's own.

    python -m experiments analyse network.safetensors
    python -m experiments analyse a.pth b.onnx --dataset photographs
    python -m experiments analyse network.npz --tensor stem.weight --layout HWIO

Lists all convolutions of each file with their shapes. The first one is projected on the
principal components of the patches of --dataset: its energy profile, the formula of
Theorem 4.2 fitted to it, with what both ends of time reach and the most likely time,
and how far it is from banks of as many random filters. Deeper layers need what reaches
them: in Python, `experiments.analyse.analyse(module, images)` runs a Flax module and
analyses all its convolutions.

Takes seconds. Writes <out>/analyse/<dataset>/{config.json, arrays.npz, summary.json}
and the figure analyse as .png and .pdf.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

import linear_cnn
from experiments import frame, trained
from experiments.analyse.analysis import analyse
from experiments.analyse.figure import NAME, draw
from experiments.analyse.layers import Layer
from experiments.analyse.packing import packed
from experiments.analyse.results import summary, table
from experiments.frame import Arrays, inputs

POSITIONAL = ("files",)


@dataclass(frozen=True)
class Settings(frame.Settings):
    """Every convolution of files of weights of your own."""

    files: Positional[tuple[Path, ...]] = ()
    """Files of weights: safetensors, .npz, PyTorch, ONNX, TensorFlow GraphDef,
    model.json of TensorFlow.js, or folders of Orbax or of shards. The data set needs as
    many channels as the networks take."""
    tensor: tuple[str, ...] = ()
    """Names of the first layers' kernels, where they are not recognised: PATH=NAME for
    one of the files, NAME for all others."""
    layout: Literal["OIHW", "HWIO", "OHWI"] | None = None
    """Order of the kernel's axes in these files, where it is not recognised."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Of the input of the networks, if it has 3 channels."""
    seed: int = 0
    """Of the random filters."""


PRESETS = {
    "smoke": Settings(preset="smoke", images=200),
    "cpu": Settings(preset="cpu", dataset="cifar10", images=10_000),
    "paper": Settings(preset="paper", dataset="cifar10"),
}


def main(settings: Settings) -> None:
    """Every convolution of files of weights of your own."""
    if not settings.files and not settings.redraw:
        raise ValueError(
            "analyse needs a file of weights: analyse network.safetensors; several may"
            " be given."
        )
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def resolve(settings: Settings) -> Settings:
    """The settings, after checking them."""
    frame.check_at_least(settings, {"images": 1})
    trained.tensor_names(settings.files, settings.tensor)
    return settings


def compute(settings: Settings) -> Arrays:
    """The analyses of the files, as `packing.packed` has them."""
    pixels = inputs.load(settings, need_labels=False).images
    images = linear_cnn.normalize_channels(
        pixels, *trained.PAPER_CHANNELS.get(settings.dataset, (None, None))
    )
    networks: dict[str, list[Layer]] = {}
    names = trained.tensor_names(settings.files, settings.tensor)
    for file, name in zip(settings.files, names, strict=True):
        networks[trained.file_title(file, networks)] = analyse(
            file,
            images,
            name=name,
            layout=settings.layout,
            channel_order=settings.channel_order,
            seed=settings.seed,
        )
    return packed(networks)
