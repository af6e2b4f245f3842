"""What is measured of a network before its training, and the predictions that follow
from it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

import linear_cnn
import theory
from experiments import trained
from experiments.beyond.prediction.forms import (
    filter_moments,
    has_batch_norm,
    padded,
)
from experiments.beyond.prediction.settings import MULTIPLES, Settings
from experiments.frame import Arrays

# To be raised by a change of the code after which the same settings give other arrays.
FORMAT = 1


# What of `at_start` has an axis of times.
TIMED = ("predicted", "linearised")


class Batches(NamedTuple):
    """How a run goes through its images, on which the noise of its steps depends."""

    size: int
    learning_rate: float


def of_runs(
    named: Mapping[str, trained.Run],
    data: Mapping[str, trained.Data],
    measured: Mapping[str, trained.MeasuredRun],
    settings: Settings,
) -> Iterator[tuple[str, Arrays]]:
    """For each run `at_start` of all its networks, with a leading axis of them, and
    "times" (R,) of its records but the first.

    Runs that begin alike are measured once, and what was measured is kept beside the
    store's runs.
    """
    times = {
        name: run.learning_rate
        * measured[name].epochs[1:]
        * (len(data[name].labels) // run.batch_size)
        for name, run in named.items()
    }
    begin = {name: _begin(run, data[name]) for name, run in named.items()}
    made: set[str] = set()
    for name, run in named.items():
        alike = [other for other in named if begin[other] == begin[name]]
        every = np.unique(np.concatenate([times[other] for other in alike]))
        batches = sorted({_batches(named[other]) for other in alike})
        place, found = batches.index(_batches(run)), []
        for index in range(run.seeds):
            print(f"  network {index + 1} of {run.seeds}", flush=True)
            asked = index, every, batches, settings, made
            known = _kept(run, data[name], measured[name], *asked)
            own = np.searchsorted(every, times[name])
            known |= {key: known[key][own] for key in TIMED}
            found.append(known | {"noise": known["noise"][place, own]})
        stacked = {key: np.stack([one[key] for one in found]) for key in found[0]}
        yield name, {"times": times[name]} | stacked


def _begin(run: trained.Run, data: trained.Data) -> dict[str, Any]:
    """What the beginning of a run depends on."""
    return {
        "network": asdict(run.network),
        "seed": run.seed,
        "checksum": data.checksum,  # of pixels; the rest is what was done to them
        "mean": np.asarray(data.mean).tolist(),
        "std": np.asarray(data.std).tolist(),
    }


def _batches(run: trained.Run) -> Batches:
    return Batches(run.batch_size, run.learning_rate)


def _kept(
    run: trained.Run,
    data: trained.Data,
    measured: trained.MeasuredRun,
    index: int,
    times: np.ndarray,
    batches: Sequence[Batches],
    settings: Settings,
    made: set[str],
) -> Arrays:
    """`at_start` of one network, from its file if there is one; `made` are those that
    need not be made afresh."""
    content = _begin(run, data) | {
        "format": FORMAT,
        "index": index,
        "times": times.tolist(),
        "batches": batches,
        "multiples": MULTIPLES.tolist(),
        "curvature_images": settings.curvature_images,
    }
    name = trained.identifier(content)

    def make() -> Arrays:
        network = trained.initial_network(run, data, index)
        size = settings.curvature_images
        known = run.network, times, batches, measured.components, size
        return at_start(network, data, *known)

    fresh = settings.fresh and name not in made
    found = trained.kept(settings.store, "starts", content, make, fresh=fresh)
    made.add(name)
    # In one program with others, as it was trained, rounding may differ.
    if not np.allclose(found["kernel"], measured.conv1[index, 0], rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"network {index} of the stored run does not begin with the weights that"
            " its seed gives now; train it again with --fresh."
        )
    return found


def at_start(
    network: nnx.Module,
    data: trained.Data,
    kind: trained.Network,
    times: np.ndarray,
    batches: Sequence[Batches],
    components: np.ndarray,
    curvature_images: int,
) -> Arrays:
    """The curvature of the first layer, and what it predicts.

    Args:
      data: what the network will be trained on.
      kind: what it is.
      times: learning rate times steps, (R,).
      batches: for which the noise is worked out.
      components: of the patches, (d, d).
      curvature_images: so many of the training images are measured on.

    Returns:
      Of K filters of d weights:
      "kernel" (kh, kw, C, K), before training; "predicted", profiles (R, G, d) at
      MULTIPLES of `times`, nothing fitted; "linearised" (R, K, d), the change that the
      gradient at the start would make; "noise" (batches, R, d), profiles of what the
      noise of the steps adds; "moments" (K, d', d'), the patch moments of the filters,
      d' = d + 1 where the bias learns; "traces" and "moment_traces" (K,), of the blocks
      of single filters and of their moments, and their "cosines" (K,); "trace" and
      "drive_ratio" (), of the curvature, and N |b|^2 over it.
    """
    count, some = len(data.labels), trained.chosen(data, curvature_images)
    images, labels = data.images[some], data.labels[some]
    measure: dict[str, Any] = {
        "loss": "cross_entropy",
        "bias": not has_batch_norm(kind),
    }
    tangent = linear_cnn.tangent_moments(network, images, labels, **measure)
    curvature = np.asarray(tangent.curvature, np.float64)
    drive = np.asarray(
        linear_cnn.tangent_moments(
            network, data.images, data.labels, labels="given", blocks=True, **measure
        ).drive,
        np.float64,
    )
    d, entries = len(components), drive.shape[1]
    basis = padded(components, entries)
    # Gradient flow, in which only the product of rate and steps counts.
    dynamics = theory.quadratic_descent(curvature, drive, 1.0, continuous=True)
    blocks = np.einsum("kakb->kab", curvature)
    kernel: Any = network.conv1.kernel[...]  # type: ignore[attr-defined]
    moments = filter_moments(images, np.asarray(kernel, np.float64), kind)
    traces, moment_traces = (np.einsum("kaa->k", m) for m in (blocks, moments))
    at = times[:, None] * MULTIPLES
    predicted = dynamics.expected_profile(at, basis, count=count)
    found = {
        "kernel": kernel,
        "predicted": predicted,
        "linearised": np.asarray(dynamics.change(times))[..., :d],
        "noise": [
            theory.gradient_noise_profile(
                replace(dynamics, learning_rate=np.asarray(one.learning_rate)),
                times / one.learning_rate,
                basis,
                batch_size=one.size,
                count=count,
            )
            for one in batches
        ],
        "moments": moments,
        "traces": traces,
        "moment_traces": moment_traces,
        "cosines": trained.cosines(blocks, moments),
        "trace": traces.sum(),
        "drive_ratio": count * (drive**2).sum() / traces.sum(),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def by_trace(
    found: Mapping[str, np.ndarray], count: int, variance: np.ndarray
) -> np.ndarray:
    """Predicted profiles (S, R, d) of the paper's formula, whose time is not fitted:
    every filter has the patch variance, scaled to the trace of the curvature.

    Args:
      found: of the networks of a run, as `of_runs` gives it.
      count: of training images.
      variance: of the patches, (d,).
    """
    filters = found["traces"].shape[-1]
    scale = found["trace"] / (filters * variance.sum())
    rates = scale[:, None, None] * variance
    left = -np.expm1(-rates * found["times"][:, None])
    return np.asarray(left / np.sqrt(rates * count))


def by_moments(
    found: Mapping[str, np.ndarray], count: int, components: np.ndarray
) -> np.ndarray:
    """Predicted profiles (S, R, d) with the patch moments of the filters in the place
    of the curvature, and one number taken from it: its trace.

    Args:
      found: of the networks of a run, as `of_runs` gives it.
      count: of training images.
    """
    scale = found["traces"].sum(axis=-1) / found["moment_traces"].sum(axis=-1)
    profiles = [
        np.asarray(
            theory.curvature_profile(
                moments, one * found["times"], padded(components, moments.shape[-1])
            )
        )
        / np.sqrt(one * count)
        for moments, one in zip(found["moments"], scale, strict=True)
    ]
    return np.stack(profiles)


def signals(run: trained.Run, data: trained.Data, count: int) -> Arrays:
    """What flows back to the first layer of the networks of a run before their
    training, on so many of their images.

    Returns:
      each (S,): "whiteness" over locations, correlation of "neighbours", energy at the
      "border" over that inside, and root mean square correlation of different
      "filters".
    """
    images, found = data.images[trained.chosen(data, count)], []
    for index in range(run.seeds):
        with warnings.catch_warnings():
            # Whiteness above its bound is a result here.
            warnings.simplefilter("ignore", UserWarning)
            signal = linear_cnn.backpropagated_signal(
                trained.initial_network(run, data, index), images, loss="cross_entropy"
            )
        lags, y, x = signal.autocorrelation, *np.array(signal.energy.shape) - 1
        different = signal.filter_correlation[
            ~np.eye(len(signal.filter_correlation), dtype=bool)
        ]
        found.append(
            {
                "whiteness": signal.whiteness,
                "neighbours": (lags[y + 1, x] + lags[y, x + 1]) / 2,
                "border": signal.border_energy,
                "filters": np.sqrt(np.mean(different**2)),
            }
        )
    return {key: np.array([one[key] for one in found]) for key in found[0]}
