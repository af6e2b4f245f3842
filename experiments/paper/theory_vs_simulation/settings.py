"""Settings of `theory_vs_simulation`, and its single runs and ensembles in words."""

from dataclasses import dataclass

import numpy as np

from experiments import frame

QUANTILES = (0.05, 0.95)
ENSEMBLES = {
    "raw_drawn": "raw images, drawn targets",
    "raw_shuffled": "raw images, shuffled labels",
    "patches_drawn": "patch-shuffled images, drawn targets",
}
EXACT = {
    "full": "all images, full convolution, true and shuffled labels",
    "classes": (
        "all mean patches, each class against the rest, true and shuffled labels"
    ),
    "few": "32 images, full convolution, stride 3",
    "hard": "32 images, stride 2, SAME, an output a class, head of rank 2, x_max 1.9",
    "mean_patches": "all mean patches",
    "float32": "all mean patches, float32",
    "compressed": "all images, compressed to d pseudo-images",
    "compressed_full": "all images, compressed, steps of the full convolution",
}


@dataclass(frozen=True)
class Settings(frame.Settings):
    """Closed forms against trained linear CNNs."""

    label: int = 3
    """The class that the labels tell from all others, counted from 0 (photographs:
    coffee; CIFAR-10: cat)."""
    seeds: int = 128
    """Random initialisations, with new targets each, in every ensemble."""
    steps: int = 150_000
    """Gradient steps on patch-shuffled images; raw images are trained for a tenth of
    them."""
    filters: int = 16
    """Width of the convolution."""
    kernel_size: int = 3
    """Height and width of the filters."""
    rate: float = 0.9
    """Learning rate times the largest curvature; stable below 2."""
    init_std: float = 1e-4
    """Standard deviation of the initial weights of the ensembles."""
    full_steps: int = 20
    """Steps of the runs through the full convolution of all images, with gradients
    accumulated over batches."""
    exact_steps: int = 10_000
    """Steps of the other single runs; a tenth where the convolution is hard or there
    are many networks."""
    seed: int = 0
    """Of every random number in the experiment."""


PRESETS = {
    "smoke": Settings(
        preset="smoke",
        seeds=32,
        steps=500,
        images=256,
        filters=4,
        full_steps=2,
        exact_steps=100,
    ),
    "cpu": Settings(preset="cpu"),
    "paper": Settings(
        preset="paper", dataset="cifar10", seeds=512, steps=400_000, exact_steps=1000
    ),
}


def check(settings: Settings) -> None:
    """Raise ValueError for settings that cannot work, before anything is computed."""
    smallest = {
        "seeds": 2,
        "steps": 1,
        "filters": 1,
        "kernel_size": 1,
        "full_steps": 1,
        "exact_steps": 1,
        "images": 64,
    }
    frame.check_at_least(settings, smallest)
    if not 0 < settings.rate < 2:
        raise ValueError(
            "--rate must lie between 0 and 2, the border of stability, got"
            f" {settings.rate}."
        )
    if not settings.init_std >= 0:
        raise ValueError(f"--init-std must be >= 0, got {settings.init_std}.")


def check_inputs(
    settings: Settings, images: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """Raise ValueError for settings that do not fit the images."""
    largest = min(images.shape[1:3]) // 3
    if settings.kernel_size > largest:
        raise ValueError(
            f"--kernel-size must be at most {largest}, for 3x3 patches in an image of"
            f" {images.shape[1]}x{images.shape[2]} pixels, got {settings.kernel_size}."
        )
    if not 0 <= settings.label < len(class_names):
        names = ", ".join(f"{number} {name}" for number, name in enumerate(class_names))
        raise ValueError(f"--label must be one of {names}; got {settings.label}.")
