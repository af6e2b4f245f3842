"""What the paper did, and how runs differ from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.frame.checks import Check, check
from experiments.trained.measurements import measured, titles
from experiments.trained.run import network
from experiments.trained.run import titles as titles_of

# What the paper did, as far as it says so; `differences` compares runs with it. Images
# are so many a class.
PAPER = {
    "width": 1.0,
    "dropout": 0.5,
    "batch_size": 256,
    "learning_rate": 0.01,
    "schedule": "constant",
    "momentum": 0.0,
    "weight_decay": 0.0,
}
PAPER_IMAGES_A_CLASS = 5_000
PAPER_NETWORKS = ("VGG11", "VGG13", "VGG16", "VGG19", "ResNet18")
PAPER_EPOCHS = {"true": 30, "shuffled": 100}
# What it reports of the profiles of the change w(t) - w(0), CIFAR-10: mean and spread.
REPORTED: dict[str, tuple[float, ...]] = {
    "formula": (0.94, 0.01),  # Table 3, all classes
    "labels": (0.90, 0.02),  # Table 2
    "seeds": (0.99,),  # Table 1
    "initial": (-0.13, 0.18),  # Table 1
    "shuffled initial": (0.03, 0.22),  # Table 2
}
# Of every network on its training images: a young profile is just lambda, and fits too
# well.
JUDGED_ACCURACY = 0.9


def accuracies(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """For each run the accuracy at its end on training and validation images, and
    whether it can be judged."""
    rows = []
    words = titles(arrays)
    for name, run in measured(arrays).items():
        accuracy = run.accuracy[:, -1]
        row: dict[str, Any] = {
            "run": words[name],
            "training_accuracy": [float(value) for value in accuracy],
            "judged": bool(accuracy.min() >= JUDGED_ACCURACY),
        }
        if "validation_accuracy" in run:
            row["validation_accuracy"] = run["validation_accuracy"][:, -1].tolist()
        rows.append(row)
    return rows


def summarize(
    arrays: Mapping[str, np.ndarray],
    results: Sequence[Mapping[str, Any]],
    checks: Sequence[Check],
    *,
    trained_to_the_end: bool = True,
) -> dict[str, Any]:
    """What every experiment's summary holds: its results and checks, the runs, and how
    they differ from the paper's.

    Unless it is about the course of training, among the checks is that every network
    has learnt its training images.
    """
    rows = accuracies(arrays)
    if not trained_to_the_end:
        rows = [row | {"judged": True} for row in rows]  # whatever they have learnt
    trained = [
        check(
            f"lowest training accuracy, {row['run']}",
            min(row["training_accuracy"]),
            at_least=JUDGED_ACCURACY,
        )
        for row in rows
        if trained_to_the_end
    ]
    configs = {name: run.config for name, run in measured(arrays).items()}
    return {
        "results": results,
        "checks": [*checks, *trained],
        "runs": rows,
        "differs_from_paper": differences(configs),
    }


def differences(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the runs do otherwise than the paper, each with the runs of which it is
    true."""
    found: dict[str, list[str]] = {}
    words = titles_of(configs)
    for name, content in configs.items():
        values = {"schedule": "constant"} | content["network"] | content
        expected: dict[str, Any] = PAPER | {"dataset": "cifar10"}
        if values["dataset"] == "cifar10":
            expected["images"] = PAPER_IMAGES_A_CLASS * len(
                values["classes"] or range(10)
            )
        expected["epochs"] = PAPER_EPOCHS[
            "true" if values["shuffled_labels"] is None else "shuffled"
        ]
        values["network"] = network(content)
        expected["network"] = (
            values["network"]
            if values["network"] in PAPER_NETWORKS
            else PAPER_NETWORKS[0]
        )
        for field, paper in expected.items():
            # None: the network has nothing of the kind.
            if values[field] not in (paper, None):
                text = (
                    f"{field.replace('_', ' ')} {_text(values[field])} (paper:"
                    f" {_text(paper)})"
                )
                found.setdefault(text, []).append(words[name])
    return [
        text + ("" if len(where) == len(configs) else f": {'; '.join(where)}")
        for text, where in found.items()
    ]


def _text(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
