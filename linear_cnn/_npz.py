"""Reading .npz files, and the zip archives of other formats.

What an archive will take is counted before it is read: the bytes of its directory, its
members, the header of each array and the numbers that this declares. A small file may
unpack to much.
"""

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from linear_cnn._text import quoted, shown, shown_path

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
# A network of ten thousand tensors has as many members, and a directory of 1 MB.
_MOST_MEMBERS = 2**14
_LARGEST_DIRECTORY = 2**22  # bytes
_LONGEST_HEADER = 10_000  # bytes of an array; NumPy's own limit, but it reads first
# Beyond this size an array may not be more than a hundred times what is stored of it;
# photographs, which hardly shrink, are far from that.
_LARGEST_UNCHECKED = 2**28
_MOST_EXPANSION = 100
# Compression, of which zipfile unpacks no more than was asked for, or, of LZMA, of what
# it was given: several thousandfold. Of bzip2 this is millionfold.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
# Bytes read at once.
_PIECE, _SMALL_PIECE = 2**16, 2**12


class Unfit(ValueError):
    """What is wrong with a sound array, in full."""


class Header(NamedTuple):
    """What an array says of itself before its numbers."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Guarded(io.FileIO):
    """A file of which nobody reads more at once than the directory of an honest archive
    takes: zipfile reads the whole directory before it can be asked for its length."""

    def read(self, size: int | None = -1) -> bytes:
        left = size if size is not None and size >= 0 else self._left()
        if min(left, self._left()) > _LARGEST_DIRECTORY:
            raise ValueError(
                "its directory is larger than that of any network or image set"
            )
        return super().read(left) or b""

    def _left(self) -> int:
        place = self.tell()
        end = self.seek(0, io.SEEK_END)
        self.seek(place)
        return end - place


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive, unless its directory alone would fill the memory.

    Raises:
      ValueError: too many members. zipfile's own errors: no archive, or damaged.
    """
    with _Guarded(path) as file, zipfile.ZipFile(file) as archive:
        count = len(archive.infolist())
        if count > _MOST_MEMBERS:
            raise ValueError(
                f"it has {count} members, more than any network or image set"
            )
        if any(member.compress_type not in _METHODS for member in archive.infolist()):
            raise ValueError(
                "its zip archive is compressed by a method that numpy.savez_compressed"
                " never uses"
            )
        size = file.seek(0, io.SEEK_END)
        if any(member.compress_size > size for member in archive.infolist()):
            raise zipfile.BadZipFile("a member is longer than the whole file")
        yield archive


def read_member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    start: int = 0,
    stop: int | None = None,
) -> bytearray:
    """Bytes [start, stop) of a member. All of it is read, for its checksum."""
    stop = member.file_size if stop is None else stop
    kept = bytearray()
    with archive.open(member) as file:
        place = 0
        while piece := file.read(_piece(member)):
            kept += piece[max(start - place, 0) : max(stop - place, 0)]
            place += len(piece)
    if place != member.file_size:
        raise EOFError(f"a member has {place} bytes, not {member.file_size}")
    return kept


def _piece(member: zipfile.ZipInfo) -> int:
    return _SMALL_PIECE if member.compress_type == zipfile.ZIP_LZMA else _PIECE


def read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    """The header of an array, which its member must fill.

    Raises:
      ValueError: no array, a header that is too long, or one that declares more or
        fewer numbers than the member holds.
    """
    with archive.open(member) as file:
        header, start = array_header(file, member.filename)
    held = member.file_size - start
    if not header.dtype.hasobject and header.size != held:
        word = "more" if held > header.size else "fewer"
        raise ValueError(
            f"{quoted(member.filename)} holds {word} numbers than its header says"
        )
    if held > max(_LARGEST_UNCHECKED, _MOST_EXPANSION * member.compress_size):
        raise ValueError(
            f"{quoted(member.filename)} expands to {held} bytes, more than"
            f" {_MOST_EXPANSION} times what is stored of it"
        )
    return header


def array_header(file: IO[bytes], name: str) -> tuple[Header, int]:
    """The header, and where the numbers begin."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise ValueError(f"its member {quoted(name)} is no array")
    version = (start[6], start[7]) if len(start) == 8 else (0, 0)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"{quoted(name)} is of an unknown version of NumPy's format")
    width = 2 if version == (1, 0) else 4
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise ValueError(f"the header of {quoted(name)} has {size} bytes")
    read = (
        np.lib.format.read_array_header_1_0
        if width == 2
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read(io.BytesIO(length + file.read(size)))
    if any(axis < 0 for axis in shape):
        raise ValueError(f"{quoted(name)} has the shape {shown(shape)}")
    return Header(shape, fortran_order, dtype), 8 + width + size


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array of a .npz file; nothing that is pickled is read.

    Raises:
      ValueError: as `read_header`, and for Python objects.
    """
    header = read_header(archive, member)
    if header.dtype.hasobject:
        raise ValueError(
            f"{quoted(member.filename)} holds Python objects, which only a pickle can"
            " (allow_pickle=False)"
        )
    # Allocated before it is filled, so that the numbers are in memory but once.
    values = np.empty(header.size, np.uint8)
    place = 0
    with archive.open(member) as file:
        array_header(file, member.filename)
        while piece := file.read(_piece(member)):
            values[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
    if place != header.size:
        raise EOFError(f"{quoted(member.filename)} ends early")
    if header.dtype.itemsize == 0:
        return np.zeros(header.shape, header.dtype)
    found = values.view(header.dtype)
    if header.fortran_order:
        return found.reshape(header.shape[::-1]).transpose()
    return found.reshape(header.shape)


def array_name(member: zipfile.ZipInfo) -> str:
    """The name by which numpy.savez was given an array."""
    return member.filename.removesuffix(".npy")


def read_npz(
    path: Path,
    fault: str,
    remedy: str,
    names: Collection[str] | None = None,
    check: Callable[[str, Header], None] = lambda name, header: None,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names. Nothing that is pickled is read.

    Args:
      path: of the file.
      fault, remedy: of a file that cannot be read, for the error's message.
      names: of the arrays to read, those that are there; all if None.
      check: raises `Unfit` for an array that is not to be read, before it is.

    Raises:
      FileNotFoundError: no such file. ValueError: "{path} {fault} ({reason});
        {remedy}.", if it cannot be read for any other reason; a member that is no
        array, or two of one name.
    """
    try:
        with open_archive(path) as archive:
            members = [
                member
                for member in archive.infolist()
                if names is None or array_name(member) in names
            ]
            arrays: dict[str, np.ndarray] = {}
            for member in members:
                name = array_name(member)
                if name in arrays:
                    raise ValueError(f"two of its arrays are named {quoted(name)}")
                check(name, read_header(archive, member))
                arrays[name] = read_array(archive, member)
            return arrays
    except (FileNotFoundError, Unfit):
        raise
    except NPZ_DAMAGE as error:
        reason = what_it_is(path) or shown(error, 160)
        raise ValueError(f"{shown_path(path)} {fault} ({reason}); {remedy}.") from error


# --- what came in place of the file ---


def what_it_is(path: Path) -> str | None:
    """What a file is that was got in place of another, with the remedy: a Git LFS
    pointer, a page of a website; None for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:
        return None
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "this is a Git LFS pointer, which stands for the file; `git lfs pull` gets"
            " the file itself"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!-- ")):
        return (
            "this is an HTML page, such as a website sends in place of the file to who"
            " is not logged in or asked for the wrong address; download the file itself"
        )
    if text.startswith(b"<?xml"):
        return "this is an XML document, perhaps the error of a server; get the file"
    return None
