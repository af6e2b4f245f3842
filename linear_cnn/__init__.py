"""Convolutional networks in Flax, trained by a jit-compiled loop that records their first layer."""

from linear_cnn.classifiers import VGG, ResNet, SmallCNN
from linear_cnn.convolution import patch_convolution
from linear_cnn.datasets import (
    ImageSet,
    cifar10,
    cifar100,
    fashion_mnist,
    gaussian_images,
    image_batches,
    image_folder,
    labelled_folder,
    load_images,
    npz_images,
    photographs,
    scale_pixels,
)
from linear_cnn.image_files import ImageFiles
from linear_cnn.networks import LinearCNN, first_kernel
from linear_cnn.shortcuts import compress, mean_patch_images
from linear_cnn.training import TrainingDiverged, Trajectory, train, train_seeds
from linear_cnn.transformations import (
    label_by_energy,
    normalize_channels,
    scale_component,
    select_classes,
    shuffle_labels,
    shuffle_patches,
)
from linear_cnn.weight_files import FirstLayer, load_first_layer

__all__ = [
    "VGG",
    "FirstLayer",
    "ImageFiles",
    "ImageSet",
    "LinearCNN",
    "ResNet",
    "SmallCNN",
    "TrainingDiverged",
    "Trajectory",
    "cifar10",
    "cifar100",
    "compress",
    "fashion_mnist",
    "first_kernel",
    "gaussian_images",
    "image_batches",
    "image_folder",
    "label_by_energy",
    "labelled_folder",
    "load_first_layer",
    "load_images",
    "mean_patch_images",
    "normalize_channels",
    "npz_images",
    "patch_convolution",
    "photographs",
    "scale_component",
    "scale_pixels",
    "select_classes",
    "shuffle_labels",
    "shuffle_patches",
    "train",
    "train_seeds",
]
