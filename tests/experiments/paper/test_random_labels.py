"""True against shuffled labels, on runs written by hand."""

import numpy as np
import pytest

from experiments import trained
from experiments.paper import random_labels
from tests.experiments.fakes import failing, fake_run


def fake_random_labels() -> dict[str, np.ndarray]:
    arrays = fake_run("true", 0, (0, 1, 2)) | fake_run(
        "shuffled", 1, (0, 1, 2, 5), shuffled_labels=0, epochs=100
    )
    return arrays | trained.fits(arrays, "true") | trained.fits(arrays, "shuffled")


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("shuffled/change", lambda e: e[:, :, ::-1], "true against shuffled labels"),
        (
            "shuffled/weights",
            lambda e: e[:, [3] * 4],
            "shuffled labels against its own initial",
        ),
        (
            "true/accuracy",
            lambda a: a * 0,
            "lowest training accuracy, VGG11, 64 filters",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_random_labels()
    assert not failing(random_labels.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(random_labels.summary(wrong))
    )
