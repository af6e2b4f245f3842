"""Presets and settings that the experiments on trained networks share, and the runs
that these ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import frame
from experiments.trained.run import NetworkName, Run, _network

_CIFAR10_PAIRS = (
    "automobile,truck",
    "dog,frog",
    "dog,cat",
    "bird,airplane",
    "ship,airplane",
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "photographs",
        "network": "SmallCNN",
        "images": 256,
        "validation": 64,
        "hold_out": 5,
        "width": 1 / 16,
        "first_features": 12,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 32,
        "seeds": 3,
        "epochs": 3,
        "shuffled_epochs": 4,
        "pairs": ("astronaut,coffee",),
        "pair_images": 128,
        "pair_epochs": 3,
        "other_widths": (8,),
        "other_network": "VGG11",
        "other_epochs": 2,
        "depths": (11, 13),
        "depth_seeds": (3, 1),  # so many of the first are trained by `consistency` too
        "depth_epochs": 2,
        "energy_components": (1, 15),
        "energy_seeds": 2,
        "energy_epochs": 3,
        "stride_network": "SmallCNN",
        "scaled_components": (5,),
        "factors": (3.0,),
        "scaling_seeds": 2,
        "scaling_epochs": 3,
    },
    "cpu": {
        "dataset": "cifar10",
        "network": "VGG11",
        "images": 2_000,
        "validation": 500,
        "hold_out": None,
        "width": 0.25,
        "first_features": 64,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 16,
        "seeds": 4,
        "epochs": 50,
        "shuffled_epochs": 90,
        "pairs": _CIFAR10_PAIRS,
        "pair_images": 1_000,
        "pair_epochs": 30,
        "other_widths": (32, 128),
        "other_network": "ResNet18",
        "other_epochs": 20,
        "depths": (11, 13, 16, 19),
        "depth_seeds": (6, 2, 1, 2),
        "depth_epochs": 3,
        "energy_components": (1, 2, 4, 7, 10, 14, 18, 22, 27),
        "energy_seeds": 2,
        "energy_epochs": 90,
        "stride_network": "ResNet18",
        "scaled_components": (3, 10, 20),
        "factors": (3.0, 10.0),
        "scaling_seeds": 2,
        "scaling_epochs": 20,
    },
    "paper": {
        "dataset": "cifar10",
        "network": "VGG11",
        "images": 50_000,
        "validation": 10_000,
        "hold_out": None,
        "width": 1.0,
        "first_features": 64,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 256,
        "seeds": 4,
        "epochs": 30,
        "shuffled_epochs": 100,
        "pairs": _CIFAR10_PAIRS,
        "pair_images": 10_000,
        "pair_epochs": 30,
        "other_widths": (32, 128),
        "other_network": "ResNet18",
        "other_epochs": 30,
        "depths": (11, 13, 16, 19),
        "depth_seeds": (4, 4, 4, 4),
        "depth_epochs": 30,
        "energy_components": tuple(range(1, 28)),
        "energy_seeds": 3,
        "energy_epochs": 30,
        "stride_network": "ResNet18",
        "scaled_components": (3, 10, 20),
        "factors": (3.0, 10.0),
        "scaling_seeds": 4,
        "scaling_epochs": 30,
    },
}
RECORD_EPOCHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 100)


@dataclass(frozen=True)
class Settings:
    """What every experiment on trained networks lets its user choose; what is None is
    the preset's."""

    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    """Decides every setting whose default is None. smoke: photographs, tiny networks,
    seconds; cpu: 2000 images of CIFAR-10 for 2 cores (frozen_first_layer: 50000, for 2
    epochs); paper: all of it, for an accelerator."""
    dataset: str | None = None
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an
    .npz file."""
    data_dir: Path | None = None
    """Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's cache by
    default."""
    images: int | None = None
    """Training images, as many of each class, evenly spaced among its own."""
    validation: int | None = None
    """Images that are only evaluated, from the test set or those held out; 0: none."""
    hold_out: int | None = None
    """Keep every so-manyth training image for validation, where there is no test
    set."""
    network: NetworkName | None = None
    """What is trained."""
    width: float | None = None
    """Of the network's layers, the first aside, times the full width."""
    first_features: int | None = None
    """Filters in the first layer."""
    dropout: float | None = None
    """Share of the units dropped in the classifier of VGG."""
    learning_rate: float | None = None
    """Of stochastic gradient descent."""
    batch_size: int | None = None
    """Images a step."""
    epochs: int | None = None
    """On true labels of all classes."""
    seeds: int | None = None
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


@dataclass(frozen=True)
class SettingsOfSeveral(Settings):
    """What experiments on networks of several kinds let their user choose."""

    other_widths: tuple[int, ...] | None = None
    """Other numbers of filters in the first layer, which to train too."""
    other_network: NetworkName | None = None
    """What else to train, with --first-features filters."""
    other_epochs: int | None = None
    """Of the training of the other network."""
    other_seeds: int | None = None
    """Networks of each of these kinds; as many as --seeds unless the experiment's
    preset says otherwise."""


def resolve(
    settings: Settings, own: Mapping[str, Mapping[str, Any]] | None = None
) -> Any:
    """The settings with what is None taken from the preset, after checking them.

    Args:
      settings: of one experiment.
      own: by preset, what that experiment does otherwise than the others.

    Raises:
      ValueError: an unknown preset, or a setting that cannot work.
    """
    if settings.preset not in PRESETS:
        raise ValueError(
            f"--preset must be one of {', '.join(PRESETS)}, got {settings.preset!r}."
        )
    changes = (own or {}).get(settings.preset, {})
    preset = {"store": settings.out / "runs"} | PRESETS[settings.preset] | dict(changes)
    preset.setdefault("other_seeds", settings.seeds or preset["seeds"])
    names = [field.name for field in fields(settings)]
    missing = {
        name: preset[name]
        for name in names
        if name in preset and getattr(settings, name) is None
    }
    given: Any = replace(settings, **missing)
    counts = (
        "images",
        "first_features",
        "batch_size",
        "epochs",
        "shuffled_epochs",
        "pair_images",
        "pair_epochs",
    )
    smallest = dict.fromkeys((*counts, "other_epochs"), 1) | {
        "validation": 0,
        "hold_out": 2,
    }
    smallest |= {"seeds": 2, "other_seeds": 2}
    frame.check_at_least(
        given, {name: bound for name, bound in smallest.items() if name in names}
    )
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
    return given


def resolve_several(
    settings: SettingsOfSeveral, own: Mapping[str, Mapping[str, Any]] | None = None
) -> Any:
    """`resolve`, after which no kind of network is named twice.

    Raises:
      ValueError: as `resolve`; a kind of network that is none, or named twice.
    """
    given = resolve(settings, own)
    widths = (given.first_features, *given.other_widths)
    if min(widths) < 1 or len(set(widths)) < len(widths) or len(widths) < 2:
        raise ValueError(
            "--other-widths must be at least one number of filters, none below 1 and"
            f" none twice or equal to --first-features = {given.first_features}, got"
            f" {given.other_widths}."
        )
    if given.other_network == given.network:
        raise ValueError(
            f"--other-network must be another than --network = {given.network}."
        )
    return given


def base_run(settings: Any, **changes: Any) -> Run:
    """The run that all experiments share, true labels of all classes; `changes` are to
    the settings or to the run."""
    options = ("network", "width", "first_features", "dropout")
    strides = changes.pop("first_strides", None)
    shared = (
        "dataset",
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
    network = replace(
        _network(*(chosen.pop(name) for name in options)), first_strides=strides
    )
    records = (
        *(epoch for epoch in RECORD_EPOCHS if epoch < chosen["epochs"]),
        chosen["epochs"],
    )
    return Run(network, record_epochs=records, **chosen)


def several_runs(settings: Any) -> dict[str, Run]:
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


def shuffled_run(settings: Any) -> Run:
    """The run on shuffled labels that experiments share."""
    return base_run(
        settings, shuffled_labels=settings.seed, epochs=settings.shuffled_epochs
    )
