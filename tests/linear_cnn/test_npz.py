"""The one reader of .npz files."""

import io
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest

from linear_cnn import _npz
from linear_cnn._npz import read_npz

ARRAYS = {"a": np.arange(3.0), "b": np.eye(2, dtype=np.int8), "c": np.array("text")}
FAULT = ("is damaged", "write it anew")


def test_all_arrays_are_read_or_those_that_are_named(tmp_path):
    np.savez(tmp_path / "all.npz", **ARRAYS)
    found = read_npz(tmp_path / "all.npz", *FAULT)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert set(read_npz(tmp_path / "all.npz", *FAULT, names=("b", "d"))) == {"b"}


def test_what_is_pickled_is_neither_read_nor_in_the_way(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, objects=np.array([{}]), **ARRAYS)
    assert set(read_npz(path, *FAULT, names=ARRAYS)) == set(ARRAYS)
    with pytest.raises(ValueError, match=r"pickled\.npz is damaged \(.*allow_pickle"):
        read_npz(path, *FAULT)


def test_the_error_names_the_file_the_fault_and_the_remedy(tmp_path):
    path = tmp_path / "text.npz"
    path.write_text("no archive")
    message = rf"^{re.escape(str(path))} is damaged \(.+\); write it anew\.$"
    with pytest.raises(ValueError, match=message):
        read_npz(path, *FAULT)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_npz(tmp_path / "nowhere.npz", *FAULT)


def with_member(path, name, content, compression=zipfile.ZIP_STORED):
    np.savez(path, **ARRAYS)
    with (
        zipfile.ZipFile(path, "a", compression) as archive,
        warnings.catch_warnings(action="ignore"),
    ):
        archive.writestr(name, content)
    return path


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("readme.txt", b"text", "its member 'readme.txt' is no array"),
        ("d.npy", b"", "its member 'd.npy' is no array"),
        ("a.npy", saved(np.ones(2)), "two of its arrays are named 'a'"),
        ("d.npy", HEADER, "the header of 'd.npy' has 2147483648 bytes"),
        ("d.npy", b"\x93NUMPY\x09\x00aa", "'d.npy' is of an unknown version"),
        ("d.npy", saved(np.ones(9))[:-8], "'d.npy' holds fewer numbers"),
        ("d.npy", saved(np.ones(9)) + b"0", "'d.npy' holds more numbers"),
        ("\x1b[2J", b"text", r"its member '\\x1b\[2J' is no array"),
        ("n" * 5000, b"text", r"its member 'n{66}'\.\.\. is no array"),
    ],
)
def test_members_that_are_no_arrays_are_named(tmp_path, name, content, reason):
    path = with_member(tmp_path / "own.npz", name, content)
    with pytest.raises(ValueError, match=rf"own\.npz is damaged \({reason}") as error:
        read_npz(path, *FAULT)
    assert str(error.value).isprintable()
    assert set(read_npz(path, *FAULT, names=("b", "c"))) == {"b", "c"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_arrays_that_expand_to_much_are_not_read(tmp_path, monkeypatch, compression):
    path = with_member(
        tmp_path / "own.npz", "d.npy", saved(np.zeros(10**5)), compression
    )
    np.testing.assert_array_equal(read_npz(path, *FAULT)["d"], np.zeros(10**5))
    monkeypatch.setattr(_npz, "_LARGEST_UNCHECKED", 10**5)
    with pytest.raises(ValueError, match=r"'d.npy' expands to 800000 bytes, more than"):
        read_npz(path, *FAULT)
    random = np.random.default_rng(0).random(10**5)
    path = with_member(tmp_path / "own.npz", "d.npy", saved(random), compression)
    np.testing.assert_array_equal(read_npz(path, *FAULT)["d"], random)


def test_archives_of_too_many_members(tmp_path, monkeypatch):
    np.savez(tmp_path / "own.npz", **ARRAYS)
    monkeypatch.setattr(_npz, "_MOST_MEMBERS", 2)
    with pytest.raises(ValueError, match=r"damaged .it has 3 members, more than any"):
        read_npz(tmp_path / "own.npz", *FAULT)
    monkeypatch.setattr(_npz, "_LARGEST_DIRECTORY", 50)
    with pytest.raises(ValueError, match="its directory is larger than"):
        read_npz(tmp_path / "own.npz", *FAULT)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.array(["", "ab"]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([(1, 2.0)], "i4,f8"),
        np.arange(3, dtype=">i4"),
        np.array(2.5),
        np.zeros(2, "<U0"),
        np.array(["2020-01-01"], "M8[D]"),
    ],
)
def test_arrays_of_every_kind_come_back(tmp_path, array):
    np.savez(tmp_path / "own.npz", a=array)
    found = read_npz(tmp_path / "own.npz", *FAULT)["a"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"<!doctype html>", "is an HTML page"),
    ],
)
def test_what_came_in_place_of_the_file_is_named(tmp_path, content, message):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"own\.npz is damaged \(this {message}"):
        read_npz(tmp_path / "own.npz", *FAULT)
