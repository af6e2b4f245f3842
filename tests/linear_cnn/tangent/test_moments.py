"""Curvature and drive against Jacobians of the whole network, all images at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from linear_cnn import VGG, LinearCNN, ResNet, SmallCNN, tangent_moments
from tests.linear_cnn.tangent import twins

RANDOM = np.random.default_rng(8)
IMAGES = RANDOM.normal(size=(7, 9, 8, 2)) + 0.5
LABELS = RANDOM.integers(0, 3, 7)
TARGETS = {"cross_entropy": LABELS, "mse": RANDOM.normal(size=(7, 3))}
KEY = jax.random.key(0)
# Only the test marked float32 runs where it is not float64.
FLOAT = jnp.result_type(float)


def small(**settings):
    return SmallCNN(
        3,
        in_features=2,
        features=(4, 3),
        dtype=FLOAT,
        rngs=nnx.Rngs(1),
        **settings,
    )


def unlike_the_start(network):
    """Running statistics, scales and biases that are not those of initialisation."""
    for norm in twins.norms(network):
        size, dtype = norm.num_features, norm.mean.dtype
        norm.mean[...] = jnp.asarray(RANDOM.normal(size=size) / 2, dtype)
        norm.var[...] = jnp.asarray(RANDOM.uniform(0.5, 2, size), dtype)
        norm.bias[...] = jnp.asarray(RANDOM.normal(size=size) / 2, FLOAT)
        if norm.scale is not None:
            norm.scale[...] = jnp.asarray(RANDOM.uniform(0.5, 1.5, size), FLOAT)
    network.conv1.bias[...] = jnp.asarray(RANDOM.normal(size=network.conv1.bias.shape))
    return network


NETWORKS = {
    "without": (small(), None),
    "small": (small(batch_norm=True), lambda network: network.features.layers[0]),
    "own": (twins.Own(rngs=nnx.Rngs(0)), lambda network: network.norm),
}
for _network, _ in NETWORKS.values():
    unlike_the_start(_network)


def assert_equal(moments, expected, tolerance=1e-9):
    for name, value in zip(
        ("curvature", "drive", "gradient_moment"), expected, strict=True
    ):
        found = getattr(moments, name)
        size = np.abs(value).max()
        assert size > 1e-3, name
        assert found.dtype == np.float64
        np.testing.assert_allclose(
            found, value, rtol=0, atol=tolerance * size, err_msg=name
        )


@pytest.mark.parametrize(
    ("name", "statistics", "loss"),
    [
        ("without", "data", "cross_entropy"),
        ("small", "data", "cross_entropy"),
        ("small", "data", "mse"),
        ("small", "running", "cross_entropy"),
        ("own", "data", "cross_entropy"),
        ("own", "running", "mse"),
    ],
)
def test_moments_are_those_of_the_whole_jacobian(name, statistics, loss):
    network, own = NETWORKS[name]
    copy = twins.prepared(network, IMAGES, statistics, own)
    found = tangent_moments(
        network,
        IMAGES,
        TARGETS[loss],
        loss=loss,
        statistics=statistics,
        bias=True,
        batch_size=3,  # the last is filled up
    )
    outputs, jacobian = twins.jacobian(copy, IMAGES, bias=True)
    assert_equal(found, twins.moments(loss, outputs, jacobian, TARGETS[loss]))
    assert found.count == 7


def test_without_the_bias_its_entries_are_left_out():
    network, _ = NETWORKS["without"]
    without, whole = (
        tangent_moments(
            network, IMAGES, LABELS, loss="cross_entropy", bias=bias, batch_size=3
        )
        for bias in (False, True)
    )
    cut = (
        whole.curvature[:, :-1, :, :-1],
        whole.drive[:, :-1],
        whole.gradient_moment[:, :-1, :, :-1],
    )
    assert_equal(without, cut, 1e-14)
    assert np.abs(whole.drive[:, -1]).max() > 1e-3


def test_the_statistics_make_a_difference():
    """Or the comparison above would not see them."""
    network, _ = NETWORKS["small"]
    drives = [
        tangent_moments(
            network, IMAGES, LABELS, loss="cross_entropy", statistics=statistics
        ).drive
        for statistics in ("data", "running", "batch")
    ]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(drives[a] - drives[b]).max() > 0.05 * np.abs(drives[a]).max()


@pytest.mark.parametrize(("name", "loss"), [("small", "cross_entropy"), ("own", "mse")])
def test_batches_are_differentiated_through_their_statistics(name, loss):
    """A last smaller batch is left out."""
    network, own = NETWORKS[name]
    network = nnx.clone(network)
    network.set_attributes(nnx.Dropout, rate=0.0, raise_if_not_found=False)
    copy = twins.prepared(network, IMAGES, "batch", own)
    found = tangent_moments(
        network, IMAGES, TARGETS[loss], loss=loss, statistics="batch", batch_size=3
    )
    curvatures, gradients = [], []
    for batch in (slice(0, 3), slice(3, 6)):
        outputs, jacobian = twins.jacobian(nnx.clone(copy), IMAGES[batch])
        curvature, gradient, _ = twins.moments(
            loss, outputs, jacobian, TARGETS[loss][batch]
        )
        curvatures.append(curvature)
        gradients.append(gradient)
    drive = np.mean(gradients, axis=0)
    covariance = np.mean(
        [np.multiply.outer(g - drive, g - drive) for g in gradients], axis=0
    )
    moment = 3 * covariance + np.multiply.outer(drive, drive)
    assert_equal(found, (np.mean(curvatures, axis=0), drive, moment))
    assert found.count == 6


def test_without_batch_norm_all_statistics_agree():
    network, _ = NETWORKS["without"]
    data, running, batch = (
        tangent_moments(
            network,
            IMAGES,
            LABELS,
            loss="cross_entropy",
            statistics=statistics,
            batch_size=7,
        )
        for statistics in ("data", "running", "batch")
    )
    for other in (running, batch):
        np.testing.assert_allclose(other.drive, data.drive, rtol=0, atol=1e-14)
        np.testing.assert_allclose(other.curvature, data.curvature, rtol=0, atol=1e-14)


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "own", "images"),
    [
        pytest.param(
            VGG(
                11,
                2,
                width=1 / 32,
                first_features=3,
                dtype=FLOAT,
                rngs=nnx.Rngs(0),
            ),
            lambda network: network.features.layers[0],
            RANDOM.normal(size=(6, 32, 32, 3)),
            id="VGG11",
        ),
        pytest.param(
            ResNet(
                18,
                2,
                width=1 / 32,
                first_features=3,
                dtype=FLOAT,
                rngs=nnx.Rngs(0),
            ),
            lambda network: network.features.layers[0],
            RANDOM.normal(size=(6, 8, 8, 3)),
            id="ResNet18",
        ),
    ],
)
def test_deep_networks(network, own, images):
    labels = np.arange(6) % 2
    found = tangent_moments(network, images, labels, loss="cross_entropy", batch_size=4)
    copy = twins.prepared(network, images, "data", own)
    outputs, jacobian = twins.jacobian(copy, images)
    assert_equal(found, twins.moments("cross_entropy", outputs, jacobian, labels), 1e-8)


def test_the_linear_network_is_the_closed_form():
    """H = 2 a a^T times the second moment of the mean patches."""
    network = LinearCNN(2, 3, 2, head=[1.0, -2.0, 0.5], dtype=FLOAT, rngs=nnx.Rngs(0))
    found = tangent_moments(network, IMAGES, TARGETS["mse"][:, 0], loss="mse")
    windows = np.lib.stride_tricks.sliding_window_view(IMAGES, (2, 2), axis=(1, 2))
    patches = windows.mean(axis=(1, 2)).transpose(0, 2, 3, 1).reshape(7, -1)
    head = np.array([1.0, -2.0, 0.5])
    second = patches.T @ patches / 7
    np.testing.assert_allclose(
        found.curvature,
        2 * np.einsum("k,l,de->kdle", head, head, second),
        rtol=0,
        atol=1e-12,
    )


def test_another_layer_behind_batch_norms():
    network, _ = NETWORKS["small"]
    copy = twins.prepared(
        network, IMAGES, "data", lambda network: network.features.layers[4]
    )
    found = tangent_moments(
        network, IMAGES, LABELS, loss="cross_entropy", layer="features.layers.3"
    )
    outputs, jacobian = twins.jacobian(
        copy, IMAGES, layer=lambda network: network.features.layers[3]
    )
    assert_equal(found, twins.moments("cross_entropy", outputs, jacobian, LABELS))


def test_blocks_are_those_of_the_whole():
    network, _ = NETWORKS["small"]
    whole, blocks = (
        tangent_moments(network, IMAGES, LABELS, loss="cross_entropy", blocks=blocks)
        for blocks in (False, True)
    )
    for name in ("curvature", "gradient_moment"):
        diagonal = np.einsum("kdke->kde", getattr(whole, name))
        assert getattr(blocks, name).shape == (4, 18, 18)
        np.testing.assert_allclose(getattr(blocks, name), diagonal, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(blocks.drive, whole.drive)


@pytest.mark.parametrize(
    ("loss", "statistics"),
    [("cross_entropy", "data"), ("mse", "data"), ("cross_entropy", "batch")],
)
def test_sampled_curvature_has_the_exact_one_as_its_mean(loss, statistics):
    network, _ = NETWORKS["small"]
    settings = {"loss": loss, "statistics": statistics, "batch_size": 7}
    exact = tangent_moments(network, IMAGES, TARGETS[loss], **settings)
    sampled = [
        tangent_moments(
            network,
            IMAGES,
            TARGETS[loss],
            labels="sampled",
            samples=100,
            key=jax.random.fold_in(KEY, index),
            **settings,
        )
        for index in range(60)
    ]
    draws = np.array([moments.curvature for moments in sampled])
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    largest = np.abs(exact.curvature).max()
    assert error.max() < 0.05 * largest  # a factor of 2 would not pass
    scores = (draws.mean(axis=0) - exact.curvature) / np.maximum(error, 1e-9 * largest)
    assert np.abs(scores).max() < 5  # of 5,184, though hardly independent
    np.testing.assert_allclose(sampled[0].drive, exact.drive, rtol=0, atol=1e-15)


def test_given_labels_make_the_empirical_fisher_matrix():
    network, _ = NETWORKS["small"]
    given = tangent_moments(
        network, IMAGES, LABELS, loss="cross_entropy", labels="given"
    )
    exact = tangent_moments(network, IMAGES, LABELS, loss="cross_entropy")
    np.testing.assert_array_equal(given.curvature, given.gradient_moment)
    np.testing.assert_allclose(given.curvature, exact.gradient_moment, rtol=1e-12)


def test_later_norms_take_the_first_images_alone_if_told_so():
    network, own = NETWORKS["small"]
    found, all_images = (
        tangent_moments(
            network, IMAGES, LABELS, loss="cross_entropy", statistics_images=number
        )
        for number in (2, 7)
    )
    copy = twins.prepared(network, IMAGES, "data", own)
    first = nnx.clone(copy)
    own(first).use_running_average = True
    second = first.features.layers[4]
    second.use_running_average = False
    first(IMAGES[:2])
    copy.features.layers[4].mean[...] = second.mean[...]
    copy.features.layers[4].var[...] = second.var[...]
    outputs, jacobian = twins.jacobian(copy, IMAGES)
    assert_equal(found, twins.moments("cross_entropy", outputs, jacobian, LABELS))
    assert np.abs(found.drive - all_images.drive).max() > 1e-3


def test_dropout_is_drawn_in_training_alone():
    network, _ = NETWORKS["own"]
    without = nnx.clone(network)
    without.set_attributes(nnx.Dropout, rate=0.0)

    def drive(network, statistics):
        return tangent_moments(
            network,
            IMAGES,
            LABELS,
            loss="cross_entropy",
            labels="given",
            statistics=statistics,
            batch_size=3,
        ).drive

    for statistics in ("data", "running"):
        np.testing.assert_array_equal(
            drive(network, statistics), drive(without, statistics)
        )
    drawn = drive(network, "batch")
    assert np.abs(drawn - drive(without, "batch")).max() > 0.01
    np.testing.assert_array_equal(drawn, drive(network, "batch"))
    other = nnx.clone(network)
    nnx.reseed(other, default=5, dropout=5)
    assert np.abs(drawn - drive(other, "batch")).max() > 0.01


def test_the_network_is_read_and_not_changed_whatever_its_mode():
    network = NETWORKS["own"][0]
    for statistics in ("data", "running", "batch"):
        found = []
        for mode in ("train", "eval"):
            copy = nnx.clone(network)
            getattr(copy, mode)()
            graph, before = nnx.graphdef(copy), arrays(copy)
            found.append(
                tangent_moments(
                    copy,
                    IMAGES,
                    LABELS,
                    loss="cross_entropy",
                    statistics=statistics,
                    batch_size=3,
                )
            )
            assert nnx.graphdef(copy) == graph
            jax.tree.map(np.testing.assert_array_equal, arrays(copy), before)
        np.testing.assert_array_equal(found[0].curvature, found[1].curvature)
        np.testing.assert_array_equal(found[0].drive, found[1].drive)


def arrays(network):
    """Copies of all variables but the random keys."""
    return jax.tree.map(
        lambda leaf: np.array(leaf),
        nnx.as_pure(
            nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngCount))
        ),
    )


@pytest.mark.parametrize(("statistics", "running"), [("data", False), ("batch", True)])
def test_the_statistics_decide_whatever_the_network_says(statistics, running):
    stubborn = twins.Stubborn(running, rngs=nnx.Rngs(0))
    pliant = twins.Own(rngs=nnx.Rngs(0))
    found, expected = (
        tangent_moments(
            network,
            IMAGES,
            LABELS,
            loss="cross_entropy",
            labels="given",
            statistics=statistics,
            batch_size=3,
        )
        for network in (stubborn, pliant)
    )
    np.testing.assert_allclose(found.drive, expected.drive, rtol=0, atol=1e-15)


@pytest.mark.float32
def test_float32_networks_lose_their_own_precision_alone():
    images = IMAGES.astype(np.float32)
    network = SmallCNN(
        3, in_features=2, features=(4, 3), batch_norm=True, rngs=nnx.Rngs(1)
    )
    found = tangent_moments(network, images, LABELS, loss="cross_entropy", batch_size=3)
    copy = twins.prepared(
        network, images, "data", lambda network: network.features.layers[0]
    )
    outputs, jacobian = twins.jacobian(copy, jnp.asarray(images))
    expected = twins.moments("cross_entropy", outputs, jacobian, LABELS)
    assert_equal(found, expected, 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_may_be_jax_arrays(dtype):
    network, _ = NETWORKS["without"]
    found, expected = (
        tangent_moments(network, images, LABELS, loss="cross_entropy", labels="given")
        for images in (jnp.asarray(IMAGES, dtype), IMAGES.astype(dtype))
    )
    np.testing.assert_array_equal(found.drive, expected.drive)
