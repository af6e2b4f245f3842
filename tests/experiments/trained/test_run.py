"""Runs as words."""

import pytest

from experiments.trained import run
from tests.experiments.fakes import CONFIG


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, "VGG11, 64 filters"),
        (
            {"frozen": ["conv1"], "classes": ["dog", "cat"]},
            "VGG11, 64 filters, dog / cat, first layer frozen",
        ),
        ({"energy_component": 3}, "VGG11, 64 filters, labels by component 3"),
        ({"shuffled_labels": 0}, "VGG11, 64 filters, shuffled labels"),
        ({"scaled_component": [3, 2.5]}, "VGG11, 64 filters, component 3 x 2.5"),
        ({"scaled_component": [1, 1.0]}, "VGG11, 64 filters, no component scaled"),
        (
            {
                "network": {
                    "name": "SmallCNN",
                    "depth": None,
                    "first_features": None,
                    "features": [12, 8],
                }
            },
            "SmallCNN, 12 filters",
        ),
    ],
)
def test_titles(changes: dict, title: str) -> None:
    assert run.title(CONFIG | changes) == title
