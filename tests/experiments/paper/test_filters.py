"""Sheets of filters, pixel by pixel."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import frame, trained
from experiments.download import pretrained as download_pretrained
from experiments.frame import disk
from experiments.paper import filters

pytestmark = pytest.mark.usefixtures("data_folder")
SMOKE = filters.PRESETS["smoke"]
RANDOM = np.random.default_rng(8)
CONFIG = {
    "network": {
        "name": "VGG",
        "depth": 11,
        "width": 1.0,
        "first_features": 12,
        "dropout": 0.5,
        "features": None,
    },
    "dataset": "photographs",
    "images": 60,
    "classes": None,
    "shuffled_labels": None,
    "batch_size": 256,
    "learning_rate": 0.01,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "epochs": 30,
    "energy_component": None,
    "scaled_component": None,
    "frozen": (),
}


@pytest.fixture
def conv1(monkeypatch) -> np.ndarray:
    """Three networks of two records in the place of the base run."""
    conv1 = RANDOM.normal(size=(3, 2, 3, 3, 3, 12))
    arrays = {
        "base/config": np.array(json.dumps(CONFIG)),
        "base/conv1": conv1,
        "base/accuracy": np.ones((3, 2)),
    }
    monkeypatch.setattr(trained, "measure", lambda named, data, settings: dict(arrays))
    return conv1


def test_sheets_of_all_banks(tmp_path, present, conv1):
    filters.main(dataclasses.replace(SMOKE, out=tmp_path, network_shown=1))
    folder = tmp_path / "filters" / "photographs"
    assert {file.name for file in folder.iterdir()} == {
        "arrays.npz",
        "config.json",
        "summary.json",
        "filters.png",
        "filters.pdf",
    }
    arrays = disk.read_arrays(folder / "arrays.npz")
    np.testing.assert_array_equal(arrays["0/kernel"], conv1[1, 0])
    np.testing.assert_array_equal(arrays["1/kernel"], conv1[1, 1])
    np.testing.assert_array_equal(arrays["2/kernel"], conv1[1, 1] - conv1[1, 0])
    np.testing.assert_array_equal(arrays["3/kernel"], present["A1"])
    summary = json.loads((folder / "summary.json").read_text())
    own = [
        f"VGG11, 12 filters: {title}"
        for title in (
            "initial weights, w(0)",
            "trained weights, w(t)",
            "their change, w(t) - w(0)",
        )
    ]
    assert [row["bank"] for row in summary["results"]] == [
        *own,
        "A1",
        "A2",
        "B",
        "C",
        "D",
    ]
    assert [row["kernel"] for row in summary["results"]] == ["3x3"] * 7 + ["5x5"]
    assert [row["filters"] for row in summary["results"]] == [12] * 8
    assert [row["dead"] for row in summary["results"]] == [0] * 3 + [1] * 5
    assert summary["missing"] == ["E"]
    bank = present["A1"][..., :-1]
    colour = [
        1 - 3 * (w.mean(axis=2) ** 2).sum() / (w**2).sum()
        for w in np.moveaxis(bank, -1, 0)
    ]
    assert summary["results"][3]["colour"]["mean"] == pytest.approx(np.mean(colour))
    found = filters.banks(arrays)["A1"]
    assert found.shape == (3, 3, 3, 11)
    assert (np.diff(trained.norms(found)) < 0).all()
    norm = np.sqrt((bank**2).sum(axis=(0, 1, 2)))
    assert summary["results"][3]["largest_to_median_norm"] == pytest.approx(
        norm.max() / np.median(norm)
    )
    table = filters.table(summary)
    assert table.columns["dead"] == ["0"] * 3 + ["1"] * 5
    assert (
        table.columns["largest / median norm"][3]
        == f"{norm.max() / np.median(norm):.1f}"
    )
    assert table.columns["colour"][3] == frame.number(summary["results"][3]["colour"])
    assert (
        "Not there: E; `python -m experiments data pretrained` gets them" in table.note
    )


def test_sheets_show_the_largest_filters_and_count_the_rest(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        filters.figures, "save", lambda figure, folder, name: figures.append(figure)
    )
    banks = [
        np.ones((3, 3, 3, 70)) * np.arange(70),
        np.ones((2, 2, 1, 5)),
        np.ones((2, 2, 3, 17)),
    ]
    arrays = {f"{place}/kernel": bank for place, bank in enumerate(banks)}
    filters.draw(
        tmp_path,
        arrays
        | {"banks": np.array(json.dumps({"titles": ["A", "B", "C"], "missing": []}))},
    )
    axes = [axis for axis in figures[0].axes if axis.images]
    assert [axis.get_title() for axis in axes] == [
        "A\n64 of 70 filters, 1 dead",
        "B\n5 of 5 filters, 0 dead",
        "C\n17 of 17 filters, 0 dead",
    ]
    assert [axis.images[0].get_array().shape for axis in axes] == [
        (15, 63, 3),
        (2, 47, 3),
        (5, 47, 3),
    ]
    filters.plt.close(figures[0])


def test_without_pretrained_networks(tmp_path, conv1):
    filters.main(dataclasses.replace(SMOKE, out=tmp_path))
    summary = json.loads((tmp_path / "filters/photographs/summary.json").read_text())
    assert len(summary["results"]) == 3
    assert summary["missing"] == [
        network.title for network in download_pretrained.NETWORKS
    ]
    with pytest.raises(ValueError, match="--network-shown must be from 0 to 2, got 3"):
        filters.main(dataclasses.replace(SMOKE, out=tmp_path, network_shown=3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_pixel_by_pixel(channels):
    kernel = RANDOM.normal(size=(3, 2, channels, 20))
    picture = filters.sheet(kernel)
    assert picture.shape == (7, 16 * 3 - 1, 3)
    for k in range(20):
        top, left = 4 * (k // 16), 3 * (k % 16)
        largest = np.abs(kernel[..., k]).max()
        for y, x, c in np.ndindex(3, 2, 3):
            weight = kernel[y, x, min(c, channels - 1), k]
            assert picture[top + y, left + x, c] == pytest.approx(
                0.5 + weight / largest / 2
            )
    assert (picture[:, 2] == 1).all()
    assert (picture[4:, 12:] == 1).all()
