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
        (
            {"classes": ["\x1b[31mdog", "cat"]},
            "VGG11, 64 filters, \\x1b[31mdog / cat",
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


def titles_of(**changes: dict) -> dict[str, str]:
    """The titles of runs that differ from CONFIG, by their names."""
    return run.titles({name: CONFIG | change for name, change in changes.items()})


def test_runs_of_one_title_are_told_apart() -> None:
    plain = "VGG11, 64 filters"
    assert titles_of(small={"batch_size": 16}, usual={}, large={"batch_size": 512}) == {
        "small": f"{plain}, batch size 16",
        "usual": f"{plain}, batch size 256",
        "large": f"{plain}, batch size 512",
    }
    # Only those that would be called the same.
    assert titles_of(
        one={"batch_size": 16}, two={}, three={"shuffled_labels": 0, "batch_size": 16}
    ) == {
        "one": f"{plain}, batch size 16",
        "two": f"{plain}, batch size 256",
        "three": f"{plain}, shuffled labels",
    }
    network = CONFIG["network"]
    assert titles_of(
        one={"network": network | {"width": 0.25}}, two={"learning_rate": 0.1}
    ) == {
        "one": f"{plain}, width 0.25, learning rate 0.01",
        "two": f"{plain}, width 1.0, learning rate 0.1",
    }


def test_what_follows_from_a_difference_is_not_named() -> None:
    plain = "VGG11, 64 filters"
    long = {"epochs": 90, "record_epochs": [1, 90]}
    short = {"epochs": 30, "record_epochs": [1, 30]}
    assert titles_of(long=long, short=short) == {
        "long": f"{plain}, epochs 90",
        "short": f"{plain}, epochs 30",
    }
    # A checksum follows from the images, but says what nothing else does.
    few, many = ({"images": 2, "checksum": "a"}, {"images": 3, "checksum": "b"})
    assert titles_of(few=few, many=many) == {
        "few": f"{plain}, images 2",
        "many": f"{plain}, images 3",
    }
    assert titles_of(one={"checksum": "a"}, two={"checksum": "b"}) == {
        "one": f"{plain}, checksum a",
        "two": f"{plain}, checksum b",
    }
    # A constant schedule is not written into a configuration.
    assert titles_of(one={"schedule": "cosine"}, two={}) == {
        "one": f"{plain}, schedule cosine",
        "two": f"{plain}, schedule constant",
    }
    assert set(titles_of(one={}, two={}).values()) == {plain}
