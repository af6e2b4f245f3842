"""phi_t(x) against many-digit arithmetic, over every regime of x and t."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from theory import geometric_sum
from theory.geometric_sum import decay

RATES = [
    *(
        0,
        1e-300,
        1e-200,
        1e-100,
        1e-30,
        1e-20,
        1e-16,
        1e-12,
        1e-9,
        1e-7,
        1e-5,
        1e-3,
        0.01,
        0.05,
        0.1,
        0.3,
        0.5,
        0.7,
    ),
    *(
        0.9,
        0.99,
        0.999999,
        1 - 1e-12,
        1,
        1 + 1e-12,
        1.000001,
        1.01,
        1.1,
        1.3,
        1.5,
        1.7,
        1.9,
        1.99,
        1.9999,
        1.999999,
    ),
]
STEPS = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    10,
    11,
    99,
    100,
    1001,
    1e4,
    1e5 + 1,
    1e6,
    1e7 + 1,
    3e7,
    1e9,
    1e12,
    np.inf,
]


def exact(x, t):
    """phi_t(x), its derivative, and (1-x)^t, in as many digits as x = 1e-300 needs."""
    with mpmath.workdps(750):
        x = mpmath.mpf(float(x))
        if np.isinf(t):
            return 1 / x, -1 / x**2, mpmath.mpf(0)
        t = int(t)
        if t <= 1:
            return mpmath.mpf(t), mpmath.mpf(0), (1 - x) ** t
        if x == 0:
            return mpmath.mpf(t), mpmath.mpf(-t * (t - 1)) / 2, mpmath.mpf(1)
        before = (1 - x) ** (t - 1)
        total = (1 - before * (1 - x)) / x
        return total, (t * before - total) / x, before * (1 - x)


@jax.jit
@jax.vmap
def value_and_derivative(x, t):
    return jax.value_and_grad(geometric_sum)(x, t)


def check_on_the_grid(dtype, tolerance):
    """Every x and t of the lists, rounded to the dtype first; where the result
    overflows, so must the exact one."""
    points = [
        (x, t)
        for x in np.unique(np.array(RATES, dtype))
        for t in np.array(STEPS, dtype)
    ]
    points = [(x, t) for x, t in points if x > 0 or np.isfinite(t)]
    values, derivatives = value_and_derivative(*np.array(points, dtype).T)
    assert values.dtype == derivatives.dtype == dtype
    for point, value, derivative in zip(
        points, np.asarray(values), np.asarray(derivatives), strict=True
    ):
        for name, computed, reference in zip(
            ("value", "derivative"), (value, derivative), exact(*point), strict=False
        ):
            assert not np.isnan(computed), (name, point)
            if np.isinf(computed):
                assert abs(reference) > np.finfo(dtype).max, (name, point)
            else:
                error = abs(mpmath.mpf(float(computed)) - reference)
                assert error <= tolerance * abs(reference), (
                    name,
                    point,
                    computed,
                    mpmath.nstr(reference, 17),
                )


def test_values_and_derivatives_in_float64():
    check_on_the_grid(np.float64, 1e-12)


@pytest.mark.float32
def test_values_and_derivatives_in_float32():
    check_on_the_grid(np.float32, 1e-5)


def test_it_is_the_sum_of_a_geometric_series():
    x = np.linspace(0, 1.99, 12)
    for t in (0, 1, 2, 7, 40):
        expected = sum(((1 - x) ** s for s in range(t)), np.zeros_like(x))
        np.testing.assert_allclose(
            geometric_sum(x, t), expected, rtol=1e-12, atol=1e-13
        )


@pytest.mark.float32
def test_limits():
    cases = [
        # x, t, phi, derivative
        (0, 9, 9, -9 * 8 / 2),
        (0, np.inf, np.inf, -np.inf),
        (0.5, np.inf, 2, -4),
        (1, 0, 0, 0),
        (1, 3, 1, -1),
        (2, 4, 0, -2),  # the border of stability: a mode swings for ever
        (2, 5, 1, 2),
    ]
    x, t, values, derivatives = np.array(cases).T
    results = value_and_derivative(jnp.asarray(x), jnp.asarray(t))
    np.testing.assert_array_equal(results[0], values)
    np.testing.assert_allclose(results[1], derivatives, rtol=1e-6)


@pytest.mark.float32
def test_every_way_of_calling_gives_the_same():
    x = np.array([0, 0.3, 1, 1.7], np.float32)
    t = np.array([0, 1, 8], np.int32)
    grid = geometric_sum(x[:, None], t)
    assert grid.shape == (4, 3)
    assert grid.dtype == np.float32
    np.testing.assert_array_equal(geometric_sum(x, t[:, None]), grid.T)
    # Rounded.
    np.testing.assert_array_equal(
        geometric_sum(x[:, None], t.astype(np.float32) + np.float32(0.3)), grid
    )
    mapped = jax.vmap(jax.vmap(geometric_sum, (None, 0)), (0, None))(
        jnp.asarray(x), jnp.asarray(t)
    )
    np.testing.assert_allclose(mapped, grid, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(geometric_sum)(x[:, None], t), grid, rtol=1e-6)
    assert geometric_sum(0.5, 10**12) == 2  # a Python integer that int32 cannot hold
    assert geometric_sum([0.5, 1.0], [1, 2]).shape == (2,)


@pytest.mark.float32
def test_steps_beyond_the_integers_that_float32_counts():
    """t - 1 rounds to t there, but its parity, the sign of (1-x)^(t-1), is still the
    opposite of t's."""
    x, t = np.float32(1.9999999), 2.0**24 + 2
    _, derivative, _ = exact(float(x), t)
    _, computed = value_and_derivative(np.array([x]), np.array([t], np.float32))
    np.testing.assert_allclose(computed, [float(derivative)], rtol=1e-4)


def test_decay_and_its_derivative():
    def both(x, t):
        return jax.value_and_grad(decay)(x, t)

    points = [
        (x, t) for x in (0, 1e-9, 0.3, 1, 1.4, 1.99) for t in (0, 1, 2, 9, 10, 1000)
    ]
    values, slopes = jax.jit(jax.vmap(both))(*np.array(points, np.float64).T)
    for (x, t), value, slope in zip(points, values, slopes, strict=True):
        np.testing.assert_allclose(value, (1 - x) ** t, rtol=1e-12)
        np.testing.assert_allclose(
            slope, -t * (1 - x) ** (t - 1) if t else 0, rtol=1e-11
        )
    assert jax.jit(both)(0.5, np.inf) == (0, 0)


@pytest.mark.parametrize("iterations", [-1, [3, -2.0], np.nan])
def test_iterations_must_not_be_negative(iterations):
    with pytest.raises(
        ValueError, match=r"iterations must be >= 0 \(infinity allowed\), got (-|nan)"
    ):
        geometric_sum(0.5, iterations)
