"""Reading .npz files."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

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


def read_npz(
    path: Path, fault: str, remedy: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names. Nothing that is pickled is read.

    Args:
      path: of the file.
      fault, remedy: of a file that cannot be read, for the error's message.
      names: of the arrays to read, those that are there; all if None.

    Raises:
      FileNotFoundError: no such file. ValueError: "{path} {fault} ({reason});
        {remedy}.", if it cannot be read for any other reason.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {
                name: stored[name]
                for name in stored.files
                if names is None or name in names
            }
    except FileNotFoundError:
        raise
    except NPZ_DAMAGE as error:
        raise ValueError(f"{path} {fault} ({error}); {remedy}.") from error
