"""What every experiment on a data set lets its user choose."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Preset = Literal["smoke", "cpu", "paper"]
PRESET_NAMES: tuple[Preset, ...] = get_args(Preset)
# Settings that say where things lie and how to come by them, not what the results are.
WHEREABOUTS = ("out", "store", "data_dir", "fresh", "redraw")
# How the images of a folder are taken where nothing is said, and results that were made
# when nothing could be said.
AS_STORED: dict[str, Any] = {"size": None, "upright": False}


@dataclass(frozen=True)
class Settings:
    """What every experiment on a data set lets its user choose."""

    preset: Preset | None = None
    """Where all other settings begin: smoke, cpu or paper, as `list` and `all` name
    them. None: what stands here."""
    dataset: str = "photographs"
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an
    .npz file; read into memory."""
    data_dir: Path | None = None
    """Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's cache by
    default."""
    size: int | tuple[int, int] | None = None
    """To scale and crop each image of a folder to: pixels of a side, or height and
    width. None: all have one size."""
    upright: bool = False
    """Turn the images of a folder as their EXIF orientation says."""
    images: int | None = None
    """Use only so many images, evenly spaced; all by default."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's
    names."""
    redraw: bool = False
    """Only draw the figures and print the table again, from the saved arrays."""


def check_at_least(settings: Any, smallest: Mapping[str, int]) -> None:
    """Raise ValueError if a setting that is given is below its smallest value."""
    for name, bound in smallest.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least {bound}, got {value}."
            )
