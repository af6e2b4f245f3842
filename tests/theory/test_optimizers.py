"""Momentum, weight decay, schedules and gradient flow: the closed forms against optax,
step by step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import theory

RANDOM = np.random.default_rng(11)
D, K, N = 4, 3, 12
IMAGES = RANDOM.normal(size=(N, 4, 5, 1)).cumsum(axis=2) + 0.5
TARGETS = RANDOM.normal(size=(N, 2)) + np.array([0.5, -1.0])
HEAD = RANDOM.normal(size=(K, 2))
INITIAL = 0.4 * RANDOM.normal(size=(2, 2, 1, K))
MOMENTS = theory.mean_patch_moments(IMAGES, TARGETS, 2)
BORDER = float(theory.largest_stable_learning_rate(MOMENTS, HEAD))
RATE = 0.4 * BORDER
STEPS = np.array([0, 1, 2, 3, 7, 40, 201])
COSINE = np.asarray(
    [float(optax.cosine_decay_schedule(2 * RATE, 201)(step)) for step in range(201)]
)
PIECES = ([2, 30], [0.1 * RATE, 1.5 * RATE, 0.3 * RATE])
DECAY = 0.05 / RATE


def piecewise(boundaries, rates):
    return optax.join_schedules(
        [optax.constant_schedule(rate) for rate in rates], boundaries
    )


def table(rates):
    return lambda step: jnp.asarray(rates)[step]


# The options of `gradient_descent`, and what optax calls the same.
OPTIMIZERS = {
    "heavy ball": ({"momentum": 0.9}, optax.sgd(RATE, 0.9)),
    "Nesterov": (
        {"momentum": 0.8, "nesterov": True},
        optax.sgd(RATE, 0.8, nesterov=True),
    ),
    "decay": (
        {"weight_decay": DECAY},
        optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE)),
    ),
    "decay in the momentum": (
        {"momentum": 0.9, "weight_decay": DECAY},
        optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, 0.9)),
    ),
    "decay beside the momentum": (
        {"momentum": 0.9, "weight_decay": DECAY, "decoupled": True},
        optax.chain(
            optax.trace(0.9),
            optax.add_decayed_weights(DECAY),
            optax.scale_by_learning_rate(RATE),
        ),
    ),
    "decay beside Nesterov's": (
        {"momentum": 0.6, "nesterov": True, "weight_decay": DECAY, "decoupled": True},
        optax.chain(
            optax.trace(0.6, nesterov=True),
            optax.add_decayed_weights(DECAY),
            optax.scale_by_learning_rate(RATE),
        ),
    ),
    "pieces": ({"learning_rate": PIECES}, optax.sgd(piecewise(*PIECES))),
    "pieces with momentum and decay": (
        {"learning_rate": PIECES, "momentum": 0.9, "weight_decay": DECAY},
        optax.chain(
            optax.add_decayed_weights(DECAY), optax.sgd(piecewise(*PIECES), 0.9)
        ),
    ),
    "every step": ({"learning_rate": COSINE}, optax.sgd(table(COSINE))),
    "every step with Nesterov's and decay": (
        {
            "learning_rate": COSINE,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": DECAY,
            "decoupled": True,
        },
        optax.chain(
            optax.trace(0.9, nesterov=True),
            optax.add_decayed_weights(DECAY),
            optax.scale_by_learning_rate(table(COSINE)),
        ),
    ),
}


def dynamics(moments=MOMENTS, head=HEAD, **options):
    options = {"learning_rate": RATE, **options}
    return theory.gradient_descent(moments, head, **options)


def simulate(optimizer, gradient, initial, steps=STEPS):
    """The weights after each number of steps by optax, in float64."""
    with jax.enable_x64(True):
        weights, found = jnp.asarray(initial, jnp.float64), []
        state = optimizer.init(weights)

        @jax.jit
        def step(weights, state):
            updates, state = optimizer.update(gradient(weights), state, weights)
            return optax.apply_updates(weights, updates), state

        for index in range(steps[-1] + 1):
            if index in steps:
                found.append(np.asarray(weights))
            weights, state = step(weights, state)
        return np.array(found)


def gradient_of_mse(kernel, head=HEAD):
    w = kernel.reshape(D, K)
    return (2 * (MOMENTS.second @ w @ head - MOMENTS.cross) @ head.T).reshape(
        kernel.shape
    )


def distance(found, simulated):
    """Largest deviation relative to how far the simulation moved."""
    moved = np.abs(simulated - simulated[0]).max()
    assert moved > 0.3 * np.abs(simulated[0]).max()
    return np.abs(np.asarray(found) - simulated).max() / moved


@pytest.fixture(params=list(OPTIMIZERS.values()), ids=list(OPTIMIZERS), scope="module")
def case(request):
    options, optimizer = request.param
    with jax.numpy_dtype_promotion("standard"):
        return options, simulate(optimizer, gradient_of_mse, INITIAL)


def wrong(options):
    """Options that are not these."""
    yield {**options, "momentum": min(options.get("momentum", 0) + 0.05, 0.99)}
    if "momentum" in options:
        yield {**options, "nesterov": not options.get("nesterov", False)}
    if "weight_decay" in options:
        yield {**options, "weight_decay": 1.2 * options["weight_decay"]}
        if "momentum" in options:
            yield {**options, "decoupled": not options.get("decoupled", False)}
    if isinstance(options.get("learning_rate"), tuple):
        boundaries, rates = options["learning_rate"]
        yield {**options, "learning_rate": ([b + 1 for b in boundaries], rates)}
    elif "learning_rate" in options:
        yield {**options, "learning_rate": np.roll(options["learning_rate"], 1)}


def test_filters_follow_optax(case):
    options, simulated = case
    found = dynamics(**options).kernel(STEPS, INITIAL)
    assert distance(found, simulated) < 1e-12
    np.testing.assert_array_equal(found[0], INITIAL)
    for other in wrong(options):
        assert distance(dynamics(**other).kernel(STEPS, INITIAL), simulated) > 1e-3


@pytest.mark.parametrize("name", ["decay", "pieces with momentum and decay"])
def test_profiles_without_filters(name):
    options, optimizer = OPTIMIZERS[name]
    with jax.numpy_dtype_promotion("standard"):
        simulated = simulate(optimizer, gradient_of_mse, INITIAL)
    u = np.linalg.qr(RANDOM.normal(size=(D, D)))[0][:, :3]
    of = dynamics(**options)
    for change in (False, True):
        kernels = simulated - simulated[0] * change
        for components in (None, u):
            axes = of.components if components is None else components
            found = of.profile(STEPS, INITIAL, change=change, components=components)
            expected = theory.energy_profile(kernels, axes)
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=1e-12 * np.max(expected)
            )
    batch = np.stack([INITIAL, 2 * INITIAL])[:, None]
    assert of.profile(STEPS, batch).shape == (len(STEPS), 2, 1, D)


@pytest.mark.parametrize("targets", ["drawn", "redrawn", "shuffled"])
@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("name", ["decay", "every step with Nesterov's and decay"])
def test_expected_profile_sums_over_all_that_is_random(name, targets, change):
    """The filters are linear in the initial ones and in the targets, so that the mean
    energy is a sum over unit ones."""
    options, _ = OPTIMIZERS[name]
    std, of, t = 0.3, dynamics(**options), STEPS
    units = np.eye(D * K).reshape(-1, 2, 2, 1, K)
    still = dataclasses.replace(of, drive=0 * of.drive)
    kernels = np.asarray(still.kernel(t, units)) - units * change
    energy = std**2 * sum(
        np.asarray(theory.energy_profile(kernels[:, i], of.components)) ** 2
        for i in range(D * K)
    )
    pooled = np.linalg.cholesky(N * np.asarray(MOMENTS.second) + 1e-13 * np.eye(D))
    means = np.asarray(MOMENTS.mean)
    covariance = np.asarray(MOMENTS.target_covariance)
    target_mean = np.asarray(MOMENTS.target_mean)
    q, e = np.asarray(of.head_components), np.asarray(of.components)

    def profile_of(cross):
        """(t, d) energies that a drive B leaves."""
        driven = dataclasses.replace(of, drive=e.T @ cross @ q)
        kernels = driven.kernel(t, np.zeros((2, 2, 1, K)))
        return np.asarray(theory.energy_profile(kernels, of.components)) ** 2

    values, axes = np.linalg.eigh(covariance)
    for value, axis in zip(values, axes.T, strict=True):
        for column in pooled.T:
            energy = energy + value * profile_of(np.outer(column, axis) / N)
        if targets == "shuffled":
            energy = energy - value * profile_of(np.outer(means, axis)) / N
    if targets != "drawn":
        energy = energy + profile_of(np.outer(means, target_mean))
    found = of.expected_profile(t, init_std=std, targets=targets, change=change)
    np.testing.assert_allclose(
        np.asarray(found) ** 2, energy, rtol=1e-9, atol=1e-12 * energy.max()
    )


def test_bands_hold_their_share_of_drawn_networks():
    of = dynamics(momentum=0.9, weight_decay=DECAY, decoupled=True)
    seeds, t = 200, 40
    start = 0.3 * RANDOM.normal(size=(seeds, 2, 2, 1, K))
    root = np.linalg.cholesky(MOMENTS.target_covariance)
    labels = RANDOM.normal(size=(seeds, N, 2)) @ root.T
    patches = np.stack(
        [
            IMAGES[:, i : i + 3, j : j + 4, 0].mean((1, 2))
            for i in (0, 1)
            for j in (0, 1)
        ],
        axis=1,
    )
    cross = np.einsum("nd,snm->sdm", patches, labels) / N
    drive = np.einsum(
        "di,sdm,mj->sij", of.components, cross, np.asarray(of.head_components)
    )
    profiles = jax.vmap(
        lambda own, kernel: dataclasses.replace(of, drive=own).profile(t, kernel)
    )(drive, start)
    profiles = np.asarray(profiles)
    low, high = of.profile_quantiles(np.array([0.05, 0.95]), t, init_std=0.3)
    low, high = np.asarray(low), np.asarray(high)
    inside = ((profiles > low) & (profiles < high)).mean(axis=0)
    assert (np.abs(inside - 0.9) < 4 * math.sqrt(0.09 / seeds)).all()


def test_the_end_is_the_limit():
    for options, _ in OPTIMIZERS.values():
        if options.get("learning_rate") is COSINE:
            continue
        of = dynamics(**options)
        # As many times as elsewhere, so that nothing is compiled anew.
        *_, late, end = of.kernel(np.where(STEPS < 201, 1e9, np.inf), INITIAL)
        np.testing.assert_allclose(late, end, rtol=1e-9, atol=1e-12)
        gradient = gradient_of_mse(end)
        beta = options.get("momentum", 0)
        share = 1 - beta if options.get("decoupled") else 1
        pulled = gradient + share * options.get("weight_decay", 0) * end
        assert np.abs(pulled).max() < 1e-9 * np.abs(gradient_of_mse(INITIAL)).max()


def test_weight_decay_ends_at_atick_and_redlichs_filter():
    """Whitening above the noise only, with the peak where both are equal (docs/
    derivations.md, section 19)."""
    head, targets = np.ones(K), TARGETS[:, 0]
    moments = theory.mean_patch_moments(IMAGES, targets, 2)
    for mu in (1e-3, 1.0, 50.0):
        rate = 0.5 * theory.largest_stable_learning_rate(moments, head, weight_decay=mu)
        of = theory.gradient_descent(moments, head, rate, weight_decay=mu)
        alpha, c = np.asarray(of.mean_patch_variance), mu / (2 * K)
        tau = np.sqrt(float(moments.target_covariance))
        expected = tau / np.sqrt(K * K * N) * np.sqrt(alpha) / (alpha + c)
        found = of.expected_profile(np.inf, init_std=3.0)  # forgotten
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8}, {"weight_decay": DECAY}])
def test_small_steps_approach_gradient_flow(options):
    """At first order in the learning rate; with momentum at the rate eta / (1 - b)."""
    time, errors = 40 * RATE, []
    share = 1 - options.get("momentum", 0)
    decay = {k: v for k, v in options.items() if k == "weight_decay"}
    flow = dynamics(learning_rate=time, continuous=True, **decay).kernel(1.0, INITIAL)
    counts = 2 ** np.arange(11, 18)
    for count in counts:
        steps = dynamics(learning_rate=time * share / count, **options)
        errors.append(np.abs(steps.kernel(count, INITIAL) - flow).max())
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.05
    real = dynamics(learning_rate=time, continuous=True).kernel([0.25, 0.5], INITIAL)
    assert np.abs(real[1] - real[0]).max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "weight_decay": DECAY},
        {"momentum": 0.9, "weight_decay": DECAY, "decoupled": True},
        {"momentum": 0.9, "nesterov": True, "weight_decay": DECAY, "decoupled": True},
    ],
)
def test_border_of_stability(options):
    border = float(theory.largest_stable_learning_rate(MOMENTS, HEAD, **options))
    with pytest.raises(ValueError, match=f"stable one is below {border:.6}"[:-1]):
        dynamics(learning_rate=border * (1 + 1e-9), **options)
    far = 10**5
    inside = dynamics(learning_rate=border * (1 - 1e-3), **options)
    end = inside.kernel(np.array([far, np.inf]), INITIAL)
    np.testing.assert_allclose(end[0], end[1], rtol=1e-6, atol=1e-9)
    beyond = np.full(10**4, border * (1 + 1e-3))
    assert (
        np.abs(dynamics(learning_rate=beyond, **options).kernel(10**4, INITIAL)).max()
        > 100
    )


def test_transformations_and_gradients():
    """jit, vmap, and derivatives in rate, momentum, decay, and real time."""
    with jax.enable_x64(True):

        def loss(arguments, t=30.0, **options):
            rate, beta, mu = arguments
            of = dynamics(learning_rate=rate, momentum=beta, weight_decay=mu, **options)
            return jnp.sum(of.kernel(t, INITIAL) ** 2)

        point = jnp.array([RATE, 0.7, DECAY])
        for options in ({}, {"nesterov": True, "decoupled": True}):
            plain = loss(point, **options)
            traced = jax.jit(lambda p, o=options: loss(p, **o))(point)
            np.testing.assert_allclose(traced, plain, rtol=1e-12)
            gradient = jax.grad(lambda p, o=options: loss(p, **o))(point)
            for i in range(3):
                shift = jnp.zeros(3).at[i].set(1e-5 * point[i])
                difference = loss(point + shift, **options) - loss(
                    point - shift, **options
                )
                np.testing.assert_allclose(
                    gradient[i], difference / (2 * shift[i]), rtol=1e-6
                )
        many = jax.vmap(loss)(jnp.stack([point, 0.5 * point]))
        np.testing.assert_allclose(many, [loss(point), loss(0.5 * point)], rtol=1e-12)

        def flow(arguments):
            rate, t = arguments
            of = dynamics(learning_rate=rate, continuous=True)
            return jnp.sum(of.kernel(t, INITIAL) ** 2)

        by_rate, by_time = jax.grad(flow)(jnp.array([RATE, 5.0]))
        np.testing.assert_allclose(by_rate * RATE, by_time * 5.0, rtol=1e-10)
        # No NaN at the ends, in value or derivative.
        for t in (0.0, 1e12, jnp.inf):
            gradient = jax.grad(loss)(jnp.array([RATE, 0.5, 0.0]), t)
            assert np.isfinite(gradient).all()

        def of_rates(rates):
            of = dynamics(learning_rate=rates, momentum=0.9)
            return jnp.sum(of.kernel(30, INITIAL) ** 2)

        rates = jnp.asarray(COSINE[:30])
        shift = 1e-6 * RATE * jnp.eye(30)[4]
        difference = (of_rates(rates + shift) - of_rates(rates - shift)) / 2e-6 / RATE
        np.testing.assert_allclose(jax.grad(of_rates)(rates)[4], difference, rtol=1e-6)


def test_a_schedule_of_many_steps_is_that_of_its_pieces():
    """Blocks and what is left of them, whatever the number of steps."""
    for length in (1, 7, 10_007):
        rates = np.full(length, RATE)
        t = np.unique([0, 1, length // 2, length - 1, length])
        every = dynamics(learning_rate=rates, momentum=0.9).kernel(t, INITIAL)
        constant = dynamics(momentum=0.9).kernel(t, INITIAL)
        np.testing.assert_allclose(every, constant, rtol=1e-9, atol=1e-13)


@pytest.mark.float32
def test_float32_under_tracing():
    moments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), MOMENTS)

    @jax.jit
    def kernel(moments, beta):
        of = theory.gradient_descent(
            moments, jnp.asarray(HEAD, jnp.float32), jnp.float32(RATE), momentum=beta
        )
        return of.kernel(STEPS, jnp.asarray(INITIAL, jnp.float32))

    found = kernel(moments, jnp.float32(0.9))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found, dynamics(momentum=0.9).kernel(STEPS, INITIAL), rtol=0, atol=3e-4
    )


LABELS = RANDOM.integers(3, size=N)
CLASSES = theory.mean_patch_moments(IMAGES, np.eye(3)[LABELS], 2)
CLASS_HEAD = RANDOM.normal(size=(K, 3))
POOLED = np.stack(
    [IMAGES[:, i : i + 3, j : j + 4, 0].mean((1, 2)) for i in (0, 1) for j in (0, 1)],
    axis=1,
)


def gradient_of_cross_entropy(kernel, head=CLASS_HEAD):
    def loss(kernel):
        logits = POOLED @ kernel.reshape(D, K) @ head
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    return jax.grad(loss)(kernel)


def linearised(kernel, head=CLASS_HEAD):
    """The gradient to first order in the logits, without any closed form."""
    with jax.enable_x64(True):
        zero = jnp.zeros(kernel.shape)
        at_zero = gradient_of_cross_entropy(zero, head)
        slope = jax.jvp(
            lambda w: gradient_of_cross_entropy(w, head), (zero,), (kernel,)
        )[1]
        return at_zero + slope


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_cross_entropy_linearised(options):
    border = theory.largest_stable_learning_rate(
        CLASSES, CLASS_HEAD, loss="cross_entropy", **options
    )
    rate = 0.4 * float(border)
    optimizer = optax.chain(
        optax.add_decayed_weights(options.get("weight_decay", 0.0)),
        optax.sgd(rate, options.get("momentum")),
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        simulated = simulate(optimizer, linearised, INITIAL)
    settings = {"learning_rate": rate, "loss": "cross_entropy", **options}
    found = dynamics(CLASSES, CLASS_HEAD, **settings).kernel(STEPS, INITIAL)
    assert distance(found, simulated) < 1e-11
    # Without the projection of the outputs it is another.
    unprojected = dataclasses.replace(
        CLASSES, cross=3 * CLASSES.cross, target_mean=3 * CLASSES.target_mean
    )
    of = dynamics(unprojected, CLASS_HEAD, learning_rate=rate / 6, **options)
    assert distance(of.kernel(STEPS, INITIAL), simulated) > 1e-2


def test_laws_of_cross_entropy_are_those_of_centred_outputs():
    """Of the targets M y - 1 and the centred head, at the rate eta / 2 M."""
    rate = 0.3 * float(
        theory.largest_stable_learning_rate(CLASSES, CLASS_HEAD, loss="cross_entropy")
    )
    of = dynamics(CLASSES, CLASS_HEAD, learning_rate=rate, loss="cross_entropy")
    centred = theory.mean_patch_moments(IMAGES, 3 * np.eye(3)[LABELS] - 1, 2)
    head = CLASS_HEAD - CLASS_HEAD.mean(axis=1, keepdims=True)
    same = dynamics(centred, head, learning_rate=rate / 6)
    for targets in ("drawn", "redrawn"):
        law = {"init_std": 0.1, "targets": targets, "change": True}
        found, expected = (x.expected_profile(40, **law) for x in (of, same))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_cross_entropy_holds_while_logits_are_small():
    """The error of the change grows as the square of the logits, which early grow as
    the learning rate times the steps."""
    errors, times = [], 2.0 ** -np.arange(2, 9)
    for time in times:
        rate = time * BORDER / 10
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            simulated = simulate(
                optax.sgd(rate),
                gradient_of_cross_entropy,
                0 * INITIAL,
                np.array([0, 10]),
            )
        of = dynamics(CLASSES, CLASS_HEAD, learning_rate=rate, loss="cross_entropy")
        found = of.kernel(np.array([0, 10]), 0 * INITIAL)
        errors.append(np.abs(found - simulated).max() / np.abs(simulated).max())
    slope = np.polyfit(np.log(times), np.log(errors), 1)[0]
    assert 0.9 < slope < 2.1
    assert errors[-1] < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "momentum must be finite and >= 0, got -0.1"),
        ({"weight_decay": -1e-4}, "weight_decay must be finite and >= 0, got -0.0001"),
        ({"nesterov": True}, "nesterov=True needs a momentum above 0"),
        ({"decoupled": True}, "decoupled=True needs a weight_decay above 0"),
        (
            {"continuous": True, "momentum": 0.9},
            "continuous=True is the limit of small",
        ),
        ({"loss": "hinge"}, "loss must be 'mse' or 'cross_entropy', got 'hinge'"),
        ({"loss": "cross_entropy"}, "needs moments of one-hot targets"),
        ({"learning_rate": ([5, 3], [1, 1, 1])}, "whole numbers of steps, above 0 and"),
        ({"learning_rate": ([5], [1, 1, 1])}, "one rate more than boundaries"),
        (
            {"learning_rate": ([5], [0.1 * RATE, 0.0])},
            "the last of the rates must be >",
        ),
        ({"learning_rate": [0.1, -0.1]}, "learning_rate must be >= 0, got -0.1"),
        (
            {"learning_rate": ([5], [9 * BORDER, RATE])},
            "beyond the border of stability",
        ),
        ({"learning_rate": ([0], [RATE, RATE])}, "whole numbers of steps, above 0"),
        ({"learning_rate": ([1.5], [RATE, RATE])}, "whole numbers of steps, above 0"),
        ({"learning_rate": (5, [RATE, RATE])}, "one rate more than boundaries"),
        ({"learning_rate": ([5], RATE)}, r"or a pair \(boundaries, rates\)"),
        ({"learning_rate": []}, r"the rates of all steps \(T,\), .*got shape \(0,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        dynamics(**options)


def test_a_schedule_shorter_than_t():
    of = dynamics(learning_rate=COSINE)
    for t in (202, np.inf):
        with pytest.raises(ValueError, match="has the rates of 201 steps"):
            of.kernel(t, INITIAL)
        with pytest.raises(ValueError, match="has the rates of 201 steps"):
            of.expected_profile(t, init_std=1.0)


def test_heads_that_the_softmax_does_not_see():
    with pytest.raises(ValueError, match="gives all outputs alike"):
        dynamics(CLASSES, np.ones((K, 3)), loss="cross_entropy")
    with pytest.raises(ValueError, match="two or more outputs"):
        theory.largest_stable_learning_rate(MOMENTS, HEAD[:, 0], loss="cross_entropy")


# Any quadratic loss.
ROWS = RANDOM.normal(size=(9, 2, 3)) * [2, 1, 0.3]
CURVATURE = np.einsum("nki,nlj->kilj", ROWS, ROWS) / 9
GRADIENT, WEIGHTS = RANDOM.normal(size=(2, 3)), RANDOM.normal(size=(2, 3))
TOP = np.linalg.eigvalsh(CURVATURE.reshape(6, 6))[-1]


@pytest.mark.parametrize("name", list(OPTIMIZERS)[::3])
def test_any_quadratic_loss_follows_optax(name):
    """The same optimisers at rates of their own, by scaling the loss."""
    options, optimizer = OPTIMIZERS[name]
    scale = 0.4 / (RATE * TOP)  # the fastest mode has the step 0.4 at the rate RATE
    curvature, drive = scale * CURVATURE, scale * GRADIENT

    def gradient(weights):
        change = weights - WEIGHTS
        return drive + jnp.einsum("kilj,lj->ki", curvature, change)

    with jax.numpy_dtype_promotion("standard"):
        simulated = simulate(optimizer, gradient, WEIGHTS)
    settings = {"learning_rate": RATE, **options}
    if "weight_decay" in options:
        settings["weights"] = WEIGHTS
    of = theory.quadratic_descent(curvature, drive, **settings)
    assert distance(WEIGHTS + np.asarray(of.change(STEPS)), simulated) < 1e-11
    covariance = np.einsum("nki,nlj->kilj", ROWS[:4], ROWS[:4])
    profile = of.expected_profile(201, np.eye(3), covariance=covariance, mean=drive)
    # The drive's samples, one by one: the change is linear in the drive.
    alone = np.asarray(of.change(201))
    none = {**settings, "learning_rate": settings["learning_rate"]}
    zero = np.asarray(
        theory.quadratic_descent(curvature, 0 * drive, **none).change(201)
    )
    energy = (alone**2).mean(axis=0)
    for row in ROWS[:4]:
        other = theory.quadratic_descent(curvature, row, **none).change(201)
        energy = energy + ((np.asarray(other) - zero) ** 2).mean(axis=0)
    np.testing.assert_allclose(np.asarray(profile) ** 2, energy, rtol=1e-9)


def test_weight_decay_of_a_quadratic_needs_weights():
    for settings in ({"weight_decay": 0.1}, {"weights": WEIGHTS}):
        with pytest.raises(ValueError, match="give weights, those at the start"):
            theory.quadratic_descent(CURVATURE, GRADIENT, 0.1, **settings)
    with pytest.raises(ValueError, match="weights must have shape"):
        theory.quadratic_descent(
            CURVATURE, GRADIENT, 0.1, weight_decay=0.1, weights=np.ones(3)
        )
