"""Transformations of data sets, each by the property that defines it."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from linear_cnn import (
    ImageSet,
    label_by_energy,
    normalize_channels,
    photographs,
    scale_component,
    select_classes,
    shuffle_labels,
    shuffle_patches,
)
from linear_cnn.datasets import _blocks

KEY = jax.random.key(21)
RANDOM = np.random.default_rng(23)
DTYPES = [np.float64, np.float32, jnp.bfloat16]


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    """Small data are also worked on in several blocks of images, the last one
    shorter."""
    monkeypatch.setattr(_blocks, "_BLOCK_ENTRIES", 400)


@pytest.fixture(scope="module")
def tiles():
    return photographs()


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
    # Every patch is there whole: where each one came from is a permutation, over all
    # images and places.
    source = np.array(
        [np.flatnonzero((before == patch).all(axis=1))[0] for patch in after]
    )
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
    """Theorem 4.2's assumption: far from true of photographs, true after shuffling,
    with the same spectrum."""
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
        (
            {"kernel_size": (2, 9)},
            ValueError,
            "4x4 pixels.*smaller than the kernel of 2x9",
        ),
        ({"key": None}, TypeError, "key must be one JAX key.*got None"),
        (
            {"key": jax.random.split(KEY, 2)},
            TypeError,
            r"key must be one JAX key.*of shape \(2,\)",
        ),
        (
            {"images": np.ones((3, 4, 4, 1), np.uint8)},
            TypeError,
            r"got uint8; .*linear_cnn\.scale_pixels",
        ),
        (
            {"images": np.full((3, 4, 4, 1), np.nan)},
            ValueError,
            "images must be finite",
        ),
    ],
)
def test_malformed_shuffles_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        shuffle_patches(
            **{
                "images": np.ones((3, 4, 4, 1)),
                "kernel_size": 2,
                "key": KEY,
                **arguments,
            }
        )


@pytest.mark.float32
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalized_channels_have_mean_0_and_standard_deviation_1(dtype):
    images = (RANDOM.normal(size=(31, 5, 6, 3)) * [0.5, 1, 20] + [-2, 0, 50]).astype(
        dtype
    )
    before = images.copy()
    normalized = normalize_channels(images)
    assert isinstance(normalized, np.ndarray)
    assert normalized.dtype == dtype
    rounding = float(jnp.finfo(dtype).eps)
    for channel in range(3):
        values = images[..., channel].astype(np.float64)
        expected = (values - values.mean()) / values.std()
        assert abs(expected).max() > 2
        actual = normalized[..., channel].astype(np.float64)
        np.testing.assert_allclose(actual, expected, rtol=rounding, atol=1e-14)
        np.testing.assert_allclose(
            [actual.mean(), actual.std()], [0, 1], rtol=0, atol=max(rounding, 1e-14)
        )
    np.testing.assert_array_equal(images, before)


@pytest.mark.float32
def test_statistics_of_channels_are_float64():
    """In float32 the mean would be off by much more than the variation it is subtracted
    for."""
    images = (5000 + RANDOM.normal(size=(300, 8, 8, 1))).astype(np.float32)
    values = images.astype(np.float64)
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(
        normalize_channels(images), expected, rtol=2e-7, atol=1e-10
    )


def test_given_statistics_of_channels_are_used():
    train, test = RANDOM.normal(size=(2, 9, 5, 6, 2)) * [1, 3] + 1
    mean, std = [0.5, -1.0], (2.0, 0.25)
    expected = (test - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        normalize_channels(test, mean, std), expected, rtol=1e-14
    )
    own_mean, own_std = train.mean(axis=(0, 1, 2)), train.std(axis=(0, 1, 2))
    np.testing.assert_allclose(
        normalize_channels(train, mean), (train - np.array(mean)) / own_std, rtol=1e-13
    )
    np.testing.assert_allclose(
        normalize_channels(train, std=std),
        (train - own_mean) / np.array(std),
        rtol=1e-13,
        atol=1e-13,
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"mean": (0.1, 0.2, 0.3)},
            ValueError,
            r"mean must have shape \(2,\), one number a channel, got shape \(3,\)",
        ),
        ({"std": 0.5}, ValueError, r"std must have shape \(2,\).*got shape \(\)"),
        ({"std": (1, 0)}, ValueError, r"std must be > 0, got \[1\.0, 0\.0\]; 1 leaves"),
        ({"std": (1, -2)}, ValueError, r"std must be > 0, got \[1\.0, -2\.0\]"),
        ({"mean": (1, np.nan)}, ValueError, "mean must be finite"),
        ({"std": (1, np.inf)}, ValueError, "std must be finite"),
        ({"mean": ("a", "b")}, TypeError, "mean must be real numbers, got <U1"),
        (
            {},
            ValueError,
            (
                r"channels \[1\] of the images are constant \(std = 0\); leave them"
                r" out, or give std"
            ),
        ),
    ],
)
def test_malformed_statistics_are_refused(arguments, error, message):
    images = RANDOM.normal(size=(10, 3, 3, 2))
    images[..., 1] = 0.1  # ten of which do not add up to 1
    with pytest.raises(error, match=message):
        normalize_channels(images, **arguments)


@pytest.mark.float32
@pytest.mark.parametrize(
    "labels",
    [
        np.arange(200, dtype=np.int32) % 3,
        np.repeat(["cat", "dog"], 100),
        np.eye(4)[np.arange(200) % 4],
    ],
    ids=["indices", "names", "one-hot"],
)
def test_shuffled_labels_are_the_same_labels_in_another_order(labels):
    shuffled = shuffle_labels(labels, KEY)
    assert isinstance(shuffled, np.ndarray)
    assert (shuffled.dtype, shuffled.shape) == (labels.dtype, labels.shape)
    for before, after in zip(
        *(np.unique(x, axis=0, return_counts=True) for x in (labels, shuffled)),
        strict=True,
    ):
        np.testing.assert_array_equal(after, before)
    assert (shuffled == labels).mean() < 0.75
    np.testing.assert_array_equal(shuffled, shuffle_labels(labels, KEY))
    assert np.any(shuffled != shuffle_labels(labels, jax.random.key(22)))


def test_malformed_labels_and_keys_are_refused():
    with pytest.raises(
        ValueError,
        match=r"labels must have shape \(N,\) or \(N, \.\.\.\), got the single value 3",
    ):
        shuffle_labels(3, KEY)
    with pytest.raises(TypeError, match=r"key must be one JAX key.*got 0"):
        shuffle_labels([0, 1], 0)


class LazyImages:
    """What `select_classes` may ask of images that are not in memory."""

    def __getitem__(self, indices):
        assert isinstance(indices, np.ndarray)
        assert indices.dtype.kind == "i"
        # Image n holds the number n.
        return np.asarray(indices, np.float32)[:, None, None, None]


ANIMALS = ImageSet(
    LazyImages(),
    np.array([3, 0, 1, 0, 3, 2, 0], np.int32),
    ("ant", "bee", "cat", "dog", "eel"),
)


@pytest.mark.parametrize(
    ("classes", "places", "labels", "names"),
    [
        (("ant", "dog"), [0, 1, 3, 4, 6], [1, 0, 0, 1, 0], ("ant", "dog")),
        (("dog", "ant"), [0, 1, 3, 4, 6], [0, 1, 1, 0, 1], ("dog", "ant")),
        ([np.int64(2), "bee", 3], [0, 2, 4, 5], [2, 1, 2, 0], ("cat", "bee", "dog")),
    ],
)
def test_selected_classes(classes, places, labels, names):
    selected = select_classes(ANIMALS, classes)
    np.testing.assert_array_equal(selected.images.ravel(), places)
    np.testing.assert_array_equal(selected.labels, labels)
    assert selected.labels.dtype == np.int32
    assert selected.class_names == names


def test_two_photographs(tiles):
    selected = select_classes(tiles, ("rocket", "coffee"))
    for label, index in enumerate((5, 3)):
        np.testing.assert_array_equal(
            selected.images[selected.labels == label],
            tiles.images[tiles.labels == index],
        )


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (
            ("ant", "fox"),
            ValueError,
            (
                r"classes has 'fox', which is none of.*\('ant', 'bee', 'cat', 'dog',"
                r" 'eel'\)"
            ),
        ),
        (
            (0, 5),
            ValueError,
            r"classes has the index 5, but there are 5 classes: \('ant'",
        ),
        ((0, -1), ValueError, "classes.*must be >= 0, got -1"),
        ((0, 1.0), TypeError, r"classes.*must be an integer, got 1\.0"),
        (("ant",), ValueError, r"at least two different classes, got \['ant'\]"),
        (
            ("ant", 0),
            ValueError,
            r"at least two different classes, got \['ant', 0\]; there are \('ant'",
        ),
        (
            "ant",
            TypeError,
            r"classes must be a sequence.*e\.g\. \('ant', 'bee'\), got 'ant'",
        ),
        (
            ("ant", "eel"),
            ValueError,
            r"has no images of \['eel'\]; choose other classes",
        ),
    ],
)
def test_malformed_classes_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        select_classes(ANIMALS, classes)


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_without_a_class_are_refused(label):
    images = ANIMALS._replace(
        labels=np.where(np.arange(len(ANIMALS.labels)) == 1, label, ANIMALS.labels)
    )
    with pytest.raises(
        ValueError,
        match=rf"labels must lie between 0 and 4, .*'eel'.*, got .*{label}.*leave out",
    ):
        select_classes(images, ("ant", "bee"))


def energies_by_loop(images, direction, kh, kw):
    """Summed squared projections on the unit direction, patch by patch."""
    u = np.ravel(direction) / np.sqrt(np.sum(np.square(direction)))
    energies = []
    for image in np.asarray(images, np.float64):
        height, width, _ = image.shape
        corners = [
            (i, j) for i in range(height - kh + 1) for j in range(width - kw + 1)
        ]
        energies.append(
            sum(
                np.dot(u, image[i : i + kh, j : j + kw].ravel()) ** 2
                for i, j in corners
            )
        )
    return np.array(energies)


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("count", "size", "kernel_size", "channels", "classes"),
    [
        (24, (6, 7), (3, 3), 3, 4),
        (23, (6, 5), (2, 3), 2, 10),
        (23, (4, 3), (4, 3), 1, 2),
        (9, (5, 5), (1, 1), 2, 9),
    ],
)
def test_labels_by_energy_are_equal_classes_of_ascending_energy(
    count, size, kernel_size, channels, classes, dtype
):
    images = (RANDOM.normal(size=(count, *size, channels)) + 0.3).astype(dtype)
    direction = RANDOM.normal(size=(*kernel_size, channels))
    labels = label_by_energy(images, direction, kernel_size, classes)
    assert isinstance(labels, np.ndarray)
    assert (labels.dtype, labels.shape) == (np.int32, (count,))
    sizes = np.bincount(labels)
    assert len(sizes) == classes
    assert np.ptp(sizes) == (count % classes > 0)
    energies = energies_by_loop(images, direction, *kernel_size)
    for label in range(1, classes):
        assert energies[labels == label - 1].max() < energies[labels == label].min()


def test_only_the_direction_of_a_direction_matters():
    images, direction = RANDOM.normal(size=(40, 6, 6, 2)), RANDOM.normal(size=(3, 2, 2))
    labels = label_by_energy(images, direction, (3, 2), 5)
    for same in (
        direction.ravel(),
        -3 * direction,
        1e-200 * direction,
        1e200 * direction,
        jnp.asarray(direction),
    ):
        np.testing.assert_array_equal(label_by_energy(images, same, [3, 2], 5), labels)
    assert np.any(label_by_energy(images, direction[::-1], (3, 2), 5) != labels)


@pytest.mark.float32
def test_images_of_equal_energy_keep_their_order():
    several = RANDOM.normal(size=(3, 5, 6, 2)).astype(np.float32)
    which = RANDOM.integers(3, size=60)
    ranks = label_by_energy(several[which], RANDOM.normal(size=18), 3, 60)
    for copies in (ranks[which == index] for index in range(3)):
        np.testing.assert_array_equal(copies, np.arange(len(copies)) + copies[0])
    black = label_by_energy(np.zeros((7, 3, 3, 1)), np.ones(4), 2, 3)
    np.testing.assert_array_equal(black, [0, 0, 0, 1, 1, 2, 2])


@pytest.mark.float32
@pytest.mark.parametrize("alpha", [4, 0.0, -0.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "kernel_size", "cropped"), [((7, 8), (2, 3), (6, 6)), ((6, 6), 3, (6, 6))]
)
def test_scaling_changes_every_patch_along_the_direction(
    size, kernel_size, cropped, dtype, alpha
):
    images = RANDOM.normal(size=(20, *size, 2)).astype(dtype)
    before = images.copy()
    kh, kw = np.broadcast_to(kernel_size, 2)
    u = RANDOM.normal(size=kh * kw * 2)
    scaled = scale_component(images, 2.5 * u.reshape(kh, kw, 2), kernel_size, alpha)
    assert isinstance(scaled, np.ndarray)
    assert (scaled.dtype, scaled.shape) == (dtype, (20, *cropped, 2))
    np.testing.assert_array_equal(images, before)
    u = u / np.linalg.norm(u)
    pairs = zip(
        *(patch_list(x.astype(np.float64), kh, kw) for x in (images, scaled)),
        strict=True,
    )
    for patch, changed in pairs:
        expected = patch + (alpha - 1) * u * (u @ patch)
        np.testing.assert_allclose(
            changed, expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-13
        )


def test_scaling_multiplies_covariances():
    """Variance along the direction by alpha^2, covariances with it by alpha, all others
    stay."""
    random = np.random.default_rng(5)
    images = random.normal(size=(30, 9, 8, 2)).cumsum(axis=1)
    basis = np.linalg.qr(random.normal(size=(12, 12)))[0]
    factors = np.where(np.arange(12) == 5, 3, 1)
    scaled = scale_component(images, basis[:, 5], (3, 2), 3)
    before, after = (
        np.cov(patch_list(x, 3, 2) @ basis, rowvar=False) for x in (images, scaled)
    )
    assert np.abs(before[5]).min() > 1e-4
    np.testing.assert_allclose(
        after, before * np.outer(factors, factors), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_factor_of_1_changes_nothing(dtype):
    images = RANDOM.normal(size=(20, 7, 8, 2)).astype(dtype)
    np.testing.assert_array_equal(
        scale_component(images, np.arange(12), (2, 3), 1), images[:, :6, :6]
    )


def test_a_scaled_principal_component_has_a_scaled_variance(tiles):
    images = tiles.images[::4, :18, :18].astype(np.float64)
    spectra = [theory.patch_spectrum(images, 3, stride=3, center=False)]
    scaled = scale_component(images, spectra[0].components[:, 14], 3, 4)
    spectra.append(theory.patch_spectrum(scaled, 3, stride=3, center=False))
    before, after = (np.array(spectrum.variance) for spectrum in spectra)
    before[14] *= 16
    assert before[14] > 2 * before[13]
    np.testing.assert_allclose(after, np.sort(before)[::-1], rtol=1e-9)


@pytest.mark.parametrize(
    "transform",
    [
        lambda **arguments: label_by_energy(classes=2, **arguments),
        lambda **arguments: scale_component(alpha=2, **arguments),
    ],
    ids=["label_by_energy", "scale_component"],
)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be >= 1, got 0"),
        (
            {"kernel_size": (2, 9)},
            ValueError,
            "4x4 pixels.*smaller than the kernel of 2x9",
        ),
        (
            {"direction": np.ones(9)},
            ValueError,
            r"direction must have shape \(8,\) or \(2, 2, 2\).*got \(9,\)",
        ),
        (
            {"direction": np.ones((8, 8))},
            ValueError,
            r"got \(8, 8\); a column of PCA vectors is components\[:, i\]",
        ),
        ({"direction": np.ones((2, 4))}, ValueError, r"got \(2, 4\)"),
        ({"direction": np.zeros(8)}, ValueError, "direction must not be zero"),
        ({"direction": np.full(8, np.nan)}, ValueError, "direction must be finite"),
        (
            {"direction": np.ones(8) * 1j},
            TypeError,
            "direction must be real numbers, got complex128",
        ),
        (
            {"images": np.ones((3, 4, 4, 2), np.uint8)},
            TypeError,
            r"got uint8; .*linear_cnn\.scale_pixels",
        ),
        (
            {"images": np.full((3, 4, 4, 2), np.inf)},
            ValueError,
            "images must be finite",
        ),
        (
            {"images": np.ones((4, 4, 2))},
            ValueError,
            r"got \(4, 4, 2\); one image is images\[None\]",
        ),
    ],
)
def test_malformed_directions_and_images_are_refused(
    transform, arguments, error, message
):
    with pytest.raises(error, match=message):
        transform(
            **{
                "images": np.ones((3, 4, 4, 2)),
                "direction": np.ones(8),
                "kernel_size": 2,
                **arguments,
            }
        )


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (1, ValueError, "classes must be >= 2, got 1"),
        (4, ValueError, "classes must be at most the number of images 3, got 4"),
        (2.5, TypeError, r"classes must be an integer, got 2\.5"),
    ],
)
def test_malformed_numbers_of_classes_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        label_by_energy(np.ones((3, 4, 4, 2)), np.ones(8), 2, classes)


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (np.inf, ValueError, "alpha must be finite"),
        (np.nan, ValueError, "alpha must be finite"),
        (None, TypeError, "alpha must be real numbers, got object"),
        ((2, 3), ValueError, r"alpha must be one number, got shape \(2,\)"),
    ],
)
def test_malformed_factors_are_refused(alpha, error, message):
    with pytest.raises(error, match=message):
        scale_component(np.ones((3, 4, 4, 2)), np.ones(8), 2, alpha)


def test_malformed_images_are_not_normalized():
    with pytest.raises(
        TypeError, match=r"got uint8; scale 8-bit ones by linear_cnn\.scale_pixels"
    ):
        normalize_channels(np.ones((3, 4, 4, 2), np.uint8))
    with pytest.raises(
        ValueError, match=r"got \(4, 4, 2\); one image is images\[None\]"
    ):
        normalize_channels(np.ones((4, 4, 2)))


@pytest.mark.parametrize(
    "transform",
    [
        normalize_channels,
        lambda images: label_by_energy(images, np.arange(12), 2, 10),
        lambda images: scale_component(images, np.arange(12), 2, 3),
    ],
    ids=["normalize_channels", "label_by_energy", "scale_component"],
)
def test_memory_beside_the_result_is_small(monkeypatch, transform):
    """A float64 copy of the images would be twice their size."""
    monkeypatch.setattr(_blocks, "_BLOCK_ENTRIES", 2**14)
    images = RANDOM.random(size=(500, 32, 32, 3), dtype=np.float32)
    tracemalloc.start()
    try:
        result = transform(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - result.nbytes < images.nbytes / 2
