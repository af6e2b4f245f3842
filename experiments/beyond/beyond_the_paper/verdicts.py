"""All checks, from the saved arrays alone."""

import numpy as np
from scipy import stats

from experiments import frame
from experiments.beyond.beyond_the_paper import measures
from experiments.beyond.beyond_the_paper.settings import (
    BAND,
    CLASSES,
    CLOSED,
    KINDS,
    LIMITS,
)
from experiments.frame import Arrays, check

EXACT = 1e-9
# Of a check that is about many numbers: how rarely it may fail where the theory holds.
LEVEL = 1e-3
SMALL_LOGITS = 0.2
FEW, MANY = 4, 64  # between the numbers of seeds that a law is read from
SETTLED = 25  # batches have made their noise normal after 1 / 25 of the steps


def checks(arrays: Arrays) -> list[frame.Check]:
    """All checks."""
    return [
        *(one for name in CLOSED for one in _of_optimizer(arrays, name)),
        *(one for name in LIMITS for one in _of_limit(arrays, name)),
        _law_of_seeds(arrays),
        *_of_batches(arrays),
        *_of_classes(arrays),
        *_of_heads(arrays),
    ]


def largest_z(count: int) -> float:
    """The bound of the largest of so many standard normal numbers."""
    return float(stats.norm.isf(LEVEL / 2 / count))


def _of_optimizer(arrays: Arrays, name: str) -> list[frame.Check]:
    title, key = KINDS[name].title, f"optimizers/{name}"
    profile = arrays[f"{key}/profile"][:, 1:]
    seeds, energy = len(profile), (profile**2).mean(axis=0)

    def deviation(form: str) -> float:
        ratio = energy / arrays[f"{key}/{form}"][1:] ** 2
        return float(np.abs(measures.z_of_ratio(ratio, seeds)).max())

    low, high = arrays[f"{key}/band"][:, 1:]
    inside = ((profile >= low) & (profile <= high)).sum(axis=0)
    law = stats.binom(seeds, BAND[1] - BAND[0])
    tail = np.minimum(law.cdf(inside), law.sf(inside - 1))
    outside = stats.norm.isf(np.clip(tail, 1e-300, 0.5)).max()
    return [
        check(
            f"single networks against the exact form, {title}",
            measures.single_error(arrays, name, "predicted"),
            at_most=EXACT,
            moved=f"max |w - w(0)| = {measures.moved(arrays[f'{key}/simulated']):.2g}",
            wrong={
                "plain": measures.single_error(arrays, name, "as_plain"),
                "from filters of zero": measures.single_error(
                    arrays, name, "from_zero"
                ),
            },
        ),
        check(
            f"expected profile in standard errors, {title}, largest of {energy.size}",
            deviation("expected"),
            at_most=largest_z(energy.size),
            wrong={"plain": deviation("plain")},
        ),
        check(
            f"90 % band in standard errors, {title}, largest of {energy.size}",
            outside,
            at_most=largest_z(energy.size),
            moved=f"mean coverage {inside.mean() / seeds:.3f}",
        ),
    ]


def _of_limit(arrays: Arrays, name: str) -> list[frame.Check]:
    title, key = KINDS[name].title, f"optimizers/{name}"
    formula, c = measures.limit_of_decay(arrays, name)
    alpha, limit = arrays["optimizers/alpha"], arrays[f"{key}/limit"]
    whitening = 1 / np.sqrt(alpha)
    left = np.abs(arrays[f"{key}/expected"][-1] - limit).max() / limit.max()
    peak = alpha[measures.rms(arrays[f"{key}/profile"][:, -1]).argmax()]
    return [
        check(
            f"limit of weight decay against sqrt(alpha) / (alpha + c), {title}",
            np.abs(limit / formula - 1).max(),
            at_most=EXACT,
            wrong={
                "whitening": np.abs(
                    whitening / whitening[0] * limit[0] / limit - 1
                ).max()
            },
        ),
        check(
            f"alpha at the peak of the trained profile over c, {title}",
            peak / c,
            at_least=1 / 3,
            at_most=3.0,
            wrong={"whitening": alpha[-1] / c},
            reached=bool(left < 0.01),
            caveat="" if left < 0.01 else f"{left:.0%} from the limit: train longer",
        ),
    ]


def _law_of_seeds(arrays: Arrays) -> frame.Check:
    counts, _ = measures.errors_of_seeds(arrays, CLOSED[0])
    errors = [measures.errors_of_seeds(arrays, name)[1] for name in CLOSED]
    mean = np.sqrt(np.mean(np.square(errors), axis=0))
    chosen = (counts >= FEW) & (counts <= MANY)
    return check(
        "standard error to the power of the number of seeds, slope",
        measures.slope(counts[chosen], mean[chosen]),
        at_least=-0.55,
        at_most=-0.45,
        reached=bool(counts[-1] >= MANY),
    )


def _of_batches(arrays: Arrays) -> list[frame.Check]:
    names = measures.batches(arrays)
    found = [one for name in names for one in _of_batch(arrays, name)]
    x, trained, _ = measures.noises(arrays)
    found.append(
        check(
            "noise of minibatches to the power of rate over batch, slope",
            measures.slope(x, trained),
            at_least=0.9,
            at_most=1.1,
        )
    )
    for name in names:
        key, words = f"batches/{name}", measures.in_words(name)
        if f"{key}/{measures.EPOCHS}" in arrays:
            epochs = measures.variance(arrays[f"{key}/{measures.EPOCHS}"])[-1].sum()
            found += [
                check(
                    f"noise in epochs over that with replacement, {words}",
                    epochs / measures.variance(arrays[f"{key}/noise"])[-1].sum(),
                    below=1.0,
                ),
                check(
                    f"noise in epochs, first order over trained, {words}",
                    arrays[f"{key}/epochs_variance"][-1].sum() / epochs,
                    at_least=2 / 3,
                    at_most=1.5,
                ),
            ]
    return found


def _of_batch(arrays: Arrays, name: str) -> list[frame.Check]:
    key, words = f"batches/{name}", measures.in_words(name)
    steps = arrays[f"{key}/steps"]
    late = steps >= steps[-1] / SETTLED
    noise = arrays[f"{key}/noise"][:, late]
    seeds = len(noise)
    # Noise that is not Gaussian has fewer degrees of freedom.
    kurtosis = (noise**4).mean(axis=0) / measures.variance(noise) ** 2
    freedom = 2 * seeds / np.maximum(kurtosis - 1, 2)
    ratio = (
        measures.variance(noise) / measures.expected_variance(arrays, name)[:-1][late]
    )
    energy = (arrays[f"{key}/profile"][:, late] ** 2).mean(axis=0)

    def deviation(form: str) -> float:
        expected = arrays[f"{key}/{form}"][:-1][late] ** 2
        return float(np.abs(measures.z_of_ratio(energy / expected, seeds)).max())

    return [
        check(
            f"noise of minibatches in standard errors, {words}, largest of"
            f" {ratio.size}",
            np.abs(measures.z_of_ratio(ratio, freedom)).max(),
            at_most=largest_z(ratio.size),
            wrong={
                "twice the batch": np.abs(measures.z_of_ratio(2 * ratio, freedom)).max()
            },
        ),
        check(
            f"profile in minibatches in standard errors, {words}, largest of"
            f" {ratio.size}",
            deviation("expected"),
            at_most=largest_z(ratio.size),
            moved=f"full batches: {deviation('expected_full'):.2g}",
        ),
    ]


def _of_classes(arrays: Arrays) -> list[frame.Check]:
    found = []
    for name, kind in CLASSES.items():
        if kind.logits > SMALL_LOGITS:
            continue
        error = arrays[f"classes/{name}/error"][:, 1:]
        small = arrays[f"classes/{name}/logits"][:, 1:] <= SMALL_LOGITS
        as_mse = arrays[f"classes/{name}/as_mse"][:, 1:]
        found += [
            check(
                f"error of linearised cross-entropy in the first step, {kind.title}",
                error[:, 0].mean(),
                at_most=0.02,
                wrong={"g = 2": as_mse[:, 0].mean()},
            ),
            check(
                "error of linearised cross-entropy while the logits are below"
                f" {SMALL_LOGITS:g}, {kind.title}",
                error[small].max(initial=0),
                at_most=measures.OFF,
                reached=bool(small.any()),
            ),
        ]
    error = arrays["classes/true/error"].mean(axis=0)[1:]
    logits = arrays["classes/true/logits"].mean(axis=0)[1:]
    grown = (logits > measures.OFF) & (error < 0.3)
    return [
        *found,
        check(
            "error of linearised cross-entropy to the power of the logits, slope, true"
            " labels",
            measures.slope(logits[grown], error[grown]) if grown.sum() > 1 else np.nan,
            # 1 for skewed mean patches, 2 for symmetric ones.
            at_least=0.9,
            at_most=2.5,
            reached=bool(grown.sum() > 1),
        ),
        check(
            "error of linearised cross-entropy at the end, true labels",
            error[-1],
            above=measures.OFF,
        ),
    ]


def _of_heads(arrays: Arrays) -> list[frame.Check]:
    scales = arrays["heads/scales"]
    error = arrays["heads/error"][:, :, -1].mean(axis=1)
    lazy = scales >= 10
    exact = [
        check(
            f"both layers against the recursion, scale {scale:g}",
            value,
            at_most=EXACT,
            wrong={"fixed head": of_fixed},
        )
        for scale, value, of_fixed in zip(
            scales, arrays["heads/exact"], error, strict=True
        )
    ]
    return [
        *exact,
        check(
            f"error of a fixed head, scale {scales[-1]:g}",
            error[-1],
            at_most=0.01,
            reached=bool(scales[-1] >= 100),
        ),
        check(
            f"error of a fixed head, scale {scales[0]:g}",
            error[0],
            above=0.5,
            reached=bool(scales[0] <= 0.1),
        ),
        check(
            "error of a fixed head to the power of its scale, slope",
            measures.slope(scales[lazy], error[lazy]) if lazy.sum() > 1 else np.nan,
            at_least=-2.3,
            at_most=-1.7,
            reached=bool(lazy.sum() > 1),
        ),
    ]
