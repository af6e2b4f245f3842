"""What the short experiments share: checks, and from settings to arrays, summary, figure and table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments import inputs, store

Arrays = dict[str, np.ndarray]


class Settings(Protocol):
    """Fields of the settings of every experiment on a data set."""

    @property
    def dataset(self) -> str: ...
    @property
    def out(self) -> Path: ...
    @property
    def redraw(self) -> bool: ...


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
        config = {"settings": asdict(settings), "environment": store.environment()}  # type: ignore[call-overload]
        store.write_json(folder / "config.json", config)
        store.write_json(folder / "summary.json", summary(arrays))
    draw(folder, arrays)
    print(table(summary(arrays)))
    print(f"written to {folder}")
