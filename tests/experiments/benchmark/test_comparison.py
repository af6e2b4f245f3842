"""What is said of ours and of the peer."""

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
    row = Row("title", Task(OURS, 9), Task(TORCH, 9), targets)
    result = compare(row, [measurement()], peer and [measurement(**peer)])
    assert [target["met"] for target in result["targets"]] == met
    shown = table([result])
    assert shown.splitlines()[1].startswith("MISSED" if False in met else "ok")
    assert "seconds at most 1: met" in shown
    assert ("faster at least 50: not measured" in shown) == (peer is None)


def test_a_lower_bound_is_marked_in_the_table():
    row = Row("title", Task(OURS, 9))
    for lower_bound in (True, False):
        result = compare(
            row, [measurement(lower_bound=lower_bound, megabytes=0.0)], None
        )
        assert ("Memory is a lower bound" in table([result])) == lower_bound
        assert table([result]).splitlines()[1].startswith("- ")  # no target, no verdict


def test_memory_too_small_to_be_seen_has_no_ratio():
    row = Row("title", Task(OURS, 9), Task(NUMPY, 9))
    result = compare(row, [measurement(megabytes=0.0)], [measurement()])
    assert result["less_memory"] is None
    assert result["faster"] == 1.0
