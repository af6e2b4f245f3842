"""Image files as an array that is read where it is indexed, so that data larger than
memory goes through in batches."""

import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from linear_cnn._checks import pair

Result = TypeVar("Result")
Index = int | np.integer | slice | Sequence[int] | np.ndarray

# Everything that 8-bit RGB holds without loss, transparency aside.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}
# What Pillow's decoders raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)


class ImageFiles:
    """Image files as an array of 8-bit RGB images, (N, H, W, 3), that reads a file
    whenever it is indexed.

    It has the part of NumPy's interface that batches need: `shape`, `dtype`, `len`,
    indexing along the first axis by whatever indexes a NumPy array of one axis (an
    integer, a slice, an array of integers or booleans), and `numpy.asarray`, which
    reads everything.

    Grey, palette and 1-bit images become RGB. Transparency is dropped: a pixel has the
    colour that the file stores for it, however transparent. Pixels stay as they are
    stored: an EXIF orientation or a colour profile is not applied.

    Args:
      files: one image each, in this order.
      size: None if all images have one size; else (height, width), or one integer for
        both: each image is scaled, up or down, until it just covers that size (Pillow's
        bilinear filter, which averages when it shrinks), and what protrudes on the
        longer side is cut off equally at both ends.

    Raises:
      FileNotFoundError: a file is missing.
      TypeError, ValueError: a malformed size; no files; different sizes where `size` is
        None; a file that is no image, or one that 8-bit RGB cannot hold (16 bits, CMYK,
        ...), of several frames, or of so many pixels that Pillow takes it for a
        decompression bomb. For this every file's header is read at once, but no pixels:
        a truncated file is refused, by the same error, when it is indexed.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import linear_cnn
      >>> from PIL import Image
      >>> folder = Path(tempfile.mkdtemp())
      >>> for level in (0, 100, 200):
      ...     Image.new("L", (8, 6), level).save(folder / f"{level}.png")
      >>> images = linear_cnn.ImageFiles(sorted(folder.iterdir()), size=6)
      >>> images.shape
      (3, 6, 6, 3)
      >>> images[[2, 0]].max(axis=(1, 2, 3)).tolist()  # reads two files
      [200, 0]
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, files: Sequence[str | Path], size: int | Sequence[int] | None = None
    ) -> None:
        self._files = [Path(file) for file in files]
        self._size = None if size is None else pair("size", size)
        if not self._files:
            raise ValueError("files must name at least one image.")
        sizes = [_use(file, _size_of) for file in self._files]
        height, width = self._size or sizes[0]
        if self._size is None:
            for file, other in zip(self._files, sizes, strict=True):
                if other != sizes[0]:
                    raise ValueError(
                        f"images must have one size, but {self._files[0]} has"
                        f" {height}x{width} pixels and {file} {other[0]}x{other[1]};"
                        " image_folder and labelled_folder scale and crop them with"
                        " size=(height, width)."
                    )
        self.shape = (len(self._files), height, width, 3)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Index) -> np.ndarray:
        chosen = np.arange(len(self))[index]  # NumPy's own rules for indices
        images = np.empty((chosen.size, *self.shape[1:]), np.uint8)
        for image, number in zip(images, chosen.flat, strict=True):
            image[:] = _use(self._files[number], self._pixels)
        return images.reshape(*chosen.shape, *self.shape[1:])

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "image files are read into new memory; leave out copy=False."
            )
        return self[:].astype(dtype or np.uint8, copy=False)

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        if picture.mode in ("P", "PA"):
            # Or Pillow warns of some palettes with transparency.
            picture = picture.convert("RGBA")
        picture = picture.convert("RGB")
        if self._size is not None:
            picture = ImageOps.fit(picture, self._size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)


def _size_of(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


def _use(file: Path, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of an image; ValueError naming the file, what is wrong, and the
    remedy if it cannot be used."""

    def refuse(fault: str, cause: Exception | None = None) -> NoReturn:
        raise ValueError(f"{file} {fault}.") from cause

    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(stream) as picture:
                fault = _fault(picture)
                result = None if fault else use(picture)
        except UnidentifiedImageError as error:
            refuse(
                "is not an image that Pillow can read; remove it, or convert it to PNG",
                error,
            )
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            refuse(
                f"may be a decompression bomb ({error}); shrink it first, or raise"
                " PIL.Image.MAX_IMAGE_PIXELS",
                error,
            )
        except _DAMAGE as error:
            refuse(f"is damaged ({error}); replace or remove it", error)
    if result is None:
        refuse(fault)
    return result


def _fault(picture: ImageFile.ImageFile) -> str:
    """Why the image cannot be used, with the remedy; empty if it can."""
    if getattr(picture, "is_animated", False):
        return (
            f"holds {getattr(picture, 'n_frames', 'several')} frames; save the one that"
            " is meant as a file of its own"
        )
    # Pillow quietly drops the lower bytes of 16-bit colours; only the layout of the
    # file still tells: as ";16", or, of PPM files, by the largest value.
    tiles: list[Any] = picture.tile
    largest = [
        tile[3][1]
        for tile in tiles
        if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[3], tuple)
    ]
    deep = any(";16" in str(tile[3]) for tile in tiles) or max(largest, default=0) > 255
    if deep or picture.mode not in _MODES:
        mode = f"{picture.mode};16" if deep and picture.mode in _MODES else picture.mode
        return (
            f"has pixels of Pillow's mode {mode}, but images must fit 8-bit RGB"
            f" ({', '.join(sorted(_MODES))}); convert it first, e.g. to an 8-bit"
            " RGB PNG"
        )
    return ""
