"""Three more conventions of Fig. 6, which were fixed before their results were known
(docs/results.md) and stand in a table alone."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import theory
from experiments.frame import Arrays

WINDOW = 21  # pixels: of whitening further than the kernel sees
APART = "the mean of each channel's own correlation"
ABSOLUTE = "absolute values of the responses"
WIDE = f"whitening of windows of {WINDOW}x{WINDOW} pixels"
CURVES = ("rgb", "random", "weights", "change", "whitening")
_FEW = 4  # networks, and banks of random filters, that images are convolved with
_CHUNK = 250  # images


def further(
    images: np.ndarray,
    banks: Mapping[str, tuple[np.ndarray, theory.CrossMoments]],
    largest: int,
) -> Arrays:
    """The curves of these conventions.

    Args:
      images: (N, H, W, C), normalised.
      banks: filters by the names of CURVES, each (banks, kh, kw, C, K), with the
        images' moments of pairs of patches as large, at distances 0 to `largest`.
      largest: the largest distance in pixels.

    Returns:
      by "further/<convention>/<curve>", each (banks, D), at distances from 0; in WIDE
      to what such windows leave of the images, and nothing where they leave less than
      3 pixels.
    """
    found = {}
    for name, (bank, moments) in banks.items():
        single = np.moveaxis(bank, -1, 1)[..., None]
        found[f"further/{APART}/{name}"] = np.asarray(
            theory.autocorrelation(single, moments)
        ).mean(axis=1)
        found[f"further/{ABSOLUTE}/{name}"] = np.stack(
            [of_absolute_values(images, filters, largest) for filters in bank[:_FEW]]
        )
    left = min(min(images.shape[1:3]) - WINDOW, largest)
    if left >= 2:
        spectrum = theory.patch_spectrum(images, WINDOW)
        whitening = theory.filters_with_profile(
            theory.whitening_profile(spectrum.variance), spectrum
        )
        wide = theory.cross_moments(images, WINDOW, range(left + 1))
        found[f"further/{WIDE}/whitening"] = np.asarray(
            theory.autocorrelation(whitening, wide)
        )[None]
    return found


def of_absolute_values(
    images: np.ndarray, filters: np.ndarray, largest: int
) -> np.ndarray:
    """Autocorrelation of |z| about its mean, of the vector of all responses z (stride
    1, no padding): horizontal and vertical averaged, (D,)."""
    kernel = jnp.asarray(filters, jnp.float32)
    parts = [
        jnp.asarray(images[start : start + _CHUNK], jnp.float32)
        for start in range(0, len(images), _CHUNK)
    ]
    weights = np.array([len(part) for part in parts]) / len(images)
    means = [_responses(part, kernel).mean((0, 1, 2), keepdims=True) for part in parts]
    mean = jnp.asarray(np.average(means, axis=0, weights=weights), jnp.float32)
    sums = [
        np.asarray(_products(_responses(part, kernel) - mean, largest), np.float64)
        for part in parts
    ]
    total = np.average(sums, axis=0, weights=weights).reshape(-1, 2).mean(axis=1)
    return total / total[0]


@jax.jit
def _responses(images: jax.Array, filters: jax.Array) -> jax.Array:
    """Absolute values."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jnp.abs(
        jax.lax.conv_general_dilated(
            images, filters, (1, 1), "VALID", dimension_numbers=layout
        )
    )


@partial(jax.jit, static_argnames="largest")
def _products(z: jax.Array, largest: int) -> jax.Array:
    """Mean products at each distance, vertical and horizontal."""
    rows, columns = z.shape[1:3]
    return jnp.stack(
        [
            jnp.mean(jnp.sum(a * b, axis=-1))
            for d in range(largest + 1)
            for a, b in (
                (z[:, d:], z[:, : rows - d]),
                (z[:, :, d:], z[:, :, : columns - d]),
            )
        ]
    )
