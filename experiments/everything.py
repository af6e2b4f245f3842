"""Every experiment, one after the other, and the report.

    python -m experiments all
    python -m experiments all --preset smoke --out /tmp/results

What is finished with the same settings is not made again, and a training that was
interrupted continues, so that the same command may be given until all is there.
"""

import itertools
import sys
import time
import traceback
from pathlib import Path

import linear_cnn
from experiments import catalogue, frame, report, trained
from experiments.catalogue import CATALOGUE
from experiments.download.pretrained import NETWORKS
from experiments.frame import Preset, disk
from linear_cnn import datasets

# Errors that say in words what is wrong; any other is shown with the place where it was
# raised.
EXPLAINED = (OSError, ValueError, linear_cnn.TrainingDiverged)


def main(
    preset: Preset = "cpu", out: Path = Path("results"), data_dir: Path | None = None
) -> None:
    """Every experiment, one after the other, and the report.

    Args:
        preset: smoke: photographs and tiny networks; cpu: some images of CIFAR-10,
            for 2 cores; paper: all of it, for an accelerator.
        out: Folder for the results and for the trained networks.
        data_dir: Where the data sets lie; $LINEAR_CNN_DATA or a folder of the user's
            cache by default.
    """
    disk.prepare_folder(out)
    failed = _without_data(preset, data_dir)
    for name, error in failed.items():
        print(f"left out: {name}: {error}", flush=True)
    wanted = [name for name in CATALOGUE if name not in failed]
    started = time.perf_counter()
    for number, name in enumerate(wanted, start=1):
        print(
            f"\n=== {number} of {len(wanted)}: {name} ({CATALOGUE[name].paper})",
            flush=True,
        )
        reason = _made(name, preset, out, data_dir)
        if reason:
            failed[name] = reason
            print(f"failed: {name}: {reason}", flush=True)
    print(f"\n=== report, after {(time.perf_counter() - started) / 60:.1f} minutes")
    report.main(out)
    print(f"{len(CATALOGUE) - len(failed)} of {len(CATALOGUE)} experiments are there")
    if failed:
        sys.exit(
            "\n".join(
                [
                    "error: these are not:",
                    *(f"  {name}: {reason}" for name, reason in failed.items()),
                ]
            )
        )


def _without_data(preset: Preset, data_dir: Path | None) -> dict[str, str]:
    """The experiments whose data are not there, each with the error that says how to
    get them."""
    needed = {name: catalogue.data_sets(name, preset) for name in CATALOGUE}
    errors = {
        what: _absence(what, data_dir)
        for what in dict.fromkeys(itertools.chain(*needed.values()))
    }
    found = {
        name: next((errors[what] for what in needs if errors[what]), None)
        for name, needs in needed.items()
    }
    return {name: error for name, error in found.items() if error}


def _absence(what: str, data_dir: Path | None) -> str | None:
    if what == "pretrained":
        folder = datasets.data_folder(data_dir) / what
        there = any((folder / network.file).exists() for network in NETWORKS)
        return (
            None
            if there
            else (
                f"there is no pretrained network in {folder}; get them with"
                f" {trained.COMMAND}"
            )
        )
    try:
        linear_cnn.load_images(what, data_dir=data_dir)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _made(name: str, preset: Preset, out: Path, data_dir: Path | None) -> str | None:
    """Run an experiment unless it is finished; what went wrong, if something did."""
    try:
        settings = catalogue.settings(name, preset, out=out, data_dir=data_dir)
        whole = catalogue.resolved(name, settings)
        folder = disk.folder(out, name, whole.dataset)
        if frame.finished(folder, whole):
            print(f"finished with these settings, in {folder}")
        else:
            catalogue.module(name).main(settings)
    except Exception as error:
        # whatever it is, the other experiments can still be made
        if isinstance(error, EXPLAINED):
            return str(error)
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None
