"""What drives the first layer of a real network along its training (ours;
docs/prediction.md).

    python -m experiments drive
    python -m experiments drive --preset smoke

VGG11 without dropout is trained on true and shuffled labels, with several batches,
learning rates and numbers of images. At every step gradients of other batches are taken
at the same weights, of the same images and of images that are not trained on. Batches
are independent, so their products tell the drive, the gradient of all images, from the
noise of single batches. Twenty times the curvature of the first layer is measured. A
law makes the size and the shape of its change from these, without looking at it.

Networks are kept in <out>/runs/drive as they are finished; killed and started again,
the experiment continues with the others.

Writes <out>/drive/<dataset>/{config.json, arrays.npz, summary.json, drive.png, .pdf}.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import frame, trained
from experiments.beyond.drive.figures import draw
from experiments.beyond.drive.network import measured
from experiments.beyond.drive.settings import NAME, Settings, resolve, runs
from experiments.beyond.drive.verdicts import checks, results
from experiments.frame import Arrays, disk

# To be raised by a change of the code after which the same settings give other arrays.
FORMAT = 1


def main(settings: Settings) -> None:
    """Ours: what drives the first layer of real networks along their training."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def compute(settings: Settings) -> Arrays:
    """For each run "<run>/config", and what `network.measured` returns with a leading
    axis of networks."""
    named = runs(settings)
    data = trained.load_all(named, settings.data_dir)
    arrays: Arrays = {}
    for name, run in named.items():
        found = []
        for index in range(run.seeds):
            print(f"{name}: network {index + 1} of {run.seeds}", flush=True)
            found.append(_kept(run, data[name], index, settings))
        arrays[f"{name}/config"] = np.array(disk.json_text(dataclasses.asdict(run)))
        arrays |= {
            f"{name}/{key}": np.stack([one[key] for one in found]) for key in found[0]
        }
    return arrays


def _kept(
    run: trained.Run, data: trained.Data, index: int, settings: Settings
) -> Arrays:
    """`measured` of one network, from its file if there is one."""
    content = dataclasses.asdict(run) | {
        "format": FORMAT,
        "index": index,
        "checksum": data.checksum,
        "intervals": settings.intervals,
        "curvature_images": settings.curvature_images,
    }
    for unused in ("seeds", "record_epochs"):
        del content[unused]
    return trained.kept(
        settings.store,
        NAME,
        content,
        lambda: measured(run, data, index, settings),
        fresh=settings.fresh,
    )


def summary(arrays: Arrays) -> dict[str, Any]:
    """What was measured of each run, how well the laws agree with it, the checks."""
    return {"results": results(arrays), "checks": checks(arrays)}


def table(summary: Mapping[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "trained": [row["run"] for row in rows],
        "accuracy": [frame.number(row["accuracy"]) for row in rows],
        "curvature": [frame.number(row["growth"]) for row in rows],
        "directions": [frame.number(row["participation"]) for row in rows],
        "drive turns": [
            "" if row["turning"] is None else f"{row['turning']:.1f}" for row in rows
        ],
        "unseen": [frame.number(row["unseen"]) for row in rows],
        "law": [frame.number(row["law"]) for row in rows],
        "size": [frame.number(row["law, size"]) for row in rows],
        "linear": [frame.number(row["linear"]) for row in rows],
        "one rate": [frame.number(row["one rate"]) for row in rows],
        "start": [frame.number(row["start"]) for row in rows],
    }
    note = (
        "± standard deviation over networks; accuracy: on the training images in the"
        " last interval; curvature: its largest trace over that before training;"
        " directions: the share of them that it has at that time, 1 if all are alike;"
        " drive turns: epochs after which its correlation with itself is one half;"
        " unseen: drive of images that are not trained on, over that of the training"
        " images, in the second quarter of training; law: correlation of its profile"
        " with the trained one at the end, and its size over the trained one; linear,"
        " one rate, start: correlation with less in the law"
    )
    return frame.Table(columns, note)
