"""Convolutional networks in Flax, trained by a jit-compiled loop that records their first layer."""

from linear_cnn.convolution import patch_convolution
from linear_cnn.datasets import ImageSet, gaussian_images, photographs
from linear_cnn.networks import LinearCNN, first_kernel
from linear_cnn.shortcuts import compress, mean_patch_images
from linear_cnn.training import Trajectory, train, train_seeds
from linear_cnn.transformations import shuffle_patches

__all__ = [
    "ImageSet",
    "LinearCNN",
    "Trajectory",
    "compress",
    "first_kernel",
    "gaussian_images",
    "mean_patch_images",
    "patch_convolution",
    "photographs",
    "shuffle_patches",
    "train",
    "train_seeds",
]
