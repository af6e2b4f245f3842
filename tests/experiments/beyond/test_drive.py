"""What drives the first layer: gradients along a small training, the law against its
own equations, and the verdicts on runs written by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import integrate

import linear_cnn
from experiments import trained
from experiments.beyond import drive
from experiments.beyond.drive import law, network, verdicts
from experiments.beyond.drive.settings import runs, steps
from experiments.beyond.drive.training import AGAIN, OWN, UNSEEN, follow
from experiments.frame.experiment import draw_in_style
from tests.experiments.fakes import CONFIG, failing

# --- what is trained ---


def test_runs_differ_in_what_they_say() -> None:
    named = runs(drive.PRESETS["cpu"])
    base = named["base"]
    assert base.network.dropout == 0
    assert named["batch 64,0.01"] == replace(base, batch_size=64, learning_rate=0.01)
    assert named["images 4000"] == replace(base, images=4000)
    assert named["shuffled"] == replace(base, shuffled_labels=base.seed)
    assert len(named) == 5
    # Those of the pilot and of the other experiments.
    assert base.seed not in (0, 1, 2, 77, 2611, 2917, 2918)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (0,)}, "--sizes must be positive numbers"),
        ({"sizes": (300, 300)}, "--sizes must be positive numbers"),
        ({"sizes": (128,)}, "--sizes must not hold --images"),
        ({"batches": ("64",)}, "--batches must be batch sizes and learning rates"),
        ({"intervals": 1}, "--intervals must be at least 2"),
        ({"intervals": 9}, "--intervals must be at most the steps of each training"),
        ({"validation": 0}, "--validation must be at least 1"),
        ({"curvature_images": 1}, "--curvature-images must be at least 2"),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(drive, change, message)


def small_data(shift: int = 0) -> trained.Data:
    random = np.random.default_rng(0)
    images = random.normal(size=(60, 8, 8, 3)).cumsum(axis=2).astype(np.float32)
    labels = (np.arange(60) % 2).astype(np.int32)
    images[labels == 1] += 0.5  # something to learn
    return trained.Data(
        images[:40],
        labels[:40],
        (np.roll(images[40:], shift, axis=1), labels[40:]),
        ("one", "other"),
        "",
        np.zeros(3),
        np.ones(3),
    )


SMALL = replace(
    runs(drive.PRESETS["smoke"])["base"],
    network=trained.Network("SmallCNN", features=(3, 4), batch_norm=True),
    images=40,
    batch_size=8,
    learning_rate=0.05,
    epochs=4,
)


def test_gradients_along_a_training() -> None:
    records = list(follow(SMALL, small_data(), 1, 3))
    assert [record.steps for record in records] == [0, 6, 7, 7]
    assert steps(SMALL, 40) == 20
    first = trained.initial_network(SMALL, small_data(), 1)
    kernels = [np.asarray(first.conv1.kernel[...])]  # type: ignore[attr-defined]
    kernels += [np.asarray(r.network.conv1.kernel[...]) for r in records]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    for record, before, after in zip(
        records[1:], kernels[1:-1], kernels[2:], strict=True
    ):
        # The gradients of its own batches are what moved it.
        moved = -SMALL.learning_rate * record.steps * record.gradients[OWN]
        np.testing.assert_allclose(after - before, moved, atol=1e-6)
        assert (record.accuracy > 0).all()
        assert abs(record.gradients[AGAIN] - record.gradients[OWN]).max() > 1e-3
    # Unseen images change nothing but their own gradients.
    for one, other in zip(
        records, follow(SMALL, small_data(shift=2), 1, 3), strict=True
    ):
        np.testing.assert_array_equal(one.gradients[:UNSEEN], other.gradients[:UNSEEN])
        if one.steps:
            assert abs(one.gradients - other.gradients)[UNSEEN].max() > 1e-4


# --- what is measured ---


def test_measured_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "DRAWS", 8)
    data, settings = small_data(), replace(drive.PRESETS["smoke"], intervals=2)
    found = network.measured(SMALL, data, 0, replace(settings, curvature_images=40))
    assert found["times"] == pytest.approx([0, 0.5, 1.0])
    *_, last = follow(SMALL, data, 0, 2)
    first = trained.initial_network(SMALL, data, 0)
    change = np.asarray(last.network.conv1.kernel[...]) - first.conv1.kernel[...]  # type: ignore[attr-defined]
    assert np.linalg.norm(found["profile"][-1]) * np.sqrt(3) == pytest.approx(
        np.linalg.norm(change), rel=1e-5
    )
    moments = linear_cnn.tangent_moments(
        first, data.images, data.labels, loss="cross_entropy"
    )
    matrix = moments.curvature.reshape(81, 81)
    rates = np.linalg.eigvalsh(matrix)
    assert found["trace"][0] == pytest.approx(rates.sum())
    assert found["participation"][0] == pytest.approx(
        rates.sum() ** 2 / (rates**2).sum() / 81
    )
    np.testing.assert_allclose(found["shares"].sum(axis=1), 1)
    for name in network.LAWS:
        assert found[name].shape == (2, 27)
        assert (found[name] > 0).all()
    assert abs(found["law"] - found["linear"]).max() > 1e-4


def test_soft_components() -> None:
    assert len(range(27)[network.soft(27)]) == 15
    assert len(range(9)[network.soft(9)]) == 5  # of images of one channel


def test_autocovariance_has_no_noise_in_it() -> None:
    random = np.random.default_rng(1)
    course = np.array([1.0, 0.5, -0.5])
    drives = course[:, None] * random.normal(size=40_000)
    scaled = drives[:, None] + random.normal(size=(3, 3, 40_000))
    found = network._autocovariance(scaled)
    np.testing.assert_allclose(found, np.outer(course, course), atol=0.03)


# --- the law ---


def make_interval(seed: int, length: float) -> law.Interval:
    random = np.random.default_rng(seed)
    root, drive_root, noise = random.normal(size=(3, 4, 4))
    rates, modes = np.linalg.eigh(root @ root.T)
    return law.Interval(length, rates, modes, drive_root, noise)


@pytest.mark.parametrize("forgetting", [0.0, 0.7])
def test_driven_as_its_equation_says(forgetting: float) -> None:
    intervals = [make_interval(1, 0.5), make_interval(2, 0.3), make_interval(3, 2.0)]
    quiet = [one._replace(noise=np.zeros((4, 4))) for one in intervals]
    covariance = np.array([[2.0, 1.0, 0.2], [1.0, 1.5, 0.1], [0.2, 0.1, 0.3]])
    found = list(
        law.draws(
            quiet,
            covariance,
            forgetting=forgetting,
            count=2,
            random=np.random.default_rng(4),
        )
    )
    sources = np.random.default_rng(4).normal(size=(3, 4, 2))
    values, vectors = np.linalg.eigh(covariance)
    state = np.zeros((2, 4, 2))
    for index, one in enumerate(quiet):
        curvature = (one.modes * one.rates) @ one.modes.T
        amplitudes = vectors[index] * np.sqrt(values)
        force = one.drive @ np.tensordot(amplitudes, sources, 1)

        def moves(
            _: float, flat: np.ndarray, h: Any = curvature, b: Any = force
        ) -> Any:
            pulled = flat.reshape(2, 4, 2)[1]
            speed = -(b + h @ pulled)
            return np.stack([speed, speed - forgetting * pulled]).ravel()

        solved = integrate.solve_ivp(
            moves, (0, one.length), state.ravel(), rtol=1e-10, atol=1e-12
        )
        state = solved.y[:, -1].reshape(2, 4, 2)
        np.testing.assert_allclose(found[index], state[0], rtol=1e-7, atol=1e-9)


def test_noise_of_single_modes() -> None:
    rates = np.array([0.0, 0.5, 30.0])
    one = law.Interval(0.4, rates, None, np.zeros((3, 3)), np.diag([1.0, 2.0, 3.0]))
    *_, last = law.draws(
        [one] * 5,
        np.eye(5),
        forgetting=0.0,
        count=200_000,
        random=np.random.default_rng(0),
    )
    time, strength = 5 * 0.4, np.array([1.0, 4.0, 9.0])
    exact = [time, *(-np.expm1(-2 * rates[1:] * time) / (2 * rates[1:]))] * strength
    np.testing.assert_allclose((last**2).mean(axis=1), exact, rtol=0.02)


def test_all_is_forgotten_at_once_without_memory() -> None:
    # Nothing is pulled back then, and the change is that of the force alone.
    one = make_interval(5, 1.0)._replace(noise=np.zeros((4, 4)))
    moved, free = (
        next(
            iter(
                law.draws(
                    [interval],
                    np.eye(1),
                    forgetting=rate,
                    count=3,
                    random=np.random.default_rng(0),
                )
            )
        )
        for interval, rate in ((one, 1e9), (one._replace(rates=np.zeros(4)), 0.0))
    )
    np.testing.assert_allclose(moved, free, rtol=1e-6)


# --- the verdicts ---


def fake_drive() -> dict[str, np.ndarray]:
    changes: dict[str, dict[str, Any]] = {
        "base": {},
        "batch 64,0.01": {"batch_size": 64},
        "images 4000": {"images": 4000},
        "shuffled": {"shuffled_labels": 1},
    }
    shares = np.geomspace(1, 1e-3, 27)
    shares /= shares.sum()
    profile = np.outer([1.0, 2, 3, 4], np.sqrt(shares))
    trace = np.array([1.0, 4, 12, 8, 4])
    arrays: dict[str, np.ndarray] = {}
    for name, change in changes.items():
        found = {
            "times": np.linspace(0, 4, 5),
            "profile": profile,
            "law": 0.8 * profile,
            "linear": 0.7 * profile,
            "one rate": 0.5 * profile**1.5,
            "start": profile**1.2,
            "accuracy": np.full((4, 3), 0.9),
            "trace": trace,
            "participation": np.full(5, 0.02),
            "shares": np.tile(shares, (5, 1)),
            "noise": np.outer(trace[1:], shares),
            "autocovariance": np.full((4, 4), 0.25),
            "unseen": np.full(4, 0.05 if name == "shuffled" else 0.22),
        }
        arrays[f"{name}/config"] = np.array(json.dumps(CONFIG | change))
        arrays |= {f"{name}/{key}": np.stack([v] * 2) for key, v in found.items()}
    return arrays


def turned(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:, :-1], values[:, -1:, ::-1]], axis=1)


def uneven(values: np.ndarray) -> np.ndarray:
    return values * np.geomspace(1, 2, values.shape[-1])


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("base/law", lambda v: v[..., ::-1], "shape of the law, VGG11"),
        ("batch 64,0.01/law", lambda v: v / 2, "size of the law, batch 64"),
        ("base/one rate", lambda v: v ** (2 / 3), "the law over one rate"),
        ("images 4000/noise", uneven, "log of noise over curvature, 4,000 images"),
        ("base/shares", turned, "curvature's components against those before training"),
        ("base/trace", lambda v: np.sqrt(v), "growth of the curvature, VGG11"),
        ("base/participation", lambda v: v * 3, "share of directions"),
        ("base/unseen", lambda v: v / 4, "drive of unseen images over"),
        ("shuffled/unseen", lambda v: v * 4, "drive of unseen images over"),
        (
            "images 4000/autocovariance",
            lambda v: v / 2,
            "drive at the same learning rate times steps",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change: Any, expected: str) -> None:
    arrays = fake_drive()
    assert not failing(drive.summary(arrays))
    titles = failing(drive.summary(arrays | {field: change(arrays[field])}))
    assert any(title.startswith(expected) for title in titles), titles


def test_results_and_table() -> None:
    summary = drive.summary(fake_drive())
    rows = {row["name"]: row for row in summary["results"]}
    base = rows["base"]
    assert base["growth"]["mean"] == pytest.approx(12)
    assert base["participation"]["mean"] == pytest.approx(0.02)
    assert base["unseen"]["mean"] == pytest.approx(0.22 / 0.25)
    assert base["noise"]["mean"] == pytest.approx(0)
    assert base["law"]["mean"] == pytest.approx(1)
    assert base["law, size"]["mean"] == pytest.approx(0.8)
    assert base["courses"]["drive"] == pytest.approx([0.5] * 4)
    assert [row["run"] for row in rows.values()] == [
        "VGG11",
        "batch 64, rate 0.01",
        "4,000 images",
        "shuffled labels",
    ]
    table = drive.table(summary)
    assert {len(column) for column in table.columns.values()} == {4}


def test_figure(tmp_path: Any) -> None:
    draw_in_style(drive.draw, tmp_path, fake_drive())
    assert {file.name for file in tmp_path.iterdir()} == {"drive.png", "drive.pdf"}


def test_drive_is_compared_at_the_same_time() -> None:
    arrays = fake_drive()
    # It grows with time; the other run has only half the intervals, twice as long.
    arrays |= {
        "base/autocovariance": np.tile(np.diag(np.arange(1.0, 5)), (2, 1, 1)),
        "images 4000/times": np.array([[0.0, 2, 4]] * 2),
        "images 4000/autocovariance": np.tile(np.diag([1.5, 3.5]), (2, 1, 1)),
    }
    measured = trained.measured(arrays)
    ratio = verdicts._common_drive(measured["images 4000"], measured["base"])
    assert ratio == pytest.approx(1)


def test_how_fast_the_drive_turns() -> None:
    times = np.arange(20)
    decaying = 0.5 ** (abs(times[:, None] - times) / 3.5)
    strengths = 1 + times / 10
    arrays = {
        "base/config": np.array(json.dumps(CONFIG | {"epochs": 40})),
        "base/autocovariance": (strengths[:, None] * decaying * strengths)[None],
    }
    run = trained.MeasuredRun(arrays, "base")
    # Two epochs to an interval.
    assert verdicts.turning(run) == pytest.approx(7, abs=0.05)
    arrays["base/autocovariance"] = np.ones((1, 20, 20))
    assert np.isnan(verdicts.turning(run))
