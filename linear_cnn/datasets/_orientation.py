"""Which way is up in an image file: its EXIF orientation, applied or not."""

from collections.abc import Callable
from typing import Any

from PIL import Image

_ORIENTATION, _WIDTH, _LENGTH = 274, 256, 257  # tags
# What makes an image upright, and what undoes it.
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNDO = _TURN | {6: _TURN[8], 8: _TURN[6]}


def oriented(
    picture: Any, convert: Callable[[Any], Image.Image], *, upright: bool
) -> Image.Image:
    """What `convert` makes of an image that was only opened, upright or with its pixels
    where the file stores them."""
    # Pillow turns TIFF, and only TIFF, by itself when it reads the pixels.
    turned = picture.format == "TIFF"
    orientation = 1 if turned == upright else picture.getexif().get(_ORIENTATION)
    turn = (_TURN if upright else _UNDO).get(orientation)
    converted = convert(picture)
    return converted if turn is None else converted.transpose(turn)


def size_of(picture: Any, *, upright: bool) -> tuple[int, int]:
    """Height and width of what `oriented` gives, of an image that was only opened."""
    height, width = picture.height, picture.width
    if picture.format == "TIFF":  # of some versions of Pillow those of the turned image
        height, width = (int(picture.tag_v2[tag]) for tag in (_LENGTH, _WIDTH))
    swapped = upright and picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    return (width, height) if swapped else (height, width)
