"""Standard data sets in small stand-ins of their layouts, folders and arrays,
photographs and random textures."""

import gzip
import hashlib
import shutil
import tracemalloc
import zlib
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from linear_cnn import datasets, gaussian_images, photographs
from linear_cnn.datasets import (
    _standard,
    cifar10,
    cifar100,
    data_folder,
    fashion_mnist,
    image_batches,
    image_folder,
    labelled_folder,
    load_images,
    npz_images,
    scale_pixels,
)

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
    assert tiles.class_names == (
        "astronaut",
        "chelsea",
        "china",
        "coffee",
        "flower",
        "rocket",
    )
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
        [
            [
                pixels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1))
                for j in range(300)
            ]
            for i in range(48)
        ]
    )
    quartered = np.array(
        [
            [
                pixels[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((0, 1))
                for j in range(64)
            ]
            for i in range(32)
        ]
    )
    full, half = 12 * 18, 11 * 17  # non-overlapping; half overlapping in 200x300
    assert len(ours) == full + half + 5 * 8
    np.testing.assert_allclose(ours[0], pixels[:32, :32], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[18 + 2], pixels[32:64, 64:96], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[full + 3], halved[:32, 48:80], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ours[full + 17], halved[16:48, :32], rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        ours[full + half + 2], quartered[:, 32:64], rtol=0, atol=1e-7
    )


def test_photographs_never_change(tiles):
    first = np.unique(tiles.labels, return_index=True)[1]
    # One of full resolution from each.
    picked = np.round(tiles.images[first + 5] * 255).astype(np.uint8)
    assert zlib.crc32(picked.tobytes()) == 3809886735
    np.testing.assert_array_equal(tiles.images, photographs().images)


def test_photographs_are_small_and_attributed():
    files = [file for file in FOLDER.iterdir() if file.name.endswith(".png")]
    assert len(files) == 6
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 3_000_000
    sections = (FOLDER / "ATTRIBUTION.md").read_text().split("\n## ")[1:]
    assert sorted(section.split()[0] for section in sections) == sorted(
        file.name for file in files
    )
    for section in sections:
        for entry in ("Author", "Licence", "Source", "Change"):
            assert f"\n- {entry}: " in section


def power_law(shape):
    """A spectrum without symmetry between the axes, different in each channel."""
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1])
    squares = 4 * rows[:, None] ** 2 + columns**2 + rows[:, None] * columns
    power = (1 / (0.02 + squares))[..., None] * np.arange(1, shape[2] + 1)
    # The error message's remedy, needed here at half the sampling frequency, which is
    # its own opposite.
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
    # A square of one Gaussian, else of two.
    real = np.abs(spectrum.imag).max(axis=0) < 1e-9
    assert real[..., 0].sum() == 4
    scores = (measured / power - 1) / np.where(
        real, np.sqrt(2 / count), np.sqrt(1 / count)
    )
    assert np.abs(scores).max() < 5
    pixels = images.reshape(count, -1, 2)
    assert (
        np.abs(pixels.mean(axis=0) / np.sqrt(power.mean(axis=(0, 1)) / count)).max() < 5
    )
    between_channels = (pixels[..., 0] * pixels[..., 1]).mean() / np.sqrt(
        np.prod(power.mean(axis=(0, 1)))
    )
    # Pixels of an image are not independent.
    assert abs(between_channels) < 5 / np.sqrt(count)


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
        (
            {"power_spectrum": np.ones((4, 4))},
            ValueError,
            r"power_spectrum must have shape \(H, W, C\), got \(4, 4\)",
        ),
        ({"power_spectrum": np.ones((4, 0, 1))}, ValueError, r"got \(4, 0, 1\)"),
        (
            {"power_spectrum": -np.ones((4, 4, 1))},
            ValueError,
            "power_spectrum must be finite and >= 0",
        ),
        (
            {"power_spectrum": np.full((4, 4, 1), np.inf)},
            ValueError,
            "power_spectrum must be finite",
        ),
        (
            {"power_spectrum": np.arange(16.0).reshape(4, 4, 1)},
            ValueError,
            "equal at opposite frequencies.*average it",
        ),
        (
            {"power_spectrum": 1e-12 * np.arange(16.0).reshape(4, 4, 1)},
            ValueError,
            "equal at opposite frequencies",
        ),
        ({"count": 0}, ValueError, "count must be >= 1, got 0"),
        ({"count": 2.5}, TypeError, r"count must be an integer, got 2\.5"),
        (
            {"key": 3},
            TypeError,
            r"key must be one JAX key, e\.g\. jax\.random\.key\(0\), got 3",
        ),
    ],
)
def test_malformed_textures_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gaussian_images(
            **{
                "key": KEY,
                "count": 2,
                "power_spectrum": np.ones((4, 4, 1)),
                **arguments,
            }
        )


# Standard data sets

RANDOM = np.random.default_rng(5)


def cifar_file(path, *labels):
    """Records of label bytes and random pixels; returns the pixels as stored, (N,
    3072)."""
    pixels = RANDOM.integers(0, 256, (len(labels[0]), 3072), np.uint8)
    path.write_bytes(
        np.concatenate([np.array(labels, np.uint8).T, pixels], axis=1).tobytes()
    )
    return pixels


def check_pixels(image, stored):
    """Row by row, red first, then green, then blue."""
    assert image.shape == (32, 32, 3)
    for row, column, channel in [
        (0, 0, 0),
        (0, 1, 0),
        (1, 0, 0),
        (0, 0, 1),
        (31, 30, 2),
    ]:
        assert image[row, column, channel] == stored[1024 * channel + 32 * row + column]


@pytest.fixture
def cifar10_pixels(tmp_path, monkeypatch):
    """A stand-in for CIFAR-10 of two images a file, with its own MD5 sums: label k in
    place k % 10."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    pixels = []
    for number, name in enumerate(datasets.CIFAR10_FILES):
        pixels.append(
            cifar_file(folder / name, [2 * number % 10, (2 * number + 1) % 10])
        )
        monkeypatch.setitem(
            datasets.CIFAR10_FILES,
            name,
            hashlib.md5((folder / name).read_bytes()).hexdigest(),
        )
    return np.array(pixels)


def test_cifar10_is_read_from_its_binary_layout(tmp_path, cifar10_pixels):
    train, test = cifar10("train", tmp_path), cifar10("test", str(tmp_path))
    assert train.images.shape == (10, 32, 32, 3)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert train.images.flags.c_contiguous
    np.testing.assert_array_equal(train.labels, range(10))
    np.testing.assert_array_equal(test.labels, [0, 1])
    for image, stored in zip(
        train.images, cifar10_pixels[:5].reshape(10, 3072), strict=True
    ):
        check_pixels(image, stored)
    check_pixels(test.images[1], cifar10_pixels[5, 1])
    assert train.class_names == test.class_names
    assert train.class_names[::3] == ("airplane", "cat", "frog", "truck")


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\0"),
        lambda file: shutil.copy(file.with_name("data_batch_5.bin"), file),
    ],
    ids=["truncated", "altered", "swapped"],
)
def test_a_damaged_file_of_cifar10_is_refused(tmp_path, cifar10_pixels, damage):
    file = tmp_path / "cifar10" / "data_batch_3.bin"
    expected = datasets.CIFAR10_FILES[file.name]
    damage(file)
    found = hashlib.md5(file.read_bytes()).hexdigest()
    command = f"`python -m experiments data cifar10 --data-dir {tmp_path}`"
    with pytest.raises(
        ValueError,
        match=rf"data_batch_3\.bin has .*{found}.*{expected}; repair it with {command}",
    ):
        cifar10("train", tmp_path)
    cifar10("test", tmp_path)  # does not read it


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_missing_data_set_names_the_command(tmp_path, monkeypatch, name):
    monkeypatch.setattr(_standard, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path / "set"))
    with pytest.raises(
        FileNotFoundError,
        match=rf"set/{name}/.* does not exist; get it with .*experiments data {name}`",
    ):
        load_images(name)
    with pytest.raises(FileNotFoundError, match=rf"data {name} --data-dir '.*/a b'`"):
        load_images(name, "test", tmp_path / "a b")
    with pytest.raises(
        ValueError, match="split must be one of train, test, got 'valid'"
    ):
        load_images(name, "valid")


def test_the_folder_is_the_argument_or_the_environment_or_the_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        _standard.platformdirs,
        "user_cache_path",
        lambda name, appauthor: tmp_path / name,
    )
    monkeypatch.setenv("LINEAR_CNN_DATA", "~/images")
    assert data_folder(tmp_path / "a") == tmp_path / "a"
    assert data_folder() == Path.home() / "images"
    monkeypatch.delenv("LINEAR_CNN_DATA")
    assert data_folder() == tmp_path / "linear-cnn"


def test_real_cifar10_where_it_is_present():
    if not (data_folder() / "cifar10" / "test_batch.bin").exists():
        pytest.skip(
            "needs CIFAR-10 in the user's cache: python -m experiments data cifar10"
        )
    images, labels, _ = cifar10("test")
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)
    np.testing.assert_allclose(
        scale_pixels(images[:1000]).mean((0, 1, 2)), (0.49, 0.48, 0.45), atol=0.01
    )


@pytest.fixture
def cifar100_pixels(tmp_path, monkeypatch):
    (tmp_path / "cifar100").mkdir()
    for name in datasets.CIFAR100_COUNTS:
        monkeypatch.setitem(datasets.CIFAR100_COUNTS, name, 3)
    return [
        cifar_file(tmp_path / "cifar100" / "train.bin", [19, 0, 4], [99, 4, 0]),
        cifar_file(tmp_path / "cifar100" / "test.bin", [1, 2, 3], [11, 12, 13]),
    ]


def test_cifar100_is_read_from_its_binary_layout(tmp_path, cifar100_pixels):
    fine, coarse = (
        cifar100("train", tmp_path),
        cifar100("train", tmp_path, labels="coarse"),
    )
    np.testing.assert_array_equal(fine.labels, [99, 4, 0])
    np.testing.assert_array_equal(coarse.labels, [19, 0, 4])
    assert (fine.labels.dtype, fine.images.dtype) == (np.int32, np.uint8)
    assert [fine.class_names[label] for label in fine.labels] == [
        "worm",
        "beaver",
        "apple",
    ]
    assert [coarse.class_names[label] for label in coarse.labels] == [
        "vehicles_2",
        "aquatic_mammals",
        "fruit_and_vegetables",
    ]
    assert (len(set(fine.class_names)), len(set(coarse.class_names))) == (100, 20)
    assert sorted(fine.class_names) == list(fine.class_names)
    test = load_images("cifar100", "test", tmp_path)
    np.testing.assert_array_equal(test.labels, [11, 12, 13])
    for images, pixels in [
        (fine.images, cifar100_pixels[0]),
        (test.images, cifar100_pixels[1]),
    ]:
        for image, stored in zip(images, pixels, strict=True):
            check_pixels(image, stored)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:-1]),
            "has 9,221 bytes, not 9,222; repair it with `python",
        ),
        (
            lambda file: cifar_file(file, [0, 0, 20], [0, 0, 0]),
            "has the coarse label 20 in record 2, but they end at 19",
        ),
        (
            lambda file: cifar_file(file, [0, 0, 0], [0, 100, 0]),
            "has the fine label 100 in record 1, but they end at 99",
        ),
    ],
)
def test_a_malformed_file_of_cifar100_is_refused(
    tmp_path, cifar100_pixels, write, message
):
    write(tmp_path / "cifar100" / "train.bin")
    with pytest.raises(ValueError, match=message):
        cifar100("train", tmp_path)
    with pytest.raises(
        ValueError, match=r"labels must be one of \['coarse', 'fine'\], got 'both'"
    ):
        cifar100("test", tmp_path, labels="both")


IDX_IMAGES = RANDOM.integers(0, 256, (3, 28, 28), np.uint8)
IDX_LABELS = np.array([9, 0, 4], np.uint8)


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.tobytes()
    )


@pytest.fixture
def idx_folder(tmp_path, monkeypatch):
    """Three images to train on, compressed, and two to test on, not compressed."""
    monkeypatch.setattr(_standard, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    for name in datasets.FASHION_MNIST_SHAPES:
        array = IDX_IMAGES if "images" in name else IDX_LABELS
        if name.startswith("t10k"):
            array = array[:2]
            (folder / name).write_bytes(idx(array))
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        monkeypatch.setitem(datasets.FASHION_MNIST_SHAPES, name, array.shape)
    return folder


def test_fashion_mnist_is_read_from_idx_files(tmp_path, idx_folder):
    train, test = fashion_mnist("train", tmp_path), fashion_mnist("test", tmp_path)
    np.testing.assert_array_equal(train.images, IDX_IMAGES[..., None])
    np.testing.assert_array_equal(train.labels, IDX_LABELS)
    np.testing.assert_array_equal(test.images, IDX_IMAGES[:2, ..., None])
    np.testing.assert_array_equal(test.labels, IDX_LABELS[:2])
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert [train.class_names[label] for label in train.labels] == [
        "Ankle boot",
        "T-shirt/top",
        "Coat",
    ]


def test_fashion_mnist_is_found_in_several_folders(tmp_path, idx_folder, monkeypatch):
    fashion_mnist("train", idx_folder)  # the folder itself
    monkeypatch.setattr(_standard, "DEBIAN_FASHION_MNIST", idx_folder)
    assert fashion_mnist("test", tmp_path / "empty").images.shape == (2, 28, 28, 1)
    # Only one of the two files: both are taken from elsewhere.
    partial = tmp_path / "partial" / "fashion_mnist"
    partial.mkdir(parents=True)
    (partial / "t10k-images-idx3-ubyte").write_bytes(b"unfinished")
    assert fashion_mnist("test", tmp_path / "partial").images.shape == (2, 28, 28, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", gzip.compress(idx(IDX_IMAGES))[:-9], "is damaged"),
        (
            "images-idx3",
            gzip.compress(idx(IDX_IMAGES))[:-8] + bytes(8),
            "is damaged .*CRC",
        ),
        (
            "images-idx3",
            idx(IDX_IMAGES)[:-1],
            r"holds fewer than the 2,368 bytes of an idx file of shape \(3, 28, 28\)",
        ),
        (
            "images-idx3",
            gzip.compress(idx(IDX_IMAGES) + b"0"),
            "holds more than the 2,368 bytes",
        ),
        (
            "images-idx3",
            idx(IDX_LABELS),
            (
                "begins with 00000801 00000003 .*, not with 00000803 00000003 0000001c"
                " 0000001c"
            ),
        ),
        ("images-idx3", idx(IDX_IMAGES[:2]), "begins with 00000803 00000002"),
        (
            "labels-idx1",
            idx(IDX_LABELS + np.uint8(1)),
            "has the label 10 in place 0, but they end at 9; repair it with",
        ),
    ],
    ids=[
        "short gzip",
        "wrong checksum",
        "truncated",
        "too long",
        "labels",
        "fewer images",
        "label",
    ],
)
def test_malformed_idx_files_are_refused(tmp_path, idx_folder, name, content, message):
    (idx_folder / f"train-{name}-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"train-{name}-ubyte\.gz {message}"):
        fashion_mnist("train", tmp_path)


# Folders and arrays


def pictures(folder, *names):
    """Pictures of 2x3 pixels that all have their place among the names as value."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (value, value, value)).save(folder / name)
    return folder


def test_a_folder_of_class_folders(tmp_path):
    names = [
        "b/1.png",
        "b/deep/0.jpg",
        "a/2.png",
        "c/3.gif",
        "b/.hidden.png",
        ".git/4.png",
        "loose.png",
    ]
    images, labels, class_names = image_folder(str(pictures(tmp_path, *names)))
    assert class_names == ("a", "b", "c")
    np.testing.assert_array_equal(labels, [0, 1, 1, 2])
    assert labels.dtype == np.int32
    assert images.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(np.asarray(images)[:, 0, 0, 0], [2, 0, 1, 3])
    assert image_folder(tmp_path, (5, 4)).images.shape == (4, 5, 4, 3)


def test_a_folder_without_classes_where_no_labels_are_needed(tmp_path):
    flat = pictures(tmp_path / "flat", "b.png", "a.jpg", ".hidden.png")
    images, labels, class_names = load_images(flat, need_labels=False, size=(5, 4))
    assert images.shape == (2, 5, 4, 3)
    np.testing.assert_array_equal(np.asarray(images)[:, 0, 0, 0], [1, 0])
    assert (labels.tolist(), labels.dtype, class_names) == ([-1, -1], np.int32, ())
    # Class folders count where they are, as always.
    folder = pictures(tmp_path / "own", "a/0.png", "b/1.png", "loose.png")
    assert image_folder(folder, need_labels=False).labels.tolist() == [0, 1]


def test_folders_without_classes_or_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no images; put some into it"):
        image_folder(tmp_path, need_labels=False)
    with pytest.raises(FileNotFoundError, match="nowhere is not an existing folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=(
            "has no subfolders; put the images of each class into one, or use labelled"
        ),
    ):
        image_folder(pictures(tmp_path, "a.png"))
    (pictures(tmp_path, "a/a.png") / "b").mkdir()
    with pytest.raises(
        ValueError, match="b holds no images; every subfolder is a class"
    ):
        image_folder(tmp_path)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt is not an image"):
        image_folder(tmp_path)


ATTRIBUTES = "image_id,Smiling,Count\n0.png,-1,10\n2.png,1,9\n1.png,1,-2\n"


@pytest.mark.parametrize(
    "table",
    [
        ATTRIBUTES,
        "\ufeff" + ATTRIBUTES.replace("\n", "\r\n"),
        "3\nSmiling Count\n0.png  -1  10\n2.png   1  9\n1.png   1 -2\n",
    ],
    ids=["CSV", "CSV of a spreadsheet", "CelebA's own"],
)
def test_a_folder_with_a_table_of_labels(tmp_path, table):
    pictures(tmp_path, "0.png", "1.png", "2.png", "unlisted.png")
    (tmp_path / "table").write_text(table, newline="")
    images, labels, class_names = labelled_folder(
        tmp_path, tmp_path / "table", label_column="Smiling"
    )
    assert class_names == ("-1", "1")
    np.testing.assert_array_equal(labels, [0, 1, 1])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.asarray(images)[:, 0, 0, 0], [0, 2, 1])
    numbers = labelled_folder(
        tmp_path, tmp_path / "table", label_column="Count", size=4
    )
    assert numbers.class_names == ("-2", "9", "10")
    np.testing.assert_array_equal(numbers.labels, [2, 1, 0])
    assert numbers.images.shape == (3, 4, 4, 3)


def test_labels_may_be_names_and_columns_have_any(tmp_path):
    pictures(tmp_path, "a/0.png", "a/1.png")
    (tmp_path / "table.csv").write_text("kind,path\ncat,a/1.png\n10,a/0.png\n")
    _, labels, class_names = labelled_folder(
        tmp_path, tmp_path / "table.csv", label_column="kind", file_column="path"
    )
    assert class_names == ("10", "cat")
    np.testing.assert_array_equal(labels, [1, 0])


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("", ValueError, "lists no images"),
        ("image_id,Smiling\n", ValueError, "lists no images"),
        (
            "name,Smiling\n0.png,1\n",
            ValueError,
            "has no column 'image_id'; it has name, Smiling",
        ),
        (
            "image_id,Young\n0.png,1\n",
            ValueError,
            "has no column 'Smiling'; it has image_id, Young",
        ),
        (
            "image_id,Smiling\n0.png,1\n1.png,\n",
            ValueError,
            "has no 'Smiling' in row 2",
        ),
        ("image_id,Smiling\n0.png,1\n1.png\n", ValueError, "has no 'Smiling' in row 2"),
        ("image_id,Smiling\n0.png,1\n0.png,1\n", ValueError, "lists 0.png 2 times"),
        (
            "image_id,Smiling\n0.png,1\n9.png,1\n",
            FileNotFoundError,
            "9.png does not exist, but .*table lists it",
        ),
        (
            "2\nSmiling\n0.png 1\n1.png 1 1\n",
            ValueError,
            "table cannot be read as a table",
        ),
        (
            b"\xff\xfe\x00",
            ValueError,
            "table cannot be read as a table .*save it as CSV in UTF-8",
        ),
        (
            "image_id,Smiling\n" + "1" * 2**20,
            ValueError,
            "table cannot be read as a table .*a line of more than",
        ),
        ("image_id,Smiling\n0.png," + "1" * 2**18, ValueError, "field larger than"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, table, error, message):
    pictures(tmp_path, "0.png", "1.png")
    (tmp_path / "table").write_bytes(
        table if isinstance(table, bytes) else table.encode()
    )
    with pytest.raises(error, match=message):
        labelled_folder(tmp_path, tmp_path / "table", label_column="Smiling")


def test_columns_that_are_not_asked_for_take_no_memory(tmp_path):
    pictures(tmp_path, *(f"{number}.png" for number in range(20)))
    header = ",".join(["image_id", "kind", *(f"c{n}" for n in range(60))])
    row = ",".join(["x" * 2000] * 60)
    listed = [f"{number}.png,{number % 2},{row}" for number in range(20)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join([header, *listed]))
    tracemalloc.start()
    found = labelled_folder(tmp_path, table, label_column="kind")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.labels.tolist() == [0, 1] * 10
    assert peak < table.stat().st_size / 2


def saved_arrays(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


FLOATS = RANDOM.random((3, 4, 5, 2))


def test_arrays_of_ones_own(tmp_path):
    images, labels, names = npz_images(
        saved_arrays(tmp_path, images=FLOATS, labels=np.array([2, 0, 2], np.uint64))
    )
    np.testing.assert_array_equal(images, FLOATS.astype(np.float32))
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(labels, [2, 0, 2])
    assert names == ("0", "1", "2")
    pixels = (FLOATS * 255).astype(np.uint8)
    path = saved_arrays(
        tmp_path, images=pixels, labels=[1, 0, 0], class_names=["cat", "dog", "owl"]
    )
    images, labels, names = load_images(str(path))
    np.testing.assert_array_equal(images, pixels)
    assert images.dtype == np.uint8
    assert names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no array 'images'; write it with"),
        ({"labels": None}, "has no array 'labels'"),
        (
            {"images": FLOATS[..., 0]},
            (
                r"images in .* must have shape \(N, H, W, C\), .*got \(3, 4, 5\); grey"
                r" images are"
            ),
        ),
        ({"images": FLOATS[:0], "labels": []}, r"no axis empty, got \(0, 4, 5, 2\)"),
        ({"images": FLOATS.astype(int)}, "must be uint8 or floating point, got int64"),
        (
            {"images": FLOATS * 2},
            r"must lie in \[0, 1\], but lie in \[0\..*, 1\..*\]; scale them",
        ),
        ({"images": FLOATS - 0.5}, r"must lie in \[0, 1\], but lie in \[-0"),
        ({"images": FLOATS * np.nan}, r"must lie in \[0, 1\], but lie in \[nan, nan\]"),
        (
            {"labels": [0, 1]},
            (
                r"labels in .* must be integers of shape \(3,\), .*got int64 of shape"
                r" \(2,\)"
            ),
        ),
        ({"labels": [0.0, 1.0, 1.0]}, "must be integers .*got float64"),
        (
            {"labels": [0, -1, 1]},
            (
                "must lie between 0 and 65535, but lie between -1 and 1; number the"
                " classes"
            ),
        ),
        (
            {"labels": [0, 2, 1], "class_names": ["a", "b"]},
            "must lie between 0 and 1, but lie between 0 and 2",
        ),
        (
            {"class_names": [["a", "b"]]},
            r"class_names in .* must be texts.*of shape \(1, 2\)",
        ),
        ({"class_names": [3, 4]}, "class_names in .* must be texts.*int64"),
        (
            {"images": np.array([{}, {}, {}])},
            "cannot be read as an .npz file .*allow_pickle",
        ),
    ],
)
def test_malformed_arrays_are_refused(tmp_path, change, message):
    arrays = {"images": FLOATS, "labels": [0, 1, 1], **change}
    path = saved_arrays(
        tmp_path, **{name: array for name, array in arrays.items() if array is not None}
    )
    with pytest.raises(ValueError, match=message):
        npz_images(path)


@pytest.mark.parametrize("keep", [0, 100, -200, -30])
def test_damaged_files_of_arrays_are_refused(tmp_path, keep):
    path = saved_arrays(tmp_path, images=FLOATS, labels=[0, 1, 1])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"own\.npz cannot be read as an \.npz file"):
        npz_images(path)
    np.save(tmp_path / "one.npy", FLOATS)
    with pytest.raises(ValueError, match=r"one\.npy cannot be read as an \.npz file"):
        npz_images(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        npz_images(tmp_path / "nowhere.npz")


def test_pixels_become_floats_between_0_and_1():
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 8, 8, 2)
    scaled = scale_pixels(pixels)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(
        scaled, (np.arange(256) / 255).astype(np.float32).reshape(2, 8, 8, 2)
    )
    floats = FLOATS.astype(np.float32)
    assert np.shares_memory(scale_pixels(floats), floats)
    np.testing.assert_array_equal(scale_pixels(FLOATS), floats)
    np.testing.assert_array_equal(scale_pixels(jnp.asarray(floats)), floats)
    with pytest.raises(
        TypeError, match="images must be uint8 or floating point, got int64"
    ):
        scale_pixels(pixels.astype(int))


def test_batches_go_through_all_images_in_order(tmp_path):
    pixels = RANDOM.integers(0, 256, (7, 2, 3, 3), np.uint8)
    batches = list(image_batches(pixels, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert {batch.dtype for batch in batches} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(batches), scale_pixels(pixels))
    assert len(list(image_batches(pixels))) == 1
    files = image_folder(
        pictures(tmp_path, *(f"a/{number}.png" for number in range(4)))
    ).images
    lazy = image_batches(files, 2)
    (tmp_path / "a" / "3.png").unlink()  # not read before its batch
    np.testing.assert_array_equal(
        next(lazy)[:, 0, 0, 0], scale_pixels(np.array([0, 1], np.uint8))
    )
    with pytest.raises(FileNotFoundError):
        next(lazy)
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        image_batches(pixels, 0)


def test_image_sets_by_name(tmp_path, cifar10_pixels, monkeypatch):
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path))
    assert len(load_images("cifar10").images) == 10
    assert len(load_images("cifar10", "test").images) == 2
    np.testing.assert_array_equal(
        load_images("photographs").images, photographs().images
    )
    folder = pictures(tmp_path / "own", "a/0.png", "b/1.png")
    assert (
        load_images(folder).class_names
        == load_images(str(folder)).class_names
        == ("a", "b")
    )
    for name in ("photographs", "cifar10"):
        for options in ({"size": 8}, {"upright": True}):
            with pytest.raises(ValueError, match=f"folder, got .* '{name}'; leave"):
                load_images(name, **options)
    for name in ("photographs", folder):
        with pytest.raises(
            ValueError,
            match="is one set of images without a split 'test'; use split='train'",
        ):
            load_images(name, "test")
    for name in ("imagenet", tmp_path / "nowhere.npz", folder / "a" / "0.png"):
        with pytest.raises(
            ValueError,
            match=(
                rf"no image set '{name}'; choose one of photographs, cifar10, cifar100,"
                r" fash"
            ),
        ):
            load_images(name)
