"""Reading the archives that moments lie in: what they hold is checked before it is
read, against what moments can be."""

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

_LARGEST_READ = 2**20  # bytes; a directory of six members, or a piece of an array
_LONGEST_HEADER = 2**16  # bytes, of the text that says how the moments were taken
_QUOTED = 200  # characters of the file, in a message


class _Guarded(io.FileIO):
    """A file of which nobody reads much at once: the directory of a hostile archive can
    fill the memory before anyone is asked."""

    def read(self, size: int | None = -1) -> bytes:
        place = self.tell()
        left = self.seek(0, io.SEEK_END) - place
        self.seek(place)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _LARGEST_READ:
            raise ValueError("its directory or a header is far too large")
        return super().read(wanted) or b""


class Archive:
    """The arrays of an .npz file, by their names."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = _Guarded(os.fspath(path))
        try:
            self._archive = zipfile.ZipFile(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()
        self._file.close()

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and data type of an array, which fills its member."""
        member = self._archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its array {name!r} is compressed")
        with self._archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            held = member.file_size - file.tell()
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != held:
            raise ValueError(f"its array {name!r} is not what its header says")
        return shape, dtype

    def array(self, name: str) -> np.ndarray:
        with self._archive.open(f"{name}.npy") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # compares the checksum, too
                raise ValueError(f"its array {name!r} is not what its header says")
        return np.asarray(values)

    def described(self, name: str) -> dict[str, Any]:
        """A text of JSON, a dictionary."""
        shape, dtype = self.header(name)
        if shape != () or dtype.kind != "U" or dtype.itemsize > _LONGEST_HEADER:
            raise ValueError(f"its array {name!r} is no short text")
        found = json.loads(str(self.array(name)))
        if type(found) is not dict:
            raise ValueError(f"its array {name!r} does not say how they were taken")
        return found


def check_way(way: Mapping[str, Any]) -> None:
    """Raise unless the counts, sizes and shapes of moments can be some."""
    wrong = [
        name
        for name, value in way.items()
        if not {
            "count": lambda n: _whole(n, 1),
            "patches_per_image": lambda n: _whole(n, 1),
            "kernel_shape": lambda ns: _all_whole(ns, 3, 1),
            "stride": lambda ns: _all_whole(ns, 2, 1),
            "locations": lambda ns: _all_whole(ns, 2, 1),
            "padding": lambda pairs: (
                isinstance(pairs, list)
                and len(pairs) == 2
                and all(_all_whole(pair, 2, 0) for pair in pairs)
            ),
            "distances": lambda ns: _all_whole(ns, None, 0),
            "centered": lambda value: type(value) is bool,
        }.get(name, lambda _: True)(value)
    ]
    if wrong:
        raise ValueError(f"their {wrong[0]} cannot be {way[wrong[0]]!r}")


def check_arrays(
    kind: str,
    way: Mapping[str, Any],
    headers: Mapping[str, tuple[tuple[int, ...], np.dtype]],
) -> None:
    """Raise unless the arrays of moments have the shapes and types of some."""
    size = math.prod(way["kernel_shape"])
    expected: dict[str, tuple[int, ...]] = {"mean": (size,)}
    match kind:
        case "PatchMoments":
            expected |= {"covariance": (size, size)}
        case "MeanPatchMoments":
            # One target has no axis; several have one, in all arrays alike.
            outputs = headers["target_mean"][0][:1]
            expected |= {
                "second": (size, size),
                "cross": (size, *outputs),
                "target_mean": outputs,
                "target_covariance": outputs + outputs,
            }
        case "CrossMoments":
            count = len(way["distances"])
            expected |= {
                "second": (size, size),
                "cross": (count, size, size),
                "pair_mean": (count, size),
            }
    for name, (shape, dtype) in headers.items():
        if shape != expected[name]:
            raise ValueError(
                f"its array {name!r} has the shape {shape}, not {expected[name]}"
            )
        if dtype not in (np.float32, np.float64):
            raise ValueError(
                f"its array {name!r} holds {dtype}, not numbers of 32 or 64 bits"
            )


def shown(error: object) -> str:
    """A text that may quote a file: cut off, and without what a terminal obeys."""
    text = str(error)
    safe = "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text[:_QUOTED]
    )
    return safe[:_QUOTED] + ("..." if max(len(text), len(safe)) > _QUOTED else "")


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _all_whole(values: Any, count: int | None, least: int) -> bool:
    return (
        isinstance(values, list)
        and count in (None, len(values))
        and all(_whole(value, least) for value in values)
    )
