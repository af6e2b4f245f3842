"""The first layer of a trained network, from its weights."""

from linear_cnn.weight_files._first_layer import (
    FirstLayer,
    first_layer,
    load_first_layer,
)

__all__ = [
    "FirstLayer",
    "first_layer",
    "load_first_layer",
]
