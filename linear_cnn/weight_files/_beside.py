"""Files that a file of weights names: only in its own folder."""

from pathlib import Path, PurePosixPath
from typing import Any

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._contents import _Refused


def _beside(path: Path, name: Any, what: str) -> Path:
    """The file of this name in the folder of another, whose part it is.

    Links may lead to where the other one's own leads, as in a cache that keeps files
    apart from their names, and to nowhere else.
    """
    if type(name) is not str:
        raise ValueError(f"the name of a {what} is no text")
    parts = PurePosixPath(name)
    part = path.parent / name
    folders = (path.parent.resolve(), path.resolve().parent)
    if (
        parts.is_absolute()
        or ".." in parts.parts
        or not any(part.resolve().is_relative_to(folder) for folder in folders)
    ):
        raise _Refused(
            f"its {what} {quoted(name)} lies outside of its folder; put all of them"
            f" beside {shown(path.name)}."
        )
    if not part.is_file():
        raise _Refused(
            f"its {what} {shown(name)} is not beside it; put all of them beside"
            f" {shown(path.name)}."
        )
    return part
