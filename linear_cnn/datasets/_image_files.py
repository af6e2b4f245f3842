"""Image files as an array that is read where it is indexed, so that data larger than
memory goes through in batches."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image, ImageOps

from linear_cnn._checks import pair
from linear_cnn.datasets._image_file import each, printable, to_rgb
from linear_cnn.datasets._orientation import oriented, size_of

Index = int | np.integer | slice | Sequence[int] | np.ndarray


class ImageFiles:
    """Image files as an array of 8-bit RGB images, (N, H, W, 3), that reads a file
    whenever it is indexed.

    It has the part of NumPy's interface that batches need: `shape`, `dtype`, `len`,
    indexing along the first axis by whatever indexes a NumPy array of one axis (an
    integer, a slice, an array of integers or booleans), and `numpy.asarray`, which
    reads everything.

    Formats are BMP, GIF, JPEG, JPEG 2000, MPO, PCX, PNG, PPM, QOI, SGI, TGA, TIFF and
    WebP, told by the content of a file, not by its name. Grey, palette and 1-bit images
    become RGB, and CMYK of JPEG by (255 - C) (255 - K) / 255. Of a photograph with
    previews (MPO) the first image is taken. Transparency is dropped: a pixel has the
    colour that the file stores for it, however transparent. A colour profile is not
    applied.

    Without `size` images may have different sizes. Then there is no array of them all:
    `shape`, `numpy.asarray` and an index that takes images of two sizes raise
    ValueError, but each image can be indexed, and `image_batches` puts consecutive ones
    of one size together, for `theory.patch_moments` and its like.

    Args:
      files: one image each, in this order.
      size: None: as they are; else (height, width), or one integer for both: each image
        is scaled, up or down, until it just covers that size (Pillow's bilinear filter,
        which averages when it shrinks), and what protrudes on the longer side is cut
        off equally at both ends.
      upright: whether to turn and mirror an image as its EXIF orientation says, before
        it is scaled. False: pixels stay where the file stores them, whatever the format
        and the orientation.

    Attributes:
      sizes: (N, 2), height and width of each image as it is indexed.

    Raises:
      FileNotFoundError: a file is missing, or a link is broken.
      TypeError, ValueError: a malformed size; no files; files that are no images, or
        that 8-bit RGB cannot hold (16 bits, ...), of several frames, or of so many
        pixels that Pillow takes them for a decompression bomb: all in one error, of
        which the first 20 are named. For this every file's header is read at once, but
        no pixels: truncated files are refused, by the same error, when they are
        indexed.

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

      Of different sizes, as they are:

      >>> Image.new("L", (9, 5)).save(folder / "other.png")
      >>> files = linear_cnn.ImageFiles(sorted(folder.iterdir()))
      >>> [batch.shape for batch in linear_cnn.image_batches(files)]
      [(3, 6, 8, 3), (1, 5, 9, 3)]
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        files: Sequence[str | Path],
        size: int | Sequence[int] | None = None,
        *,
        upright: bool = False,
    ) -> None:
        self._files = [Path(file) for file in files]
        self._size = None if size is None else pair("size", size)
        if not self._files:
            raise ValueError("files must name at least one image.")
        self._upright = bool(upright)
        found = list(each(self._files, partial(size_of, upright=self._upright)))
        self.sizes = np.array(
            found if self._size is None else [self._size] * len(found), int
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self._common_size(np.arange(len(self))), 3)

    def _common_size(self, numbers: np.ndarray) -> tuple[int, int]:
        """Height and width of these images; of none, of the first one."""
        numbers = numbers.ravel()
        first = numbers[0] if numbers.size else 0
        differ = (self.sizes[numbers] != self.sizes[first]).any(axis=1)
        height, width = self.sizes[first].tolist()
        if differ.any():
            other = numbers[differ.argmax()]
            names = [printable(self._files[number]) for number in (first, other)]
            raise ValueError(
                f"images must have one size, but {names[0]} has {height}x{width} pixels"
                f" and {names[1]} {'x'.join(map(str, self.sizes[other]))}; scale and"
                " crop them with size=(height, width) (--size on the command line), or,"
                " for patch statistics, take them as they are by image_batches."
            )
        return height, width

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Index) -> np.ndarray:
        chosen = np.arange(len(self))[index]  # NumPy's own rules for indices
        shape = (*self._common_size(chosen), 3)
        images = np.empty((chosen.size, *shape), np.uint8)
        files = (self._files[number] for number in chosen.flat)
        # Past a damaged file places are wrong; but then `each` raises at the end.
        for place, pixels in enumerate(each(files, self._pixels)):
            images[place] = pixels
        return images.reshape(*chosen.shape, *shape)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "image files are read into new memory; leave out copy=False."
            )
        return self[:].astype(dtype or np.uint8, copy=False)

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        picture = oriented(picture, to_rgb, upright=self._upright)
        if self._size is not None:
            picture = ImageOps.fit(picture, self._size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)
