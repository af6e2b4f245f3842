"""Standard data sets, from files of their official layouts."""

import gzip
import hashlib
import io
import os
import shlex
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import platformdirs

from linear_cnn.datasets._image_set import ImageSet

Parsed = TypeVar("Parsed")

_SPLITS = ("train", "test")

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
        aquatic_mammals fish flowers food_containers fruit_and_vegetables
        household_electrical_devices household_furniture insects large_carnivores
        large_man-made_outdoor_things large_natural_outdoor_scenes
        large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people
        reptiles small_mammals trees vehicles_1 vehicles_2
    """,
    "fine": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
        cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
        orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
    """,
}
_FASHION_MNIST_CLASSES = (
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder with one subfolder a data set: the argument, else $LINEAR_CNN_DATA,
    else the user's cache folder."""
    chosen = data_dir or os.environ.get("LINEAR_CNN_DATA")
    return (
        Path(chosen).expanduser()
        if chosen
        else platformdirs.user_cache_path("linear-cnn", appauthor=False)
    )


def cifar10(split: str = "train", data_dir: str | Path | None = None) -> ImageSet:
    """CIFAR-10: colour images of 32x32 pixels in 10 classes, 50,000 to train and 10,000
    to test, uint8.

    Read from the files of the official binary version in the subfolder cifar10 of
    `data_folder(data_dir)`, where `python -m experiments data cifar10` puts them.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split, or a file whose
        MD5 sum is not the published one.

    Examples:
      Where the files are not, the error says how to get them:

      >>> import tempfile
      >>> import linear_cnn
      >>> linear_cnn.cifar10(data_dir=tempfile.mkdtemp())  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      FileNotFoundError: ... get it with `python -m experiments data cifar10 ...

      Where they are:

      >>> images, labels, class_names = linear_cnn.cifar10("test")  # doctest: +SKIP
      >>> images.shape, class_names[labels[0]]  # doctest: +SKIP
      ((10000, 32, 32, 3), 'cat')
    """
    _check_split(split)
    names = [
        name
        for name in CIFAR10_FILES
        if (name == "test_batch.bin") == (split == "test")
    ]
    folder = data_folder(data_dir) / "cifar10"
    images, labels = zip(
        *_parsed("cifar10", data_dir, [folder / name for name in names], parse_cifar10),
        strict=True,
    )
    return ImageSet(
        np.concatenate(images), np.concatenate(labels), tuple(_CIFAR10_CLASSES.split())
    )


def cifar100(
    split: str = "train", data_dir: str | Path | None = None, labels: str = "fine"
) -> ImageSet:
    """CIFAR-100: colour images of 32x32 pixels in 100 classes of 20 groups, 50,000 to
    train and 10,000 to test, uint8.

    Read from the files of the official binary version in the subfolder cifar100 of
    `data_folder(data_dir)`, where `python -m experiments data cifar100` puts them.

    Args:
      split: "train" or "test".
      data_dir: as in `data_folder`.
      labels: "fine", the classes, or "coarse", the groups.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split or labels, or a
        file of another layout.

    Examples:
      Blank images in the official layout, after a byte for the group and one for the
      class:

      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "cifar100" / "test.bin"
      ...     file.parent.mkdir()
      ...     _ = file.write_bytes(bytes([4, 51, *3072 * [0]]) * 10_000)
      ...     images, labels, class_names = linear_cnn.cifar100("test", folder)
      >>> images.shape, class_names[labels[0]]
      ((10000, 32, 32, 3), 'mushroom')
    """
    _check_split(split)
    if labels not in _CIFAR100_CLASSES:
        raise ValueError(
            f"labels must be one of {sorted(_CIFAR100_CLASSES)}, got {labels!r}."
        )
    file = data_folder(data_dir) / "cifar100" / f"{split}.bin"
    [(images, numbers)] = _parsed("cifar100", data_dir, [file], parse_cifar100)
    return ImageSet(images, numbers[labels], tuple(_CIFAR100_CLASSES[labels].split()))


def fashion_mnist(split: str = "train", data_dir: str | Path | None = None) -> ImageSet:
    """Fashion-MNIST: grey images of 28x28 pixels in 10 classes, 60,000 to train and
    10,000 to test, uint8.

    The images have the shape (N, 28, 28, 1). They are read from idx files, compressed
    by gzip or not, in the first of these folders that has those of the split: the
    subfolder fashion_mnist of `data_folder(data_dir)`, that folder itself, and the one
    of Debian's package dataset-fashion-mnist. `python -m experiments data
    fashion_mnist` puts them into the first.

    Raises:
      FileNotFoundError: a file is missing. ValueError: no such split, or a file of
        another layout.

    Examples:
      Blank images in the official layout:

      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "t10k-images-idx3-ubyte"
      ...     header = bytes.fromhex("00000803 00002710 0000001c 0000001c")
      ...     _ = file.write_bytes(header + bytes(10_000 * 28 * 28))
      ...     file = Path(folder) / "t10k-labels-idx1-ubyte"
      ...     _ = file.write_bytes(bytes.fromhex("00000801 00002710") + bytes(10_000))
      ...     images, labels, class_names = linear_cnn.fashion_mnist("test", folder)
      >>> images.shape, class_names[labels[0]]
      ((10000, 28, 28, 1), 'T-shirt/top')
    """
    _check_split(split)
    root = data_folder(data_dir)
    names = [
        name
        for name in FASHION_MNIST_SHAPES
        if name.startswith("t10k") == (split == "test")
    ]
    choices = [
        [
            next(
                filter(Path.is_file, (folder / f"{name}.gz", folder / name)),
                folder / name,
            )
            for name in names
        ]
        for folder in (root / "fashion_mnist", root, DEBIAN_FASHION_MNIST)
    ]
    files = next(
        (files for files in choices if all(map(Path.is_file, files))), choices[0]
    )
    images, labels = _parsed("fashion_mnist", data_dir, files, parse_fashion_mnist)
    return ImageSet(
        images[..., None],
        labels.astype(np.int32),
        tuple(_FASHION_MNIST_CLASSES.split(",")),
    )


def parse_cifar10(file: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 32, 32, 3) and labels (N,) of one file of CIFAR-10; ValueError if
    its MD5 sum is wrong."""
    found, published = (
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        CIFAR10_FILES[file.name],
    )
    if found != published:
        raise ValueError(
            f"{file} has the MD5 sum {found}, but the published one is {published}"
        )
    numbers, images = _cifar_records(content, 1)
    return images, numbers[:, 0]


def parse_cifar100(
    file: Path, content: bytes
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The images (N, 32, 32, 3), and coarse and fine labels (N,), of one file of
    CIFAR-100; ValueError if malformed."""
    size = CIFAR100_COUNTS[file.name] * (2 + 3072)
    if len(content) != size:
        raise ValueError(f"{file} has {len(content):,} bytes, not {size:,}")
    numbers, images = _cifar_records(content, 2)
    labels = dict(zip(("coarse", "fine"), numbers.T, strict=True))
    for kind, column in labels.items():
        classes = len(_CIFAR100_CLASSES[kind].split())
        if column.max() >= classes:
            raise ValueError(
                f"{file} has the {kind} label {column.max()} in record"
                f" {column.argmax()}, but they end at {classes - 1}"
            )
    return images, labels


def _cifar_records(content: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, labels), int32, and images (N, 32, 32, 3) of records: bytes of labels,
    then 3072 of pixels, CHW."""
    records = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    images = records[:, labels:].reshape(-1, 3, 32, 32)
    return records[:, :labels].astype(np.int32), np.ascontiguousarray(
        images.transpose(0, 2, 3, 1)
    )


def parse_fashion_mnist(file: Path, content: bytes) -> np.ndarray:
    """The images (N, 28, 28) or labels (N,) of an idx file, uint8; ValueError if
    malformed."""
    shape = FASHION_MNIST_SHAPES[file.name.removesuffix(".gz")]
    # The magic number (bytes, and so many axes), then the lengths of the axes.
    header = np.array([0x800 + len(shape), *shape], ">u4").tobytes()
    size = len(header) + int(np.prod(shape))
    if content.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(io.BytesIO(content)) as unpacked:
                # No more than tells that there is too much.
                content = unpacked.read(size + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
    if not content.startswith(header):
        raise ValueError(
            f"{file} begins with {content[: len(header)].hex(' ', -4)}, not with"
            f" {header.hex(' ', -4)} as an idx file of shape {shape} does"
        )
    if len(content) != size:
        found = "fewer" if len(content) < size else "more"
        raise ValueError(
            f"{file} holds {found} than the {size:,} bytes of an idx file of shape"
            f" {shape}"
        )
    values = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    classes = len(_FASHION_MNIST_CLASSES.split(","))
    if values.ndim == 1 and values.max() >= classes:
        raise ValueError(
            f"{file} has the label {values.max()} in place {values.argmax()}, but they"
            f" end at {classes - 1}"
        )
    return values


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}.")


def _parsed(
    name: str,
    data_dir: str | Path | None,
    files: Sequence[Path],
    parse: Callable[[Path, bytes], Parsed],
) -> list[Parsed]:
    """The contents of files; the error says how to get those that are missing or
    malformed."""
    command = f"python -m experiments data {name}"
    if data_dir:
        command += f" --data-dir {shlex.quote(str(data_dir))}"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; get it with `{command}`, or name the folder"
                f" that has {name}/ by data_dir or $LINEAR_CNN_DATA."
            )
    try:
        return [parse(file, file.read_bytes()) for file in files]
    except ValueError as error:
        raise ValueError(f"{error}; repair it with `{command}`.") from error
