"""First layers made from the closed form, against drawn ones (ours;
docs/initialisation.md).

    python -m experiments initialisation
    python -m experiments initialisation --preset smoke

SmallCNN, with and without batch norm, begins with a first layer that is drawn from He's
distribution, or made of the principal components of the training patches with the
weights of whitening, of regularised whitening, of the closed form at a time, or with
equal weights. It learns, learns slowly, or is frozen. All arms have the same sum of
squared weights, other weights, and batches. Each has the learning rate of one grid that
is best for it on other seeds.

What is compared is the loss on all training images after a fixed number of steps, and
how many steps it takes to reach the same loss. Groups of networks are kept in
<out>/runs/initialisation as they are finished; killed and started again, the experiment
continues with the others.

Writes <out>/initialisation/<dataset>/{config.json, arrays.npz, summary.json,
initialisation.png, .pdf}.
"""

from typing import Any

import numpy as np

from experiments import frame
from experiments.beyond.initialisation.figures import draw
from experiments.beyond.initialisation.settings import (
    NAME,
    NETWORKS,
    Arm,
    Settings,
    arms,
    candidates,
    resolve,
)
from experiments.beyond.initialisation.training import (
    Data,
    load,
    profile,
    trained_group,
)
from experiments.beyond.initialisation.verdicts import checks, results
from experiments.frame import Arrays


def main(settings: Settings) -> None:
    """Ours: first layers made from the closed form, against drawn ones."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """ "variance" (d,) of the patches, "rates", "times", and for each network and arm
    "<network>/<arm>/" and what `trained_group` returns with, beside it: "tried"
    (candidates, rates, seeds), the final losses by which "rate" and "value", epsilon or
    time, were chosen; and "profile" (d,), the weights of the components, NaN where the
    filters are drawn."""
    data = load(settings)
    arrays: Arrays = {
        "variance": np.asarray(data.spectrum.variance),
        "rates": np.array(settings.rates),
        "times": np.array(settings.times),
    }
    for network in NETWORKS:
        for name, arm in arms(settings).items():
            print(f"{network}, {name}", flush=True)
            found = _of_arm(network, name, arm, data, settings)
            arrays |= {f"{network}/{name}/{key}": value for key, value in found.items()}
    return arrays


def _of_arm(
    network: str, name: str, arm: Arm, data: Data, settings: Settings
) -> Arrays:
    options = candidates(arm, settings)
    tried = _tried(network, options, data, settings)
    best, place = 0, 0
    if tried.size:
        mean = tried.mean(axis=-1)
        best, place = np.unravel_index(mean.argmin(), mean.shape)
    chosen, rate = options[best], settings.rates[place]
    found = trained_group(
        chosen,
        rate,
        data,
        settings,
        network=network,
        seed=settings.seed,
        seeds=settings.seeds,
        records=settings.records,
    )
    if not np.isfinite(found["loss"]).all():
        raise ValueError(
            f"networks of {name!r} ({network}) diverge at the rate {rate:g} that was"
            " best on other seeds; give smaller --rates."
        )
    d = len(data.spectrum.variance)
    drawn = arm.filters == "drawn"
    return found | {
        "tried": tried,
        "rate": np.array(rate),
        "value": np.array(chosen.value),
        "profile": (
            np.full(d, np.nan) if drawn else profile(chosen, data.spectrum.variance)
        ),
    }


def _tried(
    network: str, options: list[Arm], data: Data, settings: Settings
) -> np.ndarray:
    """Final losses (options, rates, seeds) on other seeds than those that are compared;
    of no seeds where there is nothing to choose."""
    if len(options) == len(settings.rates) == 1:
        return np.empty((1, 1, 0))
    losses = [
        trained_group(
            option,
            rate,
            data,
            settings,
            network=network,
            seed=settings.rate_seed,
            seeds=settings.rate_seeds,
            records=(),
        )["loss"][:, -1]
        for option in options
        for rate in settings.rates
    ]
    return np.reshape(losses, (len(options), len(settings.rates), -1))


def summary(arrays: Arrays) -> dict[str, Any]:
    """What each arm reached, beside He's; and the checks."""
    return {"results": results(arrays), "checks": checks(arrays)}


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]

    def with_error(value: dict[str, float], digits: int = 3) -> str:
        return f"{value['mean']:.{digits}f} ± {value['error']:.{digits}f}"

    columns = {
        "network": [row["network"] for row in rows],
        "first layer": [row["arm"] for row in rows],
        "rate": [f"{row['rate']:g}" + "*" * row["at_the_edge"] for row in rows],
        "loss": [frame.number(row["loss"]) for row in rows],
        "minus He's": [with_error(row["difference"]) for row in rows],
        "steps over He's": [with_error(row["steps"], 2) for row in rows],
        "accuracy": [frame.number(row["accuracy"]) for row in rows],
        "moved": [f"{row['moved']['mean']:.2f}" for row in rows],
    }
    note = (
        "loss and accuracy on all training images at the end, ± standard deviation over"
        " networks; differences from the same networks with He's first layer, ±"
        " standard error; steps until the higher of both final losses is reached, over"
        " those of He's, geometric mean ± standard error; moved: change of the first"
        " kernel over its size before; *: at an end of the grid of rates"
    )
    return frame.Table(columns, note)
