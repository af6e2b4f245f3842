"""How cost grows: the series, their exponents, and the figure."""

import numpy as np
import pytest

import theory
from experiments.benchmark import growth
from experiments.benchmark.comparison import compare
from experiments.benchmark.rows import GROWTH, Row, Task
from tests.experiments.benchmark.fakes import measurement, some_images


def results(series, seconds, megabytes):
    """Rows of a series, its sizes mapped to CPU seconds of second calls and memory."""
    return [
        compare(
            Row(GROWTH, series.title, Task(series.method(size), 9), size=size),
            [measurement(9.0, seconds(size) / 2, megabytes(size))],
            None,
        )
        for size in series.sizes
    ]


def all_results():
    return [
        row
        for series in growth.SERIES
        for row in results(series, lambda size: 1e-3 + 1e-4 * size**2, lambda _: 5.0)
    ]


def test_the_exponent_is_the_slope_over_the_upper_sizes():
    series = growth.SERIES[0]
    # Below 64 seeds something else counts.
    found = results(series, lambda size: 0.5 * max(size, 64) ** 0.9, lambda s: 3.0 * s)
    (course,) = growth.courses(found[::-1])
    assert course.first == 64
    assert course.slope == pytest.approx(0.9)
    assert course.memory_slope == pytest.approx(1.0)
    assert course.misfit == pytest.approx(0, abs=1e-9)
    shown = growth.text([course]).splitlines()
    assert shown[0] == f"{series.title} (fits from 64; seconds within 0%)"
    assert shown[1].split() == [
        "seeds",
        "1",
        "4",
        "16",
        "64",
        "256",
        "1,024",
        "4,096",
        "exponent",
    ]
    assert shown[2].split()[-1] == "0.90"
    (course,) = growth.courses(found[5:])
    assert (course.slope, course.memory_slope) == (None, None)
    assert growth.text([course]).splitlines()[2].split()[-1] == "-"


def test_the_misfit_says_how_bent_a_course_is():
    slope, misfit = growth.fitted([1, 2, 4], [1.0, 4.0, 4.0])
    assert slope == pytest.approx(1.0)
    assert misfit == pytest.approx(2 ** (2 / 3) - 1)
    assert growth.fitted([1, 2, 4], [1.0, 0.0, 1.0]) == (None, 0.0)


def test_the_figure_has_three_panels(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(growth.figures, "save", lambda figure, *_: drawn.append(figure))
    growth.draw(growth.courses(all_results()), tmp_path)
    (figure,) = drawn
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
    assert labels == ["seeds", "images", "kernel size"]
    texts = [
        text.get_text()
        for axis in figure.axes
        if axis.get_legend()
        for text in axis.get_legend().get_texts()
    ]
    assert len(texts) == len(growth.SERIES)
    assert all("slope" in text for text in texts)


def prepared(prepare, size):
    return prepare(some_images(), size)()


def test_a_stream_has_the_moments_of_all_its_images():
    images = some_images()
    stream = np.concatenate([images, images, images[:2]])
    patches = np.lib.stride_tricks.sliding_window_view(stream, (3, 3), axis=(1, 2))
    first = patches[:, :, :, 0, 0, 0].astype(np.float64)
    np.testing.assert_allclose(prepared(growth.streamed, 12), [first.var()], rtol=1e-9)


def test_closed_forms_are_those_of_the_images():
    images, t = some_images(), 1_000_000
    dynamics, components = growth.dynamics_of(images, 3)
    spectrum = theory.patch_spectrum(images, 3)
    np.testing.assert_allclose(prepared(growth.spectrum, 3), spectrum.variance[:1])
    law = {"init_std": 1e-3, "components": components}
    mean = dynamics.expected_profile(t, **law)
    np.testing.assert_allclose(prepared(growth.expected, 3), mean[:1])
    kernel = np.random.default_rng(1).normal(size=(2, 3, 3, 3, 16))
    profile = theory.energy_profile(dynamics.kernel(t, kernel), components)
    np.testing.assert_allclose(
        prepared(growth.squared_profiles, 2), profile[0, :1] ** 2, rtol=1e-4
    )


@pytest.mark.slow
def test_bands_are_those_of_the_law():
    dynamics, components = growth.dynamics_of(some_images(), 3)
    median = dynamics.profile_quantiles(
        0.5, 1_000_000, init_std=1e-3, components=components
    )
    np.testing.assert_allclose(prepared(growth.bands, 3), median[:1])


def test_linear_cnns_are_trained(monkeypatch):
    monkeypatch.setattr(growth, "STEPS", 3)
    loss = prepared(growth.linear_cnns, 2)
    assert loss.shape == (1,)
    assert 0 < loss[0] < 1e3
