"""Properties of gradient descent: what it does to filters, and its law."""

import dataclasses
import itertools
from functools import partial

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import theory
from tests.theory.properties import assert_close, image_sets, orthogonal, scales, seeds

SHAPE = (2, 2, 1, 3)  # of the filters
KEPT = 0.7  # of the largest stable learning rate


@st.composite
def problems(draw, outputs=(1, 2)):
    """Moments, a head and a start; sometimes with directions that no image has."""
    images = draw(image_sets(min_count=5, channels=(1,)))
    random = np.random.default_rng(draw(seeds))
    if draw(st.booleans()):
        images = images[:2].repeat(3, axis=0)  # two mean patches in four dimensions
    m = draw(st.sampled_from(outputs))
    # Always with their axis, lest every rank is compiled for.
    targets = random.normal(size=(len(images), m)) + random.normal(size=m)
    moments = theory.mean_patch_moments(images, targets, 2)
    # Counts are compiled for.
    moments = dataclasses.replace(moments, count=6)
    return moments, random.normal(size=(3, m)), random.normal(size=SHAPE), random


def descent(moments, head, share=KEPT):
    border = theory.largest_stable_learning_rate(moments, head)
    return theory.gradient_descent(moments, head, share * border)


def largest(*arrays):
    return max(np.abs(array).max() for array in arrays)


def gradient_step(moments, head, rate, kernel):
    """By definition: the gradient of the mean squared error is 2 (A W a - B) a^T."""
    w = kernel.reshape(-1, kernel.shape[-1])
    residual = np.asarray(moments.second) @ w @ head - np.asarray(moments.cross)
    return (w - 2 * rate * residual @ head.T).reshape(kernel.shape)


@given(problem=problems(), share=st.floats(0.01, 0.99), t=st.integers(1, 30))
def test_descent_takes_the_steps_of_the_gradient(problem, share, t):
    moments, head, start, _ = problem
    dynamics = descent(moments, head, share)
    expected = [start]
    for _ in range(t):
        step = gradient_step(moments, head, dynamics.learning_rate, expected[-1])
        expected.append(step)
    found = np.asarray(dynamics.kernel([0, 1, t], start))
    expected = np.stack([expected[0], expected[1], expected[t]])
    assert_close(found, expected, rtol=1e-9)
    np.testing.assert_array_equal(found[0], start)
    assert largest(expected[1] - start) > 1e-4 * share  # it moved


@given(problem=problems(), s=st.integers(0, 300), t=st.integers(0, 300))
def test_steps_after_steps_are_steps(problem, s, t):
    moments, head, start, random = problem
    dynamics = descent(moments, head)
    first = np.asarray(dynamics.kernel([s, s + t, np.inf], start))
    then = np.asarray(dynamics.kernel([t, 0, np.inf], first[0]))
    assert_close(then[0], first[1], scale=largest(first), rtol=1e-9)
    assert_close(then[2], first[2], scale=largest(first), rtol=1e-9)
    # It is affine in the start, and the limit is kept.
    other = random.normal(size=SHAPE)
    kernels = dynamics.kernel([s, s + t, np.inf], (start + other) / 2)
    halves = (first + np.asarray(dynamics.kernel([s, s + t, np.inf], other))) / 2
    assert_close(kernels, halves, scale=largest(first, halves), rtol=1e-9)


@given(problem=problems())
def test_the_limit_fits_the_targets_and_keeps_what_is_not_seen(problem):
    moments, head, start, _ = problem
    dynamics = descent(moments, head)
    limit = np.asarray(dynamics.kernel(np.inf, start))
    w, w0 = limit.reshape(4, 3), start.reshape(4, 3)
    alpha = np.asarray(dynamics.mean_patch_variance)
    e = np.asarray(dynamics.components)
    clear = (alpha == 0) | (alpha > 1e-9 * alpha[0])
    # The normal equations, in outputs that the head reads.
    gap = e.T @ (moments.second @ w @ head - moments.cross) @ head.T
    size = largest(moments.cross, moments.second @ w0 @ head) * largest(head)
    assert largest(gap[clear]) <= 1e-6 * size
    unseen = alpha == 0
    assert_close(e.T[unseen] @ w, e.T[unseen] @ w0, scale=largest(start, limit))
    unread = np.eye(3) - head @ np.linalg.pinv(head)
    assert_close(w @ unread, w0 @ unread, scale=largest(start, limit), rtol=1e-10)


@given(problem=problems(), t=st.integers(1, 1000))
def test_filters_and_outputs_may_be_rotated(problem, t):
    moments, head, start, random = problem
    kernel = np.asarray(descent(moments, head).kernel(t, start))
    filters, outputs = orthogonal(random, 3), orthogonal(random, head.shape[1])
    turned = descent(moments, filters.T @ head).kernel(t, start @ filters)
    assert_close(turned, kernel @ filters, rtol=1e-8)
    turned = dataclasses.replace(
        moments,
        cross=moments.cross @ outputs,
        target_mean=moments.target_mean @ outputs,
        target_covariance=outputs.T @ moments.target_covariance @ outputs,
    )
    assert_close(descent(turned, head @ outputs).kernel(t, start), kernel, rtol=1e-8)


@given(problem=problems(), scale=scales)
def test_the_border_of_stability(problem, scale):
    moments, head, _, random = problem
    border = theory.largest_stable_learning_rate(moments, head)
    curvature = (
        2 * np.linalg.eigvalsh(moments.second)[-1] * np.linalg.norm(head, ord=2) ** 2
    )
    np.testing.assert_allclose(border, 2 / curvature, rtol=1e-12)
    scaled = theory.largest_stable_learning_rate(moments, scale * head)
    np.testing.assert_allclose(scaled * scale**2, border, rtol=1e-12)
    turned = theory.largest_stable_learning_rate(moments, orthogonal(random, 3) @ head)
    np.testing.assert_allclose(turned, border, rtol=1e-12)
    larger = dataclasses.replace(moments, second=scale**2 * moments.second)
    scaled = theory.largest_stable_learning_rate(larger, head)
    np.testing.assert_allclose(scaled * scale**2, border, rtol=1e-12)
    rates = np.asarray(theory.gradient_descent(moments, head, 0.999 * border).rates)
    np.testing.assert_allclose(rates.max(), 2 * 0.999, rtol=1e-12)
    assert (rates >= 0).all()


@given(problem=problems(), t=st.integers(0, 1000), scale=scales)
def test_the_units_of_images_do_not_matter(problem, t, scale):
    """Images c times as large, with a learning rate 1/c^2 and filters 1/c as large."""
    moments, head, start, _ = problem
    larger = dataclasses.replace(
        moments,
        second=scale**2 * moments.second,
        cross=scale * moments.cross,
        mean=scale * moments.mean,
    )
    one, other = descent(moments, head), descent(larger, head)
    kernel = np.asarray(one.kernel(t, start))
    assert_close(scale * np.asarray(other.kernel(t, start / scale)), kernel, rtol=1e-9)
    for targets in ("drawn", "shuffled"):
        profile = np.asarray(one.expected_profile(t, init_std=0.3, targets=targets))
        scaled = other.expected_profile(t, init_std=0.3 / scale, targets=targets)
        assert_close(scale * np.asarray(scaled), profile, rtol=1e-9)


@given(problem=problems(), t=st.integers(1, 500), sigma=st.floats(0.01, 10))
def test_the_law_of_profiles(problem, t, sigma):
    moments, head, _, random = problem
    dynamics = descent(moments, head)
    u = orthogonal(random, 4)
    for targets in ("drawn", "shuffled"):
        of = partial(
            dynamics.expected_profile, init_std=sigma, targets=targets, components=u
        )
        at_start, profile = np.asarray(of([0, t]))
        no_change, change = np.asarray(of([0, t], change=True))
        assert_close(at_start, np.full(4, sigma))
        assert_close(no_change, np.zeros(4), scale=sigma)
        # Minkowski's inequality, of root mean squares.
        assert (profile <= (sigma + change) * (1 + 1e-9)).all()
        assert (change <= (sigma + profile) * (1 + 1e-9)).all()
        # The energy in all directions does not depend on the basis.
        total = (np.asarray(of(t, components=None)) ** 2).sum()
        np.testing.assert_allclose((profile**2).sum(), total, rtol=1e-9)
        # The start and drawn targets are independent, and both of mean zero.
        driven = np.asarray(of([0, t], init_std=0.0))[1]
        still = dataclasses.replace(
            dynamics,
            target_covariance=0 * dynamics.target_covariance,
            target_mean=0 * dynamics.target_mean,
        )
        alone = still.expected_profile([0, t], init_std=sigma, components=u)
        assert_close(np.hypot(driven, np.asarray(alone)[1]), profile, rtol=1e-9)
        order = random.permutation(4)
        turned = np.asarray(of([0, t], components=u[:, order]))[1]
        assert_close(turned, profile[order], rtol=1e-9)


@settings(max_examples=5)
@given(seed=seeds, t=st.integers(1, 100))
def test_shuffled_targets_are_the_mean_of_all_orders(seed, t):
    random = np.random.default_rng(seed)
    images = random.normal(size=(4, 5, 4, 1)) + random.normal()
    targets, head = random.normal(size=4) + 1, random.normal(size=3)
    moments = theory.mean_patch_moments(images, targets, 2)
    dynamics = descent(moments, head)
    found = dynamics.expected_profile(t, init_std=0.0, targets="shuffled")
    energies = []
    for order in itertools.permutations(targets):
        shuffled = theory.mean_patch_moments(images, np.array(order), 2)
        kernel = descent(shuffled, head).kernel(t, np.zeros(SHAPE))
        profile = theory.energy_profile(kernel, dynamics.components)
        energies.append(np.asarray(profile) ** 2)
    assert_close(found, np.sqrt(np.mean(energies, axis=0)), rtol=1e-9)
    drawn = np.asarray(dynamics.expected_profile(t, init_std=0.0))
    assert largest(drawn - np.asarray(found)) > 1e-3 * largest(drawn)


@given(problem=problems(outputs=(1,)), t=st.integers(1, 500), sigma=st.floats(0.1, 10))
def test_quantiles_of_profiles(problem, t, sigma):
    moments, head, _, _ = problem
    dynamics = descent(moments, head)
    q = np.array([0.02, 0.5, 0.98])
    found = np.asarray(dynamics.profile_quantiles(q, [0, t], init_std=sigma))
    assert found.shape == (3, 2, 4)
    assert (np.diff(found, axis=0) > 0).all()
    expected = np.asarray(dynamics.expected_profile([0, t], init_std=sigma))
    # The middle 96 percent of a mean of squares hold the root mean square.
    assert (found[0] < expected).all()
    assert (expected < found[2]).all()
    twice = dataclasses.replace(
        dynamics,
        target_mean=2 * dynamics.target_mean,
        target_covariance=4 * dynamics.target_covariance,
    )
    doubled = twice.profile_quantiles(q, [0, t], init_std=2 * sigma)
    np.testing.assert_allclose(doubled, 2 * found, rtol=1e-9)


def kernels(moments, head, start, rate):
    return theory.gradient_descent(moments, head, rate).kernel(10, start)


MAPPED = jax.jit(jax.vmap(kernels, in_axes=(None, None, None, 0)))
COMPILED = jax.jit(kernels)


@given(problem=problems(outputs=(2,)))
def test_mapped_and_compiled_descent(problem):
    moments, head, start, _ = problem
    border = theory.largest_stable_learning_rate(moments, head)
    rates = np.array([0.1, 0.5]) * border
    each = np.stack([kernels(moments, head, start, rate) for rate in rates])
    assert_close(MAPPED(moments, head, start, rates), each, rtol=1e-8)
    small = jax.tree.map(np.float32, (moments, head, start, rates[0]))
    in_float32 = COMPILED(*small)
    assert in_float32.dtype == np.float32
    # Rounding of the curvature, amplified by what the filters have moved.
    assert_close(in_float32, each[0], scale=largest(each[0], start), rtol=1e-3)
