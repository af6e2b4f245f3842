"""The noise of minibatches against its recursion, and against SGD that was run."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory

K, D = 2, 3


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curvature and a covariance (K, D, K, D), and components (D, D)."""
    random = np.random.default_rng(seed)

    def second_moment() -> np.ndarray:
        rows = random.normal(size=(20, K * D)) * np.geomspace(1, 0.1, K * D)
        return (rows.T @ rows / 20).reshape(K, D, K, D)

    components = np.linalg.qr(random.normal(size=(D, D)))[0]
    return second_moment(), second_moment(), components


def profile_of(covariance: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Of the covariance of the weights, by its definition."""
    blocks = covariance.reshape(K, D, K, D)
    energy = [
        np.mean([u @ blocks[k, :, k] @ u for k in range(K)]) for u in components.T
    ]
    return np.sqrt(energy)


@pytest.mark.parametrize("given", [False, True])
def test_steps_against_the_recursion(given: bool) -> None:
    curvature, covariance, components = problem()
    rate, size = 0.4, 5
    dynamics = theory.quadratic_descent(curvature, np.ones((K, D)), rate)
    h, noise = (m.reshape(K * D, K * D) for m in (curvature, covariance))
    noise = noise if given else h
    keep, total = np.eye(K * D) - rate * h, np.zeros_like(h)
    expected = []
    for _ in range(31):
        expected.append(profile_of(total, components))
        total = keep @ total @ keep + rate**2 / size * noise
    found = theory.gradient_noise_profile(
        dynamics,
        np.array([[0, 1], [7, 30]]),
        components,
        batch_size=size,
        covariance=covariance if given else None,
    )
    assert found.shape == (2, 2, D)
    wanted = np.array([[expected[0], expected[1]], [expected[7], expected[30]]])
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("given", [False, True])
def test_continuous_time_against_a_quadrature(given: bool) -> None:
    curvature, covariance, components = problem(1)
    rate, size, t = 0.1, 4, 25.0
    h, noise = (m.reshape(K * D, K * D) for m in (curvature, covariance))
    values, vectors = np.linalg.eigh(h)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = np.zeros_like(h)
    for node, weight in zip(t * (nodes + 1) / 2, t * weights / 2, strict=True):
        left = (vectors * np.exp(-rate * node * values)) @ vectors.T
        total += weight * rate**2 / size * left @ (noise if given else h) @ left
    dynamics = theory.quadratic_descent(
        curvature, np.ones((K, D)), rate, continuous=True
    )
    found = theory.gradient_noise_profile(
        dynamics,
        t,
        components,
        batch_size=size,
        covariance=covariance if given else None,
    )
    np.testing.assert_allclose(found, profile_of(total, components), rtol=1e-10)


@pytest.mark.parametrize("count", [None, 12])
def test_without_a_covariance_it_is_the_curvature_also_for_independent_filters(
    count: int | None,
) -> None:
    curvature, _, components = problem(2)
    blocks = np.einsum("kakb->kab", curvature)
    whole = np.zeros_like(curvature)
    for k in range(K):
        whole[k, :, k] = blocks[k]
    drive, times = np.zeros((K, D)), np.array([1, 10, np.inf])
    found = [
        theory.gradient_noise_profile(
            theory.quadratic_descent(matrix, drive, 0.3),
            times,
            components,
            batch_size=3,
            count=count,
            covariance=covariance,
        )
        for matrix, covariance in (
            (blocks, None),
            (blocks, blocks),
            (whole, None),
            (whole, whole),
        )
    ]
    # Of these images, or of all that labels could be drawn for.
    population = 1 if count is None else math.sqrt(count / (count - 1))
    for other, factor in zip(found, (1, population, 1, population), strict=True):
        np.testing.assert_allclose(other, factor * found[0], rtol=1e-9)
    if count is None:
        # eta / (2 B), up to the next order in the rate.
        np.testing.assert_allclose(found[0][-1], np.sqrt(0.3 / 6), rtol=0.3)


@pytest.mark.parametrize(
    ("replaced", "steps", "size"),
    [(True, 40, 3), (False, 40, 3), (False, 42, 3), (False, 40, 5)],
)
def test_sgd_that_was_run(replaced: bool, steps: int, size: int) -> None:
    """Least squares on few images; batches with replacement, or epochs of all."""
    random = np.random.default_rng(3)
    images, rate, runs = 12, 0.05, 4000
    jacobians = random.normal(size=(images, K * D)) * np.geomspace(2, 0.2, K * D)
    h = jacobians.T @ jacobians / images
    gradients = jacobians * random.normal(size=images)[:, None]
    drive = gradients.mean(axis=0)
    covariance = np.cov(gradients.T, bias=True)
    weights, per_epoch = np.zeros((runs, K * D)), images // size
    for step in range(steps):
        if replaced:
            chosen = random.integers(images, size=(runs, size))
        else:
            place = step % per_epoch
            if place == 0:
                order = random.permuted(np.tile(np.arange(images), (runs, 1)), axis=1)
            chosen = order[:, place * size : (place + 1) * size]
        # Of the noise, held fixed, and of the curvature of all images.
        noise = gradients[chosen].mean(axis=1) - drive
        weights -= rate * (weights @ h + noise)
    energy = (weights.reshape(runs, K, D) ** 2).mean(axis=1)
    dynamics = theory.quadratic_descent(
        h.reshape(K, D, K, D), drive.reshape(K, D), rate
    )
    found = np.asarray(
        theory.gradient_noise_profile(
            dynamics,
            steps,
            np.eye(D),
            batch_size=size,
            count=None if replaced else images,
            covariance=covariance.reshape(K, D, K, D),
        )
    )
    error = energy.std(axis=0) / np.sqrt(runs)
    assert (np.abs(energy.mean(axis=0) - found**2) < 4 * error).all()
    assert (found**2 > 20 * error).all()


@pytest.mark.parametrize("continuous", [False, True])
def test_epochs_of_all_images(continuous: bool) -> None:
    """Nothing is left of slow modes after an epoch, and everything within one."""
    dynamics = theory.quadratic_descent(
        np.diag([3.0, 1e-7])[None], np.zeros((1, 2)), 0.1, continuous=continuous
    )
    times = np.array([0, 50, 100, 1000, np.inf])
    known = {"batch_size": 2, "covariance": np.eye(2)[None]}
    found, replaced = (
        np.asarray(
            theory.gradient_noise_profile(
                dynamics, times, np.eye(2), count=count, **known
            )
        )
        for count in (200, None)
    )
    np.testing.assert_array_equal(found[0], 0)
    # Half of an epoch leaves half of the energy to slow modes, the whole nothing.
    ratio = found[1:] / replaced[1:]
    np.testing.assert_allclose(ratio[0, 1], np.sqrt(0.5 * 200 / 199), rtol=1e-4)
    assert (ratio[1:3, 1] < 1e-4).all()
    # A fast mode has forgotten the beginning of the epoch.
    assert (np.abs(ratio[:, 0] - 1) < 0.1).all()


def test_one_step_an_epoch_has_no_noise() -> None:
    curvature, covariance, components = problem()
    dynamics = theory.quadratic_descent(curvature, np.zeros((K, D)), 0.1)
    found = theory.gradient_noise_profile(
        dynamics,
        [1, 5],
        components,
        batch_size=20,
        count=20,
        covariance=covariance,
    )
    assert np.abs(found).max() < 1e-8


def test_slow_modes_only_add_up() -> None:
    curvature = np.diag([1.0, 1e-9, 0.0])[None]
    covariance = np.eye(3)[None]
    dynamics = theory.quadratic_descent(curvature, np.zeros((1, 3)), 0.1)
    found = theory.gradient_noise_profile(
        dynamics, 100, np.eye(3), batch_size=1, covariance=covariance
    )
    np.testing.assert_allclose(np.asarray(found)[1:], 0.1 * 10, rtol=1e-6)


@pytest.mark.float32
def test_under_transformations_and_in_float32() -> None:
    curvature, covariance, components = (
        value.astype(np.float32) for value in problem(4)
    )
    times = np.array([1.0, 20.0], np.float32)

    def noise(rate: jax.Array) -> jax.Array:
        dynamics = theory.quadratic_descent(
            jnp.asarray(curvature),
            jnp.zeros((K, D), jnp.float32),
            rate,
            continuous=True,
        )
        return theory.gradient_noise_profile(
            dynamics, times, components, batch_size=2, covariance=covariance
        )

    rates = jnp.asarray([0.01, 0.1], jnp.float32)
    mapped = jax.jit(jax.vmap(noise))(rates)
    for rate, found in zip((0.01, 0.1), mapped, strict=True):
        np.testing.assert_allclose(found, noise(jnp.float32(rate)), rtol=1e-4)
    slope = jax.grad(lambda rate: noise(rate).sum())(jnp.float32(0.1))
    assert bool(jnp.isfinite(slope))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"count": 1}, "count must be at least the batch size 2"),
        ({"components": np.eye(4)}, "components must have shape"),
        ({"components": 2 * np.eye(D)}, "orthonormal"),
        ({"t": -1}, "negative|>= 0"),
        ({"covariance": np.ones((K, D))}, "covariance must have shape"),
        ({"covariance": np.full((K, D, K, D), np.nan)}, "covariance"),
        ({"covariance": -np.ones((K, D, K, D))}, "covariance must be positive"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    curvature, _, components = problem()
    dynamics = theory.quadratic_descent(curvature, np.ones((K, D)), 0.1)
    known = {"t": 1, "components": components, "batch_size": 2} | change
    with pytest.raises(ValueError, match=message):
        theory.gradient_noise_profile(dynamics, **known)
    with pytest.raises(TypeError, match="quadratic_descent"):
        theory.gradient_noise_profile(
            replace(dynamics).curvature, 1, components, batch_size=2
        )
