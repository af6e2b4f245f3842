"""The rows of the benchmark: which images, and which targets."""

from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import rows


def test_rows_of_cifar_10_have_targets_and_smaller_data_none():
    full = rows((50_000, 32, 32, 3))
    assert [row.ours.images for row in full] == [10_000] * 3 + [50_000] * 2 + [
        10_000
    ] * 2 + [256] * 4 + [64] * 2
    assert [row.peer and row.peer.images for row in full] == [10_000] * 4 + [None] + [
        10_000
    ] * 2 + [256] * 4 + [64] * 2
    assert [len(row.targets) for row in full] == [2, 0, 0, 2, 1, 1, 1] + [1] * 6
    assert [len(row.targets) for row in rows((10_000, 32, 32, 3))] == [
        2,
        0,
        0,
        0,
        0,
        1,
        1,
    ] + [1] * 6
    for shape in ((2820, 32, 32, 3), (50_000, 28, 28, 1)):
        some = rows(shape)
        assert not any(row.targets for row in some)
        assert {row.title for row in some[:5]} == {
            f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, 7)
        }
    assert [row.ours.images for row in rows((2820, 32, 32, 3))] == [2820] * 7 + [
        256
    ] * 4 + [64] * 2
    assert len(rows((127, 32, 32, 3))) == len(rows((2820, 31, 32, 3))) == 7
    assert {
        task.method for row in full for task in (row.ours, row.peer) if task
    } == set(METHODS)
