"""`max_pool` against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linear_cnn.networks._pooling import max_pool


def xla_max_pool(images, window):
    shape = (1, window, window, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, shape, shape, "VALID")


@pytest.mark.parametrize(
    ("size", "window"),
    [((4, 6), 2), ((5, 3), 2), ((7, 8), 3), ((3, 3), 3), ((2, 3), 1)],
)
def test_max_pool_equals_that_of_xla(size, window):
    """Of entries that tie, as zeros after ReLU do, the first gets the gradient."""
    generator = np.random.default_rng(3)
    images = jnp.asarray(
        generator.integers(-2, 3, size=(3, 4, *size, 5)).clip(0), jnp.float64
    )

    @jax.jit
    def values_and_gradients(images):
        results = []
        for pool in (max_pool, xla_max_pool):
            values, pull_back = jax.vjp(
                jax.vmap(lambda images, pool=pool: pool(images, window)), images
            )
            weights = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(
                values.shape
            )
            results.append(
                (
                    values,
                    *pull_back(weights),
                    jax.vmap(lambda images, pool=pool: pool(images, window))(images),
                )
            )
        return results

    for own, other in zip(*values_and_gradients(images), strict=True):
        assert own.shape[1:] == other.shape[1:]
        np.testing.assert_array_equal(own, other)


def test_max_pool_passes_nan_on():
    images = jnp.ones((1, 2, 2, 1)).at[0, 0, 1, 0].set(jnp.nan)
    assert np.isnan(max_pool(images)).all()
    assert np.isnan(jax.vjp(max_pool, images)[0]).all()


@pytest.mark.parametrize("window", [0, 3])
def test_max_pool_refuses_windows_that_do_not_fit(window):
    with pytest.raises(ValueError, match=rf"window must be .*{window}"):
        max_pool(jnp.zeros((1, 2, 3, 1)), window)
