"""Simulation over theory beyond the paper: what is trained, against loops and optax,
and the verdicts on arrays that are made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import theory
from experiments.beyond import beyond_the_paper
from experiments.beyond.beyond_the_paper import (
    batches,
    heads,
    measures,
    optimizers,
    verdicts,
)
from experiments.beyond.beyond_the_paper.problem import (
    Problem,
    of_patches,
    record_steps,
)
from experiments.beyond.beyond_the_paper.settings import (
    CLASSES,
    CLOSED,
    KINDS,
    LIMITS,
    Kind,
    Settings,
    batch_steps,
    options,
    size_and_rate,
)
from experiments.frame.experiment import draw_in_style
from tests.experiments.fakes import failing

SMOKE = beyond_the_paper.PRESETS["smoke"]


# --- settings ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.5}, "--rate must be above 0 and at most 1"),
        ({"batches": ("16,0.2",)}, "--batches must be two or more"),
        ({"batches": ("16,0.2", "0,0.1")}, "--batches must be batch sizes and rates"),
        ({"batches": ("16,0.2", "8,0.1")}, "--batches must differ in rate over size"),
        ({"scales": (1.0, 0.1)}, "--scales must increase"),
        ({"scales": (0.0, 1.0)}, "--scales must be two or more positive"),
        ({"adam_rate": 0.0}, "--adam-rate must be > 0"),
        ({"seeds": 1}, "--seeds must be at least 4"),
        ({"label": 99}, "--label must be one of 0 "),
    ],
)
def test_bad_settings(refused: Any, change: dict, message: str) -> None:
    refused(beyond_the_paper, change, message)


def test_what_was_fixed_before() -> None:
    settings = beyond_the_paper.PRESETS["cpu"]
    assert (settings.images, settings.filters, settings.steps) == (10_000, 16, 10_000)
    assert (settings.seeds, settings.batch_seeds, settings.rate) == (256, 128, 0.9)
    assert batch_steps(settings, "16,0.1") == 2500
    assert size_and_rate("16,0.1") == (16, 0.1)
    assert record_steps(1000, 4).tolist() == [0, 1, 10, 100, 1000]
    assert "adam" not in CLOSED
    assert LIMITS == ("strong_decay", "decay", "decay_momentum")
    assert verdicts.largest_z(1) == pytest.approx(3.29, abs=0.01)


# --- what is trained ---


@pytest.fixture(scope="module")
def problem() -> Problem:
    random = np.random.default_rng(0)
    patches = jnp.asarray(random.normal(size=(30, 2, 2, 1)).cumsum(axis=2))
    return of_patches(patches, np.arange(30) % 3, ("a", "b", "c"))


@pytest.mark.parametrize(
    "kind", [KINDS["cosine"], KINDS["piecewise"], KINDS["decoupled"], Kind("plain")]
)
def test_optimizer_and_closed_form_take_the_same_steps(kind: Kind) -> None:
    steps, rate, decay, curvature = 150, 0.1, 0.3 * bool(kind.decay), 2.0
    w = jnp.asarray(1.0)
    with jax.numpy_dtype_promotion("standard"):  # which optax's schedules need
        schedule, rates = optimizers.schedule_of(kind, rate, steps)
        optimizer = optimizers.optimizer_of(kind, schedule, decay)
        state = optimizer.init(w)
        for _ in range(steps):
            update, state = optimizer.update(curvature * w - 1.0, state, w)
            w = optax.apply_updates(w, update)
    # One image whose mean patch is 1 and whose target is too.
    moments = theory.mean_patch_moments(np.ones((2, 1, 1, 1)), np.full(2, 0.5), 1)
    form = theory.gradient_descent(moments, np.ones(1), rates, **options(kind, decay))
    predicted = form.kernel(steps, np.ones((1, 1, 1, 1)))
    assert abs(float(w) - 1) > 0.1
    assert float(predicted[0, 0, 0, 0]) == pytest.approx(float(w), rel=1e-10)


def test_batches_against_a_loop(problem: Problem) -> None:
    head, keys = np.array([1.0, -0.5]), jax.random.split(jax.random.key(1), 3)
    targets = np.random.default_rng(2).normal(size=(3, 30))
    records = np.array([0, 1, 4])
    found = batches.with_replacement(
        jnp.asarray(problem.rows),
        jnp.asarray(targets),
        jnp.asarray(head),
        jnp.asarray(0.05),
        jnp.asarray(records),
        keys,
        5,
    )
    assert found.shape == (3, 3, 4, 2)
    for seed, key in enumerate(keys):
        w = np.zeros((4, 2))
        for step in range(4):
            chosen = np.asarray(
                jax.random.randint(jax.random.fold_in(key, step), (5,), 0, 30)
            )
            p, y = problem.rows[chosen], targets[seed, chosen]
            w = w - 0.05 * 2 / 5 * np.outer(p.T @ (p @ w @ head - y), head)
            if step == 0:
                np.testing.assert_allclose(found[seed, 1], w, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found[seed, 2], w, rtol=1e-12)


def test_noise_in_epochs_is_gone_when_an_epoch_is_one_step(problem: Problem) -> None:
    head, e = np.ones(2), np.eye(4)
    targets = jnp.asarray(np.random.default_rng(3).normal(size=(2, 30)))
    records = np.array([0, 5])
    ends = batches.full_batches(problem, targets, head, 0.01, records)[:, -1]
    given = (problem, targets, ends, head, 0.01, records)
    alone = batches.epochs_variance(*given, 30, e)
    several = batches.epochs_variance(*given, 10, e)
    assert several[-1].min() > 0
    assert alone[-1].max() < 1e-12 * several[-1].max()


def test_scales_of_heads(problem: Problem) -> None:
    settings = replace(SMOKE, filters=3)
    moments = problem.with_targets(np.arange(30) % 2 * 1.0)
    unit = heads.learnt_size(moments, settings)
    end = theory.gradient_descent(moments, np.ones(1), 1e-2)
    v = end.kernel(np.inf, np.zeros((2, 2, 1, 1)))
    assert unit == pytest.approx(float(np.linalg.norm(v)), rel=1e-3)
    for scale in (0.1, 10.0):
        head, init_std, rate = heads.start_of(scale, unit, moments, settings)
        assert (head**2).sum() == pytest.approx(scale * unit)
        assert 12 * init_std**2 == pytest.approx(0.001 * unit)
        assert rate < 0.3 * theory.largest_stable_learning_rate(moments, head)


def test_error_and_where_it_passes_a_tenth() -> None:
    steps = np.array([0, 1, 10, 100])
    assert measures.until(steps, np.array([np.nan, 0.001, 0.01, 1.0])) == pytest.approx(
        10**1.5
    )
    assert measures.until(steps, np.array([np.nan, 0.2, 0.3, 1.0])) == 1
    assert measures.until(steps, np.array([np.nan, 0.0, 0.01, 0.05])) is None
    kernels = np.array([0.0, 1.0, 4.0]).reshape(1, 3, 1, 1, 1, 1)
    off = kernels + np.array([0.0, 0.5, -1.0]).reshape(kernels.shape)
    np.testing.assert_allclose(heads.error(kernels, off)[0, 1:], [0.5, 0.25])


# --- the verdicts ---


def test_z_of_ratio_is_standard_normal() -> None:
    energy = np.random.default_rng(0).chisquare(40, size=100_000) / 40
    z = measures.z_of_ratio(energy, 40)
    for level in (0.001, 0.1, 0.9, 0.999):
        assert np.mean(z < stats.norm.isf(1 - level)) == pytest.approx(level, rel=0.4)


def fake() -> dict[str, np.ndarray]:
    """Arrays as `compute` makes them, of networks that follow the theory."""
    random = np.random.default_rng(0)
    seeds, filters, count, d = 256, 4, 1000, 9
    alpha = np.geomspace(10, 1e-4, d)
    steps = np.array([0, 10, 100, 1000])
    times = np.geomspace(1, 1e7, 50)

    def plain(t: np.ndarray) -> np.ndarray:
        growth = 1 - np.exp(-np.asarray(t)[:, None] * alpha / alpha[0])
        return growth / np.sqrt(alpha) / filters / np.sqrt(count)

    arrays: dict[str, Any] = {
        "alpha": alpha,
        "filters": np.array(filters),
        "count": np.array(count),
        "steps": steps,
        "plain_grid": plain(times),
    }
    for name, kind in KINDS.items():
        c = kind.decay * alpha[0]
        limit = np.sqrt(alpha) / (alpha + c) / filters / np.sqrt(count)
        limit = limit if name in LIMITS else plain(np.array([1e6]))[0]
        growth = 1 - np.exp(-10 * steps)
        expected = growth[:, None] * limit
        weights = (
            random.normal(size=(2, 4, 3, 3, 1, filters))
            * growth[:, None, None, None, None]
        )
        normal = np.abs(random.normal(size=(seeds, 1, d)))
        arrays[f"{name}/profile"] = normal * expected
        if kind.adam:
            continue
        folded = stats.norm.isf((1 - np.array([0.05, 0.95])) / 2)
        arrays |= {
            f"{name}/expected": expected,
            f"{name}/band": folded[:, None, None] * expected,
            f"{name}/limit": limit,
            f"{name}/plain": expected / 3,
            f"{name}/simulated": weights,
            f"{name}/predicted": weights * (1 + 1e-12),
            f"{name}/as_plain": weights / 3,
            f"{name}/from_zero": weights * (1 + 1e-6),
        }
    arrays = {f"optimizers/{key}": value for key, value in arrays.items()}
    for text in ("4,0.2", "16,0.2", "16,0.1"):
        size, rate = size_and_rate(text)
        full = plain(np.array([50, 100, 1e9, np.inf]))
        noisy = np.full((4, d), 1e-3 * rate / size)
        normal, noise = random.normal(size=(2, seeds, 3, d))
        noise = noise * np.sqrt(noisy[:3])
        found = {
            "steps": np.array([50, 100, 1000]),
            "full": np.abs(normal) * full[:3],
            "noise": noise * filters,
            "profile": np.abs(normal * full[:3] + noise),
            "expected": np.sqrt(full**2 + noisy),
            "expected_full": full,
        }
        if text == "16,0.2":
            found |= {
                "epochs_noise": found["noise"] / 3,
                "epochs_profile": found["full"],
                "epochs_variance": noisy[:3] / 9 * filters**2,
            }
        arrays |= {f"batches/{text}/{key}": value for key, value in found.items()}
    arrays["classes/steps"] = steps
    for name, classes in CLASSES.items():
        logits = np.tile([classes.logits, 0.15, 0.3, 0.6], (2, 1))
        arrays |= {
            f"classes/{name}/logits": logits,
            f"classes/{name}/error": 0.4 * logits**2,
            f"classes/{name}/as_mse": np.ones((2, 4)),
            f"classes/{name}/correlation": np.full((2, 4), 0.99),
        }
    scales = np.array([0.01, 1.0, 10.0, 100.0])
    error = np.minimum(0.9, 0.5 / scales**2)[:, None, None] * np.ones((4, 2, 4))
    return arrays | {
        "heads/scales": scales,
        "heads/steps": steps,
        "heads/exact": np.full(4, 1e-13),
        "heads/error": error,
        "heads/correlation": 1 - error / 10,
        "heads/head_change": error,
        "heads/line_scales": scales,
        "heads/line": error[:, 0, -1],
    }


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("optimizers/cosine/predicted", lambda x: x * 1.001, "single networks"),
        ("optimizers/nesterov/profile", lambda x: x * 1.3, "expected profile"),
        ("optimizers/heavy_ball/band", lambda x: x / 2, "90 % band"),
        # Wrong formulas that would do as well.
        ("optimizers/decoupled/plain", lambda x: 3 * x, "expected profile"),
        ("optimizers/piecewise/from_zero", lambda x: x / (1 + 1e-6), "single networks"),
        ("optimizers/decay/limit", lambda x: x * 1.001, "limit of weight decay"),
        ("optimizers/decay/profile", lambda x: x[..., ::-1], "alpha at the peak"),
        ("batches/16,0.1/noise", lambda x: x / 2, "noise of minibatches in standard"),
        ("batches/4,0.2/profile", lambda x: x * 1.4, "profile in minibatches"),
        ("batches/4,0.2/noise", lambda x: x * 2, "noise of minibatches to the power"),
        ("batches/16,0.2/epochs_noise", lambda x: x * 4, "noise in epochs over"),
        ("batches/16,0.2/epochs_variance", lambda x: x * 2, "noise in epochs, first"),
        ("classes/random/error", lambda x: x + 0.1, "cross-entropy in the first step"),
        ("classes/true/error", lambda x: x**0.25 / 5, "slope, true labels"),
        ("classes/true/as_mse", lambda x: 0 * x, "cross-entropy in the first step"),
        ("heads/exact", lambda x: x + 1e-6, "both layers against the recursion"),
        ("heads/error", lambda x: x**0.5, "fixed head to the power of its scale"),
        ("heads/error", lambda x: x / 3, "error of a fixed head, scale 0.01"),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change: Any, expected: str) -> None:
    arrays = fake()
    assert not failing(beyond_the_paper.summary(arrays))
    titles = failing(beyond_the_paper.summary(arrays | {field: change(arrays[field])}))
    assert any(expected in title for title in titles), titles


def test_runs_that_are_too_short_are_not_judged() -> None:
    arrays = fake()
    arrays["optimizers/decay/expected"] = arrays["optimizers/decay/expected"] / 2
    arrays["heads/scales"] = np.array([0.2, 0.5, 1.0, 2.0])
    verdict = {
        one.title: one.verdict for one in beyond_the_paper.summary(arrays)["checks"]
    }
    for title in (
        "alpha at the peak of the trained profile over c, weight decay, c = 1e-3",
        "error of a fixed head, scale 0.2",
        "error of a fixed head to the power of its scale, slope",
    ):
        assert verdict[title] == "not reached"


def test_results_table_and_figures(tmp_path: Path) -> None:
    summary = beyond_the_paper.summary(fake())
    assert {check.written for check in summary["checks"]} == {"before"}
    rows = {row["name"]: row for row in summary["results"]}
    assert rows["adam"]["form"] == "none"
    assert rows["adam"]["plain"] is None
    assert rows["adam"]["worst"] >= rows["adam"]["fitted"] > 1
    assert rows["cosine"]["plain"] == pytest.approx(3, rel=0.2)
    assert rows["16,0.2"]["plain"] > rows["16,0.2 in epochs"]["plain"]
    # Between 0.036 at 100 and 0.144 at 1000.
    place = np.log(0.1 / 0.036) / np.log(4)
    assert rows["true"]["until"] == pytest.approx(100 * 10**place)
    assert rows["100"]["until"] is None
    table = beyond_the_paper.table(summary)
    assert {len(column) for column in table.columns.values()} == {len(rows)}
    draw_in_style(beyond_the_paper.draw, tmp_path, fake())
    names = ("beyond_the_paper", "beyond_the_paper_limits")
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")
    }


@pytest.mark.long
def test_the_smoke_preset(tmp_path: Path) -> None:
    settings: Settings = replace(SMOKE, out=tmp_path, steps=60, class_steps=5)
    with jax.numpy_dtype_promotion("standard"):  # which optax's schedules need
        beyond_the_paper.main(settings)
    folder = tmp_path / "beyond_the_paper" / "photographs"
    assert (folder / "config.json").exists()
    assert len(list(folder.glob("*.png"))) == 2
