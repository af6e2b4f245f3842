"""The backpropagated signal against derivatives of the layers above, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from linear_cnn import LinearCNN, SmallCNN, backpropagated_signal
from tests.linear_cnn.tangent import twins

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.normal(size=(7, 11, 9, 2)) + 0.5
LABELS = RANDOM.integers(0, 3, 7)
FLOAT = jnp.result_type(float)
KEY = jax.random.key(0)
# Small networks are not white, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:the signal that flows back")


def small(**settings):
    return SmallCNN(
        3, in_features=2, features=(4, 3), dtype=FLOAT, rngs=nnx.Rngs(1), **settings
    )


class Shortcut(nnx.Module):
    """The maps are read by a convolution and, beside it, as they are."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        make = {"rngs": rngs, "param_dtype": FLOAT}
        self.conv1 = nnx.Conv(2, 4, (3, 3), padding="VALID", **make)
        self.norm = nnx.BatchNorm(4, **make)
        self.conv2 = nnx.Conv(4, 4, (3, 3), **make)
        self.head = nnx.Linear(4, 3, **make)

    def __call__(self, images):
        return self.above(nnx.relu(self.norm(self.conv1(images))))

    def above(self, maps):
        x = jnp.tanh(self.conv2(maps)) * maps + maps**2
        return self.head(x.mean(axis=(1, 2)))


def below_small(network, images):
    layers = network.features.layers
    count = 3 if isinstance(layers[0], nnx.BatchNorm) else 2
    x = network.conv1(images)
    for layer in layers[:count]:
        x = layer(x)
    return x


def above_small(network, maps):
    layers = network.features.layers
    count = 3 if isinstance(layers[0], nnx.BatchNorm) else 2
    for layer in layers[count:]:
        maps = layer(maps)
    return network.classifier(maps.mean(axis=(1, 2)))


def below_shortcut(network, images):
    return nnx.relu(network.norm(network.conv1(images)))


CASES = {
    "plain": (small(), below_small, above_small, "features.layers.2"),
    "normed": (
        small(batch_norm=True),
        below_small,
        above_small,
        "features.layers.3",
    ),
    "shortcut": (Shortcut(), below_shortcut, Shortcut.above, "conv2"),
}


def signals(name, loss, statistics="data"):
    """(draws of labels, N, h, w, K), each with its probability's root."""
    network, below, above, _ = CASES[name]
    copy = twins.prepared(network, IMAGES, statistics, None)

    @jax.jit
    def derivatives():
        with jax.numpy_dtype_promotion("standard"):
            maps = below(copy, jnp.asarray(IMAGES))
            return above(copy, maps), jax.jacrev(lambda maps: above(copy, maps))(maps)

    outputs, jacobian = derivatives()
    jacobian = np.einsum("nmnhwk->nmhwk", np.asarray(jacobian))
    if loss == "mse":
        return np.sqrt(2) * np.moveaxis(jacobian, 1, 0)
    # One label after another.
    chances = np.asarray(jax.nn.softmax(outputs))
    return np.array(
        [
            np.sqrt(chances[:, label])[:, None, None, None]
            * np.einsum("nm,nmhwk->nhwk", chances - np.eye(3)[label], jacobian)
            for label in range(3)
        ]
    )


def assert_moments(found, signal):
    """By loops over locations and lags."""
    _, count, height, width, filters = signal.shape
    square = np.sum(signal**2, axis=0).mean()
    means = np.sum(signal.mean(axis=(2, 3)) ** 2, axis=0).mean()
    np.testing.assert_allclose(found.whiteness, height * width * means / square)
    np.testing.assert_allclose(
        found.energy, np.sum(signal**2, axis=0).mean(axis=(0, 3)), rtol=1e-9
    )
    expected = np.zeros((2 * height - 1, 2 * width - 1))
    for down in range(1 - height, height):
        for right in range(1 - width, width):
            here = signal[
                :, :, max(0, -down) : height - down, max(0, -right) : width - right
            ][:, :, : height - abs(down), : width - abs(right)]
            there = signal[:, :, max(0, down) :, max(0, right) :][
                :, :, : height - abs(down), : width - abs(right)
            ]
            expected[height - 1 + down, width - 1 + right] = (
                np.sum(here * there, axis=0).mean() / square
            )
    np.testing.assert_allclose(found.autocorrelation, expected, rtol=0, atol=1e-12)
    inside = np.sum(signal[:, :, 1:-1, 1:-1] ** 2, axis=0)
    total = np.sum(signal**2, axis=0).sum()
    outside = (total - inside.sum()) / (count * filters)
    np.testing.assert_allclose(
        found.border_energy,
        outside / (height * width - inside[0, ..., 0].size) / inside.mean(),
    )
    products = np.einsum("snhwk,snhwl->kl", signal, signal)
    scale = np.sqrt(np.diag(products))
    np.testing.assert_allclose(
        found.filter_correlation, products / scale[:, None] / scale, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "loss", "statistics"),
    [
        ("plain", "cross_entropy", "data"),
        ("normed", "cross_entropy", "data"),
        ("normed", "mse", "running"),
        ("shortcut", "mse", "data"),
    ],
)
def test_moments_are_those_of_written_out_derivatives(name, loss, statistics):
    network, _, _, at = CASES[name]
    found = backpropagated_signal(
        network, IMAGES, loss=loss, statistics=statistics, batch_size=3
    )
    assert (found.at, found.count) == (at, 7)
    signal = signals(name, loss, statistics)
    assert signal.shape[2] != signal.shape[3]  # axes cannot be mistaken
    assert_moments(found, signal)


def test_whiteness_is_a_sum_over_lags():
    network, *_ = CASES["normed"]
    found = backpropagated_signal(network, IMAGES, loss="cross_entropy", batch_size=3)
    height, width = found.energy.shape
    pairs = np.multiply.outer(
        height - abs(np.arange(1 - height, height)),
        width - abs(np.arange(1 - width, width)),
    )
    np.testing.assert_allclose(
        found.whiteness, np.sum(pairs * found.autocorrelation) / (height * width)
    )
    assert found.autocorrelation[height - 1, width - 1] == pytest.approx(1)


def test_sampled_labels_have_the_exact_moments_as_their_mean():
    network, *_ = CASES["plain"]
    exact = backpropagated_signal(network, IMAGES, loss="cross_entropy", batch_size=7)
    draws = np.array(
        [
            backpropagated_signal(
                network,
                IMAGES,
                loss="cross_entropy",
                labels="sampled",
                samples=50,
                key=jax.random.fold_in(KEY, index),
                batch_size=7,
            ).energy
            for index in range(40)
        ]
    )
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert error.max() < 0.05 * exact.energy.max()
    assert np.abs((draws.mean(axis=0) - exact.energy) / error).max() < 4.5


def test_given_labels_take_the_targets():
    network, _, above, _ = CASES["plain"]
    found = backpropagated_signal(
        network, IMAGES, LABELS, loss="cross_entropy", labels="given", batch_size=3
    )

    def losses(maps):
        logits = above(network, maps)
        return -jnp.sum(
            jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], 1)
        )

    maps = below_small(network, jnp.asarray(IMAGES))
    assert_moments(found, np.asarray(jax.jit(jax.grad(losses))(maps))[None])


def test_batches_see_one_another():
    """All labels drawn at once: the mean over all of these, by their probabilities."""
    network = nnx.clone(CASES["normed"][0])
    images = IMAGES[:2]
    found = backpropagated_signal(
        network, images, loss="cross_entropy", statistics="batch", batch_size=2
    )
    copy = twins.prepared(network, images, "batch", None)
    graph, variables = nnx.split(copy)

    @jax.jit
    def derivatives():
        maps = below_small(nnx.merge(graph, variables, copy=True), jnp.asarray(images))

        def above(maps):
            return above_small(nnx.merge(graph, variables, copy=True), maps)

        return above(maps), jax.jacrev(above)(maps)

    outputs, jacobian = derivatives()
    chances = np.asarray(jax.nn.softmax(outputs))
    draws = []
    for first in range(3):
        for second in range(3):
            column = chances - np.eye(3)[[first, second]]
            chance = chances[0, first] * chances[1, second]
            draws.append(
                np.sqrt(chance) * np.einsum("nm,nmahwk->ahwk", column, jacobian)
            )
    assert_moments(found, np.array(draws))


def test_a_pooled_linear_network_is_as_far_from_white_as_can_be():
    """All locations get the same: J. No weights follow, so these are the responses."""
    network = LinearCNN(2, 3, dtype=FLOAT, rngs=nnx.Rngs(0))
    found = backpropagated_signal(network, IMAGES, loss="mse")
    assert found.at == "conv1"
    np.testing.assert_allclose(found.whiteness, 9 * 7)
    np.testing.assert_allclose(found.autocorrelation, 1)
    np.testing.assert_allclose(found.filter_correlation, 1)
    np.testing.assert_allclose(found.border_energy, 1)


@pytest.mark.filterwarnings("default:the signal that flows back")
def test_a_warning_says_how_far_from_white():
    network = LinearCNN(2, 3, dtype=FLOAT, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"whiteness 63, above 1.5; the curvature of"):
        backpropagated_signal(network, IMAGES, loss="mse")


@pytest.mark.float32
def test_float32_networks():
    single = SmallCNN(
        3, in_features=2, features=(4, 3), batch_norm=True, rngs=nnx.Rngs(1)
    )
    found = backpropagated_signal(
        single, IMAGES.astype(np.float32), loss="cross_entropy"
    )
    height, width = found.energy.shape
    assert found.energy.dtype == np.float64
    assert found.autocorrelation[height - 1, width - 1] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"labels": "given"}, ValueError, "labels='given' needs targets"),
        (
            {"labels": "given", "targets": LABELS[1:]},
            ValueError,
            r"targets must have shape \(N,\) with N = 7",
        ),
        ({"labels": "sampled"}, ValueError, "needs a key"),
        (
            {"at": "features.layers.9"},
            ValueError,
            "called after 'conv1', but 'features.layers.9' is not; the modules are",
        ),
        (
            {"layer": "features.layers.2", "at": "conv1"},
            ValueError,
            "called after 'features.layers.2', but 'conv1' is not",
        ),
        (
            {"at": "classifier"},
            ValueError,
            r"the input of 'classifier' must be maps .*shape \(7, 3\)",
        ),
        ({"layer": "conv"}, ValueError, "layer must name"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_remedy(settings, error, match):
    arguments = {"loss": "cross_entropy"} | settings
    with pytest.raises(error, match=match):
        backpropagated_signal(CASES["plain"][0], IMAGES, **arguments)


def test_a_signal_of_zeros_is_refused():
    network = LinearCNN(2, 3, dtype=FLOAT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no signal flows back to 'conv1'"):
        backpropagated_signal(network, IMAGES, loss="cross_entropy")
