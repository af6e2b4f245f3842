"""The paper's number of images against few, on runs written by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import trained
from experiments.paper import data_size
from tests.experiments.fakes import failing, fake_run


def fake_data_size(kinds: tuple[str, ...] = ("true", "shuffled")) -> dict:
    arrays = {"distances": np.array(data_size.DISTANCES)}
    for seed, (size, images) in enumerate((("few", 2_000), ("many", 50_000))):
        for number, kind in enumerate(kinds):
            changes = {} if kind == "true" else {"shuffled_labels": 0, "epochs": 100}
            name = f"{size}/{kind}"
            run = fake_run(name, 2 * seed + number, (0, 1, 2), images=images, **changes)
            arrays |= run
            for criterion in data_size.CRITERIA:
                arrays |= trained.fits(arrays, name, criterion)
        curve = 0.5 ** np.array(data_size.DISTANCES)
        arrays[f"{size}/true/curve/pixels"] = curve[None]
        arrays[f"{size}/true/curve/change"] = curve * np.array([[1], [2], [3]])
    return arrays


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        (
            "many/true/fit/change/correlation",
            lambda c: c - 0.1,
            "true labels against the formula, time by correlation, 50,000 images",
        ),
        (
            "many/shuffled/likely/change/correlation",
            lambda c: c - 0.1,
            "shuffled labels against the formula, time by likelihood, 50,000 images",
        ),
        (
            "many/shuffled/change",
            lambda e: e[:, :, ::-1],
            "true against shuffled labels, 50,000 images",
        ),
        ("many/true/accuracy", lambda a: a * 0, "lowest training accuracy, "),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_data_size()
    assert not failing(data_size.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    (found,) = failing(data_size.summary(wrong))
    assert found.startswith(expected)


def test_each_number_is_of_its_own_images() -> None:
    arrays = fake_data_size()
    summary = data_size.summary(arrays)
    assert summary["images"] == {"few": "2,000 images", "many": "50,000 images"}
    rows = {row["measure"]: row for row in summary["results"]}
    assert len(rows) == len(data_size.MEASURES)
    runs = trained.measured(arrays)
    for size in ("few", "many"):
        true, shuffled = runs[f"{size}/true"].change[:, -1], runs[f"{size}/shuffled"]
        pairs = [
            np.corrcoef(one, other)[0, 1]
            for one in true
            for other in shuffled.change[:, -1]
        ]
        found = rows["true against shuffled labels"][size]
        assert found["count"] == 9
        assert found["mean"] == pytest.approx(np.mean(pairs), abs=1e-12)
        far = rows["autocorrelation of the change, true labels, at 10 pixels"][size]
        assert far["mean"] == pytest.approx(2 * 0.5**10)
    table = data_size.table(summary)
    assert list(table.columns)[1:] == ["2,000 images", "50,000 images", "paper"]


def test_shuffled_labels_can_be_left_out(tmp_path: Path) -> None:
    arrays = fake_data_size(("true",))
    summary = data_size.summary(arrays)
    assert not failing(summary)
    assert not any("shuffled" in row["measure"] for row in summary["results"])
    data_size.draw(tmp_path, arrays)
    assert (tmp_path / "data_size.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 2_000}, "--images must be more than the 2,000"),
        ({"shuffled_epochs": -1}, "--shuffled-epochs"),
        ({"seeds": 1}, "--seeds"),
    ],
)
def test_bad_settings_are_refused(change, message: str) -> None:
    settings = dataclasses.replace(data_size.PRESETS["cpu"], **change)
    with pytest.raises(ValueError, match=message):
        data_size.resolve(settings)
