"""A small run on images of its own."""

from pathlib import Path

import numpy as np
import pytest

from experiments.trained import Network, Run

SMALL = Network("SmallCNN", features=(4, 2, 2))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """60 images of three classes, of 30, 20 and 10."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 20, 10])[random.permutation(60)]
    pixels = random.integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    return tmp_path / "images.npz"


@pytest.fixture
def run(images: Path) -> Run:
    return Run(
        SMALL,
        str(images),
        images=24,
        validation=6,
        hold_out=4,
        epochs=5,
        record_epochs=(1, 5),
        batch_size=5,
        learning_rate=0.01,
        seeds=2,
        classes=("0", "1"),
    )
