"""The images and labels of a run."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import linear_cnn
import theory
from experiments.frame import inputs
from experiments.trained.run import Run

# Mean and standard deviation of the channels that the paper uses.
PAPER_CHANNELS = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))}
# Of the first layer, and so of the patches that labels and images are changed by.
KERNEL_SIZE = 3
ENERGY_CLASSES = 10


class Data(NamedTuple):
    """What a run trains on and is evaluated on.

    Attributes:
      images: channels normalised, float32, (N, H, W, C).
      labels: int32, (N,).
      validation: the same of the validation images; None without them.
      class_names: one name a class.
      checksum: of pixels and labels.
      mean, std: what the channels were normalised by, in units of pixels in [0, 1].
    """

    images: np.ndarray
    labels: np.ndarray
    validation: tuple[np.ndarray, np.ndarray] | None
    class_names: tuple[str, ...]
    checksum: str
    mean: np.ndarray
    std: np.ndarray


class _Source(NamedTuple):
    """Chosen images before a run changes them or their labels.

    Attributes:
      images, labels, class_names: of the training images, channels normalised.
      validation: pixels in [0, 1], normalised images and labels; None without them.
      mean, std: of the channels.
      pixels: the digest of the training pixels, which a checksum begins with.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    validation: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    mean: np.ndarray
    std: np.ndarray
    pixels: Any


def load(run: Run, data_dir: Path | None = None) -> Data:
    """The data of a run. Channels are normalised as in the paper (CIFAR-10), else by
    the training images' statistics.

    Raises:
      FileNotFoundError: the data set is not there. ValueError: it is unknown, or has no
        such classes, too few images, or no images to validate on.
    """
    return load_all({"": run}, data_dir)[""]


def load_all(named: Mapping[str, Run], data_dir: Path | None = None) -> dict[str, Data]:
    """`load` of several runs; those with the same images share them."""
    sources: dict[Any, _Source] = {}
    found = {}
    for name, run in named.items():
        files = (run.dataset, run.size, run.upright)
        wanted = (files, run.images, run.validation, run.hold_out, run.classes)
        if wanted not in sources:
            sources[wanted] = _source(*wanted, data_dir)
        found[name] = _data(run, sources[wanted])
    return found


def chosen(data: Data, count: int) -> np.ndarray:
    """Places of so many of the training images, or all, to measure on: of each class as
    many."""
    labels = data.labels
    return inputs.evenly_spaced(labels, data.class_names, min(count, len(labels)))


def _source(
    files: tuple[str, int | tuple[int, int] | None, bool],
    count: int | None,
    validated: int,
    hold_out: int | None,
    classes: tuple[str, ...] | None,
    data_dir: Path | None,
) -> _Source:
    dataset = files[0]
    training = _image_set(*files, "train", data_dir)
    # By their place, until they are chosen.
    candidates = training._replace(images=np.arange(len(training.labels)))
    held_out = None
    if hold_out:
        held = np.arange(len(training.labels)) % hold_out == hold_out - 1
        candidates, held_out = (
            candidates._replace(
                images=candidates.images[part], labels=candidates.labels[part]
            )
            for part in (~held, held)
        )
    pixels, labels, class_names = _chosen(training, candidates, classes, count)
    mean, std = PAPER_CHANNELS.get(dataset) or _channels(pixels)
    validation = None
    if validated:
        if held_out is None:
            test = _test_set(files, data_dir)
            candidates = test._replace(images=np.arange(len(test.labels)))
            own, own_labels, _ = _chosen(test, candidates, classes, validated)
        else:
            own, own_labels, _ = _chosen(training, held_out, classes, validated)
        validation = own, linear_cnn.normalize_channels(own, mean, std), own_labels
    return _Source(
        linear_cnn.normalize_channels(pixels, mean, std),
        labels,
        class_names,
        validation,
        np.asarray(mean),
        np.asarray(std),
        _digest(hashlib.sha256(), pixels),
    )


def _data(run: Run, source: _Source) -> Data:
    """What a run makes of the images that were chosen for it."""
    if run.batch_size > len(source.labels):
        raise ValueError(
            f"the batch of {run.batch_size} is more than the {len(source.labels)}"
            " training images; make it less."
        )
    transform = _transformation(run, source.images)
    images, labels = transform(source.images, source.labels)
    class_names = source.class_names
    if run.energy_component is not None:
        class_names = tuple(f"energy {tenth}" for tenth in range(1, ENERGY_CLASSES + 1))
    if run.shuffled_labels is not None:
        labels = linear_cnn.shuffle_labels(labels, jax.random.key(run.shuffled_labels))
    digest = _digest(source.pixels.copy(), labels)
    validation = None
    if source.validation is not None:
        pixels, normalized, true_labels = source.validation
        digest = _digest(digest, pixels, true_labels)
        validation = transform(normalized, true_labels)
    checksum = digest.hexdigest()
    return Data(
        images, labels, validation, class_names, checksum, source.mean, source.std
    )


@lru_cache(maxsize=2)
def _image_set(
    dataset: str,
    size: int | tuple[int, int] | None,
    upright: bool,
    split: str,
    data_dir: Path | None,
) -> linear_cnn.ImageSet:
    return linear_cnn.load_images(dataset, split, data_dir, size=size, upright=upright)


def _test_set(
    files: tuple[str, int | tuple[int, int] | None, bool], data_dir: Path | None
) -> linear_cnn.ImageSet:
    try:
        return _image_set(*files, "test", data_dir)
    except ValueError as error:
        raise ValueError(
            f"no images to validate on: {error} Hold images of the training set out"
            " with --hold-out 5 (every fifth), or do without, with --validation 0."
        ) from error


def _chosen(
    source: linear_cnn.ImageSet,
    candidates: linear_cnn.ImageSet,
    classes: tuple[str, ...] | None,
    count: int | None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels as float32 in [0, 1], labels and names of `count` of the candidates, given
    by their place in `source`."""
    if classes is not None:
        candidates = linear_cnn.select_classes(candidates, classes)
    places, labels, names = candidates
    assert isinstance(places, np.ndarray)
    if count is not None:
        spaced = inputs.evenly_spaced(labels, names, count)
        places, labels = places[spaced], labels[spaced]
    return (
        linear_cnn.scale_pixels(source.images[places]),
        labels.astype(np.int32),
        names,
    )


def _transformation(
    run: Run, training: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What a run does to normalised images and to their labels, by the principal
    components of the training images.

    Raises:
      ValueError: patches have no such component.
    """

    def direction(component: int, stride: int) -> np.ndarray:
        components = np.asarray(
            theory.patch_spectrum(training, KERNEL_SIZE, stride=stride).components
        )
        if not 1 <= component <= components.shape[1]:
            raise ValueError(
                f"patches have the components 1 to {components.shape[1]}, got"
                f" {component}."
            )
        return components[:, component - 1]

    energy = (
        None if run.energy_component is None else direction(run.energy_component, 1)
    )
    scaled = (
        None
        if run.scaled_component is None
        else direction(run.scaled_component[0], KERNEL_SIZE)
    )

    def transform(
        images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if energy is not None:
            labels = linear_cnn.label_by_energy(
                images, energy, KERNEL_SIZE, ENERGY_CLASSES
            )
        if scaled is not None and run.scaled_component is not None:
            images = linear_cnn.scale_component(
                images, scaled, KERNEL_SIZE, run.scaled_component[1]
            )
        return images, labels

    return transform


def _channels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (C,)."""
    axes = (0, 1, 2)
    return pixels.mean(axes, dtype=np.float64), pixels.std(axes, dtype=np.float64)


def _digest(digest: Any, *arrays: np.ndarray) -> Any:
    """The digest, with these arrays added to it."""
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest
