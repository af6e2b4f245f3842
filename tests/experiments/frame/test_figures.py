"""Axes and bands that figures share."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.frame import figures


@pytest.mark.parametrize(
    ("count", "ticks"),
    [
        (1, [1]),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (12, [1, 2, 4, 6, 8, 10, 12]),
        (27, [1, 5, 10, 15, 20, 25]),
        (147, [1, 20, 40, 60, 80, 100, 120, 140]),
        (1000, [1, 1000]),
    ],
)
def test_components_have_a_tick_for_each_or_for_ten_at_most(count, ticks) -> None:
    figure, axis = plt.subplots()
    figures.component_axis(axis, count)
    assert axis.get_xticks().tolist() == ticks
    plt.close(figure)


@pytest.mark.parametrize(
    ("last", "ticks"),
    [
        (1, ["0", "1"]),
        (3, ["0", "1", "2", "3"]),
        (6, ["0", "1", "2", "6"]),
        (50, ["0", "1", "2", "5", "10", "20", "50"]),
        (90, ["0", "1", "2", "5", "10", "20", "50", "90"]),
    ],
)
def test_the_last_epoch_has_a_tick(last, ticks) -> None:
    figure, axis = plt.subplots()
    figures.epoch_axis(axis, last)
    assert [label.get_text() for label in axis.get_xticklabels()] == ticks
    plt.close(figure)


def test_bands_are_filled_or_hatched() -> None:
    figure, axis = plt.subplots()
    values = np.array([[1.0, 2.0], [3.0, 2.0]])
    figures.band(axis, np.arange(2), values, "red")
    figures.band(axis, np.arange(2), values, "red", hatch="//")
    filled, hatched = axis.collections
    assert filled.get_hatch() is None
    assert len(filled.get_facecolor())
    assert hatched.get_hatch() == "//"
    assert not len(hatched.get_facecolor())
    plt.close(figure)
