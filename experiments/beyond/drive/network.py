"""What is measured of one network along its training, and what the law makes of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import linear_cnn
import theory
from experiments import trained
from experiments.beyond.drive import law
from experiments.beyond.drive.settings import Settings
from experiments.beyond.drive.training import AGAIN, OWN, UNSEEN, Record, follow
from experiments.frame import Arrays

# Of `law`, chosen on a pilot: one network at each of two learning rates.
FORGETTING = 0.1
POWER = 0.5
DRAWS = 128
LAWS = ("law", "linear", "one rate", "start")


def soft(components: int) -> slice:
    """Those of so many components, of small variance, that are hardly pulled back:
    there the drive is seen as it is. The last 15 of 27."""
    return slice(components * 4 // 9, None)


class State(NamedTuple):
    """Where a network is, in principal components of the patches.

    Attributes:
      change: of the weights since the start, (d, K).
      gradients: mean since the last state, (3, d, K), as in `training.Record`.
      accuracy: (3,).
      curvature, gradient_moment: (d K, d K), components before filters.
    """

    change: np.ndarray
    gradients: np.ndarray
    accuracy: np.ndarray
    curvature: np.ndarray
    gradient_moment: np.ndarray


def measured(
    run: trained.Run, data: trained.Data, index: int, settings: Settings
) -> Arrays:
    """Of network `index` of a run, over T intervals and d components:

    "times" (T + 1,), learning rate times steps; "profile" (T, d) of the change, and for
    each of LAWS what it predicts, "<law>" (T, d); "accuracy" (T, 3); of the curvature
    "trace", "participation" (T + 1,), the share of directions that it has, and "shares"
    (T + 1, d) of the components; of the gradients "noise" (T, d), its variance in one
    step, "autocovariance" (T, T) of the drive in the soft components, over their share
    of the curvature, and "unseen" (T,), its product with the drive of unseen images.
    """
    spectrum = theory.patch_spectrum(data.images, trained.KERNEL_SIZE)
    components = np.asarray(spectrum.components)
    some = trained.chosen(data, settings.curvature_images)
    records = list(follow(run, data, index, settings.intervals))
    first = _kernel(records[0])
    states = [_state(record, first, components, data, some) for record in records]
    steps = np.array([record.steps for record in records])
    lengths = run.learning_rate * steps[1:]
    noise = run.learning_rate / run.batch_size
    shares = np.stack([_shares(state.curvature, first) for state in states])
    between = (shares[1:] + shares[:-1]) / 2
    unheld = soft(len(components))
    scaled = np.stack(
        [
            state.gradients[:, unheld] / np.sqrt(share[unheld, None])
            for state, share in zip(states[1:], between, strict=True)
        ]
    )
    autocovariance = _autocovariance(scaled)
    found = {
        "times": run.learning_rate * np.cumsum(steps),
        "profile": np.sqrt(np.mean([state.change**2 for state in states[1:]], axis=-1)),
        "accuracy": np.stack([state.accuracy for state in states[1:]]),
        "trace": np.array([np.trace(state.curvature) for state in states]),
        "participation": np.array([_participation(s.curvature) for s in states]),
        "shares": shares,
        "noise": np.stack(
            [
                np.var(state.gradients[[OWN, AGAIN]], axis=0, ddof=1).mean(axis=-1)
                * count
                for state, count in zip(states[1:], steps[1:], strict=True)
            ]
        ),
        "autocovariance": autocovariance,
        "unseen": np.mean(
            (scaled[:, OWN] + scaled[:, AGAIN]) / 2 * scaled[:, UNSEEN], axis=(1, 2)
        ),
    }
    return found | _predicted(states, lengths, noise, between, autocovariance)


def _kernel(record: Record) -> np.ndarray:
    """(d, K)."""
    kernel = np.asarray(record.network.conv1.kernel[...], np.float64)  # type: ignore[attr-defined]
    return kernel.reshape(-1, kernel.shape[-1])


def _state(
    record: Record,
    first: np.ndarray,
    components: np.ndarray,
    data: trained.Data,
    some: np.ndarray,
) -> State:
    tangent = linear_cnn.tangent_moments(
        record.network, data.images[some], data.labels[some], loss="cross_entropy"
    )
    moments = [
        np.einsum(
            "di,kdle,ej->ikjl", components, moment, components, optimize=True
        ).reshape(first.size, first.size)
        for moment in (tangent.curvature, tangent.gradient_moment)
    ]
    gradients = record.gradients.reshape(3, *first.shape)
    return State(
        components.T @ (_kernel(record) - first),
        np.einsum("di,gdk->gik", components, gradients),
        record.accuracy,
        *moments,
    )


def _shares(curvature: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of the components in the trace of the curvature, (d,)."""
    found = np.diagonal(curvature).reshape(first.shape).sum(axis=1)
    return np.asarray(found / found.sum())


def _participation(curvature: np.ndarray) -> float:
    """(tr H)^2 / tr H^2 over the number of directions: 1 if all have one curvature."""
    return float(np.trace(curvature) ** 2 / (curvature**2).sum() / len(curvature))


def _autocovariance(scaled: np.ndarray) -> np.ndarray:
    """Of the drive, (T, T), from gradients of independent batches (T, 3, ...), so that
    the noise of none is in it."""
    flat = scaled.reshape(*scaled.shape[:2], -1)
    size = flat.shape[-1]
    across = flat[:, OWN] @ flat[:, AGAIN].T / size
    alike = (flat[:, OWN] @ flat[:, OWN].T + flat[:, AGAIN] @ flat[:, AGAIN].T) / (
        2 * size
    )
    across = (across + across.T) / 2
    # At different times all four products are of independent batches.
    found = (across + alike) / 2
    np.fill_diagonal(found, np.diagonal(across))
    return np.asarray(found)


def _predicted(
    states: Sequence[State],
    lengths: np.ndarray,
    noise: float,
    shares: np.ndarray,
    autocovariance: np.ndarray,
) -> Arrays:
    """Profiles (T, d) by LAWS. "law": the drive has a power of the curvature, which
    forgets; "linear": it is white over filters, and nothing is forgotten; beyond that,
    "one rate": all filters' weights of a component are pulled back alike, and "start":
    by the curvature before training."""
    filters = states[0].change.shape[1]
    intervals: dict[str, list[law.Interval]] = {name: [] for name in LAWS}
    start = np.linalg.eigh(states[0].curvature)
    for before, after, length, share in zip(
        states[:-1], states[1:], lengths, shares, strict=True
    ):
        curvature = (before.curvature + after.curvature) / 2
        moment = noise * (before.gradient_moment + after.gradient_moment) / 2
        # Fewer images than weights leave it without full rank.
        root = np.linalg.cholesky(moment + 1e-3 * np.diag(np.diagonal(moment)))
        scale = np.sqrt(np.repeat(share, filters))
        white = np.diag(scale)
        own = np.linalg.eigh(curvature)
        mean = np.diagonal(curvature).reshape(-1, filters).mean(axis=1)
        for name, rates, modes, drive in (
            ("law", *own, _coloured(curvature, scale, filters)),
            ("linear", *own, white),
            ("one rate", np.repeat(mean, filters), None, white),
            ("start", *start, white),
        ):
            intervals[name].append(law.Interval(length, rates, modes, drive, root))
    found = {}
    for name, given in intervals.items():
        drawn = law.draws(
            given,
            autocovariance,
            forgetting=FORGETTING if name == "law" else 0.0,
            count=DRAWS,
            random=np.random.default_rng(0),
        )
        squares = [(change**2).reshape(len(share), -1).mean(axis=1) for change in drawn]
        found[name] = np.sqrt(squares)
    return found


def _coloured(curvature: np.ndarray, scale: np.ndarray, filters: int) -> np.ndarray:
    """A root of the covariance of the drive that is a power of the curvature, both in
    units of the components' shares, with unit mean in the soft components."""
    rates, modes = np.linalg.eigh(curvature / np.outer(scale, scale))
    powers = np.maximum(rates, 0) ** POWER
    energy = (modes**2) @ powers
    by_component = energy.reshape(-1, filters)
    powers /= by_component[soft(len(by_component))].mean()
    return scale[:, None] * ((modes * np.sqrt(powers)) @ modes.T)
