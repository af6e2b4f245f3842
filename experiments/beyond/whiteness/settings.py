"""Which networks are looked at, and what they keep of batch norm."""

from dataclasses import dataclass

import numpy as np

from experiments import frame

NAME = "whiteness"
DEEP = ("VGG11", "ResNet18")
# What is kept of batch norm, in words.
NORMS = {
    "full": "batch norm",
    "gain": "batch norm, drawn gains",
    "mean": "only the mean removed",
    "variance": "only the scale removed",
    "none": "no norm",
}


@dataclass(frozen=True)
class Settings(frame.Settings):
    """What makes the signal that flows back to the first layer white (ours)."""

    dataset: str = "cifar10"
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an
    .npz file; of 32x32 pixels or more."""
    images: int | None = 200
    """Use only so many images, evenly spaced."""
    width: float = 0.25
    """Width of all layers but the first of VGG11 and ResNet18, as a share of the full
    one."""
    first_features: int = 64
    """Filters in the first layer; in SmallCNN in all layers."""
    layers: tuple[int, ...] = (2, 3, 4, 5)
    """Of SmallCNN, each with a pool."""
    seeds: int = 4
    """Networks of each kind."""
    # Not the pilot's, nor another experiment's.
    seed: int = 3109
    """Root of every random number."""


PRESETS = {
    "smoke": Settings(
        preset="smoke",
        dataset="photographs",
        images=32,
        width=1 / 16,
        first_features=8,
        layers=(2, 5),
        seeds=2,
    ),
    "cpu": Settings(preset="cpu"),
    "paper": Settings(preset="paper", images=1_000, width=1.0, seeds=16),
}


def resolve(given: Settings) -> Settings:
    """The settings, checked.

    Raises:
      ValueError: one that cannot work.
    """
    frame.check_at_least(given, {"images": 2, "first_features": 2, "seeds": 2})
    increasing = list(given.layers) == sorted(set(given.layers))
    if len(given.layers) < 2 or not increasing or given.layers[0] != 2:
        raise ValueError(
            f"--layers must be 2 and larger numbers, increasing, got {given.layers}."
        )
    if not 0 < given.width < np.inf:
        raise ValueError(f"--width must be positive and finite, got {given.width}.")
    return given


def small(layers: int) -> str:
    """The name of SmallCNN with so many layers."""
    return f"SmallCNN, {layers} layers"
