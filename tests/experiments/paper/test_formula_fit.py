"""The formula fitted to trained networks, on runs written by hand."""

import math

import numpy as np
import pytest

import theory
from experiments import trained
from experiments.paper import formula_fit
from tests.experiments.fakes import VARIANCE, correlation, failing, fake_run


def fake_formula_fit() -> dict[str, np.ndarray]:
    arrays = fake_run("all", 0, (0, 1, 2)) | fake_run(
        "dog,frog", 1, (0, 1, 2), classes=["dog", "frog"], images=10_000
    )
    arrays |= trained.fits(arrays, "all") | trained.fits(arrays, "dog,frog")
    return arrays | {
        "random/correlation": np.full(20, 0.27),
        "random/time": np.ones(20),
    }


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("all/fit/change/correlation", lambda r: r * 0.93, "fit, VGG11, 64 filters"),
        (
            "all/fit/change/zero",
            lambda r: r + 1,
            "fit above lambda and 1 / lambda alone, VGG11, 64 f",
        ),
        (
            "dog,frog/fit/change/infinity",
            lambda r: r + 2,
            "fit above lambda and 1 / lambda alone, VGG",
        ),
        (
            "dog,frog/fit/change/correlation",
            lambda r: r * 0.905,
            "fit, VGG11, 64 filters, dog / frog",
        ),
        ("random/correlation", lambda r: r + 0.1, "fit to 20 banks of random filters"),
        (
            "dog,frog/accuracy",
            lambda a: a - [[0], [0], [0.1]],
            "lowest training accuracy, VGG11, 64",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_formula_fit()
    assert not failing(formula_fit.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(formula_fit.summary(wrong))
    )


def test_summary_of_the_fits() -> None:
    arrays = fake_formula_fit()
    summary = formula_fit.summary(arrays)
    row = summary["results"][0]
    fits = [
        theory.fit_profile(profile, VARIANCE) for profile in arrays["all/change"][:, -1]
    ]
    values = [float(fit.correlation) for fit in fits]
    assert row["correlation"]["mean"] == pytest.approx(np.mean(values))
    assert row["correlation"]["std"] == pytest.approx(np.std(values) * math.sqrt(3 / 2))
    assert row["correlation"]["count"] == 3
    alone = [
        correlation(profile, np.sqrt(VARIANCE))
        for profile in arrays["all/change"][:, -1]
    ]
    assert row["lambda_alone"]["mean"] == pytest.approx(np.mean(alone))
    assert row["inverse_lambda_alone"]["mean"] == pytest.approx(
        np.mean(
            [
                correlation(profile, 1 / np.sqrt(VARIANCE))
                for profile in arrays["all/change"][:, -1]
            ]
        )
    )
    assert row["time"] == pytest.approx([3] * 3, rel=0.2)
    low, high = row["time_interval_95"]
    assert low < np.exp(np.mean(np.log(row["time"]))) < high
    assert np.isnan(arrays["all/fit/change/correlation"][:, 0]).all()
    weights = arrays["all/fit/weights/correlation"]
    np.testing.assert_allclose(
        weights[2, 0],
        theory.fit_profile(arrays["all/weights"][2, 0], VARIANCE).correlation,
    )
    assert summary["differs_from_paper"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_epochs": 0}, "--pair-epochs must be at least 1"),
        ({"pair_images": 20}, "the batch of 32 is more than the 20 training images"),
        ({"pairs": ("coffee,cat",)}, "'cat', which is none of the class names"),
        (
            {"pairs": ("coffee",)},
            "--pairs must name two classes each, as dog,cat, got 'coffee'",
        ),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(formula_fit, change, message)
