"""What makes the signal white: the recursion against weights that are drawn anew, and
against networks; what is kept of batch norm; and the verdicts on arrays written by
hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.beyond import whiteness
from experiments.beyond.whiteness import networks, recursion, verdicts
from experiments.beyond.whiteness.settings import NORMS, small
from experiments.frame.experiment import draw_in_style
from tests.experiments.fakes import failing

SMOKE = whiteness.PRESETS["smoke"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (2,)}, "--layers must be 2 and larger numbers"),
        ({"layers": (3, 5)}, "--layers must be 2 and larger numbers"),
        ({"layers": (5, 2)}, "--layers must be 2 and larger numbers"),
        ({"layers": (0, 2)}, "--layers must be 2 and larger numbers"),
        ({"width": 0.0}, "--width must be positive"),
        ({"images": 1}, "--images must be at least 2"),
        ({"seeds": 1}, "--seeds must be at least 2"),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(whiteness, change, message)


def test_seed_is_new() -> None:
    assert whiteness.Settings().seed not in (0, 1, 2, 29, 77, 2611, 2917, 2918, 3011)


# --- the recursion ---


def images(count: int, size: int = 16) -> np.ndarray:
    random = np.random.default_rng(count)
    return random.normal(size=(count, size, size, 3)).cumsum(axis=1).astype(np.float32)


def correlated(signals: np.ndarray) -> np.ndarray:
    """(draws, h, w, K) -> the mean over draws and maps of the products of locations."""
    draws, height, width, maps = signals.shape
    rows = np.moveaxis(signals, 3, 1).reshape(draws * maps, -1)
    moment = rows.T @ rows / len(rows)
    return moment.reshape(height, width, height, width)


def convolved_back(
    random: np.random.Generator,
    signals: np.ndarray,
    kernel: np.ndarray,
    size: tuple[int, ...],
    stride: int,
) -> np.ndarray:
    """Signals (draws, h, w, K) to maps of a size below convolutions of weights as large
    as a kernel's, others for each draw."""
    draws, height, width, _ = signals.shape
    kh, kw, channels, _ = kernel.shape
    before = [
        max((count - 1) * stride + length - own, 0) // 2
        for count, length, own in zip((height, width), (kh, kw), size, strict=True)
    ]
    spread = np.zeros((draws, size[0] + kh + stride, size[1] + kw + stride, channels))
    for i, j in np.ndindex(kh, kw):
        weights = random.normal(size=(draws, *kernel.shape[2:]))
        weights *= np.sqrt((kernel**2).mean())
        reached = np.einsum("nhwk,nck->nhwc", signals, weights, optimize=True)
        rows = slice(i, i + (height - 1) * stride + 1, stride)
        columns = slice(j, j + (width - 1) * stride + 1, stride)
        spread[:, rows, columns] += reached
    top, left = before
    return spread[:, top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize(("stride", "window"), [(1, 2), (2, 1)])
def test_recursion_against_weights_drawn_anew(stride: int, window: int) -> None:
    """A mean over locations, a gate (with a pool), a convolution, a gate, a
    convolution: of one image, where nothing is left out."""
    random = np.random.default_rng(stride)
    draws, top = 20_000, (2, 3)
    middle = tuple(window * n for n in top)
    bottom = tuple(stride * n - (stride > 1) for n in middle)
    masks = [random.random((1, *size, 3)) < 0.6 for size in (middle, middle)]
    if window > 1:  # one winner of each window
        blocks = random.random((1, 2, window, 3, window, 3))
        masks[0] = (blocks == blocks.max((2, 4), keepdims=True)).reshape(masks[0].shape)
    kernels = [random.normal(size=size) for size in ((3, 3, 3, 3), (3, 1, 2, 3))]
    steps = [
        recursion.convolution(kernels[1], (stride, stride), bottom),
        recursion.gate(masks[1]),
        recursion.convolution(kernels[0], (1, 1), middle),
        recursion.gate(masks[0], window),
    ]
    expected = recursion.back(steps, recursion.of_mean(*top))

    signals = random.normal(size=(draws, 1, 1, 3)) * masks[0]
    signals = convolved_back(random, signals, kernels[0], middle, 1) * masks[1]
    signals = convolved_back(random, signals, kernels[1], bottom, stride)
    found = correlated(signals)
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.max())
    assert recursion.whiteness(found) == pytest.approx(
        recursion.whiteness(expected), rel=0.04
    )
    # The way from location to location is told apart.
    assert expected.std() > 0.3 * expected.mean()


def test_two_ways_add() -> None:
    moment = recursion.of_mean(2, 2)
    twice, thrice = (recursion.scale(np.full(4, factor)) for factor in (2, 3))
    found = recursion.block([twice, twice], [thrice])(moment)
    np.testing.assert_allclose(found, (16 + 9) * moment)


def test_whiteness_of_known_moments() -> None:
    assert recursion.whiteness(recursion.of_mean(3, 4)) == pytest.approx(12)
    white = np.eye(12).reshape(3, 4, 3, 4)
    assert recursion.whiteness(white) == pytest.approx(1)


def test_one_location_is_white_on_any_way_down() -> None:
    random = np.random.default_rng(0)
    moment = recursion.of_mean(1, 1)
    for size in (2, 4, 8):
        winners = random.random((5, size // 2, 2, size // 2, 2, 3))
        winners = winners == winners.max((2, 4), keepdims=True)
        mask = winners.reshape(5, size, size, 3)
        kernel = random.normal(size=(3, 3, 2, 3))
        steps = [
            recursion.convolution(kernel, (1, 1), (size, size)),
            recursion.gate(mask, 2),
        ]
        moment = recursion.back(steps, moment)
        assert recursion.whiteness(moment) == pytest.approx(1)


def test_rows_that_pools_leave_over_get_no_signal() -> None:
    mask = np.ones((1, 5, 7, 2), bool)
    found = recursion.back([recursion.gate(mask, 2)], recursion.of_mean(2, 3))
    assert found.shape == (5, 7, 5, 7)
    assert (found[:4, :6, :4, :6] == 1).all()
    assert found.sum() == (4 * 6) ** 2
    # 12, 6 and 3 pixels: the last pool leaves one location, and drops five.
    made = networks.settled(plain(), "full", images(4, 12), np.random.default_rng(0))
    moment = recursion.of_mean(*made.size)
    for steps in reversed(made.layers):
        moment = recursion.back(steps, moment)
        assert recursion.whiteness(moment) == pytest.approx(1)
    assert moment.shape == (6, 6, 6, 6)


# --- networks that keep a part of batch norm ---


def plain(layers: int = 3) -> Any:
    settings = replace(SMOKE, first_features=4)
    return networks.make_small(layers, settings, jax.random.key(0))


def test_all_of_batch_norm_is_batch_norm() -> None:
    pixels, network = images(6), plain()
    network.train()
    expected = network(pixels)  # with the statistics of the batch
    made = networks.settled(plain(), "full", pixels, np.random.default_rng(0))
    np.testing.assert_allclose(made.network(pixels), expected, atol=1e-5)
    assert made.size == (2, 2)
    assert [len(steps) for steps in made.layers] == [3, 3]


def test_none_of_batch_norm_is_none() -> None:
    pixels, network = images(6), plain()
    made = networks.settled(plain(), "none", pixels, np.random.default_rng(0))
    expected = network.conv1(pixels)
    for layer in network.features.layers:
        if not isinstance(layer, nnx.BatchNorm):
            expected = layer(expected)
    expected = network.classifier(expected.mean((1, 2)))
    np.testing.assert_allclose(made.network(pixels), expected, atol=1e-6)


@pytest.mark.parametrize("kept", NORMS)
def test_what_is_kept(kept: str) -> None:
    pixels = images(6)
    made = networks.settled(plain(), kept, pixels, np.random.default_rng(0))
    maps = made.network.features.layers[0](made.network.conv1(pixels))
    raw = made.network.conv1(pixels)
    mean, std = maps.mean((0, 1, 2)), maps.std((0, 1, 2))
    centred, scaled = kept in ("full", "gain", "mean"), kept in ("full", "variance")
    assert np.allclose(mean, 0, atol=1e-5) == centred
    assert np.allclose(std, 1, atol=1e-4) == scaled
    if kept == "gain":
        assert ((std > 0.5) & (std < 1.5)).all()
        assert np.ptp(std) > 0.1
    if kept == "none":
        np.testing.assert_array_equal(maps, raw)


def test_blocks_have_their_norms_held() -> None:
    made = networks.settled(
        networks.make_deep("ResNet18", SMOKE, jax.random.key(0)),
        "mean",
        images(4),
        np.random.default_rng(0),
    )
    kinds = [type(module) for _, module in nnx.iter_graph(made.network)]
    assert not any(issubclass(kind, nnx.BatchNorm) for kind in kinds)
    assert kinds.count(networks.Held) == 1 + 16 + 4
    assert len(made.layers) == 8


@pytest.mark.slow
def test_recursion_says_how_white_a_network_is() -> None:
    """Wide layers, as the expectation is over weights."""
    pixels = images(20, 32)
    settings = replace(SMOKE, first_features=48)
    for layers, expected in ((2, 47), (4, 2.6)):
        made = networks.settled(
            networks.make_small(layers, settings, jax.random.key(1)),
            "full",
            pixels,
            np.random.default_rng(0),
        )
        found = whiteness.experiment._of_signal(made, pixels)
        assert found["expected"][-1] == pytest.approx(found["measured"], rel=0.25)
        assert found["expected"][-1] == pytest.approx(expected, rel=0.25)
        assert found["expected"][0] == pytest.approx((32 / 2**layers) ** 2)


# --- the verdicts ---


def fake_whiteness() -> dict[str, np.ndarray]:
    layers = (2, 3, 5)
    locations = {"VGG11": 1, "ResNet18": 16, small(2): 64, small(3): 16, small(5): 1}
    arrays: dict[str, np.ndarray] = {"layers": np.array(layers)}
    for network, count in locations.items():
        arrays[f"{network}/locations"] = np.array(count)
        for norm in NORMS:
            last = 1.0 if network in ("VGG11", small(5)) else 0.6 * count
            if network == "ResNet18":
                last = 2.0 if norm in ("none", "variance") else 1.0
            arrays[f"{network}/{norm}/measured"] = np.full(4, 0.95 * last)
            course = np.geomspace(count, last, 5)
            arrays[f"{network}/{norm}/expected"] = np.tile(course, (4, 1))
    traces = np.tile(np.geomspace(1, 3, 6), (4, 1))
    mixed = traces[:, [3, 0, 4, 2, 5, 1]]
    for count in layers:
        for kind in ("norm", "plain"):
            name = f"blocks/{count}/{kind}"
            arrays[f"{name}/cosines"] = np.full((4, 6), 1 - 0.1 / count**2.5)
            arrays[f"{name}/traces"] = traces
            arrays[f"{name}/moment_traces"] = traces if kind == "norm" else mixed
    return arrays


def test_all_checks_hold_of_good_arrays() -> None:
    summary = whiteness.summary(fake_whiteness())
    assert failing(summary) == set()
    assert len(summary["checks"]) == 25 + 5 * 4 + 3 + 1 + 4 + 2
    table = whiteness.table(summary)
    assert len(table.columns["network"]) == 25


@pytest.mark.parametrize(
    ("name", "value", "title"),
    [
        ("VGG11/none/measured", 1.3, "whiteness, VGG11, no norm"),
        ("VGG11/full/measured", 0.7, "whiteness, VGG11, batch norm"),
        ("ResNet18/mean/measured", 1.3, "whiteness, ResNet18, only the mean removed"),
        ("SmallCNN, 3 layers/full/measured", 1.4, "SmallCNN, 3 layers, batch norm"),
        ("ResNet18/none/measured", 1.1, "over that with the mean removed"),
        ("SmallCNN, 2 layers/none/expected", 10.0, "SmallCNN, 2 layers, no norm"),
        ("blocks/5/plain/cosines", 0.98, "5 layers without, cosine"),
        ("blocks/2/norm/cosines", 0.9999, "that of 2 layers, with batch norm"),
        ("blocks/5/norm/moment_traces", "mixed", "5 layers with batch norm, corr"),
        ("blocks/5/plain/moment_traces", "same", "5 layers without, correlation"),
    ],
)
def test_a_check_fails(name: str, value: Any, title: str) -> None:
    arrays = fake_whiteness()
    other = "norm" if value == "same" else "plain"
    arrays[name] = (
        arrays[f"blocks/5/{other}/moment_traces"]
        if isinstance(value, str)
        else np.full_like(arrays[name], value)
    )
    assert any(title in one for one in failing(whiteness.summary(arrays)))


def test_nothing_is_asked_of_one_location_where_there_are_more() -> None:
    arrays = fake_whiteness()
    arrays["VGG11/locations"] = np.array(4)  # of larger images
    titles = [one.title for one in verdicts.checks(arrays)]
    assert "whiteness, VGG11, no norm" in titles
    arrays["VGG11/none/measured"] = np.full(4, 1.0)
    assert "whiteness, VGG11, no norm" in failing(whiteness.summary(arrays))


def test_figure(tmp_path: Path) -> None:
    draw_in_style(whiteness.draw, tmp_path, fake_whiteness())
    assert (tmp_path / "whiteness.png").stat().st_size > 20_000
