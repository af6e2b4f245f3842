"""Expected profiles and their quantiles against every permutation, exact ensembles and
random seeds."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from tests.theory.twins import all_patches, descend, profile
from theory import gradient_descent, largest_stable_learning_rate, mean_patch_moments

RANDOM = np.random.default_rng(6)
D, K, N = 4, 3, 6
IMAGES = RANDOM.normal(size=(N, 4, 4, 1)).cumsum(axis=1) + 0.7
PATCHES = all_patches(IMAGES, 2).reshape(N, -1, D)
HEADS = {
    1: RANDOM.normal(size=(K, 1)),
    2: RANDOM.normal(size=(K, 2)),
    4: RANDOM.normal(size=(K, 4)),
}
TARGETS = 2 * RANDOM.normal(size=(N, 4)) @ [
    [1, 0.9, 0, 0],
    [0, 0.4, 0, 0.5],
    [0, 0, 1, 0.5],
    [0, 0, 0, 1],
] + [
    1.5,
    -0.5,
    0,
    1,
]
BASIS = np.linalg.qr(RANDOM.normal(size=(D, D)))[0]
STEPS = 5
SIGMA = 0.4
Q = np.array([0.05, 0.3, 0.5, 0.95])


def closed_form(outputs, targets=TARGETS, images=IMAGES):
    """Oscillating modes included: x_max = 1.6."""
    targets = targets[:, :outputs] if outputs > 1 else targets[:, 0]
    moments = mean_patch_moments(images, targets, 2)
    head = HEADS[outputs] if outputs > 1 else HEADS[1][:, 0]
    return gradient_descent(
        moments, head, 0.8 * float(largest_stable_learning_rate(moments, head))
    )


def simulate(dynamics, targets, initial, patches=PATCHES, steps=STEPS):
    return descend(
        patches,
        targets,
        np.asarray(dynamics.head),
        initial,
        float(dynamics.learning_rate),
        steps,
    )


def mean_square(kernels, basis):
    return (profile(kernels, basis) ** 2).reshape(-1, basis.shape[1]).mean(axis=0)


# Kernels whose mean is 0 and whose covariance is sigma^2 times the identity: averages
# over them are exact.
INITIAL = (
    SIGMA
    * np.sqrt(D * K)
    * np.concatenate([np.eye(D * K), -np.eye(D * K)]).reshape(-1, 1, D, K)
)


def every_permutation(outputs):
    orders = np.array(list(itertools.permutations(range(N))))
    return TARGETS[orders][..., :outputs]


def every_target_alone(outputs):
    """Targets of mean 0, independent between images, of the covariance of TARGETS:
    averages are exact."""
    root = np.linalg.cholesky(np.atleast_2d(np.cov(TARGETS[:, :outputs].T)))
    single = np.einsum("nk,mo->nmko", np.eye(N), root.T).reshape(
        N * outputs, N, outputs
    ) * np.sqrt(N * outputs)
    return np.concatenate([single, -single])


@pytest.mark.parametrize(
    ("targets", "ensemble", "outputs"),
    [
        ("shuffled", every_permutation, 1),
        ("shuffled", every_permutation, 2),
        ("drawn", every_target_alone, 1),
        ("drawn", every_target_alone, 2),
        ("drawn", every_target_alone, 4),
    ],
)
def test_expected_profile_is_the_mean_over_an_exact_ensemble(
    targets, ensemble, outputs
):
    dynamics = closed_form(outputs)
    labels = ensemble(outputs)
    own = np.asarray(dynamics.components)
    for sigma, initial in ((0.0, np.zeros((1, 1, D, K))), (SIGMA, INITIAL)):
        kernels = simulate(dynamics, labels, initial)
        assert np.sqrt(((kernels - initial) ** 2).mean()) > 0.2 * SIGMA
        for change, moved in ((False, kernels), (True, kernels - initial)):

            def expected(
                targets=targets,
                dynamics=dynamics,
                sigma=sigma,
                change=change,
                components=BASIS,
            ):
                result = dynamics.expected_profile(
                    STEPS,
                    init_std=sigma,
                    targets=targets,
                    change=change,
                    components=components,
                )
                return np.asarray(result) ** 2

            np.testing.assert_allclose(
                expected(), mean_square(moved, BASIS), rtol=1e-12
            )
            np.testing.assert_allclose(
                expected(components=own), mean_square(moved, own), rtol=1e-12
            )
    # For the change without initialisation, what is wrong is far away.
    exact = mean_square(simulate(dynamics, labels, np.zeros((D, K))), BASIS)
    other = expected(
        targets={"drawn": "shuffled", "shuffled": "drawn"}[targets], sigma=0.0
    )
    assert np.abs(other / exact - 1).max() > 0.05


def test_expected_profile_in_the_eigenbasis_is_the_formula():
    """sigma^2 [1 - (1 - rho^2)/K] + 4 h eta^2 phi^2 tau^2 alpha / (K N), at many times
    at once."""
    dynamics = closed_form(1)
    pooled = PATCHES.mean(axis=1)
    alpha = np.linalg.eigvalsh(pooled.T @ pooled / N)[::-1]
    h, eta, tau = (
        float((HEADS[1] ** 2).sum()),
        float(dynamics.learning_rate),
        np.std(TARGETS[:, 0], ddof=1),
    )
    steps = np.array([[0, 1], [5, 400]])[..., None]
    rho = (1 - 2 * eta * h * alpha) ** steps
    driven = h / K * (tau * (1 - rho) / h) ** 2 / (alpha * N)
    for change, initial in ((False, 1 - (1 - rho**2) / K), (True, (1 - rho) ** 2 / K)):
        profile = dynamics.expected_profile(
            steps[..., 0], init_std=SIGMA, change=change
        )
        assert profile.shape == (2, 2, D)
        np.testing.assert_allclose(profile**2, SIGMA**2 * initial + driven, rtol=1e-10)
    limit, far = dynamics.expected_profile(
        [np.inf, 1e9], init_std=0.0, components=BASIS[:, :2]
    )
    assert limit.shape == (2,)
    np.testing.assert_allclose(limit, far, rtol=1e-9)


def gaussian_seeds(dynamics, outputs, sigma, seeds):
    """Initial kernels and trained ones; targets drawn with the covariance of
    TARGETS."""
    random = np.random.default_rng(7)
    root = np.linalg.cholesky(np.atleast_2d(np.cov(TARGETS[:, :outputs].T)))
    labels = random.normal(size=(seeds, N, outputs)) @ root.T
    initial = sigma * random.normal(size=(seeds, D, K))
    return initial, simulate(dynamics, labels, initial)


@pytest.mark.parametrize(
    ("outputs", "sigma", "change"), [(1, SIGMA, True), (2, SIGMA / 4, False)]
)
def test_quantiles_and_expectation_of_random_seeds(outputs, sigma, change):
    dynamics, seeds = closed_form(outputs), 40_000
    initial, kernels = gaussian_seeds(dynamics, outputs, sigma, seeds)
    energies = profile(kernels - initial if change else kernels, BASIS)
    settings = {"init_std": sigma, "change": change, "components": BASIS}
    expected = np.asarray(dynamics.expected_profile(STEPS, **settings))
    errors = (energies**2).std(axis=0) / np.sqrt(seeds)
    assert (np.abs((energies**2).mean(axis=0) - expected**2) < 5 * errors).all()
    quantiles = np.asarray(dynamics.profile_quantiles(Q, [0, STEPS], **settings))
    assert quantiles.shape == (4, 2, D)
    below = (energies <= quantiles[:, 1, None]).mean(axis=1)
    assert (
        np.abs(below - Q[:, None]) < 5 * np.sqrt(Q * (1 - Q) / seeds)[:, None]
    ).all()
    covered = below[3] - below[0]
    assert (np.abs(covered - 0.9) < 5 * np.sqrt(0.9 * 0.1 / seeds)).all()
    # Pure cases: sigma^2 chi^2_K / K before the first step, and a folded normal for the
    # change of one output.
    if change:
        np.testing.assert_array_equal(quantiles[:, 0], 0)
        folded = stats.halfnorm.ppf(Q)[:, None] * expected
        np.testing.assert_allclose(quantiles[:, 1], folded, rtol=1e-10)
    else:
        pure = sigma * np.sqrt(stats.chi2.ppf(Q, K) / K)
        np.testing.assert_allclose(
            quantiles[:, 0], np.broadcast_to(pure[:, None], (4, D)), rtol=1e-10
        )


def test_quantiles_of_shuffled_targets():
    """120 images, so that the central limit theorem holds; targets and images of
    non-zero mean."""
    random = np.random.default_rng(8)
    images = random.normal(size=(120, 3, 3, 1)) + 0.5
    targets = random.normal(size=(120, 2)) @ [[1, 0.5], [0, 1]] + [0.5, -0.8]
    dynamics, seeds = closed_form(2, targets, images), 4000
    orders = random.permuted(np.tile(np.arange(120), (seeds, 1)), axis=1)
    initial = SIGMA / 10 * random.normal(size=(seeds, D, K))
    kernels = simulate(
        dynamics, targets[orders], initial, all_patches(images, 2).reshape(120, -1, D)
    )
    energies = profile(kernels - initial, BASIS)
    settings = {"init_std": SIGMA / 10, "change": True, "components": BASIS}

    def misses(dynamics):
        quantiles = np.asarray(
            dynamics.profile_quantiles(Q, STEPS, targets="shuffled", **settings)
        )
        below = (energies <= quantiles[:, None]).mean(axis=1)
        return np.abs(below - Q[:, None]) / np.sqrt(Q * (1 - Q) / seeds)[:, None]

    assert misses(dynamics).max() < 5
    assert misses(dataclasses.replace(dynamics, target_mean=np.zeros(2))).max() > 20
    assert misses(dataclasses.replace(dynamics, mean=np.zeros(D))).max() > 20


@pytest.mark.float32
def test_shapes_and_dtypes():
    dynamics = closed_form(1)
    settings = {"change": True, "components": BASIS.astype(np.float32)}
    quantiles = dynamics.profile_quantiles(Q, [0, STEPS], init_std=SIGMA, **settings)
    assert quantiles.shape == (4, 2, D)
    assert (
        quantiles.dtype
        == dynamics.expected_profile([0, STEPS], init_std=SIGMA, **settings).dtype
        == np.float64
    )
    assert (np.diff(quantiles[:, 1], axis=0) > 0).all()

    @jax.jit
    def traced(dynamics, sigma):
        return dynamics.profile_quantiles(0.3, STEPS, init_std=sigma, **settings)

    result = traced(dynamics, SIGMA)
    assert result.dtype == (
        np.float64 if jax.config.read("jax_enable_x64") else np.float32
    )
    np.testing.assert_allclose(result, quantiles[1, 1], rtol=1e-4)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (
            "targets must be one of 'drawn', 'redrawn', 'shuffled', got 'permuted'",
            {"targets": "permuted"},
        ),
        ("init_std must be finite and >= 0, got -0.1", {"init_std": -0.1}),
        ("init_std must be finite and >= 0, got nan", {"init_std": np.nan}),
        (r"init_std must be a scalar, got shape \(2,\)", {"init_std": [0.1, 0.2]}),
        (r"iterations must be >= 0 \(infinity allowed\), got -1", {"t": -1}),
        (
            r"components must have shape \(d, p\) with d = 4, got \(3, 4\)",
            {"components": BASIS[1:]},
        ),
        (
            r"components must have shape \(d, p\) with d = 4, got \(4,\)",
            {"components": BASIS[0]},
        ),
        ("q must lie strictly between 0 and 1, got 0.5 to 1.0", {"q": [0.5, 1.0]}),
        ("q must lie strictly between 0 and 1, got nan", {"q": np.nan}),
    ],
)
def test_bad_arguments(message, changed):
    dynamics = closed_form(1)
    arguments = {"t": 3, "init_std": 0.1} | changed
    with pytest.raises(ValueError, match=message):
        dynamics.profile_quantiles(arguments.pop("q", 0.5), **arguments)
    if "q" not in changed:
        with pytest.raises(ValueError, match=message):
            dynamics.expected_profile(**arguments)
