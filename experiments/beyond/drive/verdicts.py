"""The results in numbers, and the checks.

All bounds stood here before the first network of these seeds was trained; a pilot on
others had been seen.
"""

from typing import Any

import numpy as np

import theory
from experiments import frame, trained
from experiments.beyond.drive.network import LAWS, soft
from experiments.frame import Arrays

Run = trained.MeasuredRun

SHAPE = 0.92  # smallest correlation of the law, at the end of any interval
SIZE = (0.5, 1.1)  # of the law, over the trained one
NOISE = 0.1  # s.d. over components of the log of noise over curvature
SAME = 0.98  # cosine of the components' shares with those before training
GROWTH = 5.0  # of the trace of the curvature
FEW = 0.05  # of the directions
UNSEEN = (0.6, 1.4)  # drive of unseen images, over that of the training images
OF_SHUFFLED = 0.5  # the same at most where labels are shuffled
HALF = 0.5  # correlation of the drive with itself
IMAGES = (0.75, 1.33)  # drive with another number of images over the base's


def correlation(run: Run, law: str) -> np.ndarray:
    """Of the profile of a law with the trained one, (S, T)."""
    return np.asarray(theory.profile_correlation(run[law], run["profile"]))


def size(run: Run, law: str) -> np.ndarray:
    """Root mean square change, of a law over the trained one, (S, T)."""
    squares = [(run[name] ** 2).sum(axis=-1) for name in (law, "profile")]
    return np.asarray(np.sqrt(squares[0] / squares[1]))


def drive(run: Run) -> np.ndarray:
    """Root mean square drive in the soft components, over their share, (S, T)."""
    squares = np.diagonal(run["autocovariance"], axis1=1, axis2=2)
    return np.sqrt(np.maximum(squares, 0))


def unseen(run: Run) -> np.ndarray:
    """Drive of unseen images along that of the training images, over it, (S,): in the
    second quarter of the training, when both have begun."""
    quarter = _quarter(run)
    own = np.diagonal(run["autocovariance"], axis1=1, axis2=2)[:, quarter]
    return np.asarray(run["unseen"][:, quarter].sum(axis=1) / own.sum(axis=1))


def _quarter(run: Run) -> slice:
    count = run["unseen"].shape[1]
    return slice(count // 4, max(count // 2, count // 4 + 1))


def turning(run: Run) -> float:
    """Epochs after which the drive has a correlation of one half with itself, a mean
    over networks and over the training after its first quarter; NaN where it stays
    above."""
    covariance = run["autocovariance"].mean(axis=0)
    count = len(covariance)
    covariance = covariance[count // 4 :, count // 4 :]
    sizes = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    correlations = np.array(
        [
            np.diagonal(covariance, lag).sum()
            / (sizes[lag:] @ sizes[: len(sizes) - lag])
            for lag in range(len(sizes))
        ]
    )
    below = np.flatnonzero(correlations < HALF)
    if not below.size:
        return float("nan")
    after = below[0]
    high, low = correlations[after - 1], correlations[after]
    lag = after - 1 + (high - HALF) / (high - low)
    return float(lag * run.config["epochs"] / count)


def noise_over_curvature(run: Run) -> np.ndarray:
    """Noise of the gradients over the share of the curvature, 1 on average, (S, d)."""
    shares = (run["shares"][:, 1:] + run["shares"][:, :-1]) / 2
    # Every interval counts alike, however strong its noise.
    ratio = run["noise"] / shares
    ratio /= ratio[..., soft(ratio.shape[-1])].mean(axis=-1, keepdims=True)
    return np.asarray(ratio.mean(axis=1))


def growth(run: Run) -> np.ndarray:
    """Largest trace of the curvature over that before training, (S,)."""
    return np.asarray(run["trace"].max(axis=1) / run["trace"][:, 0])


def participation(run: Run) -> np.ndarray:
    """Share of directions that the curvature has where its trace is largest, (S,)."""
    largest = run["trace"].argmax(axis=1)[:, None]
    return np.take_along_axis(run["participation"], largest, axis=1)[:, 0]


def same_shares(run: Run) -> np.ndarray:
    """Smallest cosine over training of the curvature's components with those before,
    (S,)."""
    shares = run["shares"] / np.linalg.norm(run["shares"], axis=-1, keepdims=True)
    return np.asarray((shares @ shares[:, 0, :, None])[..., 0].min(axis=1))


def results(arrays: Arrays) -> list[dict[str, Any]]:
    """For each run what was measured, and how each law agrees with it at the end."""
    rows = []
    for name, run in trained.measured(arrays).items():
        numbers = {
            "accuracy": run["accuracy"][:, -1, 0],
            "growth": growth(run),
            "participation": participation(run),
            "same_shares": same_shares(run),
            "unseen": unseen(run),
            "noise": np.std(np.log(noise_over_curvature(run)), axis=-1),
        }
        for law in LAWS:
            numbers[law] = correlation(run, law)[:, -1]
            numbers[f"{law}, size"] = size(run, law)[:, -1]
        courses = {
            "drive": drive(run),
            "law": correlation(run, "law"),
            "law, size": size(run, "law"),
            "trace": run["trace"],
        }
        rows.append(
            {"run": trained.difference(name, run.config), "name": name}
            | {"turning": frame.finite([turning(run)])[0]}
            | {key: frame.spread(values) for key, values in numbers.items()}
            | {
                "times": run["times"][0].tolist(),
                "courses": {
                    key: frame.finite(values.mean(axis=0))
                    for key, values in courses.items()
                },
            }
        )
    return rows


def checks(arrays: Arrays) -> list[frame.Check]:
    """All checks."""
    runs = trained.measured(arrays)
    found: list[frame.Check] = []
    for name, run in runs.items():
        found += _of_run(
            trained.difference(name, run.config), run, shuffled=name == "shuffled"
        )
    base = runs["base"]
    for name, run in runs.items():
        if name.split()[0] != "images":
            continue
        ratio = _common_drive(run, base)
        found.append(
            frame.check(
                "drive at the same learning rate times steps, over the base's,"
                f" {trained.difference(name, run.config)}",
                ratio,
                group="drive with other numbers of images",
                at_least=IMAGES[0],
                at_most=IMAGES[1],
            )
        )
    return found


def _common_drive(run: Run, base: Run) -> float:
    """Root mean square drive of a run over that of the base, in the second quarter of
    the base's training."""
    middles = [(one["times"][0, 1:] + one["times"][0, :-1]) / 2 for one in (run, base)]
    quarter = _quarter(base)
    squares = [
        np.diagonal(one["autocovariance"], axis1=1, axis2=2).mean(axis=0)
        for one in (run, base)
    ]
    at = middles[1][quarter]
    own = np.interp(at, middles[0], squares[0])
    return float(np.sqrt(max(own.mean(), 0) / squares[1][quarter].mean()))


def _of_run(words: str, run: Run, *, shuffled: bool) -> list[frame.Check]:
    law, other = (correlation(run, name).mean(axis=0) for name in ("law", "one rate"))
    seen: dict[str, Any] = (
        {"at_most": OF_SHUFFLED}
        if shuffled
        else {"at_least": UNSEEN[0], "at_most": UNSEEN[1]}
    )
    place = ", shuffled labels" if shuffled else ""
    return [
        frame.check(
            f"shape of the law, {words}, lowest of all intervals",
            law.min(),
            at_least=SHAPE,
        ),
        frame.check(
            f"size of the law, {words}, at the end",
            size(run, "law")[:, -1].mean(),
            at_least=SIZE[0],
            at_most=SIZE[1],
        ),
        frame.check(
            f"the law over one rate for all filters, {words}, correlation at the end",
            law[-1] - other[-1],
            above=0.0,
        ),
        frame.check(
            f"log of noise over curvature, {words}, s.d. over components",
            np.std(np.log(noise_over_curvature(run).mean(axis=0))),
            at_most=NOISE,
        ),
        frame.check(
            f"curvature's components against those before training, {words}, cosine",
            same_shares(run).mean(),
            at_least=SAME,
        ),
        frame.check(
            f"growth of the curvature, {words}", growth(run).mean(), at_least=GROWTH
        ),
        frame.check(
            f"share of directions that the curvature has, {words}",
            participation(run).mean(),
            at_most=FEW,
        ),
        frame.check(
            f"drive of unseen images over that of the training images, {words}",
            unseen(run).mean(),
            group=f"drive of unseen images over that of the training images{place}",
            **seen,
        ),
    ]
