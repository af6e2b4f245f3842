"""The first layer predicted: on a small network against explicit formulas, and the
verdicts on runs written by hand."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flax import nnx
from scipy import linalg

import linear_cnn
import theory
from experiments import trained
from experiments.beyond import prediction
from experiments.beyond.prediction import experiment, forms, start, verdicts
from experiments.beyond.prediction.settings import MULTIPLES, OWN_TIME, runs
from experiments.frame.experiment import draw_in_style
from experiments.trained.run import make_network
from tests.experiments.fakes import CONFIG, failing, fake_run

EPOCHS = (0, 1, 2, 3, 5, 7, 10, 15, 20)


# --- what is trained ---


def test_runs_differ_in_what_they_say() -> None:
    named = runs(prediction.PRESETS["cpu"])
    base = named["base"]
    assert base.network.dropout == 0
    assert named["images 8000"] == replace(base, images=8000)
    assert named["batch 64,0.04"] == replace(base, batch_size=64, learning_rate=0.04)
    assert named["shuffled 4000"].shuffled_labels is not None
    assert named["dropout"].network == replace(base.network, dropout=0.5)
    assert named["filters 128"].network.first_features == 128
    assert named["pair"].classes == ("dog", "cat")
    assert (named["other"].network.name, named["other"].epochs) == ("ResNet", 10)
    small = named["small"].network
    assert named["small norm"].network == replace(small, batch_norm=True)
    assert len({repr(run) for run in named.values()}) == len(named) == 16
    # Seeds that were used when the formulas were found.
    assert base.seed not in (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (128,)}, "--sizes and --shuffled-sizes must not hold --images"),
        ({"sizes": (0,)}, "--sizes must be positive numbers"),
        ({"other_widths": (12,)}, "--other-widths must not hold --first-features"),
        ({"other_network": "SmallCNN"}, "--other-network must be another than"),
        ({"dropped": 1.0}, "--dropped must be greater than 0 and less than 1"),
        ({"pair": "cat"}, "--pair must name two classes"),
        ({"batches": ("64",)}, "--batches must be batch sizes and learning rates"),
        ({"batches": ("0,0.1",)}, "--batches must be batch sizes and learning rates"),
        ({"curvature_images": 1}, "--curvature-images must be at least 2"),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(prediction, change, message)


# --- what the start predicts ---


class Small:
    """A network before its training, its images, and what is measured of it."""

    count, curvature_images = 40, 20
    times = np.array([0.3, 5.0])
    batches = (start.Batches(8, 0.01), start.Batches(6, 0.02))

    def __init__(self, *, batch_norm: bool) -> None:
        random = np.random.default_rng(0)
        images = random.normal(size=(self.count, 8, 8, 3)).cumsum(axis=2)
        labels = np.arange(self.count) % 2
        self.data = trained.Data(
            images.astype(np.float32),
            labels.astype(np.int32),
            None,
            ("one", "other"),
            "",
            np.zeros(3),
            np.ones(3),
        )
        self.kind = trained.Network("SmallCNN", features=(3, 4), batch_norm=batch_norm)
        self.network = linear_cnn.SmallCNN(
            2, features=(3, 4), batch_norm=batch_norm, rngs=nnx.Rngs(0)
        )
        self.components = np.asarray(
            theory.patch_spectrum(self.data.images, 3).components
        )
        self.found = start.at_start(
            self.network,
            self.data,
            self.kind,
            self.times,
            self.batches,
            self.components,
            self.curvature_images,
        )


@pytest.fixture(scope="module", params=[True, False])
def small(request: pytest.FixtureRequest) -> Small:
    return Small(batch_norm=request.param)


def curvature_of(small: Small) -> np.ndarray:
    """On the images that were chosen, (n, n), n = K d'."""
    chosen = trained.chosen(small.data, small.curvature_images)
    assert len(chosen) == small.curvature_images
    tangent = linear_cnn.tangent_moments(
        small.network,
        small.data.images[chosen],
        small.data.labels[chosen],
        loss="cross_entropy",
        bias=not small.kind.batch_norm,
    )
    n = tangent.drive.size
    return tangent.curvature.reshape(n, n)


def profile_of(covariance: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Of the covariance of all weights, by its definition; biases do not count."""
    d, entries = len(components), covariance.shape[0] // 3
    blocks = covariance.reshape(3, entries, 3, entries)
    energies = [
        np.einsum("ai,ab,bi->i", components, blocks[k, :d, k, :d], components)
        for k in range(3)
    ]
    return np.sqrt(np.mean(energies, axis=0))


def test_predicted_profiles(small: Small) -> None:
    h = curvature_of(small)
    inverse = linalg.pinvh(h, rtol=1e-12)
    for record, multiple in ((0, OWN_TIME), (1, OWN_TIME), (1, 3)):
        left = np.eye(len(h)) - linalg.expm(
            -small.times[record] * MULTIPLES[multiple] * h
        )
        covariance = left @ inverse @ left / small.count
        np.testing.assert_allclose(
            small.found["predicted"][record, multiple],
            profile_of(covariance, small.components),
            rtol=1e-5,
        )


def test_noise_of_each_run(small: Small) -> None:
    """After one epoch, by adding up what its steps leave."""
    h = curvature_of(small)
    values, vectors = np.linalg.eigh(h)
    for one in small.batches:
        steps = small.count // one.size  # of six images, four are left over
        nodes, weights = np.polynomial.legendre.leggauss(40)
        left = np.exp(-one.learning_rate * steps * (nodes[:, None] + 1) / 2 * values)
        each, whole = (steps / 2 * (weights[:, None] * left**p) for p in (2, 1))
        kept = each.sum(axis=0) - one.size / small.count * whole.sum(axis=0) ** 2
        kept *= one.learning_rate**2 / one.size
        covariance = (vectors * values * kept) @ vectors.T
        found = start.at_start(
            small.network,
            small.data,
            small.kind,
            np.array([one.learning_rate * steps]),
            (one,),
            small.components,
            small.curvature_images,
        )["noise"][0, 0]
        expected = profile_of(covariance, small.components)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert small.found["noise"].shape == (2, 2, 27)


def test_linearised_change_and_drive(small: Small) -> None:
    h = curvature_of(small)
    tangent = linear_cnn.tangent_moments(
        small.network,
        small.data.images,  # all of them drive
        small.data.labels,
        loss="cross_entropy",
        bias=not small.kind.batch_norm,
    )
    b, n = tangent.drive.ravel(), tangent.drive.size
    # What few images leave without curvature moves on and on, hence no inverse:
    # (Delta, 1) is moved by a linear map.
    system = np.zeros((n + 1, n + 1))
    system[:n, :n], system[:n, n] = -h, -b
    change = linalg.expm(small.times[1] * system)[:n, n].reshape(3, -1)[:, :27]
    found = small.found["linearised"][1]
    np.testing.assert_allclose(found, change, atol=1e-4 * np.abs(change).max())
    ratio = small.count * (b @ b) / np.trace(h)
    np.testing.assert_allclose(small.found["drive_ratio"], ratio, rtol=1e-6)


def test_patch_moments_and_one_number(small: Small) -> None:
    found, blocks = (
        small.found,
        curvature_of(small).reshape(3, -1, 3, 3**3 + 1 - bool(small.kind.batch_norm)),
    )
    blocks = np.einsum("kakb->kab", blocks)
    moments = found["moments"]
    cosines = [
        (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        for one, other in zip(blocks, moments, strict=True)
    ]
    np.testing.assert_allclose(found["cosines"], cosines, rtol=1e-6)
    scale = np.trace(blocks.sum(0)) / np.trace(moments.sum(0))
    whole = linalg.block_diag(*(scale * moments))
    left = np.eye(len(whole)) - linalg.expm(-small.times[1] * whole)
    covariance = left @ linalg.pinvh(whole, rtol=1e-12) @ left / small.count
    expected = profile_of(covariance, small.components)
    of_all = {key: value[None] for key, value in found.items()}
    of_all["times"] = small.times
    predicted = start.by_moments(of_all, small.count, small.components)
    np.testing.assert_allclose(predicted[0, 1], expected, rtol=1e-5)


def test_the_formula_with_one_number(small: Small) -> None:
    found = {key: value[None] for key, value in small.found.items()}
    found["times"] = small.times
    variance = np.geomspace(5, 0.1, 27)
    scale = np.trace(curvature_of(small)) / 3 / variance.sum()
    rate = scale * variance
    expected = (1 - np.exp(-small.times[1] * rate)) / np.sqrt(rate * small.count)
    predicted = start.by_trace(found, small.count, variance)[0, 1]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


def test_what_was_predicted_is_held_against_what_was_trained(small: Small) -> None:
    """A change that is the linearised one, and profiles that are those predicted."""
    linearised = small.found["linearised"]
    change = np.moveaxis(linearised, 1, 2).reshape(2, 3, 3, 3, 3)
    conv1 = np.concatenate([np.zeros((1, 3, 3, 3, 3)), change])
    predicted = small.found["predicted"][:, OWN_TIME]
    arrays = {
        "run/conv1": np.stack([conv1, 2 * conv1]),
        "run/change": np.stack([np.pad(predicted, ((1, 0), (0, 0)))] * 2),
    }
    found = {
        "linearised": np.stack([linearised] * 2),
        "predicted": np.stack([small.found["predicted"]] * 2),
        "noise": np.zeros((2, 2, 27)),
        "blocks": np.stack([predicted**2] * 2),
        "one_number": np.stack([predicted] * 2),
    }
    compared = experiment.compared(trained.MeasuredRun(arrays, "run"), found)
    np.testing.assert_allclose(compared["cosine"], 1)
    np.testing.assert_allclose(
        compared["moved"][1], 4 * (linearised**2).sum(axis=-1), rtol=1e-6
    )
    np.testing.assert_allclose(compared["correlation"][:, :, OWN_TIME], 1)
    np.testing.assert_allclose(compared["noisy_correlation"], 1)
    np.testing.assert_allclose(compared["log_ratio"], 0, atol=1e-7)
    assert (compared["correlation"][:, :, 0] < 1).all()
    assert (compared["blocks_correlation"] < 1).all()


def test_runs_that_begin_alike_are_measured_once(
    tmp_path: Any, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(prediction.PRESETS["smoke"], store=tmp_path, curvature_images=20)
    base = replace(
        runs(settings)["base"],
        network=small.kind,
        seeds=1,
        batch_size=8,
        learning_rate=0.01,
    )
    named = {
        "base": base,
        "batch": replace(base, batch_size=4, learning_rate=0.02),
        "seed": replace(base, seed=base.seed + 1),
    }
    measured, data = {}, dict.fromkeys(named, small.data)
    for name, run in named.items():
        network: Any = trained.initial_network(run, small.data, 0)
        arrays = {
            f"{name}/epochs": np.array([0, 1, 3]),
            f"{name}/conv1": np.asarray(network.conv1.kernel[...])[None, None],
            f"{name}/components": small.components,
        }
        measured[name] = trained.MeasuredRun(arrays, name)
    calls, at_start = [], start.at_start

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return at_start(*arguments)

    monkeypatch.setattr(start, "at_start", counted)
    found = dict(start.of_runs(named, data, measured, settings))
    assert len(calls) == 2
    assert set(dict(start.of_runs(named, data, measured, settings))) == set(named)
    assert len(calls) == 2  # they are kept
    fresh = replace(settings, fresh=True)
    assert set(dict(start.of_runs(named, data, measured, fresh))) == set(named)
    assert len(calls) == 4
    for name, run in named.items():
        one = found[name]
        steps = small.count // run.batch_size
        np.testing.assert_allclose(
            one["times"], run.learning_rate * steps * np.array([1, 3])
        )
        alone = at_start(
            trained.initial_network(run, small.data, 0),
            small.data,
            run.network,
            one["times"],
            [start.Batches(run.batch_size, run.learning_rate)],
            small.components,
            20,
        )
        for key in ("predicted", "linearised"):
            np.testing.assert_allclose(one[key][0], alone[key], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(one["noise"][0], alone["noise"][0], rtol=1e-5)
    other = {**measured["seed"].arrays, "seed/conv1": measured["base"].conv1}
    measured["seed"] = trained.MeasuredRun(other, "seed")
    with pytest.raises(ValueError, match="does not begin with the weights"):
        dict(start.of_runs(named, data, measured, settings))


def test_what_flows_back(small: Small) -> None:
    settings = prediction.PRESETS["smoke"]
    run = replace(runs(settings)["base"], network=small.kind, seeds=2)
    found = start.signals(run, small.data, 20)
    assert {values.shape for values in found.values()} == {(2,)}
    images = small.data.images[trained.chosen(small.data, 20)]
    network = trained.initial_network(run, small.data, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal = linear_cnn.backpropagated_signal(network, images, loss="cross_entropy")
    assert found["whiteness"][1] == pytest.approx(signal.whiteness)
    lags = signal.autocorrelation
    y, x = np.array(lags.shape) // 2
    assert lags[y, x] == pytest.approx(1)
    sides = (lags[y + 1, x] + lags[y, x + 1]) / 2
    assert found["neighbours"][1] == pytest.approx(sides)


# --- the forms ---


def test_the_form_of_noise() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(100, 27)) * np.geomspace(3, 0.03, 27)
    moment = rows.T @ rows / 100
    components = np.linalg.qr(random.normal(size=(27, 27)))[0]
    left = np.eye(27) - linalg.expm(-2 * 1.7 * moment)
    profile = np.sqrt(np.einsum("ai,ab,bi->i", components, left, components))
    fit = theory.fit_profile(profile, forms.of_noise(moment, components))
    assert float(fit.correlation) == pytest.approx(1, abs=1e-8)
    assert float(fit.time) == pytest.approx(1.7, rel=1e-3)


def test_images_that_should_do_and_that_should_not() -> None:
    random = np.random.default_rng(2)
    images = random.normal(size=(50, 16, 16, 3)).cumsum(1).cumsum(2)
    images += random.normal(size=(50, 1, 1, 3))
    data = trained.Data(images, np.zeros(50), None, ("a",), "", np.zeros(3), np.ones(3))
    other = forms.other_images(images, data)
    assert set(other) == {*forms.FAILING, *forms.HARMLESS}
    shuffled = other["shuffled pixels"]
    # The same pixels, channels together, at other places.
    for one, two in zip(images.astype(np.float32), shuffled, strict=True):
        first, second = (np.sort(a.reshape(-1, 3)[:, 0]) for a in (one, two))
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(images.astype(np.float32), shuffled)
    randomised = other["randomised phases"]
    power = [np.abs(np.fft.fft2(a, axes=(1, 2))) for a in (images, randomised)]
    np.testing.assert_allclose(power[1], power[0], atol=1e-3 * power[0].max())
    # And so the same products of channels.
    np.testing.assert_allclose(
        (randomised[..., 0] * randomised[..., 1]).mean(),
        (images[..., 0] * images[..., 1]).mean(),
        rtol=1e-3,
    )


def test_pool_and_batch_norm_of_each_network() -> None:
    kinds = {
        "VGG11": (2, True),
        "VGG13": (None, True),
        "ResNet18": (None, True),
        "SmallCNN": (2, False),
    }
    for name, expected in kinds.items():
        kind = make_network(name, 1.0, 8, 0.0)
        assert (forms.pool(kind), forms.has_batch_norm(kind)) == expected
    assert forms.has_batch_norm(replace(kind, batch_norm=True))


# --- the verdicts ---

NAMES = {
    "base": {},
    "images 4000": {"images": 4000},
    "shuffled": {"shuffled_labels": 1},
    "dropout": {"network": CONFIG["network"] | {"dropout": 0.25}},
    "other": {"network": CONFIG["network"] | {"name": "ResNet", "depth": 18}},
    "small": {
        "network": CONFIG["network"]
        | {"name": "SmallCNN", "depth": None, "first_features": None, "features": [64]}
    },
}


def fake_prediction() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    random = np.random.default_rng(3)
    records = len(EPOCHS) - 1
    for number, (name, changes) in enumerate(NAMES.items()):
        arrays |= fake_run(name, number, EPOCHS, **{"images": 2000} | changes)
        peak = np.exp(-(np.log(MULTIPLES) ** 2) / 50)
        traces = np.exp(random.normal(size=(3, 64)))
        gain = 0 if name == "small" else 0.02
        found = {
            "times": np.array(EPOCHS[1:]) * 1.25,
            "predicted": arrays[f"{name}/change"][:, 1:, None]
            * np.ones((len(MULTIPLES), 1)),
            "correlation": np.tile(0.985 * peak, (3, records, 1)),
            "moment_traces": traces,
            "traces": 3 * traces * np.exp(0.02 * random.normal(size=(3, 64))),
            "moved": np.tile(
                (traces * np.exp(0.5 * random.normal(size=(3, 64))))[:, None],
                (1, records, 1),
            ),
            "cosines": np.full((3, 64), 0.997),
            "whiteness": np.full(3, 8.0 if name == "small" else 0.9),
        }
        for key in (
            "noisy_correlation",
            "blocks_correlation",
            "one_number_correlation",
            "other_correlation",
            "cosine",
        ):
            found[key] = np.full((3, records), 0.9)
        for key in ("log_ratio", "blocks_log_ratio"):
            found[key] = np.full((3, records), 0.2)
        for key in ("drive_ratio", "trace", "border", "neighbours"):
            found[key] = np.ones(3)
        for form in forms.FITTED:
            value = 0.96 + gain * (form == forms.MOMENTS)
            found[f"{form}/correlation"] = np.full((3, records), value)
            found[f"{form}/log_ratio"] = np.full((3, records), 0.2)
            found[f"{form}/time"] = np.full((3, records), 3.0)
        for form in forms.ABLATIONS:
            found[f"{form}/last"] = np.full(3, 0.978)
        if name in ("base", "other"):
            found |= {f"{form}/last": np.full(3, 0.7) for form in forms.FAILING}
            found |= {f"{form}/last": np.full(3, 0.977) for form in forms.HARMLESS}
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    return arrays


def shuffled_filters(values: np.ndarray) -> np.ndarray:
    return values[..., ::-1]


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("base/cosines", lambda v: v - 0.01, "cosine of curvature and patch moments"),
        ("other/cosines", lambda v: v - 0.01, "cosine of curvature and patch moments"),
        ("base/traces", shuffled_filters, "correlation of their log traces, VGG11"),
        ("other/moved", shuffled_filters, "correlation of log change of single"),
        ("other/whiteness", lambda v: v + 1, "whiteness of what flows back"),
        ("small/whiteness", lambda v: v - 7, "whiteness of what flows back"),
        (
            "images 4000/correlation",
            lambda v: v - 0.02,
            "shape with nothing fitted, 4,000 images",
        ),
        (
            f"base/{forms.LAMBDA}/correlation",
            lambda v: v + 0.03,
            "nothing fitted over the formula with its time fitted",
        ),
        (
            "base/correlation",
            lambda v: np.roll(v, 8, axis=-1),
            "best multiple of the training's own time",
        ),
        (
            f"dropout/{forms.MOMENTS}/correlation",
            lambda v: v - 0.016,
            "gain of the patch moments over the formula",
        ),
        (
            f"small/{forms.MOMENTS}/correlation",
            lambda v: v + 0.016,
            "gain where what flows back is not white",
        ),
        ("base/other images/last", lambda v: v + 0.27, "patch moments of other images"),
        (
            "other/shuffled pixels/last",
            lambda v: v + 0.27,
            "patch moments of shuffled pixels",
        ),
        ("base/randomised phases/last", lambda v: v - 0.02, "randomised phases"),
        (
            f"base/{forms.ABLATIONS[-1]}/last",
            lambda v: v - 0.02,
            "patch moments, no gate",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change: Any, expected: str) -> None:
    arrays = fake_prediction()
    assert not failing(prediction.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    titles = failing(prediction.summary(wrong))
    assert any(title.startswith(expected) for title in titles), titles


def test_results_and_table() -> None:
    summary = prediction.summary(fake_prediction())
    rows = {row["name"]: row for row in summary["results"]}
    assert set(rows) == set(NAMES)
    assert rows["base"]["size"]["mean"] == pytest.approx(1)
    assert rows["base"]["predicted"]["mean"] == pytest.approx(0.985)
    assert rows["base"]["best_multiples"] == pytest.approx(
        [1] * (len(EPOCHS) - 1), rel=1e-3
    )
    assert len(rows["base"]["courses"]["predicted"]) == len(EPOCHS) - 1
    assert [row["run"] for row in rows.values()] == [
        "VGG11",
        "4,000 images",
        "shuffled labels",
        "dropout 0.25",
        "ResNet18",
        "SmallCNN",
    ]
    table = prediction.table(summary)
    assert {len(column) for column in table.columns.values()} == {len(NAMES)}


def test_a_short_run_is_not_judged() -> None:
    arrays = fake_prediction()
    short = {
        key: value[:, :2] if np.ndim(value) > 1 and value.shape[1] == 9 else value
        for key, value in arrays.items()
    }
    short |= {
        key: value[:, :1]
        for key, value in arrays.items()
        if np.ndim(value) > 1 and value.shape[1] == 8
    }
    for name in NAMES:
        short[f"{name}/epochs"] = np.array([0, 1])
        short[f"{name}/times"] = arrays[f"{name}/times"][:1]
    checks = prediction.summary(short)["checks"]
    late = [one for one in checks if "epochs 2 to 10" in one.title]
    late += [one for one in checks if "from epoch" in one.title]
    assert len(late) > 10
    assert all(np.isfinite(one.value) for one in checks)
    assert all(one.verdict == "not reached" for one in late)


def test_figures(tmp_path: Any) -> None:
    draw_in_style(prediction.draw, tmp_path, fake_prediction())
    names = {"prediction", "prediction_curvature", "prediction_amplitude"}
    assert {file.stem for file in tmp_path.glob("*.png")} == names
    assert len(list(tmp_path.glob("*.pdf"))) == 3


def test_sizes_are_in_order() -> None:
    measured = trained.measured(fake_prediction())
    assert verdicts.sizes(measured) == ["base", "images 4000"]
