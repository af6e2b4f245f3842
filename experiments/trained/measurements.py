"""Runs that are trained or read, their first layers measured, and the formula fitted to
them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

import theory
from experiments.frame import Arrays
from experiments.trained import run
from experiments.trained.data import Data
from experiments.trained.run import Run
from experiments.trained.settings import Settings
from experiments.trained.store import configuration, recorded

# Of conv1 whose profiles are looked at: w(t) - w(0), as in the paper, and w(t).
KINDS = ("change", "weights")
Criterion = Literal["correlation", "likelihood"]  # of `theory.fit_profile`
# What `fits` calls them in its arrays.
FITS: dict[Criterion, str] = {"correlation": "fit", "likelihood": "likely"}


class Fit(NamedTuple):
    """The formula fitted to a run's profiles; NaN where nothing has changed yet.

    Attributes:
      correlation: (S, R), at the best time.
      time: (S, R).
      zero, infinity: (S, R), what lambda and 1 / lambda alone reach.
      profile: (S, R, d), the formula.
    """

    correlation: np.ndarray
    time: np.ndarray
    zero: np.ndarray
    infinity: np.ndarray
    profile: np.ndarray


@dataclass(frozen=True)
class MeasuredRun:
    """What the arrays of an experiment have of one run, to read: S networks, R records.

    Its arrays by their names, e.g. `run["epochs"]`; those that experiments use most are
    attributes.
    """

    arrays: Mapping[str, np.ndarray]
    name: str

    def __getitem__(self, field: str) -> np.ndarray:
        return self.arrays[f"{self.name}/{field}"]

    def __contains__(self, field: str) -> bool:
        return f"{self.name}/{field}" in self.arrays

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        content: dict[str, Any] = json.loads(str(self["config"]))
        return content

    @property
    def epochs(self) -> np.ndarray:
        """When it was recorded, (R,)."""
        return self["epochs"]

    @property
    def conv1(self) -> np.ndarray:
        """The first layer, (S, R, kh, kw, C, K)."""
        return self["conv1"].astype(np.float64)

    @property
    def accuracy(self) -> np.ndarray:
        """On its training images, (S, R)."""
        return self["accuracy"]

    @property
    def variance(self) -> np.ndarray:
        """Of the principal components of its patches, (d,)."""
        return self["variance"]

    @property
    def components(self) -> np.ndarray:
        """The components, (d, d), one a column."""
        return self["components"]

    @property
    def change(self) -> np.ndarray:
        """Profiles of w(t) - w(0), (S, R, d)."""
        return self["change"]

    @property
    def weights(self) -> np.ndarray:
        """Profiles of w(t), (S, R, d)."""
        return self["weights"]

    def fit(self, kind: str, criterion: Criterion = "correlation") -> Fit:
        """The formula fitted to one of KINDS, once `fits` has been added."""
        return Fit(*(self[f"{FITS[criterion]}/{kind}/{part}"] for part in Fit._fields))


def measured(arrays: Mapping[str, np.ndarray]) -> dict[str, MeasuredRun]:
    """The runs that were measured by their names, in order."""
    ends = "/config"
    names = [key.removesuffix(ends) for key in arrays if key.endswith(ends)]
    return {name: MeasuredRun(arrays, name) for name in names}


def titles(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The titles of all runs that were measured, by their names."""
    return run.titles({name: one.config for name, one in measured(arrays).items()})


def measure(
    named: Mapping[str, Run], data: Mapping[str, Data], settings: Settings
) -> Arrays:
    """Train every run that is not in the store, and measure its first layer in the
    basis of its own patches.

    The patches are those of the run's training images, normalised and centred, as the
    paper's authors do.

    Args:
      named: runs by the names that their arrays get.
      data: of these runs, `load_all`; so every fault of the data shows before the first
        network is trained.
      settings: of the experiment, checked.

    Returns:
      For each run "<name>/" and: "config" (JSON); "epochs", "conv1", "loss", "accuracy"
      and so on of `store.recorded`; "variance" (d,) and "components" (d, d) of the
      patches; and the profiles (S, R, d) "change" and "weights".
    """
    assert settings.store is not None
    configs = {name: configuration(one, data[name]) for name, one in named.items()}
    words = run.titles(configs)
    arrays: Arrays = {}
    for name, one in named.items():
        print(f"{words[name]}: {one.seeds} networks, {one.epochs} epochs", flush=True)
        known = recorded(one, data[name], settings.store, fresh=settings.fresh)
        conv1 = known["conv1"].astype(np.float64)
        spectrum = theory.patch_spectrum(
            data[name].images, conv1.shape[2:4], stride=one.network.first_strides or 1
        )
        first = {
            "variance": spectrum.variance,
            "components": spectrum.components,
            "change": theory.energy_profile(conv1 - conv1[:, :1], spectrum.components),
            "weights": theory.energy_profile(conv1, spectrum.components),
        }
        values = {"config": np.array(json.dumps(configs[name]))} | known | first
        arrays |= {f"{name}/{key}": np.asarray(value) for key, value in values.items()}
    return arrays


def fits(
    arrays: Mapping[str, np.ndarray], name: str, criterion: Criterion = "correlation"
) -> Arrays:
    """The formula of Theorem 4.2 fitted to every network of a run at every record.

    Returns:
      For "change" and "weights", "<name>/fit/<kind>/", by the likelihood
      "<name>/likely/<kind>/", and: "correlation", "time", "zero" and "infinity" (what
      lambda and 1 / lambda alone reach), each (S, R), and "profile", (S, R, d). NaN
      where nothing has changed yet.
    """
    one = MeasuredRun(arrays, name)
    result: Arrays = {}
    for kind in KINDS:
        profile = one[kind]
        first = 1 if kind == "change" else 0
        found = theory.fit_profile(
            profile[:, first:], one.variance, criterion=criterion
        )
        fit = Fit(
            np.asarray(found.correlation),
            np.asarray(found.time),
            np.asarray(found.correlation_at_zero),
            np.asarray(found.correlation_at_infinity),
            np.asarray(found.profile),
        )
        for part, known in fit._asdict().items():
            whole = np.full((*profile.shape[:2], *known.shape[2:]), np.nan)
            whole[:, first:] = known
            result[f"{name}/{FITS[criterion]}/{kind}/{part}"] = whole
    return result
