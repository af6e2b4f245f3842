"""Autocorrelations of the first layer's responses, on curves written by hand."""

import itertools

import numpy as np
import pytest

import theory
from experiments import frame, trained
from experiments.paper import decorrelation
from experiments.paper.decorrelation.curves import (
    AS_GOOD,
    CRITERIA,
    OURS,
    TIMES,
    TITLES,
    at_times,
    by_time,
    closed_form,
    conventions,
)
from experiments.paper.decorrelation.experiment import PAPER
from experiments.paper.decorrelation.further import ABSOLUTE, APART, WIDE, further
from tests.experiments.fakes import CONFIG, failing, fake_run

CURVES = ("change", "likelihood", "correlation")  # of every run
LIKELY = (
    "closed form at its most likely time against the trained change: largest"
    " difference, "
)
BEST = (
    "closed form at the time of the best correlation against the trained change:"
    " largest difference, "
)


def fake_decorrelation() -> dict[str, np.ndarray]:
    distances = np.arange(16)
    other = CONFIG["network"] | {"name": "ResNet", "depth": 18}
    arrays = (
        fake_run("base", 0, (0, 1, 2))
        | fake_run("other", 1, (0, 1, 2), network=other)
        | {"distances": distances}
    )
    for name, rates in (("base", (0.18, 0.165)), ("other", (0.16, 0.175))):
        change = np.exp(-0.17 * distances) * [[0.99], [1], [1.01]]
        arrays[f"{name}/curve/change"] = np.stack([change, change], axis=1)
        for criterion, rate in zip(CRITERIA, rates, strict=True):
            formula = np.exp(-rate * distances) * [[1], [1], [1]]
            arrays |= trained.fits(arrays, name, criterion)
            arrays[f"{name}/curve/{criterion}"] = np.stack(
                [change * 0.9, formula], axis=1
            )
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
    for convention in conventions(
        trained.Data(*np.ones((2, 1, 2, 2, 3)), None, (), "", *np.ones((2, 3)))
    ):
        arrays |= {
            f"{convention}/{name}": np.exp(-rate * distances)[None]
            for name, rate in rates.items()
        }
    return arrays


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        (f"{OURS}/random", lambda c: c * 0.9, "RGB and random filters"),
        (f"{OURS}/random", lambda c: c * 0.7, "random filters above the trained layer"),
        (
            f"{OURS}/weights",
            lambda c: c + 0.2,
            "random filters above the trained layer",
        ),
        (f"{OURS}/whitening", lambda c: c + 0.5, "trained layer above whitening"),
        (
            "base/curve/likelihood",
            lambda c: c + 0.08 * (np.arange(16) == 15),
            LIKELY + "VGG11, 64 f",
        ),
        (
            "other/curve/likelihood",
            lambda c: c - 0.08 * (np.arange(16) == 2),
            LIKELY + "ResNet18, 64",
        ),
        (
            "other/curve/correlation",
            lambda c: c + 0.08 * (np.arange(16) == 2),
            BEST + "ResNet18, 64",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_decorrelation()
    assert not failing(decorrelation.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(decorrelation.summary(wrong))
    )


@pytest.mark.parametrize("seed", range(12))
def test_checks_of_the_autocorrelation(seed: int) -> None:
    """Of mean curves: of the differences in the order at 2 pixels and more, of the
    closed form at every distance."""
    arrays = fake_decorrelation()
    random = np.random.default_rng(seed)
    arrays |= {f"{OURS}/{name}": random.normal(size=(3, 16)) for name in TITLES}
    of_runs = list(itertools.product(("base", "other"), CURVES))
    arrays |= {
        f"{run}/curve/{curve}": random.normal(size=(3, 2, 16)) for run, curve in of_runs
    }
    rgb, banks, weights, change, whitening = (
        arrays[f"{OURS}/{name}"].mean(axis=0)
        for name in ("rgb", "random", "weights", "change", "whitening")
    )
    curves = {
        place: arrays["{}/curve/{}".format(*place)][:, -1].mean(axis=0)
        for place in of_runs
    }
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
    *found, one, two = decorrelation.summary(arrays)["checks"]
    checks = [row for row in found if row.bound]
    assert [one.value for one in checks] == pytest.approx(expected)
    assert [one.bound for one in checks] == [
        "<= 0.05",
        "> 0",
        "> 0",
        *["<= 0.05"] * 4,
    ]
    titles = [LIKELY + "VGG11, 64 filters", LIKELY + "ResNet18, 64 filters"]
    assert [one.title for one in checks[3:]] == titles + [
        title.replace(LIKELY, BEST) for title in titles
    ]
    for row, title in ((one, "VGG11, 64 filters"), (two, "ResNet18, 64 filters")):
        assert row.title == f"lowest training accuracy, {title}"
    # Only shown: what the paper says at 10 pixels.
    shown = {row.title: row for row in found if not row.bound}
    assert len(shown) == len(found) - len(checks) == len(PAPER)
    for name, text in PAPER.items():
        row = shown[f"{TITLES[name]}, at 10 pixels"]
        values = arrays[f"{OURS}/{name}"][:, 10]
        assert row.value == pytest.approx(values.mean())
        assert row.number == f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
        assert (row.paper, row.verdict) == (text, "")


def test_bounds_written_after_the_first_result_say_so() -> None:
    written = {
        row.title: row.written
        for row in decorrelation.summary(fake_decorrelation())["checks"]
    }
    after = {title for title in written if written[title] == "after"}
    assert after == {LIKELY + "VGG11, 64 filters", LIKELY + "ResNet18, 64 filters"}


def test_images_smaller_than_the_distance_of_the_paper() -> None:
    arrays = fake_decorrelation()
    few = {
        key: value[..., :10] if value.shape[-1:] == (16,) else value
        for key, value in arrays.items()
    }
    found = decorrelation.summary(few)["checks"]
    assert not [row.title for row in found if "at 10 pixels" in row.title]
    assert all(row.bound for row in found)


@pytest.mark.parametrize(
    ("largest", "shown"), [(15, [1, 2, 5, 10, 15]), (7, [1, 2, 5])]
)
def test_rows_of_the_autocorrelation(largest: int, shown: list[int]) -> None:
    arrays = fake_decorrelation()
    for number, key in enumerate(arrays):
        if "/curve/" in key:
            of_each = np.array([1, 0.9, 0.6])[:, None, None]
            arrays[key] = (arrays[key] * of_each / (2 + number))[..., : largest + 1]
        elif key == "closed_form":
            arrays[key] = arrays[key][:, : largest + 1]
        elif not key.startswith(("base/", "other/", "distances")):
            arrays[key] = np.concatenate([arrays[key], arrays[key] / (2 + number)])[
                ..., : largest + 1
            ]
    arrays["distances"] = np.arange(largest + 1)
    summary = decorrelation.summary(arrays)
    rows, names = summary["results"], TITLES
    conventions = list(dict.fromkeys(row["convention"] for row in rows))
    assert conventions[0] == OURS
    papers = {OURS: PAPER}
    places = [
        (
            f"{convention}/{name}",
            convention,
            names[name],
            papers.get(convention, {}).get(name),
        )
        for convention, name in itertools.product(conventions, names)
    ]
    others = {name: f"{names[name]}, ResNet18, 64 filters" for name in CURVES}
    places += [
        (f"other/curve/{name}", OURS, title, None) for name, title in others.items()
    ]
    for row, (key, convention, title, paper) in zip(rows, places, strict=True):
        found = (row["convention"], row["curve"], row["distances"], row["paper"])
        assert found == (convention, title, shown, paper)
        values = arrays[key][:, -1] if "/curve/" in key else arrays[key]
        expected = values[:, shown].mean(axis=0)
        assert [cell["mean"] for cell in row["autocorrelation"]] == pytest.approx(
            expected
        )
    columns = decorrelation.table(summary).columns
    assert columns["at 5"] == [frame.number(row["autocorrelation"][2]) for row in rows]


def test_the_closed_form_over_training() -> None:
    """Of the mean over networks, where it is largest, with the standard error there;
    and for one network none."""
    arrays = fake_decorrelation()
    arrays |= {"distances": np.arange(3), "base/curve/change": np.zeros((3, 2, 3))}
    arrays["base/curve/likelihood"] = np.array(
        [
            [[0.3, -0.1, 0], [0, 0.2, 0.5]],
            [[-0.3, -0.2, 0], [0, 0, 0.2]],
            [[0.3, -0.6, 0], [0, 0.1, 0.2]],
        ]
    )
    arrays["base/curve/correlation"] = 2 * arrays["base/curve/likelihood"]
    arrays["base/accuracy"] = np.array(
        [[0.1, 0.5, 0.9], [0.1, 0.6, 1], [0.1, 0.4, 0.8]]
    )
    for name in CURVES:
        arrays[f"other/curve/{name}"] = arrays[f"base/curve/{name}"][:1]
    arrays["other/change"] = arrays["other/change"][:1]
    arrays["closed_form"] = arrays["closed_form"][:, :3]
    for key in [
        key
        for key in arrays
        if "/" in key and "curve" not in key and arrays[key].shape[-1:] == (16,)
    ]:
        arrays[key] = arrays[key][..., :3]
    arrays["base/likely/change/time"] = np.array(
        [[np.nan, 1, 2], [np.nan, 3, 7], [np.nan, 8, 3]]
    )
    arrays["base/fit/change/time"] = arrays["base/likely/change/time"] / 4
    arrays["base/variance"] = np.array([4.0, 1])
    arrays["base/change"] = np.array([2, 3, 5])[:, None, None] * np.array(
        [[0, 9], [1, 9], [2, 9]]
    )
    errors = [
        np.std(three, ddof=1) / 3**0.5 for three in ([0.1, 0.2, 0.6], [0.5, 0.2, 0.2])
    ]
    first, other = decorrelation.summary(arrays)["closed_form_over_training"]
    assert (first["run"], first["epochs"]) == ("VGG11, 64 filters", [1, 2])
    assert first["training_accuracy"] == pytest.approx([0.5, 0.9])
    for criterion, time, factor in (("likelihood", 1, 1), ("correlation", 1 / 4, 2)):
        times, largest = by_time(arrays, criterion)["base"]
        np.testing.assert_array_equal(
            times, time * np.array([[4, 8], [12, 28], [32, 12]])
        )
        np.testing.assert_array_equal(
            largest, factor * np.array([[0.3, 0.5], [-0.3, 0.2], [-0.6, 0.2]])
        )
        assert first[criterion]["median_time_times_first_variance"] == [
            12 * time,
            12 * time,
        ]
        assert first[criterion]["largest_difference"] == pytest.approx(
            [0.3 * factor, 0.3 * factor]
        )
        assert first[criterion]["standard_error"] == pytest.approx(
            np.array(errors) * factor
        )
        assert other[criterion]["largest_difference"] == pytest.approx(
            [0.3 * factor, 0.5 * factor]
        )
        assert other[criterion]["standard_error"] == [None, None]


def test_the_closed_form_at_times_that_are_not_fitted() -> None:
    """Of the times at which the profile is fitted about as well as it can be, the one
    that fits the curve best."""
    arrays, times = fake_decorrelation(), TIMES
    variance = arrays["base/variance"]
    profiles = (1 - np.exp(-times[:, None] * variance / variance[0])) / np.sqrt(
        variance
    )
    # 1 - exp cancels here.
    np.testing.assert_allclose(closed_form(variance), profiles, rtol=1e-10)
    # Exactly the formula's.
    arrays["base/change"][:, -1] = profiles[[100, 110, 120]] * [[1], [2], [0.1]]
    curves = np.exp(-np.linspace(0.1, 0.6, len(times))[:, None] * np.arange(16))
    arrays["closed_form"] = curves
    arrays["base/curve/change"][:, -1] = curves[[100, 108, 240]]
    correlation, difference = at_times(arrays)["base"]
    for network, place in enumerate((100, 110, 120)):
        expected = [np.corrcoef(profiles[place], profile)[0, 1] for profile in profiles]
        np.testing.assert_allclose(correlation[network], expected, rtol=1e-9)
    assert difference[0, 100] == 0
    assert difference[0, 99] > 0 > difference[0, 101]  # later curves are lower
    np.testing.assert_allclose(
        np.abs(difference[2]), np.abs(curves - curves[240]).max(axis=1)
    )
    found = decorrelation.summary(arrays)["closed_form_over_training"][0][
        "times_as_good"
    ]
    assert found["correlation_within"] == AS_GOOD == 0.005
    good = [correlation[network] >= 0.995 for network in range(3)]
    spans = [(np.flatnonzero(those)[0], np.flatnonzero(those)[-1]) for those in good]
    assert spans[2][1] < 240
    assert found["first_time"] == times[spans[1][0]]
    assert found["last_time"] == times[spans[1][1]]
    # Those of the three are 100, 108 and the last good one.
    assert found["time_of_smallest_difference"] == times[108]
    assert found["smallest_difference"] == 0
    assert found["best_correlation"] == pytest.approx(1)
    assert found["correlation_there"] == pytest.approx(
        np.median([1, correlation[1, 108], correlation[2, spans[2][1]]])
    )


def test_conventions_of_the_autocorrelation() -> None:
    images = np.random.default_rng(2).normal(size=(4, 5, 6, 3)).astype(np.float32)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.1, 0.3])
    ours, pixels, own = conventions(
        trained.Data(images, np.zeros(4, int), None, (), "", mean, std)
    ).values()
    np.testing.assert_array_equal(ours[0], images)
    np.testing.assert_allclose(pixels[0], images * std + mean, rtol=1e-6)
    np.testing.assert_allclose(
        own[0], [image - image.mean(axis=(0, 1)) for image in images], atol=1e-6
    )
    assert [center for _, center in (ours, pixels, own)] == [True, False, True]


def correlated(z: np.ndarray, distances: range) -> np.ndarray:
    """Of responses (N, H, W, K), each channel about its mean, by loops: (D,)."""
    z = z - z.mean(axis=(0, 1, 2))
    found = []
    for d in distances:
        down = (z[:, d:] * z[:, : z.shape[1] - d]).sum(-1).mean()
        across = (z[:, :, d:] * z[:, :, : z.shape[2] - d]).sum(-1).mean()
        found.append((down + across) / 2)
    return np.array(found) / found[0]


def test_further_conventions() -> None:
    random = np.random.default_rng(3)
    images = random.normal(size=(300, 25, 24, 2)) + random.normal(size=(300, 1, 1, 2))
    bank = random.normal(size=(2, 3, 3, 2, 4))
    moments = theory.cross_moments(images, 3, range(7))
    banks = {
        "rgb": (np.eye(2)[None, None, None], theory.cross_moments(images, 1, range(7))),
        "random": (bank, moments),
        "whitening": (bank[:1], moments),
    }
    found = further(images, banks, 6)
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    responses = np.einsum("nijcab,zabck->znijk", windows, bank)
    distances = range(7)
    for z, absolute in zip(responses, found[f"further/{ABSOLUTE}/random"], strict=True):
        np.testing.assert_allclose(
            absolute, correlated(np.abs(z), distances), rtol=0, atol=1e-5
        )
    # The moments subtract the mean patch, which is the same but at the borders.
    for z, apart in zip(responses, found[f"further/{APART}/random"], strict=True):
        own = [correlated(z[..., k : k + 1], distances) for k in range(4)]
        np.testing.assert_allclose(apart, np.mean(own, axis=0), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(
        found[f"further/{APART}/whitening"], found[f"further/{APART}/random"][:1]
    )
    own = [correlated(np.abs(images), distances)]
    np.testing.assert_allclose(found[f"further/{ABSOLUTE}/rgb"], own, atol=1e-5)
    # Windows of 21 pixels leave 4 columns, and their responses are white in a window.
    (wide,) = found[f"further/{WIDE}/whitening"]
    patches = np.lib.stride_tricks.sliding_window_view(images, (21, 21), axis=(1, 2))
    patches = patches.reshape(300, 5, 4, -1)
    values, vectors = np.linalg.eigh(np.cov(patches.reshape(6000, -1).T, ddof=0))
    kept = values > 1e-9 * values.max()
    white = patches @ (vectors[:, kept] / np.sqrt(values[kept]))
    np.testing.assert_allclose(wide, correlated(white, range(4)), rtol=0, atol=1e-6)
    assert not any(WIDE in key for key in further(images[:, :22], {}, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other_seeds": 1}, "--other-seeds must be at least 2"),
        ({"largest_distance": 1}, "--largest-distance must be at least 2"),
        ({"largest_distance": 30}, "distances must lie between 0 and 29 pixels"),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(decorrelation, change, message)
