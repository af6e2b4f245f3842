"""Whether a run of `theory_vs_simulation` was long enough to whiten, on arrays written
by hand."""

import numpy as np
import pytest

from experiments.paper.theory_vs_simulation.verdicts import whitening_check

VARIANCE = np.geomspace(4, 0.01, 12)
FILTERS, PATCHES, RATE = 5, 20, 0.1


def arrays_after(steps: int) -> dict[str, np.ndarray]:
    """The theorem's profile after so many steps, of which each takes a share x of what
    is left of a component."""
    x = 2 * RATE * FILTERS / PATCHES * VARIANCE
    records = np.array([0, 1, steps])
    profile = (1 - (1 - x) ** records[:, None]) / np.sqrt(VARIANCE)
    arrays = {
        "variance": VARIANCE,
        "theorem": profile,
        "kernels": np.zeros((3, 3, 2, 2, 3, FILTERS)),
        "learning_rate": RATE,
        "patches_per_image": PATCHES,
        "steps": records,
    }
    return {f"patches_drawn/{name}": np.asarray(part) for name, part in arrays.items()}


# What is left of the slowest component is (1 - 0.0005)^steps, to be at most 1 / 11.
LAST_TOO_FEW = int(np.log(1 / 11) / np.log(1 - 2 * RATE * FILTERS / PATCHES * 0.01))


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        (10, "not reached"),
        (1000, "not reached"),
        (LAST_TOO_FEW, "not reached"),
        (LAST_TOO_FEW + 1, "ok"),
        (100_000, "ok"),
    ],
)
def test_a_run_is_judged_if_it_is_long_enough(steps: int, verdict: str) -> None:
    check = whitening_check(arrays_after(steps))
    assert check.verdict == verdict
    assert check.bound == "<= 0.1"
    assert (check.caveat == "") == (verdict == "ok")
    # As long as it is not judged, it would fail.
    assert (check.value <= 0.1) == (verdict == "ok")


def test_how_much_is_left() -> None:
    left = (1 - 2 * RATE * FILTERS / PATCHES * 0.01) ** 1000
    caveat = f"{left:.0%} of the slowest component is left, more steps are needed"
    assert whitening_check(arrays_after(1000)).caveat == caveat


def test_a_wrong_array_fails_its_check() -> None:
    arrays = arrays_after(100_000)
    for change in (
        lambda profile: profile * np.where(np.arange(12) == 11, 0.85, 1),
        lambda profile: profile * np.where(np.arange(12) == 3, 1.15, 1),
        lambda profile: profile * np.sqrt(VARIANCE),
    ):
        wrong = change(arrays["patches_drawn/theorem"])
        check = whitening_check(arrays | {"patches_drawn/theorem": wrong})
        assert check.verdict == "FAIL"
    # Of few steps nothing is known, not even of a profile that is flat.
    few = arrays_after(10)
    flat = few | {"patches_drawn/theorem": arrays["patches_drawn/theorem"]}
    assert whitening_check(flat).verdict == "not reached"
