"""The results in numbers, and the checks, from the saved arrays alone."""

from typing import Any

import numpy as np
from scipy import stats

import theory
from experiments import frame
from experiments.beyond.beyond_the_paper.settings import (
    BAND,
    CLASSES,
    CLOSED,
    KINDS,
    LIMITS,
    size_and_rate,
)
from experiments.frame import Arrays, check

EXACT = 1e-9
# Of a check that is about many numbers: how rarely it may fail where the theory holds.
LEVEL = 1e-3
OFF = 0.1  # the relative error at which a form no longer holds
SMALL_LOGITS = 0.2
FEW, MANY = 4, 64  # between the numbers of seeds that a law is read from
SETTLED = 25  # batches have made their noise normal after 1 / 25 of the steps
EPOCHS = "epochs_noise"


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


# --- optimisers ---


def largest_z(count: int) -> float:
    """The bound of the largest of so many standard normal numbers."""
    return float(stats.norm.isf(LEVEL / 2 / count))


def z_of_ratio(ratio: np.ndarray, freedom: Any) -> np.ndarray:
    """Mean of squares of Gaussian numbers over its expectation, as a standard normal
    number (Wilson and Hilferty)."""
    spread = 2 / (9 * np.asarray(freedom))
    return (np.cbrt(ratio) - (1 - spread)) / np.sqrt(spread)


def rms(profile: np.ndarray) -> np.ndarray:
    """Over seeds, the first axis."""
    return np.sqrt((profile**2).mean(axis=0))


def factor(profile: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By which two profiles differ, root mean square over components: 1 where they are
    equal."""
    return np.exp(np.sqrt((np.log(profile / other) ** 2).mean(axis=-1)))


def _moved(weights: np.ndarray) -> np.ndarray:
    """Largest change of a weight, of the least of several networks."""
    return np.abs(weights - weights[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()


def single_error(arrays: Arrays, name: str, form: str) -> float:
    """Largest error of a form on single networks, over their largest change."""
    simulated = arrays[f"optimizers/{name}/simulated"]
    error = np.abs(simulated - arrays[f"optimizers/{name}/{form}"]).max()
    return float(error / _moved(simulated))


def _of_optimizer(arrays: Arrays, name: str) -> list[frame.Check]:
    title, key = KINDS[name].title, f"optimizers/{name}"
    profile = arrays[f"{key}/profile"][:, 1:]
    seeds, energy = len(profile), (profile**2).mean(axis=0)

    def deviation(form: str) -> float:
        ratio = energy / arrays[f"{key}/{form}"][1:] ** 2
        return float(np.abs(z_of_ratio(ratio, seeds)).max())

    low, high = arrays[f"{key}/band"][:, 1:]
    inside = ((profile >= low) & (profile <= high)).sum(axis=0)
    law = stats.binom(seeds, BAND[1] - BAND[0])
    tail = np.minimum(law.cdf(inside), law.sf(inside - 1))
    outside = stats.norm.isf(np.clip(tail, 1e-300, 0.5)).max()
    return [
        check(
            f"single networks against the exact form, {title}",
            single_error(arrays, name, "predicted"),
            at_most=EXACT,
            moved=f"max |w - w(0)| = {_moved(arrays[f'{key}/simulated']):.2g}",
            wrong={
                "plain": single_error(arrays, name, "as_plain"),
                "from filters of zero": single_error(arrays, name, "from_zero"),
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


def limit_of_decay(arrays: Arrays, name: str) -> tuple[np.ndarray, float]:
    """tau / sqrt(h K N) sqrt(alpha) / (alpha + c), and c, for a head of ones."""
    alpha, filters = arrays["optimizers/alpha"], arrays["optimizers/filters"]
    c = KINDS[name].decay * alpha[0]
    size = 1 / (filters * np.sqrt(arrays["optimizers/count"]))
    return size * np.sqrt(alpha) / (alpha + c), float(c)


def _of_limit(arrays: Arrays, name: str) -> list[frame.Check]:
    title, key = KINDS[name].title, f"optimizers/{name}"
    formula, c = limit_of_decay(arrays, name)
    alpha, limit = arrays["optimizers/alpha"], arrays[f"{key}/limit"]
    whitening = 1 / np.sqrt(alpha)
    left = np.abs(arrays[f"{key}/expected"][-1] / limit - 1).max()
    peak = alpha[rms(arrays[f"{key}/profile"][:, -1]).argmax()]
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


def errors_of_seeds(arrays: Arrays, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of seeds, and the relative error of the mean energy of so many, root mean
    square over groups of them and components at the last step."""
    energy = arrays[f"optimizers/{name}/profile"][:, -1] ** 2
    energy = energy / arrays[f"optimizers/{name}/expected"][-1] ** 2
    counts = 2 ** np.arange(int(np.log2(len(energy))) + 1)
    errors = []
    for count in counts:
        groups = energy[: len(energy) // count * count].reshape(
            -1, count, len(energy.T)
        )
        errors.append(np.sqrt(((groups.mean(axis=1) - 1) ** 2).mean()))
    return counts, np.array(errors)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _law_of_seeds(arrays: Arrays) -> frame.Check:
    counts, _ = errors_of_seeds(arrays, CLOSED[0])
    errors = [errors_of_seeds(arrays, name)[1] for name in CLOSED]
    mean = np.sqrt(np.mean(np.square(errors), axis=0))
    chosen = (counts >= FEW) & (counts <= MANY)
    return check(
        "standard error to the power of the number of seeds, slope",
        slope(counts[chosen], mean[chosen]),
        at_least=-0.55,
        at_most=-0.45,
        reached=bool(counts[-1] >= MANY),
    )


# --- minibatches ---


def batches(arrays: Arrays) -> list[str]:
    """Their names, in the order of the settings."""
    return [
        key.split("/")[1]
        for key in arrays
        if key.startswith("batches/") and key.endswith("/noise")
    ]


def variance(noise: np.ndarray) -> np.ndarray:
    """Over networks, the first axis, about zero."""
    return (noise**2).mean(axis=0)


def expected_variance(arrays: Arrays, name: str) -> np.ndarray:
    """What minibatches add to the squared predictor, (R + 1, d), last at infinity."""
    key = f"batches/{name}"
    noisy = arrays[f"{key}/expected"] ** 2 - arrays[f"{key}/expected_full"] ** 2
    # e^2 = v^2 / K |a|^2, and |a|^2 = K.
    return noisy * float(arrays["optimizers/filters"]) ** 2


def in_words(name: str) -> str:
    """Of a batch size and a rate."""
    size, rate = size_and_rate(name)
    return f"batch {size}, rate {rate:g}"


def noises(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rate over batch, and what minibatches add to the predictor at the end, all
    components together, over the square of that of full batches: trained and
    predicted."""
    rows = []
    for name in batches(arrays):
        size, rate = size_and_rate(name)
        full = full_square(arrays, name)
        trained = variance(arrays[f"batches/{name}/noise"])[-1].sum()
        predicted = expected_variance(arrays, name)[-2].sum()
        rows.append((rate / size, trained / full, predicted / full))
    x, trained, predicted = np.array(rows).T
    return x, trained, predicted


def full_square(arrays: Arrays, name: str) -> float:
    """|v|^2 of full batches at the end, as expected."""
    profile = arrays[f"batches/{name}/expected_full"][-2]
    return float((profile**2).sum() * arrays["optimizers/filters"] ** 2)


def _of_batches(arrays: Arrays) -> list[frame.Check]:
    names = batches(arrays)
    found = [one for name in names for one in _of_batch(arrays, name)]
    x, trained, _ = noises(arrays)
    found.append(
        check(
            "noise of minibatches to the power of rate over batch, slope",
            slope(x, trained),
            at_least=0.9,
            at_most=1.1,
        )
    )
    for name in names:
        key = f"batches/{name}"
        if f"{key}/{EPOCHS}" in arrays:
            epochs = variance(arrays[f"{key}/{EPOCHS}"])[-1].sum()
            found += [
                check(
                    f"noise in epochs over that with replacement, {in_words(name)}",
                    epochs / variance(arrays[f"{key}/noise"])[-1].sum(),
                    below=1.0,
                ),
                check(
                    f"noise in epochs, first order over trained, {in_words(name)}",
                    arrays[f"{key}/epochs_variance"][-1].sum() / epochs,
                    at_least=2 / 3,
                    at_most=1.5,
                ),
            ]
    return found


def _of_batch(arrays: Arrays, name: str) -> list[frame.Check]:
    key = f"batches/{name}"
    steps = arrays[f"{key}/steps"]
    late = steps >= steps[-1] / SETTLED
    noise = arrays[f"{key}/noise"][:, late]
    seeds = len(noise)
    # Noise that is not Gaussian has fewer degrees of freedom.
    kurtosis = (noise**4).mean(axis=0) / variance(noise) ** 2
    freedom = 2 * seeds / np.maximum(kurtosis - 1, 2)
    ratio = variance(noise) / expected_variance(arrays, name)[:-1][late]
    energy = (arrays[f"{key}/profile"][:, late] ** 2).mean(axis=0)

    def deviation(form: str) -> float:
        expected = arrays[f"{key}/{form}"][:-1][late] ** 2
        return float(np.abs(z_of_ratio(energy / expected, seeds)).max())

    return [
        check(
            f"noise of minibatches in standard errors, {in_words(name)}, largest of"
            f" {ratio.size}",
            np.abs(z_of_ratio(ratio, freedom)).max(),
            at_most=largest_z(ratio.size),
            wrong={"twice the batch": np.abs(z_of_ratio(2 * ratio, freedom)).max()},
        ),
        check(
            f"profile in minibatches in standard errors, {in_words(name)}, largest of"
            f" {ratio.size}",
            deviation("expected"),
            at_most=largest_z(ratio.size),
            moved=f"full batches: {deviation('expected_full'):.2g}",
        ),
    ]


# --- cross-entropy and trained heads ---


def until(steps: np.ndarray, error: np.ndarray) -> float | None:
    """The step at which an error (R,) passes `OFF`, between records on a logarithmic
    scale; None if it does not."""
    steps, error = steps[1:], error[1:]
    beyond = np.flatnonzero(~(error <= OFF))
    if not len(beyond):
        return None
    first = beyond[0]
    if first == 0:
        return float(steps[0])
    place = np.log(OFF / error[first - 1]) / np.log(error[first] / error[first - 1])
    return float(steps[first - 1] * (steps[first] / steps[first - 1]) ** place)


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
                at_most=OFF,
                reached=bool(small.any()),
            ),
        ]
    error = arrays["classes/true/error"].mean(axis=0)[1:]
    logits = arrays["classes/true/logits"].mean(axis=0)[1:]
    grown = (logits > OFF) & (error < 0.3)
    return [
        *found,
        check(
            "error of linearised cross-entropy to the power of the logits, slope, true"
            " labels",
            slope(logits[grown], error[grown]) if grown.sum() > 1 else np.nan,
            # 1 for skewed mean patches, 2 for symmetric ones.
            at_least=0.9,
            at_most=2.5,
            reached=bool(grown.sum() > 1),
        ),
        check(
            "error of linearised cross-entropy at the end, true labels",
            error[-1],
            above=OFF,
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
            slope(scales[lazy], error[lazy]) if lazy.sum() > 1 else np.nan,
            at_least=-2.3,
            at_most=-1.7,
            reached=bool(lazy.sum() > 1),
        ),
    ]


# --- results ---


def results(arrays: Arrays) -> list[dict[str, Any]]:
    """A row for each way of training."""
    return [
        *(_row_of_optimizer(arrays, name) for name in KINDS),
        *_rows_of_batches(arrays),
        *(_row_of_classes(arrays, name) for name in CLASSES),
        *_rows_of_heads(arrays),
    ]


def _row(name: str, trained: str, form: str, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("error", "plain", "fitted", "correlation", "until"))
    known = {key: None if x is None else float(x) for key, x in values.items()}
    return {"name": name, "trained": trained, "form": form} | empty | known


def _row_of_optimizer(arrays: Arrays, name: str) -> dict[str, Any]:
    kind, key = KINDS[name], f"optimizers/{name}"
    profile = rms(arrays[f"{key}/profile"][:, -1])
    grid = arrays["optimizers/plain_grid"]
    spread = np.asarray(theory.log_ratio_std(profile, grid))
    best = spread.argmin()
    known = {"fitted": np.exp(spread[best])}
    if kind.adam:
        near = theory.profile_correlation(profile, grid[best])
        return _row(name, kind.title, "none", correlation=near, **known)
    plain = arrays[f"{key}/plain"][-1]
    return _row(
        name,
        kind.title,
        "exact",
        error=single_error(arrays, name, "predicted"),
        plain=factor(profile, plain),
        correlation=theory.profile_correlation(profile, plain),
        **known,
    )


def _rows_of_batches(arrays: Arrays) -> list[dict[str, Any]]:
    rows = []
    for name in batches(arrays):
        key = f"batches/{name}"
        full = rms(arrays[f"{key}/full"][:, -1])
        # On the targets of these networks.
        predicted = full * (
            arrays[f"{key}/expected"][-2] / arrays[f"{key}/expected_full"][-2]
        )
        kinds = [("profile", name, "minibatches", "exact", predicted)]
        if f"{key}/{EPOCHS}" in arrays:
            noise = arrays[f"{key}/epochs_variance"][-1]
            predicted = np.sqrt(
                full**2 + noise / float(arrays["optimizers/filters"]) ** 2
            )
            words = "minibatches in epochs"
            kinds.append(
                ("epochs_profile", f"{name} in epochs", words, "first order", predicted)
            )
        for field, own, words, form, expected in kinds:
            trained = rms(arrays[f"{key}/{field}"][:, -1])
            rows.append(
                _row(
                    own,
                    f"{words}, {in_words(name)}",
                    form,
                    error=np.abs(trained / expected - 1).max(),
                    plain=factor(trained, full),
                    correlation=theory.profile_correlation(trained, full),
                )
            )
    return rows


def _row_of_classes(arrays: Arrays, name: str) -> dict[str, Any]:
    error = arrays[f"classes/{name}/error"].mean(axis=0)
    return _row(
        name,
        f"cross-entropy, {CLASSES[name].title}",
        "linearised",
        error=error[1],
        correlation=arrays[f"classes/{name}/correlation"][:, -1].mean(),
        until=until(arrays["classes/steps"], error),
    )


def _rows_of_heads(arrays: Arrays) -> list[dict[str, Any]]:
    return [
        _row(
            f"{scale:g}",
            f"head learns, from {scale:g}",
            "recursion",
            error=arrays["heads/exact"][place],
            correlation=arrays["heads/correlation"][place, :, -1].mean(),
            until=until(
                arrays["heads/steps"], arrays["heads/error"][place].mean(axis=0)
            ),
        )
        for place, scale in enumerate(arrays["heads/scales"])
    ]
