"""What is trained: the settings, and the runs that they ask for."""

from dataclasses import dataclass
from typing import Any

from experiments import frame, trained

NAME = "drive"


@dataclass(frozen=True)
class Settings(trained.Settings):
    """What drives the first layer of real networks along their training (ours)."""

    # Neither this root of seeds nor its networks were used in the pilot.
    seed: int = 3011
    seeds: int = 2
    dropout: float = 0.0
    epochs: int = 20
    validation: int = 5_000
    """Images that are not trained on, of which gradients are taken too."""
    batches: tuple[str, ...] = ("16,0.04", "64,0.01")
    """Other batch sizes and learning rates, as size,rate."""
    sizes: tuple[int, ...] = (4_000,)
    """Other numbers of training images."""
    intervals: int = 20
    """Of equal length, over which gradients are summed, and between which the curvature
    is measured."""
    curvature_images: int = 1_000
    """Of the training images so many, evenly spaced over the classes, are what the
    curvature is measured on."""


PRESETS = {
    "smoke": Settings(
        **trained.SMOKE | {"images": 128, "seeds": 2, "epochs": 2, "batch_size": 16},
        batches=("32,0.02",),
        sizes=(),
        intervals=4,
        curvature_images=64,
    ),
    "cpu": Settings(),
    "paper": Settings(
        **trained.PAPER_SIZE | {"width": 0.25}, sizes=(10_000,), batches=()
    ),
}


def resolve(given: Settings) -> Settings:
    """The settings, checked.

    Raises:
      ValueError: one that cannot work.
    """
    given = trained.check(given)
    least = {"curvature_images": 2, "intervals": 2, "validation": 1}
    frame.check_at_least(given, least)
    trained.check_numbers("sizes", given.sizes)
    if given.images in given.sizes:
        raise ValueError(
            f"--sizes must not hold --images = {given.images}, which is trained anyway."
        )
    for name, run in runs(given).items():
        if steps(run, run.images) < given.intervals:
            raise ValueError(
                f"--intervals must be at most the steps of each training, but {name!r}"
                f" has {steps(run, run.images)}, got {given.intervals}."
            )
    return given


def steps(run: trained.Run, images: int | None) -> int:
    """Of the whole training on so many images."""
    assert images is not None  # the settings have a number
    return run.epochs * (images // run.batch_size)


def runs(settings: Settings) -> dict[str, trained.Run]:
    """All that is trained: "base", "batch <size>,<rate>", "images <N>" and
    "shuffled"."""
    changes: dict[str, dict[str, Any]] = {"base": {}}
    changes |= {
        f"batch {text}": trained.batch_and_rate(text) for text in settings.batches
    }
    changes |= {f"images {size}": {"images": size} for size in settings.sizes}
    changes["shuffled"] = {"shuffled_labels": settings.seed}
    return {
        name: trained.base_run(settings, **change) for name, change in changes.items()
    }
