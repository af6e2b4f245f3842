"""Networks, and the convolution that they are made of."""

from linear_cnn.networks._closed_form import closed_form_init
from linear_cnn.networks._convolution import patch_convolution
from linear_cnn.networks._linear import LinearCNN
from linear_cnn.networks._paths import first_kernel
from linear_cnn.networks._resnet import ResNet
from linear_cnn.networks._small import SmallCNN
from linear_cnn.networks._vgg import VGG

__all__ = [
    "VGG",
    "LinearCNN",
    "ResNet",
    "SmallCNN",
    "closed_form_init",
    "first_kernel",
    "patch_convolution",
]
