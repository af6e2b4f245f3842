"""What an .npz file of one's own images may not be, and what it may unpack to."""

import numpy as np
import pytest

from linear_cnn import labelled_folder, npz_images

IMAGES = np.zeros((2, 3, 3, 1), np.uint8)


def own(folder, save=np.savez, **arrays):
    save(folder / "own.npz", **{"images": IMAGES, "labels": [0, 1], **arrays})
    return folder / "own.npz"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["\ud800", "b"]), r"class name 0 in .*own\.npz holds U\+D800"),
        (np.array(["a", "b\udfffc"]), r"class name 1 in .*own\.npz holds U\+DFFF"),
        (
            np.array([[97, 0x110000], [98, 0]], np.uint32).view("<U2")[:, 0],
            r"class name 0 in .*own\.npz holds U\+110000, which is no character",
        ),
        (
            np.array([[97, 0xD801], [98, 0]], ">u4").view(">U2")[:, 0],
            r"class name 0 in .*own\.npz holds U\+D801",
        ),
    ],
)
def test_class_names_that_are_no_text(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        npz_images(own(tmp_path, class_names=names))


def test_class_names_of_any_script_and_byte_order(tmp_path):
    names = ["Käuzchen", "梟🦉", ""]
    for dtype in ("<U9", ">U9"):
        found = npz_images(own(tmp_path, class_names=np.array(names, dtype)))
        assert found.class_names == tuple(names)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"class_names": np.zeros(2, "<U1001")}, "of at most 1000 characters"),
        ({"class_names": np.zeros(65_537, "<U1")}, "must be at most 65536"),
        ({"class_names": np.zeros(60_000, "<U999")}, "67108864 bytes in all"),
        ({"labels": np.zeros((2, 2), int)}, r"integers of shape \(N,\), one an image"),
        ({"images": np.zeros((2, 3, 3, 1), "<U9")}, "must be uint8 or floating point"),
        ({"images": np.zeros((2, 3, 3, 1), "c16")}, "must be uint8 or floating point"),
    ],
)
def test_arrays_that_are_refused_before_they_are_read(
    tmp_path, monkeypatch, arrays, message
):
    monkeypatch.setattr("linear_cnn._npz.read_array", lambda *_: np.zeros(2))
    with pytest.raises(ValueError, match=rf"own\.npz must.*{message}|{message}"):
        npz_images(own(tmp_path, np.savez_compressed, **arrays))


def test_what_a_table_says_is_quoted_in_short_and_escaped(tmp_path):
    (tmp_path / "table.csv").write_text("\x1b[2J" + "c" * 500 + ",b\n1,2\n")
    with pytest.raises(ValueError, match="has no column 'image_id'") as error:
        labelled_folder(tmp_path, tmp_path / "table.csv", label_column="b")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300 + len(str(tmp_path))
