"""The methods that are compared."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import linear_cnn
import theory
from experiments.benchmark.growth import SERIES, squared_profiles
from experiments.benchmark.training import (
    PRESET,
    SEEDS,
    VGGRun,
    default_convolution_mapped,
    one_seed_after_another,
    our_small,
    our_vgg,
    own_module,
    torch_vgg,
)

Compute = Callable[[], np.ndarray]
BATCH = 256  # images whose patches the plain NumPy sum holds at once
LEARNING_RATE = 1e-7  # of the paper's scan for the time at which the formula fits best
ITERATIONS = range(10_000, 5_000_001, 250)  # of the same
PROFILES = 256  # fitted at once


def our_spectrum(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """`theory.patch_spectrum`."""
    return lambda: np.asarray(theory.patch_spectrum(images, kernel_size).variance)


def official_recipe(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """All patches in one float64 matrix, and its singular values by
    `torch.pca_lowrank`, as the paper's authors do."""
    import torch

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def compute() -> np.ndarray:
        # (N, d, patches in an image).
        unfolded = torch.nn.functional.unfold(tensor, kernel_size)
        patches = unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]).double()
        singular = torch.pca_lowrank(patches, q=patches.shape[1], center=True)[1]
        return (singular**2 / len(patches)).numpy()

    return compute


def scikit_learn(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """All patches in one float64 matrix, given to scikit-learn's PCA with its fastest
    solver for such a matrix."""
    from sklearn.decomposition import PCA

    def compute() -> np.ndarray:
        patches = unfold(images, kernel_size)
        variance = (
            PCA(svd_solver="covariance_eigh", copy=False)
            .fit(patches)
            .explained_variance_
        )
        return variance * (len(patches) - 1) / len(patches)

    return compute


def numpy_sum(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """The patches of a few images at a time, and the sum of p p^T over them."""

    def compute() -> np.ndarray:
        total, second, count = 0.0, 0.0, 0
        for start in range(0, len(images), BATCH):
            patches = unfold(images[start : start + BATCH], kernel_size)
            total = total + patches.sum(axis=0)
            second = second + patches.T @ patches
            count += len(patches)
        mean = total / count
        return np.linalg.eigvalsh(second / count - np.outer(mean, mean))[::-1]

    return compute


def our_fit(images: np.ndarray, count: int = 1) -> Compute:
    """`theory.fit_profile` of so many profiles at once; the correlation of the
    first."""
    profiles, variance = noisy_profiles(images, count)

    def compute() -> np.ndarray:
        fit = theory.fit_profile(profiles, variance, learning_rate=LEARNING_RATE)
        return np.asarray(fit.correlation, np.float64)[:1]

    return compute


def scan_of_times(images: np.ndarray) -> Compute:
    """The formula and its correlation with a profile at each of many iterations, as the
    paper's authors do."""
    profiles, variance = noisy_profiles(images, 1)

    def compute() -> np.ndarray:
        best = -1.0
        for t in ITERATIONS:
            formula = np.abs(1 - (1 - LEARNING_RATE * variance) ** t) / np.sqrt(
                variance
            )
            best = max(best, np.corrcoef(profiles[0], formula)[0, 1])
        return np.array([best])

    return compute


def noisy_profiles(images: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (count, d) that the formula makes up to a tenth, as those of trained
    networks, and the variance (d,)."""
    variance = np.asarray(
        theory.patch_spectrum(linear_cnn.normalize_channels(images), 3).variance
    )
    profile = np.asarray(
        theory.iteration_profile(variance, ITERATIONS.stop // 5, LEARNING_RATE),
        np.float64,
    )
    noise = np.random.default_rng(0).normal(size=(count, len(variance)))
    return profile * np.exp(0.1 * noise), variance


def unfold(images: np.ndarray, kernel_size: int) -> np.ndarray:
    """All patches as rows, in float64: (N, H, W, C) -> (N * locations, d)."""
    windows = np.lib.stride_tricks.sliding_window_view(
        images, (kernel_size, kernel_size), axis=(1, 2)
    )
    patches = np.ascontiguousarray(np.moveaxis(windows, 3, -1), np.float64)
    return patches.reshape(-1, images.shape[-1] * kernel_size**2)


class Method(NamedTuple):
    """A way to compute something from images.

    Attributes:
      prepare: images (N, H, W, C), float32 in [0, 1] -> the function to measure, which
        returns the numbers that every method of the same row must agree on. What
        `prepare` itself does is not measured: imports, the peer's layout.
      package: the peer that must be installed, by the name that pip knows.
    """

    prepare: Callable[[np.ndarray], Compute]
    package: str | None = None


VGG_RUNS = {
    "64 filters": VGGRun(width=1.0),
    "16 filters": VGGRun(width=0.25),
    "16 filters, 4 seeds": VGGRun(width=0.25, seeds=4),
    "cpu preset": PRESET,
    "cpu preset, 4 seeds": PRESET._replace(seeds=4),
}
METHODS = {
    "theory.patch_spectrum": Method(our_spectrum),
    "theory.patch_spectrum, 7x7": Method(partial(our_spectrum, kernel_size=7)),
    "torch.pca_lowrank of all patches": Method(official_recipe, "torch"),
    "scikit-learn PCA of all patches": Method(scikit_learn, "scikit-learn"),
    "NumPy sum over batches": Method(numpy_sum),
    "theory.fit_profile": Method(our_fit),
    f"theory.fit_profile, {PROFILES} profiles": Method(
        partial(our_fit, count=PROFILES)
    ),
    "scan of 19,961 times": Method(scan_of_times),
    "LinearDynamics.profile, 1,024 kernels": Method(
        partial(squared_profiles, size=1024)
    ),
    **{
        f"linear_cnn.train{'_seeds' if run.seeds > 1 else ''}, VGG11-BN, {name}": (
            Method(partial(our_vgg, run=run))
        )
        for name, run in VGG_RUNS.items()
    },
    **{
        f"PyTorch, VGG11-BN, {name}": Method(partial(torch_vgg, run=run), "torch")
        for name, run in VGG_RUNS.items()
        if name != "16 filters, 4 seeds"  # held against one seed
    },
    "linear_cnn.train, VGG11-BN, cpu preset, own functions": Method(
        partial(our_vgg, run=PRESET, own=True)
    ),
    "XLA's convolution, VGG11-BN, 16 filters": Method(
        partial(our_vgg, run=VGG_RUNS["16 filters"], default_convolution=True)
    ),
    "linear_cnn.train, SmallCNN": Method(our_small),
    "linear_cnn.train_seeds, SmallCNN, 4 seeds": Method(partial(our_small, seeds=4)),
    "linear_cnn.train_seeds, SmallCNN": Method(partial(our_small, seeds=SEEDS)),
    "linear_cnn.train, SmallCNN, one after another": Method(one_seed_after_another),
    "XLA's convolution, SmallCNN, lax.map": Method(default_convolution_mapped),
    "linear_cnn.train_seeds, own module, nnx.Conv as it is": Method(own_module),
    "linear_cnn.train_seeds, own module, patch_convolution": Method(
        partial(own_module, conv_general_dilated=linear_cnn.patch_convolution)
    ),
    **{
        series.method(size): Method(series.at(size))
        for series in SERIES
        for size in series.sizes
    },
}
