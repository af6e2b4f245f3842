"""The results in numbers, and the checks.

All bounds stood here before the first network of these seeds was made; one network of
each kind, of another seed, had been seen.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import frame
from experiments.beyond.whiteness.settings import DEEP, NORMS, small

WHITE = (0.8, 1.2)
NOT_WHITE = 1.5  # from which on `linear_cnn.backpropagated_signal` warns
MEAN_LEFT = 1.2  # whiteness without a norm over that with the mean removed
# Of the log of measured over expected whiteness, where norms remove the mean and where
# they leave it.
RECURSION = {True: 0.2, False: 0.5}
SAME = 0.99  # cosine of the curvature's blocks with the moments of patches
RATES = {"norm": 0.95, "plain": 0.5}  # correlation of the logs of their traces
BLOCKS = {"norm": "with batch norm", "plain": "without"}
RESNET = "ResNet18"

Arrays = Mapping[str, np.ndarray]


def networks(arrays: Arrays) -> list[str]:
    """All that were made."""
    return [*DEEP, *(small(layers) for layers in arrays["layers"])]


def measured(arrays: Arrays, network: str, norm: str) -> np.ndarray:
    """Whiteness, (S,)."""
    return arrays[f"{network}/{norm}/measured"]


def expected(arrays: Arrays, network: str, norm: str) -> np.ndarray:
    """That of the recursion at the input of the second layer, (S,)."""
    return np.asarray(arrays[f"{network}/{norm}/expected"][:, -1])


def at_one_location(arrays: Arrays, network: str) -> bool:
    """Whether pools have left one location for the mean."""
    return int(arrays[f"{network}/locations"]) == 1


def cosines(arrays: Arrays, layers: int, kind: str) -> np.ndarray:
    """Median over filters of SmallCNN, (S,)."""
    return np.asarray(np.median(arrays[f"blocks/{layers}/{kind}/cosines"], axis=-1))


def rates(arrays: Arrays, layers: int, kind: str) -> float:
    """Correlation over filters of the logs of the traces of blocks and moments, a mean
    over networks."""
    names = (f"blocks/{layers}/{kind}/{name}" for name in ("traces", "moment_traces"))
    pairs = zip(*(np.log(arrays[name]) for name in names), strict=True)
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


def results(arrays: Arrays) -> list[dict[str, Any]]:
    """For each network and each part of batch norm its whiteness, and the expected
    one."""
    return [
        {
            "network": network,
            "locations": int(arrays[f"{network}/locations"]),
            "norm": words,
            "measured": frame.spread(measured(arrays, network, norm)),
            "expected": frame.spread(expected(arrays, network, norm)),
        }
        for network in networks(arrays)
        for norm, words in NORMS.items()
    ]


def checks(arrays: Arrays) -> list[frame.Check]:
    """All checks."""
    found: list[frame.Check] = []
    for network in networks(arrays):
        for norm, words in NORMS.items():
            found += _of_network(arrays, network, norm, words)
    ratio = measured(arrays, RESNET, "none").mean()
    ratio /= measured(arrays, RESNET, "mean").mean()
    found.append(
        frame.check(
            f"whiteness without a norm over that with the mean removed, {RESNET}",
            ratio,
            at_least=MEAN_LEFT,
        )
    )
    first, *_, last = arrays["layers"]
    for kind, words in BLOCKS.items():
        deep, shallow = (cosines(arrays, n, kind).mean() for n in (last, first))
        found += [
            frame.check(
                f"blocks of the curvature against moments of patches, {small(last)}"
                f" {words}, cosine",
                deep,
                at_least=SAME,
            ),
            frame.check(
                f"the same over that of {first} layers, {words}",
                deep - shallow,
                above=0.0,
            ),
        ]
    deep_rates = {kind: rates(arrays, last, kind) for kind in BLOCKS}
    text = f"log traces of blocks and moments, {small(last)}"
    found += [
        frame.check(
            f"{text} with batch norm, correlation over filters",
            deep_rates["norm"],
            at_least=RATES["norm"],
        ),
        frame.check(
            f"{text} without, correlation over filters",
            deep_rates["plain"],
            at_most=RATES["plain"],
        ),
    ]
    return found


def _of_network(
    arrays: Arrays, network: str, norm: str, words: str
) -> list[frame.Check]:
    own = measured(arrays, network, norm)
    bounds: dict[str, Any] = {}
    without_mean = norm in ("full", "gain", "mean")
    if at_one_location(arrays, network):
        bounds = {"at_least": WHITE[0], "at_most": WHITE[1]}
        why = "whiteness where pools leave one location"
    elif network == RESNET:
        why = "whiteness of ResNet18 with the mean removed"
        bounds = {"at_least": WHITE[0], "at_most": WHITE[1]} if without_mean else {}
    else:
        bounds, why = {"above": NOT_WHITE}, "whiteness where they leave several"
    log_ratio = np.log(own / expected(arrays, network, norm)).mean()
    left = "removed" if without_mean else "left"
    found = [
        frame.check(
            f"log of measured over expected whiteness, {network}, {words}",
            log_ratio,
            group=f"log of measured over expected whiteness, the mean {left}",
            at_least=-RECURSION[without_mean],
            at_most=RECURSION[without_mean],
        )
    ]
    if bounds:
        title = f"whiteness, {network}, {words}"
        found.insert(0, frame.check(title, own.mean(), group=why, **bounds))
    return found
