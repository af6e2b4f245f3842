"""Errors of writing and reading name the file, what is left, and what to do."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.frame import disk

SAFE = "what stood there before is as it was. Make room, or choose another folder"


def fail(number: int) -> Any:
    def raise_(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number), str(arguments[:1]))

    return raise_


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    ("module", "function"),
    [(disk.tempfile, "mkstemp"), (np, "savez"), (Path, "chmod"), (Path, "replace")],
)
def test_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, function: str, number: int
) -> None:
    path = tmp_path / "arrays.npz"
    disk.write_arrays(path, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail(number))
        with pytest.raises(
            OSError, match=rf"^cannot write {path}: {os.strerror(number)}; {SAFE}\.$"
        ):
            disk.write_arrays(path, {"a": 2})
    assert disk.read_arrays(path)["a"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["arrays.npz"]


def test_a_file_in_half(tmp_path: Path) -> None:
    """As on a disk that fills up while a file is written."""

    def write(file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"cannot write {tmp_path}/summary\.json: No sp"):
        disk.write_whole(tmp_path / "summary.json", write)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'[["\\udc80 of a name"]]',
        b"[" * 100_000,
        b"\xff\xfe",
        b"9" * 5000,
        b"",
    ],
)
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is damaged \(.*\); do it again\.$"):
        disk.read_json(path, "do it again")


def test_whole_json(tmp_path: Path) -> None:
    """Pairs of halves are characters."""
    path = tmp_path / "summary.json"
    path.write_bytes(b'{"a": "\\ud83d\\ude00 \xc3\xa4", "b": NaN}')
    found = disk.read_json(path, "")
    assert found["a"] == "\U0001f600 ä"
    disk.write_json(path, found)
    assert disk.read_json(path, "")["a"] == found["a"]
    assert json.loads(path.read_text())["a"] == found["a"]


def test_text_of_any_name(tmp_path: Path) -> None:
    """Of a file whose name is no text."""
    disk.write_text(tmp_path / "report.md", os.fsdecode(b"results/\xff"))
    assert (tmp_path / "report.md").read_bytes() == rb"results/\udcff"
