"""Gradient descent on a quadratic against its steps one by one, matrix exponentials,
the linear CNN, and drives drawn at random."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import theory
from tests.theory.twins import relative_error
from theory import QuadraticDynamics, quadratic_descent
from theory.geometric_sum import geometric_integral

RANDOM = np.random.default_rng(12)
K, D = 3, 4
N = K * D
SHAPES = {
    "matrix": ((N, N), (N,)),
    "filters": ((K, D, K, D), (K, D)),
    "blocks": ((K, D, D), (K, D)),
}
STEPS = np.array([0, 1, 2, 7, 300])
BASIS = np.linalg.qr(RANDOM.normal(size=(D, D)))[0][:, :3]


def semidefinite(n, rank, random=RANDOM):
    """Of eigenvalues down to 1e-3 of the largest, then zero."""
    axes = np.linalg.qr(random.normal(size=(n, n)))[0][:, :rank]
    return axes * np.geomspace(1, 1e-3, rank) @ axes.T


def problem(kind, rank=None):
    """Curvature, a drive in its range, and the two as (n, n) and (n,)."""
    shape, of_drive = SHAPES[kind]
    if kind == "blocks":
        blocks = [semidefinite(D, rank or D) * (k + 1) for k in range(K)]
        matrix = linalg.block_diag(*blocks)
        curvature = np.array(blocks)
    else:
        matrix = semidefinite(N, rank or N)
        curvature = matrix.reshape(shape)
    drive = matrix @ RANDOM.normal(size=N)
    return curvature, drive.reshape(of_drive), matrix, drive


def rate(matrix, share=0.8):
    """Up to 1 the modes decay without oscillating; the border is at 2."""
    return 2 * share / np.linalg.eigvalsh(matrix)[-1]


def descended(matrix, drive, eta, steps):
    """Gradient descent, step by step, on b w + w H w / 2."""
    w = np.zeros_like(drive)
    for _ in range(steps):
        w = w - eta * (drive + matrix @ w)
    return w


def flowed(matrix, drive, time):
    """-int_0^t exp(-s H) b ds by the exponential of an enlarged matrix: no inverse."""
    n = len(drive)
    enlarged = np.zeros((n + 1, n + 1))
    enlarged[:n, :n], enlarged[:n, n] = -matrix, -drive
    return linalg.expm(time * enlarged)[:n, n]


# --- the change ---


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_change_is_that_of_steps_one_by_one(kind, rank):
    curvature, drive, matrix, flat = problem(kind, rank)
    eta = rate(matrix)
    dynamics = quadratic_descent(curvature, drive, eta)
    assert isinstance(dynamics, QuadraticDynamics)
    found = np.asarray(dynamics.change(STEPS))
    assert found.shape == (5, *drive.shape)
    steps = np.array([descended(matrix, flat, eta, t) for t in STEPS])
    assert relative_error(steps[3], steps[1]) > 0.1
    assert relative_error(found.reshape(5, N), steps) < 1e-13
    # The sign is that of the gradient.
    assert relative_error(found[1], -eta * drive) < 1e-14
    wrong = np.asarray(quadratic_descent(curvature, -drive, eta).change(STEPS))
    assert relative_error(wrong.reshape(5, N), steps) > 1
    again = np.asarray(dynamics.change(7))
    assert relative_error(again, found[3]) < 1e-14


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_continuous_change_is_the_matrix_exponential(kind, rank):
    curvature, drive, matrix, flat = problem(kind, rank)
    eta = rate(matrix, 3)  # there is no border of stability
    dynamics = quadratic_descent(curvature, drive, eta, continuous=True)
    times = np.array([0, 0.3, 1, 25.5])
    found = np.asarray(dynamics.change(times)).reshape(4, N)
    expected = [flowed(matrix, flat, eta * t) for t in times]
    assert relative_error(found, expected) < 1e-12
    if rank is None:
        end = np.asarray(dynamics.change(np.inf)).ravel()
        assert relative_error(end, -np.linalg.solve(matrix, flat)) < 1e-11
    # Many small steps are nearly the flow, and the two share a decomposition.
    small = quadratic_descent(curvature, drive, rate(matrix, 1e-5))
    flow = dataclasses.replace(small, continuous=True)
    steps = [np.asarray(d.change(100_000)) for d in (small, flow)]
    assert 1e-9 < relative_error(*steps) < 1e-4


def test_limits_of_time():
    curvature, drive, matrix, flat = problem("filters", 5)
    for continuous in (False, True):
        dynamics = quadratic_descent(
            curvature, drive, rate(matrix), continuous=continuous
        )
        end = np.asarray(dynamics.change(np.inf)).ravel()
        assert relative_error(end, -np.linalg.pinv(matrix, 1e-8) @ flat) < 1e-11
        late = np.asarray(dynamics.change(10**12)).ravel()
        assert relative_error(late, end) < 1e-12
        assert not np.asarray(dynamics.change(0)).any()


@pytest.mark.parametrize("continuous", [False, True])
def test_modes_without_curvature(continuous):
    """A drive that is rounding does not add up; one that is not does, and has no
    limit."""
    axes = np.linalg.qr(RANDOM.normal(size=(N, N)))[0]
    curvature = axes[:, :4] * [3, 2, 1, 0.5] @ axes[:, :4].T
    inside = axes[:, :4] @ np.ones(4)
    options = {"continuous": continuous}
    still = quadratic_descent(curvature, inside, 0.1, **options)
    assert (np.asarray(still.curvature) > 0).sum() == 4
    assert (np.asarray(still.drive) != 0).sum() == 4
    late = [np.asarray(still.change(t)) for t in (1e5, 1e18, np.inf)]
    np.testing.assert_allclose(late[0], late[1], atol=1e-12)
    np.testing.assert_allclose(late[0], late[2], atol=1e-12)
    pushed = quadratic_descent(curvature, inside + 1e-3 * axes[:, 7], 0.1, **options)
    moved = np.asarray(pushed.change(1e5)) - late[0]
    np.testing.assert_allclose(moved, -0.1 * 1e5 * 1e-3 * axes[:, 7], atol=1e-8)
    np.testing.assert_allclose(pushed.change(np.inf), late[2], atol=1e-11)
    nothing = quadratic_descent(0 * curvature, inside, 0.1, **options)
    np.testing.assert_allclose(nothing.change(3), -0.3 * inside, atol=1e-15)


def test_the_linear_network_is_a_kronecker_product():
    """H = 2 a a^T x A, b = 2 (A W a - B) a^T, and drawn targets of one variance."""
    for outputs in (1, 4):
        images = RANDOM.normal(size=(20, 4, 4, 1)).cumsum(axis=1)
        targets, head = (
            RANDOM.normal(size=(20, outputs)),
            RANDOM.normal(size=(K, outputs)),
        )
        moments = theory.mean_patch_moments(images, targets, 2)
        tau = 1.7
        moments = dataclasses.replace(
            moments, target_covariance=tau**2 * np.eye(outputs)
        )
        eta = 0.8 * float(theory.largest_stable_learning_rate(moments, head))
        linear = theory.gradient_descent(moments, head, eta)
        start = RANDOM.normal(size=(2, 2, 1, K))
        w, second = start.reshape(D, K), np.asarray(moments.second)
        curvature = 2 * np.einsum("km,lm,ij->kilj", head, head, second)
        drive = 2 * (second @ w @ head - np.asarray(moments.cross)) @ head.T
        quadratic = quadratic_descent(curvature, drive.T, eta)
        t = np.array([1, 30, 10_000, np.inf])
        change = np.asarray(linear.kernel(t, start)) - start
        found = np.asarray(quadratic.change(t)).swapaxes(-1, -2)
        assert relative_error(found, change.reshape(4, D, K)) < 1e-10
        law = {"init_std": 0.0, "change": True, "components": BASIS}
        random = {"count": moments.count, "target_std": tau}
        assert (
            relative_error(
                quadratic.expected_profile(t, BASIS, **random),
                linear.expected_profile(t, **law),
            )
            < 1e-10
        )
        q = np.array([0.05, 0.5])
        assert (
            relative_error(
                quadratic.profile_quantiles(q, t, BASIS, **random),
                linear.profile_quantiles(q, t, **law),
            )
            < 1e-9
        )
        # The border is the same one.
        border = float(theory.largest_stable_learning_rate(moments, head))
        quadratic_descent(curvature, drive.T, 0.999999 * border)
        with pytest.raises(ValueError, match="border of stability"):
            quadratic_descent(curvature, drive.T, 1.000001 * border)


# --- the law over drives ---


def matrix_of(kind, matrix):
    """(n, n) in the shape of a curvature."""
    if kind == "blocks":
        return np.array([matrix[i : i + D, i : i + D] for i in range(0, N, D)])
    return matrix.reshape(SHAPES[kind][0])


def block_part(kind, matrix):
    return linalg.block_diag(*matrix_of(kind, matrix)) if kind == "blocks" else matrix


def propagator(matrix, eta, t, continuous):
    """The matrix P of Delta = -P b, from steps or exponentials of single columns."""
    move = (
        (lambda b: flowed(matrix, b, eta * t))
        if continuous
        else (lambda b: descended(matrix, b, eta, int(t)))
    )
    return -np.array([move(b) for b in np.eye(N)]).T


def profile_of(change, basis=BASIS):
    """(..., n) -> (..., p), of a change or of columns of one."""
    along = change.reshape(*change.shape[:-1], -1, D) @ basis
    return np.sqrt((along**2).mean(axis=-2))


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
def test_expected_profile_is_the_mean_over_an_exact_ensemble(kind, continuous):
    curvature, drive, matrix, _ = problem(kind, 3)
    eta, count, tau = rate(matrix), 50, 1.3
    dynamics = quadratic_descent(curvature, drive, eta, continuous=continuous)
    factor = RANDOM.normal(size=(N, N))
    other = matrix @ block_part(kind, factor @ factor.T) @ matrix
    mean = matrix @ RANDOM.normal(size=N)
    zero = 0 * mean
    laws = [
        (matrix / count, zero, {"count": count}),
        (2 * tau**2 * matrix / count, mean, {"count": count, "target_std": tau}),
        (other, zero, {"covariance": matrix_of(kind, other)}),
        (other, mean, {"covariance": matrix_of(kind, other)}),
    ]
    times = np.array([1, 6, 90, 1e9, np.inf])
    one = np.linalg.qr(RANDOM.normal(size=(N, 3)))[0]  # for a filter of N weights
    basis = one if kind == "matrix" else BASIS
    for covariance, shift, law in laws:
        values, axes = np.linalg.eigh(covariance)
        roots = axes * np.sqrt(np.maximum(values, 0) * N)  # mean of their squares: cov
        ensemble = np.concatenate([roots.T, -roots.T]) + shift
        if shift.any():
            law = {**law, "mean": shift.reshape(drive.shape)}
        found = np.asarray(dynamics.expected_profile(times, basis, **law))
        assert found.shape == (5, 3)
        for i, t in enumerate(times[:3]):
            moved = ensemble @ propagator(matrix, eta, t, continuous).T
            along = moved.reshape(2 * N, -1, basis.shape[0]) @ basis
            expected = np.sqrt((along**2).mean(axis=(0, 1)))
            assert relative_error(found[i], expected) < 1e-11
        assert relative_error(found[3], found[4]) < 1e-8


@pytest.mark.parametrize("kind", ["filters", "blocks"])
def test_quantiles_are_those_of_drives_drawn_at_random(kind):
    """20,000 of them; the share below each quantile within five standard errors."""
    curvature, drive, matrix, _ = problem(kind)
    eta, seeds = rate(matrix), 20_000
    dynamics = quadratic_descent(curvature, drive, eta)
    factor = RANDOM.normal(size=(N, N))
    other = block_part(kind, factor @ factor.T)
    mean = 3 * RANDOM.normal(size=N)
    q, times = np.array([0.05, 0.5, 0.9]), np.array([[2], [40]])
    for covariance, shift, law in (
        (matrix / 9, 0 * mean, {"count": 9}),
        (
            other,
            mean,
            {"covariance": matrix_of(kind, other), "mean": mean.reshape(K, D)},
        ),
    ):
        bands = np.asarray(dynamics.profile_quantiles(q, times, BASIS, **law))
        assert bands.shape == (3, 2, 1, 3)
        typical = np.asarray(dynamics.expected_profile(times, BASIS, **law))
        drives = RANDOM.multivariate_normal(shift, covariance, size=seeds)
        for i, t in enumerate(times[:, 0]):
            found = profile_of(drives @ propagator(matrix, eta, t, False).T)
            share = (found[:, None] < bands[:, i, 0]).mean(axis=0)
            error = np.sqrt(q * (1 - q) / seeds)[:, None]
            assert (np.abs(share - q[:, None]) < 5 * error).all()
            squares = found**2
            error = squares.std(axis=0) / np.sqrt(seeds)
            assert (np.abs(squares.mean(axis=0) - typical[i, 0] ** 2) < 5 * error).all()
            # Ten per cent more is another law.
            wrong = (found[:, None] < 1.1 * bands[:, i, 0]).mean(axis=0)
            assert (np.abs(wrong - q[:, None]).max(axis=0) > 0.02).all()


def test_rounding_of_a_covariance_does_not_add_up():
    axes = np.linalg.qr(RANDOM.normal(size=(N, N)))[0][:, :4]
    curvature, covariance = axes * [3, 2, 1, 0.5] @ axes.T, axes @ axes.T
    dynamics = quadratic_descent(
        curvature.reshape(K, D, K, D), (axes @ np.ones(4)).reshape(K, D), 0.1
    )
    for law in (
        {"covariance": covariance.reshape(K, D, K, D)},
        {"count": 3},
        {"count": 3, "mean": (axes @ np.ones(4)).reshape(K, D)},
    ):
        late = np.asarray(dynamics.expected_profile([1e4, 1e15, np.inf], BASIS, **law))
        np.testing.assert_allclose(late[1:], late[:1].repeat(2, 0), rtol=1e-9)


def test_early_and_late_profiles_of_drawn_labels():
    """Early along the root of the curvature, late along its inverse."""
    values = np.array([2, 1, 0.1, 0.01])
    dynamics = quadratic_descent(np.diag(values), np.ones(4), 0.1)
    rms = np.asarray(dynamics.expected_profile([1, np.inf], np.eye(4), count=16))
    np.testing.assert_allclose(rms[0], 0.1 * np.sqrt(values / 16), rtol=1e-14)
    np.testing.assert_allclose(rms[1], 1 / np.sqrt(16 * values), rtol=1e-14)


# --- ways of calling ---


def test_traced_calls_equal_plain_ones_and_have_derivatives():
    curvature, drive, matrix, _ = problem("blocks")
    eta = rate(matrix)

    @partial(jax.jit, static_argnums=2)
    def traced(eta, scale, continuous):
        return calls(eta, scale, continuous)

    def calls(eta, scale, continuous):
        dynamics = quadratic_descent(
            scale * curvature, drive, eta, continuous=continuous
        )
        return (
            dynamics.change([3, 50]),
            dynamics.expected_profile([3, 50], BASIS, count=10),
            dynamics.profile_quantiles(0.3, 5, BASIS, count=10),
        )

    for continuous in (False, True):
        plain = calls(eta, 1.0, continuous)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13),
            plain,
            traced(eta, 1.0, continuous),
        )

        def total(rate_and_scale, continuous=continuous):
            dynamics = quadratic_descent(
                rate_and_scale[1] * curvature,
                drive,
                rate_and_scale[0],
                continuous=continuous,
            )
            return dynamics.expected_profile([3, 50], BASIS, count=10).sum()

        point = jnp.array([eta, 1.0])
        twice = jnp.stack([point, point])
        sums, slopes = jax.jit(jax.vmap(jax.value_and_grad(total)))(twice)
        np.testing.assert_allclose(sums, np.asarray(plain[1]).sum(), rtol=1e-10)
        for argument in (0, 1):
            step = 1e-5 * np.eye(2)[argument] * point
            high, low = (
                float(np.asarray(calls(*(point + shift), continuous)[1]).sum())
                for shift in (step, -step)
            )
            difference = (high - low) / (2 * step[argument])
            np.testing.assert_allclose(slopes[0, argument], difference, rtol=1e-6)


def test_geometric_integral_and_its_derivatives():
    x = np.array([0, 1e-300, 1e-12, 1e-3, 0.04, 0.06, 1, 30, 1e3])
    for t in (0.0, 1e-3, 1.0, 7.5, 1e6):
        y = x * t
        exact = np.where(x == 0, t, -np.expm1(-y) / np.where(x == 0, 1, x))
        np.testing.assert_allclose(geometric_integral(x, t), exact, rtol=1e-14)
        slope = jax.vmap(jax.grad(geometric_integral), (0, None))(x, t)
        # -t^2 int_0^1 s exp(-y s) ds by Gauss-Legendre, in pieces.
        nodes, weights = np.polynomial.legendre.leggauss(40)
        edges = np.append(0, np.geomspace(1e-10, 1, 60))
        s = (edges[1:, None] + edges[:-1, None]) / 2
        s = s + (edges[1:, None] - edges[:-1, None]) / 2 * nodes
        w = (edges[1:, None] - edges[:-1, None]) / 2 * weights
        integral = (s * w * np.exp(-y[:, None, None] * s)).sum(axis=(1, 2))
        np.testing.assert_allclose(slope, -(t**2) * integral, rtol=1e-11)
        in_time = jax.vmap(jax.grad(geometric_integral, argnums=1), (0, None))(x, t)
        np.testing.assert_allclose(in_time, np.exp(-y), rtol=1e-14)
    np.testing.assert_allclose(geometric_integral([2.0, 0.0], np.inf), [0.5, np.inf])


@pytest.mark.float32
def test_float64_outside_traces_and_float32_inside():
    curvature, drive, matrix, flat = problem("filters")
    eta = rate(matrix)
    exact = np.array([descended(matrix, flat, eta, t) for t in STEPS])
    dynamics = quadratic_descent(curvature, drive, eta)
    assert {leaf.dtype for leaf in jax.tree.leaves(dynamics)} == {np.dtype(np.float64)}
    change = dynamics.change(STEPS)
    assert change.dtype == np.float64
    assert relative_error(np.reshape(change, (5, N)), exact) < 1e-13
    single = [np.float32(x) for x in (curvature, drive, eta)]
    inside = jax.jit(lambda h, b, eta: quadratic_descent(h, b, eta).change(STEPS))(
        *single
    )
    assert inside.dtype == np.float32
    assert relative_error(np.reshape(inside, (5, N)), exact) < 1e-4
    # Given in float32, what float32 rounds is no curvature.
    rounded = quadratic_descent(
        *(np.float32(x) for x in problem("filters", 4)[:2]), eta
    )
    assert (np.asarray(rounded.curvature) > 0).sum() == 4
    assert rounded.curvature.dtype == np.float64
    law = {"count": 10}
    outside = dynamics.expected_profile([1, 50], BASIS, **law)
    assert outside.dtype == np.float64
    inside = jax.jit(
        lambda h, b: quadratic_descent(h, b, np.float32(eta)).expected_profile(
            [1, 50], np.float32(BASIS), **law
        )
    )(*single[:2])
    assert relative_error(inside, outside) < 1e-4


# --- bad input ---

GOOD = semidefinite(4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, np.ones(3), 0.1), r"curvature must have the shape .*\(4, 4\) .*\(3,\)"),
        ((GOOD, np.ones((4, 4)), 0.1), r"curvature must have the shape"),
        ((1.0, 1.0, 0.1), r"curvature must have the shape"),
        ((np.zeros((0, 0)), np.zeros(0), 0.1), r"not empty"),
        ((GOOD * np.nan, np.ones(4), 0.1), r"curvature has 16 entries that are NaN"),
        ((GOOD, np.full(4, np.inf), 0.1), r"drive has 4 entries that are NaN or inf"),
        ((GOOD + np.eye(4, k=1), np.ones(4), 0.1), r"curvature must be symmetric.* 1,"),
        (
            (GOOD - 0.1 * np.eye(4), np.ones(4), 0.1),
            r"positive semidefinite, but has an eigenvalue of -0.09.*Gauss-Newton",
        ),
        ((GOOD, np.ones(4), -0.1), r"learning_rate must be finite and > 0"),
        ((GOOD, np.ones(4), np.ones((2, 2))), r"learning_rate must be a number"),
        (
            (GOOD, np.ones(4), 2.0),
            r"learning_rate = 2.0 .* stable one is below 2.0|1.99",
        ),
        ((GOOD, np.ones(4), 9.0), r"learning_rate = 9.0 is at or beyond the border"),
    ],
)
def test_bad_quadratics(arguments, message):
    with pytest.raises(ValueError, match=message):
        quadratic_descent(*arguments)


def test_rounding_is_no_negative_curvature():
    axes = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
    curvature = axes * [1, 0.1, -1e-14, -1e-12] @ axes.T
    dynamics = quadratic_descent(curvature, np.ones(4), 0.1)
    assert (np.asarray(dynamics.curvature)[2:] == 0).all()


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({}, "give either count.*got neither"),
        (
            {"count": 3, "covariance": np.zeros((K, D, D))},
            "give either count.*got both",
        ),
        ({"count": 0}, "count must be finite and > 0, got 0"),
        ({"count": 3, "target_std": -1.0}, "target_std must be finite and >= 0"),
        (
            {"covariance": np.zeros((K, D, D)), "target_std": 1.0},
            "target_std goes with",
        ),
        ({"covariance": np.zeros((N, N))}, r"covariance must have shape \(3, 4, 4\)"),
        ({"covariance": np.zeros((K, D, D)) - np.eye(D)}, "a variance of -1.0 on its"),
        (
            {"covariance": np.zeros((K, D, D)) + np.eye(D, k=1)},
            "covariance must be sym",
        ),
        ({"covariance": np.full((K, D, D), np.nan)}, "covariance has 48 entries"),
        ({"count": 3, "mean": np.ones(N)}, r"mean must have shape \(3, 4\), got \(12,"),
        ({"count": 3, "mean": np.full((K, D), np.nan)}, "mean has 12 entries"),
        ({"count": 3, "components": np.eye(3)}, r"components must have shape \(d, p\)"),
        ({"count": 3, "components": 2 * np.eye(4)}, "components must be orthonormal"),
        ({"count": 3, "t": -1}, "iterations must be >= 0"),
    ],
)
def test_bad_laws(law, message):
    curvature, drive, matrix, _ = problem("blocks")
    dynamics = quadratic_descent(curvature, drive, rate(matrix))
    law = {"components": BASIS, "t": 3, **law}
    for ask in (
        dynamics.expected_profile,
        lambda **law: dynamics.profile_quantiles(0.5, **law),
    ):
        with pytest.raises(ValueError, match=message):
            ask(**law)
    with pytest.raises(ValueError, match="q must lie strictly between"):
        dynamics.profile_quantiles(1.0, 3, BASIS, count=3)
