"""The one store of finished training runs: what was trained once is read from then on,
by every experiment.

A run is a group of seeds of one network on one set of images. It lies in a folder of
its own, named by a hash of its whole configuration, a checksum of the images and labels
included:

    <store>/<hash>/config.json    the configuration, what the run depends on besides,
                                  and the time it took
    <store>/<hash>/arrays.npz     what was recorded
    <store>/<hash>/checkpoints/   only until the run is finished: killed at any moment,
                                  it continues from there

Finished runs that differ in nothing but the number of seeds have networks in common: of
a larger one the first are read, and those of a smaller one are taken over, so that only
the others are trained.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import linear_cnn
from experiments.frame import AS_STORED, Arrays, disk
from experiments.frame.hosts import arrays_of_first, decided
from experiments.trained.data import Data
from experiments.trained.run import Network, Run
from linear_cnn.training._lock import locked

# To be raised by a change of the code after which the same configuration gives other
# arrays.
FORMAT = 1
RECORDED = (
    "steps",
    "conv1",
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
)
# By all networks of a run; all other arrays begin with a seed axis.
SHARED = ("steps", "epochs")


def configuration(run: Run, data: Data) -> dict[str, Any]:
    """All that the arrays depend on, as plain values of JSON."""
    fixed = {
        "format": FORMAT,
        "optimizer": "sgd",
        "loss": "cross_entropy",
        "checksum": data.checksum,
    }
    plain: dict[str, Any] = json.loads(json.dumps(asdict(run) | fixed))
    # So that runs are found that were stored when there was no choice.
    if run.schedule == "constant":
        del plain["schedule"]
    for name, value in AS_STORED.items():
        if plain[name] == value:
            del plain[name]
    if run.network.batch_norm is None:
        del plain["network"]["batch_norm"]
    return plain


def identifier(config: dict[str, Any]) -> str:
    """A name for what is kept of a configuration, such as a run's folder: the beginning
    of its hash."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def recorded(run: Run, data: Data, folder: Path, *, fresh: bool = False) -> Arrays:
    """What a run recorded: read from the store `folder` if it is there, trained (or
    trained on) if not.

    Args:
      run, data: the run, and `load` of it.
      folder: the store.
      fresh: throw away what the store has of this run, finished or not, and train all
        networks from the start.

    Returns:
      "epochs" (R,) and the fields of `linear_cnn.Trajectory` that were recorded, with a
      leading seed axis.

    Raises:
      ValueError, FileNotFoundError: the finished run in the store, or one of other
        seeds whose networks are used, is damaged, or another one than its folder says;
        another process trains it now.
      linear_cnn.TrainingDiverged: a loss is not finite.
    """
    config = configuration(run, data)
    with ExitStack() as held:
        first = decided(lambda: _to_train(run, config, folder, fresh, held))
        if first >= 0:
            _train(run, data, config, folder, first)
    return arrays_of_first(lambda: _read(run, config, folder))


def _to_train(
    run: Run, config: dict[str, Any], folder: Path, fresh: bool, held: ExitStack
) -> int:
    """How many networks a training takes over from another run, holding the lock of
    this one; -1: nothing is to be trained."""
    place = folder / identifier(config)
    if fresh or not (place / "config.json").exists():
        others = [] if fresh else _seeds_of_others(config, folder)
        # A killed run continues as it began, whatever was finished since.
        begun = [seeds for seeds in (0, *others) if _checkpoints(place, seeds).exists()]
        if max(others, default=0) > run.seeds and not begun:
            return -1
        smaller = [seeds for seeds in others if seeds < run.seeds]
        first = 0 if fresh else max(begun or smaller, default=0)
        disk.prepare_folder(place, "--store")
        # Beside the folder, which `fresh` removes.
        lock = place.with_name(f"{place.name}.lock")
        remedy = "wait for its end, and what it trained is read"
        held.enter_context(locked(lock, f"the run {place}", remedy))
        if fresh:
            # First: without it, what is left counts as unfinished.
            (place / "config.json").unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
        if not (place / "config.json").exists():
            return first
    return -1


def _read(run: Run, config: dict[str, Any], folder: Path) -> Arrays:
    """What is in the store: the run, or the first networks of a larger one."""
    place = folder / identifier(config)
    if not (place / "config.json").exists():
        others = _seeds_of_others(config, folder)
        larger = min(seeds for seeds in others if seeds > run.seeds)
        arrays = _finished(config | {"seeds": larger}, folder)
        return {
            name: array if name in SHARED else array[: run.seeds]
            for name, array in arrays.items()
        }
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return _finished(config, folder)


def _seeds_of_others(config: dict[str, Any], folder: Path) -> list[int]:
    """How many seeds the finished runs have that differ in nothing else."""
    found = []
    for file in folder.glob("*/config.json"):
        try:
            other = disk.read_json(file, "")["run"]
            if (
                other | {"seeds": config["seeds"]} == config != other
                and identifier(other) == file.parent.name
            ):
                found.append(int(other["seeds"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged: who asks for that run is told
    return found


def _checkpoints(place: Path, first: int) -> Path:
    """The folder of the checkpoints of a run that took over so many networks."""
    return place / "checkpoints" / f"from_{first}"


def _train(
    run: Run, data: Data, config: dict[str, Any], folder: Path, first: int
) -> None:
    """Train, or continue, and write what was recorded; config.json comes last and says
    that the run is finished.

    Args:
      first: so many networks come from the finished run that has them; 0: none.
    """
    place = disk.prepare_folder(folder / identifier(config), "--store")
    smaller = config | {"seeds": first}
    known = arrays_of_first(lambda: _finished(smaller, folder)) if first else {}
    checkpoints = _checkpoints(place, first)
    continued, started = checkpoints.exists(), time.perf_counter()
    per_epoch = _steps_of_epoch(run, data)
    # The experiments compute in float64, but a run does not depend on that.
    with jax.enable_x64(False), _counted_from(first):
        trajectory = linear_cnn.train_seeds(
            _init_of(run, data),
            data.images,
            data.labels,
            keys=_keys(run)[first:],
            epochs=run.epochs,
            record_steps=np.array(run.record_epochs) * per_epoch,
            validation=data.validation,
            **_recipe(run, data),
            checkpoint_dir=checkpoints,
            keep_state=False,
            progress=True,
        )
    values = {name: getattr(trajectory, name) for name in RECORDED}
    arrays = {
        name: np.asarray(value) for name, value in values.items() if value is not None
    }
    if known:
        arrays |= {
            name: np.concatenate([known[name], new])
            for name, new in arrays.items()
            if name not in SHARED
        }
    disk.write_arrays(
        place / "arrays.npz", arrays | {"epochs": arrays["steps"] // per_epoch}
    )
    content = {
        "run": config,
        "environment": disk.environment(),
        "seconds": time.perf_counter() - started,
        "continued_from_checkpoint": continued,
        "first_networks_from": identifier(smaller) if first else None,
    }
    disk.write_json(place / "config.json", content)


@contextmanager
def _counted_from(first: int) -> Iterator[None]:
    """Say of a run that diverges how its networks are counted."""
    try:
        yield
    except linear_cnn.TrainingDiverged as error:
        if not first:
            raise
        message = (
            f"{error} Seeds are counted after the first {first} networks, which another"
            " run had."
        )
        raise linear_cnn.TrainingDiverged(message, error.trajectory) from error


def kept(
    store: Path | None,
    name: str,
    content: dict[str, Any],
    make: Callable[[], Mapping[str, Any]],
    *,
    fresh: bool,
) -> Arrays:
    """Arrays that an experiment keeps beside the runs, in a folder of this name: made
    once for the same content, or again if `fresh`."""
    assert store is not None  # checked settings have one
    folder = disk.prepare_folder(store / name, "--store")
    return disk.kept_arrays(folder / f"{identifier(content)}.npz", make, fresh=fresh)


def initial_network(run: Run, data: Data, index: int) -> nnx.Module:
    """One of the networks of a run as it was before its training."""
    with jax.enable_x64(False):
        # As `linear_cnn.train` derives it.
        key = jax.random.split(_keys(run)[index])[0]
        return _init_of(run, data)(key)


def followed(
    run: Run, data: Data, index: int, records: np.ndarray, wanted: np.ndarray
) -> tuple[linear_cnn.Trajectory, list[nnx.Module]]:
    """One of the networks of a run with its first layer recorded at these steps, up to
    the last one, and as it was after each of some numbers of steps.

    Its batches are those of the run's training.
    """
    init = _init_of(run, data)
    shared = _recipe(run, data) | {"key": _keys(run)[index]}

    def trained(steps: int, **more: Any) -> linear_cnn.Trajectory:
        options = shared | more | {"steps": int(steps)}
        return linear_cnn.train(init, data.images, data.labels, **options)

    with jax.enable_x64(False):
        whole = trained(
            records[-1], record_steps=records, progress=True, keep_state=False
        )
        networks = [
            linear_cnn.trained_network(init, trained(steps, record_steps=[steps]))
            if steps
            else initial_network(run, data, index)
            for steps in wanted
        ]
    return whole, networks


def _recipe(run: Run, data: Data) -> dict[str, Any]:
    """How a run trains, as `linear_cnn.train` takes it."""
    decays = run.schedule == "cosine"
    decay_steps = run.epochs * _steps_of_epoch(run, data) if decays else None
    return {
        "optimizer": _optimizer(
            run.learning_rate, run.momentum, run.weight_decay, decay_steps
        ),
        "batch_size": run.batch_size,
        "loss": "cross_entropy",
        "frozen": run.frozen,
    }


def _steps_of_epoch(run: Run, data: Data) -> int:
    return len(data.labels) // run.batch_size


def _init_of(run: Run, data: Data) -> Callable[[jax.Array], nnx.Module]:
    return _init(run.network, data.images.shape[-1], len(data.class_names))


def _keys(run: Run) -> jax.Array:
    """One a network; those of fewer networks are the first of those of more."""
    with jax.threefry_partitionable(True):
        return jax.random.split(jax.random.key(run.seed), run.seeds)


# Cached, so that runs which differ in their data alone share a compiled program.
@lru_cache
def _init(
    network: Network, channels: int, classes: int
) -> Callable[[jax.Array], nnx.Module]:
    arguments = {
        name: value for name, value in asdict(network).items() if value is not None
    }
    if "first_strides" in arguments:  # as stored runs call it
        arguments["first_stride"] = arguments.pop("first_strides")
    make = getattr(linear_cnn, arguments.pop("name"))
    return lambda key: make(
        classes=classes, in_features=channels, rngs=nnx.Rngs(key), **arguments
    )


@lru_cache
def _optimizer(
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    decay_steps: int | None = None,
) -> optax.GradientTransformation:
    rate = (
        optax.cosine_decay_schedule(learning_rate, decay_steps)
        if decay_steps
        else learning_rate
    )
    sgd = optax.sgd(rate, momentum=momentum or None)
    return (
        optax.chain(optax.add_decayed_weights(weight_decay), sgd)
        if weight_decay
        else sgd
    )


def _finished(config: dict[str, Any], folder: Path) -> Arrays:
    """The arrays of the finished run of this configuration, after comparing it with the
    one that is stored."""
    place = folder / identifier(config)
    remedy = f"train the run again with --fresh, or remove {place}"
    content = disk.read_json(place / "config.json", remedy)
    found = content.get("run") if isinstance(content, dict) else None
    if found != config:
        raise ValueError(
            f"{place / 'config.json'} is of another run, {found}, than the one asked"
            f" for; {remedy}."
        )
    arrays = disk.read_arrays(place / "arrays.npz", remedy)
    records = (config["seeds"], 1 + len(config["record_epochs"]))
    recorded = RECORDED if config["validation"] else RECORDED[:4]
    if any(name not in arrays for name in ("epochs", *recorded)) or any(
        array.shape[:2] != records
        for name, array in arrays.items()
        if name not in SHARED
    ):
        raise ValueError(
            f"{place / 'arrays.npz'} is damaged: arrays of {config['seeds']} networks"
            f" are missing; {remedy}."
        )
    return arrays
