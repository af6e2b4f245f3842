"""One component scaled, on runs written by hand."""

import numpy as np
import pytest

from experiments.paper import spectral_scaling
from tests.experiments.fakes import failing, fake_run


def fake_spectral_scaling() -> dict[str, np.ndarray]:
    arrays = {}
    for name, scaled in (
        ("unscaled", [1, 1.0]),
        ("3 x 2", [3, 2.0]),
        ("3 x 5", [3, 5.0]),
        ("7 x 2", [7, 2.0]),
        ("7 x 5", [7, 5.0]),
    ):
        arrays |= fake_run(name, len(arrays), (0, 1, 2), scaled_component=scaled)
        found = {
            "fit": np.full(3, 0.97),
            "fit_unscaled": np.full(3, 0.8),
            "labels": np.full((10, 27), -0.05),
        }
        found |= {
            "profile": arrays[f"{name}/change"][:, -1],
            "formula": arrays[f"{name}/change"][:, -1],
        }
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    return arrays


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("3 x 5/fit", lambda r: r - 0.1, "fit of the formula, component 3 x 5"),
        ("unscaled/fit", lambda r: r - 0.1, "fit of the formula, no component scaled"),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_spectral_scaling()
    assert not failing(spectral_scaling.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(spectral_scaling.summary(wrong))
    )


def test_rows_of_the_scaled_components() -> None:
    arrays = fake_spectral_scaling()
    arrays["7 x 5/labels"][3, 4] = 0.04
    summary = spectral_scaling.summary(arrays)
    rows = summary["results"]
    assert [(row["component"], row["factor"]) for row in rows] == [
        (1, 1),
        (3, 2),
        (3, 5),
        (7, 2),
        (7, 5),
    ]
    for row in rows:
        assert row["fit"]["mean"] == pytest.approx(0.97)
        assert row["fit_of_the_unscaled_formula"]["mean"] == pytest.approx(0.8)
        assert row["largest_label_correlation"] == 0.05
    assert (
        spectral_scaling.table(summary).columns["without alpha"]
        == ["0.800 ± 0.000"] * 5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaled_components": (0,)}, "patches have the components 1 to 27, got 0"),
        ({"factors": (1.0,)}, "--factors must be positive and finite, and not 1"),
        (
            {"scaled_components": (5, 5)},
            "--scaled-components must be one number or more, none",
        ),
        ({"factors": (3.0, float("inf"))}, "--factors must be positive and finite"),
        ({"factors": (0.0,)}, "--factors must be positive and finite"),
        (
            {"factors": (3.0, 3.0000001)},
            "--factors must be one number or more, none twice",
        ),
        ({"factors": ()}, "--factors must be one number or more"),
        ({"stride_network": "VGG11"}, "VGG11 needs larger images"),
        ({"scaling_epochs": 0}, "--scaling-epochs must be at least 1"),
        ({"scaling_seeds": 0}, "--scaling-seeds must be at least 1"),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(spectral_scaling, change, message)
