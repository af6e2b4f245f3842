"""The same profile across seeds, widths and architectures, on runs written by hand."""

import pytest

from experiments.paper import consistency
from tests.experiments.fakes import failing, fake_consistency


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        (
            "base/change",
            lambda e: e[:, :, ::-1] * [[[1]], [[0]], [[0]]] + e,
            "across seeds",
        ),
        (
            "base_32/change",
            lambda e: e[:, :, ::-1],
            "across widths of the first layer (64, 32 filters)",
        ),
        ("other/change", lambda e: e[:, :, ::-1], "VGG11 against ResNet18"),
        (
            "base/weights",
            lambda e: -e[:, [3] * 4],
            "trained against its own initial filters",
        ),
    ],
)
def test_a_wrong_array_fails_its_check(field: str, change, expected: str) -> None:
    arrays = fake_consistency()
    assert not failing(consistency.summary(arrays))
    wrong = arrays | {field: change(arrays[field])}
    assert any(
        check.startswith(expected) for check in failing(consistency.summary(wrong))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other_epochs": 0}, "--other-epochs must be at least 1"),
        ({"other_widths": (12,)}, "none twice or equal to --first-features = 12"),
        ({"other_widths": ()}, "--other-widths must be at least one number"),
        (
            {"other_network": "SmallCNN"},
            "--other-network must be another than --network = SmallCNN",
        ),
    ],
)
def test_bad_settings(refused, change: dict, message: str) -> None:
    refused(consistency, change, message)
