"""The closed form of the linearised first layer against a network whose first layer is
really trained: the larger its outputs are for the same weights, the less it moves, and
the closer they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linear_cnn
import theory

STEPS = 100


class Scaled(nnx.Module):
    """What a small network has learnt, times a scale."""

    def __init__(self, scale: float) -> None:
        make: dict[str, Any] = {"features": (8, 16), "dtype": jnp.float64}
        self.network = linear_cnn.SmallCNN(1, rngs=nnx.Rngs(0), **make)
        self.start = linear_cnn.SmallCNN(1, rngs=nnx.Rngs(0), **make)
        self.scale = scale

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.scale * (self.network(images) - self.start(images))


def relative_error(scale: float) -> float:
    """Of the change of conv1 after full-batch gradient descent, all else frozen."""
    images = linear_cnn.scale_pixels(linear_cnn.photographs().images[:60, :16, :16])
    images = np.asarray(images, np.float64) - 0.5
    targets = np.random.default_rng(0).choice([-1.0, 1.0], size=(60, 1))
    model = Scaled(scale)
    tangent = linear_cnn.tangent_moments(
        model, images, targets, loss="mse", layer="network.conv1"
    )
    n = tangent.drive.size
    largest = np.linalg.eigvalsh(tangent.curvature.reshape(n, n))[-1]
    rate = 0.03 / largest  # the fastest mode decays by e^3 within the run
    predicted = theory.quadratic_descent(tangent.curvature, tangent.drive, rate).change(
        STEPS
    )
    graph, *variables = nnx.split(model, nnx.Param, ...)
    parameters, rest = map(nnx.as_pure, variables)
    network = parameters["network"]

    def loss(kernel: jax.Array) -> jax.Array:
        conv1 = {"conv1": network["conv1"] | {"kernel": kernel}}
        moved = parameters | {"network": network | conv1}
        whole: Any = nnx.merge(graph, moved, rest, copy=True)
        return jnp.mean(jnp.sum((whole(images) - targets) ** 2, axis=1))

    start = jnp.asarray(model.network.conv1.kernel[...])
    trained = jax.lax.fori_loop(
        0, STEPS, lambda _, kernel: kernel - rate * jax.grad(loss)(kernel), start
    )
    change = np.asarray(trained - start).reshape(-1, start.shape[-1]).T
    assert np.linalg.norm(change) > 0
    error = np.linalg.norm(change - predicted) / np.linalg.norm(change)
    return float(error)


@pytest.mark.slow
def test_the_linearised_first_layer_is_that_of_large_outputs() -> None:
    errors = [relative_error(scale) for scale in (1.0, 10.0, 100.0)]
    assert errors[2] < 0.05
    # Twice as exact at least for outputs ten times as large.
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
