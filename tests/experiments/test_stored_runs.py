"""Runs that were stored before are found: their folders have the names that they had at
26045d5."""

from types import SimpleNamespace
from typing import Any

import pytest

from experiments import catalogue, trained
from experiments.frame import Preset
from experiments.paper import decorrelation
from experiments.trained import Run
from experiments.trained.data import load
from experiments.trained.store import configuration, identifier


def runs_of(monkeypatch: pytest.MonkeyPatch, name: str, preset: Preset) -> Any:
    """The runs that an experiment asks for."""
    module = catalogue.module(name)
    settings = catalogue.resolved(name, module.PRESETS[preset])
    if module is decorrelation:  # which looks at the images first
        return trained.several_runs(settings)
    asked: dict[str, Run] = {}

    class StopError(Exception):
        pass

    def measure(named: dict[str, Run], data: Any, settings: Any) -> None:
        asked.update(named)
        raise StopError

    monkeypatch.setattr(trained, "load_all", lambda named, data_dir: {})
    monkeypatch.setattr(trained, "measure", measure)
    with pytest.raises(StopError):
        module.compute(settings)
    return asked


# With "x" in place of the checksum of CIFAR-10.
CPU = {
    "formula_fit": {
        "all": "72516a044db105fe",
        "automobile,truck": "ed5ac56047f83c94",
        "dog,frog": "3b819d83286d4df2",
        "dog,cat": "119ef4a3d0df8f9a",
        "bird,airplane": "50dfed3ce0a52aa9",
        "ship,airplane": "177d7e5c1cd1198b",
    },
    "consistency": {
        "base": "72516a044db105fe",
        "base_32": "39923b954ae92508",
        "base_128": "ffe1632561c642f4",
        "other": "74680e1da4096693",
    },
    "random_labels": {"true": "72516a044db105fe", "shuffled": "8d94b93ce5466782"},
    "frozen_first_layer": {
        "learnt/11": "e76abb7b443eec84",
        "frozen/11": "c43ec7aa87727433",
        "learnt/13": "a58bbf903d652d5f",
        "frozen/13": "1535f831a3c5f907",
        "learnt/16": "0cc1fa924536017b",
        "frozen/16": "fea9151dd06d0bbf",
        "learnt/19": "da727f20ada57e79",
        "frozen/19": "f0fa3f7c66ca5c3f",
    },
    "decorrelation": {
        "base": "2b85705669ebb988",
        "base_32": "39923b954ae92508",
        "base_128": "ffe1632561c642f4",
        "other": "74680e1da4096693",
    },
    "energy_labels": {
        "shuffled": "8d94b93ce5466782",
        "1": "e6674ffc543d74f5",
        "2": "2311d45b68b2792f",
        "4": "0bfa86d2a918c75c",
        "7": "c2ccb72d55028810",
        "10": "495271492e3ab440",
        "14": "443150d8c3f1c280",
        "18": "014d546436c40356",
        "22": "f23741b7bc15d387",
        "27": "efa6cfa041bfebb0",
    },
    "spectral_scaling": {
        "unscaled": "6574ab9ac194f087",
        "3 x 3": "1043f2b36eea3f50",
        "3 x 10": "55dff17614b1dab2",
        "10 x 3": "8c41d1afac6a5205",
        "10 x 10": "c49fc3daa1c5ab23",
        "20 x 3": "93c844bfa7f3b16c",
        "20 x 10": "bfbc3b409c4c88b2",
    },
    "filters": {"base": "72516a044db105fe"},
}
PAPER = {
    "formula_fit": {"all": "7775543bdb404b2b", "dog,cat": "3f76ef333e9fff40"},
    "consistency": {"other": "4cc353f4a335f676"},
    "random_labels": {"shuffled": "9c383d542f9e1746"},
    "frozen_first_layer": {
        "learnt/11": "7775543bdb404b2b",
        "frozen/16": "9553a2b96a5549ca",
    },
    "decorrelation": {"base": "7775543bdb404b2b", "base_32": "b1bf857998591bbd"},
    "energy_labels": {"27": "ffb9adb0c0ab0d4b"},
    "spectral_scaling": {"20 x 10": "c9c5408a0a7f5a06"},
    "filters": {"base": "7775543bdb404b2b"},
}
# With the checksums of the photographs.
SMOKE = {
    "formula_fit": {
        "all": "0e233a7e18522ea1",
        "astronaut,coffee": "8fb74f772d49c1bf",
    },
    "consistency": {"base_8": "035c08389256af0e", "other": "ebd675c9e62a9326"},
    "random_labels": {"shuffled": "c1d78dbe6fe68fef"},
    "frozen_first_layer": {
        "learnt/11": "ebd675c9e62a9326",
        "frozen/13": "2e4e47d203953701",
    },
    "decorrelation": {"base": "0e233a7e18522ea1"},
    "energy_labels": {"shuffled": "c1d78dbe6fe68fef", "15": "566a20f84fc5cd52"},
    "spectral_scaling": {
        "unscaled": "a7fcb1b1aa858a20",
        "5 x 3": "888588bb872d779a",
    },
    "filters": {"base": "0e233a7e18522ea1"},
}


@pytest.mark.parametrize("name", CPU)
def test_runs_of_the_cpu_preset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data: Any = SimpleNamespace(checksum="x")
    found = {
        run: identifier(configuration(one, data))
        for run, one in runs_of(monkeypatch, name, "cpu").items()
    }
    assert list(found.items()) == list(CPU[name].items())


@pytest.mark.parametrize("name", PAPER)
def test_runs_of_the_paper_preset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data: Any = SimpleNamespace(checksum="x")
    runs = runs_of(monkeypatch, name, "paper")
    found = {run: identifier(configuration(runs[run], data)) for run in PAPER[name]}
    assert found == PAPER[name]


@pytest.mark.parametrize("name", SMOKE)
def test_runs_on_photographs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    runs = runs_of(monkeypatch, name, "smoke")
    found = {
        run: identifier(configuration(runs[run], load(runs[run])))
        for run in SMOKE[name]
    }
    assert found == SMOKE[name]
