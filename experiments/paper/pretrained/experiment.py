"""First layers of pretrained networks have much the same energy profile (paper, Fig.
10, 11 and demo notebook).

    python -m experiments data pretrained
    python -m experiments pretrained
    python -m experiments pretrained --files resnet18.safetensors my_network.npz
    python -m experiments pretrained --files a.npz b.npz --tensor b.npz=stem.weight

Compares the weights of the first layers of whatever networks of
`experiments.download.pretrained` are there, in fixed bases that have nothing to do with
their training: principal components of the patches of --dataset and of --second.
Networks are compared with others of the same kernel size, within and between families,
and with random banks of as many filters; the formula of Theorem 4.2 is fitted to each.
Batch norm behind the first layer leaves the scale of a filter arbitrary, so that the
weights are looked at in three ways: as they are, with every filter scaled to unit norm,
and that without filters that were dead (norm below 1 % of the largest). The initial
weights are not known, hence not subtracted.

Files of the user's own stand beside the downloaded networks, in rows of their own, and
change none of the verdicts, which are about the paper.

Writes <out>/pretrained/<dataset>/{config.json, arrays.npz, summary.json}, and as .png
and .pdf the figures pretrained and pretrained_conventions, of the kernel size that most
networks have, and pretrained_<size> for each other size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import linear_cnn
import theory
from experiments import frame, trained
from experiments.frame import Arrays, inputs
from experiments.paper.pretrained.figures import draw
from experiments.paper.pretrained.profiles import (
    CONVENTIONS,
    NAME,
    filters_left,
    random_profiles,
    scaled,
)
from experiments.paper.pretrained.verdicts import summary, table
from linear_cnn.datasets._image_sets import is_folder


@dataclass(frozen=True)
class Settings:
    """First layers of pretrained networks (paper, Fig. 10, 11, demo notebook)."""

    preset: frame.Preset = "cpu"
    """smoke: 200 photographs; cpu: 10,000 images; paper: 50,000. The networks are
    always the same."""
    dataset: str = "cifar10"
    """Whose patches give the basis: photographs, cifar10, cifar100, a folder of class
    folders, or an .npz file."""
    second: str = "photographs"
    """Another one, for a second basis; "" for none."""
    size: int | tuple[int, int] | None = None
    """To scale and crop each image of a folder to: pixels of a side, or height and
    width. None: all have one size."""
    upright: bool = False
    """Turn the images of a folder as their EXIF orientation says."""
    images: int = 10_000
    """Use only so many images of each, evenly spaced."""
    data_dir: Path | None = None
    """Where the data sets and networks lie; $LINEAR_CNN_DATA or a folder of the user's
    cache by default."""
    files: tuple[Path, ...] = ()
    """Networks of your own, shown beside the others: safetensors, .npz, PyTorch, ONNX,
    TensorFlow GraphDef, or model.json of TensorFlow.js."""
    tensor: tuple[str, ...] = ()
    """Names of the first layers' kernels, where they are not recognised: PATH=NAME for
    one of these files, NAME for all others."""
    layout: Literal["OIHW", "HWIO", "OHWI"] | None = None
    """Order of the kernel's axes in these files, where it is not recognised."""
    channels: int = 3
    """Of the input of the networks in these files. The downloaded networks have 3, and
    are left aside beside others; the data sets need as many."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Of the input of the networks in these files, if it has 3 channels."""
    seed: int = 0
    """Of the random filters."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's
    names."""
    redraw: bool = False
    """Only draw the figures and print the table again, from the saved arrays."""


PRESETS = {
    "smoke": Settings(preset="smoke", dataset="photographs", second="", images=200),
    "cpu": Settings(),
    "paper": Settings(preset="paper", images=50_000),
}


def main(settings: Settings) -> None:
    """Fig. 10, 11 of the paper: first layers of pretrained networks."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def resolve(settings: Settings) -> Settings:
    """The settings, after checking them."""
    if settings.preset not in PRESETS:
        raise ValueError(
            f"--preset must be one of {', '.join(PRESETS)}, got {settings.preset!r}."
        )
    frame.check_at_least(settings, {"images": 1, "channels": 1})
    if settings.second == settings.dataset:
        raise ValueError(
            '--second must be another data set than --dataset, or "", got'
            f" {settings.second!r} for both."
        )
    trained.tensor_names(settings.files, settings.tensor)
    return settings


def compute(settings: Settings) -> Arrays:
    """Kernels and profiles.

    Returns:
      "networks" and "missing" (JSON); "<n>/kernel" (kh, kw, C, K) of network n; "bases"
      (B,) names; and for basis b and kernel size s "<b>/<s>/" with "members" (M,), the
      networks of this size; "variance" (d,); for each of CONVENTIONS the profiles (M,
      d), and "<convention>/fit/" with the fields of `theory.ProfileFit`; and for each
      number K of filters that a member has in a convention "random/<K>" (BANKS, d) and
      "random/<K>/fit" (BANKS,), profiles of random banks of K filters and the
      correlations of the formula with them.
    """
    banks, described, missing = trained.present(
        settings.data_dir,
        settings.files,
        settings.tensor,
        layout=settings.layout,
        channels=settings.channels,
        channel_order=settings.channel_order,
    )
    if not banks:
        raise FileNotFoundError(
            f"there is no pretrained network; get them with `{trained.COMMAND}`, or"
            " name files with --files."
        )
    arrays: Arrays = {
        "networks": np.array(json.dumps(described)),
        "missing": np.array(json.dumps(missing)),
    }
    arrays |= {f"{index}/kernel": bank for index, bank in enumerate(banks)}
    bases = _data_sets(settings)
    arrays["bases"] = np.array(bases)
    spectra = {}
    for basis, dataset in enumerate(bases):
        images = _images(dataset, settings)
        for size in sorted({bank.shape[:2] for bank in banks}):
            spectra[basis, size] = theory.patch_spectrum(images, size)
    for (basis, size), spectrum in spectra.items():
        members = [i for i, bank in enumerate(banks) if bank.shape[:2] == size]
        measured = _measured([banks[index] for index in members], spectrum)
        key = _key(basis, size)
        arrays |= {f"{key}/members": np.array(members)}
        arrays |= {f"{key}/{name}": value for name, value in measured.items()}
    own = [network["own"] for network in described]
    return arrays | _random(banks, own, spectra, settings.seed)


def _images(dataset: str, settings: Settings) -> np.ndarray:
    given = replace(settings, dataset=dataset)
    if not is_folder(dataset) and any(map(is_folder, _data_sets(settings))):
        given = replace(given, size=None, upright=False)  # they are meant for the other
    pixels = inputs.load(given, need_labels=False).images
    if pixels.shape[-1] != settings.channels:
        raise ValueError(
            f"images of {dataset} have {pixels.shape[-1]} channels, but the"
            f" networks' filters have {settings.channels}; give --dataset and --second"
            f" (or --second '') of {settings.channels} channels, or --channels"
            f" {pixels.shape[-1]} with --files of such networks."
        )
    return linear_cnn.normalize_channels(
        pixels, *trained.PAPER_CHANNELS.get(dataset, (None, None))
    )


def _data_sets(settings: Settings) -> list[str]:
    return [name for name in (settings.dataset, settings.second) if name]


def _key(basis: int, size: tuple[int, ...]) -> str:
    return f"{basis}/{'x'.join(map(str, size))}"


def _measured(banks: Sequence[np.ndarray], spectrum: theory.PatchSpectrum) -> Arrays:
    """Variance of the components, profiles of the banks and what the formula makes of
    them."""
    found = {"variance": np.asarray(spectrum.variance)}
    for convention in CONVENTIONS:
        profiles = np.stack(
            [
                np.asarray(
                    theory.energy_profile(scaled(bank, convention), spectrum.components)
                )
                for bank in banks
            ]
        )
        fit = vars(theory.fit_profile(profiles, spectrum.variance))
        found[convention] = profiles
        found |= {
            f"{convention}/fit/{name}": np.asarray(value) for name, value in fit.items()
        }
    return found


def _random(
    banks: Sequence[np.ndarray],
    own: Sequence[bool],
    spectra: Mapping[tuple[int, tuple[int, ...]], theory.PatchSpectrum],
    seed: int,
) -> Arrays:
    """Profiles of random banks, for each number of filters that a network has, and what
    the formula makes of them.

    One generator draws them in this order: what the downloaded networks need, then what
    the user's own need beside, so that these change nothing of what is drawn for the
    others; of both by basis, kernel size, number of filters, and bank.
    """
    random = np.random.default_rng(seed)
    found: Arrays = {}
    for whose in (False, True):
        for (basis, size), spectrum in spectra.items():
            numbers = {
                filters_left(bank, convention)
                for bank, is_own in zip(banks, own, strict=True)
                for convention in CONVENTIONS
                if is_own == whose and bank.shape[:2] == size
            }
            for number in sorted(numbers):
                key = f"{_key(basis, size)}/random/{number}"
                if key in found:
                    continue
                profiles = random_profiles(
                    random,
                    (*size, banks[0].shape[2], number),
                    np.asarray(spectrum.components),
                )
                fit = theory.fit_profile(profiles, spectrum.variance)
                found |= {key: profiles, f"{key}/fit": np.asarray(fit.correlation)}
    return found
