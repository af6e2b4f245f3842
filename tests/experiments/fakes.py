"""Runs, arrays and files in the place of what experiments compute and download."""

import json
from pathlib import Path

import numpy as np

COMPONENTS = np.linalg.qr(np.random.default_rng(5).normal(size=(27, 27)))[0]
VARIANCE = np.geomspace(10, 1e-4, 27)
CONFIG = {
    "network": {
        "name": "VGG",
        "depth": 11,
        "width": 1.0,
        "first_features": 64,
        "dropout": 0.5,
        "features": None,
    },
    "dataset": "cifar10",
    "images": 50_000,
    "classes": None,
    "shuffled_labels": None,
    "batch_size": 256,
    "energy_component": None,
    "scaled_component": None,
    "frozen": [],
    "learning_rate": 0.01,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "epochs": 30,
}


def fake_run(
    name: str, seed: int, records: tuple[int, ...], **changes
) -> dict[str, np.ndarray]:
    """A run of 3 networks as `trained.measure` gives it; their change is the formula at
    time 3 up to 2 %."""
    random = np.random.default_rng(seed)
    formula = -np.expm1(-3 * VARIANCE) / np.sqrt(VARIANCE)
    growth = (
        np.array(records)[:, None]
        * formula
        * (1 + 0.02 * random.normal(size=(3, len(records), 27)))
    )
    # Initial profiles are not correlated with it.
    direction = (formula - formula.mean()) / np.linalg.norm(formula - formula.mean())
    noise = 0.1 * random.normal(size=(3, 1, 27))
    initial = 1 + noise - (noise @ direction)[..., None] * direction
    accuracy = np.linspace(0.1, 0.95, len(records))
    arrays = {
        "config": np.array(json.dumps(CONFIG | changes)),
        "epochs": np.array(records),
        "conv1": random.normal(size=(3, len(records), 3, 3, 3, 64)),
        "accuracy": np.tile(accuracy, (3, 1)),
        "variance": VARIANCE,
        "components": COMPONENTS,
        "change": growth,
        "weights": np.hypot(growth, initial),
    }
    return {f"{name}/{key}": value for key, value in arrays.items()}


EPOCHS = {"base": (0, 1, 2, 3), "base_32": (0, 1, 2, 3), "other": (0, 1, 2)}


def fake_consistency() -> dict[str, np.ndarray]:
    network = CONFIG["network"]
    arrays = fake_run("base", 0, EPOCHS["base"])
    arrays |= fake_run(
        "base_32", 1, EPOCHS["base_32"], network=network | {"first_features": 32}
    )
    return arrays | fake_run(
        "other", 2, EPOCHS["other"], network=network | {"name": "ResNet", "depth": 18}
    )


def failing(summary: dict) -> set[str]:
    """The titles of the checks that fail."""
    return {one.title for one in summary["checks"] if one.verdict == "FAIL"}


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def smooth_bank(seed: int, size: int = 3, filters: int = 12) -> np.ndarray:
    """Filters like a trained network's: smooth, mostly grey, of very different norms,
    the last one dead."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    angle, phase = random.uniform(0, np.pi, (2, filters))
    waves = np.cos(
        1.1 * (np.cos(angle) * y[..., None] + np.sin(angle) * x[..., None]) + phase
    )
    bank = waves[:, :, None] * (1 + 0.3 * random.normal(size=(3, filters)))
    norm = np.geomspace(30, 0.5, filters)
    norm[-1] = 1e-3
    return (bank * norm).astype(np.float32)


def folder_of(path: Path, contents: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path
