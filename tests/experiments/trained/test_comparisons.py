"""Profiles of networks compared over the course of training."""

import itertools

import numpy as np
import pytest

from experiments import trained
from tests.experiments.fakes import correlation, fake_consistency, fake_run


def test_correlations_of_pairs() -> None:
    arrays = fake_consistency()
    runs = trained.measured(arrays)
    for kind in trained.KINDS:
        base, other = arrays[f"base/{kind}"], arrays[f"other/{kind}"]
        epochs, within = trained.correlations(runs["base"], runs["base"], kind)
        assert epochs.tolist() == [0, 1, 2, 3]
        expected = [
            correlation(base[i, 3], base[j, 3])
            for i, j in itertools.combinations(range(3), 2)
        ]
        np.testing.assert_allclose(within[:, 3], expected)
        # The other run is over after two epochs.
        epochs, between = trained.correlations(runs["base"], runs["other"], kind)
        assert epochs.tolist() == [0, 1, 2, 3]
        pairs = list(itertools.product(range(3), range(3)))
        for column, (mine, its) in enumerate(((1, 1), (2, 2), (3, 2)), start=1):
            np.testing.assert_allclose(
                between[:, column],
                [correlation(base[i, mine], other[j, its]) for i, j in pairs],
            )
    assert np.isnan(
        trained.correlations(runs["base"], runs["base"], "change")[1][:, 0]
    ).all()
    initial = trained.to_initial(runs["base"])
    np.testing.assert_allclose(
        initial[:, 3],
        [
            correlation(arrays["base/change"][i, 3], arrays["base/weights"][i, 0])
            for i in range(3)
        ],
    )


@pytest.mark.parametrize(
    ("one", "other", "epochs"),
    [
        ((0, 1, 2, 3, 5), (0, 1, 2, 3, 5), [0, 1, 2, 3, 5]),
        # 4 has no partner but the end has.
        ((0, 1, 2, 3, 4), (0, 1, 2, 3, 5, 7), [0, 1, 2, 3, 5, 7]),
        ((0, 1, 7), (0, 1, 2, 3), [0, 1, 7]),
    ],
)
def test_epochs_at_which_runs_are_compared(one, other, epochs) -> None:
    arrays = fake_run("a", 0, one) | fake_run("b", 1, other)
    runs = trained.measured(arrays)
    found, values = trained.correlations(runs["a"], runs["b"])
    assert found.tolist() == epochs
    np.testing.assert_allclose(
        values[0, -1], correlation(arrays["a/change"][0, -1], arrays["b/change"][0, -1])
    )
    for epoch, value in zip(found[1:], values[0, 1:], strict=True):
        rows = [times.index(min(epoch, times[-1])) for times in (one, other)]
        expected = correlation(
            arrays["a/change"][0, rows[0]], arrays["b/change"][0, rows[1]]
        )
        np.testing.assert_allclose(value, expected)
