"""A first layer predicted some steps into its training: networks along a training, what
is measured of them, and the verdicts on arrays written by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linear_cnn
import theory
from experiments import trained
from experiments.beyond import later
from experiments.frame.experiment import draw_in_style
from tests.experiments.fakes import CONFIG, failing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": (0, 3)}, "--after must be 0 and at least two larger"),
        ({"after": (1, 3, 8)}, "--after must be 0 and at least two larger"),
        ({"after": (0, 8, 3)}, "--after must be 0 and at least two larger"),
        ({"after": (0, 3, 24)}, "less than the 24 of the training"),
        ({"curvature_images": 1}, "--curvature-images must be at least 2"),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(later, change, message)


def test_seed_is_new() -> None:
    known = (0, 1, 2, 29, 77, 2611, 2917, 2918, 3011, 3109)
    assert later.Settings().seed not in known


def small_data() -> trained.Data:
    random = np.random.default_rng(0)
    images = random.normal(size=(40, 8, 8, 3)).cumsum(axis=2).astype(np.float32)
    labels = (np.arange(40) % 2).astype(np.int32)
    names = ("one", "other")
    return trained.Data(images, labels, None, names, "", np.zeros(3), np.ones(3))


SETTINGS = replace(later.PRESETS["smoke"], after=(0, 3, 7), curvature_images=40)
RUN = replace(
    trained.base_run(SETTINGS),
    network=trained.Network("SmallCNN", features=(3, 4), batch_norm=True),
    images=40,
    batch_size=8,
    learning_rate=0.05,
    epochs=2,
    record_epochs=(1, 2),
)


def test_networks_along_a_training() -> None:
    data, steps = small_data(), np.array([0, 3, 5, 7, 10])
    whole, networks = trained.followed(RUN, data, 1, steps, steps[[0, 1, 3]])
    np.testing.assert_array_equal(whole.steps, steps)
    for network, place in zip(networks, (0, 1, 3), strict=True):
        kernel = np.asarray(network.conv1.kernel[...])  # type: ignore[attr-defined]
        np.testing.assert_allclose(kernel, whole.conv1[place], atol=1e-6)
    # Another network, and the batches of the stored run.
    other, _ = trained.followed(RUN, data, 0, steps, steps[:1])
    assert abs(other.conv1[0] - whole.conv1[0]).max() > 0.1


def test_networks_are_trained_as_their_run_says() -> None:
    data, steps = small_data(), np.array([0, 4, 10])
    plain, *others = (
        trained.followed(replace(RUN, **change), data, 0, steps, steps[:0])[0].conv1
        for change in ({}, {"schedule": "cosine"}, {"frozen": ("conv1",)})
    )
    cosine, frozen = others
    assert abs(cosine[1] - plain[1]).max() > 1e-5
    np.testing.assert_array_equal(frozen[2], frozen[0])
    assert abs(plain[2] - plain[0]).max() > 1e-3


def test_measured_by_its_definition() -> None:
    data = small_data()
    found = later.measured(RUN, data, 0, SETTINGS)
    steps = np.array([0, 3, 5, 7, 10])
    whole, networks = trained.followed(RUN, data, 0, steps, steps[[0, 1, 3]])
    conv1 = np.asarray(whole.conv1, np.float64)
    spectrum = theory.patch_spectrum(data.images, 3)
    components = np.asarray(spectrum.components)

    assert found["ends"].tolist() == [5, 10]
    np.testing.assert_array_equal(found["accuracy"], np.asarray(whole.accuracy)[[2, 4]])
    assert np.isnan(found["profile"][2, 0]).all()  # it has been by then
    assert np.isnan(found["predicted"][2, 0]).all()
    profile = theory.energy_profile(conv1[4] - conv1[1], components)
    np.testing.assert_allclose(found["profile"][1, 1], profile, rtol=1e-6)

    moments = linear_cnn.tangent_moments(
        networks[1], data.images, data.labels, loss="cross_entropy", bias=False
    )
    matrix = np.asarray(moments.curvature, np.float64).reshape(81, 81)
    rates = np.linalg.eigvalsh(matrix)
    assert found["trace"][1] == pytest.approx(rates.sum(), rel=1e-5)
    assert found["participation"][1] == pytest.approx(
        rates.sum() ** 2 / (rates**2).sum() / 81, rel=1e-5
    )
    # (1 - e^{-tH})^2 / (N H), of the rest of the training at its own time.
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 1e-12)
    weights = np.expm1(-0.05 * 7 * values) ** 2 / values / 40
    covariance = ((vectors * weights) @ vectors.T).reshape(3, 27, 3, 27)
    blocks = np.einsum("kakb->ab", covariance) / 3
    expected = np.sqrt(np.einsum("ai,ab,bi->i", components, blocks, components))
    own = found["predicted"][1, 1, later.OWN_TIME]
    np.testing.assert_allclose(own, expected, rtol=1e-3)


# --- the verdicts ---


def fake_later(own: tuple[float, ...] = (0.5, 0.7, 0.97)) -> dict[str, np.ndarray]:
    """Profiles whose correlation at the own time is given, and 1 at smaller ones."""
    random = np.random.default_rng(0)
    shape = np.linspace(3, 1, 9)
    across = random.normal(size=9)
    centred = shape - shape.mean()
    across -= across.mean() + (across @ centred) / (centred @ centred) * centred
    across *= np.linalg.norm(centred) / np.linalg.norm(across)
    after, count = np.array([0, 10, 40]), len(later.MULTIPLES)
    profile = np.tile(shape, (3, 3, 2, 1))
    predicted = np.empty((3, 3, 2, count, 9))
    for place, value in enumerate(own):
        late = np.arange(count) >= (later.OWN_TIME - 8 + 4 * place)
        angle = np.where(late, np.arccos(value), 0)
        mixed = np.cos(angle)[:, None] * centred + np.sin(angle)[:, None] * across
        predicted[:, place] = mixed + 5
    profile[:, 2, 0] = predicted[:, 2, 0] = np.nan
    config = CONFIG | {"record_epochs": [1, 4], "epochs": 4}
    return {
        "run/config": np.array(json.dumps(config)),
        "run/after": np.tile(after, (3, 1)),
        "run/ends": np.tile([20, 80], (3, 1)),
        "run/accuracy": np.full((3, 2), 0.9),
        "run/profile": profile,
        "run/predicted": predicted,
        "run/trace": np.tile([2.0, 0.8, 0.6], (3, 1)),
        "run/participation": np.full((3, 3), 0.02),
    }


def test_all_checks_hold_of_good_arrays() -> None:
    arrays = fake_later()
    summary = later.summary(arrays)
    assert failing(summary) == set()
    assert len(summary["checks"]) == 7
    rows = summary["results"]
    assert [row["own"]["mean"] for row in rows] == pytest.approx([0.5, 0.7, 0.97])
    assert [row["best"]["mean"] for row in rows] == pytest.approx([1, 1, 1])
    assert [row["trace"]["mean"] for row in rows] == pytest.approx([1, 0.4, 0.3])
    assert [row["multiple"] for row in rows] == sorted(row["multiple"] for row in rows)
    assert len(later.table(summary).columns["multiple"]) == 3


@pytest.mark.parametrize(
    ("own", "trace", "title"),
    [
        ((0.9, 0.99, 0.99), 0.8, "curvature before training at its own time"),
        ((0.5, 0.55, 0.97), 0.8, "curvature after 10 steps over it"),
        ((0.5, 0.7, 0.9), 0.8, "lowest of all records"),
        ((0.5, 0.7, 0.97), 1.2, "trace of the curvature after 10 steps"),
    ],
)
def test_a_check_fails(own: tuple[float, ...], trace: float, title: str) -> None:
    arrays = fake_later(own)
    arrays["run/trace"][:, 1] = trace
    assert any(title in one for one in failing(later.summary(arrays)))


def test_times_and_shapes_that_fail() -> None:
    arrays = fake_later()
    arrays["run/predicted"] = arrays["run/predicted"][:, :, :, ::-1]
    found = failing(later.summary(arrays))
    assert {f"best multiple of the time after {k} steps" for k in (10, 40)} <= found
    arrays = fake_later((0.5, 0.7, 0.9))
    arrays["run/predicted"][:] = arrays["run/predicted"][:, :, :, -1:]
    assert any("at their best times" in one for one in failing(later.summary(arrays)))


def test_figure(tmp_path: Path) -> None:
    draw_in_style(later.draw, tmp_path, fake_later())
    assert (tmp_path / "later.png").stat().st_size > 20_000
