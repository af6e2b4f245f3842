"""Folders of images: links are followed but never round in a circle, nothing is lost
without a word, and what systems leave behind is no image."""

import numpy as np
import pytest
from PIL import Image

from linear_cnn import image_folder, labelled_folder


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (value, value, value)).save(path)


def values(images):
    return np.asarray(images)[:, 0, 0, 0].tolist()


@pytest.fixture
def linked(tmp_path):
    """Two classes of 11 images, of which 5 lie behind links, and two circles."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for number in range(6):
        picture(root / ("cat" if number < 4 else "dog") / f"{number}.png", number)
    for number in range(6, 10):
        picture(elsewhere / "deep" / f"{number}.png", number)
    (root / "cat" / "more").symlink_to(elsewhere)
    picture(tmp_path / "one.png", 10)
    (root / "dog" / "linked.png").symlink_to(tmp_path / "one.png")
    (root / "cat" / "circle").symlink_to(root / "cat")
    (elsewhere / "deep" / "back").symlink_to("..")
    return root


def test_linked_folders_are_followed_but_not_in_circles(linked):
    images, labels, names = image_folder(linked)
    assert names == ("cat", "dog")
    assert labels.tolist() == [0] * 8 + [1] * 3
    assert values(images) == [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10]


def test_a_linked_folder_is_a_class(linked, tmp_path):
    (linked / "owl").symlink_to(tmp_path / "elsewhere" / "deep")
    images, labels, names = image_folder(linked)
    assert names == ("cat", "dog", "owl")
    assert (labels == 2).sum() == 4
    assert len(images) == 15


def test_a_folder_is_read_through_a_link_to_it(linked, tmp_path):
    (tmp_path / "link").symlink_to(linked)
    assert len(image_folder(tmp_path / "link").images) == 11


def test_broken_links_are_named_with_what_else_cannot_be_read(linked):
    (linked / "cat" / "gone.png").symlink_to("nowhere.png")
    (linked / "dog" / "folder").symlink_to("/nowhere/at/all")
    (linked / "dog" / "itself").symlink_to("itself")
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)3 files.*gone\.png is a broken link \(to nowhere\.png\).*folder is"
        r" a broken link \(to /nowhere/at/all\).*itself is a broken link",
    ):
        image_folder(linked)
    (linked / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"(?s)4 files.*gone\.png.*notes\.txt is not"):
        image_folder(linked)


def test_links_beside_the_classes_that_lead_to_no_class_are_named(linked):
    (linked / "fox").symlink_to("nowhere")
    (linked / "all").symlink_to(".")
    (linked / "above").symlink_to("../..")
    with pytest.raises(
        ValueError,
        match=r"(?s)above leads back.*all leads back.*fox is a broken link",
    ):
        image_folder(linked)


DUST = [
    "Thumbs.db",
    "cat/Thumbs.db",
    "cat/thumbs.db",
    "dog/desktop.ini",
    "dog/Desktop.ini",
    "dog/.DS_Store",
    "dog/Icon\r",
    "cat/._0.png",
    "__MACOSX/cat/._0.png",
    "cat/__MACOSX/0.png",
    "cat/@eaDir/0.png",
    "System Volume Information/IndexerVolumeGuid",
]


def test_what_systems_leave_behind_is_left_out(linked):
    before = image_folder(linked)
    for name in DUST:
        (linked / name).parent.mkdir(parents=True, exist_ok=True)
        (linked / name).write_bytes(b"dust")
    after = image_folder(linked)
    assert after.class_names == before.class_names
    assert after.labels.tolist() == before.labels.tolist()
    assert values(after.images) == values(before.images)


def test_images_that_only_look_like_dust_are_kept(tmp_path):
    for number, name in enumerate(["Thumbs.db.png", "desktop.png", "__MACOSX.png"]):
        picture(tmp_path / "cat" / name, number)
    assert sorted(values(image_folder(tmp_path).images)) == [0, 1, 2]


def test_all_files_that_a_table_lists_in_vain_are_named(tmp_path):
    picture(tmp_path / "0.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    table = tmp_path / "table.csv"
    table.write_text("image_id,kind\n0.png,a\n1.png,b\nlink.png,b\n")
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)2 of the 3 files.*1\.png does not exist, but .*table\.csv lists it"
        r".*link\.png is a broken link, but",
    ):
        labelled_folder(tmp_path, table, label_column="kind")
