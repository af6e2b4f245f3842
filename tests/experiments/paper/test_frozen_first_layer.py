"""The gap that a frozen first layer makes at each depth, on runs written by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import frame, trained
from experiments.paper import frozen_first_layer
from tests.experiments.fakes import CONFIG, failing, fake_run

SLOPE = "slope of the gap in training loss at the end against depth"


def fake_frozen() -> dict[str, np.ndarray]:
    """Gaps of 0.3, 0.1 and 0.0 at the end, each up to 0.01."""
    arrays = {"depths": np.array([11, 13, 19])}
    for depth, gap in ((11, 0.3), (13, 0.1), (19, 0.0)):
        for kind, loss in (("learnt", 0.5), ("frozen", 0.5 + gap)):
            network = CONFIG["network"] | {"depth": depth}
            frozen = ["conv1"] if kind == "frozen" else []
            arrays |= fake_run(
                f"{kind}/{depth}", depth, (0, 1, 2), network=network, frozen=frozen
            )
            losses = np.array(
                [
                    [2.3, 1.0, loss],
                    [2.3, 1.0, loss + 0.01 * (kind == "frozen")],
                    [2.3, 1.0, loss],
                ]
            )
            measures = {
                "loss": losses,
                "validation_loss": 2 * losses,
                "validation_accuracy": 0.1 * losses,
            }
            arrays |= {
                f"{kind}/{depth}/{name}": values for name, values in measures.items()
            }
    return arrays


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        (
            "frozen/19/loss",
            lambda loss: loss + 0.5,
            "slope of the gap in training loss",
        ),
        (
            "frozen/11/loss",
            lambda loss: loss - 0.5,
            "slope of the gap in training loss",
        ),
        (
            "frozen/19/loss",
            lambda loss: loss + 0.2,
            f"{SLOPE}, plus its standard error",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_frozen()
    assert not failing(frozen_first_layer.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected)
        for check in failing(frozen_first_layer.summary(wrong))
    )


def test_slope_of_the_gap() -> None:
    arrays = fake_frozen()
    points = [
        (depth, gap + extra)
        for depth, gap in ((11, 0.3), (13, 0.1), (19, 0.0))
        for extra in (0, 0.01, 0)
    ]
    depths, values = np.array(points).T
    design = np.stack([depths, np.ones(9)], axis=1)
    coefficients, squares = np.linalg.lstsq(design, values)[:2]
    error = np.sqrt(squares[0] / 7 * np.linalg.inv(design.T @ design)[0, 0])
    found = frozen_first_layer.summary(arrays)["slopes"]
    assert found["loss"]["slope"] == pytest.approx(coefficients[0])
    assert found["loss"]["standard_error"] == pytest.approx(error)
    assert found["validation_loss"]["slope"] == pytest.approx(2 * coefficients[0])
    assert found["accuracy"] == {"slope": 0, "standard_error": 0}  # no gap at all
    arrays["frozen/19/loss"][:, 1] += 0.4
    changed = frozen_first_layer.summary(arrays)
    assert changed["slopes"] == found
    over_training = changed["slopes_over_training"]
    assert over_training["epochs"] == [1, 2]
    earlier = np.linalg.lstsq(design, [0] * 6 + [0.4] * 3)[0][0]
    assert over_training["loss"]["slope"] == pytest.approx([earlier, coefficients[0]])
    assert over_training["loss"]["standard_error"][1] == pytest.approx(error)
    assert over_training["validation_loss"]["slope"] == pytest.approx(
        [0, 2 * coefficients[0]], abs=1e-12
    )


def test_rows_of_a_frozen_first_layer() -> None:
    arrays = fake_frozen()
    summary = frozen_first_layer.summary(arrays)
    for row, depth, gap in zip(
        summary["results"], (11, 13, 19), (0.3, 0.1, 0), strict=True
    ):
        assert row["depth"] == depth
        gap += 0.01 / 3
        for measure, times in (
            ("loss", 1),
            ("validation_loss", 2),
            ("validation_accuracy", 0.1),
        ):
            found = {
                part: row[measure][part]["mean"] for part in ("learnt", "frozen", "gap")
            }
            assert found == pytest.approx(
                {
                    "learnt": times * 0.5,
                    "frozen": times * (0.5 + gap),
                    "gap": times * gap,
                }
            )
    found, strict = summary["checks"]  # not whether training images are learnt
    slope = summary["slopes"]["loss"]
    assert found.value == slope["slope"] < 0
    assert strict.value == pytest.approx(slope["slope"] + slope["standard_error"])
    columns = frozen_first_layer.table(summary).columns
    assert columns["network"] == ["VGG11", "VGG13", "VGG19", "slope of the gap a layer"]
    assert columns["training loss, learnt"] == ["0.500 ± 0.000"] * 3 + [""]
    for heading, measure in (
        ("gap", "loss"),
        ("gap in validation loss", "validation_loss"),
    ):
        slope = summary["slopes"][measure]
        gaps = [frame.number(row[measure]["gap"]) for row in summary["results"]]
        assert columns[heading] == [
            *gaps,
            f"{slope['slope']:+.4f} ± {slope['standard_error']:.4f}",
        ]


def test_networks_to_compare_differ_in_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "load_all", lambda named, data_dir: dict(named))
    monkeypatch.setattr(trained, "measure", lambda named, data, settings: dict(data))
    depths = {"depths": (11, 16), "depth_seeds": (3, 1), "depth_epochs": 7}
    settings = frozen_first_layer.Settings(out=tmp_path, **depths)
    given = frozen_first_layer.resolve(settings)
    found = frozen_first_layer.compute(given)
    assert found.pop("depths").tolist() == [11, 16]
    assert len(found) == 4
    for depth, seeds in ((11, 3), (16, 1)):
        of_depth = {"network": f"VGG{depth}", "seeds": seeds, "epochs": 7}
        learnt = trained.base_run(given, **of_depth, schedule="cosine")
        assert found[f"learnt/{depth}"] == learnt
        assert found[f"frozen/{depth}"] == dataclasses.replace(
            learnt, frozen=("conv1",)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (11,)}, "--depths must be two or more of 11, 13, 16 and 19"),
        ({"depths": (11, 12)}, "--depths must be two or more of 11, 13, 16 and 19"),
        ({"depths": (11, 13, 11)}, "--depths must be two .* and 19, none twice"),
        (
            {"depth_seeds": (3, 0)},
            "--depth-seeds must have a number of networks, at least 1",
        ),
        ({"depth_seeds": (3,)}, "--depth-seeds must have a number of networks"),
        ({"depth_seeds": (1, 1)}, "--depth-seeds must be 3 or more in all"),
        ({"depth_epochs": 0}, "--depth-epochs must be at least 1"),
        ({"validation": 0}, "--validation must be at least 1"),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(frozen_first_layer, change, message)
