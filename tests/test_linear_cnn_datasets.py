"""Photographs, random textures and shuffled patches."""

import zlib
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import theory
from linear_cnn import gaussian_images, photographs, shuffle_patches

FOLDER = resources.files("linear_cnn") / "photographs"
KEY = jax.random.key(21)


@pytest.fixture(scope="module")
def tiles():
    return photographs()


def test_photographs_are_labelled_tiles(tiles):
    assert tiles.images.shape == (2820, 32, 32, 3)
    assert tiles.images.dtype == np.float32
    assert tiles.images.min() == 0
    assert tiles.images.max() == 1
    assert tiles.labels.shape == (2820,)
    assert tiles.labels.dtype == np.int32
    assert tiles.class_names == ("astronaut", "chelsea", "china", "coffee", "flower", "rocket")
    counts = np.bincount(tiles.labels)
    assert len(counts) == 6
    assert counts.min() > 150


def test_photographs_are_cut_at_several_scales(tiles):
    """The tiles at their places, cut out of one photograph by hand."""
    with Image.open(str(FOLDER / "coffee.png")) as picture:
        pixels = np.asarray(picture, float) / 255
    assert pixels.shape == (400, 600, 3)
    ours = tiles.images[tiles.labels == tiles.class_names.index("coffee")]
    halved = np.array(
        [[pixels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for j in range(300)] for i in range(48)]
    )
    quartered = np.array(
        [[pixels[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((0, 1)) for j in range(64)] for i in range(32)]
    )
    full, half = 12 * 18, 11 * 17  # non-overlapping; half overlapping in 200x300
    assert len(ours) == full + half + 5 * 8
    np.testing.assert_allclose(ours[0], pixels[:32, :32], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[18 + 2], pixels[32:64, 64:96], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[full + 3], halved[:32, 48:80], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[full + 17], halved[16:48, :32], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[full + half + 2], quartered[:, 32:64], rtol=0, atol=1e-7)


def test_photographs_never_change(tiles):
    first = np.unique(tiles.labels, return_index=True)[1]
    picked = np.round(tiles.images[first + 5] * 255).astype(np.uint8)  # one of full resolution from each
    assert zlib.crc32(picked.tobytes()) == 3809886735
    np.testing.assert_array_equal(tiles.images, photographs().images)


def test_photographs_are_small_and_attributed():
    files = [file for file in FOLDER.iterdir() if file.name.endswith(".png")]
    assert len(files) == 6
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 3_000_000
    sections = (FOLDER / "ATTRIBUTION.md").read_text().split("\n## ")[1:]
    assert sorted(section.split()[0] for section in sections) == sorted(file.name for file in files)
    for section in sections:
        for entry in ("Author", "Licence", "Source", "Change"):
            assert f"\n- {entry}: " in section


def power_law(shape):
    """A spectrum without symmetry between the axes, different in each channel."""
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1])
    squares = 4 * rows[:, None] ** 2 + columns**2 + rows[:, None] * columns
    power = (1 / (0.02 + squares))[..., None] * np.arange(1, shape[2] + 1)
    # The error message's remedy, needed here at half the sampling frequency, which is its own opposite.
    return (power + np.roll(power[::-1, ::-1], 1, axis=(0, 1))) / 2


def test_gaussian_images_have_the_chosen_power_spectrum():
    count, shape = 3000, (6, 8, 2)
    power = power_law(shape)
    assert power.max() > 50 * power.min()
    images = np.asarray(gaussian_images(KEY, count, power))
    assert images.shape == (count, *shape)
    assert images.dtype == np.float64
    spectrum = np.fft.fft2(images, axes=(1, 2))
    measured = (np.abs(spectrum) ** 2).mean(axis=0) / (shape[0] * shape[1])
    real = np.abs(spectrum.imag).max(axis=0) < 1e-9  # a square of one Gaussian, else of two
    assert real[..., 0].sum() == 4
    scores = (measured / power - 1) / np.where(real, np.sqrt(2 / count), np.sqrt(1 / count))
    assert np.abs(scores).max() < 5
    pixels = images.reshape(count, -1, 2)
    assert np.abs(pixels.mean(axis=0) / np.sqrt(power.mean(axis=(0, 1)) / count)).max() < 5
    between_channels = (pixels[..., 0] * pixels[..., 1]).mean() / np.sqrt(np.prod(power.mean(axis=(0, 1))))
    assert abs(between_channels) < 5 / np.sqrt(count)  # pixels of an image are not independent


def test_white_noise_has_unit_variance():
    noise = np.asarray(gaussian_images(KEY, 500, np.ones((4, 6, 1))))
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 5 / np.sqrt(500 * 18)
    other = gaussian_images(jax.random.key(22), 500, np.ones((4, 6, 1)))
    assert abs((noise * other).mean()) < 5 / np.sqrt(noise.size)
    np.testing.assert_array_equal(noise, gaussian_images(KEY, 500, np.ones((4, 6, 1))))


def test_a_single_frequency_is_a_wave():
    power = np.zeros((4, 6, 1))
    power[0, 1] = power[0, 5] = 3
    images = np.asarray(gaussian_images(KEY, 500, power))
    assert np.abs(images).max() > 0.1
    np.testing.assert_allclose(images[:, :, 3:], -images[:, :, :3], rtol=0, atol=1e-14)
    np.testing.assert_allclose(images[:, 1:], images[:, :-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"power_spectrum": np.ones((4, 4))}, ValueError, r"power_spectrum must have shape \(H, W, C\), got \(4, 4\)"),
        ({"power_spectrum": np.ones((4, 0, 1))}, ValueError, r"got \(4, 0, 1\)"),
        ({"power_spectrum": -np.ones((4, 4, 1))}, ValueError, "power_spectrum must be finite and >= 0"),
        ({"power_spectrum": np.full((4, 4, 1), np.inf)}, ValueError, "power_spectrum must be finite"),
        ({"power_spectrum": np.arange(16.0).reshape(4, 4, 1)}, ValueError, "equal at opposite frequencies.*average it"),
        ({"power_spectrum": 1e-12 * np.arange(16.0).reshape(4, 4, 1)}, ValueError, "equal at opposite frequencies"),
        ({"count": 0}, ValueError, "count must be >= 1, got 0"),
        ({"count": 2.5}, TypeError, r"count must be an integer, got 2\.5"),
        ({"key": 3}, TypeError, r"key must be one JAX key, e\.g\. jax\.random\.key\(0\), got 3"),
    ],
)
def test_malformed_textures_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gaussian_images(**{"key": KEY, "count": 2, "power_spectrum": np.ones((4, 4, 1)), **arguments})


def patch_list(images, kh, kw):
    """All non-overlapping patches, one a row, by a loop."""
    return np.array(
        [
            image[i : i + kh, j : j + kw].ravel()
            for image in np.asarray(images)
            for i in range(0, image.shape[0] - kh + 1, kh)
            for j in range(0, image.shape[1] - kw + 1, kw)
        ]
    )


@pytest.mark.parametrize(
    ("size", "kernel_size", "cropped"),
    [((7, 8), (2, 3), (6, 6)), ((6, 6), 3, (6, 6))],
)
def test_shuffling_keeps_the_patches(size, kernel_size, cropped):
    images = np.random.default_rng(1).normal(size=(20, *size, 2))
    shuffled = shuffle_patches(images, kernel_size, KEY)
    kh, kw = np.broadcast_to(kernel_size, 2)
    assert shuffled.shape == (20, *cropped, 2)
    before, after = (patch_list(x, kh, kw) for x in (images, shuffled))
    np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    # Every patch is there whole: where each one came from is a permutation, over all images and places.
    source = np.array([np.flatnonzero((before == patch).all(axis=1))[0] for patch in after])
    np.testing.assert_array_equal(np.sort(source), np.arange(len(before)))
    per_image = len(before) // 20
    stayed = np.mean(source // per_image == np.arange(len(before)) // per_image)
    assert stayed < 1 / 20 + 5 * np.sqrt(1 / 20 / len(before))
    assert np.ptp(source // per_image) == 19


def test_shuffling_depends_on_the_key_alone():
    images = np.random.default_rng(2).normal(size=(20, 6, 6, 2)).astype(np.float32)
    shuffled = shuffle_patches(images, 3, KEY)
    assert shuffled.dtype == jnp.float32
    np.testing.assert_array_equal(shuffled, shuffle_patches(images, 3, KEY))
    assert np.any(shuffled != shuffle_patches(images, 3, jax.random.key(22)))


def test_shuffled_patches_of_an_image_are_uncorrelated(tiles):
    """Theorem 4.2's assumption: far from true of photographs, true after shuffling, with the same spectrum."""
    images = tiles.images[::4, :18, :18].astype(np.float64)
    count = len(images)
    mean_patch = images.reshape(count, 6, 3, 6, 3, 3).mean(axis=(0, 1, 3))
    images = images - np.tile(mean_patch, (6, 6, 1))
    spectra, ratios = [], []
    for data in (images, shuffle_patches(images, 3, KEY)):
        spectra.append(theory.patch_spectrum(data, 3, stride=3, center=False))
        moments = theory.mean_patch_moments(data, np.zeros(count), 3, stride=3)
        ratios.append(theory.decorrelation_ratio(moments, spectra[-1]))
    np.testing.assert_allclose(spectra[1].variance, spectra[0].variance, rtol=1e-10)
    assert ratios[0].max() > 10
    assert np.abs(ratios[1] - 1).max() < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be >= 1, got 0"),
        ({"kernel_size": (2, 9)}, ValueError, "4x4 pixels.*smaller than the kernel of 2x9"),
        ({"key": None}, TypeError, "key must be one JAX key.*got None"),
        ({"key": jax.random.split(KEY, 2)}, TypeError, r"key must be one JAX key.*of shape \(2,\)"),
        ({"images": np.ones((3, 4, 4, 1), np.uint8)}, TypeError, r"got uint8; scale them, .*/ 255"),
        ({"images": np.full((3, 4, 4, 1), np.nan)}, ValueError, "images must be finite"),
    ],
)
def test_malformed_shuffles_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        shuffle_patches(**{"images": np.ones((3, 4, 4, 1)), "kernel_size": 2, "key": KEY, **arguments})
