"""Settings that the experiments on trained networks share, and the runs that these
ask for.

An experiment has a preset of each name beside its own settings. All begin with what
stands here:

    smoke   photographs, tiny networks: does everything work? The numbers mean nothing.
    cpu     2,000 images of CIFAR-10, narrow networks with a first layer of the paper's
            width, for 2 cores: the defaults.
    paper   all of CIFAR-10, networks of the paper's width, for an accelerator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments import frame
from experiments.frame import Preset
from experiments.trained.run import NetworkName, Run, make_network

RECORD_EPOCHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 100)
SMOKE: dict[str, Any] = {
    "preset": "smoke",
    "dataset": "photographs",
    "images": 256,
    "validation": 64,
    "hold_out": 5,
    "network": "SmallCNN",
    "width": 1 / 16,
    "first_features": 12,
    "batch_size": 32,
    "epochs": 3,
    "seeds": 3,
}
PAPER_SIZE: dict[str, Any] = {
    "preset": "paper",
    "images": 50_000,
    "validation": 10_000,
    "width": 1.0,
    "batch_size": 256,
    "epochs": 30,
}
SMOKE_OF_SEVERAL: dict[str, Any] = SMOKE | {
    "other_widths": (8,),
    "other_network": "VGG11",
    "other_epochs": 2,
}
PAPER_SIZE_OF_SEVERAL: dict[str, Any] = PAPER_SIZE | {"other_epochs": 30}
# Settings whose least value is not 1.
_LEAST = {"validation": 0, "hold_out": 2, "seeds": 2, "other_seeds": 2}
_COUNTS = (
    "images",
    "first_features",
    "batch_size",
    "epochs",
    "shuffled_epochs",
    "pair_images",
    "pair_epochs",
    "other_epochs",
)


@dataclass(frozen=True)
class Settings:
    """What every experiment on trained networks lets its user choose."""

    preset: Preset = "cpu"
    """Where all other settings begin. smoke: photographs, tiny networks; cpu:
    2000 images of CIFAR-10 for 2 cores (frozen_first_layer: 50000, for 2 epochs);
    paper: all of it, for an accelerator."""
    dataset: str = "cifar10"
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an
    .npz file."""
    data_dir: Path | None = None
    """Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's cache by
    default."""
    size: int | tuple[int, int] | None = None
    """To scale and crop each image of a folder to: pixels of a side, or height and
    width. None: all have one size."""
    upright: bool = False
    """Turn the images of a folder as their EXIF orientation says."""
    images: int = 2_000
    """Training images, as many of each class, evenly spaced among its own."""
    validation: int = 500
    """Images that are only evaluated, from the test set or those held out; 0: none."""
    hold_out: int | None = None
    """Keep every so-manyth training image for validation, where there is no test
    set."""
    network: NetworkName = "VGG11"
    """What is trained."""
    width: float = 0.25
    """Width of all layers but the first, as a share of the full one."""
    first_features: int = 64
    """Filters in the first layer."""
    dropout: float = 0.5
    """Share of the units dropped in the classifier of VGG."""
    learning_rate: float = 0.01
    """Learning rate of stochastic gradient descent."""
    batch_size: int = 16
    """Images a step."""
    epochs: int = 50
    """Epochs of the training on true labels of all classes."""
    seeds: int = 4
    """Networks of each kind."""
    seed: int = 0
    """Root of every random number."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's
    names."""
    store: Path | None = None
    """Folder of the finished runs, which experiments share; <out>/runs by default."""
    fresh: bool = False
    """Train again what the store has."""
    redraw: bool = False
    """Only draw the figure and print the table again, from the saved arrays."""

    @staticmethod
    def without_meaning(given: Mapping[str, Any]) -> set[str]:
        """Of settings by their names those that the networks have nothing of."""
        chosen = ("network", "other_network", "stride_network")
        names = [str(given[name]) for name in chosen if given.get(name)]
        vgg = "depths" in given or any(name.startswith("VGG") for name in names)
        return set() if vgg else {"dropout"}


@dataclass(frozen=True)
class SettingsOfSeveral(Settings):
    """What experiments on networks of several kinds let their user choose."""

    other_widths: tuple[int, ...] = (32, 128)
    """Other numbers of filters in the first layer, which to train too."""
    other_network: NetworkName = "ResNet18"
    """What else to train, with --first-features filters."""
    other_epochs: int = 20
    """Of the training of the other network."""
    other_seeds: int | None = None
    """Networks of each of these kinds; as many as --seeds by default."""


AnySettings = TypeVar("AnySettings", bound=Settings)
AnySeveral = TypeVar("AnySeveral", bound=SettingsOfSeveral)


def check(given: AnySettings) -> AnySettings:
    """The settings, with the store beside the results unless it is named.

    Raises:
      ValueError: an unknown preset, or a setting that cannot work.
    """
    if given.preset not in frame.PRESET_NAMES:
        raise ValueError(
            f"--preset must be one of {', '.join(frame.PRESET_NAMES)}, got"
            f" {given.preset!r}."
        )
    smallest = dict.fromkeys(_COUNTS, 1) | _LEAST
    there = {name: bound for name, bound in smallest.items() if hasattr(given, name)}
    frame.check_at_least(given, there)
    for name in ("width", "learning_rate"):
        if not 0 < getattr(given, name) < np.inf:
            raise ValueError(
                f"--{name.replace('_', '-')} must be positive and finite, got"
                f" {getattr(given, name)}."
            )
    if not 0 <= given.dropout < 1:
        raise ValueError(
            f"--dropout must be at least 0 and less than 1, got {given.dropout}."
        )
    return replace(given, store=given.store or given.out / "runs")


def check_several(given: AnySeveral) -> AnySeveral:
    """`check`, after which --other-seeds is a number.

    Raises:
      ValueError: as `check`; a kind of network that is none, or named twice.
    """
    given = check(replace(given, other_seeds=given.other_seeds or given.seeds))
    widths = (given.first_features, *given.other_widths)
    if min(widths) < 1 or len(set(widths)) < len(widths) or len(widths) < 2:
        raise ValueError(
            "--other-widths must be at least one number of filters, none below 1 and"
            f" none twice or equal to --first-features = {given.first_features}, got"
            f" {given.other_widths}."
        )
    check_other_network(given)
    return given


def check_numbers(option: str, values: tuple[int, ...]) -> None:
    """Raise ValueError if one of an option's numbers is below 1 or stands twice."""
    if len(set(values)) < len(values) or min(values, default=1) < 1:
        raise ValueError(
            f"--{option} must be positive numbers, none twice, got {values}."
        )


def check_other_network(given: Any) -> None:
    """Raise ValueError if the other network is the same one."""
    if given.other_network == given.network:
        raise ValueError(
            f"--other-network must be another than --network = {given.network}."
        )


def base_run(settings: Settings, **changes: Any) -> Run:
    """The run that all experiments share, true labels of all classes; `changes` are to
    the settings or to the run."""
    options = ("network", "width", "first_features", "dropout")
    kept = {name: changes.pop(name, None) for name in ("first_strides", "batch_norm")}
    shared = (
        "dataset",
        "size",
        "upright",
        "images",
        "validation",
        "hold_out",
        "epochs",
        "batch_size",
        "learning_rate",
        "seeds",
        "seed",
    )
    chosen = {name: getattr(settings, name) for name in (*options, *shared)} | changes
    chosen["learning_rate"] = float(chosen["learning_rate"])  # 1 and 1.0 are one run
    network = replace(make_network(*(chosen.pop(name) for name in options)), **kept)
    records = (
        *(epoch for epoch in RECORD_EPOCHS if epoch < chosen["epochs"]),
        chosen["epochs"],
    )
    return Run(network, record_epochs=records, **chosen)


def several_runs(settings: SettingsOfSeveral) -> dict[str, Run]:
    """The runs on true labels of networks of several kinds: "base", "base_<filters>"
    and "other"."""
    kinds: dict[str, dict[str, Any]] = {
        f"base_{width}": {"first_features": width} for width in settings.other_widths
    }
    kinds["other"] = {
        "network": settings.other_network,
        "epochs": settings.other_epochs,
    }
    others = {
        name: base_run(settings, seeds=settings.other_seeds, **changes)
        for name, changes in kinds.items()
    }
    return {"base": base_run(settings)} | others


def shuffled_run(settings: Settings, epochs: int) -> Run:
    """The run on shuffled labels that experiments share."""
    return base_run(settings, shuffled_labels=settings.seed, epochs=epochs)


def batch_and_rate(text: str) -> dict[str, Any]:
    """A batch size and a learning rate, as --batches has them: size,rate.

    Raises:
      ValueError: it is none.
    """
    size, _, rate = text.partition(",")
    try:
        found = {"batch_size": int(size), "learning_rate": float(rate)}
    except ValueError:
        found = {}
    if not found or found["batch_size"] < 1 or not 0 < found["learning_rate"] < np.inf:
        raise ValueError(
            "--batches must be batch sizes and learning rates, each as 64,0.04, got"
            f" {text!r}."
        )
    return found
