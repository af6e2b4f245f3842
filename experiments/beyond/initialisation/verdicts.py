"""The results in numbers, and the checks."""

from typing import Any

import numpy as np

from experiments import frame
from experiments.beyond.initialisation.settings import (
    HE,
    NETWORKS,
    REGULARISED,
    time_name,
)
from experiments.frame import Arrays

TITLES = {"plain": "SmallCNN", "norm": "SmallCNN with batch norm"}
ERRORS = 2.0  # standard errors that a claim needs
# By which a finite time may be better than regularised whitening, in final loss.
NO_BETTER = 0.04


def names(arrays: Arrays) -> list[str]:
    """The arms, He's first."""
    return [HE] + [
        key.removeprefix("plain/").removesuffix("/rate")
        for key in arrays
        if key.startswith("plain/") and key.endswith("/rate") and f"/{HE}/" not in key
    ]


def final(arrays: Arrays, network: str, arm: str) -> np.ndarray:
    """The loss on all training images at the end, (S,)."""
    return arrays[f"{network}/{arm}/loss"][:, -1]


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """Mean over networks, and its standard error."""
    return {
        "mean": float(values.mean()),
        "error": float(values.std(ddof=1) / np.sqrt(len(values))),
    }


def steps_to(steps: np.ndarray, loss: np.ndarray, target: float) -> float:
    """When a loss (R,) first was at a target, interpolated between records; at least
    1."""
    after = int(np.argmax(loss <= target))
    if after == 0:
        return 1.0
    share = (loss[after - 1] - target) / (loss[after - 1] - loss[after])
    return max(
        1.0,
        float(steps[after - 1] + share * (steps[after] - steps[after - 1])),
    )


def log_steps(arrays: Arrays, network: str, arm: str) -> np.ndarray:
    """Log of the steps of an arm over those of He's, (S,), to the loss that both reach:
    the higher of the two at the end.

    Where an arm makes no difference its mean is 0, whatever the noise of single losses,
    since both are treated alike.
    """
    steps = arrays[f"{network}/{arm}/steps"]
    courses = (arrays[f"{network}/{name}/loss"] for name in (arm, HE))
    found = []
    for one, he in zip(*courses, strict=True):
        target = max(one[-1], he[-1])
        taken = [steps_to(steps, loss, target) for loss in (one, he)]
        found.append(np.log(taken[0] / taken[1]))
    return np.array(found)


def ratio(logs: np.ndarray) -> dict[str, float]:
    """Geometric mean of steps over He's, and its standard error."""
    found = mean_and_error(logs)
    mean = float(np.exp(found["mean"]))
    return {"mean": mean, "error": mean * found["error"]}


def results(arrays: Arrays) -> list[dict[str, Any]]:
    """For each network and arm: what was chosen, and what came out."""
    rows = []
    for network in NETWORKS:
        he = final(arrays, network, HE)
        for arm in names(arrays):
            prefix = f"{network}/{arm}"
            rate, rates = float(arrays[f"{prefix}/rate"]), arrays["rates"]
            rows.append(
                {
                    "network": TITLES[network],
                    "arm": _title(arrays, network, arm),
                    "rate": rate,
                    "at_the_edge": bool(rate in (rates[0], rates[-1])),
                    "loss": frame.spread(final(arrays, network, arm)),
                    "difference": mean_and_error(final(arrays, network, arm) - he),
                    "steps": ratio(log_steps(arrays, network, arm)),
                    "accuracy": frame.spread(arrays[f"{prefix}/accuracy"][:, -1]),
                    "moved": frame.spread(arrays[f"{prefix}/moved"]),
                }
            )
    return rows


def _title(arrays: Arrays, network: str, arm: str) -> str:
    if arm != REGULARISED:
        return arm
    return f"{arm} {float(arrays[f'{network}/{arm}/value']):g}"


def checks(arrays: Arrays) -> list[frame.Check]:
    """What a pilot on other seeds saw, each with its bound."""
    times = [time_name(float(time)) for time in arrays["times"]]
    found = [
        _difference(arrays, "plain", arm, HE, below=0.0)
        for arm in ("whitening, frozen", "whitening")
    ]
    found += [
        _difference(arrays, network, "whitening, mixed", HE, at_least=0.0)
        for network in NETWORKS
    ]
    found += [
        _check(
            f"final loss of {TITLES[network]}, {time} minus {REGULARISED}",
            mean_and_error(
                final(arrays, network, time) - final(arrays, network, REGULARISED)
            ),
            errors=0.0,
            group="final loss at a finite time minus that of regularised whitening",
            at_least=-NO_BETTER,
        )
        for network in NETWORKS
        for time in times
    ]
    return found + [
        _steps(arrays, network, arm)
        for network in NETWORKS
        for arm in ("whitening", REGULARISED, times[-1])
    ]


def _difference(
    arrays: Arrays, network: str, arm: str, other: str, **bounds: float
) -> frame.Check:
    values = final(arrays, network, arm) - final(arrays, network, other)
    sign = "lower than" if "below" in bounds else "no lower than"
    return _check(
        f"final loss of {TITLES[network]}, {arm} minus {other},"
        f" plus {ERRORS:g} standard errors",
        mean_and_error(values),
        group=f"final loss {sign} that of {other}, {ERRORS:g} standard errors",
        **bounds,
    )


def _steps(arrays: Arrays, network: str, arm: str) -> frame.Check:
    return _check(
        f"log of steps over He's, {TITLES[network]}, {arm}, plus {ERRORS:g} standard"
        " errors",
        mean_and_error(log_steps(arrays, network, arm)),
        group=f"log of steps over He's, plus {ERRORS:g} standard errors",
        below=0.0,
    )


def _check(
    title: str, value: dict[str, float], *, errors: float = ERRORS, **more: Any
) -> frame.Check:
    """A mean, moved by so many of its standard errors, against a bound; the caveat has
    both."""
    return frame.check(
        title,
        value["mean"] + errors * value["error"],
        caveat=f"{value['mean']:+.3f} ± {value['error']:.3f}",
        **more,
    )
