"""Where the time of a first call goes."""

import numpy as np
import pytest

from experiments.benchmark import measurement as one
from experiments.benchmark import programs
from tests.experiments.benchmark.fakes import OURS, some_images


def row(name, seconds, lines=10):
    stages = {"tracing": seconds / 2, "lowering": seconds / 4, "compiling": seconds / 4}
    return {"program": name, "count": 1, "lines": lines} | stages


def test_a_fresh_process_names_what_it_compiles(tmp_path):
    np.save(tmp_path / "images.npy", some_images())
    profile = one.profile(OURS, tmp_path / "images.npy")
    assert profile["seconds"] > 0
    rows = profile["programs"]
    assert all(row["count"] > 0 and row["lines"] > 0 for row in rows)
    spent = sum(row[stage] for row in rows for stage in ("lowering", "compiling"))
    assert 0 < spent < profile["seconds"]


def test_the_longest_first_and_the_small_ones_together():
    merged = programs._merged(
        [row("a", 0.05), row("b", 1), row("c", 2), row("d", 0.09)]
    )
    assert [row["program"] for row in merged] == ["c", "b", "others"]
    assert (merged[-1]["count"], merged[-1]["lines"]) == (2, 20)
    assert merged[-1]["tracing"] == pytest.approx(0.07)
    assert [row["program"] for row in programs._merged([row("b", 1)])] == ["b"]


def test_the_table_of_programs():
    profile = {"method": "m", "version": "v", "seconds": 3.0, "programs": [row("c", 2)]}
    shown = programs.text([profile]).splitlines()
    assert shown[0] == "m; v: 1 programs, 3 s"
    assert shown[2].split() == ["c", "1", "10", "1.00", "s", "0.50", "s", "0.50", "s"]
