"""The first layer of a trained network, from a file of its weights."""

from linear_cnn.weight_files._first_layer import FirstLayer, load_first_layer

__all__ = [
    "FirstLayer",
    "load_first_layer",
]
