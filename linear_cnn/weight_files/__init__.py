"""The first layer of a trained network, and the shapes of all, from its weights."""

from linear_cnn.weight_files._first_layer import (
    FirstLayer,
    first_layer,
    load_first_layer,
)
from linear_cnn.weight_files._listing import StoredConvolution, stored_convolutions

__all__ = [
    "FirstLayer",
    "StoredConvolution",
    "first_layer",
    "load_first_layer",
    "stored_convolutions",
]
