"""Labels by the energy of one component, on runs written by hand."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments import frame, trained
from experiments.paper import energy_labels
from tests.experiments.fakes import VARIANCE, correlation, failing, fake_run


def fake_energy_labels() -> dict[str, np.ndarray]:
    arrays = fake_run("shuffled", 0, (0, 1, 2), shuffled_labels=0, epochs=100)
    for component in (5, 27):
        arrays |= fake_run(
            str(component), component, (0, 1, 2), energy_component=component
        )
    # The formula leaves component 27 weak.
    arrays["27/change"] = arrays["27/change"][:, :, ::-1]
    return arrays


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        (
            "27/change",
            lambda e: e[:, :, ::-1],
            "labels by component 27 against shuffled labels",
        ),
        (
            "5/accuracy",
            lambda a: a - 0.1,
            "lowest training accuracy, VGG11, 64 filters, labels by",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_energy_labels()
    assert not failing(energy_labels.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(energy_labels.summary(wrong))
    )


def test_rows_of_labels_by_energy() -> None:
    """Correlations of all pairs at the end; energies of every network are relative to
    its own largest."""
    arrays = fake_energy_labels()
    before = energy_labels.summary(arrays)["results"]
    arrays["shuffled/change"] = (
        arrays["shuffled/change"] * np.array([1, 10, 100])[:, None, None]
    )
    summary = energy_labels.summary(arrays)
    shares = [profile / max(profile) for profile in arrays["shuffled/change"][:, -1]]
    for row, unscaled in zip(summary["results"], before, strict=True):
        assert row["energy_with_shuffled_labels"] == pytest.approx(
            unscaled["energy_with_shuffled_labels"]
        )
        assert row["energy_with_shuffled_labels"] == pytest.approx(
            np.mean(shares, axis=0)[row["component"] - 1]
        )
        for kind in trained.KINDS:
            ends = [
                arrays[f"{name}/{kind}"][:, -1]
                for name in (row["component"], "shuffled")
            ]
            expected = [correlation(a, b) for a, b in itertools.product(*ends)]
            assert row[kind]["mean"] == pytest.approx(np.mean(expected))
            assert row[kind]["count"] == 9
    (check,) = (one for one in summary["checks"] if one.title.startswith("labels by"))
    assert (check.value, check.bound) == (
        summary["results"][1]["change"]["mean"],
        "< 0.5",
    )
    columns = energy_labels.table(summary).columns
    assert columns["correlation of the profiles"] == [
        frame.number(row["change"]) for row in summary["results"]
    ]
    energies = [
        f"{row['energy_with_its_own_labels']:.2f}" for row in summary["results"]
    ]
    assert columns["with its own labels"] == energies


def test_only_weak_components_are_judged() -> None:
    summary = energy_labels.summary(fake_energy_labels())
    judged = [
        one.title
        for one in summary["checks"]
        if one.title.startswith("labels by component")
    ]
    assert len(judged) == 1
    assert judged[0].startswith("labels by component 27 against")
    formula = -np.expm1(-3 * VARIANCE) / np.sqrt(VARIANCE)
    expected = {
        "with_shuffled_labels": (formula[4], formula[26]),
        "with_its_own_labels": (formula[4], formula[0]),
    }
    # Those of component 27 turn the profile round.
    for labels, energies in expected.items():
        for row, energy in zip(summary["results"], energies, strict=True):
            assert row[f"energy_{labels}"] == pytest.approx(
                energy / formula.max(), rel=0.05
            )


def test_networks_to_compare_differ_in_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "load_all", lambda named, data_dir: dict(named))
    monkeypatch.setattr(trained, "measure", lambda named, data, settings: dict(data))
    labels = {
        "energy_components": (2, 9),
        "energy_seeds": 5,
        "energy_epochs": 6,
        "shuffled_epochs": 8,
    }
    given = energy_labels.resolve(energy_labels.Settings(out=tmp_path, **labels))
    by_energy = trained.base_run(given, seeds=5, epochs=6)
    assert energy_labels.compute(given) == {
        "shuffled": trained.shuffled_run(given, 8),
        "2": dataclasses.replace(by_energy, energy_component=2),
        "9": dataclasses.replace(by_energy, energy_component=9),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"energy_components": (1, 1)},
            "--energy-components must name one component or more",
        ),
        ({"energy_components": (28,)}, "patches have the components 1 to 27, got 28"),
        (
            {"validation": 9},
            "--validation must be at least 10, one a class of energies, got 9",
        ),
        ({"images": 8, "batch_size": 4}, "--images must be at least 10"),
        (
            {"energy_components": ()},
            "--energy-components must name one component or more",
        ),
        ({"energy_seeds": 0}, "--energy-seeds must be at least 1"),
        ({"energy_epochs": 0}, "--energy-epochs must be at least 1"),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(energy_labels, change, message)
