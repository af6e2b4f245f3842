"""One image file: which formats are opened, and how its pixels become 8-bit RGB."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

Result = TypeVar("Result")

# Pillow would also try formats that start another program (EPS: Ghostscript), and
# others of which it quietly drops bits (AVIF of 10 and 12).
_FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
# Everything that 8-bit RGB holds without loss, transparency aside.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}
_MOST_NAMED = 20  # files in one error


def each(
    files: Iterable[Path], use: Callable[[Image.Image], Result]
) -> Iterator[Result]:
    """What `use` makes of each image, in order; once all are seen, one error that
    names those which cannot be used, what is wrong, and the remedy."""
    faults: list[str] = []
    absent = 0
    for file in files:
        if fault := not_there(file):
            absent += 1
            faults.append(fault)
            continue
        try:
            yield _use(file, use)
        except _UnusableError as error:
            faults.append(str(error))
    if faults:
        raise_all(
            faults,
            f"{len(faults)} files cannot be used:",
            FileNotFoundError if absent == len(faults) else ValueError,
        )


def not_there(file: Path) -> str:
    """What is wrong, with the remedy, if a file does not exist; empty if it does."""
    if file.exists():
        return ""
    if file.is_symlink():
        target = printable(file.readlink())
        return f"{printable(file)} is a broken link (to {target}); mend or remove it."
    return f"{printable(file)} does not exist."


def raise_all(faults: list[str], heading: str, kind: type[Exception]) -> NoReturn:
    """Raise one error for several faults, of which it names at most `_MOST_NAMED`."""
    if len(faults) == 1:
        raise kind(faults[0])
    lines = [f"- {fault}" for fault in faults[:_MOST_NAMED]]
    if len(faults) > _MOST_NAMED:
        lines.append(f"- and {len(faults) - _MOST_NAMED} more.")
    raise kind("\n".join([heading, *lines]))


def printable(path: Path) -> str:
    """A name without characters that would steer a terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode()
        for c in str(path)
    )


def to_rgb(picture: Image.Image) -> Image.Image:
    """In 8-bit RGB, without transparency."""
    if picture.mode in ("P", "PA"):
        # Or Pillow warns of some palettes with transparency.
        picture = picture.convert("RGBA")
    if picture.mode == "CMYK" and "adobe" not in picture.info:
        # Adobe stores the light that is left, and leaves a mark; others store the ink.
        # Pillow takes all for Adobe's.
        picture = ImageChops.invert(picture)
    return picture.convert("RGB")


class _UnusableError(ValueError):
    """A file, what is wrong with it, and the remedy."""


def _use(file: Path, use: Callable[[Image.Image], Result]) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # It is then read as a JPEG, whose preview is not wanted anyway.
        warnings.filterwarnings("ignore", ".*malformed MPO", UserWarning)
        try:
            fault = "" if file.is_file() else "is not a file; remove it"
            if not fault:  # a pipe would be waited for
                with (
                    file.open("rb") as stream,
                    Image.open(stream, formats=_FORMATS) as picture,
                ):
                    fault = _fault(picture, stream)
                    if not fault:
                        return use(picture)
        # Decoders raise all kinds of errors on damaged files.
        except Exception as error:
            fault = _what_is_wrong(error)
    raise _UnusableError(f"{printable(file)} {fault}.")


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return (
            "is not an image that Pillow can read; remove it, or convert it to PNG (of"
            f" the formats {', '.join(_FORMATS)})"
        )
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return (
            f"may be a decompression bomb ({error}); shrink it first, or raise"
            " PIL.Image.MAX_IMAGE_PIXELS"
        )
    if isinstance(error, MemoryError):
        return "needs more memory than there is; shrink or remove it"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror}); mend or remove it"
    return f"is damaged ({str(error)[:200]}); replace or remove it"


def _fault(picture: ImageFile.ImageFile, stream: Any) -> str:
    """Why the image cannot be used, with the remedy; empty if it can."""
    # The first frame of an MPO is the photograph, the others are its previews.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        return (
            f"holds {getattr(picture, 'n_frames', 'several')} frames; save the one that"
            " is meant as a file of its own"
        )
    cmyk = picture.mode == "CMYK" and picture.format in ("JPEG", "MPO")
    deep = _deep(picture, stream)
    if deep or (picture.mode not in _MODES and not cmyk):
        mode = f"{picture.mode};16" if deep and picture.mode in _MODES else picture.mode
        return (
            f"has pixels of Pillow's mode {mode}, but images must fit 8-bit RGB"
            f" ({', '.join(sorted(_MODES))}); convert it first, e.g. to an 8-bit"
            " RGB PNG"
        )
    return ""


def _deep(picture: ImageFile.ImageFile, stream: Any) -> bool:
    """Whether a colour has more than 8 bits, of which Pillow quietly drops the lower
    ones; only the layout of the file still tells."""
    tiles: list[Any] = picture.tile
    if picture.format == "JPEG2000":
        return _jpeg2000_bits(stream) > 8
    # As ";16", or, of PPM files, by the largest value.
    largest = [
        tile[3][1]
        for tile in tiles
        if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[3], tuple)
    ]
    return any(";16" in str(tile[3]) for tile in tiles) or max(largest, default=0) > 255


def _jpeg2000_bits(stream: Any) -> int:
    """Of the deepest component, from the marker SIZ at the start of the code stream."""
    place = stream.tell()
    stream.seek(0)
    size = stream.read(2**24).partition(b"\xff\x4f\xff\x51")[2]
    stream.seek(place)
    components = int.from_bytes(size[36:38], "big")
    depths = np.frombuffer(size[38 : 38 + 3 * components], np.uint8)[::3]
    # The highest bit says whether there is a sign.
    return int((depths & 127).max(initial=0)) + 1
