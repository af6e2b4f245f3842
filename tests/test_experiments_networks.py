"""The experiments on trained networks: end to end at a small size, and their numbers against explicit ones."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linear_cnn
import theory
from experiments import (
    catalogue,
    consistency,
    decorrelation,
    energy_labels,
    formula_fit,
    frozen_first_layer,
    networks,
    random_labels,
    runs,
    spectral_scaling,
    store,
)
from experiments.runs import Network

EXPERIMENTS = {
    "formula_fit": formula_fit,
    "consistency": consistency,
    "random_labels": random_labels,
    "frozen_first_layer": frozen_first_layer,
    "decorrelation": decorrelation,
    "energy_labels": energy_labels,
    "spectral_scaling": spectral_scaling,
}


# --- end to end ---


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all these experiments with the smoke preset."""
    out = tmp_path_factory.mktemp("results")
    for module in EXPERIMENTS.values():
        module.main(module.Settings(preset="smoke", out=out))
    return out


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cnn, "train_seeds", lambda *args, **arguments: pytest.fail("trained again"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_files(out: Path, name: str) -> None:
    folder = out / name / "photographs"
    files = {"config.json", "arrays.npz", "summary.json", f"{name}.png", f"{name}.pdf"}
    assert {file.name for file in folder.iterdir()} == files
    with Image.open(folder / f"{name}.png") as picture:
        assert min(picture.size) > 400
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert settings["preset"] == "smoke"
    assert settings["images"] == networks.PRESETS["smoke"]["images"]
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    own = {"slopes", "slopes_over_training", "closed_form_over_training"}
    assert summary.keys() - own == {"results", "checks", "runs", "differs_from_paper"}
    assert all(set(row) - {"paper"} == {"check", "value", "bound", "passed"} for row in summary["checks"])
    epochs = 2 if name == "frozen_first_layer" else 3
    assert f"epochs {epochs} (paper: 30)" in "\n".join(summary["differs_from_paper"])


@pytest.mark.slow
def test_runs_are_shared(out: Path) -> None:
    """All classes and a pair; another width and another network; shuffled labels; each experiment's own."""
    # Frozen VGG11; VGG13 twice; two components' labels; unscaled and scaled patches.
    assert len(list((out / "runs").iterdir())) == 5 + 3 + 2 + 2
    shared = {
        ("formula_fit", "all"): [("consistency", "base"), ("random_labels", "true"), ("decorrelation", "base")],
        ("random_labels", "shuffled"): [("energy_labels", "shuffled")],
        ("consistency", "other"): [("frozen_first_layer", "learnt/11"), ("decorrelation", "other")],
    }

    def run(experiment: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        arrays = store.read_arrays(out / experiment / "photographs" / "arrays.npz")
        return arrays[f"{name}/conv1"], arrays[f"{name}/config"]

    for first, others in shared.items():
        for other in others:
            for mine, its in zip(run(*first), run(*other), strict=True):
                np.testing.assert_array_equal(mine, its)


@pytest.mark.slow
def test_a_frozen_first_layer_stays(out: Path) -> None:
    arrays = store.read_arrays(out / "frozen_first_layer" / "photographs" / "arrays.npz")
    for depth in (11, 13):
        frozen, learnt = (arrays[f"{kind}/{depth}/conv1"] for kind in ("frozen", "learnt"))
        np.testing.assert_array_equal(frozen, np.broadcast_to(learnt[:, :1], frozen.shape))  # from the same weights
        assert (learnt[:, -1] != learnt[:, 0]).any()
        np.testing.assert_array_equal(arrays[f"frozen/{depth}/loss"][:, 0], arrays[f"learnt/{depth}/loss"][:, 0])


@pytest.mark.slow
def test_autocorrelation_of_the_trained_layer_measured_by_convolution(out: Path) -> None:
    arrays = store.read_arrays(out / "decorrelation" / "photographs" / "arrays.npz")
    settings = networks.resolve(decorrelation.Settings(preset="smoke", out=out))
    data = runs.load(networks.base_run(settings))
    pixels = data.images.astype(np.float64) * data.std + data.mean
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    own = data.images - data.images.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    kernel = arrays["base/conv1"].astype(np.float64)

    def along_components(profile):
        return (arrays["base/components"] * profile).reshape(3, 3, 3, 27)

    banks = {
        "change": kernel[1, -1] - kernel[1, 0],
        "weights": kernel[1, -1],
        "likelihood": along_components(arrays["base/likely/change/profile"][1, -1]),
        "correlation": along_components(arrays["base/fit/change/profile"][1, -1]),
        "whitening": along_components(1 / np.sqrt(arrays["base/variance"])),
        "random": along_components(1),
        "rgb": np.eye(3)[None, None],
    }
    for convention, images, center in (
        (decorrelation.OURS, data.images.astype(np.float64), True),
        ("pixels in [0, 1], mean kept", pixels, False),
        ("the mean of each image subtracted", own, True),
    ):
        if center:
            images = images - images.mean(axis=(0, 1, 2))
        for name, filters in banks.items():
            size = 33 - len(filters)
            windows = [
                images[:, i : i + size, j : j + size] @ filters[i, j]
                for i in range(len(filters))
                for j in range(len(filters))
            ]
            z = sum(windows)
            z = z - z.mean(axis=(0, 1, 2)) if center else z
            down, across = (
                np.mean(np.sum(a * b, axis=-1)) for a, b in ((z[:, 5:], z[:, :-5]), (z[:, :, 5:], z[:, :, :-5]))
            )
            expected = (down + across) / 2 / np.mean(np.sum(z**2, axis=-1))
            found = arrays[f"{convention}/{name}"]
            assert found.shape == ({"rgb": 1, "whitening": 1, "random": 100}.get(name, 3), 16)
            np.testing.assert_allclose(found[:, 0], 1)
            if name == "random":  # such a bank responds as the patches do, up to chance
                np.testing.assert_allclose(found[:, 5].mean(), expected, atol=0.02)
                assert len(np.unique(found[:, 5])) == 100
            else:
                np.testing.assert_allclose(found[1 if len(found) > 1 else 0, 5], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_closed_form_is_held_against_every_network(out: Path) -> None:
    arrays = store.read_arrays(out / "decorrelation" / "photographs" / "arrays.npz")
    for curve in CURVES:
        last = arrays[f"base/curve/{curve}"][:, -1]
        np.testing.assert_array_equal(last, arrays[f"{decorrelation.OURS}/{curve}"])
    images = runs.load(networks.base_run(networks.resolve(decorrelation.Settings(preset="smoke", out=out)))).images
    spectrum, moments = theory.patch_spectrum(images, 3), theory.cross_moments(images, 3, range(16))
    profiles = (1 - np.exp(-np.outer(decorrelation.TIMES, spectrum.variance / spectrum.variance[0]))) / np.sqrt(
        spectrum.variance
    )
    expected = theory.autocorrelation(theory.filters_with_profile(profiles, spectrum), moments)
    np.testing.assert_allclose(arrays["closed_form"], expected, rtol=0, atol=1e-6)
    for name in ("base_8", "other"):
        weights = arrays[f"{name}/conv1"].astype(np.float64)
        change = weights[:, 1:] - weights[:, :1]
        profile, filters = theory.energy_profile(change, spectrum.components), {"change": change}
        for criterion in decorrelation.CRITERIA:
            fit = theory.fit_profile(profile, spectrum.variance, criterion=criterion)
            filters[criterion] = theory.filters_with_profile(fit.profile, spectrum)
        for curve in CURVES:
            expected = theory.autocorrelation(filters[curve], moments)
            np.testing.assert_allclose(arrays[f"{name}/curve/{curve}"], expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("no_training")
def test_nothing_is_trained_twice(out: Path, tmp_path: Path, capsys, name: str) -> None:
    module = EXPERIMENTS[name]
    module.main(module.Settings(preset="smoke", out=tmp_path, store=out / "runs"))
    printed = capsys.readouterr().out.splitlines()
    first, again = (folder / name / "photographs" for folder in (out, tmp_path))
    assert (first / "summary.json").read_bytes() == (again / "summary.json").read_bytes()
    assert (first / f"{name}.png").read_bytes() == (again / f"{name}.png").read_bytes()
    (again / f"{name}.png").unlink()
    module.main(module.Settings(preset="smoke", out=tmp_path, store=tmp_path / "none", redraw=True))
    assert (first / f"{name}.png").read_bytes() == (again / f"{name}.png").read_bytes()
    table = capsys.readouterr().out.splitlines()
    assert printed[-len(table) :] == table
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_fresh_trains_again(out: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(out / "runs")
    # As far as the first training: nothing else is thrown away.
    before = {place.name for place in (out / "runs").iterdir()}
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        random_labels.main(random_labels.Settings(preset="smoke", out=tmp_path, fresh=True))
    left = {place.name for place in (out / "runs").iterdir() if (place / "config.json").exists()}
    assert len(before - left) == 1
    config = store.read_arrays(out / "random_labels" / "photographs" / "arrays.npz")["true/config"]
    assert before - left == {runs.identifier(json.loads(str(config)))}


# --- numbers ---

COMPONENTS = np.linalg.qr(np.random.default_rng(5).normal(size=(27, 27)))[0]
VARIANCE = np.geomspace(10, 1e-4, 27)
EPOCHS = {"base": (0, 1, 2, 3), "base_32": (0, 1, 2, 3), "other": (0, 1, 2)}
CONFIG = {
    "network": {"name": "VGG", "depth": 11, "width": 1.0, "first_features": 64, "dropout": 0.5, "features": None},
    "dataset": "cifar10", "images": 50_000, "classes": None, "shuffled_labels": None, "batch_size": 256,
    "energy_component": None, "scaled_component": None, "frozen": [],
    "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0, "epochs": 30,
}  # fmt: skip


def fake_run(name: str, seed: int, records: tuple[int, ...], **changes) -> dict[str, np.ndarray]:
    """A run of 3 networks as `networks.measure` gives it; their change is the formula at time 3 up to 2 %."""
    random = np.random.default_rng(seed)
    formula = -np.expm1(-3 * VARIANCE) / np.sqrt(VARIANCE)
    growth = np.array(records)[:, None] * formula * (1 + 0.02 * random.normal(size=(3, len(records), 27)))
    # Initial profiles are not correlated with it.
    direction = (formula - formula.mean()) / np.linalg.norm(formula - formula.mean())
    noise = 0.1 * random.normal(size=(3, 1, 27))
    initial = 1 + noise - (noise @ direction)[..., None] * direction
    accuracy = np.linspace(0.1, 0.95, len(records))
    arrays = {
        "config": np.array(json.dumps(CONFIG | changes)),
        "epochs": np.array(records),
        "conv1": random.normal(size=(3, len(records), 3, 3, 3, 64)),
        "accuracy": np.tile(accuracy, (3, 1)),
        "variance": VARIANCE,
        "components": COMPONENTS,
        "change": growth,
        "weights": np.hypot(growth, initial),
    }
    return {f"{name}/{key}": value for key, value in arrays.items()}


def fake_consistency() -> dict[str, np.ndarray]:
    network = CONFIG["network"]
    arrays = fake_run("base", 0, EPOCHS["base"])
    arrays |= fake_run("base_32", 1, EPOCHS["base_32"], network=network | {"first_features": 32})
    return arrays | fake_run("other", 2, EPOCHS["other"], network=network | {"name": "ResNet", "depth": 18})


def fake_random_labels() -> dict[str, np.ndarray]:
    arrays = fake_run("true", 0, (0, 1, 2)) | fake_run("shuffled", 1, (0, 1, 2, 5), shuffled_labels=0, epochs=100)
    return arrays | networks.fits(arrays, "true") | networks.fits(arrays, "shuffled")


def fake_formula_fit() -> dict[str, np.ndarray]:
    arrays = fake_run("all", 0, (0, 1, 2)) | fake_run("dog,frog", 1, (0, 1, 2), classes=["dog", "frog"], images=10_000)
    arrays |= networks.fits(arrays, "all") | networks.fits(arrays, "dog,frog")
    return arrays | {"random/correlation": np.full(20, 0.27), "random/time": np.ones(20)}


def fake_frozen() -> dict[str, np.ndarray]:
    """Gaps of 0.3, 0.1 and 0.0 at the end, each up to 0.01."""
    arrays = {"depths": np.array([11, 13, 19])}
    for depth, gap in ((11, 0.3), (13, 0.1), (19, 0.0)):
        for kind, loss in (("learnt", 0.5), ("frozen", 0.5 + gap)):
            network = CONFIG["network"] | {"depth": depth}
            frozen = ["conv1"] if kind == "frozen" else []
            arrays |= fake_run(f"{kind}/{depth}", depth, (0, 1, 2), network=network, frozen=frozen)
            losses = np.array([[2.3, 1.0, loss], [2.3, 1.0, loss + 0.01 * (kind == "frozen")], [2.3, 1.0, loss]])
            measures = {"loss": losses, "validation_loss": 2 * losses, "validation_accuracy": 0.1 * losses}
            arrays |= {f"{kind}/{depth}/{name}": values for name, values in measures.items()}
    return arrays


def fake_decorrelation() -> dict[str, np.ndarray]:
    distances = np.arange(16)
    other = CONFIG["network"] | {"name": "ResNet", "depth": 18}
    arrays = fake_run("base", 0, (0, 1, 2)) | fake_run("other", 1, (0, 1, 2), network=other) | {"distances": distances}
    for name, rates in (("base", (0.18, 0.165)), ("other", (0.16, 0.175))):
        change = np.exp(-0.17 * distances) * [[0.99], [1], [1.01]]
        arrays[f"{name}/curve/change"] = np.stack([change, change], axis=1)
        for criterion, rate in zip(decorrelation.CRITERIA, rates, strict=True):
            formula = np.exp(-rate * distances) * [[1], [1], [1]]
            arrays |= networks.fits(arrays, name, criterion)
            arrays[f"{name}/curve/{criterion}"] = np.stack([change * 0.9, formula], axis=1)
    arrays["closed_form"] = np.exp(-np.geomspace(0.02, 2, 241)[:, None] * distances)
    rates = {
        "rgb": 0.1,
        "random": 0.11,
        "weights": 0.16,
        "change": 0.17,
        "likelihood": 0.18,
        "correlation": 0.165,
        "whitening": 2,
    }
    for convention in decorrelation.conventions(runs.Data(*np.ones((2, 1, 2, 2, 3)), None, (), "", *np.ones((2, 3)))):
        arrays |= {f"{convention}/{name}": np.exp(-rate * distances)[None] for name, rate in rates.items()}
    return arrays


def fake_energy_labels() -> dict[str, np.ndarray]:
    arrays = fake_run("shuffled", 0, (0, 1, 2), shuffled_labels=0, epochs=100)
    for component in (5, 27):
        arrays |= fake_run(str(component), component, (0, 1, 2), energy_component=component)
    arrays["27/change"] = arrays["27/change"][:, :, ::-1]  # the formula leaves component 27 weak
    return arrays


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
        found = {"fit": np.full(3, 0.97), "fit_unscaled": np.full(3, 0.8), "labels": np.full((10, 27), -0.05)}
        found |= {"profile": arrays[f"{name}/change"][:, -1], "formula": arrays[f"{name}/change"][:, -1]}
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    return arrays


FAKES = {
    "formula_fit": fake_formula_fit,
    "consistency": fake_consistency,
    "random_labels": fake_random_labels,
    "frozen_first_layer": fake_frozen,
    "decorrelation": fake_decorrelation,
    "energy_labels": fake_energy_labels,
    "spectral_scaling": fake_spectral_scaling,
}
OURS = decorrelation.OURS
SLOPE = "slope of the gap in training loss at the end against depth"
CURVES = ("change", "likelihood", "correlation")  # of every run
LIKELY = "closed form at its most likely time against the trained change: largest difference, "
BEST = "closed form at the time of the best correlation against the trained change: largest difference, "


def failing(name: str, arrays: dict[str, np.ndarray]) -> set[str]:
    return {row["check"] for row in EXPERIMENTS[name].summary(arrays)["checks"] if not row["passed"]}


@pytest.mark.parametrize(
    ("name", "field", "change", "expected"),
    [
        ("formula_fit", "all/fit/change/correlation", lambda r: r * 0.93, "fit, VGG11, 64 filters"),
        ("formula_fit", "all/fit/change/zero", lambda r: r + 1, "fit above lambda and 1 / lambda alone, VGG11, 64 f"),
        ("formula_fit", "dog,frog/fit/change/infinity", lambda r: r + 2, "fit above lambda and 1 / lambda alone, VGG"),
        ("formula_fit", "dog,frog/fit/change/correlation", lambda r: r * 0.905, "fit, VGG11, 64 filters, dog / frog"),
        ("formula_fit", "random/correlation", lambda r: r + 0.1, "fit to 20 banks of random filters"),
        ("formula_fit", "dog,frog/accuracy", lambda a: a - [[0], [0], [0.1]], "lowest training accuracy, VGG11, 64"),
        ("consistency", "base/change", lambda e: e[:, :, ::-1] * [[[1]], [[0]], [[0]]] + e, "across seeds"),
        ("consistency", "base_32/change", lambda e: e[:, :, ::-1], "across widths of the first layer (64, 32 filters)"),
        ("consistency", "other/change", lambda e: e[:, :, ::-1], "VGG11 against ResNet18"),
        ("consistency", "base/weights", lambda e: -e[:, [3] * 4], "trained against its own initial filters"),
        ("random_labels", "shuffled/change", lambda e: e[:, :, ::-1], "true against shuffled labels"),
        ("random_labels", "shuffled/weights", lambda e: e[:, [3] * 4], "shuffled labels against its own initial"),
        ("random_labels", "true/accuracy", lambda a: a * 0, "lowest training accuracy, VGG11, 64 filters"),
        ("frozen_first_layer", "frozen/19/loss", lambda loss: loss + 0.5, "slope of the gap in training loss"),
        ("frozen_first_layer", "frozen/11/loss", lambda loss: loss - 0.5, "slope of the gap in training loss"),
        ("frozen_first_layer", "frozen/19/loss", lambda loss: loss + 0.2, f"{SLOPE}, plus its standard error"),
        ("decorrelation", f"{OURS}/random", lambda c: c * 0.9, "RGB and random filters"),
        ("decorrelation", f"{OURS}/random", lambda c: c * 0.7, "random filters above the trained layer"),
        ("decorrelation", f"{OURS}/weights", lambda c: c + 0.2, "random filters above the trained layer"),
        ("decorrelation", f"{OURS}/whitening", lambda c: c + 0.5, "trained layer above whitening"),
        ("decorrelation", "base/curve/likelihood", lambda c: c + 0.08 * (np.arange(16) == 15), LIKELY + "VGG11, 64 f"),
        ("decorrelation", "other/curve/likelihood", lambda c: c - 0.08 * (np.arange(16) == 2), LIKELY + "ResNet18, 64"),
        ("decorrelation", "other/curve/correlation", lambda c: c + 0.08 * (np.arange(16) == 2), BEST + "ResNet18, 64"),
        ("energy_labels", "27/change", lambda e: e[:, :, ::-1], "labels by component 27 against shuffled labels"),
        ("energy_labels", "5/accuracy", lambda a: a - 0.1, "lowest training accuracy, VGG11, 64 filters, labels by"),
        ("spectral_scaling", "3 x 5/fit", lambda r: r - 0.1, "fit of the formula, component 3 x 5"),
        ("spectral_scaling", "unscaled/fit", lambda r: r - 0.1, "fit of the formula, no component scaled"),
    ],
)  # fmt: skip
def test_a_wrong_array_fails_its_check(name: str, field: str, change, expected: str) -> None:
    arrays = FAKES[name]()
    assert not failing(name, arrays)
    wrong = arrays | {field: change(arrays[field])}
    assert any(check.startswith(expected) for check in failing(name, wrong))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_correlations_of_pairs() -> None:
    arrays = fake_consistency()
    for kind in networks.KINDS:
        base, other = arrays[f"base/{kind}"], arrays[f"other/{kind}"]
        epochs, within = networks.correlations(arrays, "base", "base", kind)
        assert epochs.tolist() == [0, 1, 2, 3]
        expected = [correlation(base[i, 3], base[j, 3]) for i, j in itertools.combinations(range(3), 2)]
        np.testing.assert_allclose(within[:, 3], expected)
        # The other run is over after two epochs.
        epochs, between = networks.correlations(arrays, "base", "other", kind)
        assert epochs.tolist() == [0, 1, 2, 3]
        pairs = list(itertools.product(range(3), range(3)))
        for column, (mine, its) in enumerate(((1, 1), (2, 2), (3, 2)), start=1):
            np.testing.assert_allclose(
                between[:, column], [correlation(base[i, mine], other[j, its]) for i, j in pairs]
            )
    assert np.isnan(networks.correlations(arrays, "base", "base", "change")[1][:, 0]).all()
    initial = networks.to_initial(arrays, "base")
    np.testing.assert_allclose(
        initial[:, 3], [correlation(arrays["base/change"][i, 3], arrays["base/weights"][i, 0]) for i in range(3)]
    )


@pytest.mark.parametrize(
    ("one", "other", "epochs"),
    [
        ((0, 1, 2, 3, 5), (0, 1, 2, 3, 5), [0, 1, 2, 3, 5]),
        ((0, 1, 2, 3, 4), (0, 1, 2, 3, 5, 7), [0, 1, 2, 3, 5, 7]),  # 4 has no partner but the end has
        ((0, 1, 7), (0, 1, 2, 3), [0, 1, 7]),
    ],
)
def test_epochs_at_which_runs_are_compared(one, other, epochs) -> None:
    arrays = fake_run("a", 0, one) | fake_run("b", 1, other)
    found, values = networks.correlations(arrays, "a", "b")
    assert found.tolist() == epochs
    np.testing.assert_allclose(values[0, -1], correlation(arrays["a/change"][0, -1], arrays["b/change"][0, -1]))
    for epoch, value in zip(found[1:], values[0, 1:], strict=True):
        rows = [times.index(min(epoch, times[-1])) for times in (one, other)]
        expected = correlation(arrays["a/change"][0, rows[0]], arrays["b/change"][0, rows[1]])
        np.testing.assert_allclose(value, expected)


def test_summary_of_the_fits() -> None:
    arrays = fake_formula_fit()
    summary = formula_fit.summary(arrays)
    row = summary["results"][0]
    fits = [theory.fit_profile(profile, VARIANCE) for profile in arrays["all/change"][:, -1]]
    values = [float(fit.correlation) for fit in fits]
    assert row["correlation"]["mean"] == pytest.approx(np.mean(values))
    assert row["correlation"]["std"] == pytest.approx(np.std(values) * math.sqrt(3 / 2))
    assert row["correlation"]["count"] == 3
    alone = [correlation(profile, np.sqrt(VARIANCE)) for profile in arrays["all/change"][:, -1]]
    assert row["lambda_alone"]["mean"] == pytest.approx(np.mean(alone))
    assert row["inverse_lambda_alone"]["mean"] == pytest.approx(
        np.mean([correlation(profile, 1 / np.sqrt(VARIANCE)) for profile in arrays["all/change"][:, -1]])
    )
    assert row["time"] == pytest.approx([3] * 3, rel=0.2)
    low, high = row["time_interval_95"]
    assert low < np.exp(np.mean(np.log(row["time"]))) < high
    assert np.isnan(arrays["all/fit/change/correlation"][:, 0]).all()
    weights = arrays["all/fit/weights/correlation"]
    np.testing.assert_allclose(weights[2, 0], theory.fit_profile(arrays["all/weights"][2, 0], VARIANCE).correlation)
    assert summary["differs_from_paper"] == []


def test_slope_of_the_gap() -> None:
    arrays = fake_frozen()
    points = [(depth, gap + extra) for depth, gap in ((11, 0.3), (13, 0.1), (19, 0.0)) for extra in (0, 0.01, 0)]
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
    assert over_training["validation_loss"]["slope"] == pytest.approx([0, 2 * coefficients[0]], abs=1e-12)


def test_rows_of_a_frozen_first_layer() -> None:
    arrays = fake_frozen()
    summary = frozen_first_layer.summary(arrays)
    for row, depth, gap in zip(summary["results"], (11, 13, 19), (0.3, 0.1, 0), strict=True):
        assert row["depth"] == depth
        gap += 0.01 / 3
        for measure, times in (("loss", 1), ("validation_loss", 2), ("validation_accuracy", 0.1)):
            found = {part: row[measure][part]["mean"] for part in ("learnt", "frozen", "gap")}
            assert found == pytest.approx({"learnt": times * 0.5, "frozen": times * (0.5 + gap), "gap": times * gap})
    found, strict = summary["checks"]  # not whether training images are learnt
    slope = summary["slopes"]["loss"]
    assert found["value"] == slope["slope"] < 0
    assert strict["value"] == pytest.approx(slope["slope"] + slope["standard_error"])
    columns = frozen_first_layer.table(summary).columns
    assert columns["network"] == ["VGG11", "VGG13", "VGG19", "slope of the gap a layer"]
    assert columns["training loss, learnt"] == ["0.500 ± 0.000"] * 3 + [""]
    for heading, measure in (("gap", "loss"), ("gap in validation loss", "validation_loss")):
        slope = summary["slopes"][measure]
        gaps = [networks.number(row[measure]["gap"]) for row in summary["results"]]
        assert columns[heading] == [*gaps, f"{slope['slope']:+.4f} ± {slope['standard_error']:.4f}"]


@pytest.mark.parametrize("seed", range(12))
def test_checks_of_the_autocorrelation(seed: int) -> None:
    """Of mean curves: of the differences in the order at 2 pixels and more, of the closed form at every distance."""
    arrays = fake_decorrelation()
    random = np.random.default_rng(seed)
    arrays |= {f"{OURS}/{name}": random.normal(size=(3, 16)) for name in decorrelation.TITLES}
    of_runs = list(itertools.product(("base", "other"), CURVES))
    arrays |= {f"{run}/curve/{curve}": random.normal(size=(3, 2, 16)) for run, curve in of_runs}
    rgb, banks, weights, change, whitening = (
        arrays[f"{OURS}/{name}"].mean(axis=0) for name in ("rgb", "random", "weights", "change", "whitening")
    )
    curves = {place: arrays["{}/curve/{}".format(*place)][:, -1].mean(axis=0) for place in of_runs}
    far = range(2, 16)
    expected = [
        max(abs(rgb[d] - banks[d]) for d in far),
        min(banks[d] - max(weights[d], change[d]) for d in far),
        min(min(weights[d], change[d]) - whitening[d] for d in far),
        *(
            max(abs(curves[run, criterion] - curves[run, "change"]))
            for criterion in ("likelihood", "correlation")
            for run in ("base", "other")
        ),
    ]
    *checks, one, two = decorrelation.summary(arrays)["checks"]
    assert [row["value"] for row in checks] == pytest.approx(expected)
    assert [row["bound"] for row in checks] == ["<= 0.05", "> 0", "> 0", *["<= 0.05"] * 4]
    titles = [LIKELY + "VGG11, 64 filters", LIKELY + "ResNet18, 64 filters"]
    assert [row["check"] for row in checks[3:]] == titles + [title.replace(LIKELY, BEST) for title in titles]
    for row, title in ((one, "VGG11, 64 filters"), (two, "ResNet18, 64 filters")):
        assert row["check"] == f"lowest training accuracy, {title}"


@pytest.mark.parametrize(("largest", "shown"), [(15, [1, 2, 5, 10, 15]), (7, [1, 2, 5])])
def test_rows_of_the_autocorrelation(largest: int, shown: list[int]) -> None:
    arrays = fake_decorrelation()
    for number, key in enumerate(arrays):
        if "/curve/" in key:
            of_each = np.array([1, 0.9, 0.6])[:, None, None]
            arrays[key] = (arrays[key] * of_each / (2 + number))[..., : largest + 1]
        elif key == "closed_form":
            arrays[key] = arrays[key][:, : largest + 1]
        elif not key.startswith(("base/", "other/", "distances")):
            arrays[key] = np.concatenate([arrays[key], arrays[key] / (2 + number)])[..., : largest + 1]
    arrays["distances"] = np.arange(largest + 1)
    summary = decorrelation.summary(arrays)
    rows, names = summary["results"], decorrelation.TITLES
    conventions = list(dict.fromkeys(row["convention"] for row in rows))
    assert conventions[0] == OURS
    papers = {OURS: decorrelation.PAPER}
    places = [
        (f"{convention}/{name}", convention, names[name], papers.get(convention, {}).get(name))
        for convention, name in itertools.product(conventions, names)
    ]
    others = {name: f"{names[name]}, ResNet18, 64 filters" for name in CURVES}
    places += [(f"other/curve/{name}", OURS, title, None) for name, title in others.items()]
    for row, (key, convention, title, paper) in zip(rows, places, strict=True):
        found = (row["convention"], row["curve"], row["distances"], row["paper"])
        assert found == (convention, title, shown, paper)
        values = arrays[key][:, -1] if "/curve/" in key else arrays[key]
        expected = values[:, shown].mean(axis=0)
        assert [cell["mean"] for cell in row["autocorrelation"]] == pytest.approx(expected)
    columns = decorrelation.table(summary).columns
    assert columns["at 5"] == [networks.number(row["autocorrelation"][2]) for row in rows]


def test_the_closed_form_over_training() -> None:
    """Of the mean over networks, where it is largest, with the standard error there; and for one network none."""
    arrays = fake_decorrelation()
    arrays |= {"distances": np.arange(3), "base/curve/change": np.zeros((3, 2, 3))}
    arrays["base/curve/likelihood"] = np.array(
        [[[0.3, -0.1, 0], [0, 0.2, 0.5]], [[-0.3, -0.2, 0], [0, 0, 0.2]], [[0.3, -0.6, 0], [0, 0.1, 0.2]]]
    )
    arrays["base/curve/correlation"] = 2 * arrays["base/curve/likelihood"]
    arrays["base/accuracy"] = np.array([[0.1, 0.5, 0.9], [0.1, 0.6, 1], [0.1, 0.4, 0.8]])
    for name in CURVES:
        arrays[f"other/curve/{name}"] = arrays[f"base/curve/{name}"][:1]
    arrays["other/change"] = arrays["other/change"][:1]
    arrays["closed_form"] = arrays["closed_form"][:, :3]
    for key in [key for key in arrays if "/" in key and "curve" not in key and arrays[key].shape[-1:] == (16,)]:
        arrays[key] = arrays[key][..., :3]
    arrays["base/likely/change/time"] = np.array([[np.nan, 1, 2], [np.nan, 3, 7], [np.nan, 8, 3]])
    arrays["base/fit/change/time"] = arrays["base/likely/change/time"] / 4
    arrays["base/variance"] = np.array([4.0, 1])
    arrays["base/change"] = np.array([2, 3, 5])[:, None, None] * np.array([[0, 9], [1, 9], [2, 9]])
    errors = [np.std(three, ddof=1) / 3**0.5 for three in ([0.1, 0.2, 0.6], [0.5, 0.2, 0.2])]
    first, other = decorrelation.summary(arrays)["closed_form_over_training"]
    assert (first["run"], first["epochs"]) == ("VGG11, 64 filters", [1, 2])
    assert first["training_accuracy"] == pytest.approx([0.5, 0.9])
    for criterion, time, factor in (("likelihood", 1, 1), ("correlation", 1 / 4, 2)):
        times, largest = decorrelation.by_time(arrays, criterion)["base"]
        np.testing.assert_array_equal(times, time * np.array([[4, 8], [12, 28], [32, 12]]))
        np.testing.assert_array_equal(largest, factor * np.array([[0.3, 0.5], [-0.3, 0.2], [-0.6, 0.2]]))
        assert first[criterion]["median_time_times_first_variance"] == [12 * time, 12 * time]
        assert first[criterion]["largest_difference"] == pytest.approx([0.3 * factor, 0.3 * factor])
        assert first[criterion]["standard_error"] == pytest.approx(np.array(errors) * factor)
        assert other[criterion]["largest_difference"] == pytest.approx([0.3 * factor, 0.5 * factor])
        assert other[criterion]["standard_error"] == [None, None]


def test_the_closed_form_at_times_that_are_not_fitted() -> None:
    """Of the times at which the profile is fitted about as well as it can be, the one that fits the curve best."""
    arrays, times = fake_decorrelation(), decorrelation.TIMES
    variance = arrays["base/variance"]
    profiles = (1 - np.exp(-times[:, None] * variance / variance[0])) / np.sqrt(variance)
    np.testing.assert_allclose(decorrelation.closed_form(variance), profiles, rtol=1e-10)  # 1 - exp cancels here
    arrays["base/change"][:, -1] = profiles[[100, 110, 120]] * [[1], [2], [0.1]]  # exactly the formula's
    curves = np.exp(-np.linspace(0.1, 0.6, len(times))[:, None] * np.arange(16))
    arrays["closed_form"] = curves
    arrays["base/curve/change"][:, -1] = curves[[100, 108, 240]]
    correlation, difference = decorrelation.at_times(arrays)["base"]
    for network, place in enumerate((100, 110, 120)):
        expected = [np.corrcoef(profiles[place], profile)[0, 1] for profile in profiles]
        np.testing.assert_allclose(correlation[network], expected, rtol=1e-9)
    assert difference[0, 100] == 0
    assert difference[0, 99] > 0 > difference[0, 101]  # later curves are lower
    np.testing.assert_allclose(np.abs(difference[2]), np.abs(curves - curves[240]).max(axis=1))
    found = decorrelation.summary(arrays)["closed_form_over_training"][0]["times_as_good"]
    assert found["correlation_within"] == decorrelation.AS_GOOD == 0.005
    good = [correlation[network] >= 0.995 for network in range(3)]
    spans = [(np.flatnonzero(those)[0], np.flatnonzero(those)[-1]) for those in good]
    assert spans[2][1] < 240
    assert found["first_time"] == times[spans[1][0]]
    assert found["last_time"] == times[spans[1][1]]
    assert found["time_of_smallest_difference"] == times[108]  # those of the three are 100, 108 and the last good one
    assert found["smallest_difference"] == 0
    assert found["best_correlation"] == pytest.approx(1)
    assert found["correlation_there"] == pytest.approx(np.median([1, correlation[1, 108], correlation[2, spans[2][1]]]))


def test_conventions_of_the_autocorrelation() -> None:
    images = np.random.default_rng(2).normal(size=(4, 5, 6, 3)).astype(np.float32)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.1, 0.3])
    ours, pixels, own = decorrelation.conventions(runs.Data(images, np.zeros(4, int), None, (), "", mean, std)).values()
    np.testing.assert_array_equal(ours[0], images)
    np.testing.assert_allclose(pixels[0], images * std + mean, rtol=1e-6)
    np.testing.assert_allclose(own[0], [image - image.mean(axis=(0, 1)) for image in images], atol=1e-6)
    assert [center for _, center in (ours, pixels, own)] == [True, False, True]


def test_rows_of_labels_by_energy() -> None:
    """Correlations of all pairs at the end; energies of every network are relative to its own largest."""
    arrays = fake_energy_labels()
    before = energy_labels.summary(arrays)["results"]
    arrays["shuffled/change"] = arrays["shuffled/change"] * np.array([1, 10, 100])[:, None, None]
    summary = energy_labels.summary(arrays)
    shares = [profile / max(profile) for profile in arrays["shuffled/change"][:, -1]]
    for row, unscaled in zip(summary["results"], before, strict=True):
        assert row["energy_with_shuffled_labels"] == pytest.approx(unscaled["energy_with_shuffled_labels"])
        assert row["energy_with_shuffled_labels"] == pytest.approx(np.mean(shares, axis=0)[row["component"] - 1])
        for kind in networks.KINDS:
            ends = [arrays[f"{name}/{kind}"][:, -1] for name in (row["component"], "shuffled")]
            expected = [correlation(a, b) for a, b in itertools.product(*ends)]
            assert row[kind]["mean"] == pytest.approx(np.mean(expected))
            assert row[kind]["count"] == 9
    (check,) = (row for row in summary["checks"] if row["check"].startswith("labels by"))
    assert (check["value"], check["bound"]) == (summary["results"][1]["change"]["mean"], "< 0.5")
    columns = energy_labels.table(summary).columns
    assert columns["correlation of the profiles"] == [networks.number(row["change"]) for row in summary["results"]]
    energies = [f"{row['energy_with_its_own_labels']:.2f}" for row in summary["results"]]
    assert columns["with its own labels"] == energies


def test_rows_of_the_scaled_components() -> None:
    arrays = fake_spectral_scaling()
    arrays["7 x 5/labels"][3, 4] = 0.04
    summary = spectral_scaling.summary(arrays)
    rows = summary["results"]
    assert [(row["component"], row["factor"]) for row in rows] == [(1, 1), (3, 2), (3, 5), (7, 2), (7, 5)]
    for row in rows:
        assert row["fit"]["mean"] == pytest.approx(0.97)
        assert row["fit_of_the_unscaled_formula"]["mean"] == pytest.approx(0.8)
        assert row["largest_label_correlation"] == 0.05
    assert spectral_scaling.table(summary).columns["without alpha"] == ["0.800 ± 0.000"] * 5


def test_only_weak_components_are_judged() -> None:
    summary = energy_labels.summary(fake_energy_labels())
    judged = [row["check"] for row in summary["checks"] if row["check"].startswith("labels by component")]
    assert len(judged) == 1
    assert judged[0].startswith("labels by component 27 against")
    formula = -np.expm1(-3 * VARIANCE) / np.sqrt(VARIANCE)
    expected = {"with_shuffled_labels": (formula[4], formula[26]), "with_its_own_labels": (formula[4], formula[0])}
    for labels, energies in expected.items():  # those of component 27 turn the profile round
        for row, energy in zip(summary["results"], energies, strict=True):
            assert row[f"energy_{labels}"] == pytest.approx(energy / formula.max(), rel=0.05)


@pytest.mark.slow
def test_the_formula_has_the_scaled_component(out: Path) -> None:
    """Against the spectrum of the images as they are after scaling."""
    arrays = store.read_arrays(out / "spectral_scaling" / "photographs" / "arrays.npz")
    settings = networks.resolve(spectral_scaling.Settings(preset="smoke", out=out))
    run = networks.base_run(settings, network="SmallCNN", first_strides=3, scaled_component=(5, 3.0), seeds=2, epochs=3)
    images = runs.load(run).images.astype(np.float64)
    patches = images.reshape(256, 10, 3, 10, 3, 3).swapaxes(2, 3).reshape(-1, 27)
    covariance = np.cov(patches, rowvar=False, ddof=0)
    basis, variance = arrays["unscaled/components"], arrays["unscaled/variance"]
    np.testing.assert_allclose(np.diag(basis.T @ covariance @ basis), arrays["5 x 3/scaled_variance"], rtol=1e-4)
    np.testing.assert_allclose(arrays["5 x 3/scaled_variance"] / variance, np.where(np.arange(27) == 4, 9, 1))
    for name, scaled in (("unscaled", variance), ("5 x 3", arrays["5 x 3/scaled_variance"])):
        kernels = arrays[f"{name}/conv1"].astype(np.float64)
        projections = basis.T @ (kernels[:, -1] - kernels[:, 0]).reshape(2, 27, -1)
        profile = np.sqrt(np.mean(projections**2, axis=-1))
        np.testing.assert_allclose(arrays[f"{name}/profile"], profile, rtol=1e-6)
        fit = theory.fit_profile(profile, scaled)
        np.testing.assert_allclose(arrays[f"{name}/fit"], fit.correlation)
        np.testing.assert_allclose(arrays[f"{name}/formula"], fit.profile)
        np.testing.assert_allclose(arrays[f"{name}/fit_unscaled"], theory.fit_profile(profile, variance).correlation)
    assert (arrays["5 x 3/fit_unscaled"] < arrays["5 x 3/fit"]).all()
    # Labels against the components of the patches as they are.
    coefficients = (patches - patches.mean(axis=0)) @ np.linalg.eigh(covariance)[1][:, ::-1]
    one_hot = np.repeat(np.eye(6)[runs.load(run).labels], 100, axis=0)
    expected = np.corrcoef(one_hot, coefficients, rowvar=False)[:6, 6:]
    np.testing.assert_allclose(np.abs(arrays["5 x 3/labels"]), np.abs(expected), atol=1e-4)


@pytest.mark.slow
def test_profiles_are_those_of_the_kernels(out: Path) -> None:
    """Projections on the principal components of all 3x3 patches of the training images, one by one."""
    settings = networks.resolve(random_labels.Settings(preset="smoke", out=out))
    images = runs.load(networks.base_run(settings)).images.astype(np.float64)
    patches = np.stack([images[:, i : i + 30, j : j + 30] for i in range(3) for j in range(3)], axis=3)
    covariance = np.cov(patches.reshape(-1, 27), rowvar=False, ddof=0)
    variance, components = (part[..., ::-1] for part in np.linalg.eigh(covariance))
    arrays = store.read_arrays(out / "random_labels" / "photographs" / "arrays.npz")
    np.testing.assert_allclose(arrays["true/variance"], variance, rtol=1e-6)
    kernels = arrays["true/conv1"].astype(np.float64).reshape(3, -1, 27, 12)
    for kind, filters in (("change", kernels - kernels[:, :1]), ("weights", kernels)):
        profile = np.sqrt(np.mean(np.einsum("srdk,dp->srpk", filters, components) ** 2, axis=-1))
        np.testing.assert_allclose(arrays[f"true/{kind}"], profile, rtol=1e-4, atol=1e-12)
    assert arrays["true/conv1"].dtype == np.float32
    # The networks moved, and from the same initial filters with either labels.
    assert (arrays["true/change"][:, -1].max(axis=-1) > 1e-4).all()
    np.testing.assert_array_equal(arrays["true/conv1"][:, 0], arrays["shuffled/conv1"][:, 0])
    assert (arrays["true/conv1"][:, -1] != arrays["shuffled/conv1"][:, -1]).any()


def test_differences_are_computed() -> None:
    narrow = CONFIG | {"network": CONFIG["network"] | {"width": 0.25}, "images": 5_000}
    pair = CONFIG | {"classes": ["dog", "cat"], "images": 10_000, "batch_size": 32}
    found = networks.differences([narrow, pair])
    assert found == [
        "width 0.25 (paper: 1): VGG11, 64 filters",
        "images 5,000 (paper: 50,000): VGG11, 64 filters",
        "batch size 32 (paper: 256): VGG11, 64 filters, dog / cat",
    ]
    assert networks.differences([narrow | {"epochs": 30}, narrow])[0] == "width 0.25 (paper: 1)"
    assert "schedule cosine (paper: constant)" in networks.differences([narrow | {"schedule": "cosine"}])
    shuffled = CONFIG | {"shuffled_labels": 0}
    assert networks.differences([shuffled]) == ["epochs 30 (paper: 100)"]
    # No images a class are known of other data; a network of the paper's is none, and lacks what it does not have.
    assert networks.differences([CONFIG | {"dataset": "photographs", "images": 6}]) == [
        "dataset photographs (paper: cifar10)"
    ]
    residual = CONFIG["network"] | {"name": "ResNet", "depth": 18, "dropout": None}
    assert networks.differences([CONFIG | {"network": residual}]) == []
    found = networks.differences([CONFIG | {"network": residual | {"depth": 20}}])
    assert found == ["network ResNet20 (paper: VGG11)"]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, "VGG11, 64 filters"),
        ({"frozen": ["conv1"], "classes": ["dog", "cat"]}, "VGG11, 64 filters, dog / cat, first layer frozen"),
        ({"energy_component": 3}, "VGG11, 64 filters, labels by component 3"),
        ({"shuffled_labels": 0}, "VGG11, 64 filters, shuffled labels"),
        ({"scaled_component": [3, 2.5]}, "VGG11, 64 filters, component 3 x 2.5"),
        ({"scaled_component": [1, 1.0]}, "VGG11, 64 filters, no component scaled"),
        ({"network": {"name": "SmallCNN", "depth": None, "first_features": None, "features": [12, 8]}},
         "SmallCNN, 12 filters"),
    ],
)  # fmt: skip
def test_titles(changes: dict, title: str) -> None:
    assert networks.title(CONFIG | changes) == title


def test_numbers_of_a_table() -> None:
    assert networks.number({"mean": 0.91449, "std": 0.0456, "count": 3}) == "0.914 ± 0.046"
    assert networks.number({"mean": -0.5, "std": None, "count": 1}) == "-0.500"


@pytest.mark.parametrize(
    ("bounds", "value", "passed"),
    [
        ({"at_least": 1.0}, 1.0, True),
        ({"at_least": 1.0}, 0.999, False),
        ({"above": 0.0}, 0.0, False),
        ({"below": 0.0}, 0.0, False),
        ({"below": 0.0}, -1e-9, True),
        ({"at_least": -0.5, "at_most": 0.25}, 0.3, False),
        ({"at_least": -0.5, "at_most": 0.25}, -0.6, False),
        ({"at_least": -0.5, "at_most": 0.25}, 0.1, True),
        ({"at_least": 1.0}, np.nan, False),
        ({"at_most": 1.0}, 1.0, True),
        ({"at_most": 0.0}, 0.1, False),
    ],
)
def test_check(bounds: dict, value: float, passed: bool) -> None:
    assert networks.check("name", value, **bounds)["passed"] is passed


def test_what_a_check_says() -> None:
    row = networks.check("name", 0, at_least=-0.41, at_most=0)
    assert row == {"check": "name", "value": 0.0, "bound": ">= -0.41 and <= 0", "passed": True}
    assert networks.check("name", 0.3, above=0.1234, paper="more") == {
        "check": "name", "value": 0.3, "bound": "> 0.1234", "passed": True, "paper": "more",
    }  # fmt: skip


def test_accuracies_at_the_end() -> None:
    arrays = fake_run("one", 0, (0, 1, 2)) | fake_run("two", 1, (0, 1, 2), classes=["dog", "cat"], images=10_000)
    arrays["one/accuracy"] = np.array([[0.1, 0.5, 0.9], [0.2, 0.5, 1.0], [0.3, 0.5, 0.95]])
    arrays["two/accuracy"] = np.array([[1.0, 1.0, 0.95], [1.0, 1.0, 0.99], [1.0, 1.0, 0.89]])
    arrays["two/validation_accuracy"] = arrays["two/accuracy"] / 2
    summary = networks.summarize(arrays, [], [])
    assert summary["runs"] == [
        {"run": "VGG11, 64 filters", "training_accuracy": [0.9, 1.0, 0.95], "judged": True},
        {"run": "VGG11, 64 filters, dog / cat", "training_accuracy": [0.95, 0.99, 0.89], "judged": False,
         "validation_accuracy": [0.475, 0.495, 0.445]},
    ]  # fmt: skip
    assert [(row["value"], row["passed"]) for row in summary["checks"]] == [(0.9, True), (0.89, False)]
    assert networks.summarize(arrays, [], [], trained_to_the_end=False)["checks"] == []


# --- settings ---


def test_presets_complete_every_setting(tmp_path: Path) -> None:
    for (name, module), preset in itertools.product(EXPERIMENTS.items(), networks.PRESETS):
        given = catalogue.resolved(name, module.Settings(preset=preset, out=tmp_path))
        missing = [field.name for field in dataclasses.fields(given) if getattr(given, field.name) is None]
        assert set(missing) <= {"data_dir", "hold_out"}
        assert given.store == tmp_path / "runs"
    changed = networks.resolve(random_labels.Settings(preset="cpu", epochs=7, validation=0, width=1))
    assert (changed.epochs, changed.validation, changed.shuffled_epochs) == (
        7,
        0,
        networks.PRESETS["cpu"]["shuffled_epochs"],
    )
    run = networks.base_run(changed)
    assert run.record_epochs == (1, 2, 3, 5, 7)
    assert isinstance(run.network.width, float)
    assert networks.base_run(changed, epochs=8).record_epochs == (1, 2, 3, 5, 7, 8)


def test_an_experiment_with_a_preset_of_its_own() -> None:
    """Its own values go before the shared ones, for that preset alone, and what the user names before both."""
    settings = random_labels.Settings(preset="cpu", images=7)
    given = networks.resolve(settings, {"cpu": {"images": 5, "batch_size": 3}, "smoke": {"validation": 1}})
    assert given == dataclasses.replace(networks.resolve(settings), batch_size=3)
    frozen = frozen_first_layer.resolve(frozen_first_layer.Settings(batch_size=9))
    assert (frozen.images, frozen.batch_size, frozen.first_features, frozen.width) == (50_000, 9, 4, 0.25)
    assert (frozen.learning_rate, frozen.schedule) == (0.05, "cosine")
    paper = frozen_first_layer.Settings(preset="paper")
    assert frozen_first_layer.resolve(paper) == networks.resolve(paper)
    assert decorrelation.resolve(decorrelation.Settings()) == networks.resolve_several(
        decorrelation.Settings(seeds=12, other_seeds=4)
    )
    assert decorrelation.resolve(decorrelation.Settings(preset="smoke")).other_seeds == 3
    assert networks.resolve_several(consistency.Settings(seeds=7)).other_seeds == 7


def test_kinds_of_networks_differ_in_one_thing(tmp_path: Path) -> None:
    settings = consistency.Settings(preset="cpu", seeds=9, other_seeds=5, other_widths=(8, 3), out=tmp_path)
    given = networks.resolve_several(settings)
    base = networks.base_run(given)
    assert base.seeds == 9
    assert networks.several_runs(given) == {
        "base": base,
        "base_8": networks.base_run(given, seeds=5, first_features=8),
        "base_3": networks.base_run(given, seeds=5, first_features=3),
        "other": networks.base_run(given, seeds=5, network="ResNet18", epochs=20),
    }


def test_runs_and_networks_of_the_settings(tmp_path: Path) -> None:
    given = networks.resolve(random_labels.Settings(preset="cpu", seed=7, learning_rate=1, out=tmp_path))
    run = networks.base_run(given)
    assert run.network == Network("VGG", 11, 0.25, 64, 0.5)
    assert networks.base_run(given, network="ResNet20", width=1).network == Network("ResNet", 20, 1.0, 64)
    narrow = networks.base_run(given, network="SmallCNN", width=1 / 256, first_strides=3)
    assert narrow.network == Network("SmallCNN", features=(64, 1, 1), first_strides=3)
    assert networks.base_run(given, network="SmallCNN").network.features == (64, 32, 64)
    assert (run.images, run.validation, run.epochs, run.seeds, run.seed) == (2000, 500, 50, 4, 7)
    assert (run.batch_size, run.learning_rate, run.shuffled_labels, run.frozen) == (16, 1.0, None, ())
    assert isinstance(run.learning_rate, float)
    shuffled = dataclasses.replace(networks.base_run(given, epochs=90), shuffled_labels=7)
    assert networks.shuffled_run(given) == shuffled


def test_networks_to_compare_differ_in_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "measure", lambda named, settings: dict(named))
    depths = {"depths": (11, 16), "depth_seeds": (3, 1), "depth_epochs": 7}
    given = networks.resolve(frozen_first_layer.Settings(preset="cpu", out=tmp_path, **depths))
    found = frozen_first_layer.compute(given)
    assert found.pop("depths").tolist() == [11, 16]
    assert len(found) == 4
    for depth, seeds in ((11, 3), (16, 1)):
        learnt = networks.base_run(given, network=f"VGG{depth}", seeds=seeds, epochs=7)
        assert found[f"learnt/{depth}"] == learnt
        assert found[f"frozen/{depth}"] == dataclasses.replace(learnt, frozen=("conv1",))
    labels = {"energy_components": (2, 9), "energy_seeds": 5, "energy_epochs": 6, "shuffled_epochs": 8}
    given = networks.resolve(energy_labels.Settings(preset="cpu", out=tmp_path, **labels))
    by_energy = networks.base_run(given, seeds=5, epochs=6)
    assert energy_labels.compute(given) == {
        "shuffled": networks.shuffled_run(given),
        "2": dataclasses.replace(by_energy, energy_component=2),
        "9": dataclasses.replace(by_energy, energy_component=9),
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("random_labels", {"preset": "gpu"}, "--preset must be one of smoke, cpu, paper, got 'gpu'"),
        ("random_labels", {"epochs": 0}, "--epochs must be at least 1"),
        ("random_labels", {"shuffled_epochs": -1}, "--shuffled-epochs must be at least 1"),
        ("formula_fit", {"pair_epochs": 0}, "--pair-epochs must be at least 1"),
        ("consistency", {"other_epochs": 0}, "--other-epochs must be at least 1"),
        ("decorrelation", {"other_seeds": 1}, "--other-seeds must be at least 2"),
        ("random_labels", {"seeds": 1}, "--seeds must be at least 2"),
        ("random_labels", {"validation": -1}, "--validation must be at least 0"),
        ("random_labels", {"hold_out": 1}, "--hold-out must be at least 2"),
        ("random_labels", {"learning_rate": 0.0}, "--learning-rate must be positive"),
        ("random_labels", {"width": float("nan")}, "--width must be positive"),
        ("random_labels", {"dropout": 1.0}, "--dropout must be at least 0 and less than 1"),
        ("random_labels", {"images": 31}, "the batch of 32 is more than the 31 training images"),
        ("formula_fit", {"pair_images": 20}, "the batch of 32 is more than the 20 training images"),
        ("random_labels", {"images": 3000}, "3,000 images of 6 classes are 500 of each, but there are 4.* of 'astr"),
        ("random_labels", {"dataset": "cifar"}, "there is no image set 'cifar'; choose one of photographs, cifar10"),
        ("random_labels", {"dataset": "cifar10"}, "python -m experiments data cifar10"),
        ("random_labels", {"preset": "cpu", "dataset": "photographs", "images": 600}, "--hold-out"),
        ("formula_fit", {"pairs": ("coffee,cat",)}, "'cat', which is none of the class names"),
        ("formula_fit", {"pairs": ("coffee",)}, "--pairs must name two classes each, as dog,cat, got 'coffee'"),
        ("consistency", {"other_widths": (12,)}, "none twice or equal to --first-features = 12"),
        ("consistency", {"other_widths": ()}, "--other-widths must be at least one number"),
        ("frozen_first_layer", {"depths": (11,)}, "--depths must be two or more of 11, 13, 16 and 19"),
        ("frozen_first_layer", {"depths": (11, 12)}, "--depths must be two or more of 11, 13, 16 and 19"),
        ("frozen_first_layer", {"depths": (11, 13, 11)}, "--depths must be two .* and 19, none twice"),
        ("frozen_first_layer", {"depth_seeds": (3, 0)}, "--depth-seeds must have a number of networks, at least 1"),
        ("frozen_first_layer", {"depth_seeds": (3,)}, "--depth-seeds must have a number of networks"),
        ("frozen_first_layer", {"depth_seeds": (1, 1)}, "--depth-seeds must be 3 or more in all"),
        ("frozen_first_layer", {"depth_epochs": 0}, "--depth-epochs must be at least 1"),
        ("frozen_first_layer", {"validation": 0}, "--validation must be at least 1"),
        ("decorrelation", {"largest_distance": 1}, "--largest-distance must be at least 2"),
        ("decorrelation", {"largest_distance": 30}, "distances must lie between 0 and 29 pixels"),
        ("energy_labels", {"energy_components": (1, 1)}, "--energy-components must name one component or more"),
        ("energy_labels", {"energy_components": (28,)}, "patches have the components 1 to 27, got 28"),
        ("energy_labels", {"validation": 9}, "--validation must be at least 10, one a class of energies, got 9"),
        ("energy_labels", {"images": 8, "batch_size": 4}, "--images must be at least 10"),
        ("energy_labels", {"energy_components": ()}, "--energy-components must name one component or more"),
        ("energy_labels", {"energy_seeds": 0}, "--energy-seeds must be at least 1"),
        ("energy_labels", {"energy_epochs": 0}, "--energy-epochs must be at least 1"),
        ("spectral_scaling", {"scaled_components": (0,)}, "patches have the components 1 to 27, got 0"),
        ("spectral_scaling", {"factors": (1.0,)}, "--factors must be positive and finite, and not 1"),
        ("spectral_scaling", {"scaled_components": (5, 5)}, "--scaled-components must be one number or more, none"),
        ("spectral_scaling", {"factors": (3.0, float("inf"))}, "--factors must be positive and finite"),
        ("spectral_scaling", {"factors": (0.0,)}, "--factors must be positive and finite"),
        ("spectral_scaling", {"factors": (3.0, 3.0000001)}, "--factors must be one number or more, none twice"),
        ("spectral_scaling", {"factors": ()}, "--factors must be one number or more"),
        ("spectral_scaling", {"stride_network": "VGG11"}, "VGG11 needs larger images"),
        ("spectral_scaling", {"scaling_epochs": 0}, "--scaling-epochs must be at least 1"),
        ("spectral_scaling", {"scaling_seeds": 0}, "--scaling-seeds must be at least 1"),
        ("consistency", {"other_network": "SmallCNN"}, "--other-network must be another than --network = SmallCNN"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_bad_settings(tmp_path: Path, name: str, change: dict, message: str) -> None:
    module = EXPERIMENTS[name]
    settings = module.Settings(**{"preset": "smoke", "out": tmp_path, "data_dir": tmp_path / "none"} | change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        module.main(settings)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))
