"""Image sets from folders and arrays of one's own."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from linear_cnn._npz import Header, Unfit, read_npz
from linear_cnn._text import shown, shown_path
from linear_cnn.datasets._folders import class_folders, files_below
from linear_cnn.datasets._image_file import printable, raise_all
from linear_cnn.datasets._image_files import ImageFiles
from linear_cnn.datasets._image_set import ImageSet

# That go by their numbers: more are a mistake, and would fill the memory with names.
_MOST_CLASSES = 65_536
_LONGEST_CLASS_NAME = 1000  # characters; NumPy stores each in the length of the longest
_LARGEST_CLASS_NAMES = 2**26  # bytes
_LONGEST_LINE = 2**20  # characters of a table
# A class name has none of these: halves of a pair of UTF-16, which no file in UTF-8 can
# hold, and what is no character at all.
_SURROGATES, _LAST_CHARACTER = (0xD800, 0xDFFF), 0x10FFFF


def image_folder(
    folder: str | Path,
    size: int | Sequence[int] | None = None,
    *,
    upright: bool = False,
    need_labels: bool = True,
) -> ImageSet:
    """The images in a folder with one subfolder a class, read where they are indexed.

    Classes and, within each, files are in the order of their names. Subfolders of a
    class are searched too, and so are linked ones, except for a link to a folder that
    holds it. Left out are names that begin with a dot, what systems leave behind
    (Thumbs.db, desktop.ini, __MACOSX, ...), and files beside the class folders.

    Args:
      folder: with the class folders.
      size, upright: as in `ImageFiles`, whose errors apply too.
      need_labels: False: a folder without subfolders will do. Its images get the label
        -1, and there are no class names.

    Raises:
      FileNotFoundError: no such folder. ValueError: no class folders, where labels are
        needed, or one without images; no images at all; a link beside the class folders
        that leads nowhere or back.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> from PIL import Image
      >>> folder = Path(tempfile.mkdtemp())
      >>> for name in ("owl/1.png", "cat/1.png", "cat/2.png"):
      ...     (folder / name).parent.mkdir(exist_ok=True)
      ...     Image.new("RGB", (40, 32)).save(folder / name)
      >>> images, labels, class_names = linear_cnn.image_folder(folder, size=32)
      >>> images.shape, labels.tolist(), class_names
      ((3, 32, 32, 3), [0, 0, 1], ('cat', 'owl'))
    """
    folder = _existing_folder(folder)
    classes = class_folders(folder)
    if not classes and need_labels:
        raise ValueError(
            f"{folder} has no subfolders; put the images of each class into one, or use"
            " labelled_folder and a table. Labels are needed here; what needs none"
            " (patch statistics) takes the folder as it is, by need_labels=False."
        )
    if not classes:
        files = files_below(folder)
        if not files:
            raise ValueError(f"{folder} holds no images; put some into it.")
        labels = np.full(len(files), -1, np.int32)
        return ImageSet(ImageFiles(files, size, upright=upright), labels, ())
    contents = [files_below(path) for path in classes]
    for path, files in zip(classes, contents, strict=True):
        if not files:
            raise ValueError(
                f"{path} holds no images; every subfolder is a class, so fill or"
                " remove it."
            )
    labels = np.repeat(
        np.arange(len(classes), dtype=np.int32), [len(files) for files in contents]
    )
    return ImageSet(
        ImageFiles(
            list(itertools.chain.from_iterable(contents)), size, upright=upright
        ),
        labels,
        tuple(path.name for path in classes),
    )


def labelled_folder(
    folder: str | Path,
    table: str | Path,
    *,
    label_column: str,
    file_column: str = "image_id",
    size: int | Sequence[int] | None = None,
    upright: bool = False,
) -> ImageSet:
    r"""The images that a table lists, with labels from one of its columns, read where
    they are indexed.

    This is how CelebA comes: `labelled_folder("img_align_celeba",
    "list_attr_celeba.csv", label_column="Smiling")`.

    Args:
      folder: that the table's file names start from. Its other files are left out.
      table: CSV with a header, or CelebA's own list_attr_celeba.txt (a count, the
        columns' names but the first, which is taken as "image_id", and rows; all
        separated by blanks).
      label_column: one class for every different text in it, in the order of the
        numbers if all are integers, else of the alphabet: -1 and 1 become the labels 0
        and 1.
      file_column: with the names of the files.
      size, upright: as in `ImageFiles`, whose errors apply too.

    Raises:
      FileNotFoundError: no such folder, table, or file in the folder. ValueError: no
        such column, no rows, an empty cell in one of the two columns, a file listed
        twice, or a table that is no text.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> from PIL import Image
      >>> folder = Path(tempfile.mkdtemp())
      >>> for name in ("1.png", "2.png"):
      ...     Image.new("RGB", (32, 32)).save(folder / name)
      >>> table = folder / "table.csv"
      >>> _ = table.write_text("image_id,Smiling\n1.png,1\n2.png,-1\n")
      >>> found = linear_cnn.labelled_folder(folder, table, label_column="Smiling")
      >>> found.images.shape, found.labels.tolist(), found.class_names
      ((2, 32, 32, 3), [1, 0], ('-1', '1'))
    """
    folder, table = _existing_folder(folder), Path(table).expanduser()
    names, values = _table_columns(table, (file_column, label_column))
    [(name, times)] = Counter(names).most_common(1)
    if times > 1:
        raise ValueError(
            f"{table} lists {shown(name)} {times} times; leave one of the rows."
        )
    files = [folder / name for name in names]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise_all(
            [
                f"{printable(file)}"
                f" {'is a broken link' if file.is_symlink() else 'does not exist'}, but"
                f" {table} lists it; add it, or remove its row."
                for file in absent
            ],
            f"{len(absent)} of the {len(files)} files in {table} cannot be found:",
            FileNotFoundError,
        )
    integers = all(value.removeprefix("-").isdecimal() for value in values)
    classes = tuple(
        sorted(set(values), key=lambda value: (int(value) if integers else 0, value))
    )
    numbers = {value: number for number, value in enumerate(classes)}
    return ImageSet(
        ImageFiles(files, size, upright=upright),
        np.array([numbers[value] for value in values], np.int32),
        classes,
    )


def npz_images(path: str | Path) -> ImageSet:
    """Images and labels from the arrays of an .npz file, as `numpy.savez` writes it.

    Args:
      path: of a file with `images`, uint8 or floating point in [0, 1], (N, H, W, C);
        `labels`, integers from 0 on, (N,); and, if the classes have names,
        `class_names`, texts, one a class, of at most 1000 characters. Else a class is
        named by its number.

    Raises:
      FileNotFoundError: no such file. ValueError: a damaged file; one with arrays
        missing, or of other kinds or shapes; class names with halves of a character.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> import numpy as np
      >>> path = Path(tempfile.mkdtemp()) / "own.npz"
      >>> np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8), labels=[1, 0])
      >>> images, labels, class_names = linear_cnn.npz_images(path)
      >>> images.shape, labels.tolist(), class_names
      ((2, 8, 8, 3), [1, 0], ('0', '1'))
    """
    path = Path(path).expanduser()
    where = shown_path(path)
    arrays = read_npz(
        path,
        "cannot be read as an .npz file",
        "write it with numpy.savez",
        names=("images", "labels", "class_names"),
        check=partial(_check_array, where),
    )
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(
                f"{where} has no array {name!r}; write it with numpy.savez(path,"
                " images=..., labels=...)."
            )
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8:
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"images in {where} must lie in [0, 1], but lie in [{images.min()},"
                f" {images.max()}]; scale them, or store them as uint8."
            )
        images = images.astype(np.float32, copy=False)
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels in {where} must be integers of shape {images.shape[:1]}, one an"
            f" image, got {labels.dtype} of shape {labels.shape}."
        )
    names = arrays.get("class_names")
    classes = None if names is None else _class_names(names, where)
    most = _MOST_CLASSES if classes is None else len(classes)
    if labels.min() < 0 or labels.max() >= most:
        raise ValueError(
            f"labels in {where} must lie between 0 and {most - 1}, but lie between"
            f" {labels.min()} and {labels.max()}; number the classes from 0 on."
        )
    if classes is None:
        classes = tuple(map(str, range(labels.max() + 1)))
    return ImageSet(images, labels.astype(np.int32), classes)


def _check_array(where: str, name: str, header: Header) -> None:
    """Raise for an array that cannot be what its name says, before it is read."""
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:  # is refused where it is read
        return
    got = f"got {shown(dtype)} of shape {shown(shape)}"
    if name == "images":
        if len(shape) != 4 or 0 in shape:
            raise Unfit(
                f"images in {where} must have shape (N, H, W, C), no axis empty, got"
                f" {shown(shape)}; grey images are images[..., None]."
            )
        if dtype != np.uint8 and dtype.kind != "f":
            raise Unfit(
                f"images in {where} must be uint8 or floating point, got"
                f" {shown(dtype)}; convert them."
            )
    elif name == "labels":
        if len(shape) != 1 or dtype.kind not in "iu":
            raise Unfit(
                f"labels in {where} must be integers of shape (N,), one an image,"
                f" {got}."
            )
    elif len(shape) != 1 or dtype.kind != "U":
        raise Unfit(f"class_names in {where} must be texts, one a class, {got}.")
    elif (
        shape[0] > _MOST_CLASSES
        or dtype.itemsize > 4 * _LONGEST_CLASS_NAME
        or header.size > _LARGEST_CLASS_NAMES
    ):
        raise Unfit(
            f"class_names in {where} must be at most {_MOST_CLASSES}, of at most"
            f" {_LONGEST_CLASS_NAME} characters and {_LARGEST_CLASS_NAMES} bytes in"
            f" all, {got}."
        )


def _class_names(names: np.ndarray, where: str) -> tuple[str, ...]:
    letters = names.astype(names.dtype.newbyteorder("="), copy=False)
    letters = letters.reshape(-1, 1).view(np.uint32)
    lowest, highest = _SURROGATES
    wrong = ((letters >= lowest) & (letters <= highest)) | (letters > _LAST_CHARACTER)
    if wrong.any():
        [place, *_] = np.flatnonzero(wrong.any(axis=1))
        raise ValueError(
            f"class name {place} in {where} holds U+{letters[wrong][0]:04X}, which is"
            " no character; write the names anew."
        )
    return tuple(names.tolist())


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not an existing folder.")
    return folder


def _table_columns(table: Path, columns: Sequence[str]) -> list[list[str]]:
    """What a table has in some of its columns; nothing is kept of the others, of which
    CelebA's has forty."""
    found: list[list[str]] = [[] for _ in columns]
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            header, rows = _header_and_rows(_short_lines(lines))
            places = {name: place for place, name in enumerate(header)}
            for number, row in enumerate(rows, 1):
                for column, cells in zip(columns, found, strict=True):
                    if column not in places:
                        raise _WrongTable(
                            f"has no column {column!r}; it has"
                            f" {shown(', '.join(header))}."
                        )
                    cell = row[places[column]] if places[column] < len(row) else ""
                    if not cell:
                        raise _WrongTable(
                            f"has no {column!r} in row {number}; fill it in, or remove"
                            " the row."
                        )
                    cells.append(cell)
    except _WrongTable as error:
        raise ValueError(f"{table} {error}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{table} cannot be read as a table ({error}); save it as CSV in UTF-8."
        ) from error
    if not found[0]:
        raise ValueError(
            f"{table} lists no images; it needs a line of column names and one line an"
            " image."
        )
    return found


class _WrongTable(Exception):
    """A table that can be read, but not used."""


def _short_lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, each within its bound: one without an end would fill the
    memory."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE} characters")
        yield line


def _header_and_rows(lines: Iterator[str]) -> tuple[list[str], Iterator[list[str]]]:
    first = next(lines, "")
    if not first.strip().isdecimal():
        rows = csv.reader(itertools.chain([first], lines))
        return next(rows, []), filter(None, rows)
    header = ["image_id", *next(lines, "").split()]

    def split(line: str) -> list[str]:
        cells = line.split()
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells under {len(header)} columns")
        return cells

    return header, map(split, lines)
