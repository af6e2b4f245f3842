"""Properties of gradient descent on quadratic losses, of their profiles, and of how far
profiles differ."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import theory
from tests.theory.properties import assert_close, orthogonal, scales, seeds

K, D = 2, 4
N = K * D
T = np.array([0, 1, 5, 200, np.inf])


@st.composite
def quadratics(draw):
    """Curvature (n, n), sometimes singular, a drive in its range, and a rate below the
    border of stability."""
    random = np.random.default_rng(draw(seeds))
    rank = draw(st.sampled_from([3, N]))
    axes = orthogonal(random, N)[:, :rank]
    values = draw(scales) * np.exp(random.uniform(-6, 0, rank))
    curvature = axes * values @ axes.T
    rate = draw(st.floats(0.05, 0.95)) * 2 / values.max()
    return curvature, curvature @ random.normal(size=N), rate, random


def filters(curvature):
    return curvature.reshape(K, D, K, D)


@given(problem=quadratics(), continuous=st.booleans())
def test_the_change_is_linear_in_the_drive_and_turns_with_the_axes(problem, continuous):
    curvature, drive, rate, random = problem
    turn, other = orthogonal(random, N), curvature @ random.normal(size=N)

    def change(curvature, drive):
        dynamics = theory.quadratic_descent(
            curvature, drive, rate, continuous=continuous
        )
        return np.asarray(dynamics.change(T))

    found = change(curvature, drive)
    assert_close(
        change(turn @ curvature @ turn.T, turn @ drive), found @ turn.T, rtol=1e-9
    )
    together = change(curvature, 2 * drive - other)
    size = np.abs(found).max() + np.abs(together).max()
    assert_close(together, 2 * found - change(curvature, other), scale=size, rtol=1e-9)


@given(problem=quadratics(), t=st.integers(0, 30))
def test_each_step_goes_against_the_gradient(problem, t):
    curvature, drive, rate, _ = problem
    dynamics = theory.quadratic_descent(curvature, drive, rate)
    before, after = np.asarray(dynamics.change(np.array([t, t + 1])))
    gradient = drive + curvature @ before
    assert_close(after, before - rate * gradient, scale=rate * np.abs(drive).max())


@given(problem=quadratics(), scale=scales)
def test_the_flow_knows_rate_times_time_alone(problem, scale):
    curvature, drive, rate, _ = problem
    times = np.array([0.3, 7.5])
    slow, fast = (
        np.asarray(
            theory.quadratic_descent(curvature, drive, eta, continuous=True).change(t)
        )
        for eta, t in ((rate, times), (rate * scale, times / scale))
    )
    assert_close(slow, fast)


@given(problem=quadratics(), continuous=st.booleans())
def test_independent_filters_are_a_curvature_of_blocks(problem, continuous):
    curvature, _, rate, random = problem
    blocks = np.stack([curvature[:D, :D], curvature[D:, D:]])
    drive = np.einsum("kde,ke->kd", blocks, random.normal(size=(K, D)))
    together = np.zeros((K, D, K, D))
    together[0, :, 0], together[1, :, 1] = blocks
    basis = orthogonal(random, D)
    parts, whole = (
        theory.quadratic_descent(h, drive, rate / 2, continuous=continuous)
        for h in (blocks, together)
    )
    early = T[:-1]
    assert_close(parts.change(early), whole.change(early), rtol=1e-8)
    assert_close(
        parts.expected_profile(early, basis, count=9),
        whole.expected_profile(early, basis, count=9),
        rtol=1e-6,
    )


@given(problem=quadratics(), count=st.integers(1, 1000))
def test_the_profile_of_drawn_labels(problem, count):
    """As of a covariance H / N, and with the root of 1 / N."""
    curvature, drive, rate, random = problem
    basis = orthogonal(random, D)
    dynamics = theory.quadratic_descent(filters(curvature), drive.reshape(K, D), rate)
    drawn = np.asarray(dynamics.expected_profile(T, basis, count=count))
    assert_close(drawn * np.sqrt(count), dynamics.expected_profile(T, basis, count=1))
    given_one = dynamics.expected_profile(
        T, basis, covariance=filters(curvature) / count
    )
    assert_close(given_one, drawn, rtol=1e-6)
    # All components of a basis together have the energy of the weights.
    other = dynamics.expected_profile(T, orthogonal(random, D), count=count)
    assert_close((np.asarray(other) ** 2).sum(axis=1), (drawn**2).sum(axis=1))


@given(problem=quadratics(), scale=scales)
def test_a_fitted_time_scales_against_the_curvature(problem, scale):
    curvature, _, _, random = problem
    blocks = np.stack([curvature[:D, :D], curvature[D:, D:]])
    blocks = blocks + 1e-3 * np.trace(curvature) * np.eye(D)
    basis, profile = orthogonal(random, D), random.random(D) + 0.1
    plain, scaled = (
        theory.fit_profile(profile, theory.curvature_family(h, basis))
        for h in (blocks, scale * blocks)
    )
    assert_close(scaled.correlation, plain.correlation)
    assert_close(scaled.log_ratio_std, plain.log_ratio_std, rtol=1e-6)
    if 0 < plain.time < np.inf:
        np.testing.assert_allclose(scaled.time * scale, plain.time, rtol=1e-5)


@given(seed=seeds, scale=scales)
def test_log_ratio_std_is_a_distance_between_shapes(seed, scale):
    a, b, c = np.exp(np.random.default_rng(seed).normal(size=(3, 6)))

    def distance(a, b):
        return float(theory.log_ratio_std(a, b))

    assert_close(distance(a, b), distance(b, a))
    assert_close(distance(scale * a, b), distance(a, b), rtol=1e-9)
    assert distance(a, scale * a) < 1e-12 < distance(a, b)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12
