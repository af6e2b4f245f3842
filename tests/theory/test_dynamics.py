"""The closed form of gradient descent against gradient descent on explicit patches,
step by step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.twins import all_patches, descend
from theory import (
    gradient_descent,
    largest_stable_learning_rate,
    mean_patch_moments,
    patch_spectrum,
)

RANDOM = np.random.default_rng(5)
FLOAT64 = jax.config.read("jax_enable_x64")
D, K = 8, 3  # kernels of (2, 2, 2, 3) throughout, so that few programs are compiled
INITIAL = 0.3 * RANDOM.normal(size=(2, 2, 2, K))
HEADS = RANDOM.normal(size=(K, 5))
STEPS = np.array([0, 1, 2, 7, 80])


class Problem(NamedTuple):
    """Data and a network, with the step size at a fraction of the border of
    stability."""

    images: np.ndarray
    targets: np.ndarray
    head: np.ndarray
    settings: dict
    fraction: float

    @property
    def moments(self):
        return mean_patch_moments(self.images, self.targets, 2, **self.settings)

    @property
    def patches(self):
        """(N, J, d)."""
        explicit = all_patches(self.images, 2, **self.settings)
        return explicit.reshape(len(explicit), -1, D)

    @property
    def rate(self):
        pooled = self.patches.mean(axis=1)
        largest = np.linalg.eigvalsh(pooled.T @ pooled / len(pooled))[-1]
        return self.fraction / (
            largest * np.linalg.norm(self.head.reshape(K, -1), ord=2) ** 2
        )

    @property
    def dynamics(self):
        return gradient_descent(self.moments, self.head, self.rate)

    def simulate(self, steps, initial=INITIAL, rate=None):
        """Kernels after each number of steps, after asserting that the last is far from
        the first."""
        kernel, kernels, done = initial.reshape(*initial.shape[:-4], D, K), [], 0
        for step in steps:
            targets = self.targets.reshape(len(self.targets), -1)
            head = self.head.reshape(K, -1)
            kernel = descend(
                self.patches,
                targets,
                head,
                kernel,
                self.rate if rate is None else rate,
                step - done,
            )
            kernels.append(kernel.reshape(initial.shape))
            done = step
        assert np.abs(kernels[-1] - initial).max() > 0.3 * np.abs(initial).max()
        return np.array(kernels)


def problem(head, count=12, mean=0.0, target_mean=0.0, fraction=0.45, **settings):
    images = RANDOM.normal(size=(count, 4, 5, 2)).cumsum(axis=2) + mean
    targets = 2 * RANDOM.normal(size=(count, *head.shape[1:])) + target_mean
    return Problem(images, targets, head, settings, fraction)


PROBLEMS = {
    "one output": problem(HEADS[:, 0]),
    "images and targets of non-zero mean": problem(
        HEADS[:, 0], mean=2.0, target_mean=-3.0
    ),
    "x_max in (1, 2)": problem(HEADS[:, 0], fraction=0.97, mean=1.0),
    "two outputs": problem(HEADS[:, :2], stride=(1, 2), padding=((0, 1), (2, 0))),
    "three outputs": problem(HEADS[:, :3], stride=2, padding="SAME", target_mean=1.0),
    "head of rank one": problem(np.outer(HEADS[:, 0], [1, -2, 0.5]), padding="SAME"),
    "more outputs than filters": problem(HEADS, target_mean=1.0),
    "fewer images than pixels": problem(HEADS[:, :2], count=5, mean=1.0),
}


@pytest.fixture(params=list(PROBLEMS.values()), ids=list(PROBLEMS))
def case(request):
    return request.param


def distance(kernels, simulated):
    """Largest deviation, relative to how far the simulation moved."""
    assert kernels.shape == simulated.shape
    return (
        np.abs(np.asarray(kernels) - simulated).max()
        / np.abs(simulated - INITIAL).max()
    )


def test_kernel_follows_gradient_descent(case):
    simulated = case.simulate(STEPS)
    kernels = case.dynamics.kernel(STEPS, INITIAL)
    assert distance(kernels, simulated) < 1e-12
    np.testing.assert_array_equal(kernels[0], INITIAL)
    # Wrong formulas are far away.
    spectrum = patch_spectrum(case.images, 2, center=False, **case.settings)
    u, moments = np.asarray(spectrum.components), case.moments
    of_patches = dataclasses.replace(
        moments,
        second=(u * np.asarray(spectrum.variance)) @ u.T / moments.patches_per_image,
    )
    centered = dataclasses.replace(
        moments, second=moments.second - np.outer(moments.mean, moments.mean)
    )
    for wrong, rate in (
        (moments, case.rate / 2),
        (of_patches, case.rate),
        (centered, case.rate),
    ):
        assert (
            distance(
                gradient_descent(wrong, case.head, rate).kernel(STEPS, INITIAL),
                simulated,
            )
            > 1e-2
        )


def test_the_limit_is_the_nearest_minimum(case):
    """The change of smallest norm that leads to a least-squares solution; nothing
    drives the other directions."""
    pooled, head = case.patches.mean(axis=1), case.head.reshape(K, -1)
    second, targets = (
        pooled.T @ pooled / len(pooled),
        case.targets.reshape(len(pooled), -1),
    )
    initial = INITIAL.reshape(D, K)
    gap = pooled.T @ targets / len(pooled) - second @ initial @ head
    change = (
        np.linalg.pinv(second, rcond=1e-10) @ gap @ np.linalg.pinv(head, rcond=1e-10)
    )
    kernels = np.asarray(
        case.dynamics.kernel(np.array([0, 1, 2, 1e9, np.inf]), INITIAL)
    ).reshape(5, D, K)
    assert np.abs(kernels[4] - initial - change).max() < 1e-9 * np.abs(change).max()
    assert np.abs(kernels[3] - initial - change).max() < 1e-5 * np.abs(change).max()


def test_unseen_directions_keep_their_initial_values():
    case = PROBLEMS["fewer images than pixels"]
    pooled = case.patches.mean(axis=1)
    unseen = np.linalg.svd(pooled)[2][len(pooled) :]
    initial = INITIAL.reshape(D, K)
    kernels = np.asarray(
        case.dynamics.kernel(np.array([0, 1, 1e6, 1e12, np.inf]), INITIAL)
    ).reshape(5, D, K)
    assert np.abs(unseen @ (kernels - initial)).max() < 1e-10
    assert (np.asarray(case.dynamics.mean_patch_variance) > 0).sum() == len(pooled)
    late, limit = case.dynamics.expected_profile(
        [1e12, np.inf], init_std=0.0, targets="shuffled"
    )
    np.testing.assert_allclose(late, limit, rtol=1e-9, atol=1e-12)


def test_many_times_equal_one_at_a_time():
    case = PROBLEMS["two outputs"]
    dynamics = case.dynamics
    together = dynamics.kernel(np.array([[0, 3], [40, np.inf]]), INITIAL)
    assert together.shape == (2, 2, *INITIAL.shape)
    for index, t in (((0, 1), 3), ((1, 0), 40.3), ((1, 1), np.inf)):  # 40.3 is rounded
        np.testing.assert_allclose(
            dynamics.kernel(t, INITIAL), together[index], rtol=1e-12, atol=1e-14
        )


def test_leading_axes_of_the_initial_kernel_are_batches():
    case = PROBLEMS["two outputs"]
    batch = RANDOM.normal(size=(2, 4, *INITIAL.shape))
    kernels = case.dynamics.kernel([5, 9], batch)
    assert kernels.shape == (2, *batch.shape)
    simulated = case.simulate([5, 9], batch)
    np.testing.assert_allclose(kernels, simulated, rtol=0, atol=1e-12)


def test_vmap_over_targets_and_initialisations():
    """One seed each: A is decomposed once, B differs."""
    case = PROBLEMS["one output"]
    targets, initial = (
        RANDOM.normal(size=(3, 12)),
        RANDOM.normal(size=(3, *INITIAL.shape)),
    )
    moments = case.moments
    crosses = targets @ case.patches.mean(axis=1) / 12

    @jax.jit
    @jax.vmap
    def trained(cross, initial):
        dynamics = gradient_descent(
            dataclasses.replace(moments, cross=cross), case.head, case.rate
        )
        return dynamics.kernel(30, initial)

    kernels = trained(crosses, initial)
    for n in range(3):
        simulated = case._replace(targets=targets[n]).simulate([30], initial[n])
        np.testing.assert_allclose(kernels[n], simulated[0], rtol=0, atol=1e-12)


def test_dynamics_are_a_pytree_that_passes_through_jit():
    case = PROBLEMS["two outputs"]
    dynamics = case.dynamics

    @jax.jit
    def profiles(dynamics, t):
        return (
            dynamics.expected_profile(t, init_std=0.1),
            dynamics.kernel(t, INITIAL),
            dynamics.rates,
        )

    profile, kernel, rates = profiles(dynamics, 7)
    np.testing.assert_allclose(
        profile, dynamics.expected_profile(7, init_std=0.1), rtol=1e-12
    )
    np.testing.assert_allclose(kernel, dynamics.kernel(7, INITIAL), rtol=0, atol=1e-13)
    assert rates.shape == (D, 2)
    np.testing.assert_allclose(rates.max(), 2 * case.fraction, rtol=1e-12)


def test_gradients_by_the_learning_rate():
    case = PROBLEMS["one output"]
    moments = case.moments

    def results(rate):
        dynamics = gradient_descent(moments, case.head, rate)
        return jnp.stack(
            [
                dynamics.kernel(9, INITIAL).sum(),
                dynamics.expected_profile(9, init_std=0.1).sum(),
                dynamics.expected_profile(
                    9, init_std=0.0, change=True, targets="shuffled"
                ).sum(),
                dynamics.expected_profile(0, init_std=0.0).sum(),
            ]
        )

    both = jax.jit(lambda rate: jax.jvp(results, (rate,), (1.0,)))  # values and slopes
    for fraction in (0.25, 0.5, 0.75):  # of the border: with 0.5, x is 1 in one mode
        middle = float(fraction * largest_stable_learning_rate(moments, case.head))
        step = 1e-6 * middle
        difference = (both(middle + step)[0] - both(middle - step)[0]) / (2 * step)
        np.testing.assert_allclose(both(middle)[1], difference, rtol=1e-6, atol=1e-12)


def test_gradients_by_the_initial_kernel_and_targets():
    case = PROBLEMS["two outputs"]
    moments = case.moments

    def total(initial, cross):
        dynamics = gradient_descent(
            dataclasses.replace(moments, cross=cross), case.head, case.rate
        )
        return (dynamics.kernel(12, initial) ** 2).sum()

    slopes = jax.jit(jax.grad(total, (0, 1)))(INITIAL, jnp.asarray(moments.cross))
    rows, columns = (
        RANDOM.normal(size=INITIAL.shape),
        RANDOM.normal(size=moments.cross.shape),
    )
    step = 1e-6
    after = total(INITIAL + step * rows, moments.cross + step * columns)
    before = total(INITIAL - step * rows, moments.cross - step * columns)
    expected = (slopes[0] * rows).sum() + (slopes[1] * columns).sum()
    np.testing.assert_allclose(expected, (after - before) / (2 * step), rtol=1e-7)


@pytest.mark.float32
def test_float64_outside_traces_whatever_the_flag():
    case = PROBLEMS["fewer images than pixels"]
    case = case._replace(images=case.images.astype(np.float32))
    dynamics = case.dynamics
    kernels = dynamics.kernel(STEPS, INITIAL.astype(np.float32))
    assert isinstance(kernels, jax.Array if FLOAT64 else np.ndarray)
    assert kernels.dtype == np.float64
    initial = INITIAL.astype(np.float32).astype(np.float64)
    assert distance(kernels, case.simulate(STEPS, initial)) < 1e-12
    long = dynamics.kernel(10**12 + 1, INITIAL)
    np.testing.assert_allclose(long, dynamics.kernel(np.inf, INITIAL), rtol=1e-6)
    border = largest_stable_learning_rate(case.moments, case.head)
    assert border.dtype == np.float64
    np.testing.assert_allclose(border * case.fraction, case.rate, rtol=1e-12)


@pytest.mark.float32
def test_inside_a_trace_the_dtype_is_that_of_the_arguments():
    case = PROBLEMS["one output"]
    images, targets, head, initial = (
        jnp.asarray(array, jnp.float32)
        for array in (case.images, case.targets, case.head, INITIAL)
    )

    @jax.jit
    def trained(images, targets, head, rate, initial):
        dynamics = gradient_descent(mean_patch_moments(images, targets, 2), head, rate)
        return dynamics.kernel(10**12, initial), dynamics.kernel(STEPS, initial)

    _, kernels = trained(images, targets, head, jnp.float32(case.rate), initial)
    assert kernels.dtype == np.float32
    assert distance(kernels, case.simulate(STEPS)) < 1e-4


@pytest.mark.float32
def test_float32_keeps_what_drives_curvatures_that_it_cannot_hold():
    """A curvature of 1e-8 of the largest drowns in rounding, its drive does not: the
    mode moves at constant speed."""
    case = PROBLEMS["one output"]
    scale = np.array([1, 1e-4])  # of the two channels
    case = case._replace(images=case.images * scale)
    arrays = (
        jnp.asarray(array, jnp.float32)
        for array in (case.images, case.targets, case.head, case.rate)
    )

    @jax.jit
    def dynamics(images, targets, head, rate):
        return gradient_descent(mean_patch_moments(images, targets, 2), head, rate)

    traced = dynamics(*arrays)
    assert traced.mean_patch_variance.dtype == np.float32
    assert (np.asarray(traced.mean_patch_variance) == 0).sum() >= 4
    change = np.asarray(traced.kernel(1000, INITIAL)) - INITIAL
    expected = np.asarray(case.dynamics.kernel(1000, INITIAL)) - INITIAL
    second = np.abs(change - expected)[:, :, 1].max() / np.abs(expected)[:, :, 1].max()
    assert second < 0.05
    assert np.abs(expected[:, :, 1]).max() > 1e-3


def test_the_largest_stable_learning_rate():
    case = PROBLEMS["three outputs"]
    border = largest_stable_learning_rate(case.moments, case.head)
    np.testing.assert_allclose(border, case.rate / case.fraction, rtol=1e-12)
    assert np.isfinite(
        gradient_descent(case.moments, case.head, border * (1 - 1e-9)).kernel(
            10**12, INITIAL
        )
    ).all()
    initial = INITIAL.reshape(D, K)
    targets = case.targets.reshape(12, -1)
    beyond = descend(
        case.patches, targets, case.head, initial, float(1.01 * border), 3000
    )
    assert np.abs(beyond).max() > 1e3  # it diverges indeed
    for factor in (1, 1.01, 100):
        with pytest.raises(
            ValueError,
            match=r"learning_rate = .* is at or beyond the border of stability",
        ) as error:
            gradient_descent(case.moments, case.head, border * factor)
        named = float(str(error.value).split()[-1].rstrip("."))
        np.testing.assert_allclose(named, border, rtol=1e-9)


MOMENTS = PROBLEMS["one output"].moments


@pytest.mark.parametrize(
    ("message", "head", "learning_rate"),
    [
        (
            (
                "head is all zeros, so that no gradient reaches the filters; use for"
                " example ones"
            ),
            np.zeros(K),
            0.1,
        ),
        (r"head must have shape \(K,\) or \(K, M\).* got \(\)", 1.0, 0.1),
        (r"head must have shape \(K,\) or \(K, M\).* got \(0,\)", [], 0.1),
        (
            "head has 1 entries that are NaN or infinite; remove or replace them",
            [1, np.nan],
            0.1,
        ),
        (
            r"head of shape \(3, 2\) has 2 outputs, but the targets have 1",
            np.ones((K, 2)),
            0.1,
        ),
        ("learning_rate must be finite and > 0, got -0.1", np.ones(K), -0.1),
        ("learning_rate must be finite and > 0, got 0", np.ones(K), 0),
        ("learning_rate must be finite and > 0, got nan", np.ones(K), np.nan),
        (
            (
                r"learning_rate must be a number, the rates of all steps \(T,\), or a"
                r" pair \(boundaries, rates\); got shape \(1, 1\)"
            ),
            np.ones(K),
            [[0.1]],
        ),
    ],
)
def test_bad_heads_and_step_sizes(message, head, learning_rate):
    with pytest.raises(ValueError, match=message):
        gradient_descent(MOMENTS, head, learning_rate)


@pytest.mark.parametrize(
    ("message", "t", "initial"),
    [
        (r"iterations must be >= 0 \(infinity allowed\), got -1", [-1, 3], INITIAL),
        (r"iterations must be >= 0 \(infinity allowed\), got nan", np.nan, INITIAL),
        (
            r"initial_kernel must end in .* = \(2, 2, 2, 3\), got \(2, 2, 2, 2\)",
            1,
            INITIAL[..., :2],
        ),
        (
            r"initial_kernel must end in .* = \(2, 2, 2, 3\), got \(2, 2, 1, 3\)",
            1,
            INITIAL[:, :, :1],
        ),
        (
            r"kernel must have Flax's axes .* got shape \(8, 3\)",
            1,
            INITIAL.reshape(D, K),
        ),
        (
            "initial_kernel has 24 entries that are NaN or infinite",
            1,
            np.full_like(INITIAL, np.inf),
        ),
    ],
)
def test_bad_times_and_kernels(message, t, initial):
    dynamics = gradient_descent(MOMENTS, np.ones(K), 1e-3)
    with pytest.raises(ValueError, match=message):
        dynamics.kernel(t, initial)
