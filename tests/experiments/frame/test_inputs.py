"""The images of an experiment, evenly spaced, and the folder that their results get."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import frame
from experiments.frame import disk, inputs


def test_evenly_spaced_images() -> None:
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 0])
    assert inputs.evenly_spaced(labels, ("a", "b"), 5).tolist() == [0, 1, 3, 5, 7]
    assert inputs.evenly_spaced(labels, ("a", "b"), 6).tolist() == [0, 1, 3, 4, 5, 7]
    with pytest.raises(
        ValueError,
        match=(
            r"8 images of 2 classes are 4 of each, but there are 3 of 'b'; take at"
            r" most 6"
        ),
    ):
        inputs.evenly_spaced(labels, ("a", "b"), 8)


@pytest.mark.slow
def test_images_of_an_experiment(tmp_path: Path) -> None:
    images = np.arange(10 * 5 * 5 * 3, dtype=np.uint8).reshape(10, 5, 5, 3)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(10) % 2)
    mine = frame.Settings(dataset=str(tmp_path / "mine.npz"), images=4)
    some = inputs.load(mine)
    assert some.images.dtype == np.float32
    np.testing.assert_array_equal(
        some.images, images[[0, 3, 6, 9]].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(some.labels, [0, 1, 0, 1])
    assert len(inputs.load(replace(mine, images=11)).images) == 10
    assert (
        disk.folder(tmp_path, "iterations", "cifar10")
        == tmp_path / "iterations" / "cifar10"
    )
    # Paths that end alike have folders of their own, inside the experiment's.
    folders = [
        disk.folder(tmp_path, "iterations", path)
        for path in ("/a/mine.npz", "/b/mine.npz", "/a/mine.v2", "..")
    ]
    assert len(set(folders)) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "iterations"}
    assert folders[0].name.startswith("mine-")
    assert folders[2].name.startswith("mine.v2-")


def test_images_of_a_folder(tmp_path: Path) -> None:
    """Flat, of different sizes, one of them lying on its side."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (9, 12)).save(tmp_path / "a.png")
    Image.new("RGB", (12, 8)).save(tmp_path / "b.jpg", exif=exif)
    given = frame.Settings(dataset=str(tmp_path), size=(6, 5), upright=True)
    found = inputs.load(given, need_labels=False)
    assert found.images.shape == (2, 6, 5, 3)
    assert found.class_names == ()
    with pytest.raises(ValueError, match=r"no subfolders; .* need_labels=False"):
        inputs.load(given)
    with pytest.raises(ValueError, match=r"12x9 pixels and .*b\.jpg 8x12; .*--size"):
        inputs.load(frame.Settings(dataset=str(tmp_path)), need_labels=False)
