"""The settings of experiments on trained networks, and the runs that they describe."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from experiments import catalogue, trained
from experiments.frame import PRESET_NAMES, Preset
from experiments.paper import (
    consistency,
    decorrelation,
    frozen_first_layer,
    random_labels,
)
from experiments.trained import Network


def test_presets_complete_every_setting(tmp_path: Path) -> None:
    made = {name: catalogue.module(name) for name in catalogue.CATALOGUE}
    made = {
        name: module
        for name, module in made.items()
        if issubclass(module.Settings, trained.Settings)
    }
    assert len(made) == 12
    for (name, module), preset in itertools.product(made.items(), PRESET_NAMES):
        settings = dataclasses.replace(module.PRESETS[preset], out=tmp_path)
        given = catalogue.resolved(name, settings)
        missing = [
            field.name
            for field in dataclasses.fields(given)
            if getattr(given, field.name) is None
        ]
        assert set(missing) <= {"data_dir", "hold_out", "size"}
        assert (given.preset, given.store) == (preset, tmp_path / "runs")
    changed = random_labels.resolve(
        random_labels.Settings(epochs=7, validation=0, width=1)
    )
    assert (changed.epochs, changed.validation, changed.shuffled_epochs) == (7, 0, 90)
    run = trained.base_run(changed)
    assert run.record_epochs == (1, 2, 3, 5, 7)
    assert isinstance(run.network.width, float)
    assert trained.base_run(changed, epochs=8).record_epochs == (1, 2, 3, 5, 7, 8)


def test_a_preset_is_the_shared_one_but_for_what_an_experiment_does_otherwise() -> None:
    shared = {field.name for field in dataclasses.fields(trained.Settings)}

    def otherwise(module: Any, preset: Preset) -> dict[str, Any]:
        own = dataclasses.asdict(module.PRESETS[preset])
        usual = dataclasses.asdict(random_labels.PRESETS[preset])
        return {key: own[key] for key in shared if own[key] != usual[key]}

    assert otherwise(frozen_first_layer, "cpu") == {
        "images": 50_000,
        "first_features": 4,
        "learning_rate": 0.05,
        "batch_size": 32,
    }
    assert otherwise(frozen_first_layer, "paper") == {}
    assert otherwise(frozen_first_layer, "smoke") == {}
    assert otherwise(decorrelation, "cpu") == {"seeds": 12}
    for name, preset in itertools.product(
        ("consistency", "energy_labels", "filters", "formula_fit", "spectral_scaling"),
        PRESET_NAMES,
    ):
        assert otherwise(catalogue.module(name), preset) == {}


def test_as_many_others_as_networks_unless_it_is_said(tmp_path: Path) -> None:
    def others(settings: trained.SettingsOfSeveral) -> int | None:
        return trained.check_several(settings).other_seeds

    assert others(consistency.Settings(seeds=7)) == 7
    assert others(consistency.Settings(seeds=7, other_seeds=2)) == 2
    assert others(decorrelation.Settings(seeds=7)) == 4
    assert others(decorrelation.PRESETS["smoke"]) == 3
    assert others(decorrelation.PRESETS["paper"]) == 4


def test_kinds_of_networks_differ_in_one_thing(tmp_path: Path) -> None:
    settings = consistency.Settings(
        seeds=9, other_seeds=5, other_widths=(8, 3), out=tmp_path
    )
    given = consistency.resolve(settings)
    base = trained.base_run(given)
    assert base.seeds == 9
    assert trained.several_runs(given) == {
        "base": base,
        "base_8": trained.base_run(given, seeds=5, first_features=8),
        "base_3": trained.base_run(given, seeds=5, first_features=3),
        "other": trained.base_run(given, seeds=5, network="ResNet18", epochs=20),
    }


def test_runs_and_networks_of_the_settings(tmp_path: Path) -> None:
    given = random_labels.resolve(
        random_labels.Settings(seed=7, learning_rate=1, out=tmp_path)
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
    assert trained.shuffled_run(given, 90) == shuffled


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
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(random_labels, change, message)


def test_no_images_to_validate_on(refused) -> None:
    """The cpu preset holds none out, since its own data have a test set."""
    change = {"dataset": "photographs", "images": 600}
    refused(random_labels, change, "--hold-out", preset="cpu")
