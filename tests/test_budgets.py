"""A hostile file of up to 64 MB takes at most 256 MB of memory, whoever reads it."""

import sys

import numpy as np
import pytest

from tests.attack import ATTACKS, BUDGET, costs

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the memory a process took is read from /proc"
)
# Quick to write and to read; before there were budgets each took more than all of it.
QUICK = [
    "npz, a text of 10 million letters (LZMA)",
    "PyTorch, a long key of 6 million",
    "GraphDef, 5 million empty nodes",
    "a sparse file of 3 GB",
    "sparse moments of 3 GB",
]


# By who reads them, and PyTorch's apart, since they are the most.
KINDS = ["PyTorch", "weights", "images", "moments", "arrays"]


def kind(name):
    return "PyTorch" if "PyTorch" in name else ATTACKS[name].by


def check(folder, names, *more):
    """All in one process, whose start takes longer than most of them."""
    files = []
    for n, name in enumerate(names):
        ATTACKS[name].write(folder / f"hostile {n}", ATTACKS[name].size)
        files.append((folder / f"hostile {n}", ATTACKS[name].by))
    found = costs([*files, *more])
    for name, cost in zip(names, found, strict=False):
        assert cost.megabytes < BUDGET, (name, cost)
        assert cost.said.startswith(("ValueError", "Unfit")), (name, cost)
        assert len(cost.said) < 700, (name, cost)
    assert len(found) == len(names) + len(more)
    return found[len(names) :]


def test_hostile_files_that_are_quick(tmp_path):
    # The measure can fail: on an honest file of as much as it holds.
    large = tmp_path / "large.npz"
    pixels = np.zeros((300, 2**10, 2**10, 1), np.uint8)
    np.savez(large, images=pixels, labels=np.zeros(300, int))
    (honest,) = check(tmp_path, QUICK, (large, "images"))
    assert honest.megabytes > 290, honest


@pytest.mark.long
@pytest.mark.parametrize("which", KINDS)
def test_hostile_files(tmp_path, which):
    names = [name for name in ATTACKS if name not in QUICK and kind(name) == which]
    assert names
    check(tmp_path, names)
