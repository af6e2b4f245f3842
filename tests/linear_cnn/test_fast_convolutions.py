"""Layers of one's own with JAX's default convolution train by the fast one."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from linear_cnn import patch_convolution, train, train_seeds, trained_network
from linear_cnn.networks._convolution import convolution
from linear_cnn.training._fast import with_fast_convolutions

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.normal(size=(8, 6, 5, 4)).astype(np.float32)
LABELS = np.arange(8) % 2
SETTINGS = {
    "optimizer": optax.sgd(0.1),
    "steps": 3,
    "record_steps": [3],
    "batch_size": 4,
    "loss": "cross_entropy",
}
# The last ones have nothing to gain: XLA computes them all the same.
LAYERS = {
    "plain": {},
    "strided": {"strides": (2, 1), "padding": [(2, 0), (1, 1)]},
    "circular": {"padding": "CIRCULAR"},
    "reflected": {"padding": "REFLECT", "use_bias": False},
    "precise": {"precision": "highest", "preferred_element_type": jnp.float32},
    "chosen": {"conv_general_dilated": patch_convolution},
    "dilated": {"kernel_dilation": (2, 1)},
    "spread": {"input_dilation": 2, "padding": [(1, 1), (1, 1)]},
    "grouped": {"feature_group_count": 2},
    "line": {"kernel_size": (3,), "padding": "CAUSAL"},
}
FASTER = list(LAYERS)[:5]


class Layers(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.Dict(
            {
                name: nnx.Conv(4, 6, rngs=rngs, **{"kernel_size": (3, 3)} | settings)
                for name, settings in LAYERS.items()
            }
        )
        self.layers["again"] = self.layers["plain"]

    def __call__(self, images):
        return {
            name: layer(images[0] if name == "line" else images)
            for name, layer in self.layers.items()
        }


def test_a_copy_convolves_fast_where_that_differs_and_in_all_ways_the_same():
    network = Layers(nnx.Rngs(0))
    before = nnx.graphdef(network)
    with pytest.warns(UserWarning, match=r"layers that have it \(5\)"):
        fast = with_fast_convolutions(network)
    assert nnx.graphdef(network) == before
    assert fast.layers["again"] is fast.layers["plain"]
    assert fast.layers["chosen"].conv_general_dilated is patch_convolution
    for name in LAYERS.keys() - {"chosen"}:
        used = fast.layers[name].conv_general_dilated
        assert used is (convolution if name in FASTER else lax.conv_general_dilated)
        # Given to the others too, it would have left them to XLA.
        fast.layers[name].conv_general_dilated = convolution
    chex.assert_trees_all_close(fast(IMAGES), network(IMAGES), rtol=0, atol=1e-5)


def test_a_network_with_nothing_to_gain_is_itself():
    network = Layers(nnx.Rngs(0))
    for name in FASTER:
        network.layers[name].conv_general_dilated = patch_convolution
    assert with_fast_convolutions(network) is network


class Own(nnx.Module):
    def __init__(self, key, **convolution):
        rngs = nnx.Rngs(key)
        self.conv1 = nnx.Conv(4, 3, (3, 2), rngs=rngs, **convolution)
        self.dense = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, images):
        return self.dense(nnx.relu(self.conv1(images)).mean(axis=(1, 2)))


def test_training_takes_the_fast_convolution_says_so_once_and_returns_ones_own():
    key = jax.random.key(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            fast = train(Own, IMAGES, LABELS, key=key, **SETTINGS)
    assert ["that have it (1)" in str(warning.message) for warning in caught] == [True]
    kept = train(Own, IMAGES, LABELS, key=key, fast_convolutions=False, **SETTINGS)
    chosen = train(
        lambda key: Own(key, conv_general_dilated=patch_convolution),
        *(IMAGES, LABELS),
        key=key,
        **SETTINGS,
    )
    assert np.abs(kept.conv1[-1] - kept.conv1[0]).max() > 1e-3
    chex.assert_trees_all_equal(fast.conv1, chosen.conv1)
    chex.assert_trees_all_close(fast.state, kept.state, rtol=0, atol=1e-6)
    network = trained_network(Own, fast)
    assert network.conv1.conv_general_dilated is lax.conv_general_dilated
    user = Own(key)
    user.eval()
    assert nnx.graphdef(network) == nnx.graphdef(user)


def test_many_seeds_train_without_a_grouped_convolution():
    keys = jax.random.split(jax.random.key(2), 2)

    def program(**settings):
        return (
            jax.jit(
                lambda keys: (
                    train_seeds(
                        *(Own, IMAGES, LABELS), keys=keys, **SETTINGS, **settings
                    ).conv1
                )
            )
            .lower(keys)
            .as_text()
        )

    with pytest.warns(UserWarning, match="fast_convolutions=False"):
        assert "stablehlo.convolution" not in program()
    assert "stablehlo.convolution" in program(fast_convolutions=False)
