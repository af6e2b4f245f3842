"""Networks, and the convolution that they are made of."""

from linear_cnn.networks._classifiers import VGG, ResNet, SmallCNN
from linear_cnn.networks._convolution import patch_convolution
from linear_cnn.networks._linear import LinearCNN, first_kernel

__all__ = [
    "VGG",
    "LinearCNN",
    "ResNet",
    "SmallCNN",
    "first_kernel",
    "patch_convolution",
]
