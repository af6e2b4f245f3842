"""What the paper does not have: simulation over theory (ours;
docs/beyond_the_paper.md).

    python -m experiments beyond_the_paper
    python -m experiments beyond_the_paper --preset cpu --dataset cifar10

Linear CNNs are trained as the paper's theory does not say: with momentum, weight decay
and schedules, by Adam, in minibatches, with softmax cross-entropy, and with a head that
learns. Each is held against the closed form that it has, or against the plainest one
where it has none. Bounds were committed before the first run.

Writes <out>/beyond_the_paper/<dataset>/{config.json, arrays.npz, summary.json, and
beyond_the_paper and beyond_the_paper_limits, each .png and .pdf}.
"""

from typing import Any

import jax

from experiments import frame
from experiments.beyond.beyond_the_paper import (
    batches,
    classes,
    heads,
    optimizers,
    problem,
)
from experiments.beyond.beyond_the_paper.figures import draw
from experiments.beyond.beyond_the_paper.results import results
from experiments.beyond.beyond_the_paper.settings import NAME, Settings, resolve
from experiments.beyond.beyond_the_paper.verdicts import checks
from experiments.frame import Arrays

STAGES = {
    "optimizers": optimizers.run,
    "batches": batches.run,
    "classes": classes.run,
    "heads": heads.run,
}


def main(settings: Settings) -> None:
    """Ours: momentum, weight decay, minibatches, cross-entropy and trained heads."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """What the stages make, by "<stage>/" and their names."""
    made = problem.load(settings)
    arrays: Arrays = {}
    keys = jax.random.split(jax.random.key(settings.seed), len(STAGES))
    for key, (name, stage) in zip(keys, STAGES.items(), strict=True):
        found = stage(settings, made, key)
        arrays |= {f"{name}/{field}": value for field, value in found.items()}
    return arrays


def summary(arrays: Arrays) -> dict[str, Any]:
    """What each way of training does to the plain form, and the checks."""
    return {"results": results(arrays), "checks": checks(arrays)}


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]

    def cells(key: str, digits: int) -> list[str]:
        return ["" if row[key] is None else f"{row[key]:.{digits}g}" for row in rows]

    columns = {
        "trained": [row["trained"] for row in rows],
        "closed form": [row["form"] for row in rows],
        "its error": cells("error", 2),
        "plain form": cells("plain", 3),
        "time fitted": cells("fitted", 3),
        "worst step": cells("worst", 3),
        "correlation": cells("correlation", 4),
        "holds until": cells("until", 3),
    }
    note = (
        "its error: of single weights over their largest change; in minibatches of the"
        " rms profile at the end, in the worst component; with cross-entropy of the"
        " first step; plain form: the factor, rms over components, between the trained"
        " profile at the end and the form without these options, full batches at the"
        " same learning rate times steps; time fitted: the same with time and size of"
        " the plain form fitted, and at the step where that is worst; correlation: of"
        " the profile at the end with the plain form (of Adam's with the fitted one),"
        " the linearised one, or that of a fixed head; holds until: the step at which"
        " the latter two are 10 % off"
    )
    return frame.Table(columns, note)
