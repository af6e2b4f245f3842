"""Three more conventions of Fig. 6, which were fixed before their results were known
(docs/results.md) and stand in a table alone."""

from collections.abc import Mapping

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
    images: np.ndarray, banks: Mapping[str, np.ndarray], largest: int
) -> Arrays:
    """The curves of these conventions.

    Args:
      images: (N, H, W, C), normalised.
      banks: filters by the names of CURVES but "rgb", each (banks, kh, kw, C, K).
      largest: the largest distance in pixels.

    Returns:
      by "further/<convention>/<curve>", each (banks, D), at distances from 0; in WIDE
      to what such windows leave of the images, and nothing where they leave less than
      3 pixels.
    """
    channels = images.shape[-1]
    pixels = np.eye(channels)[None, None, None]
    found = {}
    for name, bank in {"rgb": pixels, **banks}.items():
        moments = theory.cross_moments(images, bank.shape[1:3], range(largest + 1))
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
        moments = theory.cross_moments(images, WINDOW, range(left + 1))
        found[f"further/{WIDE}/whitening"] = np.asarray(
            theory.autocorrelation(whitening, moments)
        )[None]
    return found


def of_absolute_values(
    images: np.ndarray, filters: np.ndarray, largest: int
) -> np.ndarray:
    """Autocorrelation of |z| about its mean, of the vector of all responses z (stride
    1, no padding): horizontal and vertical averaged, (D,)."""

    @jax.jit
    def responses(part: jax.Array) -> jax.Array:
        convolved = jax.lax.conv_general_dilated(
            part,
            jnp.asarray(filters, part.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.abs(convolved)

    @jax.jit
    def products(z: jax.Array) -> jax.Array:
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

    parts = [
        jnp.asarray(images[start : start + _CHUNK], jnp.float32)
        for start in range(0, len(images), _CHUNK)
    ]
    weights = np.array([len(part) for part in parts]) / len(images)
    means = [
        np.asarray(responses(part).mean((0, 1, 2), keepdims=True)) for part in parts
    ]
    mean = jnp.asarray(np.average(means, axis=0, weights=weights), jnp.float32)
    sums = [np.asarray(products(responses(part) - mean), np.float64) for part in parts]
    total = np.average(sums, axis=0, weights=weights).reshape(-1, 2).mean(axis=1)
    return total / total[0]
