"""The rows of the benchmark: which images, and which targets."""

import pytest

from experiments.benchmark.growth import SERIES
from experiments.benchmark.methods import METHODS
from experiments.benchmark.rows import GROWTH, chosen, rows

FULL = rows((50_000, 32, 32, 3))
TRAINING = [256] * 2 + [64] * 2 + [256] * 7 + [64] * 3


def test_rows_of_cifar_10_have_targets_and_smaller_data_none():
    compared = [row for row in FULL if row.section != GROWTH]
    assert [row.ours.images for row in compared] == (
        [10_000] * 3 + [50_000] * 2 + [10_000] * 2 + [1000] + TRAINING
    )
    counts = [len(row.targets) for row in compared]
    assert counts == [2, 0, 0, 2, 1, 1, 1, 1] + [1] * len(TRAINING)
    fewer = rows((10_000, 32, 32, 3))
    assert [len(row.targets) for row in fewer[:8]] == [2, 0, 0, 0, 0, 1, 1, 1]
    for shape in ((2820, 32, 32, 3), (50_000, 28, 28, 1)):
        some = rows(shape)
        assert not any(row.targets for row in some)
        assert {row.title for row in some[:5]} == {
            f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, 7)
        }
    # Too few or too small for VGG: nothing is trained but linear networks.
    for shape in ((255, 32, 32, 3), (2820, 31, 32, 3)):
        assert not any("Training" in row.section for row in rows(shape))


def test_every_method_has_a_row():
    tasks = [task for row in FULL for task in (row.ours, row.peer) if task]
    assert {task.method for task in tasks} == set(METHODS)
    assert len(set(FULL)) == len(FULL)


def test_series_end_where_the_images_do():
    sizes = {
        row.size for row in rows((10, 8, 9, 3)) if row.ours.method.endswith("size")
    }
    assert sizes == {3, 5, 7}
    grown = [row for row in FULL if row.section == GROWTH]
    assert [row.size for row in grown] == [n for series in SERIES for n in series.sizes]


@pytest.mark.parametrize(
    ("only", "count"), [(None, len(FULL)), ("Closed forms", 3), ("cpu preset", 3)]
)
def test_rows_are_chosen_by_section_title_or_method(only, count):
    assert len(chosen(FULL, only)) == count
