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


def check(folder, names):
    files = []
    for n, name in enumerate(names):
        ATTACKS[name].write(folder / f"hostile {n}", ATTACKS[name].size)
        files.append((folder / f"hostile {n}", ATTACKS[name].by))
    # The measure can fail: on an honest file of as much as it holds.
    large = folder / "large.npz"
    pixels = np.zeros((300, 2**10, 2**10, 1), np.uint8)
    np.savez(large, images=pixels, labels=np.zeros(300, int))
    *took, honest = costs([*files, (large, "images")])
    assert honest.megabytes > 290, honest
    for name, cost in zip(names, took, strict=True):
        assert cost.megabytes < BUDGET, (name, cost)
        assert cost.said.startswith(("ValueError", "Unfit")), (name, cost)
        assert len(cost.said) < 700, (name, cost)


def test_hostile_files_that_are_quick(tmp_path):
    check(tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in QUICK])
def test_hostile_files(tmp_path, name):
    check(tmp_path, [name])
