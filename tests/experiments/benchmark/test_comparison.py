"""What is said of ours and of the peer."""

import os

import pytest

from experiments.benchmark.comparison import compare, table
from experiments.benchmark.rows import Row, Target, Task
from tests.experiments.benchmark.fakes import NUMPY, OURS, TORCH, measurement


@pytest.mark.parametrize(
    ("peer", "met"),
    [
        ({"seconds": 50.0, "megabytes": 3000.0}, [True, True, True, True]),
        ({"seconds": 49.0, "megabytes": 3000.0}, [False, True, True, True]),
        ({"seconds": 50.0, "megabytes": 2900.0}, [True, False, True, True]),
        (
            {"seconds": 50.0, "megabytes": 3000.0, "values": (4.0, 2.1, 0.0)},
            [True, True, True, False],
        ),
        (None, [None, None, True]),
    ],
)
def test_targets(peer, met):
    targets = (
        Target("faster", "at least", 50),
        Target("less_memory", "at least", 30),
        Target("seconds", "at most", 1),
    )
    row = Row("section", "title", Task(OURS, 9), Task(TORCH, 9), targets)
    result = compare(row, [measurement()], peer and [measurement(**peer)])
    assert [target["met"] for target in result["targets"]] == met
    shown = table([result])
    assert shown.splitlines()[1].startswith("MISSED" if False in met else "ok")
    assert "seconds at most 1: met (1; 1 to 1)" in shown
    assert ("faster at least 50: not measured" in shown) == (peer is None)


def test_a_lower_bound_is_marked_in_the_table():
    row = Row("section", "title", Task(OURS, 9))
    for lower_bound in (True, False):
        result = compare(
            row, [measurement(lower_bound=lower_bound, megabytes=0.0)], None
        )
        assert ("Memory is a lower bound" in table([result])) == lower_bound
        assert table([result]).splitlines()[1].startswith("- ")  # no target, no verdict


def test_memory_too_small_to_be_seen_has_no_ratio():
    row = Row("section", "title", Task(OURS, 9), Task(NUMPY, 9))
    result = compare(row, [measurement(megabytes=0.0)], [measurement()])
    assert result["less_memory"] is None
    assert result["faster"] == 1.0


def test_a_target_has_the_range_over_pairs():
    row = Row("", "", Task(OURS, 9), Task(TORCH, 9), (Target("faster", "at least", 5),))
    ours = [measurement(seconds) for seconds in (1.0, 2.0, 4.0)]
    peer = [measurement(seconds) for seconds in (10.0, 10.0, 16.0)]
    result = compare(row, ours, peer)
    assert result["targets"][0]["value"] == 5.0
    assert result["targets"][0]["range"] == [4.0, 10.0]
    assert "faster at least 5: met (5; 4 to 10)" in table([result])


@pytest.mark.parametrize(
    ("others", "shown"), [(1.5, True), (0.1, False), (None, False)]
)
def test_a_row_that_others_disturbed_says_so(others, shown):
    row = Row("", "", Task(OURS, 9))
    result = compare(row, [measurement() | {"others": others}], None)
    assert ("busy: others used 1.5 cores meanwhile" in table([result])) == shown


@pytest.mark.parametrize(
    ("number", "relation", "bound", "met"),
    [
        ("seconds", "at most", 1, True),
        ("seconds", "at most", 0.99, None),
        ("seconds", "at most", 0.9, False),  # 1.9 CPU seconds on 2 cores
        ("faster", "at least", 9, None),
        ("faster", "at least", 4, True),
        ("faster", "at least", 11, False),
        ("less_memory", "at least", 2, False),
    ],
)
def test_a_busy_machine_settles_little(number, relation, bound, met, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    target = Target(number, relation, bound)
    row = Row("", "", Task(OURS, 9), Task(TORCH, 9), (target,))
    disturbed = {"others": 1.0, "cpu": 1.9}
    ours = [measurement(seconds) | disturbed for seconds in (1.0, 1.0, 2.0)]
    peer = [measurement(10.0) | {"others": 1.0}] * 3
    result = compare(row, ours, peer)
    assert result["targets"][0]["met"] is met
    shown = table([result])
    assert ("not settled" in shown) == (met is None)
    words = {None: "?", True: "ok", False: "MISSED"}
    assert shown.splitlines()[1].split()[0] == words[met]
