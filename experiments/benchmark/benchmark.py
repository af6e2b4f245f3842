"""Speed and memory of this library against the usual ways to the same numbers, measured
in one run.

    python -m experiments benchmark --dataset cifar10 --out results

Each measurement is a fresh process on the CPU that loads the images, imports
everything, and only then starts the clock: the first call (with JAX's compilation, of
which no cache is used), the second call, and the peak of the resident memory during the
first call above its level before. Peer and ours take turns. Peers that are not
installed are left out, with a word on how to install them. Writes
<out>/benchmark/summary.json, or with --only a file of its own beside it; with --publish
docs also docs/results/benchmark.json, and from it the page docs/benchmark.md.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import linear_cnn
from experiments.benchmark.comparison import compare
from experiments.benchmark.measurement import (
    Measurement,
    installed,
    machine,
    measure,
    profile,
)
from experiments.benchmark.methods import METHODS
from experiments.benchmark.publication import listings, publish
from experiments.benchmark.rows import LARGEST_KERNEL, MANY, Row, Task, chosen, rows
from experiments.frame import disk
from experiments.frame.disk import version
from linear_cnn._progress import progress_bar

NAME = "benchmark"
PROFILED = (
    "linear_cnn.train, VGG11-BN, 16 filters",
    "linear_cnn.train_seeds, VGG11-BN, 16 filters, 4 seeds",
    "XLA's convolution, VGG11-BN, 16 filters",
    "linear_cnn.train, SmallCNN",
    "linear_cnn.train_seeds, SmallCNN, 4 seeds",
)


@dataclass(frozen=True)
class Settings:
    """Speed and memory against PyTorch, scikit-learn and plain NumPy."""

    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's name."""
    dataset: str = "photographs"
    """Images: photographs, cifar10, or another name or path that linear_cnn.load_images
    takes."""
    size: int | tuple[int, int] | None = None
    """To scale and crop each image of a folder to: pixels of a side, or height and
    width. None: all have one size."""
    upright: bool = False
    """Turn the images of a folder as their EXIF orientation says."""
    images: int | None = None
    """Use only the first so many images; by default all, of which no more than
    50,000."""
    repeats: int = 3
    """Fresh processes for each number; medians are compared."""
    only: str | None = None
    """Only the rows in which this text occurs, e.g. theory.patch_spectrum, PyTorch or
    Training."""
    publish: Path | None = None
    """Folder of the documentation, whose page on speed is then written from all that
    has been measured."""


def main(settings: Settings) -> None:
    """Measure every row, print the table and write the summary."""
    images = load(settings)
    folder = disk.prepare_folder(settings.out / NAME)
    host = machine()  # now: its load is to be that of others
    table_rows = chosen(rows(images.shape), settings.only)
    with tempfile.TemporaryDirectory() as temporary:
        files = save_images(images, table_rows, Path(temporary))
        del images  # the measured processes need the memory
        results = run(table_rows, files, settings.repeats)
        profiles = [
            {"method": task.method, "version": "this version"}
            | profile(task.method, files[task.images])
            for task in profiled(table_rows)
        ]
    environment = disk.environment()
    summary = {
        "settings": asdict(settings),
        "environment": {
            "machine": host,
            "python": environment["python"],
            "versions": environment["versions"],
            "peers": {
                method.package: version(method.package)
                for method in METHODS.values()
                if method.package
            },
        },
        "rows": [row | {"load": host["load"]} for row in results],
        "programs": profiles,
    }
    # Rows that were chosen must not take the place of all.
    part = (
        ""
        if settings.only is None
        else "_" + re.sub("[^A-Za-z0-9]+", "_", settings.only).strip("_")
    )
    disk.write_json(folder / f"summary{part}.json", summary)
    print(listings(summary))
    if host["load"] > host["cores"] / 4:
        print(
            f"The machine was busy (load {host['load']:.1f} on {host['cores']} cores):"
            " the times may be too long."
        )
    print(f"written to {folder}")
    if settings.publish is not None:
        for file in publish(settings.out, settings.publish):
            print(f"published: {file}")


def load(settings: Settings) -> np.ndarray:
    """The images, float32 in [0, 1], (N, H, W, C), after all checks of the settings."""
    for name in ("images", "repeats"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    images = linear_cnn.load_images(
        settings.dataset,
        size=settings.size,
        upright=settings.upright,
        need_labels=False,
    ).images
    if settings.images is not None and settings.images > len(images):
        raise ValueError(
            f"--images is {settings.images:,}, but {settings.dataset} has"
            f" {len(images):,} images."
        )
    if min(images.shape[1:3]) < LARGEST_KERNEL:
        raise ValueError(
            f"--dataset {settings.dataset} has images of"
            f" {images.shape[1]}x{images.shape[2]} pixels; patches of"
            f" {LARGEST_KERNEL}x{LARGEST_KERNEL} are measured, so choose larger images."
        )
    return linear_cnn.scale_pixels(images[: min(settings.images or MANY, MANY)])


def save_images(
    images: np.ndarray, table_rows: list[Row], folder: Path
) -> dict[int, Path]:
    """Write the first so many images for each number that a row needs, and return the
    files."""
    counts = {
        task.images for row in table_rows for task in (row.ours, row.peer) if task
    }
    files = {count: folder / f"{count}.npy" for count in counts}
    try:
        for count, file in files.items():
            np.save(file, images[:count])
    except OSError as error:
        raise OSError(
            f"cannot write the images to {folder}: {error}; choose another folder with"
            " TMPDIR."
        ) from error
    return files


def profiled(table_rows: list[Row]) -> list[Task]:
    """Of the rows on first calls, and what is held against them, the tasks of which
    every program is looked at."""
    tasks = [
        task
        for row in table_rows
        for task in (row.ours, row.peer)
        if task and task.method in PROFILED and not task.cached
    ]
    return list(dict.fromkeys(tasks))


def run(
    table_rows: list[Row], files: Mapping[int, Path], repeats: int
) -> list[dict[str, Any]]:
    """Measure row by row, peer and ours in turn, and compare."""
    results = []
    plans = [
        [task for task in (row.peer, row.ours) if task and installed(task)]
        for row in table_rows
    ]
    folder = next(iter(files.values())).parent
    with progress_bar(total=repeats * sum(map(len, plans)), unit="process") as bar:
        for row, tasks in zip(table_rows, plans, strict=True):
            measured: dict[Task, list[Measurement]] = {task: [] for task in tasks}
            caches = {
                task: folder / f"compiled {number}"
                for number, task in enumerate(tasks)
                if task.cached
            }
            for task, cache in caches.items():
                measure(task.method, files[task.images], cache)
            for _ in range(repeats):
                for task in tasks:
                    bar.set_description(f"{task.method}, {task.images:,} images")
                    measured[task].append(
                        measure(task.method, files[task.images], caches.get(task))
                    )
                    bar.update()
            results.append(
                compare(
                    row,
                    measured[row.ours],
                    measured.get(row.peer) if row.peer else None,
                )
            )
    return results
