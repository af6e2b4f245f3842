"""The experiments that train nothing, end to end and against what the paper says."""

from pathlib import Path

import numpy as np
import pytest

from experiments.paper import iterations, label_correlation

pytestmark = pytest.mark.slow
SHORT = {
    "iterations": (iterations, iterations.Settings, {"decades": 3, "images": 300}),
    "label_correlation": (
        label_correlation,
        label_correlation.Settings,
        {"images": 300},
    ),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_experiments(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    module, settings, small = SHORT[name]
    module.main(settings(out=tmp_path, **small))
    folder = tmp_path / name / "photographs"
    printed = capsys.readouterr().out
    assert {file.name for file in folder.iterdir()} == {
        "arrays.npz",
        "config.json",
        "summary.json",
        f"{name}.png",
        f"{name}.pdf",
    }
    before = (folder / f"{name}.png").read_bytes()
    (folder / f"{name}.png").unlink()
    monkeypatch.setattr(
        module, "compute", lambda settings: pytest.fail("computed again")
    )
    module.main(settings(out=tmp_path, redraw=True))
    assert (folder / f"{name}.png").read_bytes() == before
    assert capsys.readouterr().out == printed
    with pytest.raises(ValueError, match="--kernel-size must be at least 1"):
        module.main(settings(out=tmp_path, kernel_size=0))


def test_iterations_show_what_the_paper_says(tmp_path: Path) -> None:
    """Sensitivity moves to later components, and each t whitens further (Fig. 4)."""
    arrays = iterations.compute(iterations.Settings(images=300))
    rows = iterations.summary(arrays)["results"]
    largest, whitened = (
        [row[key] for row in rows]
        for key in ("largest_component", "whitened_components")
    )
    assert largest == sorted(largest)
    assert whitened == sorted(whitened)
    assert (largest[0], largest[-1]) == (1, 27)
    assert whitened[0] <= 1
    assert whitened[-1] == 27
    # Where the assumption fails, so does the order.
    exact = [row["largest_component_exact"] for row in rows]
    assert exact != largest
    np.testing.assert_allclose(
        arrays["theorem"][0] / arrays["theorem"][0, 0],
        np.sqrt(arrays["variance"] / arrays["variance"][0]),
    )


def test_label_correlation_of_shuffled_labels_is_noise() -> None:
    arrays = label_correlation.compute(label_correlation.Settings(images=600))
    rows = label_correlation.summary(arrays)["results"]
    size = {(row["labels"], row["coefficients"]): row["rms_in_noise"] for row in rows}
    assert 0.8 < size["shuffled", "patch"] < 1.2
    assert 0.8 < size["shuffled", "mean patch"] < 1.2
    assert size["true", "patch"] > 3
