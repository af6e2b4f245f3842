"""Progress bars that can be read in a file too."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_A_LINE = 30
_LINE = "{l_bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines:
    """A stream that gets a line where a bar would be drawn over the last one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if shown := text.strip():
            self._stream.write(f"{shown}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """`tqdm.tqdm`. Where the process writes its errors to a file or a pipe, a line each
    half minute; a notebook, which takes the place of that stream, shows the bar."""
    stream = sys.__stderr__
    if stream is not None and stream is sys.stderr and not stream.isatty():
        options |= {
            "file": _Lines(stream),
            "bar_format": _LINE,
            "mininterval": _SECONDS_A_LINE,
            "maxinterval": _SECONDS_A_LINE,
        }
    return tqdm(iterable, **options)
