"""What reading an .npz file may raise."""

import lzma
import struct
import tokenize
import zipfile
import zlib

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
