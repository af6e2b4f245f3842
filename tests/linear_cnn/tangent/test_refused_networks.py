"""Malformed arguments, and networks that cannot be measured, are refused by name, value
and remedy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from linear_cnn import SmallCNN, tangent_moments

RANDOM = np.random.default_rng(8)
IMAGES = RANDOM.normal(size=(7, 9, 8, 2))
LABELS = RANDOM.integers(0, 3, 7)
TARGETS = RANDOM.normal(size=(7, 3))
NETWORK = SmallCNN(3, in_features=2, features=(4, 3), batch_norm=True, rngs=nnx.Rngs(1))


def refuse(
    match, error=ValueError, network=None, images=IMAGES, targets=LABELS, **settings
):
    arguments = {"loss": "cross_entropy"} | settings
    with pytest.raises(error, match=match):
        tangent_moments(network or NETWORK, images, targets, **arguments)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (
            {"loss": "hinge"},
            ValueError,
            r"loss must be one of \['cross_entropy', 'mse'\]",
        ),
        ({"labels": "true"}, ValueError, "labels must be one of .*got 'true'"),
        ({"statistics": "all"}, ValueError, "statistics must be one of .*got 'all'"),
        ({"labels": "sampled"}, ValueError, "needs a key, e.g. key=jax.random.key"),
        ({"labels": "sampled", "key": 3}, TypeError, "key must be one JAX key"),
        ({"samples": 0}, ValueError, "samples must be >= 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"statistics_images": 0}, ValueError, "statistics_images must be >= 1, got 0"),
        ({"images": IMAGES[0]}, ValueError, "images must have shape"),
        ({"images": IMAGES[..., :1]}, ValueError, r"\(N, H, W, 2\), got"),
        ({"targets": LABELS[:-1]}, ValueError, r"\(N,\) with N = 7"),
        ({"targets": LABELS + 1}, ValueError, "must lie between 0 and 2"),
        ({"targets": TARGETS}, ValueError, r"targets must have shape \(N,\)"),
        (
            {"loss": "mse", "targets": TARGETS[:, :2]},
            ValueError,
            r"outputs have shape \(7, 3\), but the targets \(7, 2\)",
        ),
        ({"network": "VGG11"}, TypeError, "must be a flax.nnx.Module, got str"),
        (
            {"layer": "conv2"},
            ValueError,
            r"'conv2' the network does not have; its convolutions are \['conv1', 'fea",
        ),
        ({"layer": "classifier"}, ValueError, "'classifier' is a Linear that is none"),
        (
            {"memory_limit": 120_000},
            ValueError,
            r"curvature of 4 filters of 18 weights needs 0.000124 GB.*blocks=True keeps"
            r" those of single filters alone, 3.11e-05 GB",
        ),
        (
            {"memory_limit": 30_000, "blocks": True},
            ValueError,
            "needs 3.11e-05 GB, more than memory_limit = 3e-05 GB; raise the limit",
        ),
        (
            {"memory_limit": 130_000},
            ValueError,
            "gradients of a batch.*lower batch_size",
        ),
    ],
)
def test_bad_input_is_refused_by_name_value_and_remedy(settings, error, match):
    refuse(match, error, **settings)


class Wrapped(nnx.Module):
    """A convolution with something after it."""

    def __init__(self, after, *, twice=False, bias=True, **settings):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(2, 4, (3, 3), rngs=rngs, use_bias=bias, **settings)
        self.after, self.twice = nnx.List(after), twice
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        x = self.conv1(images)
        if self.twice:
            x = x + self.conv1(images)
        for layer in self.after:
            x = layer(x)
        return self.head(x.mean(axis=(1, 2)))


class OwnNorm(nnx.Module):
    def __init__(self):
        self.seen = nnx.BatchStat(jnp.zeros(4))

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("network", "settings", "match"),
    [
        (
            Wrapped([], twice=True),
            {},
            "called once by the network, but is called 2 times",
        ),
        (
            Wrapped([], bias=False),
            {"bias": True},
            "bias=True, but layer 'conv1' has none",
        ),
        (Wrapped([], feature_group_count=2), {}, "'conv1' is a Conv that is none"),
        (
            Wrapped([nnx.relu, nnx.BatchNorm(4, rngs=nnx.Rngs(0))]),
            {},
            r"takes something else; choose statistics='running' or 'batch'",
        ),
        (Wrapped([OwnNorm()]), {}, "'after.0', a OwnNorm, has batch statistics too"),
        (
            Wrapped(2 * [nnx.BatchNorm(4, rngs=nnx.Rngs(0))]),
            {},
            "'after.0' is called 2 times",
        ),
        (lambda: None, {}, "must be a flax.nnx.Module, got function"),
    ],
)
def test_networks_that_cannot_be_measured_are_refused(network, settings, match):
    refuse(
        match, (TypeError, ValueError), network, IMAGES.astype(np.float32), **settings
    )
