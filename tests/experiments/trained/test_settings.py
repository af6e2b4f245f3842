"""The settings of experiments on trained networks, and the runs that they describe."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from experiments import catalogue, trained
from experiments.paper import (
    consistency,
    decorrelation,
    frozen_first_layer,
    random_labels,
)
from experiments.trained import Network
from experiments.trained.settings import PRESETS


def test_presets_complete_every_setting(tmp_path: Path) -> None:
    made = {name: catalogue.module(name).Settings for name in catalogue.CATALOGUE}
    made = {
        name: settings
        for name, settings in made.items()
        if issubclass(settings, trained.Settings)
    }
    assert len(made) == 8
    for (name, settings), preset in itertools.product(made.items(), PRESETS):
        given = catalogue.resolved(name, settings(preset=preset, out=tmp_path))
        missing = [
            field.name
            for field in dataclasses.fields(given)
            if getattr(given, field.name) is None
        ]
        assert set(missing) <= {"data_dir", "hold_out"}
        assert given.store == tmp_path / "runs"
    changed = trained.resolve(
        random_labels.Settings(preset="cpu", epochs=7, validation=0, width=1)
    )
    assert (changed.epochs, changed.validation, changed.shuffled_epochs) == (
        7,
        0,
        PRESETS["cpu"]["shuffled_epochs"],
    )
    run = trained.base_run(changed)
    assert run.record_epochs == (1, 2, 3, 5, 7)
    assert isinstance(run.network.width, float)
    assert trained.base_run(changed, epochs=8).record_epochs == (1, 2, 3, 5, 7, 8)


def test_an_experiment_with_a_preset_of_its_own() -> None:
    """Its own values go before the shared ones, for that preset alone, and what the
    user names before both."""
    settings = random_labels.Settings(preset="cpu", images=7)
    given = trained.resolve(
        settings, {"cpu": {"images": 5, "batch_size": 3}, "smoke": {"validation": 1}}
    )
    assert given == dataclasses.replace(trained.resolve(settings), batch_size=3)
    frozen = frozen_first_layer.resolve(frozen_first_layer.Settings(batch_size=9))
    assert (frozen.images, frozen.batch_size, frozen.first_features, frozen.width) == (
        50_000,
        9,
        4,
        0.25,
    )
    assert (frozen.learning_rate, frozen.schedule) == (0.05, "cosine")
    paper = frozen_first_layer.Settings(preset="paper")
    assert frozen_first_layer.resolve(paper) == trained.resolve(paper)
    assert decorrelation.resolve(decorrelation.Settings()) == trained.resolve_several(
        decorrelation.Settings(seeds=12, other_seeds=4)
    )
    assert (
        decorrelation.resolve(decorrelation.Settings(preset="smoke")).other_seeds == 3
    )
    assert trained.resolve_several(consistency.Settings(seeds=7)).other_seeds == 7


def test_kinds_of_networks_differ_in_one_thing(tmp_path: Path) -> None:
    settings = consistency.Settings(
        preset="cpu", seeds=9, other_seeds=5, other_widths=(8, 3), out=tmp_path
    )
    given = trained.resolve_several(settings)
    base = trained.base_run(given)
    assert base.seeds == 9
    assert trained.several_runs(given) == {
        "base": base,
        "base_8": trained.base_run(given, seeds=5, first_features=8),
        "base_3": trained.base_run(given, seeds=5, first_features=3),
        "other": trained.base_run(given, seeds=5, network="ResNet18", epochs=20),
    }


def test_runs_and_networks_of_the_settings(tmp_path: Path) -> None:
    given = trained.resolve(
        random_labels.Settings(preset="cpu", seed=7, learning_rate=1, out=tmp_path)
    )
    run = trained.base_run(given)
    assert run.network == Network("VGG", 11, 0.25, 64, 0.5)
    assert trained.base_run(given, network="ResNet20", width=1).network == Network(
        "ResNet", 20, 1.0, 64
    )
    narrow = trained.base_run(given, network="SmallCNN", width=1 / 256, first_strides=3)
    assert narrow.network == Network("SmallCNN", features=(64, 1, 1), first_strides=3)
    assert trained.base_run(given, network="SmallCNN").network.features == (64, 32, 64)
    assert (run.images, run.validation, run.epochs, run.seeds, run.seed) == (
        2000,
        500,
        50,
        4,
        7,
    )
    assert (run.batch_size, run.learning_rate, run.shuffled_labels, run.frozen) == (
        16,
        1.0,
        None,
        (),
    )
    assert isinstance(run.learning_rate, float)
    shuffled = dataclasses.replace(
        trained.base_run(given, epochs=90), shuffled_labels=7
    )
    assert trained.shuffled_run(given) == shuffled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "gpu"}, "--preset must be one of smoke, cpu, paper, got 'gpu'"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"shuffled_epochs": -1}, "--shuffled-epochs must be at least 1"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"validation": -1}, "--validation must be at least 0"),
        ({"hold_out": 1}, "--hold-out must be at least 2"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"width": float("nan")}, "--width must be positive"),
        ({"dropout": 1.0}, "--dropout must be at least 0 and less than 1"),
        ({"images": 31}, "the batch of 32 is more than the 31 training images"),
        (
            {"images": 3000},
            "3,000 images of 6 classes are 500 of each, but there are 4.* of 'astr",
        ),
        (
            {"dataset": "cifar"},
            "there is no image set 'cifar'; choose one of photographs, cifar10",
        ),
        ({"dataset": "cifar10"}, "python -m experiments data cifar10"),
        ({"preset": "cpu", "dataset": "photographs", "images": 600}, "--hold-out"),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(random_labels, change, message)
