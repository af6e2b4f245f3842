"""The one reader of .npz files."""

import re

import numpy as np
import pytest

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
