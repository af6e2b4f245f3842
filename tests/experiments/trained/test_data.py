"""The images and labels of a run: chosen, held out, normalised, relabelled and
scaled."""

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import linear_cnn
import theory
from experiments import trained
from experiments.trained import Run
from experiments.trained import data as trained_data


def test_a_changed_image_or_label_makes_another_run(run: Run, images: Path) -> None:
    checksums = set()
    with np.load(images) as stored:
        pixels, labels = stored["images"], stored["labels"]
    first = int(np.flatnonzero(labels == 0)[0])
    swapped = labels.copy()
    swapped[[first, np.flatnonzero(labels == 1)[0]]] = (1, 0)
    other = pixels.copy()
    other[first, 0, 0, 0] ^= 1
    validated = pixels.copy()
    validated[3::4] ^= 1  # held out
    for content in (
        (pixels, labels),
        (other, labels),
        (pixels, swapped),
        (validated, labels),
        (pixels, labels),
    ):
        np.savez(images, images=content[0], labels=content[1])
        trained_data._image_set.cache_clear()
        checksums.add(trained_data.load(run).checksum)
    assert len(checksums) == 4


def test_the_data_of_a_run(run: Run, images: Path) -> None:
    trained_data._image_set.cache_clear()
    with np.load(images) as stored:
        pixels, labels = stored["images"] / 255, stored["labels"]
    data = trained_data.load(run)
    assert np.bincount(data.labels).tolist() == [12, 12]
    validation, validation_labels = data.validation
    assert np.bincount(validation_labels).tolist() == [3, 3]
    # Every fourth image is held out, and none is on both sides.
    held = np.arange(60) % 4 == 3
    sides = {"training": (data.images, ~held), "validation": (validation, held)}
    chosen = {}
    for side, (normalized, allowed) in sides.items():
        mean, std = pixels_statistics(pixels, labels, data)
        distances = np.abs((normalized * std + mean)[:, None] - pixels[None]).max(
            axis=(2, 3, 4)
        )
        assert (distances.min(axis=1) < 1e-5).all()
        chosen[side] = distances.argmin(axis=1)
        assert allowed[chosen[side]].all()
        assert (np.diff(chosen[side]) > 0).all()
    np.testing.assert_array_equal(data.labels, labels[chosen["training"]])
    np.testing.assert_array_equal(validation_labels, labels[chosen["validation"]])
    # Statistics are those of the training images alone.
    np.testing.assert_allclose(data.images.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(data.images.std(axis=(0, 1, 2)), 1, atol=1e-5)
    shuffled = trained_data.load(dataclasses.replace(run, shuffled_labels=1))
    np.testing.assert_array_equal(shuffled.images, data.images)
    assert np.bincount(shuffled.labels).tolist() == [12, 12]
    assert (shuffled.labels != data.labels).sum() > 0
    expected = linear_cnn.shuffle_labels(data.labels, jax.random.key(1))
    np.testing.assert_array_equal(shuffled.labels, expected)
    np.testing.assert_array_equal(shuffled.validation[1], validation_labels)
    assert trained_data.load(dataclasses.replace(run, validation=0)).validation is None


def places(labels: np.ndarray, allowed: list[int], each: int) -> list[int]:
    """Of the classes 0 and 1 as many images as `each`, evenly spaced among its own,
    picked one by one."""
    chosen = []
    for label in (0, 1):
        own = [index for index in allowed if labels[index] == label]
        chosen += [
            own[round(float(place))] for place in np.linspace(0, len(own) - 1, each)
        ]
    return sorted(chosen)


TRAINED_ON = [index for index in range(60) if index % 4 != 3]
HELD_OUT = [index for index in range(60) if index % 4 == 3]


def pixels_statistics(
    pixels: np.ndarray, labels: np.ndarray, data: trained.Data
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the channels over the training images."""
    chosen = places(labels, TRAINED_ON, 12)
    return pixels[chosen].mean(axis=(0, 1, 2)), pixels[chosen].std(axis=(0, 1, 2))


def digest(*arrays: np.ndarray) -> str:
    """Of the kind, the shape and the bytes of each array, one after the other."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def test_the_checksum_is_of_pixels_and_labels(run: Run, images: Path) -> None:
    """So that runs are found that were stored before."""
    trained_data._image_set.cache_clear()
    with np.load(images) as stored:
        pixels, labels = stored["images"], stored["labels"]
    training = places(labels, TRAINED_ON, 12)
    held_out = places(labels, HELD_OUT, 3)
    unit = pixels.astype(np.float32) / np.float32(255)
    whole = labels.astype(np.int32)
    first = [unit[training], whole[training]]
    second = [unit[held_out], whole[held_out]]
    assert trained_data.load(run).checksum == digest(*first, *second)
    alone = dataclasses.replace(run, validation=0)
    assert trained_data.load(alone).checksum == digest(*first)
    # Labels are those that the run trains on, images those of before it scales them.
    shuffled = dataclasses.replace(run, shuffled_labels=1)
    permuted = linear_cnn.shuffle_labels(whole[training], jax.random.key(1))
    expected = digest(unit[training], np.asarray(permuted, np.int32), *second)
    assert trained_data.load(shuffled).checksum == expected
    scaled = dataclasses.replace(run, scaled_component=(2, 3.0))
    assert trained_data.load(scaled).checksum == digest(*first, *second)


def test_runs_with_the_same_images_load_them_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {
        "plain": run,
        "longer": dataclasses.replace(run, epochs=9, seeds=4, frozen=("conv1",)),
        "shuffled": dataclasses.replace(run, shuffled_labels=1),
        "otherwise": dataclasses.replace(run, shuffled_labels=2),
        "scaled": dataclasses.replace(run, scaled_component=(2, 3.0)),
        "energy": dataclasses.replace(run, energy_component=3, validation=0),
        "others": dataclasses.replace(run, classes=("1", "2"), images=8, validation=2),
        "alone": dataclasses.replace(run, validation=0),
    }
    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    with monkeypatch.context() as patched:
        trained_data._image_set.cache_clear()
        counted(linear_cnn, "load_images")
        counted(linear_cnn, "scale_pixels")
        counted(linear_cnn, "normalize_channels")
        together = trained_data.load_all(named)
        patched.undo()
    # Three sources, of which the last has no validation images.
    assert calls == {
        "load_images": 1,
        "scale_pixels": 5,
        "normalize_channels": 5,
    }
    assert together["plain"].images is together["shuffled"].images
    assert list(together) == list(named)
    # Nothing that one run does to them is seen by another.
    for name, one in named.items():
        alone, shared = trained_data.load(one), together[name]
        assert alone.checksum == shared.checksum
        assert alone.class_names == shared.class_names
        for field in ("images", "labels", "mean", "std"):
            mine, its = getattr(alone, field), getattr(shared, field)
            np.testing.assert_array_equal(mine, its)
        assert (alone.validation is None) == (shared.validation is None)
        for mine, its in zip(
            alone.validation or (), shared.validation or (), strict=True
        ):
            np.testing.assert_array_equal(mine, its)
    assert len({data.checksum for data in together.values()}) == 6


def test_what_runs_of_other_images_do_not_share(run: Run, images: Path) -> None:
    """Each thing that images are chosen by makes a source of its own."""
    trained_data._image_set.cache_clear()
    others = {
        "images": 22,
        "validation": 4,
        "hold_out": 3,
        "classes": ("1", "0"),
    }
    named = {"plain": run} | {
        name: dataclasses.replace(run, **{name: value})
        for name, value in others.items()
    }
    found = trained_data.load_all(named)
    assert len({data.checksum for data in found.values()}) == len(named)
    for name in named:
        assert found[name].checksum == trained_data.load(named[name]).checksum


def test_labels_by_energy_and_scaled_components(run: Run) -> None:
    trained_data._image_set.cache_clear()
    plain = trained_data.load(dataclasses.replace(run, validation=0))
    labelled = trained_data.load(
        dataclasses.replace(run, validation=0, energy_component=3, images=20)
    )
    spectrum = theory.patch_spectrum(labelled.images, 3)
    expected = linear_cnn.label_by_energy(
        labelled.images, spectrum.components[:, 2], 3, 10
    )
    np.testing.assert_array_equal(labelled.labels, expected)
    assert np.bincount(labelled.labels).tolist() == [2] * 10
    assert len(labelled.class_names) == 10
    shuffled = trained_data.load(
        dataclasses.replace(
            run, validation=0, energy_component=3, images=20, shuffled_labels=0
        )
    )
    assert sorted(shuffled.labels) == sorted(labelled.labels)
    assert (shuffled.labels != labelled.labels).any()
    # Images are scaled alike for training and validation, by the component of the
    # training images.
    scaled = trained_data.load(dataclasses.replace(run, scaled_component=(2, 3.0)))
    before, after = (
        np.asarray(theory.patch_spectrum(data.images, 3, stride=3).variance)
        for data in (plain, scaled)
    )
    assert np.abs(after[:, None] - 9 * before[1]).min() < 1e-4 * after[0]
    direction = theory.patch_spectrum(plain.images, 3, stride=3).components[:, 1]
    validation = linear_cnn.scale_component(
        trained_data.load(run).validation[0], direction, 3, 3.0
    )
    np.testing.assert_allclose(scaled.validation[0], validation, atol=1e-5)
    np.testing.assert_array_equal(scaled.labels, plain.labels)


def test_cifar10_has_the_channels_of_the_paper_and_its_test_set(
    run: Run, monkeypatch
) -> None:
    random = np.random.default_rng(0)
    sets = {
        split: linear_cnn.ImageSet(
            random.integers(0, 256, (40, 8, 8, 3), np.uint8),
            np.arange(40) % 2,
            ("a", "b"),
        )
        for split in ("train", "test")
    }
    monkeypatch.setattr(
        trained_data,
        "_image_set",
        lambda dataset, size, upright, split, data_dir: sets[split],
    )
    data = trained_data.load(
        dataclasses.replace(
            run,
            dataset="cifar10",
            classes=None,
            hold_out=None,
            images=40,
            validation=40,
        )
    )
    for normalized, split in ((data.images, "train"), (data.validation[0], "test")):
        expected = (sets[split].images / 255 - [0.4914, 0.4822, 0.4465]) / [
            0.2471,
            0.2435,
            0.2616,
        ]
        np.testing.assert_allclose(normalized, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": 36},
            "36 images of 2 classes are 18 of each, but there are 1. of '1'",
        ),
        ({"validation": 20}, "20 images of 2 classes are 10 of each"),
        (
            {"hold_out": None},
            (
                "no images to validate on: .* Hold images of the training set out with"
                " --hold-out"
            ),
        ),
        ({"classes": ("0", "cat")}, "'cat', which is none of the class names"),
        ({"energy_component": 28}, "patches have the components 1 to 27, got 28"),
        ({"scaled_component": (0, 2.0)}, "patches have the components 1 to 27, got 0"),
        ({"batch_size": 25}, "the batch of 25 is more than the 24 training images"),
        (
            {"dataset": "cifar"},
            "there is no image set 'cifar'; choose one of photographs, cifar10",
        ),
    ],
)
def test_bad_runs(run: Run, change: dict, message: str) -> None:
    trained_data._image_set.cache_clear()
    with pytest.raises(ValueError, match=message):
        trained_data.load(dataclasses.replace(run, **change))
