"""Properties of a linear CNN whose two layers both learn: its steps, its flow, and what
the head must have done."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import theory
from tests.theory.properties import (
    assert_close,
    image_sets,
    orthogonal,
    seeds,
    wide_scales,
)

D, K, M = 4, 3, 2
SHAPE = (2, 2, 1, K)
STEPS = np.array([0, 1, 2, 9])
# Their fourth powers reach from 1e-200 to 1e200.
roots = st.integers(-166, 166).map(lambda power: 2.0**power)
ratios = st.integers(-166, 166).map(lambda power: 2.0**power)


def white(alpha, b):
    """Moments of mean patches without preferred direction."""
    images = np.ones((1, 2, 2, 1))
    moments = theory.mean_patch_moments(images, np.ones(1), 2)
    return dataclasses.replace(moments, second=alpha * np.eye(D), cross=b)


@st.composite
def problems(draw):
    """Moments, both layers, and a rate at which the first steps do not explode."""
    images = draw(image_sets(channels=(1,)))
    random = np.random.default_rng(draw(seeds))
    targets = random.normal(size=(len(images), M)) + random.normal(size=M)
    moments = theory.mean_patch_moments(images, targets, 2)
    moments = dataclasses.replace(moments, count=6)  # counts are compiled for
    head, kernel = random.normal(size=(K, M)), random.normal(size=SHAPE)
    if draw(st.booleans()):
        head = 0 * head  # only the filters drive
    energy = (head**2).sum() + (kernel**2).sum()
    fastest = np.trace(moments.second) * energy + np.abs(moments.cross).sum()
    return moments, head, kernel, draw(st.floats(0.001, 0.1)) / fastest, random


def descend(moments, head, kernel, rate, steps=STEPS):
    run = theory.two_layer_descent(moments, head, kernel, rate, steps)
    return np.asarray(run.kernel), np.asarray(run.head)


def flat(kernels):
    return kernels.reshape(*kernels.shape[:-4], D, -1)


@given(problem=problems())
def test_each_step_goes_against_the_gradient_and_keeps_the_balance(problem):
    """Of a a^T - W^T W all but the square of the step."""
    moments, head, kernel, rate, _ = problem
    steps = np.arange(4)
    kernels, heads = descend(moments, head, kernel, rate, steps)
    np.testing.assert_array_equal(kernels[0], kernel)
    np.testing.assert_array_equal(heads[0], head)
    w, a = flat(kernels), heads
    residual = np.asarray(moments.cross) - np.asarray(moments.second) @ w @ a
    to_filters = 2 * rate * residual @ a.swapaxes(1, 2)
    to_head = 2 * rate * w.swapaxes(1, 2) @ residual
    size = np.abs(w).max() + np.abs(a).max()
    assert_close(w[1:], (w + to_filters)[:-1], scale=size)
    assert_close(a[1:], (a + to_head)[:-1], scale=size)
    balance = a @ a.swapaxes(1, 2) - w.swapaxes(1, 2) @ w
    gained = to_head @ to_head.swapaxes(1, 2) - to_filters.swapaxes(1, 2) @ to_filters
    assert_close(np.diff(balance, axis=0), gained[:-1], scale=size**2)
    assert np.abs(kernels[-1] - kernel).max() + np.abs(heads[-1] - head).max() > 1e-6
    # Any of the steps may be recorded, some of them twice.
    some, some_heads = descend(moments, head, kernel, rate, [1, 1, 3, 3])
    np.testing.assert_array_equal(some, kernels[[1, 1, 3, 3]])
    np.testing.assert_array_equal(some_heads, heads[[1, 1, 3, 3]])


@given(problem=problems())
def test_filters_and_outputs_of_two_layers_may_be_rotated(problem):
    moments, head, kernel, rate, random = problem
    kernels, heads = descend(moments, head, kernel, rate)
    filters, outputs = orthogonal(random, K), orthogonal(random, M)
    mixed = dataclasses.replace(moments, cross=moments.cross @ outputs)
    turned = descend(mixed, filters.T @ head @ outputs, kernel @ filters, rate)
    size = np.abs(kernels).max() + np.abs(heads).max()
    assert_close(turned[0], kernels @ filters, scale=size)
    assert_close(turned[1], filters.T @ heads @ outputs, scale=size)


@given(problem=problems(), images=roots, targets=roots)
def test_the_units_of_images_and_targets_do_not_matter_to_two_layers(
    problem, images, targets
):
    """Exactly, as scaling by powers of two commutes with rounding."""
    moments, head, kernel, rate, _ = problem
    kernels, heads = descend(moments, head, kernel, rate)
    other = dataclasses.replace(
        moments,
        second=images**4 * np.asarray(moments.second),
        cross=images**2 * targets**2 * np.asarray(moments.cross),
    )
    unit = targets / images
    scaled = descend(other, unit * head, unit * kernel, rate / (images * targets) ** 2)
    np.testing.assert_array_equal(scaled[0], unit * kernels)
    np.testing.assert_array_equal(scaled[1], unit * heads)


# Of functions of their own, since programs are counted elsewhere.
COMPILED = jax.jit(lambda *start: theory.two_layer_descent(*start))


@given(problem=problems())
def test_two_layers_begin_as_a_fixed_head_and_compile_in_float32(problem):
    moments, head, kernel, rate, _ = problem
    kernels, heads = descend(moments, head, kernel, rate)
    if head.any():
        fixed = theory.gradient_descent(moments, head, rate).kernel(1, kernel)
        assert_close(kernels[1], fixed, scale=np.abs(kernels).max())
    small = jax.tree.map(np.float32, (moments, head, kernel, rate))
    run = COMPILED(*small, STEPS)
    assert run.kernel.dtype == run.head.dtype == np.float32
    size = np.abs(kernels).max() + np.abs(heads).max()
    assert_close(run.kernel, kernels, scale=size, rtol=1e-5)
    assert_close(run.head, heads, scale=size, rtol=1e-5)


@given(problem=problems())
def test_steps_that_explode_are_named(problem):
    moments, head, kernel, rate, _ = problem
    with pytest.raises(ValueError, match="not finite at step"):
        descend(moments, head, kernel, 1e6 * rate, [0, 100])


# Flow


@st.composite
def starts(draw):
    """Curvature, drive, filter and head; and the time in which they move."""
    random = np.random.default_rng(draw(seeds))
    alpha, a = random.exponential() + 0.01, random.normal()
    b, w = random.normal(size=(2, D))
    kind = draw(st.sampled_from(["any", "along", "no filter", "no head", "no drive"]))
    if kind == "along":
        w = random.normal() * b
    elif kind == "no filter":
        w = 0 * w
    elif kind == "no head":
        a = 0.0
    elif kind == "no drive":
        b = 0 * b
    if draw(st.booleans()):
        a = np.copysign(np.linalg.norm(w), a)  # balanced
    unit = 1 / (alpha * (w @ w + a * a) + np.linalg.norm(b))
    assume(a or w.any())
    return (alpha, b, w, a), unit, random


def flow(start, times):
    w, a = theory.two_layer_flow(*start, times)
    return np.concatenate([w, np.asarray(a)[..., None]], axis=-1)


@given(start=starts(), s=st.floats(0.01, 2), t=st.floats(0, 2))
def test_flow_after_flow_is_flow(start, s, t):
    (alpha, b, w, a), unit, _ = start
    times = unit * np.array([0, 1e-7, s, s + t])
    ends = flow((alpha, b, w, a), times)
    size = np.abs(ends).max()
    np.testing.assert_allclose(ends[0], [*w, a], rtol=1e-14)
    then = flow((alpha, b, ends[2, :-1], ends[2, -1]), unit * np.array([0, t, 0, 0]))
    assert_close(then[1], ends[3], scale=size, rtol=1e-11)
    # It begins along the gradient, and does not stay there.
    residual = b - alpha * a * w
    slope = unit * np.append(2 * a * residual, 2 * w @ residual)
    assert_close(ends[1] - ends[0], 1e-7 * slope, scale=size, rtol=1e-12)
    # What it conserves, and what it lowers.
    filters, heads = ends[:, :-1], ends[:, -1]
    balance = heads**2 - (filters**2).sum(axis=1)
    assert_close(balance, np.full(4, a**2 - w @ w), scale=size**2)
    product = heads[:, None] * filters
    loss = alpha * (product**2).sum(axis=1) - 2 * product @ b
    assert (np.diff(loss) <= 1e-11 * np.abs(loss).max()).all()


@given(start=starts(), t=st.floats(0, 3))
def test_the_flow_has_the_symmetries_of_its_equation(start, t):
    (alpha, b, w, a), unit, random = start
    times = unit * np.array([0, 0.1, t, 3])
    ends = flow((alpha, b, w, a), times)
    size = np.abs(ends).max()
    turn = orthogonal(random, D)
    turned = flow((alpha, turn @ b, turn @ w, a), times)
    assert_close(turned[:, :-1], ends[:, :-1] @ turn.T, scale=size)
    assert_close(turned[:, -1], ends[:, -1], scale=size)
    assert_close(flow((alpha, b, -w, -a), times), -ends, scale=size)
    mirrored = flow((alpha, -b, w, -a), times)
    assert_close(mirrored, ends * [1, 1, 1, 1, -1], scale=size)
    # Without curvature w along b and the head rotate hyperbolically.
    free = flow((0.0, b, w, a), times)
    beta = np.linalg.norm(b)
    u = b / beta if beta else b
    grown, mixed = np.cosh(2 * beta * times), np.sinh(2 * beta * times)
    along = grown * (u @ w) + mixed * a
    expected = w + np.outer(along - u @ w, u)
    size = np.abs(free).max()
    assert_close(free[:, :-1], expected, scale=size)
    assert_close(free[:, -1], grown * a + mixed * (u @ w), scale=size)


@given(start=starts(), weights=wide_scales, residuals=wide_scales, t=st.floats(0, 30))
def test_the_units_of_the_flow(start, weights, residuals, t):
    """Weights c times as large where the curvature is 1/c^2 as large; and a residual k
    times as large is a time 1/k."""
    (alpha, b, w, a), unit, _ = start
    times = unit * np.array([0.1, 1, t, np.inf])
    ends = flow((alpha, b, w, a), times)
    scaled = residuals * alpha / weights**2, residuals * b, weights * w, weights * a
    other = flow(scaled, times / residuals)
    assert_close(other / weights, ends, rtol=1e-9)


@given(start=starts())
def test_the_end_of_the_flow(start):
    (alpha, b, w, a), unit, _ = start
    *_, late, end = flow((alpha, b, w, a), unit * np.array([0, 1, 1e12, np.inf]))
    assert_close(late, end, scale=np.abs([*w, a]).max(), rtol=1e-5)
    w_end, a_end = end[:-1], end[-1]
    size = np.abs(b).max() + alpha * np.abs([*w, a]).max() ** 2
    residual = b - alpha * a_end * w_end
    # Nothing moves any more.
    assert_close(a_end * residual, 0 * b, scale=size * np.abs(end).max(), rtol=1e-10)
    assert abs(w_end @ residual) <= 1e-10 * size * np.abs(end).max()


COMPILED_FLOW = jax.jit(lambda *start: theory.two_layer_flow(*start))


@given(start=starts(), t=st.floats(0, 2))
def test_the_flow_in_float32_and_small_steps(start, t):
    (alpha, b, w, a), unit, random = start
    times = unit * np.array([0, 0.5, 1, t])
    ends = flow((alpha, b, w, a), times)
    size = np.abs(ends).max()
    small = [np.float32(x) for x in (alpha, b, w, a, times)]
    filters, heads = COMPILED_FLOW(*small)
    assert filters.dtype == heads.dtype == np.float32
    assert_close(filters, ends[:, :-1], scale=size, rtol=1e-4)
    assert_close(heads, ends[:, -1], scale=size, rtol=1e-4)
    # Filters that start aligned are one, and small steps are nearly a flow: half as
    # large they are twice as near.
    c = orthogonal(random, K)[0]
    moments = white(alpha, b)
    errors = []
    for count in (200, 400):
        kernel, head = np.outer(w, c).reshape(SHAPE), a * c[:, None]
        rate, steps = unit / count, np.array([0, count // 2, count, count])
        kernels, heads = descend(moments, head, kernel, rate, steps)
        moved = np.concatenate([flat(kernels) @ c, heads[..., 0] @ c[:, None]], axis=1)
        errors.append(moved - flow((alpha, b, w, a), steps * rate))
    assert np.abs(errors[0]).max() < 0.05 * size
    assert_close(2 * errors[1], errors[0], scale=size, rtol=1e-3)


# The head


@given(start=starts(), t=st.floats(0, 5), scale=st.integers(-300, 300))
def test_head_change_is_what_the_flow_does_to_the_head(start, t, scale):
    (alpha, b, w, a), unit, random = start
    assume(abs(a) > 1e-3 * np.linalg.norm(w))
    *_, end = flow((alpha, b, w, a), unit * np.array([0, 0, 0, t]))
    c, factor = orthogonal(random, K)[0], 2.0**scale
    found = theory.head_change(
        factor * a * c,
        factor * np.outer(w, c).reshape(SHAPE),
        factor * np.outer([end[:-1], w], c).reshape(2, *SHAPE),
    )
    size = 1 + (w @ w) / a**2
    assert_close(found, [abs(end[-1] ** 2 / a**2 - 1), 0], scale=size)


@given(seed=seeds, head=wide_scales, ratio=ratios, step=st.integers(-30, 0))
def test_head_change(seed, head, ratio, step):
    random = np.random.default_rng(seed)
    a, start, change = (random.normal(size=x) for x in ((K, M), SHAPE, SHAPE))
    end = start + 2.0**step * change

    def of(a, *kernels):
        return np.asarray(theory.head_change(a, *kernels))

    found = of(a, start, end)
    w, v = flat(start), flat(end)
    grown = v.T @ (v - w) + (v - w).T @ w
    expected = np.linalg.norm(grown) / np.linalg.norm(a @ a.T)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert of(a, start, start) == 0
    both = of(a, start, np.stack([end, start]))
    assert_close(both, [found, 0])
    # To first order twice the step, and what a rotation changes cannot be told.
    pixels, turn = orthogonal(random, D), orthogonal(random, K)
    turned = ((pixels @ x).reshape(SHAPE) for x in (w, v))
    rtol = 1e-13 / 2.0**step
    np.testing.assert_allclose(of(a @ orthogonal(random, M), *turned), found, rtol=rtol)
    turned = (x @ turn for x in (start, end))
    np.testing.assert_allclose(of(turn.T @ a, *turned), found, rtol=rtol)
    assert of(a, start, (pixels @ w).reshape(SHAPE)) < 1e-12 * of(a, 0 * start, start)
    # Its units.
    filters = ratio * head
    scaled = of(head * a, filters * start, filters * end)
    np.testing.assert_allclose(scaled / ratio / ratio, found, rtol=1e-12)
