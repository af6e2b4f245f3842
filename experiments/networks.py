"""What the experiments on trained networks share: presets and settings, their runs, and how profiles are compared.

A preset gives every setting a value; what is named on the command line replaces it. An experiment that needs other
values than those here has them in a table of its own.

    smoke   photographs, tiny networks: does everything work? Seconds; the numbers mean nothing.
    cpu     2,000 images of CIFAR-10, narrow networks with a first layer of the paper's width, for 2 cores.
    paper   all of CIFAR-10, networks of the paper's width, for an accelerator.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import theory
from experiments import frame, runs
from experiments.frame import Arrays
from experiments.runs import Network, Run

_CIFAR10_PAIRS = ("automobile,truck", "dog,frog", "dog,cat", "bird,airplane", "ship,airplane")
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "photographs",
        "network": "SmallCNN",
        "images": 256,
        "validation": 64,
        "hold_out": 5,
        "width": 1 / 16,
        "first_features": 12,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 32,
        "seeds": 3,
        "epochs": 3,
        "shuffled_epochs": 4,
        "pairs": ("astronaut,coffee",),
        "pair_images": 128,
        "pair_epochs": 3,
        "other_widths": (8,),
        "other_network": "VGG11",
        "other_epochs": 2,
        "depths": (11, 13),
        "depth_seeds": (3, 1),  # so many of the first are trained by `consistency` too
        "depth_epochs": 2,
        "energy_components": (1, 15),
        "energy_seeds": 2,
        "energy_epochs": 3,
        "stride_network": "SmallCNN",
        "scaled_components": (5,),
        "factors": (3.0,),
        "scaling_seeds": 2,
        "scaling_epochs": 3,
    },
    "cpu": {
        "dataset": "cifar10",
        "network": "VGG11",
        "images": 2_000,
        "validation": 500,
        "hold_out": None,
        "width": 0.25,
        "first_features": 64,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 16,
        "seeds": 4,
        "epochs": 50,
        "shuffled_epochs": 90,
        "pairs": _CIFAR10_PAIRS,
        "pair_images": 1_000,
        "pair_epochs": 30,
        "other_widths": (32, 128),
        "other_network": "ResNet18",
        "other_epochs": 20,
        "depths": (11, 13, 16, 19),
        "depth_seeds": (6, 2, 1, 2),
        "depth_epochs": 3,
        "energy_components": (1, 2, 4, 7, 10, 14, 18, 22, 27),
        "energy_seeds": 2,
        "energy_epochs": 90,
        "stride_network": "ResNet18",
        "scaled_components": (3, 10, 20),
        "factors": (3.0, 10.0),
        "scaling_seeds": 2,
        "scaling_epochs": 20,
    },
    "paper": {
        "dataset": "cifar10",
        "network": "VGG11",
        "images": 50_000,
        "validation": 10_000,
        "hold_out": None,
        "width": 1.0,
        "first_features": 64,
        "dropout": 0.5,
        "learning_rate": 0.01,
        "schedule": "constant",
        "batch_size": 256,
        "seeds": 4,
        "epochs": 30,
        "shuffled_epochs": 100,
        "pairs": _CIFAR10_PAIRS,
        "pair_images": 10_000,
        "pair_epochs": 30,
        "other_widths": (32, 128),
        "other_network": "ResNet18",
        "other_epochs": 30,
        "depths": (11, 13, 16, 19),
        "depth_seeds": (4, 4, 4, 4),
        "depth_epochs": 30,
        "energy_components": tuple(range(1, 28)),
        "energy_seeds": 3,
        "energy_epochs": 30,
        "stride_network": "ResNet18",
        "scaled_components": (3, 10, 20),
        "factors": (3.0, 10.0),
        "scaling_seeds": 4,
        "scaling_epochs": 30,
    },
}
RECORD_EPOCHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 100)
KINDS = ("change", "weights")  # of conv1 whose profiles are looked at: w(t) - w(0), as in the paper, and w(t)

# What the paper did, as far as it says so; `differences` compares runs with it. Images are so many a class.
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
JUDGED_ACCURACY = 0.9  # of every network on its training images: a young profile is just lambda, and fits too well


Criterion = Literal["correlation", "likelihood"]  # of `theory.fit_profile`
FITS: dict[Criterion, str] = {"correlation": "fit", "likelihood": "likely"}  # what `fits` calls them in its arrays
NetworkName = Literal["VGG11", "VGG13", "VGG16", "VGG19", "ResNet18", "ResNet20", "SmallCNN"]


@dataclass(frozen=True)
class Settings:
    """What every experiment on trained networks lets its user choose; what is None is the preset's."""

    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    """Decides every setting whose default is None. smoke: photographs, tiny networks, seconds; cpu: 2000 images of
    CIFAR-10 for 2 cores (frozen_first_layer: 50000, for 2 epochs); paper: all of it, for an accelerator."""
    dataset: str | None = None
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an .npz file."""
    data_dir: Path | None = None
    """Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's cache by default."""
    images: int | None = None
    """Training images, as many of each class, evenly spaced among its own."""
    validation: int | None = None
    """Images that are only evaluated, from the test set or those held out; 0: none."""
    hold_out: int | None = None
    """Keep every so-manyth training image for validation, where there is no test set."""
    network: NetworkName | None = None
    """What is trained."""
    width: float | None = None
    """Of the network's layers, the first aside, times the full width."""
    first_features: int | None = None
    """Filters in the first layer."""
    dropout: float | None = None
    """Share of the units dropped in the classifier of VGG."""
    learning_rate: float | None = None
    """Of stochastic gradient descent."""
    batch_size: int | None = None
    """Images a step."""
    epochs: int | None = None
    """On true labels of all classes."""
    seeds: int | None = None
    """Networks of each kind."""
    seed: int = 0
    """Root of every random number."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's names."""
    store: Path | None = None
    """Folder of the finished runs, which experiments share; <out>/runs by default."""
    fresh: bool = False
    """Train again what the store has."""
    redraw: bool = False
    """Only draw the figure and print the table again, from the saved arrays."""


@dataclass(frozen=True)
class SettingsOfSeveral(Settings):
    """What experiments on networks of several kinds let their user choose."""

    other_widths: tuple[int, ...] | None = None
    """Other numbers of filters in the first layer, which to train too."""
    other_network: NetworkName | None = None
    """What else to train, with --first-features filters."""
    other_epochs: int | None = None
    """Of the training of the other network."""
    other_seeds: int | None = None
    """Networks of each of these kinds; as many as --seeds unless the experiment's preset says otherwise."""


def resolve(settings: Settings, own: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """The settings with what is None taken from the preset, after checking them.

    Args:
      settings: of one experiment.
      own: by preset, what that experiment does otherwise than the others.

    Raises:
      ValueError: an unknown preset, or a setting that cannot work.
    """
    if settings.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {settings.preset!r}.")
    changes = (own or {}).get(settings.preset, {})
    preset = {"store": settings.out / "runs"} | PRESETS[settings.preset] | dict(changes)
    preset.setdefault("other_seeds", settings.seeds or preset["seeds"])
    names = [field.name for field in fields(settings)]
    missing = {name: preset[name] for name in names if name in preset and getattr(settings, name) is None}
    given: Any = replace(settings, **missing)
    counts = ("images", "first_features", "batch_size", "epochs", "shuffled_epochs", "pair_images", "pair_epochs")
    smallest = dict.fromkeys((*counts, "other_epochs"), 1) | {"validation": 0, "hold_out": 2}
    smallest |= {"seeds": 2, "other_seeds": 2}
    frame.check_at_least(given, {name: bound for name, bound in smallest.items() if name in names})
    for name in ("width", "learning_rate"):
        if not 0 < getattr(given, name) < np.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive and finite, got {getattr(given, name)}.")
    if not 0 <= given.dropout < 1:
        raise ValueError(f"--dropout must be at least 0 and less than 1, got {given.dropout}.")
    return given


def resolve_several(settings: SettingsOfSeveral, own: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """`resolve`, after which no kind of network is named twice.

    Raises:
      ValueError: as `resolve`; a kind of network that is none, or named twice.
    """
    given = resolve(settings, own)
    widths = (given.first_features, *given.other_widths)
    if min(widths) < 1 or len(set(widths)) < len(widths) or len(widths) < 2:
        raise ValueError(
            f"--other-widths must be at least one number of filters, none below 1 and none twice or equal to "
            f"--first-features = {given.first_features}, got {given.other_widths}."
        )
    if given.other_network == given.network:
        raise ValueError(f"--other-network must be another than --network = {given.network}.")
    return given


# --- runs ---


def base_run(settings: Any, **changes: Any) -> Run:
    """The run that all experiments share, true labels of all classes; `changes` are to the settings or to the run."""
    options = ("network", "width", "first_features", "dropout")
    strides = changes.pop("first_strides", None)
    shared = ("dataset", "images", "validation", "hold_out", "epochs", "batch_size", "learning_rate", "seeds", "seed")
    chosen = {name: getattr(settings, name) for name in (*options, *shared)} | changes
    chosen["learning_rate"] = float(chosen["learning_rate"])  # 1 and 1.0 are one run
    network = replace(_network(*(chosen.pop(name) for name in options)), first_strides=strides)
    records = (*(epoch for epoch in RECORD_EPOCHS if epoch < chosen["epochs"]), chosen["epochs"])
    return Run(network, record_epochs=records, **chosen)


def several_runs(settings: Any) -> dict[str, Run]:
    """The runs on true labels of networks of several kinds: "base", "base_<filters>" and "other"."""
    kinds: dict[str, dict[str, Any]] = {f"base_{width}": {"first_features": width} for width in settings.other_widths}
    kinds["other"] = {"network": settings.other_network, "epochs": settings.other_epochs}
    others = {name: base_run(settings, seeds=settings.other_seeds, **changes) for name, changes in kinds.items()}
    return {"base": base_run(settings)} | others


def shuffled_run(settings: Any) -> Run:
    """The run on shuffled labels that experiments share."""
    return base_run(settings, shuffled_labels=settings.seed, epochs=settings.shuffled_epochs)


def _network(name: NetworkName, width: float, first_features: int, dropout: float) -> Network:
    width = float(width)
    if name == "SmallCNN":  # as wide as the first stages of VGG
        return Network("SmallCNN", features=(first_features, max(1, round(128 * width)), max(1, round(256 * width))))
    family, depth = name[:-2], int(name[-2:])
    if family == "VGG":
        return Network("VGG", depth, width, first_features, float(dropout))
    return Network("ResNet", depth, width, first_features)


def measure(named: Mapping[str, Run], settings: Any) -> Arrays:
    """Train every run that is not in the store, and measure its first layer in the basis of its own patches.

    The patches are those of the run's training images, normalised and centred, as the paper's authors do.

    Args:
      named: runs by the names that their arrays get.
      settings: resolved.

    Returns:
      For each run "<name>/" and: "config" (JSON); "epochs", "conv1", "loss", "accuracy" and so on of `runs.trained`;
      "variance" (d,) and "components" (d, d) of the patches; and the profiles (S, R, d) "change" and "weights".
    """
    for run in named.values():
        runs.load(run, settings.data_dir)  # so that every fault of the data shows before the first network is trained
    arrays: Arrays = {}
    for name, run in named.items():
        data = runs.load(run, settings.data_dir)
        print(f"{title(runs.configuration(run, data))}: {run.seeds} networks, {run.epochs} epochs", flush=True)
        recorded = runs.trained(run, data, settings.store, fresh=settings.fresh)
        conv1 = recorded["conv1"].astype(np.float64)
        spectrum = theory.patch_spectrum(data.images, conv1.shape[2:4], stride=run.network.first_strides or 1)
        profiles = {
            "change": theory.energy_profile(conv1 - conv1[:, :1], spectrum.components),
            "weights": theory.energy_profile(conv1, spectrum.components),
        }
        measured = {"variance": spectrum.variance, "components": spectrum.components} | profiles
        config = np.array(json.dumps(runs.configuration(run, data)))
        arrays |= {
            f"{name}/{key}": np.asarray(value) for key, value in ({"config": config} | recorded | measured).items()
        }
    return arrays


def names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The runs that were measured, in order."""
    return [key.removesuffix("/config") for key in arrays if key.endswith("/config")]


def config(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The configuration of a run that was measured."""
    content: dict[str, Any] = json.loads(str(arrays[f"{name}/config"]))
    return content


def network(config: Mapping[str, Any]) -> str:
    """The network of a run, by the name that the settings have for it."""
    return f"{config['network']['name']}{config['network']['depth'] or ''}"


def filters(config: Mapping[str, Any]) -> int:
    """How many filters the first layer of a run has."""
    return int(config["network"]["first_features"] or config["network"]["features"][0])


def title(config: Mapping[str, Any]) -> str:
    """A run in words: what tells it from the others of an experiment."""
    words = [network(config), f"{filters(config)} filters"]
    words += [" / ".join(config["classes"])] if config["classes"] else []
    if config["energy_component"] is not None:
        words.append(f"labels by component {config['energy_component']}")
    if config["scaled_component"] is not None:
        component, factor = config["scaled_component"]
        words.append(f"component {component} x {factor:g}" if factor != 1 else "no component scaled")
    words += ["shuffled labels"] if config["shuffled_labels"] is not None else []
    words += ["first layer frozen"] if config["frozen"] else []
    return ", ".join(words)


def titles(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The titles of all runs that were measured, by their names."""
    return {name: title(config(arrays, name)) for name in names(arrays)}


# --- comparisons ---


def fits(arrays: Mapping[str, np.ndarray], name: str, criterion: Criterion = "correlation") -> Arrays:
    """The formula of Theorem 4.2 fitted to every network of a run at every record.

    Returns:
      For "change" and "weights", "<name>/fit/<kind>/", by the likelihood "<name>/likely/<kind>/", and: "correlation",
      "time", "zero" and "infinity" (what lambda and 1 / lambda alone reach), each (S, R), and "profile", (S, R, d). NaN
      where nothing has changed yet.
    """
    result: Arrays = {}
    for kind in KINDS:
        profile = arrays[f"{name}/{kind}"]
        first = 1 if kind == "change" else 0
        fit = theory.fit_profile(profile[:, first:], arrays[f"{name}/variance"], criterion=criterion)
        parts = {
            "correlation": fit.correlation,
            "time": fit.time,
            "zero": fit.correlation_at_zero,
            "infinity": fit.correlation_at_infinity,
            "profile": fit.profile,
        }
        for part, known in parts.items():
            whole = np.full((*profile.shape[:2], *known.shape[2:]), np.nan)
            whole[:, first:] = known
            result[f"{name}/{FITS[criterion]}/{kind}/{part}"] = whole
    return result


def correlations(
    arrays: Mapping[str, np.ndarray], one: str, other: str, kind: str = "change"
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of the profiles of all pairs of networks, of one run or of two, over the course of training.

    Networks are compared at the same epoch; where one run is over, by its last record. So the last column compares
    trained networks.

    Args:
      one, other: names of runs; the same one twice for the pairs of different seeds in it.

    Returns:
      epochs (E,), and correlations (pairs, E); NaN where nothing has changed yet.
    """
    epochs, columns = _matched(arrays[f"{one}/epochs"], arrays[f"{other}/epochs"])
    a, b = (arrays[f"{name}/{kind}"][:, column] for name, column in zip((one, other), columns, strict=True))
    if one == other:
        first, second = np.triu_indices(len(a), 1)
    else:
        first, second = (index.ravel() for index in np.indices((len(a), len(b))))
    return epochs, np.asarray(theory.profile_correlation(a[first], b[second]))


def _matched(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, tuple[list[int], list[int]]]:
    """The epochs at which two runs can be compared, and the records of each there."""
    both = (one, other)
    epochs = [epoch for epoch in np.union1d(one, other) if all(epoch in mine or epoch > mine[-1] for mine in both)]
    first, second = ([int(np.searchsorted(mine, min(epoch, mine[-1]))) for epoch in epochs] for mine in both)
    return np.array(epochs), (first, second)


def to_initial(arrays: Mapping[str, np.ndarray], name: str, kind: str = "change") -> np.ndarray:
    """Correlation of each network's profile with that of its own initial weights, (S, R)."""
    return np.asarray(theory.profile_correlation(arrays[f"{name}/{kind}"], arrays[f"{name}/weights"][:, :1]))


def spread(values: Any) -> dict[str, Any]:
    """Mean, standard deviation and number of values, as JSON takes them."""
    values = np.asarray(values, np.float64).ravel()
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": deviation, "count": len(values)}


# --- summary ---


def finite(values: Any) -> list[float | None]:
    """The values as JSON takes them, None for what is infinite."""
    return [float(value) if np.isfinite(value) else None for value in np.asarray(values)]


def check(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    paper: str | None = None,
) -> dict[str, Any]:
    """One row: it passes if the value is within all bounds that are given (a NaN is not); what the paper says of it."""
    bounds = {">=": at_least, "<=": at_most, ">": above, "<": below}
    holds = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    passed = all(bool(holds[sign](value, bound)) for sign, bound in given.items())
    text = " and ".join(f"{sign} {bound:.4g}" for sign, bound in given.items())
    row = {"check": name, "value": float(value), "bound": text, "passed": passed}
    return row if paper is None else row | {"paper": paper}


def accuracies(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """For each run the accuracy at its end on training and validation images, and whether it can be judged."""
    rows = []
    for name in names(arrays):
        accuracy = arrays[f"{name}/accuracy"][:, -1]
        row = {
            "run": title(config(arrays, name)),
            "training_accuracy": [float(value) for value in accuracy],
            "judged": bool(accuracy.min() >= JUDGED_ACCURACY),
        }
        if f"{name}/validation_accuracy" in arrays:
            row["validation_accuracy"] = [float(value) for value in arrays[f"{name}/validation_accuracy"][:, -1]]
        rows.append(row)
    return rows


def summarize(
    arrays: Mapping[str, np.ndarray],
    results: Sequence[Mapping[str, Any]],
    checks: Sequence[dict[str, Any]],
    *,
    trained_to_the_end: bool = True,
) -> dict[str, Any]:
    """What every experiment's summary holds: its results and checks, the runs, and how they differ from the paper's.

    Unless it is about the course of training, among the checks is that every network has learnt its training images.
    """
    rows = accuracies(arrays)
    trained = [
        check(f"lowest training accuracy, {row['run']}", min(row["training_accuracy"]), at_least=JUDGED_ACCURACY)
        for row in rows
        if trained_to_the_end
    ]
    configs = [config(arrays, name) for name in names(arrays)]
    return {
        "results": results,
        "checks": [*checks, *trained],
        "runs": rows,
        "differs_from_paper": differences(configs),
    }


def differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the runs do otherwise than the paper, each with the runs of which it is true."""
    found: dict[str, list[str]] = {}
    for content in configs:
        values = {"schedule": "constant"} | content["network"] | content
        expected: dict[str, Any] = PAPER | {"dataset": "cifar10"}
        if values["dataset"] == "cifar10":
            expected["images"] = PAPER_IMAGES_A_CLASS * len(values["classes"] or range(10))
        expected["epochs"] = PAPER_EPOCHS["true" if values["shuffled_labels"] is None else "shuffled"]
        values["network"] = network(content)
        expected["network"] = values["network"] if values["network"] in PAPER_NETWORKS else PAPER_NETWORKS[0]
        for field, paper in expected.items():
            if values[field] not in (paper, None):  # None: the network has nothing of the kind
                text = f"{field.replace('_', ' ')} {_text(values[field])} (paper: {_text(paper)})"
                found.setdefault(text, []).append(title(content))
    return [text + ("" if len(where) == len(configs) else f": {'; '.join(where)}") for text, where in found.items()]


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


# --- table ---


def number(values: Mapping[str, Any]) -> str:
    """Mean ± standard deviation as text."""
    deviation = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{deviation}"


def comparison_table(summary: Mapping[str, Any]) -> frame.Table:
    """The table of an experiment whose results are correlations of profiles."""
    rows = summary["results"]
    columns = {
        "correlation of profiles": [row["comparison"] for row in rows],
        "change": [number(row["change"]) for row in rows],
        "paper": [" ± ".join(map(str, row["paper"])) if row["paper"] else "" for row in rows],
        "weights": [number(row["weights"]) for row in rows],
        "count": [str(row["change"]["count"]) for row in rows],
    }
    note = (
        "± standard deviation over so many pairs of networks (over networks where each is compared with something "
        "else); change: w(t) - w(0) at the end of training, as in the paper; weights: w(t)"
    )
    return frame.Table(columns, note)
