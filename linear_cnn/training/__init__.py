"""Training that records the first layer's trajectory."""

from linear_cnn.training._train import train, train_seeds
from linear_cnn.training._trained import trained_network
from linear_cnn.training._trajectory import TrainingDiverged, Trajectory

__all__ = [
    "TrainingDiverged",
    "Trajectory",
    "train",
    "train_seeds",
    "trained_network",
]
