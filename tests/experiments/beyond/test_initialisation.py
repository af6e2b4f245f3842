"""First layers made from the closed form: what an arm begins with and is trained by,
and the verdicts on arrays written by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import linear_cnn
import theory
from experiments.beyond import initialisation
from experiments.beyond.initialisation import experiment, training, verdicts
from experiments.beyond.initialisation.settings import (
    HE,
    NETWORKS,
    REGULARISED,
    Arm,
    arms,
)
from experiments.frame.experiment import draw_in_style
from tests.experiments.fakes import failing

SMOKE = initialisation.PRESETS["smoke"]


# --- settings ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 8}, "--batch-size must be at most --images = 8"),
        ({"features": ()}, "--features must be the numbers of filters"),
        ({"rates": (0.1, 0.01)}, "--rates must be positive numbers in increasing"),
        ({"epsilons": (0.0,)}, "--epsilons must be positive numbers"),
        ({"times": ()}, "--times must be positive numbers"),
        ({"records": (6,)}, "--records must increase and lie between 0 and --steps"),
        ({"slowed": 1.0}, "--slowed must be greater than 0 and less than 1"),
        ({"momentum": 1.0}, "--momentum must be at least 0 and less than 1"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"rate_seed": SMOKE.seed}, "--seed and --rate-seed must differ"),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(initialisation, change, message)


def test_what_was_fixed_before() -> None:
    settings = initialisation.resolve(initialisation.PRESETS["cpu"])
    assert settings == initialisation.resolve(initialisation.Settings())
    assert (settings.features[0], settings.images, settings.batch_size) == (
        54,
        4000,
        32,
    )
    assert (settings.steps, settings.momentum, settings.seeds) == (300, 0.9, 12)
    assert len(settings.rates) >= 4
    assert len(arms(settings)) == 10
    page = (Path(__file__).parents[3] / "docs" / "initialisation.md").read_text()
    grid = ", ".join(f"{rate:g}" for rate in settings.rates)
    records = ", ".join(map(str, (0, *settings.records, settings.steps)))
    assert grid in page
    assert records in page


# --- what is trained ---


@pytest.fixture(scope="module")
def data() -> training.Data:
    random = np.random.default_rng(0)
    images = random.normal(size=(24, 8, 8, 3)).cumsum(axis=1).cumsum(axis=2)
    images = (images / images.std()).astype(np.float32)
    labels = (np.arange(24) % 2).astype(np.int32)
    return training.Data(images, labels, 2, theory.patch_spectrum(images, 3), "x")


def parameters(arm: Arm, data: training.Data, batch_norm: bool) -> Any:
    settings = replace(SMOKE, features=(54, 4))
    init = training.make_init(arm, data, settings, batch_norm=batch_norm)
    return nnx.to_pure_dict(nnx.state(init(jax.random.key(3)), nnx.Param))


def test_arms_differ_in_the_first_kernel_alone(data: training.Data) -> None:
    made = {
        name: parameters(
            arm._replace(value=0.01 if arm.value is None else arm.value), data, False
        )
        for name, arm in arms(SMOKE).items()
    }
    kernels = {}
    for name, one in made.items():
        kernels[name] = np.asarray(one["conv1"].pop("kernel"), float).reshape(27, 54)
        for ours, he in zip(*map(jax.tree.leaves, (one, made[HE])), strict=True):
            np.testing.assert_array_equal(ours, he)
    drawn = linear_cnn.SmallCNN(
        2, features=(54, 4), rngs=nnx.Rngs(jax.random.key(3))
    ).conv1.kernel[...]
    np.testing.assert_array_equal(kernels[HE], drawn.reshape(27, 54))
    for name in set(made) - {HE, "He, frozen"}:
        assert (kernels[name] ** 2).sum() == pytest.approx(27 * 54 * 2 / (9 * 54), 1e-4)
    components, whitening = np.asarray(data.spectrum.components), kernels["whitening"]
    np.testing.assert_array_equal(whitening[:, 27:], -whitening[:, :27])
    expected = components / np.sqrt(np.asarray(data.spectrum.variance))
    ratio = whitening[:, :27] / expected
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    mixed = kernels["whitening, mixed"]
    scale = np.abs(whitening @ whitening.T).max()
    np.testing.assert_allclose(
        mixed @ mixed.T, whitening @ whitening.T, atol=1e-5 * scale
    )
    # No filter of it is along one component.
    shares = (components.T @ mixed) ** 2 / (mixed**2).sum(axis=0)
    assert np.median(shares.max(axis=0)) < 0.9


def test_the_closed_form_at_a_time() -> None:
    variance = np.geomspace(20, 1e-4, 27)
    found = training.profile(Arm("time", 100.0), variance)
    expected = (1 - np.exp(-100 * variance)) / np.sqrt(variance)
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert (training.profile(Arm("components"), variance) == 1).all()
    regularised = training.profile(Arm("whitening", 0.1), variance)
    np.testing.assert_allclose(regularised, (variance + 0.1) ** -0.5)


def test_a_slowed_first_layer() -> None:
    settings = replace(SMOKE, slowed=0.25, momentum=0.5)
    ones = {"conv1": {"kernel": np.ones(3), "bias": np.ones(1)}, "b": {"c": np.ones(2)}}
    for learns, share in (("slowly", 0.25), ("all", 1.0)):
        ours = training.optimizer(Arm("drawn", learns=learns), 0.1, settings)
        state = ours.init(ones)
        _, state = ours.update(ones, state, ones)
        update, _ = ours.update(ones, state, ones)  # 1.5 with its momentum
        np.testing.assert_allclose(update["conv1"]["kernel"], -0.15 * share)
        np.testing.assert_allclose(update["conv1"]["bias"], -0.15 * share)
        np.testing.assert_allclose(update["b"]["c"], -0.15)


@pytest.mark.long
def test_groups_are_trained_once(
    data: training.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SMOKE, store=tmp_path, batch_size=12, steps=4)
    asked: dict[str, Any] = {"network": "plain", "seed": 5, "seeds": 2, "records": (2,)}
    frozen = Arm("whitening", 0.1, learns="bias")
    first = training.trained_group(frozen, 0.01, data, settings, **asked)
    assert first["steps"].tolist() == [0, 2, 4]
    assert first["loss"].shape == first["accuracy"].shape == (2, 3)
    assert np.ptp(first["loss"], axis=1).min() > 0
    np.testing.assert_array_equal(first["moved"], 0)
    real = linear_cnn.train_seeds
    calls: list[Any] = []
    monkeypatch.setattr(
        linear_cnn, "train_seeds", lambda *a, **k: calls.append(k) or real(*a, **k)
    )
    again = training.trained_group(frozen, 0.01, data, settings, **asked)
    np.testing.assert_array_equal(again["loss"], first["loss"])
    assert not calls
    diverged = training.trained_group(Arm("drawn"), 1e9, data, settings, **asked)
    assert len(calls) == 1
    assert np.isinf(diverged["loss"]).all()
    # Another number of seeds is another group.
    one = training.trained_group(
        frozen, 0.01, data, settings, **asked | {"seeds": 1, "records": ()}
    )
    np.testing.assert_allclose(one["loss"][0], first["loss"][0, [0, 2]], rtol=1e-5)
    assert len(list((tmp_path / "initialisation").glob("*.npz"))) == 3


def test_rate_and_epsilon_are_those_of_the_lowest_loss(
    data: training.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SMOKE, rates=(0.1, 0.2, 0.4), epsilons=(0.01, 0.1), rate_seeds=2)
    asked = []

    def group(arm: Arm, rate: float, *given: Any, **more: Any) -> Any:
        asked.append((arm, rate, more["seed"], more["seeds"], more["records"]))
        best = rate == 0.2 and arm.value in (0.1, 0.0, 100.0)
        loss = np.array([[2.3, 1.0 if best else 1.5], [2.3, 2.0]])
        if rate == 0.4:
            loss = np.full((2, 2), np.inf)
        return {"loss": loss}

    monkeypatch.setattr(experiment, "trained_group", group)
    monkeypatch.setattr(experiment, "load", lambda settings: data)
    arrays = experiment.compute(settings)
    for network in NETWORKS:
        for name in arms(settings):
            assert arrays[f"{network}/{name}/rate"] == 0.2
        assert arrays[f"{network}/{REGULARISED}/value"] == 0.1
        assert arrays[f"{network}/{REGULARISED}/tried"].shape == (2, 3, 2)
    roots = {(seed, seeds, records) for _, _, seed, seeds, records in asked}
    assert roots == {(settings.rate_seed, 2, ()), (settings.seed, 2, (3,))}
    asked.clear()
    experiment.compute(replace(settings, rates=(0.2,), epsilons=(0.1,)))
    assert {root for _, _, root, *_ in asked} == {settings.seed}  # nothing to choose
    with pytest.raises(ValueError, match=r"diverge at the rate 0\.4 that was best"):
        experiment.compute(replace(settings, rates=(0.4,)))


@pytest.mark.long
def test_the_smoke_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMOKE, out=tmp_path)
    initialisation.main(settings)
    folder = tmp_path / "initialisation" / "photographs"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "config.json",
        "arrays.npz",
        "summary.json",
        "initialisation.png",
        "initialisation.pdf",
    }
    summary = json.loads(
        (folder / "summary.json").read_text(),
        parse_constant=lambda text: pytest.fail(text),
    )
    assert len(summary["results"]) == 18
    assert {row["caveat"] for row in summary["checks"]} == {"smoke run: means nothing"}
    arrays = np.load(folder / "arrays.npz")
    for network in NETWORKS:
        for frozen in ("He, frozen", "whitening, frozen"):
            assert (arrays[f"{network}/{frozen}/moved"] == 0).all()
            assert (arrays[f"{network}/{frozen}/loss"][:, -1] != 0).all()
        moved = {
            name: arrays[f"{network}/whitening{name}/moved"].mean()
            for name in ("", ", slowed")
        }
        assert 0 < moved[", slowed"] < 0.5 * moved[""]
    # A second time it reads what was trained.
    monkeypatch.setattr(linear_cnn, "train_seeds", lambda *a, **k: pytest.fail("again"))
    initialisation.main(settings)


# --- the verdicts ---


def test_steps_to_a_loss() -> None:
    steps, loss = np.array([0, 100, 200]), np.array([2.0, 1.0, 0.5])
    assert verdicts.steps_to(steps, loss, 1.5) == pytest.approx(50)
    assert verdicts.steps_to(steps, loss, 0.5) == pytest.approx(200)
    assert verdicts.steps_to(steps, loss, 3.0) == 1
    assert verdicts.steps_to(steps, loss, 2.0 - 1e-9) == 1


def fake(gains: dict[str, float] | None = None) -> dict[str, np.ndarray]:
    """Arms that are quicker than He by these factors, as the pilot saw it."""
    pilot = {"whitening": 0.8, "whitening, frozen": 0.75, REGULARISED: 0.6}
    pilot |= {"t = 100": 0.65, "t = 1,000": 0.61, "whitening, mixed": 1.02}
    factors = pilot | (gains or {})
    settings = replace(SMOKE, times=(100.0, 1000.0), seeds=12)
    steps = np.array([0, 100, 150, 200, 250, 300])
    arrays: dict[str, np.ndarray] = {
        "variance": np.geomspace(20, 1e-3, 27),
        "rates": np.array([0.01, 0.02, 0.04]),
        "times": np.array(settings.times),
    }
    random = np.random.default_rng(1)
    for network in NETWORKS:
        for number, (name, arm) in enumerate(arms(settings).items()):
            scale = 200 * factors.get(name, 1.0)
            noise = 0.005 * random.normal(size=(12, 6))
            found = {
                "steps": steps,
                "loss": 1.2 + 1.1 * np.exp(-steps / scale) + noise,
                "accuracy": np.full((12, 6), 0.3),
                "moved": np.ones(12),
                "tried": np.ones((1, 3, 2)),
                "rate": arrays["rates"][number % 3],
                "value": np.array(arm.value or 0.01),
                "profile": np.geomspace(1, 9, 27),
            }
            arrays |= {f"{network}/{name}/{key}": found[key] for key in found}
    return arrays


def test_steps_over_those_of_he() -> None:
    arrays = fake({"whitening": 0.5, "components": 2.0, "He, frozen": 1.0})
    for arm, factor in (("whitening", 0.5), ("components", 2.0), ("He, frozen", 1.0)):
        found = verdicts.ratio(verdicts.log_steps(arrays, "plain", arm))
        assert found["mean"] == pytest.approx(factor, rel=0.07)
        assert 0 < found["error"] < 0.05
    swapped = arrays | {
        f"plain/{HE}/loss": arrays["plain/whitening/loss"],
        "plain/whitening/loss": arrays[f"plain/{HE}/loss"],
    }
    np.testing.assert_allclose(
        verdicts.log_steps(swapped, "plain", "whitening"),
        -verdicts.log_steps(arrays, "plain", "whitening"),
    )


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"whitening, frozen": 1.1}, "SmallCNN, whitening, frozen minus He"),
        ({"whitening": 1.05}, "SmallCNN, whitening minus He"),
        ({"whitening, mixed": 0.8}, "batch norm, whitening, mixed minus He"),
        ({"t = 100": 0.4}, f"SmallCNN, t = 100 minus {REGULARISED}"),
        ({REGULARISED: 1.0}, f"He's, SmallCNN with batch norm, {REGULARISED}"),
        ({"t = 1,000": 1.1}, "log of steps over He's, SmallCNN, t = 1,000"),
    ],
)
def test_a_wrong_array_fails_its_check(gains: dict, expected: str) -> None:
    assert not failing(initialisation.summary(fake()))
    titles = failing(initialisation.summary(fake(gains)))
    assert any(expected in title for title in titles), titles


def test_results_table_and_figure(tmp_path: Path) -> None:
    summary = initialisation.summary(fake())
    assert len(summary["checks"]) == 14
    assert {check.written for check in summary["checks"]} == {"before"}
    rows = summary["results"]
    assert len(rows) == 20
    assert rows[0]["arm"] == HE
    assert rows[0]["difference"] == {"mean": 0, "error": 0}
    assert rows[0]["steps"]["mean"] == 1
    assert [row["at_the_edge"] for row in rows[:3]] == [True, False, True]
    assert {row["arm"] for row in rows} >= {f"{REGULARISED} 0.01", "whitening, mixed"}
    table = initialisation.table(summary)
    assert {len(column) for column in table.columns.values()} == {20}
    draw_in_style(initialisation.draw, tmp_path, fake())
    assert {file.name for file in tmp_path.iterdir()} == {
        "initialisation.png",
        "initialisation.pdf",
    }
