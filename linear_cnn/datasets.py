"""Images to train on: standard data sets, folders and arrays of one's own, photographs, and random textures."""

import csv
import gzip
import hashlib
import io
import lzma
import os
import shlex
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from PIL import Image

from linear_cnn._arguments import check_keys, integer
from linear_cnn.image_files import ImageFiles

Parsed = TypeVar("Parsed")

_TILE = 32
# Photographs are shrunk by averaging blocks of pixels; the smaller versions, poor in tiles, are cut with overlap.
_SCALES = {1: _TILE, 2: _TILE // 2, 4: _TILE // 2}

_SPLITS = ("train", "test")
# What NumPy and zipfile raise on damaged or foreign files.
NPZ_DAMAGE = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_MOST_CLASSES = 65_536  # that go by their numbers: more are a mistake, and would fill the memory with names

# The files of each data set. CIFAR-10's MD5 sums are the published ones.
CIFAR10_FILES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
CIFAR100_COUNTS = {"train.bin": 50_000, "test.bin": 10_000}
FASHION_MNIST_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
# Where Debian's package dataset-fashion-mnist puts them.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = {
    "coarse": """
        aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
        household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
        large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
        vehicles_1 vehicles_2
    """,
    "fine": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """,
}
_FASHION_MNIST_CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"


class ImageSet(NamedTuple):
    """Labelled images.

    Attributes:
      images: uint8 in 0 ... 255 or float32 in [0, 1], (N, H, W, C): an array, or `ImageFiles`, which are read where
        they are indexed. `scale_pixels` and `image_batches` make float32 in [0, 1] of them all.
      labels: int32, (N,), indices into `class_names`.
      class_names: one name a class.
    """

    images: Any
    labels: np.ndarray
    class_names: tuple[str, ...]


def load_images(name: str | Path, split: str = "train", data_dir: str | Path | None = None) -> ImageSet:
    """An image set by its name, or from a path.

    Args:
      name: "photographs", "cifar10", "cifar100" (fine labels), "fashion_mnist", the path of a folder with one subfolder
        a class (`image_folder`), or the path of an .npz file (`npz_images`).
      split: "train", or of the three standard data sets "test". A path stands for one set: name the other's
        path to have that.
      data_dir: as in `data_folder`.

    Raises:
      ValueError: neither one of the names nor such a path; no such split. The functions named raise their own errors.
    """
    standard = {"cifar10": cifar10, "cifar100": cifar100, "fashion_mnist": fashion_mnist}
    if name in standard:
        return standard[str(name)](split, data_dir)
    path = Path(name).expanduser()
    if name != "photographs" and not path.is_dir() and not (path.is_file() and path.suffix == ".npz"):
        raise ValueError(
            f"there is no image set {str(name)!r}; choose one of photographs, {', '.join(standard)}, or the path of an "
            "existing folder with one subfolder a class, or of an existing .npz file."
        )
    if split != "train":
        raise ValueError(f"{name} is one set of images without a split {split!r}; use split='train'.")
    if name == "photographs":
        return photographs()
    return image_folder(path) if path.is_dir() else npz_images(path)


def scale_pixels(images: Any) -> np.ndarray:
    """Images as float32: uint8 in 0 ... 255 divided by 255, floating point as it is.

    Raises:
      TypeError: of another dtype.
    """
    pixels = np.asarray(images)
    if pixels.dtype == np.uint8:
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    if np.issubdtype(pixels.dtype, np.floating):
        return pixels.astype(np.float32, copy=False)
    raise TypeError(f"images must be uint8 or floating point, got {pixels.dtype}; convert them first.")


def image_batches(images: Any, size: int = 1024) -> Iterator[np.ndarray]:
    """All images in order, as float32 batches by `scale_pixels`; only one batch is in memory at a time.

    An iterator, to be used once.

    Args:
      images: (N, H, W, C), an array or `ImageFiles`.
      size: images in a batch; the last one holds what is left.

    Raises:
      TypeError, ValueError: a malformed size.
    """
    size = integer("size", size, minimum=1)
    return (scale_pixels(images[start : start + size]) for start in range(0, len(images), size))


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder with one subfolder a data set: the argument, else $LINEAR_CNN_DATA, else the user's cache folder."""
    chosen = data_dir or os.environ.get("LINEAR_CNN_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("linear-cnn", appauthor=False)


def cifar10(split: str = "train", data_dir: str | Path | None = None) -> ImageSet:
    """CIFAR-10: colour images of 32x32 pixels in 10 classes, 50,000 to train and 10,000 to test, uint8.

    Read from the files of the official binary version in the subfolder cifar10 of `data_folder(data_dir)`, where
    `python -m experiments data cifar10` puts them.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split, or a file whose MD5 sum is not the published one.
    """
    _check_split(split)
    names = [name for name in CIFAR10_FILES if (name == "test_batch.bin") == (split == "test")]
    folder = data_folder(data_dir) / "cifar10"
    images, labels = zip(*_parsed("cifar10", data_dir, [folder / name for name in names], parse_cifar10), strict=True)
    return ImageSet(np.concatenate(images), np.concatenate(labels), tuple(_CIFAR10_CLASSES.split()))


def cifar100(split: str = "train", data_dir: str | Path | None = None, labels: str = "fine") -> ImageSet:
    """CIFAR-100: colour images of 32x32 pixels in 100 classes of 20 groups, 50,000 to train and 10,000 to test, uint8.

    Read from the files of the official binary version in the subfolder cifar100 of `data_folder(data_dir)`, where
    `python -m experiments data cifar100` puts them.

    Args:
      split: "train" or "test".
      data_dir: as in `data_folder`.
      labels: "fine", the classes, or "coarse", the groups.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split or labels, or a file of another layout.
    """
    _check_split(split)
    if labels not in _CIFAR100_CLASSES:
        raise ValueError(f"labels must be one of {sorted(_CIFAR100_CLASSES)}, got {labels!r}.")
    file = data_folder(data_dir) / "cifar100" / f"{split}.bin"
    [(images, numbers)] = _parsed("cifar100", data_dir, [file], parse_cifar100)
    return ImageSet(images, numbers[labels], tuple(_CIFAR100_CLASSES[labels].split()))


def fashion_mnist(split: str = "train", data_dir: str | Path | None = None) -> ImageSet:
    """Fashion-MNIST: grey images of 28x28 pixels in 10 classes, 60,000 to train and 10,000 to test, uint8.

    The images have the shape (N, 28, 28, 1). They are read from idx files, compressed by gzip or not, in the first of
    these folders that has those of the split: the subfolder fashion_mnist of `data_folder(data_dir)`, that folder
    itself, and the one of Debian's package dataset-fashion-mnist. `python -m experiments data fashion_mnist` puts them
    into the first.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split, or a file of another layout.
    """
    _check_split(split)
    root = data_folder(data_dir)
    names = [name for name in FASHION_MNIST_SHAPES if name.startswith("t10k") == (split == "test")]
    choices = [
        [next(filter(Path.is_file, (folder / f"{name}.gz", folder / name)), folder / name) for name in names]
        for folder in (root / "fashion_mnist", root, DEBIAN_FASHION_MNIST)
    ]
    files = next((files for files in choices if all(map(Path.is_file, files))), choices[0])
    images, labels = _parsed("fashion_mnist", data_dir, files, parse_fashion_mnist)
    return ImageSet(images[..., None], labels.astype(np.int32), tuple(_FASHION_MNIST_CLASSES.split(",")))


def parse_cifar10(file: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 32, 32, 3) and labels (N,) of one file of CIFAR-10; ValueError if its MD5 sum is wrong."""
    found, published = hashlib.md5(content, usedforsecurity=False).hexdigest(), CIFAR10_FILES[file.name]
    if found != published:
        raise ValueError(f"{file} has the MD5 sum {found}, but the published one is {published}")
    numbers, images = _cifar_records(content, 1)
    return images, numbers[:, 0]


def parse_cifar100(file: Path, content: bytes) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The images (N, 32, 32, 3), and coarse and fine labels (N,), of one file of CIFAR-100; ValueError if malformed."""
    size = CIFAR100_COUNTS[file.name] * (2 + 3072)
    if len(content) != size:
        raise ValueError(f"{file} has {len(content):,} bytes, not {size:,}")
    numbers, images = _cifar_records(content, 2)
    labels = dict(zip(("coarse", "fine"), numbers.T, strict=True))
    for kind, column in labels.items():
        classes = len(_CIFAR100_CLASSES[kind].split())
        if column.max() >= classes:
            raise ValueError(
                f"{file} has the {kind} label {column.max()} in record {column.argmax()}, but they end at {classes - 1}"
            )
    return images, labels


def _cifar_records(content: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, labels), int32, and images (N, 32, 32, 3) of records: bytes of labels, then 3072 of pixels, CHW."""
    records = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    images = records[:, labels:].reshape(-1, 3, 32, 32)
    return records[:, :labels].astype(np.int32), np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def parse_fashion_mnist(file: Path, content: bytes) -> np.ndarray:
    """The images (N, 28, 28) or labels (N,) of an idx file, uint8; ValueError if malformed."""
    shape = FASHION_MNIST_SHAPES[file.name.removesuffix(".gz")]
    # The magic number (bytes, and so many axes), then the lengths of the axes.
    header = np.array([0x800 + len(shape), *shape], ">u4").tobytes()
    size = len(header) + int(np.prod(shape))
    if content.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(io.BytesIO(content)) as unpacked:
                content = unpacked.read(size + 1)  # no more than tells that there is too much
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
    if not content.startswith(header):
        raise ValueError(
            f"{file} begins with {content[: len(header)].hex(' ', -4)}, not with {header.hex(' ', -4)} as an idx file "
            f"of shape {shape} does"
        )
    if len(content) != size:
        found = "fewer" if len(content) < size else "more"
        raise ValueError(f"{file} holds {found} than the {size:,} bytes of an idx file of shape {shape}")
    values = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    classes = len(_FASHION_MNIST_CLASSES.split(","))
    if values.ndim == 1 and values.max() >= classes:
        raise ValueError(
            f"{file} has the label {values.max()} in place {values.argmax()}, but they end at {classes - 1}"
        )
    return values


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}.")


def _parsed(
    name: str, data_dir: str | Path | None, files: Sequence[Path], parse: Callable[[Path, bytes], Parsed]
) -> list[Parsed]:
    """The contents of files; the error says how to get those that are missing or malformed."""
    command = f"python -m experiments data {name}"
    if data_dir:
        command += f" --data-dir {shlex.quote(str(data_dir))}"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; get it with `{command}`, or name the folder that has {name}/ by data_dir or "
                "$LINEAR_CNN_DATA."
            )
    try:
        return [parse(file, file.read_bytes()) for file in files]
    except ValueError as error:
        raise ValueError(f"{error}; repair it with `{command}`.") from error


def image_folder(folder: str | Path, size: int | Sequence[int] | None = None) -> ImageSet:
    """The images in a folder with one subfolder a class, read where they are indexed.

    Classes and, within each, files are in the order of their names. Subfolders of a class are searched too. Names that
    begin with a dot, and files beside the class folders, are left out.

    Args:
      folder: with the class folders.
      size: as in `ImageFiles`, whose errors apply too.

    Raises:
      FileNotFoundError: no such folder. ValueError: no class folders, or one without images.
    """
    folder = _existing_folder(folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(
            f"{folder} has no subfolders; put the images of each class into one, or use labelled_folder and a table."
        )
    contents = [_files_below(path) for path in classes]
    for path, files in zip(classes, contents, strict=True):
        if not files:
            raise ValueError(f"{path} holds no images; every subfolder is a class, so fill or remove it.")
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in contents])
    return ImageSet(ImageFiles(list(chain.from_iterable(contents)), size), labels, tuple(path.name for path in classes))


def labelled_folder(
    folder: str | Path,
    table: str | Path,
    *,
    label_column: str,
    file_column: str = "image_id",
    size: int | Sequence[int] | None = None,
) -> ImageSet:
    """The images that a table lists, with labels from one of its columns, read where they are indexed.

    This is how CelebA comes: `labelled_folder("img_align_celeba", "list_attr_celeba.csv", label_column="Smiling")`.

    Args:
      folder: that the table's file names start from. Its other files are left out.
      table: CSV with a header, or CelebA's own list_attr_celeba.txt (a count, the columns' names but the first, which
        is taken as "image_id", and rows; all separated by blanks).
      label_column: one class for every different text in it, in the order of the numbers if all are integers, else
        of the alphabet: -1 and 1 become the labels 0 and 1.
      file_column: with the names of the files.
      size: as in `ImageFiles`, whose errors apply too.

    Raises:
      FileNotFoundError: no such folder, table, or file in the folder. ValueError: no such column, no rows, an empty
        cell in one of the two columns, a file listed twice, or a table that is no text.
    """
    folder, table = _existing_folder(folder), Path(table).expanduser()
    rows = _table_rows(table)
    if not rows:
        raise ValueError(f"{table} lists no images; it needs a line of column names and one line an image.")
    for column in (file_column, label_column):
        if column not in rows[0]:
            raise ValueError(f"{table} has no column {column!r}; it has {', '.join(map(str, rows[0]))}.")
        empty = next((number for number, row in enumerate(rows, 1) if not row[column]), None)
        if empty is not None:
            raise ValueError(f"{table} has no {column!r} in row {empty}; fill it in, or remove the row.")
    names, values = [row[file_column] for row in rows], [row[label_column] for row in rows]
    [(name, times)] = Counter(names).most_common(1)
    if times > 1:
        raise ValueError(f"{table} lists {name} {times} times; leave one of the rows.")
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist, but {table} lists it; add it, or remove its row.")
    integers = all(value.removeprefix("-").isdecimal() for value in values)
    classes = tuple(sorted(set(values), key=lambda value: (int(value) if integers else 0, value)))
    numbers = {value: number for number, value in enumerate(classes)}
    return ImageSet(ImageFiles(files, size), np.array([numbers[value] for value in values], np.int32), classes)


def npz_images(path: str | Path) -> ImageSet:
    """Images and labels from the arrays of an .npz file, as `numpy.savez` writes it.

    Args:
      path: of a file with `images`, uint8 or floating point in [0, 1], (N, H, W, C); `labels`, integers from 0 on,
        (N,); and, if the classes have names, `class_names`, texts, one a class. Else a class is named by its number.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged file; one with arrays missing, or of other kinds or shapes.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("images", "labels", "class_names") if name in stored}
    except FileNotFoundError:
        raise
    except NPZ_DAMAGE as error:
        raise ValueError(f"{path} cannot be read as an .npz file ({error}); write it with numpy.savez.") from error
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name!r}; write it with numpy.savez(path, images=..., labels=...).")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images in {path} must have shape (N, H, W, C), no axis empty, got {images.shape}; grey images are "
            "images[..., None]."
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"images in {path} must be uint8 or floating point, got {images.dtype}; convert them.")
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"images in {path} must lie in [0, 1], but lie in [{images.min()}, {images.max()}]; scale them, or "
                "store them as uint8."
            )
        images = images.astype(np.float32, copy=False)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels in {path} must be integers of shape {images.shape[:1]}, one an image, got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise ValueError(f"class_names in {path} must be texts, one a class, got {names.dtype} of shape {names.shape}.")
    most = _MOST_CLASSES if names is None else len(names)
    if labels.min() < 0 or labels.max() >= most:
        raise ValueError(
            f"labels in {path} must lie between 0 and {most - 1}, but lie between {labels.min()} and {labels.max()}; "
            "number the classes from 0 on."
        )
    classes = map(str, range(labels.max() + 1)) if names is None else names.tolist()
    return ImageSet(images, labels.astype(np.int32), tuple(classes))


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not an existing folder.")
    return folder


def _files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, in the order of their names, hidden ones left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _table_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    try:
        text = table.read_text("utf-8-sig")
        lines = text.splitlines()
        if len(lines) > 1 and lines[0].strip().isdecimal():
            columns = ["image_id", *lines[1].split()]
            return [dict(zip(columns, line.split(), strict=True)) for line in lines[2:]]
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}); save it as CSV in UTF-8.") from error


def photographs() -> ImageSet:
    """Tiles of 32x32 pixels from the six colour photographs of this package, labelled by photograph.

    2,820 tiles: non-overlapping at full resolution, half overlapping after averaging blocks of 2x2 and 4x4 pixels.
    Pixels are the sRGB values divided by 255. `linear_cnn/photographs/ATTRIBUTION.md` names the
    photographers and licences.
    """
    folder = resources.files("linear_cnn") / "photographs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".png")), key=lambda file: file.name)
    tiles = []
    for file in files:
        with file.open("rb") as stream, Image.open(stream) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float64) / 255
        tiles.append(np.concatenate([_cut(_shrink(pixels, scale), step) for scale, step in _SCALES.items()]))
    labels = np.repeat(np.arange(len(tiles), dtype=np.int32), [len(part) for part in tiles])
    names = tuple(file.name.removesuffix(".png") for file in files)
    return ImageSet(np.concatenate(tiles).astype(np.float32), labels, names)


def _shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels, (H, W, C) -> (H // factor, W // factor, C)."""
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, -1)
    return blocks.mean(axis=(1, 3))


def _cut(pixels: np.ndarray, step: int) -> np.ndarray:
    """All tiles whose corner is a multiple of `step`, (n, tile, tile, C)."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (_TILE, _TILE), axis=(0, 1))[::step, ::step]
    return np.moveaxis(windows, 2, -1).reshape(-1, _TILE, _TILE, pixels.shape[-1])


def gaussian_images(key: jax.Array, count: int, power_spectrum: Any) -> jax.Array:
    """Stationary Gaussian textures with a chosen power spectrum and periodic borders.

    Their autocovariance is the inverse discrete Fourier transform of the power spectrum, so the variance of
    a pixel is the mean of the power spectrum; white noise has power 1 everywhere.

    Args:
      key: JAX key.
      count: N.
      power_spectrum: (H, W, C), >= 0, in the order of `numpy.fft.fft2`; equal at opposite frequencies, because the
        images are real. Channels are independent.

    Returns:
      images, (N, H, W, C), of mean 0.

    Raises:
      TypeError: no key. ValueError: a count below 1; a power spectrum of the wrong rank, negative, not finite or
        not symmetric.
    """
    check_keys("key", key, axes=0)
    count = integer("count", count, minimum=1)
    power = np.asarray(power_spectrum)
    if power.ndim != 3 or 0 in power.shape:
        raise ValueError(f"power_spectrum must have shape (H, W, C), got {power.shape}.")
    if not (np.isfinite(power).all() and (power >= 0).all()):
        raise ValueError("power_spectrum must be finite and >= 0.")
    opposite = np.roll(power[::-1, ::-1], 1, axis=(0, 1))
    if not np.allclose(power, opposite, rtol=1e-6, atol=1e-12 * power.max()):
        raise ValueError(
            "power_spectrum must be equal at opposite frequencies (k and -k), or the images would not be real; "
            "average it with numpy.roll(power[::-1, ::-1], 1, axis=(0, 1))."
        )
    noise = jax.random.normal(key, (count, *power.shape))
    spectrum = jnp.fft.fft2(noise, axes=(1, 2))
    amplitude = jnp.sqrt(jnp.asarray(power, noise.dtype)).astype(spectrum.dtype)
    return jnp.fft.ifft2(spectrum * amplitude[None], axes=(1, 2)).real
