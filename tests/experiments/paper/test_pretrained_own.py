"""A user's own networks beside those that were downloaded: shown, and no part of the
verdicts."""

import json

import numpy as np
import pytest

from experiments import frame
from experiments.frame import figures
from experiments.paper import pretrained
from experiments.paper.pretrained import profiles
from tests.experiments.fakes import smooth_bank
from tests.experiments.paper.test_pretrained import measured, settings

pytestmark = pytest.mark.usefixtures("data_folder")


def numbers(summary: dict) -> dict[str, float]:
    """The checks' values by their titles."""
    return {check.title: check.value for check in summary["checks"]}


def means(summary: dict) -> dict[tuple, float]:
    """The mean at unit norm of every row."""
    return {
        (row["comparison"], row["size"], *row.get("random_filters", ())): row["unit"][
            "mean"
        ]
        for row in summary["results"]
    }


def test_the_size_of_most_downloaded_networks_comes_first(tmp_path, present):
    for title, size in [("V", 5), ("W", 5), ("X", 7)]:
        np.savez(tmp_path / f"{title}.npz", w=smooth_bank(9, size))
    files = tuple(tmp_path / f"{title}.npz" for title in "XVW") * 3
    groups = list(profiles.groups(measured(files=files)))
    assert groups == [
        ("photographs", "3x3", "0/3x3"),
        ("photographs", "5x5", "0/5x5"),
        ("photographs", "7x7", "0/7x7"),
    ]
    for title in present:
        (tmp_path / "data" / "pretrained" / f"{title}.npz").unlink()
    assert [group.size for group in profiles.groups(measured(files=files))] == [
        "5x5",
        "7x7",
    ]


@pytest.mark.parametrize("seed", range(4))
def test_own_networks_change_no_verdict(seed, tmp_path, present):
    random = np.random.default_rng(seed)
    shapes = [(3, int(random.integers(2, 30))), (int(random.choice([3, 5, 7])), 12)]
    files = [tmp_path / f"own{place}.npz" for place in range(2)]
    for file, (size, filters) in zip(files, shapes, strict=True):
        np.savez(file, w=random.normal(size=(size, size, 3, filters)))
    alone = pretrained.summary(measured())
    arrays = measured(files=tuple(files))
    summary = pretrained.summary(arrays)
    assert numbers(summary) == pytest.approx(numbers(alone), rel=1e-9, abs=1e-12)
    assert [check.passed for check in summary["checks"]] == [True] * 3
    found = means(summary)
    for row, mean in means(alone).items():
        assert found[row] == pytest.approx(mean, rel=1e-6, abs=1e-9)
    # Among the families they would.
    networks = json.loads(str(arrays["networks"]))
    for network in networks:
        network["own"] = False
    among = pretrained.summary(arrays | {"networks": np.array(json.dumps(networks))})
    title = "between families, unit norm, 3x3, basis of photographs"
    assert numbers(among)[title] < numbers(alone)[title] - 0.05


def test_grey_networks(tmp_path, present):
    """Beside none of those that were downloaded, whose input has colours."""
    random = np.random.default_rng(0)
    images, labels = random.uniform(size=(40, 8, 8, 1)), np.arange(40) % 2
    np.savez(tmp_path / "grey.npz", images=images.astype(np.float32), labels=labels)
    files = tuple(tmp_path / f"{name}.npz" for name in "ab")
    for file in files:
        np.savez(file, w=smooth_bank(7)[:, :, :1])
    grey = {"files": files, "channels": 1}
    with pytest.raises(
        ValueError, match=r"photographs have 3 channels.*or --channels 3"
    ):
        measured(**grey)
    changed = settings(tmp_path, dataset=str(tmp_path / "grey.npz"), **grey)
    pretrained.main(changed)
    arrays = pretrained.compute(changed)
    assert arrays["0/3x3/unit"].shape == (2, 9)
    assert arrays["0/3x3/random/12"].shape == (profiles.BANKS, 9)
    summary = pretrained.summary(arrays)
    assert (summary["checks"], summary["missing"]) == ([], [])
    with pytest.raises(ValueError, match=r"a\.npz: no tensor.*channels=1"):
        measured(files=files)


def test_rows_of_own_networks(tmp_path, present):
    np.savez(tmp_path / "mine.npz", w=smooth_bank(7, filters=9))
    np.savez(tmp_path / "large.npz", w=smooth_bank(8, 7))
    arrays = measured(files=(tmp_path / "mine.npz", tmp_path / "large.npz"))
    summary = pretrained.summary(arrays)
    rows = {
        row["comparison"]: row
        for row in summary["results"]
        if row["comparison"].startswith("own: ")
    }
    assert list(rows) == [
        "own: mine, with the downloaded networks",
        "own: mine, with random filters",
        "own: mine, with the fitted formula",
        "own: large, with random filters",
        "own: large, with the fitted formula",
    ]
    for name, count in [("raw", 9), ("unit", 9), ("alive", 8)]:
        profile = arrays[f"0/3x3/{name}"][4]
        with_others = [
            np.corrcoef(profile, other)[0, 1] for other in arrays[f"0/3x3/{name}"][:4]
        ]
        random = [
            np.corrcoef(profile, other)[0, 1]
            for other in arrays[f"0/3x3/random/{count}"]
        ]
        for comparison, expected in [
            ("with the downloaded networks", with_others),
            ("with random filters", random),
            ("with the fitted formula", arrays[f"0/3x3/{name}/fit/correlation"][4:]),
        ]:
            row = rows[f"own: mine, {comparison}"][name]
            spread = frame.spread(expected)
            assert {key: row[key] for key in spread} == pytest.approx(spread, abs=1e-9)
    assert len(summary["checks"]) == 3
    note = pretrained.table(summary).note
    assert "Own networks are only shown" in note
    assert "No verdict on 7x7:" in note


def test_only_own_networks_have_no_verdict(tmp_path):
    np.savez(tmp_path / "mine.npz", w=smooth_bank(7))
    np.savez(tmp_path / "other.npz", w=smooth_bank(8))
    pretrained.main(
        settings(tmp_path, files=(tmp_path / "mine.npz", tmp_path / "other.npz"))
    )
    folder = tmp_path / "out" / "pretrained" / "photographs"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["checks"] == []
    assert {row["comparison"].split(",")[0] for row in summary["results"]} == {
        "with the fitted formula",
        "own: mine",
        "own: other",
    }
    assert "No verdict on 3x3:" in pretrained.table(summary).note


def test_figures_have_four_panels_at_most_and_name_what_is_own(
    tmp_path, present, monkeypatch
):
    shown = {}
    monkeypatch.setattr(
        figures, "save", lambda figure, folder, name: shown.setdefault(name, figure)
    )
    pixels = np.random.default_rng(8).uniform(size=(40, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(40) % 2)
    for title, size, filters in [("V", 3, 20), ("W", 3, 6), ("X", 5, 4), ("Y", 7, 4)]:
        np.savez(tmp_path / f"{title}.npz", w=smooth_bank(9, size, filters))
    files = tuple(tmp_path / f"{title}.npz" for title in "VWXY")
    arrays = measured(files=files, second=str(tmp_path / "images.npz"))
    pretrained.draw(tmp_path, arrays)
    panels = {name: len(figure.axes) for name, figure in shown.items()}
    assert panels == {
        "pretrained": 4,
        "pretrained_conventions": 4,
        "pretrained_5x5": 4,
        "pretrained_7x7": 2,
    }
    profile, matrix, *_ = shown["pretrained"].axes
    (legend,) = shown["pretrained"].legends
    titles = ["A1", "A2", "B", "C", "own: V", "own: W"]
    assert [text.get_text() for text in legend.get_texts()] == titles
    assert [text.get_text() for text in matrix.get_xticklabels()] == titles
    bands = [text.get_text() for text in profile.get_legend().get_texts()]
    assert bands == ["6 random filters", "12 random filters", "20 random filters"]
    # Of 5, 6, 11, 12, 19 and 20 the fewest and the most.
    alive = shown["pretrained_conventions"].axes[2].get_legend().get_texts()
    assert [text.get_text() for text in alive] == [
        "5 random filters",
        "11 random filters",
        "19 random filters",
    ]
