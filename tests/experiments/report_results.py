"""Results as experiments leave them, written by hand, for the tests of the report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import frame
from experiments.frame import disk
from experiments.frame.checks import as_rows
from experiments.paper import iterations, random_labels, theory_vs_simulation

NASTY = "/data/<script>alert(1)<img src=x> & 'more' | \"mine\".npz"
ENVIRONMENT = {
    "python": "3.11.7",
    "versions": {"jax": "0.10.2", "linear-cnn": None},
    "machine": "x86_64",
    "backend": "cpu",
    "devices": ["cpu", "cpu"],
    "float64": True,
}


def spread(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.0123, "count": 16}


RANDOM_LABELS = {
    "results": [
        {
            "comparison": "true against <b>shuffled</b> labels",
            "change": spread(0.9512345),
            "weights": spread(0.9),
            "paper": [0.90, 0.02],
        },
        {
            "comparison": "across seeds, true labels",
            "change": spread(0.98),
            "weights": spread(0.9),
            "paper": None,
        },
        {
            "comparison": "shuffled labels against initial",
            "change": spread(-0.05914),
            "weights": spread(0.9),
            "paper": [0.03, 0.22],
        },
        {
            "comparison": "not judged",
            "change": spread(0.77),
            "weights": spread(0.9),
            "paper": [0.66, 0.01],
        },
    ],
    "checks": as_rows(
        [
            frame.check(
                "true against <b>shuffled</b> labels",
                0.9512345,
                at_least=0.9,
                paper="0.9 ± 0.02",
            ),
            frame.check(
                "shuffled labels against initial",
                -0.05914,
                at_least=-0.41,
                at_most=0.47,
                paper="0.03 ± 0.22",
            ),
            frame.check("not judged", 0.77, paper="0.66 ± 0.01", shown="0.770 ± 0.012"),
            frame.check("lowest training accuracy, VGG11", 0.8211, at_least=0.9),
        ]
    ),
    "runs": [
        {
            "run": "VGG11, 64 filters",
            "training_accuracy": [0.8211, 0.9977],
            "validation_accuracy": [0.511, 0.522],
            "judged": False,
        },
    ],
    "differs_from_paper": ["width 0.25 (paper: 1)"],
}
ITERATIONS = {
    "results": [
        {
            "iterations": 1000,
            "largest_component": 13,
            "whitened_components": 11,
            "largest_component_exact": 4,
        },
    ],
    "checks": [],
}
THEORY = {
    "checks": as_rows(
        [
            frame.check(
                "exact form, few",
                1.58e-12,
                at_most=1e-9,
                moved="max 0.05",
                wrong={"eta / 2": 0.39},
            ),
            frame.check("Theorem 4.2 fails on raw images", 26.0, above=0.1),
        ]
    ),
    "seconds": {"few": 1.0},
}


def write(folder: Path, settings: Any, summary: Any, *pictures: str) -> Path:
    """Results as `frame.write` leaves them, with pictures of different colours."""
    folder.mkdir(parents=True)
    for picture in pictures:
        colour = (10 * len(picture), 90, len(str(settings.dataset)))
        Image.new("RGB", (1500, 600), colour).save(folder / f"{picture}.png")
    disk.write_arrays(folder / "arrays.npz", {"a": 1})
    disk.write_json(folder / "summary.json", summary)
    config = {
        "settings": asdict(settings),
        "environment": ENVIRONMENT,
        "seconds": 754.3,
    }
    disk.write_json(folder / "config.json", config)
    return folder


def write_all(out: Path) -> Path:
    """Three experiments, one of them on a data set with a name like an attack."""
    settings = random_labels.resolve(random_labels.Settings(seeds=3, out=out))
    write(
        disk.folder(out, "random_labels", "cifar10"),
        settings,
        RANDOM_LABELS,
        "random_labels",
    )
    nasty = iterations.Settings(dataset=NASTY, decades=3)
    write(disk.folder(out, "iterations", NASTY), nasty, ITERATIONS, "iterations")
    theory = theory_vs_simulation.Settings()
    write(
        disk.folder(out, "theory_vs_simulation", "photographs"),
        theory,
        THEORY,
        "errors",
        "profiles",
    )
    return out


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
