"""The closed form of gradient descent against Flax networks that are really trained, by
autodiff and optax.

Every comparison asserts that the simulation moved far, that theory follows it, and that
deliberately wrong formulas do not.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import theory
from linear_cnn import LinearCNN, compress, mean_patch_images, train

RATE = 0.2
SGD = optax.sgd(RATE)
RECORDS = (0, 1, 2, 3, 10, 31, 100, 1000)
KEY = jax.random.key(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network, and how many images to train it on."""

    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: str | Sequence[tuple[int, int]]
    head: np.ndarray
    count: int
    dtype: type = jnp.float64

    def init(self, key):
        return self._network(key, stride=self.strides, padding=self.padding)

    def init_on_mean_patches(self, key):
        return self._network(key)

    def _network(self, key, **geometry):
        settings = {
            "head": self.head,
            "init_std": 0.2,
            "dtype": self.dtype,
            "rngs": nnx.Rngs(key),
        }
        return LinearCNN(2, len(self.head), self.kernel_size, **geometry, **settings)

    def moments(self, images, targets):
        return theory.mean_patch_moments(
            images, targets, self.kernel_size, stride=self.strides, padding=self.padding
        )


HEADS = np.random.default_rng(1).normal(size=(4, 4))
ONE_OUTPUT = Case((3, 2), (1, 1), "VALID", HEADS[0], 20)
# Fewer images than pixels in a patch.
STRIDES_AND_SAME = Case((3, 3), (2, 1), "SAME", HEADS[:, :2], 10)
# 3 filters, 4 outputs.
RANK_TWO = Case((2, 2), (1, 2), ((1, 0), (2, 1)), HEADS[:3, :2] @ HEADS[:2], 20)
SINGLE = dataclasses.replace(ONE_OUTPUT, dtype=jnp.float32)


def data(case, *, x_max=0.9, image_mean=0.0, target_mean=0.0):
    """Random images and targets; in the fastest mode the filters approach their limit
    by x_max in each step."""
    random = np.random.default_rng(2)
    pixels = random.normal(size=(case.count, 7, 8, 2))
    # Neighbouring pixels are alike, as in photographs.
    images = (
        pixels + np.roll(pixels, 1, axis=1) + np.roll(pixels, 1, axis=2) + image_mean
    )
    targets = random.normal(size=(case.count, *case.head.shape[1:])) + target_mean
    border = theory.largest_stable_learning_rate(
        case.moments(images, targets), case.head
    )
    return (images * np.sqrt(float(x_max * border / (2 * RATE)))).astype(
        case.dtype
    ), targets


def simulate(init, images, targets):
    """The trajectory in NumPy, after asserting that it went far."""
    trajectory = train(
        init, images, targets, optimizer=SGD, steps=1000, key=KEY, record_steps=RECORDS
    )
    kernels = np.asarray(trajectory.conv1, np.float64)
    assert np.abs(kernels - kernels[0]).max() > np.abs(kernels[0]).max() / 2
    assert trajectory.loss[-1] < 0.8 * trajectory.loss[0]
    return kernels


def distance(kernels, simulated):
    """Largest deviation relative to how far the simulation moved."""
    return np.abs(kernels - simulated).max() / np.abs(simulated - simulated[0]).max()


def assert_theory_follows(case, images, targets, simulated, tolerance=1e-9):
    moments = case.moments(images, targets)

    def error(moments=moments, rate=RATE):
        dynamics = theory.gradient_descent(moments, case.head, rate)
        return distance(
            np.asarray(dynamics.kernel(np.array(RECORDS), simulated[0])), simulated
        )

    spectrum = theory.patch_spectrum(
        images,
        case.kernel_size,
        stride=case.strides,
        padding=case.padding,
        center=False,
    )
    u = np.asarray(spectrum.components)
    patch_moment = (u * np.asarray(spectrum.variance)) @ u.T / moments.patches_per_image
    centred = moments.second - np.outer(moments.mean, moments.mean)
    assert error() <= tolerance
    assert error(rate=RATE / 2) > 0.1
    assert error(dataclasses.replace(moments, second=patch_moment)) > 0.1
    assert error(dataclasses.replace(moments, second=centred)) > 0.1


@pytest.mark.parametrize(
    ("case", "properties"),
    [
        (ONE_OUTPUT, {}),
        (ONE_OUTPUT, {"x_max": 1.8}),
        (ONE_OUTPUT, {"image_mean": 0.7, "target_mean": 2.0}),
        (STRIDES_AND_SAME, {"target_mean": 1.0}),
        (RANK_TWO, {"image_mean": 0.5, "x_max": 1.5}),
    ],
)
def test_theory_follows_the_trained_network(case, properties):
    images, targets = data(case, **properties)
    fastest = theory.gradient_descent(
        case.moments(images, targets), case.head, RATE
    ).rates.max()
    # Above 1 the mode oscillates.
    assert fastest == pytest.approx(properties.get("x_max", 0.9))
    assert_theory_follows(case, images, targets, simulate(case.init, images, targets))


@pytest.mark.float32
def test_theory_follows_the_network_in_float32():
    images, targets = data(SINGLE)
    assert_theory_follows(
        SINGLE, images, targets, simulate(SINGLE.init, images, targets), tolerance=1e-2
    )


@pytest.mark.parametrize("case", [ONE_OUTPUT, STRIDES_AND_SAME])
def test_smaller_data_give_the_same_trajectory(case):
    images, targets = data(case)
    full = simulate(case.init, images, targets)
    small = mean_patch_images(
        images, case.kernel_size, stride=case.strides, padding=case.padding
    )
    compressed, projected = compress(small, targets)
    d = np.prod(small.shape[1:])
    assert (len(compressed) == d < case.count) or (len(compressed) == case.count < d)
    assert distance(simulate(case.init_on_mean_patches, small, targets), full) <= 1e-9
    assert (
        distance(simulate(case.init_on_mean_patches, compressed, projected), full)
        <= 1e-9
    )
    shifted = jnp.roll(small, 1, axis=1)  # as if the padding were off by a pixel
    assert distance(simulate(case.init_on_mean_patches, shifted, targets), full) > 0.1
