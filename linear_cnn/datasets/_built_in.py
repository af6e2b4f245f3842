"""Images that need no file of one's own: photographs, and random textures."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from linear_cnn._checks import check_keys, integer
from linear_cnn.datasets._image_set import ImageSet

_TILE = 32
# Photographs are shrunk by averaging blocks of pixels; the smaller versions, poor in
# tiles, are cut with overlap.
_SCALES = {1: _TILE, 2: _TILE // 2, 4: _TILE // 2}


def photographs() -> ImageSet:
    """Tiles of 32x32 pixels from the six colour photographs of this package, labelled
    by photograph.

    2,820 tiles: non-overlapping at full resolution, half overlapping after averaging
    blocks of 2x2 and 4x4 pixels. Pixels are the sRGB values divided by 255.
    `linear_cnn/photographs/ATTRIBUTION.md` names the photographers and licences.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> images, labels, class_names = linear_cnn.photographs()
      >>> images.shape, images.dtype
      ((2820, 32, 32, 3), dtype('float32'))
      >>> class_names[:3], np.bincount(labels).tolist()
      (('astronaut', 'chelsea', 'china'), [530, 248, 533, 443, 533, 533])
    """
    folder = resources.files("linear_cnn") / "photographs"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".png")),
        key=lambda file: file.name,
    )
    tiles = []
    for file in files:
        with file.open("rb") as stream, Image.open(stream) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float64) / 255
        tiles.append(
            np.concatenate(
                [_cut(_shrink(pixels, scale), step) for scale, step in _SCALES.items()]
            )
        )
    labels = np.repeat(
        np.arange(len(tiles), dtype=np.int32), [len(part) for part in tiles]
    )
    names = tuple(file.name.removesuffix(".png") for file in files)
    return ImageSet(np.concatenate(tiles).astype(np.float32), labels, names)


def _shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels, (H, W, C) -> (H // factor, W // factor,
    C)."""
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, -1
    )
    return blocks.mean(axis=(1, 3))


def _cut(pixels: np.ndarray, step: int) -> np.ndarray:
    """All tiles whose corner is a multiple of `step`, (n, tile, tile, C)."""
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels, (_TILE, _TILE), axis=(0, 1)
    )[::step, ::step]
    return np.moveaxis(windows, 2, -1).reshape(-1, _TILE, _TILE, pixels.shape[-1])


def gaussian_images(key: jax.Array, count: int, power_spectrum: ArrayLike) -> jax.Array:
    """Stationary Gaussian textures with a chosen power spectrum and periodic borders.

    Their autocovariance is the inverse discrete Fourier transform of the power
    spectrum, so the variance of a pixel is the mean of the power spectrum; white noise
    has power 1 everywhere.

    Args:
      key: JAX key.
      count: N.
      power_spectrum: (H, W, C), >= 0, in the order of `numpy.fft.fft2`; equal at
        opposite frequencies, because the images are real. Channels are independent.

    Returns:
      images, (N, H, W, C), of mean 0.

    Raises:
      TypeError: no key. ValueError: a count below 1; a power spectrum of the wrong
        rank, negative, not finite or not symmetric.

    Examples:
      Where all power is that of one wave along the rows, every image is such a wave:

      >>> import jax
      >>> import linear_cnn
      >>> import numpy as np
      >>> power = np.zeros((8, 16, 1))
      >>> power[0, 1] = power[0, -1] = 64
      >>> images = linear_cnn.gaussian_images(jax.random.key(0), 5, power)
      >>> images.shape
      (5, 8, 16, 1)
      >>> np.allclose(images, images[:, :1], atol=1e-5)  # the rows are equal
      True
      >>> np.allclose(images[:, :, 8:], -images[:, :, :8], atol=1e-5)
      True
    """
    check_keys("key", key, axes=0)
    count = integer("count", count, minimum=1)
    power = np.asarray(power_spectrum)
    if power.ndim != 3 or 0 in power.shape:
        raise ValueError(
            f"power_spectrum must have shape (H, W, C), got {power.shape}."
        )
    if not (np.isfinite(power).all() and (power >= 0).all()):
        raise ValueError("power_spectrum must be finite and >= 0.")
    opposite = np.roll(power[::-1, ::-1], 1, axis=(0, 1))
    if not np.allclose(power, opposite, rtol=1e-6, atol=1e-12 * power.max()):
        raise ValueError(
            "power_spectrum must be equal at opposite frequencies (k and -k), or the"
            " images would not be real; average it with numpy.roll(power[::-1, ::-1],"
            " 1, axis=(0, 1))."
        )
    noise = jax.random.normal(key, (count, *power.shape))
    spectrum = jnp.fft.fft2(noise, axes=(1, 2))
    amplitude = jnp.sqrt(jnp.asarray(power, noise.dtype)).astype(spectrum.dtype)
    return jnp.fft.ifft2(spectrum * amplitude[None], axes=(1, 2)).real
