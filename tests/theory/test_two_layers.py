"""Gradient descent on both layers against loops over explicit patches, its conserved
quantity, and what tells lazy training from rich."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.twins import all_patches
from theory import (
    gradient_descent,
    head_change,
    largest_stable_learning_rate,
    mean_patch_moments,
    two_layer_descent,
)

RANDOM = np.random.default_rng(20)
FLOAT64 = jax.config.read("jax_enable_x64")
D, K, M = 8, 3, 2
IMAGES = RANDOM.normal(size=(12, 4, 5, 2)).cumsum(axis=2) / 2
TARGETS = 2 * RANDOM.normal(size=(12, M))
MOMENTS = mean_patch_moments(IMAGES, TARGETS, 2)
ONE = mean_patch_moments(IMAGES, TARGETS[:, 0], 2)
PATCHES = all_patches(IMAGES, 2).reshape(12, -1, D)
HEAD = RANDOM.normal(size=(K, M))
START = 0.3 * RANDOM.normal(size=(2, 2, 2, K))
RATE = 0.2 * float(largest_stable_learning_rate(MOMENTS, HEAD))
STEPS = [0, 1, 2, 2, 30, 400]


def trained(head=HEAD, kernel=START, rate=RATE, steps=STEPS, wrong=None):
    """Both layers after each number of steps, by a loop over explicit patches."""
    pooled = PATCHES.mean(axis=1)
    w, a, kernels, heads = kernel.reshape(D, -1), head, [], []
    for step in range(steps[-1] + 1):
        for _ in range(steps.count(step)):
            kernels.append(w.reshape(kernel.shape))
            heads.append(a)
        error = pooled @ w @ a - TARGETS
        factor = 1 if wrong == "factor" else 2
        new = w - rate * factor / 12 * pooled.T @ error @ a.T
        seen = new if wrong == "one after the other" else w
        if wrong != "head stays":
            a = a - rate * factor / 12 * seen.T @ pooled.T @ error
        w = new
    return np.array(kernels), np.array(heads)


def test_it_is_gradient_descent_on_both_layers():
    kernels, heads = trained()
    for weights in (kernels, heads):
        assert np.abs(weights[-1] - weights[0]).max() > 0.3  # it moved far
    run = two_layer_descent(MOMENTS, HEAD, START, RATE, STEPS)
    assert run.kernel.shape == (6, 2, 2, 2, K)
    assert run.head.shape == (6, K, M)
    np.testing.assert_allclose(run.kernel, kernels, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.head, heads, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(run.kernel[0], START)
    for wrong in ("factor", "one after the other", "head stays"):
        other, _ = trained(wrong=wrong)
        assert np.abs(other - kernels).max() > 1e-3, wrong


def test_a_head_of_one_output_may_have_one_axis():
    run = two_layer_descent(ONE, HEAD[:, 0], START, RATE, [7])
    same = two_layer_descent(ONE, HEAD[:, :1], START, RATE, [7])
    assert run.head.shape == (1, K, 1)
    np.testing.assert_array_equal(run.kernel, same.kernel)


def test_a_head_that_starts_at_zero_learns():
    run = two_layer_descent(MOMENTS, np.zeros((K, M)), START, RATE, [1, 2])
    np.testing.assert_array_equal(run.kernel[0], START)
    drive = 2 * RATE * START.reshape(D, K).T @ np.asarray(MOMENTS.cross)
    np.testing.assert_allclose(run.head[0], drive, rtol=1e-12)
    assert np.abs(run.kernel[1] - START).max() > 1e-4


def test_new_steps_compile_nothing():
    descent = jax.jit(two_layer_descent)
    descent(MOMENTS, HEAD, START, RATE, jnp.array([1, 2, 3]))
    run = descent(MOMENTS, HEAD, START, RATE, jnp.array([0, 30, 400]))
    assert descent._cache_size() == 1
    kernels, _ = trained(steps=[0, 30, 400])
    np.testing.assert_allclose(run.kernel, kernels, rtol=0, atol=1e-12)


def test_seeds_side_by_side_by_vmap():
    starts = np.stack([START, -2 * START, 0.1 * START])
    heads = np.stack([HEAD, HEAD, -HEAD])
    runs = jax.vmap(
        lambda start, head: two_layer_descent(MOMENTS, head, start, RATE, [3, 50])
    )(starts, heads)
    assert runs.kernel.shape == (3, 2, 2, 2, 2, K)
    for n in range(3):
        run = two_layer_descent(MOMENTS, heads[n], starts[n], RATE, [3, 50])
        np.testing.assert_allclose(runs.kernel[n], run.kernel, rtol=0, atol=1e-12)
        np.testing.assert_allclose(runs.head[n], run.head, rtol=0, atol=1e-12)


def test_derivatives_in_forward_mode():
    def ends(rate, start):
        run = two_layer_descent(MOMENTS, HEAD, start, rate, [60])
        return run.kernel, run.head

    along = RANDOM.normal(size=START.shape)
    slopes = jax.jvp(ends, (RATE, START), (RATE, along))[1]
    step = 1e-6
    after = ends(RATE * (1 + step), START + step * along)
    before = ends(RATE * (1 - step), START - step * along)
    for slope, high, low in zip(slopes, after, before, strict=True):
        np.testing.assert_allclose(slope, (high - low) / (2 * step), atol=1e-7)


def slope(x, y):
    """Of log y against log x."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def test_gradient_flow_conserves_the_difference_of_the_layers():
    """a a^T - W^T W drifts by the first order of the step size."""
    head, start = HEAD, START.reshape(D, K)
    before = head @ head.T - start.T @ start
    rates, drifts = RATE * 0.5 ** np.arange(6), []
    for n, rate in enumerate(rates):
        run = two_layer_descent(MOMENTS, head, START, rate, [40 * 2**n])
        w, a = np.asarray(run.kernel[0]).reshape(D, K), np.asarray(run.head[0])
        assert np.abs(w.T @ w - start.T @ start).max() > 0.3
        drifts.append(np.abs(a @ a.T - w.T @ w - before).max())
    assert abs(slope(rates, drifts) - 1) < 0.05


@pytest.mark.parametrize(
    ("init_std", "power", "tolerance"), [(0.0, -4, 0.02), (3.0, -2, 0.02)]
)
def test_how_much_the_head_changes_is_a_power_of_its_scale(init_std, power, tolerance):
    """Its fourth where the filters start at zero, its square where they start large: of
    the head that is trained, and of what the fixed head predicts."""
    unit = HEAD[:, 0] / np.linalg.norm(HEAD[:, 0])
    start = init_std * START / 0.3
    scales = (32 if init_std else 16) * 2.0 ** np.arange(6)
    changes, predicted = [], []
    for scale in scales:
        head = scale * unit
        rate = 0.02 * float(largest_stable_learning_rate(ONE, head))
        run = two_layer_descent(ONE, head, start, rate, [20_000])
        changes.append(np.linalg.norm(np.asarray(run.head[0, :, 0]) - head) / scale)
        end = gradient_descent(ONE, head, rate).kernel(20_000, start)
        predicted.append(float(head_change(head, start, end)))
    assert abs(slope(scales, changes) - power) < tolerance
    assert abs(slope(scales, predicted) - power) < tolerance
    # |a a^T| changes twice as much as |a| if the head only grows, less if it turns.
    ratio = np.array(predicted) / np.array(changes)
    assert ((ratio > 1.3) & (ratio < 2.1)).all(), ratio


def test_the_change_of_the_head_is_that_of_its_products():
    after = START + RANDOM.normal(size=(4, *START.shape))
    w, w0 = after.reshape(4, D, K), START.reshape(D, K)
    expected = [
        np.linalg.norm(v.T @ v - w0.T @ w0) / np.linalg.norm(HEAD @ HEAD.T) for v in w
    ]
    np.testing.assert_allclose(head_change(HEAD, START, after), expected, rtol=1e-12)
    # No digits are lost in small changes.
    tiny = float(head_change(HEAD, START, START * (1 + 1e-9)))
    gram = np.linalg.norm(w0.T @ w0) / np.linalg.norm(HEAD @ HEAD.T)
    np.testing.assert_allclose(tiny, 2e-9 * gram, rtol=1e-6)
    # Nor are large or small weights lost, of which it has fourth powers.
    for unit in (1e-120, 1e-80, 1e80, 1e120):
        found = head_change(unit * HEAD, unit * START, unit * after)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.float32
def test_float64_outside_traces_whatever_the_flag():
    images = IMAGES.astype(np.float32)
    moments = mean_patch_moments(images, TARGETS, 2)
    run = two_layer_descent(moments, HEAD, START, RATE, STEPS)
    assert run.kernel.dtype == run.head.dtype == np.float64
    assert isinstance(run.kernel, jax.Array if FLOAT64 else np.ndarray)
    kernels, heads = trained()
    np.testing.assert_allclose(run.kernel, kernels, rtol=0, atol=1e-5)
    again = jax.jit(two_layer_descent)(
        *jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (moments, HEAD, START)),
        jnp.float32(RATE),
        np.array(STEPS),
    )
    assert again.kernel.dtype == again.head.dtype == np.float32
    np.testing.assert_allclose(again.head, heads, rtol=0, atol=1e-4)
    assert head_change(HEAD, START, run.kernel).dtype == np.float64


def test_divergence_names_the_step():
    rate = 20 * RATE
    with pytest.raises(
        ValueError, match=rf"learning_rate = {rate}.* not finite at step \d+"
    ) as error:
        two_layer_descent(MOMENTS, HEAD, START, rate, [0, 10**9])
    step = int(str(error.value).split("step ")[1].split(";")[0])
    assert 3 < step < 1000
    assert np.isfinite(
        two_layer_descent(MOMENTS, HEAD, START, rate, [step - 1]).kernel
    ).all()


def with_nan(array):
    return np.where(
        np.arange(np.size(array)).reshape(np.shape(array)) == 1, np.nan, array
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moments": 3.0}, "moments must be MeanPatchMoments, of theory"),
        (
            {"moments": dataclasses.replace(MOMENTS, second=np.full((D, D), np.inf))},
            "moments.second has 64 entries that are NaN or infinite",
        ),
        ({"head": with_nan(HEAD)}, "head has 1 entries that are NaN"),
        ({"head": np.ones((K, 5))}, r"shape \(3, 5\) has 5 outputs, .* targets have 2"),
        ({"head": np.ones((2, M))}, r"initial_kernel must have .* = \(2, 2, 2, 2\)"),
        ({"initial_kernel": with_nan(START)}, "initial_kernel has 1 entries that"),
        (
            {"initial_kernel": np.stack([START])},
            r"got \(1, 2, 2, 2, 3\); map over several with jax.vmap",
        ),
        ({"initial_kernel": START.reshape(D, K)}, "must have Flax's axes"),
        ({"initial_kernel": 1e-200 * START}, "so small that their squares underflow"),
        (
            {"initial_kernel": 0 * START, "head": 0 * HEAD},
            "head and initial_kernel are all zeros, which no gradient leaves",
        ),
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0, got 0"),
        ({"learning_rate": [0.1]}, "learning_rate must be a scalar"),
        ({"record_steps": 3}, r"record_steps must be a list .* got shape \(\)"),
        ({"record_steps": []}, "record_steps must be a list of at least one step"),
        ({"record_steps": [2, 1]}, r"record_steps must not decrease.* got \[2, 1\]"),
        ({"record_steps": [1, np.inf]}, "nor exceed 2147483647, since every step"),
        ({"record_steps": [-1]}, "must be >= 0"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "moments": MOMENTS,
        "head": HEAD,
        "initial_kernel": START,
        "learning_rate": RATE,
        "record_steps": [1],
    } | change
    with pytest.raises((TypeError, ValueError), match=message):
        two_layer_descent(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0 * HEAD, START, START), "head is all zeros"),
        ((HEAD, START, START[..., :2]), r"same axes .* K = 3 .* got \(2, 2, 2, 2\)"),
        ((HEAD[:2], START, START), "with K = 2 as the head has"),
        ((HEAD, START, with_nan(START)), "kernel has 1 entries that are NaN"),
    ],
)
def test_bad_arguments_of_the_change_of_the_head(arguments, message):
    with pytest.raises(ValueError, match=message):
        head_change(*arguments)
