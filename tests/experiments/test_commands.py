"""The command line: what its help says, and that it runs in a process of its own."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from experiments import catalogue
from experiments.__main__ import commands
from experiments.catalogue import CATALOGUE
from experiments.frame import PRESET_NAMES, Preset


def run(*words: str) -> Any:
    """The command of these words, in this process."""
    return tyro.extras.subcommand_cli_from_dict(
        commands(words),
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """What --help says is the default of each option, without spaces: lines are broken
    anywhere."""
    with pytest.raises(SystemExit) as stopped:
        run(*words, "--help")
    assert stopped.value.code == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    options = re.split(r" (--[a-z-]+) (?=[{[A-Z])", text)[1:]
    return {
        option: "".join(re.findall(r"\(default: (.*?)\)", words)).replace(" ", "")
        for option, words in zip(options[::2], options[1::2], strict=True)
    }


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("name", CATALOGUE)
def test_help_shows_what_the_preset_gives(
    capsys, name: str, preset: Preset, together: bool
) -> None:
    words = [f"--preset={preset}"] if together else ["--preset", preset]
    shown = help_of(capsys, name, *words)
    settings = catalogue.module(name).PRESETS[preset]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool) or value in ((), ""):
            continue  # a flag; what the help has no words for
        each = value if isinstance(value, tuple) else (value,)
        assert shown[option] == "".join(map(str, each)), option


def test_help_without_a_preset(capsys) -> None:
    """Of the experiments that train nothing their own defaults, of the others those of
    the cpu preset."""
    shown = help_of(capsys, "theory_vs_simulation")
    assert (shown["--steps"], shown["--images"]) == ("150000", "None")
    shown = help_of(capsys, "frozen_first_layer")
    assert (shown["--preset"], shown["--batch-size"]) == ("cpu", "32")


@pytest.mark.parametrize("name", ["iterations", "consistency"])
@pytest.mark.parametrize("words", [["--preset", "gpu"], ["--preset=gpu"]])
def test_an_unknown_preset(capsys, name: str, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(name, *words)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "gpu" in printed.out + printed.err
    assert "--preset" in printed.out + printed.err


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_named_goes_before_the_preset(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module, given = catalogue.module(name), []
    monkeypatch.setattr(module, "main", given.append)
    for words in (
        ["--images", "77", "--preset", "smoke"],
        ["--preset=smoke", "--images=77"],
    ):
        run(name, *words)
        expected = dataclasses.replace(module.PRESETS["smoke"], images=77)
        assert given.pop() == expected
    run(name)
    assert given == [module.Settings()]


@pytest.mark.parametrize("name", ["iterations", "consistency", "pretrained"])
def test_size_of_the_images_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module, given = catalogue.module(name), []
    monkeypatch.setattr(module, "main", given.append)
    run(name, "--size", "32")
    run(name, "--size", "32", "48", "--upright")
    assert [(one.size, one.upright) for one in given] == [(32, False), ((32, 48), True)]
    saved = json.loads(json.dumps(dataclasses.asdict(given[1]), default=str))
    said = catalogue.command(name, saved, Path("results"))
    assert said.endswith("--size 32 48 --upright")


def test_list(capsys) -> None:
    run("list")
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in CATALOGUE)


def test_report(capsys, tmp_path: Path) -> None:
    run("report", "--out", str(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.md"}
    assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", ("preset", "out", "data-dir")),
        ("report", ("out", "publish")),
        ("data", ("source", "data-dir")),
        ("benchmark", ("out",)),
    ],
)
def test_help_of_the_other_commands(
    capsys, name: str, expected: tuple[str, ...]
) -> None:
    shown = help_of(capsys, name)
    assert {f"--{option}" for option in expected} <= shown.keys()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ,
    )


@pytest.mark.slow
def test_command_line() -> None:
    shown = command("theory_vs_simulation", "--help")
    assert shown.returncode == 0
    assert "--seeds" in shown.stdout
    refused = command("theory_vs_simulation", "--rate", "2.5")
    assert refused.returncode != 0
    assert "--rate must lie between 0 and 2" in refused.stderr
    assert "Traceback" not in refused.stderr
    listed = command("list")
    assert listed.returncode == 0
    assert listed.stdout.startswith("experiment ")


@pytest.mark.slow
def test_a_preset_in_a_process_of_its_own(tmp_path: Path) -> None:
    made = command("iterations", "--preset=smoke", "--decades=2", f"--out={tmp_path}")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "iterations" / "photographs"
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert (settings["preset"], settings["images"], settings["decades"]) == (
        "smoke",
        300,
        2,
    )
