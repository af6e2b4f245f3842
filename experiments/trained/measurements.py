"""Runs that are trained or read, their first layers measured, and the formula fitted to
them."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

import theory
from experiments.frame import Arrays
from experiments.trained.data import load
from experiments.trained.run import Run, title
from experiments.trained.store import configuration, trained

# Of conv1 whose profiles are looked at: w(t) - w(0), as in the paper, and w(t).
KINDS = ("change", "weights")
Criterion = Literal["correlation", "likelihood"]  # of `theory.fit_profile`
# What `fits` calls them in its arrays.
FITS: dict[Criterion, str] = {"correlation": "fit", "likelihood": "likely"}


def measure(named: Mapping[str, Run], settings: Any) -> Arrays:
    """Train every run that is not in the store, and measure its first layer in the
    basis of its own patches.

    The patches are those of the run's training images, normalised and centred, as the
    paper's authors do.

    Args:
      named: runs by the names that their arrays get.
      settings: resolved.

    Returns:
      For each run "<name>/" and: "config" (JSON); "epochs", "conv1", "loss", "accuracy"
      and so on of `store.trained`; "variance" (d,) and "components" (d, d) of the
      patches; and the profiles (S, R, d) "change" and "weights".
    """
    for run in named.values():
        # So that every fault of the data shows before the first network is trained.
        load(run, settings.data_dir)
    arrays: Arrays = {}
    for name, run in named.items():
        data = load(run, settings.data_dir)
        print(
            f"{title(configuration(run, data))}: {run.seeds} networks, {run.epochs}"
            " epochs",
            flush=True,
        )
        recorded = trained(run, data, settings.store, fresh=settings.fresh)
        conv1 = recorded["conv1"].astype(np.float64)
        spectrum = theory.patch_spectrum(
            data.images, conv1.shape[2:4], stride=run.network.first_strides or 1
        )
        profiles = {
            "change": theory.energy_profile(conv1 - conv1[:, :1], spectrum.components),
            "weights": theory.energy_profile(conv1, spectrum.components),
        }
        measured = {
            "variance": spectrum.variance,
            "components": spectrum.components,
        } | profiles
        config = np.array(json.dumps(configuration(run, data)))
        arrays |= {
            f"{name}/{key}": np.asarray(value)
            for key, value in ({"config": config} | recorded | measured).items()
        }
    return arrays


def names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The runs that were measured, in order."""
    return [key.removesuffix("/config") for key in arrays if key.endswith("/config")]


def config(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The configuration of a run that was measured."""
    content: dict[str, Any] = json.loads(str(arrays[f"{name}/config"]))
    return content


def titles(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The titles of all runs that were measured, by their names."""
    return {name: title(config(arrays, name)) for name in names(arrays)}


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
    result: Arrays = {}
    for kind in KINDS:
        profile = arrays[f"{name}/{kind}"]
        first = 1 if kind == "change" else 0
        fit = theory.fit_profile(
            profile[:, first:], arrays[f"{name}/variance"], criterion=criterion
        )
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
