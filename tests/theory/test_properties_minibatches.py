"""Properties of minibatches: fourth moments, descent on a linear CNN, and the noise on
any quadratic loss."""

import dataclasses
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory
from tests.theory.properties import (
    assert_close,
    image_sets,
    orthogonal,
    scales,
    seeds,
    wide_scales,
)

D, K, N = 4, 3, 8
PAIRS = np.triu_indices(D)
MEANS = ("second", "cross", "fourth", "fourth_cross", "fourth_target")
T = np.array([0, 1, 7, np.inf])
batch_sizes = st.integers(1, 100)
# Their fourth powers reach from 1e-200 to 1e200.
image_scales = st.integers(-166, 166).map(lambda power: 2.0**power)


def take(images, targets):
    return theory.mean_patch_fourth_moments(images, targets, 2)


def mean_patches(images):
    """Of a kernel of two pixels by two, (N, D), by definition."""
    rows, columns = images.shape[1] - 1, images.shape[2] - 1
    parts = [images[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
    return np.stack(parts, axis=-1).mean(axis=(1, 2)).reshape(len(images), -1)


def products(p):
    """What the docstring calls s."""
    i, j = PAIRS
    return p[..., i] * p[..., j] * np.where(i == j, 1, np.sqrt(2))


# Fourth moments


@given(images=image_sets(channels=(1,)), seed=seeds)
def test_fourth_moments_are_means_over_images(images, seed):
    y = np.random.default_rng(seed).normal(size=len(images)) + 3
    p = mean_patches(images)
    s, count = products(p), len(p)
    moments = take(images, y)
    size = np.abs(images).max()
    expected = {
        "second": (p.T @ p / count, size**2),
        "cross": (p.T @ y / count, size),
        "fourth": (s.T @ s / count, size**4),
        "fourth_cross": ((s * y[:, None]).T @ p / count, size**3),
        "fourth_target": (s.T @ y**2 / count, size**2),
    }
    for name in MEANS:
        value, scale = expected[name]
        assert_close(getattr(moments, name), value, scale=30 * scale)
    plain = theory.mean_patch_moments(images, y, 2)
    assert_close(moments.second, plain.second, scale=size**2)
    assert_close(moments.cross, plain.cross, scale=30 * size)
    # Half precision and JAX's arrays are read as the numbers that they are.
    small = np.float32(images)
    exact, *others = (take(x, y) for x in (np.float64(small), small, jnp.array(small)))
    for other in others:
        for name in MEANS:
            value, scale = getattr(exact, name), 30 * expected[name][1]
            assert_close(getattr(other, name), value, scale=scale)


@given(images=image_sets(min_count=3), data=st.data())
def test_fourth_moments_of_parts_add_up_in_any_order(images, data):
    random = np.random.default_rng(data.draw(seeds))
    y = random.normal(size=len(images)) + 3
    first = data.draw(st.integers(1, len(images) - 2))
    second = data.draw(st.integers(first + 1, len(images) - 1))
    order = random.permutation(len(images))
    whole = take(images, y)
    parts = [
        take(*part)
        for part in zip(
            *(np.split(x[order], [first, second]) for x in (images, y)), strict=True
        )
    ]
    batches = np.split(images, [first, second])
    size = np.abs(images).max() + 5
    for other in reduce(add, parts), reduce(add, parts[::-1]), take(iter(batches), y):
        assert jax.tree.structure(other) == jax.tree.structure(whole)
        for name in MEANS:
            assert_close(getattr(other, name), getattr(whole, name), scale=size**4)


@given(images=image_sets(), seed=seeds, scale=image_scales, unit=image_scales)
def test_fourth_moments_scale_with_images_and_targets(images, seed, scale, unit):
    y = np.random.default_rng(seed).normal(size=len(images)) + 3
    one, other = take(images, y), take(scale * images, unit * y)
    powers = {"second": (2, 0), "cross": (1, 1), "fourth": (4, 0)}
    powers |= {"fourth_cross": (3, 1), "fourth_target": (2, 2)}
    for name, (of_images, of_targets) in powers.items():
        found = getattr(other, name) / scale**of_images / unit**of_targets
        assert_close(found, getattr(one, name), rtol=1e-13)


@given(images=image_sets(channels=(1,)))
def test_squares_vary(images):
    """The covariance of the products is positive semidefinite, and their energy is the
    fourth power of the mean patch."""
    moments = take(images, images[:, 0, 0, 0])
    i, j = PAIRS
    mean = moments.second[i, j] * np.where(i == j, 1, np.sqrt(2))
    size = np.abs(images).max() ** 4
    assert np.linalg.eigvalsh(moments.fourth - np.outer(mean, mean))[0] > -1e-12 * size
    energy = (mean_patches(images) ** 2).sum(axis=1)
    assert_close(np.trace(moments.fourth), (energy**2).mean(), scale=size)


# Descent on a linear CNN


@st.composite
def problems(draw):
    """Images, sometimes of fewer directions than a patch has; targets; a head."""
    images = draw(image_sets(channels=(1,)))
    random = np.random.default_rng(draw(seeds))
    images = images[np.arange(N) % len(images)]  # counts are compiled for
    targets = random.normal(size=N) + images[:, 1, 1, 0] + 1
    return images, targets, random.normal(size=K), random


def border_of(images, head, size, targets=None):
    y = np.ones(N) if targets is None else targets
    return float(theory.largest_stable_stochastic_rate(take(images, y), head, size))


def step_on_products(p, gamma, size):
    """What one step makes of E[e e^T], e = v - v*, where the targets leave no
    residual, on vec."""
    one, a = np.eye(D), p.T @ p / len(p)
    fourth = np.einsum("ni,nj,nk,nl->ijkl", p, p, p, p).reshape(D * D, D * D) / len(p)
    mean = np.kron(a, a)
    pull = np.kron(a, one) + np.kron(one, a)
    square = mean + (fourth - mean) / size
    return np.eye(D * D) - gamma * pull + gamma**2 * square


def radius(p, gamma, size):
    """Of the step on symmetric matrices in the span of the mean patches."""
    vectors, values, _ = np.linalg.svd(p.T)
    span = vectors[:, : np.sum(values > 1e-6 * values[0])]
    both = np.kron(span, span)
    return np.abs(np.linalg.eigvals(both.T @ step_on_products(p, gamma, size) @ both))


@given(problem=problems(), size=batch_sizes)
def test_the_border_is_where_a_step_keeps_the_covariance(problem, size):
    images, targets, head, _ = problem
    p = mean_patches(images)
    border = border_of(images, head, size)
    gamma = 2 * border * (head @ head)
    np.testing.assert_allclose(radius(p, gamma, size).max(), 1, rtol=1e-7)
    assert radius(p, 0.9 * gamma, size).max() < 1
    assert radius(p, 1.1 * gamma, size).max() > 1 + 1e-4
    moments = take(images, targets)
    below = theory.stochastic_descent(moments, head, 0.999 * border, size)
    rates = np.asarray(below.rates)
    assert ((rates >= 0) & (rates < 2)).all()
    with pytest.raises(ValueError, match="border of stability"):
        theory.stochastic_descent(moments, head, 1.001 * border, size)


@given(problem=problems(), size=batch_sizes, scale=image_scales, unit=scales)
def test_how_the_border_depends_on_its_arguments(problem, size, scale, unit):
    images, targets, head, random = problem
    border = border_of(images, head, size)
    full = theory.mean_patch_moments(images, targets, 2)
    largest = float(theory.largest_stable_learning_rate(full, head))
    assert border <= largest * (1 + 1e-9)
    np.testing.assert_allclose(border_of(images, head, 10**15), largest, rtol=1e-9)
    assert border <= border_of(images, head, size + 1) * (1 + 1e-12)
    assert border_of(images, head, 1) <= border * (1 + 1e-12)
    for other in (
        border_of(images, head, size, targets),
        border_of(images[random.permutation(N)], head, size),
        border_of(-images[:, ::-1], orthogonal(random, K) @ head, size),
        border_of(images, unit * head, size) * unit**2,
        border_of(scale * images, head, size) * scale**2,
    ):
        np.testing.assert_allclose(other, border, rtol=1e-9)
    # Of one image alone the step is known: gamma |p|^2 < 2 / (1 + 0).
    alone = np.repeat(images[:1], N, axis=0) + 1
    energy = (mean_patches(alone)[0] ** 2).sum()
    expected = 1 / (energy * (head @ head))
    np.testing.assert_allclose(border_of(alone, head, size), expected, rtol=1e-9)


@given(problem=problems(), size=batch_sizes, share=st.floats(0.01, 0.9))
def test_the_first_steps_of_minibatches(problem, size, share):
    images, targets, head, random = problem
    moments, p = take(images, targets), mean_patches(images)
    rate = share * border_of(images, head, size)
    dynamics = theory.stochastic_descent(moments, head, rate, size)
    kernel = random.normal(size=(2, 2, 1, K))
    v = kernel.reshape(D, K) @ head
    mean, covariance = (
        np.asarray(of(T, kernel))
        for of in (dynamics.predictor, dynamics.predictor_covariance)
    )
    assert_close(mean[0], v)
    assert not covariance[0].any()
    # One step by definition.
    gamma = 2 * rate * (head @ head)
    steps = -gamma * p * (p @ v - targets)[:, None]
    assert_close(mean[1], v + steps.mean(axis=0), scale=np.abs(mean).max())
    expected = np.cov(steps.T, bias=True) / size
    scale = (np.abs(steps).max() ** 2) / size
    assert_close(covariance[1], expected, scale=scale, rtol=1e-10)
    # The same from the noise on a quadratic loss, along the head alone.
    basis = orthogonal(random, D)
    gradients = np.einsum("k,nd->nkd", head, steps / (head @ head) / -rate)
    rest = (gradients - gradients.mean(axis=0)).reshape(N, -1)
    curvature = 2 * np.kron(np.outer(head, head), p.T @ p / N)
    of_loss = theory.gradient_noise_profile(
        theory.quadratic_descent(curvature.reshape(K, D, K, D), np.zeros((K, D)), rate),
        T[:2],
        basis,
        batch_size=4,  # compiled for
        covariance=(rest.T @ rest / N).reshape(K, D, K, D),
    )
    energy = np.einsum("di,de,ei->i", basis, covariance[1], basis) / (head @ head) / K
    scale = scale / (head @ head) / K
    found = np.asarray(of_loss)[1] ** 2 * 4 / size
    assert_close(found, energy, scale=scale, rtol=1e-9)
    # At any time: a covariance, about the descent in full batches.
    full = theory.mean_patch_moments(images, targets, 2)
    whole = theory.gradient_descent(full, head, rate).kernel(T, kernel)
    assert_close(mean, np.asarray(whole).reshape(4, D, K) @ head, rtol=1e-8)
    for one in covariance:
        assert_close(one, one.T, scale=np.abs(one).max())
        assert np.linalg.eigvalsh(one)[0] >= -1e-9 * np.abs(one).max()


@given(
    problem=problems(),
    size=batch_sizes,
    share=st.floats(0.01, 0.9),
    scale=image_scales,
    unit=scales,
)
def test_the_laws_of_minibatches(problem, size, share, scale, unit):
    images, targets, head, random = problem
    rate = share * border_of(images, head, size)
    basis = orthogonal(random, D)

    def of(images=images, targets=targets, rate=rate, size=size, sigma=0.7, **options):
        dynamics = theory.stochastic_descent(take(images, targets), head, rate, size)
        options = {"components": basis, "target_std": 0.5} | options
        return np.asarray(dynamics.expected_profile(T, init_std=sigma, **options))

    profile, change = of(), of(change=True)
    size_of = profile.max()
    assert_close(profile[0], np.full(D, 0.7))
    assert not change[0].any()
    assert (profile <= (0.7 + change) * (1 + 1e-9)).all()
    # The energy of all directions, and their order.
    other = of(components=orthogonal(random, D))
    assert_close((other**2).sum(axis=1), (profile**2).sum(axis=1), rtol=1e-9)
    order = random.permutation(D)
    assert_close(of(components=basis[:, order]), profile[:, order])
    # Larger batches have less noise, and the largest that of all images.
    assert (of(size=size + 3) <= profile + 1e-9 * size_of).all()
    full = theory.mean_patch_moments(images, 0.5 * (np.arange(N) % 2 * 2 - 1), 2)
    full = dataclasses.replace(full, target_covariance=np.array(0.25))
    whole = theory.gradient_descent(full, head, rate)
    limit = whole.expected_profile(T, init_std=0.7, components=basis)
    assert_close(of(size=10**15), limit, rtol=1e-6)
    # Units.
    scaled = of(scale * images, rate=rate / scale**2, sigma=0.7 / scale)
    assert_close(scale * scaled, profile, rtol=1e-8)
    given_targets = of(target_std=None)
    assert (given_targets >= 0).all()
    scaled = of(targets=unit * targets, sigma=0.7 * unit, target_std=None)
    assert_close(scaled / unit, given_targets, rtol=1e-8)


@given(problem=problems(), size=batch_sizes, share=st.floats(0.1, 0.9))
def test_noise_ends_where_all_targets_are_met(problem, size, share):
    images, _, head, random = problem
    p = mean_patches(images)
    solution = random.normal(size=D)
    rate = share * border_of(images, head, size)
    dynamics = theory.stochastic_descent(take(images, p @ solution), head, rate, size)
    kernel = random.normal(size=(2, 2, 1, K))
    covariance = np.asarray(dynamics.predictor_covariance(T, kernel))
    moved = np.asarray(dynamics.predictor(T, kernel))[[0, -1]]
    scale = np.abs(moved).max() ** 2
    assert_close(covariance[-1], np.zeros((D, D)), scale=scale, rtol=1e-6)


COMPILED = jax.jit(
    lambda *of: theory.stochastic_descent(*of).predictor_covariance(T[:3], KERNEL)
)
KERNEL = np.ones((2, 2, 1, K), np.float32)


@given(seed=seeds)
def test_minibatches_in_float32(seed):
    random = np.random.default_rng(seed)
    images, y = random.normal(size=(N, 3, 3, 1)), random.normal(size=N)
    moments, head = take(images, y), random.normal(size=K)
    rate = 0.5 * border_of(images, head, 4)
    dynamics = theory.stochastic_descent(moments, head, rate, 4)
    expected = np.asarray(dynamics.predictor_covariance(T[:3], KERNEL))
    small = jax.tree.map(np.float32, (moments, head, rate, 4.0))
    found = COMPILED(*small)
    assert found.dtype == np.float32
    assert_close(found, expected, rtol=1e-3)


# Noise on a quadratic loss


@st.composite
def quadratics(draw):
    """Curvature of independent filters (K, D, D), sometimes singular; a covariance of
    their gradients; and a share of the border of stability."""
    random = np.random.default_rng(draw(seeds))
    axes = np.stack([orthogonal(random, D) for _ in range(K)])
    values = np.exp(random.uniform(-8, 0, size=(K, D)))
    values[:, 3:] *= draw(st.sampled_from([0, 1]))
    curvature = np.einsum("kde,ke,kfe->kdf", axes, values, axes)
    rows = random.normal(size=(K, 3, D)) @ curvature
    return curvature, np.einsum("knd,kne->kde", rows, rows), values.max(), random


def noise(curvature, rate, basis, t=T, *, continuous=False, **options):
    dynamics = theory.quadratic_descent(
        curvature, np.zeros((K, D)), rate, continuous=continuous
    )
    options = {"batch_size": 4} | options
    return np.asarray(theory.gradient_noise_profile(dynamics, t, basis, **options))


flags = st.booleans()


@given(problem=quadratics(), share=st.floats(1e-6, 0.95), flow=flags)
def test_noise_adds_up_in_squares(problem, share, flow):
    curvature, covariance, largest, random = problem
    rate, basis = share * 2 / largest, orthogonal(random, D)

    def of(covariance, curvature=curvature, basis=basis):
        return noise(curvature, rate, basis, continuous=flow, covariance=covariance)

    drawn, found = of(None), of(covariance)
    assert not found[0].any()
    assert (np.diff(found, axis=0) >= -1e-12 * found.max()).all()
    # The energy of all directions.
    other = of(covariance, basis=orthogonal(random, D))
    assert_close((other**2).sum(axis=1), (found**2).sum(axis=1), rtol=1e-9)
    # The noise of drawn labels has the covariance H, and those of two covariances add.
    assert_close(of(curvature), drawn, rtol=1e-6)
    both = of(curvature + 2 * covariance)
    assert_close(both**2, drawn**2 + 2 * found**2, rtol=1e-6)
    # Filters may be exchanged, and axes turned.
    order, turn = random.permutation(K), orthogonal(random, D)
    turned = (turn @ matrices[order] @ turn.T for matrices in (covariance, curvature))
    assert_close(of(*turned, turn @ basis), found, rtol=1e-6)


@given(problem=quadratics(), share=st.floats(1e-6, 0.95), scale=wide_scales)
def test_the_noise_of_drawn_labels(problem, share, scale):
    curvature, covariance, largest, random = problem
    rate, basis = share * 2 / largest, orthogonal(random, D)
    found, flow = (
        noise(curvature, rate, basis, continuous=continuous)
        for continuous in (False, True)
    )
    # At first along the curvature, and exactly.
    first = np.einsum("di,kde,ei->i", basis, curvature, basis) / K
    assert_close(found[1], rate * np.sqrt(np.maximum(first, 0) / 4), rtol=1e-9)
    # In continuous time an Ornstein-Uhlenbeck process, of the size of its rate.
    values, axes = np.linalg.eigh(curvature)
    left = -np.expm1(-2 * rate * np.array([1, 7])[:, None, None] * values)
    along = np.einsum("kde,di->kei", axes, basis) ** 2
    energy = rate / 8 * np.einsum("tke,kei->ti", left, along) / K
    assert_close(flow[1:3], np.sqrt(np.maximum(energy, 0)), rtol=1e-7)
    seen = along * (values > 1e-9 * largest)[:, :, None]
    saturated = np.sqrt(rate / 8 * seen.sum(axis=1).mean(axis=0))
    assert_close(flow[3], saturated, rtol=1e-7)
    # Steps overshoot.
    assert (found[1:] >= flow[1:] * (1 - 1e-9)).all()
    # Its units.
    scaled = noise(scale * curvature, rate / scale, basis)
    assert_close(scaled * np.sqrt(scale), found, rtol=1e-9)
    other = noise(curvature, rate, basis, covariance=scale * covariance)
    one = noise(curvature, rate, basis, covariance=covariance)
    assert_close(other / np.sqrt(scale), one, rtol=1e-9)


@given(problem=quadratics(), share=st.floats(1e-6, 0.95), given_one=flags)
def test_noise_of_epochs(problem, share, given_one):
    """A permutation of the images takes back what it can: of all at once all, of images
    without number nothing."""
    curvature, covariance, largest, random = problem
    rate, basis = share * 2 / largest, orthogonal(random, D)

    def of(count, size=4, covariance=covariance if given_one else None):
        return noise(
            curvature, rate, basis, batch_size=size, count=count, covariance=covariance
        )

    replaced = of(None)
    bound = replaced * (np.sqrt(12 / 11) if given_one else 1)
    assert (of(12) <= bound * (1 + 1e-7) + 1e-12 * bound.max()).all()
    assert_close(of(10**9)[:3], replaced[:3], rtol=1e-6)
    assert_close(of(4), 0 * replaced, scale=replaced.max(), rtol=1e-7)
    # Batches of any size, drawn with replacement, differ by it alone.
    larger = noise(curvature, rate, basis, batch_size=16)
    assert_close(larger, noise(curvature, rate, basis) / 2)
