"""First layers of networks whose input has not 3 channels."""

import numpy as np
import pytest
from flax import nnx

import linear_cnn
import theory
from tests.linear_cnn.weight_files.writers import FORMATS, NAME, every_format, written

RANDOM = np.random.default_rng(5)
LATER = {"later": RANDOM.normal(size=(8, 6, 3, 3)).astype(np.float32)}


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@every_format
def test_other_numbers_of_channels(tmp_path, kind, channels):
    weights = RANDOM.normal(size=(6, channels, 5, 5)).astype(np.float32)
    file = written(kind, tmp_path / "file", {NAME: weights}, LATER)
    layer = linear_cnn.load_first_layer(file, channels=channels)
    np.testing.assert_array_equal(layer.kernel, weights.transpose(2, 3, 1, 0))
    assert (layer.name, layer.format) == (NAME, FORMATS[kind][1])
    # The error says what would take it, in two ways of asking.
    hint = f"channels={channels}"
    if channels <= 4:
        with pytest.raises(ValueError, match=rf"3 input channels .*{hint};"):
            linear_cnn.load_first_layer(file)
    with pytest.raises(ValueError, match=rf"3 input channels.*{hint}\."):
        linear_cnn.load_first_layer(file, NAME)


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_grey_and_of_four_channels_in_memory(channels):
    network = linear_cnn.SmallCNN(in_features=channels, rngs=nnx.Rngs(0))
    layer = linear_cnn.first_layer(network, channels=channels)
    np.testing.assert_array_equal(layer.kernel, network.conv1.kernel[...])
    images = RANDOM.uniform(size=(20, 8, 8, channels)).astype(np.float32)
    spectrum = theory.patch_spectrum(images, layer.kernel.shape[:2])
    profile = theory.energy_profile(layer.kernel, spectrum.components)
    assert profile.shape == (9 * channels,)


def test_convolutions_of_single_channels_are_candidates_beside_a_grey_layer():
    weights = {
        "stem": np.ones((6, 1, 5, 5), np.float32),
        "depthwise": np.ones((6, 1, 3, 3), np.float32),
    }
    with pytest.raises(ValueError, match=r"several .*'depthwise'.*'stem'"):
        linear_cnn.first_layer(weights, channels=1)
    assert linear_cnn.first_layer(weights, "stem", channels=1).kernel.shape[2] == 1


def test_a_lone_grey_kernel_and_what_is_no_kernel():
    """(3, 3, 1, 12) could be 3 filters of 1x12 pixels and 3 channels."""
    for name in (None, "w"):
        with pytest.raises(ValueError, match=r"channels=1[;.]"):
            linear_cnn.first_layer({"w": np.ones((3, 3, 1, 12))}, name)
    with pytest.raises(ValueError, match=r"no convolution with 3 input channels\.$"):
        linear_cnn.first_layer({"w": np.ones(12)}, "w")


def test_a_layer_before_one_of_three_channels():
    weights = {"grey": np.ones((3, 1, 5, 5)), "next": np.ones((8, 3, 5, 5))}
    with pytest.raises(ValueError, match=r"'grey'.*before 'next'.*channels= or name="):
        linear_cnn.first_layer(weights)
    assert linear_cnn.first_layer(weights, channels=1).name == "grey"


@pytest.mark.parametrize("channels", [0, -1, 1.5, "1"])
def test_bad_numbers_of_channels(channels):
    with pytest.raises((ValueError, TypeError), match="channels"):
        linear_cnn.first_layer(np.ones((5, 5, 3, 2)), channels=channels)


def test_the_order_of_colours_is_one_of_three_channels():
    with pytest.raises(ValueError, match=r"'BGR' is an order of 3 .* channels=1"):
        linear_cnn.first_layer(np.ones((5, 5, 1, 2)), channels=1, channel_order="BGR")
