"""What is predicted: the settings, and the runs that they ask for."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import frame, trained

NAME = "prediction"
# Multiples of the training's own time at which the prediction is looked at; the middle
# one is 1.
MULTIPLES = np.geomspace(1 / 30, 30, 31)
OWN_TIME = len(MULTIPLES) // 2


@dataclass(frozen=True)
class Settings(trained.Settings):
    """The first layer predicted from the network at its initialisation (ours)."""

    # None of these seeds was used when the formulas were found.
    seed: int = 2611
    seeds: int = 3
    dropout: float = 0.0
    epochs: int = 20
    validation: int = 0
    sizes: tuple[int, ...] = (1_000, 4_000, 8_000)
    """Other numbers of training images."""
    batches: tuple[str, ...] = ("16,0.04", "64,0.01", "64,0.04")
    """Other batch sizes and learning rates, as size,rate."""
    shuffled_sizes: tuple[int, ...] = (4_000,)
    """Numbers of training images, beside --images, with shuffled labels."""
    dropped: float = 0.5
    """Dropout of the networks that are trained with it; all others have --dropout."""
    other_widths: tuple[int, ...] = (32, 128)
    """Other numbers of filters in the first layer."""
    pair: str = "dog,cat"
    """Two classes to train on alone."""
    other_network: trained.NetworkName = "ResNet18"
    """Another deep network with batch norm."""
    other_epochs: int = 10
    """Of its training."""
    curvature_images: int = 2_000
    """Of the training images so many, evenly spaced over the classes, are what the
    curvature is measured on."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE
        | {"validation": 0, "hold_out": None, "images": 128, "seeds": 2}
        | {"epochs": 2, "batch_size": 16},
        sizes=(256,),
        batches=("32,0.02",),
        shuffled_sizes=(),
        other_widths=(6,),
        pair="astronaut,coffee",
        other_network="VGG11",
        other_epochs=2,
        curvature_images=64,
    ),
    "cpu": Settings(),
    "paper": Settings(
        **trained.PAPER_SIZE | {"width": 0.25, "validation": 0},
        sizes=(10_000,),
        batches=(),
        shuffled_sizes=(),
        other_epochs=30,
    ),
}


def resolve(given: Settings) -> Settings:
    """The settings, checked.

    Raises:
      ValueError: one that cannot work.
    """
    given = trained.check(given)
    frame.check_at_least(given, {"curvature_images": 2})
    for option, values in (
        ("sizes", given.sizes),
        ("other-widths", given.other_widths),
        ("shuffled-sizes", given.shuffled_sizes),
    ):
        trained.check_numbers(option, values)
    if given.images in given.sizes or given.images in given.shuffled_sizes:
        raise ValueError(
            f"--sizes and --shuffled-sizes must not hold --images = {given.images},"
            " which is trained anyway."
        )
    if given.first_features in given.other_widths:
        raise ValueError(
            "--other-widths must not hold --first-features ="
            f" {given.first_features}, which is trained anyway."
        )
    trained.check_other_network(given)
    if not 0 < given.dropped < 1:
        raise ValueError(
            f"--dropped must be greater than 0 and less than 1, got {given.dropped}."
        )
    if len(given.pair.split(",")) != 2:
        raise ValueError(
            f"--pair must name two classes, as dog,cat, got {given.pair!r}."
        )
    for text in given.batches:
        trained.batch_and_rate(text)
    return given


def runs(settings: Settings) -> dict[str, trained.Run]:
    """All that is trained, by the names that the comparisons have.

    "base"; "images <N>"; "batch <size>,<rate>"; "shuffled", "shuffled <N>"; "dropout";
    "filters <K>"; "pair"; "other"; "small" and "small norm", SmallCNN without and with
    batch norm.
    """
    changes: dict[str, dict[str, Any]] = {"base": {}}
    changes |= {f"images {size}": {"images": size} for size in settings.sizes}
    changes |= {
        f"batch {text}": trained.batch_and_rate(text) for text in settings.batches
    }
    shuffled = {"shuffled_labels": settings.seed}
    changes["shuffled"] = shuffled
    changes |= {
        f"shuffled {size}": shuffled | {"images": size}
        for size in settings.shuffled_sizes
    }
    changes["dropout"] = {"dropout": settings.dropped}
    changes |= {
        f"filters {width}": {"first_features": width} for width in settings.other_widths
    }
    changes["pair"] = {"classes": tuple(settings.pair.split(","))}
    changes["other"] = {
        "network": settings.other_network,
        "epochs": settings.other_epochs,
    }
    changes["small"] = {"network": "SmallCNN"}
    changes["small norm"] = {"network": "SmallCNN", "batch_norm": True}
    return {
        name: trained.base_run(settings, **change) for name, change in changes.items()
    }
