"""The closed form of two layers on white mean patches against its differential equation
in 20 digits, small steps, and its limits."""

import dataclasses

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from theory import mean_patch_moments, two_layer_descent, two_layer_flow

RANDOM = np.random.default_rng(21)
FLOAT64 = jax.config.read("jax_enable_x64")


def integrated(alpha, b, w, a, time):
    """(w, a) at a time, from the differential equation in 20 digits."""
    with mpmath.workdps(20):
        alpha, *start = (mpmath.mpf(float(x)) for x in (alpha, *w, a))
        b = [mpmath.mpf(float(x)) for x in b]

        def speed(_, q):
            *w, a = q
            residual = [x - alpha * a * y for x, y in zip(b, w, strict=True)]
            of_head = mpmath.fdot(w, residual)
            return [*(2 * a * x for x in residual), 2 * of_head]

        solution = mpmath.odefun(speed, 0, start, tol=mpmath.mpf(10) ** -17)
        return np.array([float(x) for x in solution(time)])


def closed(alpha, b, w, a, time):
    filters, heads = two_layer_flow(alpha, np.array(b), np.array(w), a, time)
    return np.concatenate([filters, np.asarray(heads)[..., None]], axis=-1)


# All of two pixels, so that few programs are compiled.
STARTS = {
    "balanced": (1.0, [0.5, 0.0], [0.2, 0.0], 0.2),
    "balanced, negative": (1.0, [-0.5, 0.0], [0.2, 0.0], -0.2),
    "nearly balanced": (1.0, [0.5, 0.0], [0.2, 0.0], 0.2 + 1e-12),
    "head larger": (0.7, [0.5, 0.0], [0.1, 0.0], 1.5),
    "filter larger": (0.7, [0.0, 0.5], [0.0, 1.5], -0.1),
    "towards the saddle, then away": (1.0, [0.5, 0.0], [-0.3, 0.0], 0.301),
    "head at zero": (1.0, [0.5, 0.2], [0.3, -0.4], 0.0),
    "filter at zero": (2.0, [0.5, 0.2], [0.0, 0.0], 0.4),
    "across": (1.0, [0.5, 0.2], [-0.2, 0.9], 0.6),
    "across, head larger": (1.0, [0.5, 0.2], [-0.2, 0.9], -2.0),
    "no drive": (1.0, [0.0, 0.0], [0.3, 0.4], 0.7),
    "no drive, balanced": (1.0, [0.0, 0.0], [0.3, 0.4], 0.5),
    "hardly curved": (1e-12, [0.5, 0.2], [0.3, 0.4], 0.7),
    "not curved": (0.0, [0.5, 0.2], [0.3, 0.4], 0.7),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_it_solves_the_differential_equation(start):
    times = [0, 0.3, 0.8, 1.5]
    expected = np.array([integrated(*start, t) for t in times])
    np.testing.assert_allclose(
        closed(*start, times), expected, rtol=0, atol=2e-14 * np.abs(expected).max()
    )


def by_modes(alpha, b, w, a, times, sign=1, factor=2):
    """The formula of the derivations as it stands, by the modes of the whole matrix."""
    lean = sign * factor * alpha * (a**2 - np.dot(w, w)) / 2
    matrix = np.diag([-lean] * len(b) + [lean])
    matrix[-1, :-1] = matrix[:-1, -1] = factor * np.array(b)
    rates, modes = np.linalg.eigh(matrix)
    along, found = modes.T @ [*w, a], []
    for t in times:
        grown = np.exp(rates * t) * along
        sums = np.sum(np.expm1(2 * rates * t) / (2 * rates) * along**2)
        found.append(modes @ grown / np.sqrt(1 + factor * alpha * sums))
    return np.array(found)


@pytest.mark.parametrize("name", ["across", "across, head larger", "filter at zero"])
def test_wrong_formulas_are_far_away(name):
    times = [0, 0.5, 1, 2]
    found = closed(*STARTS[name], times)
    np.testing.assert_allclose(by_modes(*STARTS[name], times), found, atol=1e-13)
    for wrong in ({"sign": -1}, {"factor": 1}):
        assert np.abs(by_modes(*STARTS[name], times, **wrong) - found).max() > 0.02


def test_balanced_it_is_the_logistic_curve():
    """Saxe, McClelland and Ganguli (2014), here with the factor 2 of this loss."""
    alpha, beta, w = 0.7, 0.4, 0.05
    times = np.array([0.5, 3, 6, 30])
    product = beta / alpha / (1 + (beta / alpha / w**2 - 1) * np.exp(-4 * beta * times))
    w, _, a = closed(alpha, [beta, 0.0], [w, 0.0], w, times).T
    np.testing.assert_allclose(w * a, product, rtol=1e-13)
    np.testing.assert_allclose(w, a, rtol=1e-13)
    halved = (
        beta / alpha / (1 + (beta / alpha / w[0] ** 2 - 1) * np.exp(-2 * beta * times))
    )
    assert np.abs(halved - product).max() > 0.1


def test_its_ends():
    late = closed(1.0, [0.5, 0.0], [0.1, 0.9], 0.2, [1e3, 1e9, 1e300, np.inf])
    w, a = late[-1, :2], late[-1, 2]
    np.testing.assert_allclose(a * w, [0.5, 0], atol=1e-15)
    np.testing.assert_allclose(a**2 - w @ w, 0.2**2 - 0.82, rtol=1e-13)
    np.testing.assert_allclose(late, np.tile(late[-1], (4, 1)), atol=1e-15)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        # To the saddle, or there already.
        ((1.0, [0.5, 0], [-0.3, 0], 0.3), [0, 0, 0]),
        ((1.0, [-0.5, 0], [-0.3, 0], -0.3), [0, 0, 0]),
        ((1.0, [0.5, 0], [0, 0], 0.0), [0, 0, 0]),
        # Nothing drives: only the product vanishes.
        ((1.0, [0, 0], [0.3, 0.4], 1.3), [0, 0, 1.2]),
        ((1.0, [0, 0], [0.3, 0.4], 0.3), [0.24, 0.32, 0]),
        ((1.0, [0, 0], [0.3, 0.4], 0.5), [0, 0, 0]),
        ((0.0, [0, 0], [0.3, 0.4], 0.5), [0.3, 0.4, 0.5]),
        # Nothing holds.
        ((0.0, [0.2, 0.2], [-0.3, -0.3], 0.1), [-np.inf, -np.inf, -np.inf]),
    ],
)
def test_ends_where_nothing_drives_or_holds(start, end):
    ends = closed(*start, [1.0, 100.0, 1e6, np.inf])
    np.testing.assert_allclose(ends[-1], end, atol=1e-14)
    assert not np.isnan(ends).any()
    if start[1][0] and not np.any(end):
        assert np.abs(ends[1:]).max() < 1e-22


def test_times_of_any_shape():
    times = np.array([[0, 1], [3, np.inf]])
    filters, heads = two_layer_flow(*map(np.array, STARTS["across"]), times)
    assert filters.shape == (2, 2, 2)
    assert heads.shape == (2, 2)
    one, head = two_layer_flow(*map(np.array, STARTS["across"]), 3.0)
    np.testing.assert_allclose(filters[1, 0], one, rtol=1e-15)
    np.testing.assert_allclose(heads[1, 0], head, rtol=1e-15)


@pytest.mark.parametrize("time", [0.7, np.inf])
@pytest.mark.parametrize(
    "start",
    [
        *STARTS.values(),
        (1.0, [0.5, 0.0], [-0.3, 0.0], 0.3),
        (1.0, [0.0, 0.0], [0.0, 0.0], 0.7),
        (0.0, [0.0, 0.0], [0.4, 0.0], 0.7),
        (1.0, [0.5, 0.0], [0.0, 0.0], 0.0),
        (1.0, [0.0, 0.0], [0.3, 0.4], 0.1),
    ],
)
def test_derivatives(start, time):
    """Finite everywhere, and right where central differences can be taken."""
    start = [np.asarray(x, float) for x in start]

    slopes = JACOBIAN(*start, time)
    bounded = start[0] > 0 or time < np.inf or not start[1].any()
    if bounded:
        assert all(np.isfinite(s).all() for s in slopes)
    if time == np.inf:
        return
    step = 1e-5
    for k, (argument, of_it) in enumerate(zip(start, slopes, strict=True)):
        for j in range(argument.size):
            moved = []
            for sign in (-1, 1):
                changed = [x.copy() for x in start]
                changed[k].flat[j] += sign * step
                moved.append(np.asarray(VALUE(*changed, time)))
            difference = (moved[1] - moved[0]) / (2 * step)
            slope = np.asarray(of_it).reshape(len(difference), -1)[:, j]
            np.testing.assert_allclose(slope, difference, rtol=1e-7, atol=2e-9)


VALUE = jax.jit(lambda *start: jnp.append(*two_layer_flow(*start)))
JACOBIAN = jax.jit(
    jax.jacfwd(lambda *start: jnp.append(*two_layer_flow(*start)), (0, 1, 2, 3))
)


@pytest.mark.parametrize(
    ("second", "w"),
    [
        ([[0.8, 0.0], [0.0, 0.8]], [0.2, 0.3]),  # white
        # b an eigenvector, of 0.8, and w along it; the other eigenvalue is 5.
        ([[3.488, 2.016], [2.016, 2.312]], [0.18, -0.24]),
    ],
)
def test_small_steps_approach_it_by_their_first_order(second, w):
    """K filters that start aligned."""
    alpha, b, w, a = 0.8, np.array([0.3, -0.4]), np.array(w), 0.6
    c = np.array([0.6, -0.8])
    filter_, head = two_layer_flow(alpha, b, w, a, 3.0)
    moments = dataclasses.replace(
        mean_patch_moments(np.ones((2, 2, 2, 1)), np.ones(2), (1, 2)),
        second=np.array(second),
        cross=b,
    )
    rates, errors = 0.05 * 0.5 ** np.arange(7), []
    for n, rate in enumerate(rates):
        start = np.outer(w, c).reshape(1, 2, 1, 2)
        run = two_layer_descent(moments, a * c, start, rate, [60 * 2**n])
        kernel = np.asarray(run.kernel[0]).reshape(2, 2)
        error = np.abs(kernel - np.outer(filter_, c)).max()
        errors.append(max(error, np.abs(run.head[0, :, 0] - head * c).max()))
    assert abs(np.polyfit(np.log(rates), np.log(errors), 1)[0] - 1) < 0.05
    assert np.abs(np.append(filter_ - w, head - a)).max() > 0.1


@pytest.mark.parametrize("balance", [0.0, -0.8])
def test_the_matrix_riccati_equation_of_many_filters_and_outputs(balance):
    """The statement of the derivations of which the closed form is one column: if a a^T
    - W^T W = lambda on the filters, Q Q^T of Q = (W; a^T) is known."""
    alpha, time, d, k, m = 0.7, 1.3, 4, 3, 2
    b, a = RANDOM.normal(size=(d, m)), RANDOM.normal(size=(k, m)) / 2
    values, axes = np.linalg.eigh(a @ a.T - balance * np.eye(k))
    frame = np.linalg.qr(RANDOM.normal(size=(d, k)))[0]
    w = frame @ (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    q = np.concatenate([w, a.T])
    sign = np.diag([1.0] * d + [-1.0] * m)
    matrix = -alpha * balance * sign
    matrix[:d, d:] += 2 * b
    matrix[d:, :d] += 2 * b.T
    rates, modes = np.linalg.eigh(matrix)
    zero = np.abs(rates) < 1e-12
    sums = np.where(
        zero, time, np.expm1(2 * rates * time) / (2 * np.where(zero, 1, rates))
    )
    grown = modes * np.exp(rates * time) @ modes.T @ q
    within = np.eye(k) + 2 * alpha * q.T @ (modes * sums @ modes.T) @ q
    expected = grown @ np.linalg.solve(within, grown.T)

    def speed(w, a):
        residual = b - alpha * w @ a
        return np.concatenate([2 * residual @ a.T, 2 * residual.T @ w])

    now, step = q, time / 1000
    for _ in range(1000):
        first = speed(now[:d], now[d:].T)
        second = speed(*halves(now + step / 2 * first, d))
        third = speed(*halves(now + step / 2 * second, d))
        last = speed(*halves(now + step * third, d))
        now = now + step / 6 * (first + 2 * second + 2 * third + last)
    assert np.abs(now @ now.T - q @ q.T).max() > 1
    np.testing.assert_allclose(now @ now.T, expected, rtol=0, atol=1e-9)


def halves(q, d):
    return q[:d], q[d:].T


@pytest.mark.float32
def test_float64_outside_traces_whatever_the_flag():
    start = [np.asarray(x, np.float32) for x in STARTS["across"]]
    filters, heads = two_layer_flow(*start, [0, 0.5, 3, np.inf])
    assert filters.dtype == heads.dtype == np.float64
    assert isinstance(heads, jax.Array if FLOAT64 else np.ndarray)
    traced, of_head = jax.jit(two_layer_flow)(
        *map(jnp.asarray, start), jnp.array([0, 0.5, 3, np.inf], jnp.float32)
    )
    assert traced.dtype == of_head.dtype == np.float32
    np.testing.assert_allclose(traced, filters, atol=2e-6)
    np.testing.assert_allclose(of_head, heads, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curvature": -1.0}, "curvature must be finite and >= 0, got -1"),
        ({"curvature": np.ones(2)}, "curvature must be a scalar"),
        ({"drive": [0.1, np.nan]}, "drive has 1 entries that are NaN"),
        ({"drive": 0.1}, r"must have the same shape \(d,\), got \(\) and \(2,\)"),
        ({"initial_filter": [1.0]}, r"got \(2,\) and \(1,\); map over several"),
        ({"initial_filter": [1e-200, 0]}, "initial_filter: .* squares underflow"),
        ({"initial_head": [1.0]}, "initial_head must be a scalar, got shape"),
        ({"initial_head": np.inf}, "initial_head has 1 entries that are NaN or inf"),
        ({"time": -1}, r"time must be >= 0 \(infinity allowed\), got -1"),
        ({"time": np.nan}, "time must be >= 0"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "curvature": 1.0,
        "drive": [0.1, 0.2],
        "initial_filter": [0.3, 0.4],
        "initial_head": 0.5,
        "time": 1.0,
    } | change
    with pytest.raises((TypeError, ValueError), match=message):
        two_layer_flow(**arguments)


# Their end hung on the rounding of b - u (u^T b): it was no resting point, or infinite.
# The numbers are those at which it did.
NEARLY_TO_THE_SADDLE = [
    (
        0.99400002572205,
        [0.74158842, 0.72395654, 1.61877622, -1.20555814],
        [-0.0162763, -0.01588932, -0.03552872, 0.02645945],
        0.04979739542401588,
    ),
    *(
        (0.5, [x * 0.3, -1.7, 0.6, x], [-0.1 * x * 0.3, 0.17, -0.06, -0.1 * x], None)
        for x in np.random.default_rng(4).normal(size=20)
    ),
]


@pytest.mark.parametrize("start", NEARLY_TO_THE_SADDLE)
def test_a_start_that_leads_to_the_saddle_but_for_rounding_ends_at_rest(start):
    alpha, b, w, a = start
    a = float(np.linalg.norm(w)) if a is None else a
    end = closed(alpha, b, w, a, np.inf)
    residual = b - alpha * end[-1] * end[:-1]
    np.testing.assert_allclose(end[-1] * residual, 0, atol=1e-12)
    np.testing.assert_allclose(end[:-1] @ residual, 0, atol=1e-12)


@pytest.mark.parametrize("weights", [1e-100, 1e60, 1e100])
@pytest.mark.parametrize("residual", [1e-100, 1e90])
def test_large_and_small_units_change_nothing_else(weights, residual):
    """Products of both overflowed."""
    alpha, b, w, a = STARTS["across"]
    times = np.array([0, 0.3, 1.5, np.inf])
    expected = closed(alpha, b, w, a, times)
    found = closed(
        alpha * residual / weights / weights,
        residual * np.array(b),
        weights * np.array(w),
        weights * a,
        times / residual,
    )
    np.testing.assert_allclose(found / weights, expected, rtol=0, atol=1e-13)
