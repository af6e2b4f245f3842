"""Forms of the profile whose time is fitted: the paper's, that of the filters' patch
moments, and what is left of it without one of its parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import linear_cnn
import theory
from experiments import trained
from experiments.trained import KERNEL_SIZE

# Every form is a family of profiles over time, made of the images, the filters before
# training, the network and the components.
LAMBDA, NOISE, MOMENTS = "λ-formula", "noise form, padded", "patch moments"
FITTED = (LAMBDA, NOISE, MOMENTS)
ABLATIONS = (
    "λ-formula, padded",
    "patch moments, one rate",
    "patch moments, no pool",
    "patch moments, no gate",
)
FAILING, HARMLESS = ("other images", "shuffled pixels"), ("randomised phases",)
CONTROLS = (*FAILING, *HARMLESS)


def has_batch_norm(kind: trained.Network) -> bool:
    """Whether the first layer of a network is normalised."""
    return kind.name != "SmallCNN" or bool(kind.batch_norm)


def pool(kind: trained.Network) -> int | None:
    """The window of the max pool between a network's first layer and its second."""
    return 2 if kind.name == "SmallCNN" or kind.depth == 11 else None


def filter_moments(
    images: np.ndarray, filters: np.ndarray, kind: trained.Network, **changes: Any
) -> np.ndarray:
    """The patch moments of a network's first filters, (K, d, d), as it sees the
    patches; d + 1 where the bias learns."""
    settings = {"pool": pool(kind), "batch_norm": has_batch_norm(kind)} | changes
    return np.asarray(theory.filter_curvature(images, filters, **settings))


def families(
    padded_moment: np.ndarray,
    moments: np.ndarray,
    variance: np.ndarray,
    components: np.ndarray,
) -> dict[str, Any]:
    """The forms that are fitted at every record, by their names."""
    return {
        LAMBDA: theory.theorem_family(variance),
        NOISE: of_noise(padded_moment, components),
        MOMENTS: of_moments(moments, components),
    }


def ablations(
    images: np.ndarray,
    filters: np.ndarray,
    kind: trained.Network,
    padded_moment: np.ndarray,
    moments: np.ndarray,
    components: np.ndarray,
) -> dict[str, Any]:
    """What is left of the patch moments without one of their parts, by ABLATIONS."""
    rates = np.einsum("kaa->k", moments)[:, None, None]
    # In expectation those of a gate that is independent of the patches.
    no_gate = filter_moments(images, filters, kind, pool=None, activation="identity")
    made = (
        padded_moment[None],
        moments / rates,
        filter_moments(images, filters, kind, pool=None),
        no_gate,
    )
    return {
        name: of_moments(one, components)
        for name, one in zip(ABLATIONS, made, strict=True)
    }


def controls(
    others: Mapping[str, np.ndarray],
    filters: np.ndarray,
    kind: trained.Network,
    components: np.ndarray,
) -> dict[str, Any]:
    """The patch moments of `other_images`, by CONTROLS."""
    return {
        name: of_moments(filter_moments(other, filters, kind), components)
        for name, other in others.items()
    }


def of_moments(moments: np.ndarray, components: np.ndarray) -> Any:
    """The profiles of patch moments over time."""
    return theory.curvature_family(moments, padded(components, moments.shape[-1]))


def moment_with_padding(images: np.ndarray) -> np.ndarray:
    """Covariance of the patches as the network sees them."""
    moments = theory.patch_moments(images, KERNEL_SIZE, padding="SAME")
    return np.asarray(moments.covariance)


def padded(components: np.ndarray, entries: int) -> np.ndarray:
    """Components of the weights among the entries that a filter has with its bias."""
    return np.pad(components, ((0, entries - len(components)), (0, 0)))


def of_noise(moment: np.ndarray, components: np.ndarray) -> Any:
    r"""Profiles :math:`\sqrt{u_i^T (1 - e^{-2tS}) u_i}` over time, S the moment: what
    white noise of the same covariance would give."""
    variance, axes = np.linalg.eigh(moment)
    shares = (axes.T @ components) ** 2

    def profile(time: np.ndarray) -> np.ndarray:
        return np.sqrt(-np.expm1(-2 * time[..., None] * variance) @ shares)

    return theory.profile_family(
        profile,
        times=(1e-4 / variance.max(), 1e4 / variance.min()),
        at_zero=np.sqrt(variance @ shares),
        at_infinity=np.ones(len(variance)),
    )


def other_images(images: np.ndarray, data: trained.Data) -> dict[str, np.ndarray]:
    """Images from which the moments of the filters should not come out right (FAILING),
    and some from which they should (HARMLESS)."""
    random = np.random.default_rng(0)
    photographs = linear_cnn.load_images("photographs").images
    other = linear_cnn.normalize_channels(
        linear_cnn.scale_pixels(photographs), data.mean, data.std
    )
    pixels = images.reshape(len(images), -1, images.shape[-1])
    shuffled = random.permuted(
        np.broadcast_to(np.arange(pixels.shape[1]), pixels.shape[:2]), axis=1
    )
    noise = np.fft.fft2(random.normal(size=images.shape[:3]), axes=(1, 2))
    # The same phases in all channels, whose correlations they leave.
    phases = (noise / np.abs(noise))[..., None]
    randomised = np.fft.ifft2(np.fft.fft2(images, axes=(1, 2)) * phases, axes=(1, 2))
    values = (
        other,
        np.take_along_axis(pixels, shuffled[..., None], axis=1).reshape(images.shape),
        randomised.real,
    )
    return {
        name: np.asarray(value, np.float32)
        for name, value in zip(CONTROLS, values, strict=True)
    }
