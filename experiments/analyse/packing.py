"""Analyses of several networks as named arrays, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

import theory
from experiments.analyse.layers import Layer, Measured
from experiments.frame import Arrays

_FITS = ("fit", "likely")
_FIT_FIELDS = [field.name for field in fields(theory.ProfileFit)]


def packed(networks: Mapping[str, Sequence[Layer]]) -> Arrays:
    """The layers of networks by their titles as arrays: "networks" (JSON); and of layer
    m of network n "<n>/<m>/" with the fields of `Measured`, those of its fits as
    "fit/<field>" and "likely/<field>"."""
    described = [
        {
            "title": title,
            "layers": [
                {"name": one.name, "shape": one.shape, "problem": one.problem}
                for one in layers
            ],
        }
        for title, layers in networks.items()
    ]
    arrays: Arrays = {"networks": np.array(json.dumps(described))}
    for number, layers in enumerate(networks.values()):
        for place, layer in enumerate(layers):
            if layer.measured is None:
                continue
            for name, value in layer.measured._asdict().items():
                key = f"{number}/{place}/{name}"
                if name not in _FITS:
                    arrays[key] = np.asarray(value)
                elif value is not None:
                    for part in _FIT_FIELDS:
                        arrays[f"{key}/{part}"] = np.asarray(getattr(value, part))
    return arrays


def unpacked(arrays: Arrays) -> dict[str, list[Layer]]:
    """The layers of networks by their titles."""
    networks = {}
    for number, network in enumerate(json.loads(str(arrays["networks"]))):
        networks[network["title"]] = [
            Layer(
                layer["name"],
                tuple(layer["shape"]),
                layer["problem"],
                _measured(arrays, f"{number}/{place}"),
            )
            for place, layer in enumerate(network["layers"])
        ]
    return networks


def _measured(arrays: Arrays, key: str) -> Measured | None:
    if f"{key}/profile" not in arrays:
        return None
    values: dict[str, Any] = {}
    for name in Measured._fields:
        if name in _FITS:
            there = f"{key}/{name}/{_FIT_FIELDS[0]}" in arrays
            parts = {
                part: arrays[f"{key}/{name}/{part}"] for part in _FIT_FIELDS * there
            }
            values[name] = theory.ProfileFit(**parts) if there else None
        else:
            values[name] = arrays[f"{key}/{name}"]
    return Measured(
        **values
        | {
            "patches": int(values["patches"]),
            "distance": float(values["distance"]),
        }
    )
