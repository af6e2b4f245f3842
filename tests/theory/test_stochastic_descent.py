"""Minibatches on a linear CNN: the closed form against every sequence of batches that
there is, against the recursion of its moments, and against SGD that was run."""

import itertools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.theory.twins import all_patches

FLOAT64 = jax.config.read("jax_enable_x64")
K = 2
HEAD = np.array([0.8, -1.1])
HEAD_SQUARED = HEAD @ HEAD


class Problem(NamedTuple):
    """Images of their mean patches p, (N, d), that a kernel (1, 2, C) sees at every
    second column."""

    images: np.ndarray
    targets: np.ndarray
    size: int  # of a batch
    fraction: float = 0.5  # of the largest stable rate

    @property
    def patches(self) -> np.ndarray:
        count, channels = self.images.shape[0], self.images.shape[-1]
        explicit = all_patches(self.images, (1, 2), stride=(1, 2))
        return explicit.reshape(count, -1, 2 * channels).mean(axis=1)

    @property
    def moments(self) -> theory.MeanPatchFourthMoments:
        return theory.mean_patch_fourth_moments(
            self.images, self.targets, (1, 2), stride=(1, 2)
        )

    @property
    def rate(self) -> float:
        border = theory.largest_stable_stochastic_rate(self.moments, HEAD, self.size)
        return self.fraction * float(border)

    @property
    def dynamics(self) -> theory.StochasticDynamics:
        return theory.stochastic_descent(self.moments, HEAD, self.rate, self.size)


def problem(
    count: int,
    channels: int = 1,
    size: int = 3,
    fraction: float = 0.5,
    seed: int = 0,
    mean: float = 0.4,
) -> Problem:
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, 2, 4, channels)) + mean
    targets = random.normal(size=count) + 0.5 + images[:, 0, 0, 0]
    return Problem(images, targets, size, fraction)


@pytest.mark.float32
def test_all_sequences_of_batches_and_all_starts() -> None:
    """Three images, batches of two, three steps: 9^3 sequences; weights of plus or
    minus sigma: 2^4 starts. No sampling error is left."""
    case = problem(3, size=2)
    p, y, rate, steps = case.patches, case.targets, case.rate, 3
    batches = list(itertools.product(range(3), repeat=2))
    sequences = np.array(list(itertools.product(batches, repeat=steps)))
    signs = np.array(list(itertools.product([-1, 1], repeat=2 * K)))
    starts = 0.7 * signs.reshape(-1, 1, 2, K)
    w = np.broadcast_to(starts, (16, len(sequences), 2, K))
    for step in range(steps):
        seen, wanted = p[sequences[:, step]], y[sequences[:, step]]
        error = np.einsum("nbd,sndk,k->snb", seen, w, HEAD) - wanted
        gradient = 2 * np.einsum("snb,nbd,k->sndk", error, seen, HEAD) / 2
        w = w - rate * gradient
    dynamics = case.dynamics
    kernels = starts.reshape(16, 1, 2, 1, K)
    v = w @ HEAD
    found = dynamics.predictor(steps, kernels)
    np.testing.assert_allclose(found, v.mean(axis=1), rtol=1e-12, atol=1e-13)
    deviation = v - v.mean(axis=1, keepdims=True)
    expected = np.einsum("snd,sne->sde", deviation, deviation) / len(sequences)
    assert np.abs(expected).max() > 1e-2
    found = dynamics.predictor_covariance(steps, kernels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    u = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0]
    for change in (False, True):
        energy = (u.T @ (w - starts if change else w)) ** 2
        profile = dynamics.expected_profile(
            steps, init_std=0.7, change=change, components=u
        )
        expected = np.sqrt(energy.mean(axis=(0, 1, 3)))
        np.testing.assert_allclose(profile, expected, rtol=1e-12)


def step_of_moments(case: Problem, rate: float) -> np.ndarray:
    """One step as a matrix on the second moment of (v, 1), with no solution and no
    residual in it."""
    p, y, size = case.patches, case.targets, case.size
    d = p.shape[1]
    gain = 2 * rate * HEAD_SQUARED
    each = np.zeros((len(p), d + 1, d + 1))  # of (v, 1): less the gradient of one image
    each[:, :d, :d] = -gain * p[:, :, None] * p[:, None, :]
    each[:, :d, d] = gain * p * y[:, None]
    mean, one = each.mean(axis=0), np.eye(d + 1)
    return (
        np.kron(one, one)
        + np.kron(mean, one)
        + np.kron(one, mean)
        + (1 - 1 / size) * np.kron(mean, mean)
        + np.mean([np.kron(m, m) for m in each], axis=0) / size
    )


def moments_after(case: Problem, start: np.ndarray, steps: int) -> np.ndarray:
    """Second moment of (v, 1)."""
    matrix = np.linalg.matrix_power(step_of_moments(case, case.rate), steps)
    first = np.append(start, 1)
    return (matrix @ np.kron(first, first)).reshape(len(first), -1)


# One number of images, of steps and of starts for all, so that few programs are
# compiled.
N, D = 20, 4
STEPS = np.array([0, 1, 7, 10_000, np.inf])
STARTS = np.random.default_rng(3).normal(size=(2, 1, 2, 2, K))
U = np.linalg.qr(np.random.default_rng(8).normal(size=(D, D)))[0]


@pytest.mark.parametrize(("size", "fraction"), [(1, 0.5), (3, 0.02), (64, 0.97)])
def test_steps_against_the_recursion(size: int, fraction: float) -> None:
    case = problem(N, channels=2, size=size, fraction=fraction, seed=2)
    covariance = np.asarray(case.dynamics.predictor_covariance(STEPS, STARTS))
    means = np.asarray(case.dynamics.predictor(STEPS, STARTS))
    for n, steps in enumerate([*STEPS[:-1].astype(int), 2**24]):
        for k, start in enumerate(STARTS.reshape(2, D, K) @ HEAD):
            expected = moments_after(case, start, steps)
            mean, second = expected[:D, D], expected[:D, :D]
            np.testing.assert_allclose(means[n, k], mean, rtol=1e-10, atol=1e-12)
            scale = np.abs(second).max()
            found = covariance[n, k] + np.outer(means[n, k], means[n, k])
            np.testing.assert_allclose(found, second, atol=1e-10 * scale, rtol=0)
            noise = second - np.outer(mean, mean)
            error = 1e-10 * np.abs(noise).max() + 1e-13 * scale
            np.testing.assert_allclose(covariance[n, k], noise, atol=error, rtol=0)
    assert np.all(covariance[0] == 0)


def test_drawn_targets_are_the_mean_over_targets() -> None:
    """Of three images with targets of plus or minus tau: all eight of them."""
    case, tau = problem(3, size=2), 1.3
    drawn = case.dynamics
    for change in (False, True):
        law = {"init_std": 0.2, "change": change}
        energies = []
        for signs in itertools.product([-1, 1], repeat=3):
            given = case._replace(targets=tau * np.array(signs)).dynamics
            energies.append(np.asarray(given.expected_profile(STEPS, **law)) ** 2)
        expected = np.sqrt(np.mean(energies, axis=0))
        found = drawn.expected_profile(STEPS, target_std=tau, **law)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def covariance_by_recursion(
    case: Problem,
    start: np.ndarray,
    steps: int,
    *,
    same_image: float | None = None,
    with_residuals: bool = True,
) -> np.ndarray:
    """Covariance of the predictor, in the terms of docs/derivations.md, section 21; the
    arguments spoil it."""
    p, y, gain = case.patches, case.targets, 2 * case.rate * HEAD_SQUARED
    a = p.T @ p / len(p)
    best = np.linalg.solve(a, p.T @ y / len(p))
    residual = y - p @ best
    error = start - best
    second = np.outer(error, error)
    twice = 1 - 1 / case.size if same_image is None else same_image
    for _ in range(steps):
        square = np.einsum("nd,de,ne->n", p, second, p) + residual**2
        square -= 2 * with_residuals * residual * (p @ error)
        one = np.einsum("n,nd,ne->de", square, p, p) / len(p)
        first = a @ second + second @ a
        both = twice * a @ second @ a + one / case.size
        second, error = second - gain * first + gain**2 * both, error - gain * a @ error
    return second - np.outer(error, error)


def test_wrong_recursions_are_told_apart() -> None:
    case = problem(N, channels=2, size=3, seed=4)
    start = STARTS[1].reshape(D, K) @ HEAD
    found = case.dynamics.predictor_covariance(STEPS, STARTS)[2, 1]
    right = covariance_by_recursion(case, start, 7)
    np.testing.assert_allclose(found, right, rtol=1e-10)
    for spoiled in (
        {"same_image": 1 / 3},
        {"same_image": 1},
        {"with_residuals": False},
    ):
        wrong = covariance_by_recursion(case, start, 7, **spoiled)
        assert np.abs(wrong - right).max() > 1e-2 * np.abs(right).max(), spoiled


def test_large_batches_are_full_batch_descent() -> None:
    case = problem(N, channels=2, seed=6)
    full = theory.mean_patch_moments(case.images, case.targets, (1, 2), stride=(1, 2))
    rate = 0.6 * float(theory.largest_stable_learning_rate(full, HEAD))
    unit = replace(full, target_covariance=np.ones(()))
    exact = theory.gradient_descent(unit, HEAD, rate)
    many = theory.stochastic_descent(case.moments, HEAD, rate, 1e12)
    few = theory.stochastic_descent(case.moments, HEAD, rate / 2, 2)
    expected = np.asarray(exact.kernel(STEPS, STARTS)) @ HEAD
    found = many.predictor(STEPS, STARTS)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-9)
    assert np.abs(many.predictor_covariance(STEPS, STARTS)).max() < 1e-10
    assert np.abs(few.predictor_covariance(STEPS, STARTS)).max() > 1e-2
    for change in (False, True):
        law = {"init_std": 0.3, "change": change, "components": U}
        found = many.expected_profile(STEPS, target_std=1, **law)
        expected = exact.expected_profile(STEPS, **law)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_late_noise_is_proportional_to_the_rate_over_the_batch() -> None:
    case = problem(N, channels=2, seed=9)
    ratios, noises = [], []
    for n, fraction in enumerate(np.geomspace(1e-2, 1e-5, 7)):
        size = [1, 5, 2][n % 3]
        rate = case._replace(size=size, fraction=fraction).rate
        dynamics = theory.stochastic_descent(case.moments, HEAD, rate, size)
        ratios.append(rate / size)
        noises.append(np.diag(dynamics.predictor_covariance(STEPS, STARTS)[-1, 0]))
    slopes = np.polyfit(np.log(ratios), np.log(noises), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=0.05)


def test_sgd_that_was_run() -> None:
    """20,000 runs of 7 steps from Gaussian filters: energies within 5 standard errors,
    which are below 3 %."""
    case, runs, sigma = problem(N, channels=2, size=2, seed=10), 20_000, 0.4
    p, y, rate = case.patches, case.targets, case.rate
    random = np.random.default_rng(11)
    first = sigma * random.normal(size=(runs, D, K))
    w = first
    for _ in range(7):
        batch = random.integers(0, len(p), size=(runs, case.size))
        error = (p[batch] @ w @ HEAD) - y[batch]
        gradient = 2 / case.size * np.einsum("rb,rbd,k->rdk", error, p[batch], HEAD)
        w = w - rate * gradient
    dynamics = case.dynamics
    full = theory.stochastic_descent(case.moments, HEAD, rate, 1e12)
    for change in (False, True):
        energy = ((U.T @ (w - change * first)) ** 2).mean(axis=-1)
        error = energy.std(axis=0) / runs**0.5
        assert (error < 0.03 * energy.mean(axis=0)).all()
        law = {"init_std": sigma, "change": change, "components": U}
        found = np.asarray(dynamics.expected_profile(STEPS, **law)[2]) ** 2
        assert (np.abs(found - energy.mean(axis=0)) < 5 * error).all()
        without = np.asarray(full.expected_profile(STEPS, **law)[2]) ** 2
        assert (np.abs(found - without) > 10 * error).any()  # the noise matters


@pytest.mark.parametrize("with_replacement", [True, False])
def test_late_noise_of_epochs(with_replacement: bool) -> None:
    """400 runs of 300 epochs from the solution. With replacement each direction is
    within 15 %, four standard errors; without, slow ones keep little, but not
    nothing."""
    case = problem(N, channels=2, size=2, seed=17, fraction=0.2)
    case = case._replace(images=case.images * np.array([1, 0.1]))
    p, y, gain = case.patches, case.targets, 2 * case.rate * HEAD_SQUARED
    best = np.linalg.solve(p.T @ p, p.T @ y)
    random = np.random.default_rng(0)
    v, order = np.tile(best, (400, 1)), np.tile(np.arange(N), (400, 1))
    for _ in range(300):
        order = random.permuted(order, axis=1)
        drawn = random.integers(0, N, size=(400, N)) if with_replacement else order
        for batch in np.split(drawn, N // 2, axis=1):
            error = np.einsum("rbd,rd->rb", p[batch], v) - y[batch]
            v = v - gain / 2 * np.einsum("rb,rbd->rd", error, p[batch])
    e = np.asarray(case.dynamics.components)
    late = np.asarray(case.dynamics.predictor_covariance(STEPS, STARTS)[-1, 0])
    ratio = ((v - best) @ e).std(axis=0) / np.sqrt(np.diag(e.T @ late @ e))
    if with_replacement:
        np.testing.assert_allclose(ratio, 1, atol=0.15)
    else:
        assert 0.55 < ratio[0] < 0.8
        assert ((ratio[2:] > 0.1) & (ratio[2:] < 0.35)).all()


def test_late_profile_is_whitening_on_a_white_floor() -> None:
    random = np.random.default_rng(18)
    images = random.normal(size=(3000, 2, 4, 2)) * np.array([1, 0.2])
    case = Problem(images, np.zeros(3000), size=2, fraction=1e-2)
    gain, dynamics = 2 * case.rate * HEAD_SQUARED, case.dynamics
    alpha = np.asarray(dynamics.mean_patch_variance)
    found = dynamics.expected_profile(np.inf, init_std=0, target_std=1)
    whitening, floor = 1 / (3000 * alpha), gain / (2 * case.size)
    assert floor / whitening[0] > 5
    assert floor / whitening[-1] < 0.5
    expected = np.sqrt((whitening + floor) / (K * HEAD_SQUARED))
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("size", [1, 7])
def test_border_of_stability_from_both_sides(size: int) -> None:
    """By the spectral radius of the step on second moments."""
    case = problem(N, channels=2, size=size, seed=12, fraction=1.0)
    border = case.rate
    of_v = np.append(np.ones(D), 0)
    inner = np.kron(of_v, of_v) > 0
    for factor, grows in ((0.999, False), (1.001, True)):
        step = step_of_moments(case, factor * border)[np.ix_(inner, inner)]
        assert bool(np.abs(np.linalg.eigvals(step)).max() > 1) == grows
    full = theory.mean_patch_moments(case.images, case.targets, (1, 2), stride=(1, 2))
    assert border < theory.largest_stable_learning_rate(full, HEAD)
    late = theory.stochastic_descent(case.moments, HEAD, 0.999 * border, size)
    assert np.isfinite(late.expected_profile(STEPS, init_std=0.1, components=U)).all()
    for factor in (1, 1.001):
        with pytest.raises(ValueError, match=f"below {border:.10g}"[:14]):
            theory.stochastic_descent(case.moments, HEAD, factor * border, size)


def with_twins(case: Problem) -> Problem:
    """Two channels that show the same: two of the four directions are not seen."""
    return case._replace(images=np.repeat(case.images[..., :1], 2, axis=-1))


def test_directions_that_no_image_has_do_not_move() -> None:
    case = with_twins(problem(N, channels=2, size=2, seed=13))
    dynamics = case.dynamics
    seen = np.asarray(dynamics.mean_patch_variance) > 0
    e = np.asarray(dynamics.components)
    assert seen.sum() == 2
    for change, kept in ((False, 0.3), (True, 0.0)):
        law = {"init_std": 0.3, "change": change, "components": e}
        profile = np.asarray(dynamics.expected_profile(STEPS, **law))
        np.testing.assert_allclose(profile[:, ~seen], kept, atol=1e-12)
        assert np.isfinite(profile).all()
    v = STARTS.reshape(2, D, K) @ HEAD
    means = np.asarray(dynamics.predictor(STEPS, STARTS))
    np.testing.assert_allclose(((means - v) @ e)[..., ~seen], 0, atol=1e-12)
    covariance = np.asarray(dynamics.predictor_covariance(STEPS, STARTS))
    for k in range(2):
        expected = moments_after(case, v[k], 7)
        expected = expected[:D, :D] - np.outer(expected[:D, D], expected[:D, D])
        np.testing.assert_allclose(covariance[2, k], expected, atol=1e-12)
    # Whoever fits all targets comes to rest.
    fitting = case._replace(targets=case.patches @ np.arange(D))
    rest = fitting.dynamics.predictor_covariance(STEPS, STARTS)
    assert np.abs(rest[2]).max() > 1e-3
    np.testing.assert_allclose(rest[3:], 0, atol=1e-12)


def late_profile(rate, images, targets, head):
    moments = theory.mean_patch_fourth_moments(images, targets, (1, 2), stride=(1, 2))
    dynamics = theory.stochastic_descent(moments, head, rate, 3)
    return dynamics.expected_profile(STEPS, init_std=0.1, components=U)


@pytest.mark.float32
def test_inside_transformations_and_in_float32() -> None:
    """Float32 inside, float64 outside: 1,000 roundings apart."""
    case = problem(N, channels=2, seed=15)
    rates = case.rate * np.array([0.3, 0.8])
    over_rates = jax.jit(jax.vmap(late_profile, in_axes=(0, None, None, None)))
    arrays = (jnp.asarray(x, jnp.float32) for x in (rates, *case[:2], HEAD))
    found = over_rates(*arrays)
    assert found.dtype == jnp.float32
    for n, rate in enumerate(rates):
        dynamics = theory.stochastic_descent(case.moments, HEAD, rate, 3)
        expected = dynamics.expected_profile(STEPS, init_std=0.1, components=U)
        assert expected.dtype == np.float64
        assert isinstance(expected, jax.Array if FLOAT64 else np.ndarray)
        np.testing.assert_allclose(found[n], expected, rtol=1e-4)


@pytest.mark.skipif(not FLOAT64, reason="finite differences need float64")
def test_derivatives() -> None:
    """By the learning rate, through the decomposition, with unseen directions too."""

    @jax.jit
    @jax.value_and_grad
    def late(rate, *arrays):
        return late_profile(rate, *arrays)[1:4].sum()

    for case in (p := problem(N, channels=2, seed=16), with_twins(p)):
        arrays, step = (*case[:2], HEAD), 1e-5 * case.rate
        upper, lower = (late(case.rate + d, *arrays)[0] for d in (step, -step))
        found = late(case.rate, *arrays)[1]
        np.testing.assert_allclose(found, (upper - lower) / (2 * step), rtol=1e-6)


def test_what_is_refused() -> None:
    case = problem(3, size=2)
    moments, rate = case.moments, case.rate
    start = np.zeros((1, 2, 1, K))
    full = theory.mean_patch_moments(case.images, case.targets, (1, 2), stride=(1, 2))
    with pytest.raises(TypeError, match="mean_patch_fourth_moments"):
        theory.stochastic_descent(full, HEAD, rate, 3)
    with pytest.raises(ValueError, match="one output"):
        theory.stochastic_descent(moments, HEAD[:, None], rate, 3)
    for size in (0, 0.5, 2.5, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="batch_size"):
            theory.stochastic_descent(moments, HEAD, rate, size)
    with pytest.raises(ValueError, match="learning_rate"):
        theory.stochastic_descent(moments, HEAD, -1.0, 3)
    with pytest.raises(ValueError, match="head is all zeros"):
        theory.largest_stable_stochastic_rate(moments, 0 * HEAD, 3)
    broken = replace(moments, fourth=np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"moments.fourth .* NaN"):
        theory.stochastic_descent(broken, HEAD, rate, 3)
    dynamics = case.dynamics
    for query in (dynamics.predictor, dynamics.predictor_covariance):
        with pytest.raises(ValueError, match="initial_kernel"):
            query(1, start[..., :1])
        with pytest.raises(ValueError, match="iterations"):
            query(-1, start)
    for wrong in (
        {"init_std": -1},
        {"init_std": 1, "target_std": -1},
        {"init_std": 1, "components": np.ones((2, 2))},
        {"init_std": 1, "components": np.ones((3, 3))},
    ):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            dynamics.expected_profile(1, **wrong)
