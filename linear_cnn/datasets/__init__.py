"""Images to train on: standard data sets, folders and arrays of one's own, photographs,
and random textures."""

from linear_cnn.datasets._augmentation import random_crop_and_flip
from linear_cnn.datasets._built_in import gaussian_images, photographs
from linear_cnn.datasets._channels import normalize_channels
from linear_cnn.datasets._image_files import ImageFiles
from linear_cnn.datasets._image_set import ImageSet, image_batches, scale_pixels
from linear_cnn.datasets._image_sets import load_images
from linear_cnn.datasets._labels import label_by_energy, select_classes, shuffle_labels
from linear_cnn.datasets._own import image_folder, labelled_folder, npz_images
from linear_cnn.datasets._patches import scale_component, shuffle_patches
from linear_cnn.datasets._standard import (
    CIFAR10_FILES,
    CIFAR100_COUNTS,
    FASHION_MNIST_SHAPES,
    cifar10,
    cifar100,
    data_folder,
    fashion_mnist,
    parse_cifar10,
    parse_cifar100,
    parse_fashion_mnist,
)

__all__ = [
    "CIFAR10_FILES",
    "CIFAR100_COUNTS",
    "FASHION_MNIST_SHAPES",
    "ImageFiles",
    "ImageSet",
    "cifar10",
    "cifar100",
    "data_folder",
    "fashion_mnist",
    "gaussian_images",
    "image_batches",
    "image_folder",
    "label_by_energy",
    "labelled_folder",
    "load_images",
    "normalize_channels",
    "npz_images",
    "parse_cifar10",
    "parse_cifar100",
    "parse_fashion_mnist",
    "photographs",
    "random_crop_and_flip",
    "scale_component",
    "scale_pixels",
    "select_classes",
    "shuffle_labels",
    "shuffle_patches",
]
