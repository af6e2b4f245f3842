"""The catalogue has every experiment; `all` makes what is not finished, and goes on
after a failure."""

import json
import pkgutil
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from PIL import Image

from experiments import benchmark, beyond, catalogue, everything, frame, paper
from experiments.__main__ import commands
from experiments.catalogue import CATALOGUE, Experiment
from experiments.download import pretrained as download_pretrained
from experiments.frame import PRESET_NAMES, Preset, disk
from experiments.frame.experiment import write

# --- the catalogue ---


def test_every_experiment_is_in_the_catalogue() -> None:
    places = [*paper.__path__, *beyond.__path__]
    rooms = [room.name for room in pkgutil.iter_modules(places)]
    assert sorted(rooms) == sorted(CATALOGUE)
    assert set(commands([])) == {
        *CATALOGUE,
        *catalogue.TOOLS,
        benchmark.NAME,
        "list",
        "all",
        "report",
        "data",
    }


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry(name: str) -> None:
    module, experiment = catalogue.module(name), CATALOGUE[name]
    assert name == module.NAME
    assert set(experiment.time) == set(PRESET_NAMES) == set(module.PRESETS)
    assert experiment.shows[0].islower()
    assert not experiment.shows.endswith(".")
    for preset in PRESET_NAMES:
        assert module.PRESETS[preset].preset == preset
        settings = catalogue.settings(
            name, preset, out=Path("elsewhere"), fresh=True, nothing_of_the_kind=3
        )
        assert settings.out == Path("elsewhere")
        data_set, *_ = catalogue.data_sets(name, preset)
        assert data_set == ("photographs" if preset == "smoke" else data_set)
        assert data_set in ("photographs", "cifar10")


def test_list(capsys) -> None:
    catalogue.show()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    for name, experiment in CATALOGUE.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert experiment.paper in line
        for preset in PRESET_NAMES:
            assert experiment.time[preset] in line


CHANGED = {
    "formula_fit": {
        "pairs": ("dog,cat", "a b,c"),
        "learning_rate": 0.5,
        "validation": 0,
        "seeds": 7,
    },
    "pretrained": {
        "second": "",
        "images": 77,
        "channel_order": "BGR",
        "files": (Path("a b.npz"), Path("c.onnx")),
    },
    "theory_vs_simulation": {
        "seeds": 3,
        "dataset": "/my images/it's.npz",
        "init_std": 1e-3,
    },
}


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in CHANGED for preset in PRESET_NAMES]
)
@pytest.mark.parametrize("changed", [False, True])
def test_a_command_gives_the_settings_that_it_was_made_of(
    monkeypatch: pytest.MonkeyPatch, name: str, preset: Preset, changed: bool
) -> None:
    module, out = catalogue.module(name), Path("my results")

    def resolved(settings: Any) -> dict[str, Any]:
        whole = catalogue.resolved(name, settings)
        return json.loads(disk.json_text(asdict(replace(whole, out=out))))

    given = resolved(
        catalogue.settings(name, preset, **CHANGED[name] if changed else {})
    )
    words = shlex.split(catalogue.command(name, given, out))
    assert words[:4] == ["python", "-m", "experiments", name]
    read: list[Any] = []
    monkeypatch.setattr(module, "main", read.append)
    tyro.extras.subcommand_cli_from_dict(
        commands(words[3:]),
        args=words[3:],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    (parsed,) = read
    # The store is in the folder of the results.
    assert resolved(parsed) | {"store": None} == given | {"store": None}
    assert parsed.out == out
    if not changed:
        assert words[4:] == ["--preset", preset, "--out", "my results"]


def shown(name: str, preset: Preset, **changes: Any) -> dict[str, Any]:
    settings = catalogue.settings(name, preset, **changes)
    whole = asdict(catalogue.resolved(name, settings))
    return catalogue.shown_settings(name, json.loads(disk.json_text(whole)))


@pytest.mark.parametrize(
    ("name", "changes", "there"),
    [
        ("random_labels", {}, True),
        ("random_labels", {"network": "VGG19"}, True),
        ("random_labels", {"network": "SmallCNN"}, False),
        ("random_labels", {"network": "ResNet20"}, False),
        ("consistency", {}, True),  # beside a ResNet
        ("consistency", {"network": "SmallCNN"}, False),
        ("consistency", {"network": "ResNet20", "other_network": "VGG13"}, True),
        ("frozen_first_layer", {}, True),
        ("frozen_first_layer", {"network": "SmallCNN"}, True),  # which it ignores
        ("spectral_scaling", {}, False),
        ("spectral_scaling", {"stride_network": "SmallCNN"}, False),
    ],
)
def test_dropout_is_shown_of_networks_that_have_it(
    name: str, changes: dict[str, Any], there: bool
) -> None:
    assert ("dropout" in shown(name, "cpu", **changes)) is there


def test_settings_that_are_shown() -> None:
    """Not where things lie, nor what an experiment takes no notice of."""
    found = shown("random_labels", "smoke")
    assert found["preset"] == "smoke"
    assert (found["batch_size"], found["shuffled_epochs"]) == (32, 4)
    assert not {"out", "store", "data_dir", "fresh", "redraw"} & found.keys()
    assert {"network", "epochs", "seeds"} <= found.keys()
    ignored = {"network", "epochs", "seeds"}
    for name in ("frozen_first_layer", "spectral_scaling"):
        assert not ignored & shown(name, "smoke").keys()
    assert "epochs" not in shown("energy_labels", "smoke")
    assert "seeds" in shown("energy_labels", "smoke")
    assert shown("iterations", "smoke") == {
        "preset": "smoke",
        "dataset": "photographs",
        "images": 300,
        "kernel_size": 3,
        "decades": 7,
        "rate": 0.8,
    }


def test_pretrained_networks_and_filters_are_there() -> None:
    assert CATALOGUE["pretrained"].needs == ("pretrained",)
    assert "filters" in CATALOGUE


# --- all, with experiments that take no time ---


@dataclass(frozen=True)
class Settings(frame.Settings):
    preset: Preset = "cpu"
    size: int = 3


PRESETS = {preset: Settings(preset=preset) for preset in PRESET_NAMES}
OTHER_PRESETS = {
    "smoke": Settings(preset="smoke", size=1),
    "cpu": Settings(dataset="cifar10"),
    "paper": Settings(preset="paper", size=9),
}


class Fake(types.ModuleType):
    """An experiment that notes when it computes and draws, and raises what it is told
    to."""

    def __init__(
        self, name: str, log: list[str], raises: dict[str, Callable[[], BaseException]]
    ) -> None:
        super().__init__(f"experiments.paper.{name}")
        self.NAME, self.Settings = name, Settings
        self.PRESETS = OTHER_PRESETS if name == "first" else PRESETS

        def note(stage: str) -> None:
            log.append(f"{stage} {name}")
            if log[-1] in raises:
                raise raises[log[-1]]()

        def compute(settings: Settings) -> dict[str, np.ndarray]:
            note("compute")
            return {"size": np.array(settings.size)}

        def draw(folder: Path, arrays: dict[str, np.ndarray]) -> None:
            """A picture."""
            note("draw")
            Image.new("RGB", (30, 20)).save(folder / f"{name}.png")

        def summary(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
            check = frame.check("size", arrays["size"], above=0)
            return {"results": [{"size": int(arrays["size"])}], "checks": [check]}

        def table(summary: dict[str, Any]) -> frame.Table:
            return frame.Table(
                {"size": [str(row["size"]) for row in summary["results"]]}, ""
            )

        self.main = lambda settings: frame.run(
            name, settings, compute, summary, draw, table
        )
        self.draw, self.table = draw, table


@dataclass
class Fakes:
    """What the fake experiments did, what they are to raise, and where their results
    go."""

    log: list[str]
    raises: dict[str, Callable[[], BaseException]]
    out: Path

    def all(self, **arguments: Any) -> list[str]:
        """Run all; what was computed."""
        self.log.clear()
        everything.main(**{"out": self.out, "preset": "smoke"} | arguments)
        return self.computed

    @property
    def computed(self) -> list[str]:
        return [
            entry.removeprefix("compute ")
            for entry in self.log
            if entry.startswith("compute ")
        ]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    log: list[str] = []
    raises: dict[str, Callable[[], BaseException]] = {}
    with monkeypatch.context() as patch:
        kept = dict(CATALOGUE)
        CATALOGUE.clear()
        for name in ("second", "first", "third"):
            patch.setitem(
                sys.modules, f"experiments.paper.{name}", Fake(name, log, raises)
            )
            CATALOGUE[name] = Experiment(
                f"what {name} shows", "Fig. 0", dict.fromkeys(PRESET_NAMES, "0 s")
            )
        yield Fakes(log, raises, tmp_path / "out")
        CATALOGUE.clear()
        CATALOGUE.update(kept)


def test_all_makes_everything_in_order_and_the_report(fakes: Fakes, capsys) -> None:
    assert fakes.all() == ["second", "first", "third"]
    assert (
        json.loads((fakes.out / "first" / "photographs" / "config.json").read_text())[
            "settings"
        ]["size"]
        == 1
    )
    page = (fakes.out / "report.html").read_text()
    assert page.count("<img") == 3
    assert "missing" not in page
    assert "3 of 3 experiments are there" in capsys.readouterr().out


def test_all_does_not_make_again_what_is_finished(
    fakes: Fakes, capsys, tmp_path: Path
) -> None:
    fakes.all()
    before = {file: file.stat().st_mtime_ns for file in fakes.out.rglob("*/*/*")}
    assert fakes.all() == []
    assert fakes.log == []
    assert {
        file: file.stat().st_mtime_ns for file in fakes.out.rglob("*/*/*")
    } == before
    assert "finished with these settings" in capsys.readouterr().out
    # Wherever the data lie and the results have been moved to.
    fakes.out = fakes.out.rename(tmp_path / "moved")
    assert fakes.all(data_dir=tmp_path) == []
    # On its own, an experiment is made again.
    sys.modules["experiments.paper.first"].main(
        catalogue.settings("first", "smoke", out=fakes.out)
    )
    assert fakes.computed == ["first"]


def test_all_makes_again_what_had_other_settings(fakes: Fakes) -> None:
    fakes.all()
    assert fakes.all(preset="paper") == ["first"]
    assert fakes.all(preset="paper") == []
    assert fakes.all() == ["first"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"settings": 3}'),
        ("summary.json", None),
        ("summary.json", b'{"res'),
        ("arrays.npz", None),
        ("first.png", None),
    ],
)
def test_all_makes_again_what_is_not_whole(
    fakes: Fakes, file: str, content: bytes | None
) -> None:
    fakes.all()
    path = fakes.out / "first" / "photographs" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert fakes.all() == ["first"]
    assert fakes.all() == []


@pytest.mark.parametrize("stage", ["compute first", "draw first"])
def test_interrupted_anywhere_all_continues(fakes: Fakes, stage: str) -> None:
    fakes.all(preset="paper")  # results of other settings are there
    fakes.raises[stage] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fakes.all()
    fakes.raises.clear()
    if stage == "draw first":
        # Its arrays are the new ones; nothing may say that they belong to the old
        # settings.
        assert not (fakes.out / "first" / "photographs" / "config.json").exists()
    assert fakes.all(preset="paper" if stage == "compute first" else "smoke") == (
        [] if stage == "compute first" else ["first"]
    )


@pytest.mark.parametrize("stage", ["compute first", "draw first"])
@pytest.mark.parametrize(
    "error", [ValueError("too few images"), RuntimeError("out of memory")]
)
def test_all_goes_on_after_a_failure(
    fakes: Fakes, capsys, stage: str, error: Exception
) -> None:
    fakes.raises[stage] = lambda: error
    with pytest.raises(SystemExit) as stopped:
        fakes.all()
    assert fakes.computed == ["second", "first", "third"]
    assert isinstance(stopped.value.code, str)  # printed, with an exit status of 1
    assert stopped.value.code.startswith("error: these are not:\n  first: ")
    assert str(error) in stopped.value.code
    printed = capsys.readouterr()
    assert "2 of 3 experiments are there" in printed.out
    # Where the message explains itself, no trace of the program is shown.
    assert ("Traceback" in printed.err) == isinstance(error, RuntimeError)
    page = (fakes.out / "report.html").read_text()
    assert page.count("<img") == 2
    assert ("unfinished" if stage == "draw first" else "missing") in page
    fakes.raises.clear()
    assert fakes.all() == ["first"]


def test_a_missing_data_set_is_said_before_anything_starts(
    fakes: Fakes, capsys, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        fakes.all(preset="cpu", data_dir=tmp_path)
    assert fakes.computed == ["second", "third"]
    printed = capsys.readouterr().out
    assert printed.startswith("left out: first: ")
    assert "python -m experiments data cifar10" in printed.split("=== 1 of 2")[0]
    assert "first: " in str(stopped.value.code)
    assert "python -m experiments data cifar10" in str(stopped.value.code)


def test_missing_pretrained_networks(fakes: Fakes, capsys, tmp_path: Path) -> None:
    CATALOGUE["third"] = CATALOGUE["third"]._replace(needs=("pretrained",))
    with pytest.raises(SystemExit, match="python -m experiments data pretrained"):
        fakes.all(data_dir=tmp_path)
    assert fakes.computed == ["second", "first"]
    assert "left out: third: there is no pretrained network" in capsys.readouterr().out
    network = tmp_path / "pretrained" / download_pretrained.NETWORKS[-1].file
    network.parent.mkdir(parents=True)
    network.touch()
    assert fakes.all(data_dir=tmp_path) == ["third"]


def test_a_folder_that_cannot_be_written(fakes: Fakes) -> None:
    fakes.out.write_text("in the way")
    with pytest.raises(OSError, match="--out"):
        fakes.all()
    assert fakes.computed == []


def test_theory_vs_simulation_is_finished_too(tmp_path: Path) -> None:
    settings = catalogue.settings("theory_vs_simulation", "smoke", out=tmp_path)
    folder = tmp_path / "theory_vs_simulation" / "photographs"
    folder.mkdir(parents=True)
    assert not frame.finished(folder, settings)
    write(
        folder,
        settings,
        {"a": np.ones(1)},
        {"checks": []},
        lambda folder, _: (folder / "a.png").write_bytes(b""),
        1.0,
    )
    assert frame.finished(folder, settings)
    assert not frame.finished(folder, replace(settings, steps=7))
