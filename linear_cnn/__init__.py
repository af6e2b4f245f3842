"""Convolutional networks in Flax, trained by a jit-compiled loop that records their
first layer."""

from linear_cnn._shortcuts import compress, mean_patch_images
from linear_cnn._version import __version__ as __version__
from linear_cnn.datasets import (
    ImageFiles,
    ImageSet,
    cifar10,
    cifar100,
    fashion_mnist,
    gaussian_images,
    image_batches,
    image_folder,
    label_by_energy,
    labelled_folder,
    load_images,
    normalize_channels,
    npz_images,
    photographs,
    scale_component,
    scale_pixels,
    select_classes,
    shuffle_labels,
    shuffle_patches,
)
from linear_cnn.networks import (
    VGG,
    LinearCNN,
    ResNet,
    SmallCNN,
    closed_form_init,
    first_kernel,
    patch_convolution,
)
from linear_cnn.tangent import (
    BackpropagatedSignal,
    TangentMoments,
    backpropagated_signal,
    tangent_moments,
)
from linear_cnn.training import TrainingDiverged, Trajectory, train, train_seeds
from linear_cnn.weight_files import FirstLayer, load_first_layer

__all__ = [
    "VGG",
    "BackpropagatedSignal",
    "FirstLayer",
    "ImageFiles",
    "ImageSet",
    "LinearCNN",
    "ResNet",
    "SmallCNN",
    "TangentMoments",
    "TrainingDiverged",
    "Trajectory",
    "backpropagated_signal",
    "cifar10",
    "cifar100",
    "closed_form_init",
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
    "tangent_moments",
    "train",
    "train_seeds",
]
