"""What experiments share: settings, checks, and the way from settings to arrays, summary, figure and table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import inputs, store

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What every experiment on a data set lets its user choose."""

    dataset: str = "photographs"
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an .npz file; read into memory."""
    data_dir: Path | None = None
    """Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's cache by default."""
    images: int | None = None
    """Use only so many images, evenly spaced; all by default."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's names."""
    redraw: bool = False
    """Only draw the figures and print the table again, from the saved arrays."""


def check_at_least(settings: Any, smallest: Mapping[str, int]) -> None:
    """Raise ValueError if a setting that is given is below its smallest value."""
    for name, bound in smallest.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {bound}, got {value}.")


def run(
    name: str,
    settings: Settings,
    compute: Callable[[Any], Arrays],
    summary: Callable[[Arrays], Any],
    draw: Callable[[Path, Arrays], None],
    table: Callable[[Any], str],
) -> None:
    """Compute, save, draw and print; with `settings.redraw` draw and print from what was saved."""
    folder = store.prepare_folder(inputs.folder(settings.out, name, settings.dataset))
    if settings.redraw:
        arrays = store.read_arrays(folder / "arrays.npz")
    else:
        arrays = compute(settings)
        store.write_arrays(folder / "arrays.npz", arrays)
        config = {"settings": asdict(settings), "environment": store.environment()}
        store.write_json(folder / "config.json", config)
        store.write_json(folder / "summary.json", summary(arrays))
    draw(folder, arrays)
    print(table(summary(arrays)))
    print(f"written to {folder}")
