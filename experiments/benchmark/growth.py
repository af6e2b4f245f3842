"""How time and memory grow: each series measures one thing at several sizes, and its
exponent is the slope of the logarithms."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import linear_cnn
import theory
from experiments.frame import figures

Compute = Callable[[], np.ndarray]
FILTERS, STEPS, BATCH = 16, 1000, 1000
HEAD = np.full(FILTERS, FILTERS**-0.5)
FIGURE = "benchmark_growth"
QUANTILES = (0.05, 0.5, 0.95)


def linear_cnns(images: np.ndarray, size: int) -> Compute:
    """`linear_cnn.train_seeds` of so many linear CNNs on compressed mean patches."""
    labels = np.random.default_rng(0).normal(size=len(images)).astype(np.float32)
    patches = linear_cnn.mean_patch_images(images, 3)
    data, targets = linear_cnn.compress(patches, labels)
    rate = float(dynamics_of(images, 3)[0].learning_rate)

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            images.shape[-1], FILTERS, head=HEAD, rngs=nnx.Rngs(key)
        )

    def compute() -> np.ndarray:
        trajectory = linear_cnn.train_seeds(
            init,
            data,
            targets[:, None],
            optimizer=optax.sgd(rate),
            steps=STEPS,
            keys=jax.random.split(jax.random.key(0), size),
            record_steps=[STEPS],
        )
        return np.asarray(trajectory.loss)[:1, -1]

    return compute


def streamed(images: np.ndarray, size: int) -> Compute:
    """`theory.patch_moments` of a stream of batches, the same images over and over."""
    batches, rest = divmod(size, len(images))
    last = [images[:rest]] if rest else []

    def compute() -> np.ndarray:
        stream = itertools.chain(itertools.repeat(images, batches), last)
        return np.asarray(theory.patch_moments(stream, 3).covariance)[0, :1]

    return compute


def spectrum(images: np.ndarray, size: int) -> Compute:
    """`theory.patch_spectrum` at a kernel size."""
    return lambda: np.asarray(theory.patch_spectrum(images, size).variance)[:1]


def expected(images: np.ndarray, size: int) -> Compute:
    """`LinearDynamics.expected_profile` at 200 times, at a kernel size."""
    dynamics, components = dynamics_of(images, size)
    t = np.geomspace(1, 1e6, 200).round()

    def compute() -> np.ndarray:
        profile = dynamics.expected_profile(t, init_std=1e-3, components=components)
        return np.asarray(profile)[-1, :1]

    return compute


def bands(images: np.ndarray, size: int) -> Compute:
    """`LinearDynamics.profile_quantiles`, three at 20 times, at a kernel size."""
    dynamics, components = dynamics_of(images, size)
    t = np.geomspace(1, 1e6, 20).round()

    def compute() -> np.ndarray:
        band = dynamics.profile_quantiles(
            np.array(QUANTILES), t, init_std=1e-3, components=components
        )
        return np.asarray(band)[1, -1, :1]

    return compute


def squared_profiles(images: np.ndarray, size: int) -> Compute:
    """Squared profiles of so many given initial kernels at 200 times, in one compiled
    call."""
    dynamics, components = dynamics_of(images, 3)
    t = np.geomspace(1, 1e6, 200).round()
    kernel = np.random.default_rng(1).normal(size=(size, *dynamics.kernel_shape, 16))

    @jax.jit
    def profiles(dynamics: Any, t: Any, kernel: Any, components: Any) -> jax.Array:
        return dynamics.profile(t, kernel, components=components) ** 2

    on_device = jax.device_put((dynamics, t, kernel.astype(np.float32), components))

    def compute() -> np.ndarray:
        return np.asarray(profiles(*on_device).block_until_ready()[-1, 0, :1])

    return compute


def dynamics_of(images: np.ndarray, kernel_size: int) -> tuple[Any, Any]:
    """Closed form of a linear CNN on random targets, and the components of its
    patches."""
    targets = np.random.default_rng(0).normal(size=len(images))
    moments = theory.mean_patch_moments(images, targets, kernel_size)
    rate = 0.5 * theory.largest_stable_learning_rate(moments, HEAD)
    components = theory.patch_spectrum(images, kernel_size).components
    return theory.gradient_descent(moments, HEAD, rate), components


class Series(NamedTuple):
    """One thing at several sizes.

    Attributes:
      along: what grows, a panel of the figure.
      prepare: images and a size -> the function to measure.
      images: how many it is given, or holds at once.
    """

    title: str
    along: str
    sizes: tuple[int, ...]
    prepare: Callable[[np.ndarray, int], Compute]
    images: int = 1000

    def method(self, size: int) -> str:
        """Its name among the methods."""
        return f"{self.title}, {size:,} {self.along}"

    def at(self, size: int) -> Callable[[np.ndarray], Compute]:
        """Images -> the function to measure at a size."""
        return lambda images: self.prepare(images, size)


KERNEL_SIZES = (3, 5, 7, 9, 11)
SERIES = (
    Series(
        f"linear CNNs, {STEPS:,} steps",
        "seeds",
        (1, 4, 16, 64, 256, 1024, 4096),
        linear_cnns,
    ),
    Series("squared profiles", "seeds", (1, 4, 16, 64, 256, 1024), squared_profiles),
    Series(
        "patch_moments of a stream",
        "images",
        (10**3, 10**4, 10**5, 10**6),
        streamed,
        BATCH,
    ),
    Series("patch_spectrum, 1,000 images", "kernel size", KERNEL_SIZES, spectrum),
    Series("expected_profile, 200 times", "kernel size", KERNEL_SIZES, expected),
    Series("profile_quantiles, 20 times", "kernel size", KERNEL_SIZES, bands),
)


class Course(NamedTuple):
    """What was measured of a series.

    Attributes:
      seconds: of all cores together, of second calls, medians; what else the machine
        does hardly touches them.
      megabytes: peaks of first calls, medians.
      first: the smallest size that the fits see.
      slope, memory_slope: exponents; None for fewer than three sizes, or where memory
        was too small to be seen.
      misfit: largest factor, less one, by which the seconds are off the fit.
    """

    series: Series
    sizes: list[int]
    seconds: list[float]
    megabytes: list[float]
    first: int
    slope: float | None
    memory_slope: float | None
    misfit: float


def courses(results: Sequence[dict[str, Any]]) -> list[Course]:
    """The series among the rows of a benchmark."""
    found = []
    for series in SERIES:
        rows = {
            r["size"]: r for r in results if r["size"] and r["title"] == series.title
        }
        if rows:
            sizes = sorted(rows)
            seconds = [np.median(rows[size]["ours"]["cpu_again"]) for size in sizes]
            megabytes = [rows[size]["megabytes"] for size in sizes]
            upper = slice(-max(3, (len(sizes) + 1) // 2), None)
            slope, misfit = fitted(sizes[upper], seconds[upper])
            memory_slope, _ = fitted(sizes[upper], megabytes[upper])
            first = sizes[upper][0]
            found.append(
                Course(
                    series,
                    sizes,
                    seconds,
                    megabytes,
                    first,
                    slope,
                    memory_slope,
                    misfit,
                )
            )
    return found


def fitted(sizes: Sequence[int], values: Sequence[float]) -> tuple[float | None, float]:
    """Slope of a line through the logarithms by least squares, and the largest factor,
    less one, by which a value is off it."""
    if len(sizes) < 3 or min(values) <= 0:
        return None, 0.0
    x, y = np.log(sizes), np.log(values)
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.expm1(np.abs(y - offset - slope * x).max()))


def text(found: Sequence[Course]) -> str:
    """The table of the series."""
    lines = []
    for course in found:
        cells = [
            (course.series.along, [f"{size:,}" for size in course.sizes], "exponent"),
            ("CPU seconds", [f"{s:.3g}" for s in course.seconds], _slope(course.slope)),
            (
                "megabytes",
                [f"{m:.3g}" for m in course.megabytes],
                _slope(course.memory_slope),
            ),
        ]
        fit = f" (fits from {course.first:,}; seconds within {course.misfit:.0%})"
        lines.append(course.series.title + (fit if course.slope is not None else ""))
        lines += [
            f"    {name:12}{''.join(f'{cell:>10}' for cell in row)}{last:>11}"
            for name, row, last in cells
        ]
    return "\n".join(lines)


def _slope(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw(found: Sequence[Course], folder: Path) -> None:
    """Seconds and memory against what grows: a panel for each, with the fitted
    lines."""
    peaks = [value for course in found for value in course.megabytes if value > 0]
    panels = list(dict.fromkeys(course.series.along for course in found))
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3.6 * len(panels), 4.2), squeeze=False
        )
        for axis, along in zip(axes[0], panels, strict=True):
            memory = axis.twinx()
            shown = [course for course in found if course.series.along == along]
            for course, colour in zip(shown, figures.COLOURS, strict=False):
                label = course.series.title
                if course.slope is not None:
                    label += f": slope {course.slope:.2f}"
                    x = np.array([s for s in course.sizes if s >= course.first], float)
                    y = np.array(course.seconds[-len(x) :])
                    slope, offset = np.polyfit(np.log(x), np.log(y), 1)
                    axis.plot(x, np.exp(offset) * x**slope, color=colour)
                axis.plot(course.sizes, course.seconds, "o", color=colour, label=label)
                memory.plot(
                    course.sizes,
                    course.megabytes,
                    "s:",
                    color=colour,
                    mfc="none",
                    markersize=4,
                    linewidth=0.8,
                )
            axis.set(xscale="log", yscale="log", xlabel=along)
            # The same in all panels, lest a flat course look steep.
            memory.set(yscale="log", ylim=(min(peaks) / 2, max(peaks) * 2))
            memory.grid(False)
            memory.spines["right"].set_visible(True)
            if along == "kernel size":
                ticks = shown[0].sizes
                axis.set_xticks(ticks, [str(tick) for tick in ticks])
                axis.set_xticks([], minor=True)
            figures.legend_below(axis)
        axes[0, 0].set_ylabel("CPU seconds of a second call (filled; line: fit)")
        memory.set_ylabel("peak memory in MB (hollow, dotted)")
        figures.save(figure, folder, FIGURE)
