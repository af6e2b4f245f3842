"""What makes the signal that flows back to the first layer white (ours;
docs/prediction.md).

    python -m experiments whiteness
    python -m experiments whiteness --preset smoke

Where what flows back to the first layer is white over locations, the curvature of each
filter is a moment of single patches, which no assumption on the images is needed for.
VGG11, ResNet18 and SmallCNN of several depths keep all of batch norm, its mean or its
scale alone, or nothing of it. For each the whiteness is measured before training, and
worked out from the gates of its layers alone. Blocks of the curvature of SmallCNN are
compared with the moments of patches.

Writes <out>/whiteness/<dataset>/{config.json, arrays.npz, summary.json, whiteness.png,
.pdf}.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

import linear_cnn
import theory
from experiments import frame, trained
from experiments.beyond.whiteness import recursion
from experiments.beyond.whiteness.figures import draw
from experiments.beyond.whiteness.networks import (
    Settled,
    make_deep,
    make_small,
    settled,
)
from experiments.beyond.whiteness.settings import (
    DEEP,
    NAME,
    NORMS,
    Settings,
    resolve,
    small,
)
from experiments.beyond.whiteness.verdicts import checks, results
from experiments.frame import Arrays


def main(settings: Settings) -> None:
    """Ours: what makes the signal that flows back to the first layer white."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """What is measured of all networks.

    Returns:
      of SmallCNN "layers"; for each network "<network>/locations" (), of which the mean
      is taken; for each part of batch norm "<network>/<norm>/" "measured" (S,), the
      whiteness, and "expected" (S, L), that of the recursion from the mean down to the
      second layer; for each depth of SmallCNN "blocks/<layers>/" "norm" and "plain",
      with and without batch norm, "cosines", "traces" and "moment_traces" (S, K).
    """
    pixels, labels, _ = frame.inputs.load(settings)
    images = linear_cnn.normalize_channels(pixels)
    keys = jax.random.split(jax.random.key(settings.seed), settings.seeds)
    arrays: Arrays = {"layers": np.array(settings.layers)}
    makers = {name: partial(make_deep, name, settings) for name in DEEP} | {
        small(layers): partial(make_small, layers, settings)
        for layers in settings.layers
    }
    for network, make in makers.items():
        for norm in NORMS:
            print(f"{network}, {NORMS[norm]}", flush=True)
            found = []
            for index, key in enumerate(keys):
                random = np.random.default_rng((settings.seed, index))
                one = settled(make(key), norm, images, random)
                found.append(_of_signal(one, images))
                arrays[f"{network}/locations"] = np.array(np.prod(one.size))
            arrays |= _stacked(f"{network}/{norm}", found)
    for layers in settings.layers:
        for kind, batch_norm in (("norm", True), ("plain", False)):
            print(f"curvature of {small(layers)}, {kind}", flush=True)
            found = []
            for key in keys:
                network = make_small(layers, settings, key)
                if not batch_norm:
                    # With the weights of the other.
                    random = np.random.default_rng(settings.seed)
                    network = settled(network, "none", images, random).network
                found.append(
                    _of_curvature(network, images, labels, batch_norm=batch_norm)
                )
            arrays |= _stacked(f"blocks/{layers}/{kind}", found)
    return arrays


def _stacked(name: str, found: list[Arrays]) -> Arrays:
    return {f"{name}/{key}": np.stack([one[key] for one in found]) for key in found[0]}


def _of_signal(made: Settled, images: np.ndarray) -> Arrays:
    with warnings.catch_warnings():
        # Whiteness above its bound is a result here.
        warnings.simplefilter("ignore", UserWarning)
        signal = linear_cnn.backpropagated_signal(
            made.network, images, loss="cross_entropy"
        )
    moments = [recursion.of_mean(*made.size)]
    for steps in reversed(made.layers):
        moments.append(recursion.back(steps, moments[-1]))
    return {
        "measured": np.array(signal.whiteness),
        "expected": np.array([recursion.whiteness(moment) for moment in moments]),
    }


def _of_curvature(
    network: Any, images: np.ndarray, labels: np.ndarray, *, batch_norm: bool
) -> Arrays:
    """The blocks of single filters against the moments of their patches."""
    tangent = linear_cnn.tangent_moments(
        network,
        images,
        labels,
        loss="cross_entropy",
        bias=not batch_norm,
        blocks=True,
    )
    blocks = np.asarray(tangent.curvature, np.float64)
    filters = np.asarray(network.conv1.kernel[...], np.float64)
    moments = np.asarray(
        theory.filter_curvature(images, filters, pool=2, batch_norm=batch_norm)
    )
    return {
        "cosines": trained.cosines(blocks, moments),
        "traces": np.einsum("kaa->k", blocks),
        "moment_traces": np.einsum("kaa->k", moments),
    }


def summary(arrays: Arrays) -> dict[str, Any]:
    """The whiteness of each network, and the checks."""
    return {"results": results(arrays), "checks": checks(arrays)}


def table(summary: Mapping[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "network": [row["network"] for row in rows],
        "locations": [str(row["locations"]) for row in rows],
        "kept of batch norm": [row["norm"] for row in rows],
        "whiteness": [frame.number(row["measured"]) for row in rows],
        "expected": [frame.number(row["expected"]) for row in rows],
    }
    note = (
        "whiteness of what flows back to the second layer's input before training, 1 if"
        " locations do not correlate, ± standard deviation over networks; expected: by"
        " the recursion from the gates; locations: of which the network takes the mean"
    )
    return frame.Table(columns, note)
