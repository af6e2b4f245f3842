"""All experiments in the order in which they are run: what each shows, where in the
paper, and how long it takes."""

import importlib
import json
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.frame import AS_STORED, PRESET_NAMES, WHEREABOUTS, Preset, disk

UNKNOWN = "not measured"  # too long for 2 cores
OURS = "ours"  # in the place of a figure of the paper
TOOL = "your own"  # the same of a tool


class Experiment(NamedTuple):
    """One line of the catalogue.

    Attributes:
      shows: in a few words.
      paper: the figures and tables of the paper, OURS, or TOOL.
      time: how long each preset takes on 2 cores, the first time, when programs have to
        be compiled; training that experiments share is counted where it comes first.
      needs: what `python -m experiments data` must have got, beside the data set.
      captions: of its figures by their names, where `draw` makes several.
    """

    shows: str
    paper: str
    time: dict[Preset, str]
    needs: tuple[str, ...] = ()
    captions: Mapping[str, str] = {}


def _times(smoke: str, cpu: str, paper: str) -> dict[Preset, str]:
    return {"smoke": smoke, "cpu": cpu, "paper": paper}


CATALOGUE: dict[str, Experiment] = {
    "theory_vs_simulation": Experiment(
        "closed forms against linear CNNs that were really trained",
        "Theorems 4.2, 4.3",
        _times("1 min", "3 min", "14 min"),
        captions={
            "profiles": (
                "Energy profile against component at growing t: points are trained"
                " networks, lines theory."
            ),
            "errors": (
                "Left: single networks against the exact form. Right: ensembles of"
                " networks against the expected form and the theorem."
            ),
            "decorrelation_ratio": (
                "The decorrelation ratio, 1 where the theorem's assumption holds, of"
                " images as they are and of patch-shuffled ones."
            ),
            "autocorrelation": (
                "Autocorrelation of the responses against distance, from the initial"
                " filters to whitening."
            ),
        },
    ),
    "iterations": Experiment(
        "the closed form at growing t: which components are whitened, and which come"
        " next",
        "Fig. 4",
        _times("10 s", "15 s", "15 s"),
    ),
    "label_correlation": Experiment(
        "labels are nearly uncorrelated with the principal components of patches",
        "Fig. 5",
        _times("10 s", "15 s", "15 s"),
    ),
    "random_labels": Experiment(
        "the first layer learns the same from true and from shuffled labels",
        "Fig. 3, Table 2",
        _times("15 s", "30 min", UNKNOWN),
    ),
    "data_size": Experiment(
        "the first layer at the paper's number of images, against few",
        "Tables 1-3, Fig. 6",
        _times("20 s", UNKNOWN, UNKNOWN),
    ),
    "formula_fit": Experiment(
        "the formula fitted to the first layer of trained networks",
        "Fig. 7, 14-16, Table 3",
        _times("15 s", "16 min", UNKNOWN),
    ),
    "consistency": Experiment(
        "the same profile across seeds, widths and architectures",
        "Fig. 1, 9-13, Table 1",
        _times("30 s", "33 min", UNKNOWN),
    ),
    "frozen_first_layer": Experiment(
        "does it matter that the first layer learns? (paper: the less, the deeper the"
        " network)",
        "Fig. 2, 20",
        _times("1 min", "70 min", UNKNOWN),
        captions={
            "frozen_first_layer": (
                "How much worse networks with a frozen first layer are: at the end of"
                " training against depth, and the slope of that over training."
            ),
            "frozen_first_layer_training": (
                "Losses and accuracies over training: dark and solid of the training"
                " images, light, dashed and hatched of the validation images, mean ±"
                " s.d."
            ),
        },
    ),
    "decorrelation": Experiment(
        "the trained first layer decorrelates pixels, but does not whiten them",
        "Fig. 6",
        _times("20 s", "35 min", UNKNOWN),
        captions={
            "decorrelation": (
                "Autocorrelation of the responses against distance: in our convention,"
                " in others, and the closed form against trained layers."
            ),
            "decorrelation_times": (
                "Trained layers against the closed form over its time: the largest"
                " difference of each network at each record, and, of networks at the"
                " end of training, how far curves and profiles are from those of any"
                " time."
            ),
        },
    ),
    "energy_labels": Experiment(
        "labels made from the patches: there the first layer learns something else",
        "Fig. 8a, 17",
        _times("15 s", "60 min", UNKNOWN),
    ),
    "spectral_scaling": Experiment(
        "one component of all patches scaled: the formula follows",
        "Fig. 8b, 18",
        _times("15 s", "8 min", UNKNOWN),
    ),
    "filters": Experiment(
        "the filters themselves, trained ones beside the initial ones",
        "Fig. 19",
        _times("5 s", "10 s", UNKNOWN),
    ),
    "pretrained": Experiment(
        "first layers of downloaded networks, much the same within and between"
        " families",
        "Fig. 10, 11, demo notebook",
        _times("20 s", "1 min", UNKNOWN),
        needs=("pretrained",),
        captions={
            "pretrained": (
                "Every filter at unit norm, in the components of one data set, below in"
                " those of another. Left the profiles, grey those of random banks of as"
                " many filters, mean ± s.d.; right the correlations of all pairs of"
                " networks, families together."
            ),
            "pretrained_conventions": (
                "The same in the components of the first data set: above with the"
                " weights as they are, below at unit norm without dead filters. Of many"
                " numbers of random filters the fewest and the most are drawn."
            ),
            "pretrained_7x7": (
                "Kernels of 7x7 at unit norm; a network that is the only one has the"
                " fitted formula beside its profile."
            ),
        },
    ),
    "prediction": Experiment(
        "the first layer of real networks, predicted before their training",
        OURS,
        _times("3 min", "2 h", UNKNOWN),
        captions={
            "prediction": (
                "What was predicted with nothing fitted, and what was trained: the"
                " profiles, and their correlation over epochs, over the time of the"
                " prediction, and for several numbers of images."
            ),
            "prediction_curvature": (
                "What the curvature of the first layer is before training: how white"
                " what flows back to it is, the blocks of single filters against their"
                " patch moments, and how far filters then move; and how well forms with"
                " a fitted time agree with the trained profile."
            ),
            "prediction_amplitude": (
                "Against learning rate times steps: how far the weights of the first"
                " layer move, the time at which the prediction has the shape of their"
                " change (on the line: the training's own), and the size that labels"
                " drawn from the network would give over the one that was measured."
            ),
        },
    ),
    "drive": Experiment(
        "what drives the first layer of real networks along their training",
        OURS,
        _times("1 min", "45 min", UNKNOWN),
        captions={
            "drive": (
                "The noise of single batches, and the curvature at its largest, over"
                " the components; the size of the curvature and of the drive over"
                " training; and the change at the end, trained and by the law."
            ),
        },
    ),
    "later": Experiment(
        "the first layer of a real network, predicted some steps into its training",
        OURS,
        _times("30 s", "10 min", UNKNOWN),
        captions={
            "later": (
                "Correlation of the rest of the change with what the curvature after so"
                " many steps predicts: over training at its own time, and at the end at"
                " other times, ± s.d. over networks."
            ),
        },
    ),
    "whiteness": Experiment(
        "what makes the signal that flows back to the first layer white",
        OURS,
        _times("1 min", "15 min", UNKNOWN),
        captions={
            "whiteness": (
                "Above: how white the signal is before training (1: locations do not"
                " correlate), by what is kept of batch norm, and against what follows"
                " from the gates alone. Below: on the way down from the mean over"
                " locations; and how far blocks of the curvature are from moments of"
                " patches."
            ),
        },
    ),
    "initialisation": Experiment(
        "first layers made from the closed form, against drawn ones",
        OURS,
        _times("1 min", "45 min", UNKNOWN),
        captions={
            "initialisation": (
                "Above: the weights of the components in the filters that a network"
                " begins with, and the losses that follow. Below: each arm against the"
                " same networks with He's first layer."
            ),
        },
    ),
    "beyond_the_paper": Experiment(
        "momentum, decay, minibatches, cross-entropy and trained heads: simulation over"
        " theory",
        OURS,
        _times("1 min", "5 min", UNKNOWN),
        captions={
            "beyond_the_paper": (
                "Points are trained networks, lines closed forms: profiles of"
                " optimisers; what the form without momentum, decay and schedule gets"
                " wrong; the limit of weight decay, with its peak where alpha is c; the"
                " standard error over networks."
            ),
            "beyond_the_paper_limits": (
                "Where the closed forms end: minibatches against full batches; their"
                " noise against rate over batch; the error of linearised cross-entropy"
                " against the logits; and of a fixed head, where the head learns too."
            ),
        },
    ),
}


# For networks of the user's own: not a part of `all`, and missing nowhere.
TOOLS: dict[str, Experiment] = {
    "analyse": Experiment(
        "all convolutions of your files of weights, against formula and random filters",
        TOOL,
        _times("seconds", "seconds", "seconds"),
        captions={
            "analyse": (
                "First layers beside as many random filters and the fitted formula, and"
                " the variances of the patches, or the deeper layers; below, of each"
                " layer, the formula's correlation at the best time and at both ends,"
                " and how uneven the profile is, against random filters."
            ),
        },
    ),
}


def entries() -> dict[str, Experiment]:
    """Experiments, then tools."""
    return CATALOGUE | TOOLS


def module(name: str) -> Any:
    """The module of an experiment or a tool, with NAME, Settings, PRESETS, main and, to
    show its results, summary, draw and table."""
    if name in TOOLS:
        return importlib.import_module(f"experiments.{name}")
    if CATALOGUE[name].paper == OURS:
        return importlib.import_module(f"experiments.beyond.{name}")
    return importlib.import_module(f"experiments.paper.{name}")


def settings(name: str, preset: Preset, **changes: Any) -> Any:
    """The settings of an experiment for a preset; of `changes`, those that the
    experiment has."""
    made = module(name).PRESETS[preset]
    known = {field.name for field in fields(made)}
    return replace(made, **{key: changes[key] for key in known & changes.keys()})


def default_settings(name: str, preset: Preset | None) -> Any:
    """What the command of an experiment begins with, with --preset or without."""
    return module(name).Settings() if preset is None else settings(name, preset)


def resolved(name: str, given: Any) -> Any:
    """Settings with what follows from others filled in, as config.json has them.

    Raises:
      ValueError: they cannot work.
    """
    resolve = getattr(module(name), "resolve", None)
    return given if resolve is None else resolve(given)


def data_sets(name: str, preset: Preset) -> tuple[str, ...]:
    """What must be there before an experiment can start: its data set, and what it
    needs beside."""
    return (settings(name, preset).dataset, *CATALOGUE[name].needs)


def command(name: str, given: Mapping[str, Any], out: Path) -> str:
    """The command line that makes results with these settings, the content of
    config.json, and puts them into `out`.

    What is as the preset has it, or as it is by default, is left out.
    """
    preset = given.get("preset")
    chosen = ["--preset", str(preset)] if preset else []
    positional = getattr(module(name), "POSITIONAL", ())
    words = ["python", "-m", "experiments", name]
    words += [str(value) for key in positional for value in given.get(key) or ()]
    words += chosen
    defaults = resolved(name, default_settings(name, preset))
    plain = json.loads(disk.json_text(asdict(defaults)))
    for key, value in given.items():
        if (
            key not in ("preset", *WHEREABOUTS, *positional)
            and value is not None
            and value != plain.get(key, value)
        ):
            words += _flag(f"--{key.replace('_', '-')}", value)
    if out != Path("results"):
        words += ["--out", str(out)]
    return shlex.join(words)


def shown_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of results those that matter to them: not where things lie, not
    what the experiment takes no notice of or what its networks have nothing of."""
    here = module(name)
    hidden = {*WHEREABOUTS, *getattr(here, "UNUSED", ())}
    without_meaning = getattr(here.Settings, "without_meaning", None)
    if without_meaning is not None:
        hidden |= without_meaning({k: v for k, v in given.items() if k not in hidden})
    hidden |= {key for key, value in AS_STORED.items() if given.get(key) == value}
    if given.get("preset") is None:
        hidden.add("preset")
    return {key: value for key, value in given.items() if key not in hidden}


def _flag(option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [option, str(value)]


def show() -> None:
    """All experiments: figure or table of the paper, and how long each preset takes."""
    print(text())


def text() -> str:
    """The catalogue as text, at most 100 columns wide."""
    lines = [
        f"{'experiment':<22}{'figure or table':<28}"
        f"{'smoke':<14}{'cpu':<14}{'paper':<14}".rstrip()
    ]
    for name, experiment in entries().items():
        times = "".join(f"{experiment.time[preset]:<14}" for preset in PRESET_NAMES)
        lines += [
            f"{name:<22}{experiment.paper:<28}{times}".rstrip(),
            f"    {experiment.shows}",
        ]
    note = (
        "smoke: photographs and tiny networks, only to see that all works; cpu: some"
        " images of CIFAR-10 (python -m experiments data cifar10 gets it); paper: all"
        " of them, and networks as wide as the paper's, for a GPU. Times are of 2"
        " cores, the first time; training that experiments share is counted where it"
        " comes first. Each experiment takes --help; python -m experiments all runs"
        " them one after the other."
    )
    return "\n".join([*lines, "", *textwrap.wrap(note, 100)])
