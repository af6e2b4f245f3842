"""The one store of finished training runs: what was trained once is read from then on, by every experiment.

A run is a group of seeds of one network on one set of images. It lies in a folder of its own, named by a hash of
its whole configuration, a checksum of the images and labels included:

    <store>/<hash>/config.json    the configuration, what the run depends on besides, and the time it took
    <store>/<hash>/arrays.npz     what was recorded
    <store>/<hash>/checkpoints/   only until the run is finished: killed at any moment, it continues from there

Finished runs that differ in nothing but the number of seeds have networks in common: of a larger one the first are
read, and those of a smaller one are taken over, so that only the others are trained.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import linear_cnn
import theory
from experiments import inputs, store
from experiments.frame import Arrays

FORMAT = 1  # to be raised by a change of the code after which the same configuration gives other arrays

# Mean and standard deviation of the channels that the paper uses.
PAPER_CHANNELS = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))}
KERNEL_SIZE = 3  # of the first layer, and so of the patches that labels and images are changed by
ENERGY_CLASSES = 10
RECORDED = ("steps", "conv1", "loss", "accuracy", "validation_loss", "validation_accuracy")
SHARED = ("steps", "epochs")  # by all networks of a run; all other arrays begin with a seed axis


@dataclass(frozen=True)
class Network:
    """A network of `linear_cnn` by its name, and its arguments; None leaves one at its default or out."""

    name: Literal["VGG", "ResNet", "SmallCNN"]
    depth: int | None = None
    width: float | None = None
    first_features: int | None = None
    dropout: float | None = None
    features: tuple[int, ...] | None = None
    first_strides: int | None = None


@dataclass(frozen=True)
class Run:
    """One group of seeds: all that the arrays depend on, the content of the data set aside."""

    network: Network
    dataset: str
    """As `linear_cnn.load_images` takes it."""
    images: int | None
    """Training images, evenly spaced over each class and of every class as many; None: all."""
    validation: int
    """Images that are only evaluated, chosen likewise from the test set or the images held out."""
    hold_out: int | None
    """Every so-manyth image of the training set is kept from training and serves for validation, in the place of a
    test set; None: none."""
    epochs: int
    record_epochs: tuple[int, ...]
    """Increasing; the state before training is recorded too."""
    batch_size: int
    learning_rate: float
    """Of stochastic gradient descent on the cross-entropy."""
    seeds: int
    """Number of networks."""
    seed: int = 0
    """Root of their random numbers."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate; cosine: it falls along half a period to 0 at the end of training."""
    momentum: float = 0.0
    weight_decay: float = 0.0
    classes: tuple[str, ...] | None = None
    """Those kept, in the order of their labels; None: all."""
    shuffled_labels: int | None = None
    """Seed of the one permutation of the training labels, before training, that all networks share; None: true
    labels. Labels of validation images are always true."""
    energy_component: int | None = None
    """Labels made of the images, ten equal classes by the energy of this principal component (from 1) of their patches;
    validation images are cut into ten equal classes of their own. None: the labels of the data set."""
    scaled_component: tuple[int, float] | None = None
    """Principal component (from 1) of the non-overlapping patches, and the factor by which it is scaled in all images;
    None: images as they are."""
    frozen: tuple[str, ...] = ()
    """Layers that keep their initial weights."""


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


def load(run: Run, data_dir: Path | None = None) -> Data:
    """The data of a run. Channels are normalised as in the paper (CIFAR-10), else by the training images' statistics.

    Raises:
      FileNotFoundError: the data set is not there. ValueError: it is unknown, or has no such classes, too few images,
        or no images to validate on.
    """
    training = _image_set(run.dataset, "train", data_dir)
    candidates = training._replace(images=np.arange(len(training.labels)))  # by their place, until they are chosen
    held_out = None
    if run.hold_out:
        held = candidates.images % run.hold_out == run.hold_out - 1
        candidates, held_out = (candidates._replace(images=candidates.images[part], labels=candidates.labels[part])
                                for part in (~held, held))  # fmt: skip
    pixels, labels, class_names = _chosen(training, candidates, run.classes, run.images)
    if run.batch_size > len(labels):
        raise ValueError(f"the batch of {run.batch_size} is more than the {len(labels)} training images; make it less.")
    mean, std = PAPER_CHANNELS.get(run.dataset) or _channels(pixels)
    images = linear_cnn.normalize_channels(pixels, mean, std)
    transform = _transformation(run, images)
    images, labels = transform(images, labels)
    if run.energy_component is not None:
        class_names = tuple(f"energy {tenth}" for tenth in range(1, ENERGY_CLASSES + 1))
    if run.shuffled_labels is not None:
        labels = linear_cnn.shuffle_labels(labels, jax.random.key(run.shuffled_labels))
    arrays = [pixels, labels]
    validation = None
    if run.validation:
        if held_out is None:
            test = _test_set(run.dataset, data_dir)
            chosen = _chosen(test, test._replace(images=np.arange(len(test.labels))), run.classes, run.validation)
        else:
            chosen = _chosen(training, held_out, run.classes, run.validation)
        arrays += chosen[:2]
        validation = transform(linear_cnn.normalize_channels(chosen[0], mean, std), chosen[1])
    return Data(images, labels, validation, class_names, _checksum(arrays), np.asarray(mean), np.asarray(std))


@lru_cache(maxsize=2)
def _image_set(dataset: str, split: str, data_dir: Path | None) -> linear_cnn.ImageSet:
    return linear_cnn.load_images(dataset, split, data_dir)


def _test_set(dataset: str, data_dir: Path | None) -> linear_cnn.ImageSet:
    try:
        return _image_set(dataset, "test", data_dir)
    except ValueError as error:
        raise ValueError(
            f"no images to validate on: {error} Hold images of the training set out with --hold-out 5 (every fifth), "
            "or do without, with --validation 0."
        ) from error


def _chosen(
    source: linear_cnn.ImageSet, candidates: linear_cnn.ImageSet, classes: tuple[str, ...] | None, count: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels as float32 in [0, 1], labels and names of `count` of the candidates, given by their place in `source`."""
    if classes is not None:
        candidates = linear_cnn.select_classes(candidates, classes)
    places, labels, names = candidates
    if count is not None:
        spaced = inputs.evenly_spaced(labels, names, count)
        places, labels = places[spaced], labels[spaced]
    return linear_cnn.scale_pixels(source.images[places]), labels.astype(np.int32), names


def _transformation(
    run: Run, training: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What a run does to normalised images and to their labels, by the principal components of the training images.

    Raises:
      ValueError: patches have no such component.
    """

    def direction(component: int, stride: int) -> np.ndarray:
        components = np.asarray(theory.patch_spectrum(training, KERNEL_SIZE, stride=stride).components)
        if not 1 <= component <= components.shape[1]:
            raise ValueError(f"patches have the components 1 to {components.shape[1]}, got {component}.")
        return components[:, component - 1]

    energy = None if run.energy_component is None else direction(run.energy_component, 1)
    scaled = None if run.scaled_component is None else direction(run.scaled_component[0], KERNEL_SIZE)

    def transform(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if energy is not None:
            labels = linear_cnn.label_by_energy(images, energy, KERNEL_SIZE, ENERGY_CLASSES)
        if scaled is not None and run.scaled_component is not None:
            images = linear_cnn.scale_component(images, scaled, KERNEL_SIZE, run.scaled_component[1])
        return images, labels

    return transform


def _channels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (C,)."""
    axes = (0, 1, 2)
    return pixels.mean(axes, dtype=np.float64), pixels.std(axes, dtype=np.float64)


def _checksum(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def configuration(run: Run, data: Data) -> dict[str, Any]:
    """All that the arrays depend on, as plain values of JSON."""
    fixed = {"format": FORMAT, "optimizer": "sgd", "loss": "cross_entropy", "checksum": data.checksum}
    plain: dict[str, Any] = json.loads(json.dumps(asdict(run) | fixed))
    if run.schedule == "constant":
        del plain["schedule"]  # so that runs are found that were stored when there was no other
    return plain


def identifier(config: dict[str, Any]) -> str:
    """The name of a run's folder: the beginning of a hash of its configuration."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def trained(run: Run, data: Data, folder: Path, *, fresh: bool = False) -> Arrays:
    """What a run recorded: read from the store `folder` if it is there, trained (or trained on) if not.

    Args:
      run, data: the run, and `load` of it.
      folder: the store.
      fresh: throw away what the store has of this run, finished or not, and train all networks from the start.

    Returns:
      "epochs" (R,) and the fields of `linear_cnn.Trajectory` that were recorded, with a leading seed axis.

    Raises:
      ValueError, FileNotFoundError: the finished run in the store, or one of other seeds whose networks are used, is
        damaged, or another one than its folder says.
      linear_cnn.TrainingDiverged: a loss is not finite.
    """
    config = configuration(run, data)
    place = folder / identifier(config)
    if fresh:
        (place / "config.json").unlink(missing_ok=True)  # first: without it, what is left counts as unfinished
        shutil.rmtree(place, ignore_errors=True)
    if not (place / "config.json").exists():
        others = [] if fresh else _seeds_of_others(config, folder)
        # A killed run continues as it began, whatever was finished since.
        begun = [seeds for seeds in (0, *others) if _checkpoints(place, seeds).exists()]
        larger = [seeds for seeds in others if seeds > run.seeds]
        if larger and not begun:
            arrays = _finished(config | {"seeds": min(larger)}, folder)
            return {name: array if name in SHARED else array[: run.seeds] for name, array in arrays.items()}
        smaller = [seeds for seeds in others if seeds < run.seeds]
        _train(run, data, config, folder, max(begun or smaller, default=0))
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return _finished(config, folder)


def _seeds_of_others(config: dict[str, Any], folder: Path) -> list[int]:
    """How many seeds the finished runs have that differ in nothing else."""
    found = []
    for file in folder.glob("*/config.json"):
        try:
            other = json.loads(file.read_text())["run"]
            if other | {"seeds": config["seeds"]} == config != other and identifier(other) == file.parent.name:
                found.append(int(other["seeds"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged: who asks for that run is told
    return found


def _checkpoints(place: Path, first: int) -> Path:
    """The folder of the checkpoints of a run that took over so many networks."""
    return place / "checkpoints" / f"from_{first}"


def _train(run: Run, data: Data, config: dict[str, Any], folder: Path, first: int) -> None:
    """Train, or continue, and write what was recorded; config.json comes last and says that the run is finished.

    Args:
      first: so many networks come from the finished run that has them; 0: none.
    """
    place = store.prepare_folder(folder / identifier(config), "--store")
    smaller = config | {"seeds": first}
    known = _finished(smaller, folder) if first else {}
    checkpoints = _checkpoints(place, first)
    continued, started = checkpoints.exists(), time.perf_counter()
    per_epoch = len(data.labels) // run.batch_size
    decay_steps = run.epochs * per_epoch if run.schedule == "cosine" else None
    # The experiments compute in float64, but a run does not depend on that.
    with jax.enable_x64(False), _counted_from(first):
        trajectory = linear_cnn.train_seeds(
            _init(run.network, data.images.shape[-1], len(data.class_names)),
            data.images,
            data.labels,
            optimizer=_optimizer(run.learning_rate, run.momentum, run.weight_decay, decay_steps),
            keys=_keys(run)[first:],
            epochs=run.epochs,
            batch_size=run.batch_size,
            record_steps=np.array(run.record_epochs) * per_epoch,
            loss="cross_entropy",
            validation=data.validation,
            frozen=run.frozen,
            checkpoint_dir=checkpoints,
            progress=True,
        )
    values = {name: getattr(trajectory, name) for name in RECORDED}
    arrays = {name: np.asarray(value) for name, value in values.items() if value is not None}
    if known:
        arrays |= {name: np.concatenate([known[name], new]) for name, new in arrays.items() if name not in SHARED}
    store.write_arrays(place / "arrays.npz", arrays | {"epochs": arrays["steps"] // per_epoch})
    content = {
        "run": config,
        "environment": store.environment(),
        "seconds": time.perf_counter() - started,
        "continued_from_checkpoint": continued,
        "first_networks_from": identifier(smaller) if first else None,
    }
    store.write_json(place / "config.json", content)


@contextmanager
def _counted_from(first: int) -> Iterator[None]:
    """Say of a run that diverges how its networks are counted."""
    try:
        yield
    except linear_cnn.TrainingDiverged as error:
        if not first:
            raise
        message = f"{error} Seeds are counted after the first {first} networks, which another run had."
        raise linear_cnn.TrainingDiverged(message, error.trajectory) from error


def _keys(run: Run) -> jax.Array:
    """One a network; those of fewer networks are the first of those of more."""
    with jax.threefry_partitionable(True):
        return jax.random.split(jax.random.key(run.seed), run.seeds)


# Cached, so that runs which differ in their data alone share a compiled program.
@lru_cache
def _init(network: Network, channels: int, classes: int) -> Callable[[jax.Array], nnx.Module]:
    arguments = {name: value for name, value in asdict(network).items() if value is not None}
    make = getattr(linear_cnn, arguments.pop("name"))
    return lambda key: make(classes=classes, in_features=channels, rngs=nnx.Rngs(key), **arguments)


@lru_cache
def _optimizer(
    learning_rate: float, momentum: float, weight_decay: float, decay_steps: int | None = None
) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(learning_rate, decay_steps) if decay_steps else learning_rate
    sgd = optax.sgd(rate, momentum=momentum or None)
    return optax.chain(optax.add_decayed_weights(weight_decay), sgd) if weight_decay else sgd


def _finished(config: dict[str, Any], folder: Path) -> Arrays:
    """The arrays of the finished run of this configuration, after comparing it with the one that is stored."""
    place = folder / identifier(config)
    remedy = f"train the run again with --fresh, or remove {place}"
    content = store.read_json(place / "config.json", remedy)
    found = content.get("run") if isinstance(content, dict) else None
    if found != config:
        raise ValueError(f"{place / 'config.json'} is of another run, {found}, than the one asked for; {remedy}.")
    arrays = store.read_arrays(place / "arrays.npz", remedy)
    records = (config["seeds"], 1 + len(config["record_epochs"]))
    recorded = RECORDED if config["validation"] else RECORDED[:4]
    if any(name not in arrays for name in ("epochs", *recorded)) or any(
        array.shape[:2] != records for name, array in arrays.items() if name not in SHARED
    ):
        raise ValueError(
            f"{place / 'arrays.npz'} is damaged: arrays of {config['seeds']} networks are missing; {remedy}."
        )
    return arrays
