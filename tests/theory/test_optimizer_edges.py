"""Momentum, weight decay and gradient flow at the edges: against many digits, and no
derivative that is not a number."""

import dataclasses

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import theory
from theory.optimizer import Optimizer, responses

EPS = 2.3e-16
SETTINGS = (
    {"momentum": 0.9},
    {"momentum": 0.999},
    {"momentum": 0.5, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 1e-4},
    {"momentum": 0.9, "weight_decay": 1e-4, "decoupled": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05, "decoupled": True},
)
STEPS = [0, 1, 2, 17, 1000, 10**6 + 1, 10**12]


def exact(x, t, *, momentum, weight_decay=0.0, nesterov=False, decoupled=False):
    """P, F, what decay alone takes, and the envelope of P, by repeated squaring in many
    digits."""
    x, beta, mu = map(mpmath.mpf, (x, momentum, weight_decay))
    c, beside = (x, mu) if decoupled else (x + mu, mpmath.mpf(0))
    gain, kept = (1 + beta, beta**2) if nesterov else (mpmath.mpf(1), beta)
    step = mpmath.matrix(
        [[1 - gain * c - beside, -kept, gain], [c, beta, -1], [0, 0, 1]]
    )
    power = mpmath.eye(3)
    while t:
        if t % 2:
            power = step * power
        step, t = step * step, t // 2
    # As long as the map, whatever the units of the momentum.
    envelope = max(
        abs(power[0, 0]), abs(power[1, 1]), abs(power[0, 1] * power[1, 0]) ** 0.5
    )
    return power[0, 0], power[0, 2], power[0, 0] - 1 + x * power[0, 2], envelope


def optimizer(options):
    return Optimizer(
        **{
            name: value if isinstance(value, bool) else jnp.asarray(value)
            for name, value in options.items()
        }
    )


def curvatures(options):
    """Zero, slow, equal roots of either momentum, one, and next to the border of
    stability, from both sides, at the learning rate 1."""
    beta = options["momentum"]

    def effective(x):
        return Optimizer(**{"weight_decay": 0.0, **options}).effective_curvature(x)

    slope = effective(1.0) - effective(0.0)
    near = [(2 * (1 + off) - effective(0.0)) / slope for off in (-1e-3, -1e-9, 1e-9)]
    equal = (1 - beta**0.5) ** 2, ((1 - beta) / (1 + beta)) ** 2
    return np.array([0, 1e-12, 1e-5, *equal, 1.0, *near])


@pytest.mark.parametrize("options", SETTINGS)
def test_edges_in_many_digits(options):
    """Relative errors, of P to its envelope, or what the last digits of the arguments
    change. 1e-300 is where floats end. Fewer than 100 of those digits where products
    and sums are fused, 253 at worst where not."""
    places = curvatures(options)
    with jax.enable_x64(True):
        found = jax.jit(responses)(
            jnp.ones(()),
            optimizer(options),
            jnp.asarray(places),
            jnp.array(STEPS, float),
        )
    with mpmath.workdps(60):
        shift = 1 + mpmath.mpf(10) ** -25
        for j, x in enumerate(places):
            beyond = j == len(places) - 1
            for i, t in enumerate(STEPS[:-1] if beyond else STEPS):
                kept, gained, decayed, envelope = exact(x, t, **options)
                beta, mu = options["momentum"], options.get("weight_decay", 0.0)
                # Of curvature, momentum, and learning rate, which scales two.
                near = [
                    exact(x * shift, t, **options),
                    exact(x, t, **{**options, "momentum": beta * shift}),
                    exact(x * shift, t, **{**options, "weight_decay": mu * shift}),
                ]
                for value, expected, which, size in (
                    (found.kept, kept, 0, envelope),
                    (found.moved, kept - 1, 0, abs(kept - 1)),
                    (found.gained, gained, 1, abs(gained)),
                    (found.decayed, decayed, 2, abs(decayed)),
                ):
                    error = abs(mpmath.mpf(float(value[i, j])) - expected)
                    changed = sum(
                        abs(other[which] - (kept, gained, decayed)[which])
                        for other in near
                    )
                    condition = changed / (shift - 1)
                    allowed = max(1e-10 * size, 300 * EPS * condition)
                    assert error <= max(allowed, 1e-300), (x, t, which)


@pytest.mark.parametrize(
    "static", [{"nesterov": True, "decoupled": True}, {"decoupled": True}]
)
def test_derivatives_at_the_edges(static):
    """In rate, curvature, momentum and decay, against differences in many digits."""

    def all_of(arguments, t):
        eta, x, beta, mu = arguments
        found = responses(eta, Optimizer(beta, mu, None, **static), x, t)
        return jnp.stack([found.kept, found.gained, found.moved, found.decayed])

    points = [
        [1.0, x, beta, mu]
        for mu in (0.0, 1e-4)
        for beta in (0.0, 0.9)
        for x in curvatures({"momentum": beta, "weight_decay": mu, **static})[:-1]
    ]
    times = [0.0, 1.0, 1000.0, 1e12, np.inf]
    with jax.enable_x64(True):
        slopes = jax.jit(jax.vmap(jax.vmap(jax.jacfwd(all_of), (None, 0)), (0, None)))(
            jnp.array(points), jnp.array(times)
        )
    assert np.isfinite(slopes).all()
    with mpmath.workdps(60):
        step = mpmath.mpf(10) ** -20
        for n, (_, x, beta, mu) in enumerate(points):
            for k, name in enumerate(("x", "momentum", "weight_decay")):
                values = {"x": x, "momentum": beta, "weight_decay": mu}
                after, before = (
                    exact(t=1000, **{**values, name: values[name] + s}, **static)
                    for s in (step, -step)
                )
                for row, which in ((0, 0), (1, 1), (3, 2)):
                    expected = (after[which] - before[which]) / (2 * step)
                    found = float(slopes[n, 2, row, 1 + k])
                    scale = 1e-7 * max(abs(expected), 1e-3)
                    assert abs(found - expected) < scale, (x, beta, mu, name, which)


CURVATURE, WEIGHTS = np.diag([2.0, 0.5, 1e-3]), np.array([1.0, -2.0, 1.5])


def flow(rate, decay, t, **law):
    images = np.random.default_rng(0).normal(size=(12, 4, 4, 1)) + 0.3
    moments = theory.mean_patch_moments(images, images[:, 0, 0, 0], 2)
    of = theory.gradient_descent(
        moments, np.array([1.0, 0.5]), rate, weight_decay=decay, continuous=True
    )
    return of.expected_profile(t, init_std=0.4, **law)


def test_derivatives_of_gradient_flow():
    """At t = infinity, and in a decay of 0, which differences can tell from above."""
    with jax.enable_x64(True):
        energy = jax.jit(lambda p, t: jnp.sum(flow(p[0], p[1], t) ** 2))
        slope = jax.jit(jax.grad(energy))
        for t in (0.0, 1e12, np.inf):
            assert np.isfinite(slope(jnp.array([0.1, 0.2]), t)).all()
        point, step = jnp.array([0.1, 0.0]), jnp.array([0.0, 1e-6])
        ahead, far = (energy(point + n * step, 3.0) for n in (1, 2))
        difference = (4 * ahead - far - 3 * energy(point, 3.0)) / 2e-6
        np.testing.assert_allclose(slope(point, 3.0)[1], difference, rtol=1e-6)


def test_profiles_of_gradient_flow_with_decay():
    start = np.random.default_rng(1).normal(size=(2, 2, 1, 2))
    images = np.random.default_rng(0).normal(size=(12, 4, 4, 1)) + 0.3
    moments = theory.mean_patch_moments(images, images[:, 0, 0, 0], 2)
    of = theory.gradient_descent(
        moments, np.array([1.0, 0.5]), 0.1, weight_decay=0.3, continuous=True
    )
    t = np.array([0, 0.5, 7.3, np.inf])
    expected = theory.energy_profile(of.kernel(t, start), of.components)
    assert np.abs(expected[2] - expected[0]).max() > 0.1
    np.testing.assert_allclose(of.profile(t, start), expected, rtol=0, atol=1e-12)


@pytest.mark.float32
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "decoupled": True}])
def test_small_decays_keep_their_digits_in_float32(options):
    """Weights at rest that only decay moves."""

    def change(curvature, weights, decay):
        of = theory.quadratic_descent(
            curvature,
            jnp.zeros_like(weights),
            0.3,
            weight_decay=decay,
            weights=weights,
            **options,
        )
        return of.change(np.array([1, 10, 100]))

    expected = change(CURVATURE, WEIGHTS, 1e-6)
    arguments = (jnp.asarray(x, jnp.float32) for x in (CURVATURE, WEIGHTS, 1e-6))
    found = jax.jit(change)(*arguments)
    assert found.dtype == jnp.float32
    found, expected = np.asarray(found, float), np.asarray(expected)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_quantiles_of_a_quadratic_that_decays():
    """Of a drive that hardly varies: those of the weights themselves; filters one by
    one and as blocks of one matrix."""
    settings = {"momentum": 0.5, "weight_decay": 0.1}
    drive = np.array([[0.3, -0.2, 0.1], [0.1, 0.4, 0.2]])
    blocks = np.stack([CURVATURE, CURVATURE + 0.3])
    weights = np.stack([WEIGHTS, WEIGHTS[::-1]])
    whole = np.einsum("kl,kij->kilj", np.eye(2), blocks)
    times, profiles = [1, 40], []
    for curvature in (whole, blocks):
        of = theory.quadratic_descent(
            curvature, drive, 0.2, weights=weights, **settings
        )
        change = np.asarray(of.change(times))
        profiles.append(np.sqrt((change**2).mean(axis=1)))
    np.testing.assert_allclose(*profiles, rtol=1e-12)
    found = of.profile_quantiles(
        0.5, times, np.eye(3), covariance=1e-16 * curvature, mean=drive
    )
    np.testing.assert_allclose(found, profiles[-1], rtol=1e-6)


def test_flow_and_noise_of_plain_gradient_descent_only():
    drive = np.ones(3)
    for options in (
        {"momentum": 0.9},
        {"learning_rate": ([3], [0.1, 0.2])},
        {"learning_rate": [0.1, 0.1, 0.2]},
    ):
        of = theory.quadratic_descent(
            CURVATURE, drive, **{"learning_rate": 0.1, **options}
        )
        with pytest.raises(ValueError, match="continuous=True is the limit"):
            dataclasses.replace(of, continuous=True).change(3)
        with pytest.raises(ValueError, match="must be of plain gradient descent"):
            theory.gradient_noise_profile(of, 3, np.eye(3), batch_size=2)
    # What is said of the rate is said of the last one.
    np.testing.assert_allclose(of.rates, 0.2 * np.diag(CURVATURE), rtol=1e-6)
