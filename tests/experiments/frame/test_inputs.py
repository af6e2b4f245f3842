"""The images of an experiment, evenly spaced, and the folder that their results get."""

from pathlib import Path

import numpy as np
import pytest

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
    some = inputs.load(str(tmp_path / "mine.npz"), None, 4)
    assert some.images.dtype == np.float32
    np.testing.assert_array_equal(
        some.images, images[[0, 3, 6, 9]].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(some.labels, [0, 1, 0, 1])
    assert len(inputs.load(str(tmp_path / "mine.npz"), None, 11).images) == 10
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
