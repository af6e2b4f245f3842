"""Derivatives of convolution and `max_pool`, in both modes, against those of XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from linear_cnn import patch_convolution
from linear_cnn.networks._convolution import convolution
from linear_cnn.networks._pooling import max_pool
from tests.linear_cnn.test_convolution import NHWC, random_arrays


def derivatives(function, arrays, along):
    """Of a function to a number, in forward mode, in reverse mode, and in both."""
    each = tuple(range(len(arrays)))
    gradient = jax.grad(function, each)

    def slope(*arrays):
        return jax.jvp(function, arrays, along)[1]

    def mapped(*arrays):
        return jax.vmap(function)(*arrays).sum()

    @jax.jit
    def compute(*arrays):
        two = [jnp.stack([array, -array]) for array in arrays]
        return {
            "forward": slope(*arrays),
            "linearized": jax.linearize(function, *arrays)[1](*along),
            "forward of forward": jax.jvp(slope, arrays, along)[1],
            "forward of reverse": jax.jvp(gradient, arrays, along)[1],
            "reverse of forward": jax.grad(slope, each)(*arrays),
            "reverse of reverse": jax.grad(
                lambda *arrays: sum(jnp.sin(g).sum() for g in gradient(*arrays)), each
            )(*arrays),
            "many of reverse": jax.vmap(gradient)(*two),
            "reverse of many": jax.grad(mapped, each)(*two),
        }

    return compute(*arrays)


def assert_same_derivatives(own, other, arrays, along, atol):
    own, other = (derivatives(function, arrays, along) for function in (own, other))
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(own), jax.tree.leaves(other), strict=True
    ):
        assert ours.dtype == arrays[0].dtype
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=atol * np.abs(theirs).max(), err_msg=str(path)
        )


@pytest.mark.parametrize(
    ("backend", "size", "widths", "strides", "dtype", "atol"),
    [
        ("cpu", (3, 2), (2, 2), (1, 2), np.float64, 1e-13),
        ("gpu", (3, 2), (2, 2), (1, 2), np.float64, 1e-13),
        # As Winograd's algorithm.
        ("cpu", (3, 3), (16, 17), (1, 1), np.float64, 1e-12),
        pytest.param(
            *("cpu", (3, 3), (16, 16), (1, 1), np.float32, 1e-4),
            marks=pytest.mark.float32,
        ),
    ],
)
def test_derivatives_of_every_mode_and_order_equal_those_of_xla(
    monkeypatch, backend, size, widths, strides, dtype, atol
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    shapes = (1, 3, 4, widths[0]), (*size, *widths)
    *arrays, images, kernel = random_arrays(*shapes, *shapes, dtype=dtype)

    def loss(convolve):
        return lambda images, kernel: jnp.sin(
            convolve(images, kernel, strides, "SAME", dimension_numbers=NHWC)
        ).sum()

    own, other = loss(convolution), loss(lax.conv_general_dilated)
    assert_same_derivatives(own, other, tuple(arrays), (images, kernel), atol)


def test_jacobians_are_those_of_either_mode():
    images, kernel = random_arrays((1, 3, 3, 1), (2, 2, 1, 2))

    def responses(kernel):
        return jnp.sin(patch_convolution(images, kernel, (1, 1), "VALID"))

    forward, reverse = jax.jacfwd(responses)(kernel), jax.jacrev(responses)(kernel)
    assert np.abs(forward).max() > 0.1
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-14)


def test_derivatives_of_max_pool_equal_those_of_xla():
    (along,) = random_arrays((1, 4, 6, 3))
    images = (jnp.arange(72.0) % 5).reshape(1, 4, 6, 3)  # with ties
    own, other = (
        lambda images, pool=pool: jnp.sin(pool(images)).sum()
        for pool in (max_pool, lambda images: nnx.max_pool(images, (2, 2), (2, 2)))
    )
    assert_same_derivatives(own, other, (images,), (along,), 1e-15)
