"""What lies in a folder of images: links are followed, what systems leave behind is
left out."""

import os
from collections.abc import Iterator
from pathlib import Path

from linear_cnn.datasets._image_file import not_there, printable, raise_all

# Of Windows, of archives and folders of macOS, of network drives; in lower case.
_LEFT_BEHIND = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "icon\r",
    "@eadir",
    "$recycle.bin",
    "system volume information",
}


def class_folders(folder: Path) -> list[Path]:
    """The subfolders in the order of their names, links to folders among them.

    Raises where a link leads nowhere or back: it may have been meant for a class.
    """
    above = [_identity(path) for path in (folder, *folder.resolve().parents)]
    classes, faults = [], []
    for path in sorted(path for path in folder.iterdir() if _is_content(path.name)):
        if fault := not_there(path):
            faults.append(fault)
        elif path.is_dir() and _identity(path) in above:
            faults.append(f"{printable(path)} leads back to a folder above; remove it.")
        elif path.is_dir():
            classes.append(path)
    if faults:
        raise_all(faults, f"{folder} has links that lead to no class:", ValueError)
    return classes


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, in the order of their names.

    Links to folders are followed, except to a folder that holds the link. Whatever else
    is no folder is among the files: broken links too, so that opening names them.
    """
    return sorted(_files(folder, ()))


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    above = (*above, _identity(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if not _is_content(entry.name):
                continue
            if not path.is_dir():
                yield path
            elif _identity(path) not in above:
                yield from _files(path, above)


def _is_content(name: str) -> bool:
    """Whether a file or folder is not hidden, and was not left behind by a system."""
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
