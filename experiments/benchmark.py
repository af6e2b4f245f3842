"""Speed and memory of this library against the usual ways to the same numbers, measured in one run.

    python -m experiments benchmark --dataset cifar10 --out results

Each measurement is a fresh process on the CPU that loads the images, imports everything, and only then starts the
clock: the first call (with JAX's compilation, of which no cache is used), the second call, and the peak of the resident
memory during the first call above its level before. Peer and ours take turns. Peers that are not installed are left
out, with a word on how to install them. Writes <out>/benchmark/summary.json, or with --only a file of its own beside
it.
"""

import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

import linear_cnn
import theory
from experiments import store, training_benchmark
from experiments.store import version

Compute = Callable[[], np.ndarray]
Measurement = dict[str, Any]

NAME = "benchmark"
SOME, MANY = 10_000, 50_000  # images: what the official recipe can hold in memory, and all of CIFAR-10's training set
LARGEST_KERNEL = 7
BATCH = 256  # images whose patches the plain NumPy sum holds at once
LEARNING_RATE = 1e-7  # of the paper's scan for the time at which the formula fits best
ITERATIONS = range(10_000, 5_000_001, 250)  # of the same
PROFILES = 256  # fitted at once
AGREEMENT = 1e-6  # largest relative difference between peer and ours for the comparison to count


@dataclass(frozen=True)
class Settings:
    """Speed and memory against PyTorch, scikit-learn and plain NumPy."""

    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's name."""
    dataset: str = "photographs"
    """Images: photographs, cifar10, or another name or path that linear_cnn.load_images takes."""
    images: int | None = None
    """Use only the first so many images; by default all, of which no more than 50,000."""
    repeats: int = 3
    """Fresh processes for each number; medians are compared."""
    only: str | None = None
    """Only the rows in which this text occurs, e.g. theory.patch_spectrum or PyTorch."""


# --- methods: from images to a function that is measured ---


def our_spectrum(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """`theory.patch_spectrum`."""
    return lambda: np.asarray(theory.patch_spectrum(images, kernel_size).variance)


def official_recipe(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """All patches in one float64 matrix, and its singular values by `torch.pca_lowrank`, as the paper's authors do."""
    import torch

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def compute() -> np.ndarray:
        unfolded = torch.nn.functional.unfold(tensor, kernel_size)  # (N, d, patches in an image)
        patches = unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]).double()
        singular = torch.pca_lowrank(patches, q=patches.shape[1], center=True)[1]
        return (singular**2 / len(patches)).numpy()

    return compute


def scikit_learn(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """All patches in one float64 matrix, given to scikit-learn's PCA with its fastest solver for such a matrix."""
    from sklearn.decomposition import PCA

    def compute() -> np.ndarray:
        patches = unfold(images, kernel_size)
        variance = PCA(svd_solver="covariance_eigh", copy=False).fit(patches).explained_variance_
        return variance * (len(patches) - 1) / len(patches)

    return compute


def numpy_sum(images: np.ndarray, kernel_size: int = 3) -> Compute:
    """The patches of a few images at a time, and the sum of p p^T over them."""

    def compute() -> np.ndarray:
        total, second, count = 0.0, 0.0, 0
        for start in range(0, len(images), BATCH):
            patches = unfold(images[start : start + BATCH], kernel_size)
            total = total + patches.sum(axis=0)
            second = second + patches.T @ patches
            count += len(patches)
        mean = total / count
        return np.linalg.eigvalsh(second / count - np.outer(mean, mean))[::-1]

    return compute


def our_fit(images: np.ndarray, count: int = 1) -> Compute:
    """`theory.fit_profile` of so many profiles at once; the correlation of the first."""
    profiles, variance = noisy_profiles(images, count)

    def compute() -> np.ndarray:
        fit = theory.fit_profile(profiles, variance, learning_rate=LEARNING_RATE)
        return np.asarray(fit.correlation, np.float64)[:1]

    return compute


def scan_of_times(images: np.ndarray) -> Compute:
    """The formula and its correlation with a profile at each of many iterations, as the paper's authors do."""
    profiles, variance = noisy_profiles(images, 1)

    def compute() -> np.ndarray:
        best = -1.0
        for t in ITERATIONS:
            formula = np.abs(1 - (1 - LEARNING_RATE * variance) ** t) / np.sqrt(variance)
            best = max(best, np.corrcoef(profiles[0], formula)[0, 1])
        return np.array([best])

    return compute


def noisy_profiles(images: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (count, d) that the formula makes up to a tenth, as those of trained networks, and the variance (d,)."""
    variance = np.asarray(theory.patch_spectrum(linear_cnn.normalize_channels(images), 3).variance)
    profile = np.asarray(theory.iteration_profile(variance, ITERATIONS.stop // 5, LEARNING_RATE), np.float64)
    noise = np.random.default_rng(0).normal(size=(count, len(variance)))
    return profile * np.exp(0.1 * noise), variance


def unfold(images: np.ndarray, kernel_size: int) -> np.ndarray:
    """All patches as rows, in float64: (N, H, W, C) -> (N * locations, d)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (kernel_size, kernel_size), axis=(1, 2))
    patches = np.ascontiguousarray(np.moveaxis(windows, 3, -1), np.float64)
    return patches.reshape(-1, images.shape[-1] * kernel_size**2)


class Method(NamedTuple):
    """A way to compute something from images.

    Attributes:
      prepare: images (N, H, W, C), float32 in [0, 1] -> the function to measure, which returns the numbers that every
        method of the same row must agree on. What `prepare` itself does is not measured: imports, the peer's layout.
      package: the peer that must be installed, by the name that pip knows.
    """

    prepare: Callable[[np.ndarray], Compute]
    package: str | None = None


METHODS = {
    "theory.patch_spectrum": Method(our_spectrum),
    "theory.patch_spectrum, 7x7": Method(partial(our_spectrum, kernel_size=7)),
    "torch.pca_lowrank of all patches": Method(official_recipe, "torch"),
    "scikit-learn PCA of all patches": Method(scikit_learn, "scikit-learn"),
    "NumPy sum over batches": Method(numpy_sum),
    "theory.fit_profile": Method(our_fit),
    f"theory.fit_profile, {PROFILES} profiles": Method(partial(our_fit, count=PROFILES)),
    "scan of 19,961 times": Method(scan_of_times),
    **{
        f"{name}, {filters} filters": Method(partial(prepare, width=filters / 64), package)
        for filters in (64, 16)
        for name, prepare, package in (
            ("linear_cnn.train, VGG11-BN", training_benchmark.our_vgg, None),
            ("PyTorch, VGG11-BN", training_benchmark.torch_vgg, "torch"),
            ("XLA's convolution, VGG11-BN", partial(training_benchmark.our_vgg, default_convolution=True), None),
        )
    },
    "linear_cnn.train_seeds, SmallCNN": Method(training_benchmark.our_seeds),
    "linear_cnn.train, SmallCNN, one after another": Method(training_benchmark.one_seed_after_another),
    "XLA's convolution, SmallCNN, lax.map": Method(training_benchmark.default_convolution_mapped),
}


# --- rows: who is compared with whom ---


class Task(NamedTuple):
    """A method of `METHODS` on the first so many images."""

    method: str
    images: int


class Target(NamedTuple):
    """A bound of one of the numbers that `compare` gives."""

    number: str
    relation: Literal["at least", "at most"]
    bound: float


class Row(NamedTuple):
    """One comparison, of ours with a peer or of ours alone."""

    title: str
    ours: Task
    peer: Task | None = None
    targets: tuple[Target, ...] = ()


def rows(shape: tuple[int, ...]) -> list[Row]:
    """All comparisons for images of shape (N, H, W, C); the targets are stated for CIFAR-10 alone."""
    some, many = min(SOME, shape[0]), min(MANY, shape[0])
    small, large = (f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, LARGEST_KERNEL))
    spectrum, large_spectrum = "theory.patch_spectrum", "theory.patch_spectrum, 7x7"
    cifar = shape[1:] == (32, 32, 3)
    some_of_cifar, all_of_cifar = cifar and some == SOME, cifar and many == MANY
    against_recipe = (Target("faster", "at least", 50), Target("less_memory", "at least", 30))
    many_small = (Target("seconds", "at most", 3), Target("megabytes", "at most", 500))
    many_large = (Target("seconds", "at most", 20),)
    return [
        Row(
            small,
            Task(spectrum, some),
            Task("torch.pca_lowrank of all patches", some),
            against_recipe if some_of_cifar else (),
        ),
        Row(small, Task(spectrum, some), Task("scikit-learn PCA of all patches", some)),
        Row(small, Task(spectrum, some), Task("NumPy sum over batches", some)),
        # Five times the images: the cost is linear in their number.
        Row(small, Task(spectrum, many), Task(spectrum, max(1, many // 5)), many_small if all_of_cifar else ()),
        Row(large, Task(large_spectrum, many), None, many_large if all_of_cifar else ()),
        Row(
            "formula fitted to a profile",
            Task("theory.fit_profile", some),
            Task("scan of 19,961 times", some),
            (Target("faster_again", "at least", 100),) if some_of_cifar else (),
        ),
        # The scan is of one profile here too: a ratio of 4 is one of 1,024 for each profile.
        Row(
            f"formula fitted to {PROFILES} profiles, by the peer to 1",
            Task(f"theory.fit_profile, {PROFILES} profiles", some),
            Task("scan of 19,961 times", some),
            (Target("faster_again", "at least", 4),) if some_of_cifar else (),
        ),
        *training_rows(shape, some_of_cifar),
    ]


def training_rows(shape: tuple[int, ...], cifar: bool) -> list[Row]:
    """The comparisons of training; the first calls compile, so that the second ones are to be compared.

    None for images that are too small, or too few, for VGG.
    """
    result: list[Row] = []
    count = shape[0]
    if min(shape[1:3]) < 32 or count < training_benchmark.VGG_BATCH:
        return result

    def add(title: str, ours: str, peer: str, images: int, bound: float) -> None:
        targets = (Target("faster_again", "at least", bound),) if cifar else ()
        result.append(Row(title, Task(ours, images), Task(peer, images), targets))

    images = min(count, 2 * training_benchmark.VGG_BATCH)
    for filters, against_torch in ((64, 0.9), (16, 0.6)):
        title = f"{training_benchmark.VGG_STEPS} training steps of {training_benchmark.VGG_BATCH} images"
        ours = f"linear_cnn.train, VGG11-BN, {filters} filters"
        add(title, ours, f"PyTorch, VGG11-BN, {filters} filters", images, against_torch)
        add(title, ours, f"XLA's convolution, VGG11-BN, {filters} filters", images, 6)
    images = min(count, training_benchmark.SEEDS_BATCH)
    title = (
        f"{training_benchmark.SEEDS} seeds, {training_benchmark.SEEDS_STEPS} steps of {training_benchmark.SEEDS_BATCH}"
    )
    ours = "linear_cnn.train_seeds, SmallCNN"
    add(title, ours, "linear_cnn.train, SmallCNN, one after another", images, 1)
    add(title, ours, "XLA's convolution, SmallCNN, lax.map", images, 8)
    return result


# --- measurement ---


def main(settings: Settings) -> None:
    """Measure every row, print the table and write the summary."""
    images = load(settings)
    folder = store.prepare_folder(settings.out / NAME)
    host = machine()  # now: its load is to be that of others
    table_rows = chosen(rows(images.shape), settings.only)
    with tempfile.TemporaryDirectory() as temporary:
        files = save_images(images, table_rows, Path(temporary))
        del images  # the measured processes need the memory
        results = run(table_rows, files, settings.repeats)
    environment = store.environment()
    summary = {
        "settings": asdict(settings),
        "environment": {
            "machine": host,
            "python": environment["python"],
            "versions": environment["versions"],
            "peers": {method.package: version(method.package) for method in METHODS.values() if method.package},
        },
        "rows": results,
    }
    # Rows that were chosen must not take the place of all.
    part = "" if settings.only is None else "_" + re.sub("[^A-Za-z0-9]+", "_", settings.only).strip("_")
    store.write_json(folder / f"summary{part}.json", summary)
    print(table(results))
    if host["load"] > host["cores"] / 4:
        print(f"The machine was busy (load {host['load']:.1f} on {host['cores']} cores): the times are too long.")
    print(f"written to {folder}")


def chosen(table_rows: list[Row], only: str | None) -> list[Row]:
    """The rows whose title or methods contain a text; all without one."""
    tasks = {row: [task.method for task in (row.ours, row.peer) if task] for row in table_rows}
    found = [row for row in table_rows if only is None or any(only in name for name in (row.title, *tasks[row]))]
    if not found:
        names = sorted({name for names in tasks.values() for name in names})
        raise ValueError(f"--only {only!r} occurs in no row; these are compared: {'; '.join(names)}.")
    return found


def load(settings: Settings) -> np.ndarray:
    """The images, float32 in [0, 1], (N, H, W, C), after all checks of the settings."""
    for name in ("images", "repeats"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    images = linear_cnn.load_images(settings.dataset).images
    if settings.images is not None and settings.images > len(images):
        raise ValueError(f"--images is {settings.images:,}, but {settings.dataset} has {len(images):,} images.")
    if min(images.shape[1:3]) < LARGEST_KERNEL:
        raise ValueError(
            f"--dataset {settings.dataset} has images of {images.shape[1]}x{images.shape[2]} pixels; patches of "
            f"{LARGEST_KERNEL}x{LARGEST_KERNEL} are measured, so choose larger images."
        )
    return linear_cnn.scale_pixels(images[: min(settings.images or MANY, MANY)])


def save_images(images: np.ndarray, table_rows: list[Row], folder: Path) -> dict[int, Path]:
    """Write the first so many images for each number that a row needs, and return the files."""
    counts = {task.images for row in table_rows for task in (row.ours, row.peer) if task}
    files = {count: folder / f"{count}.npy" for count in counts}
    try:
        for count, file in files.items():
            np.save(file, images[:count])
    except OSError as error:
        raise OSError(f"cannot write the images to {folder}: {error}; choose another folder with TMPDIR.") from error
    return files


def run(table_rows: list[Row], files: Mapping[int, Path], repeats: int) -> list[dict[str, Any]]:
    """Measure row by row, peer and ours in turn, and compare."""
    results = []
    plans = [[task for task in (row.peer, row.ours) if task and installed(task)] for row in table_rows]
    with tqdm(total=repeats * sum(map(len, plans)), unit="process") as bar:
        for row, tasks in zip(table_rows, plans, strict=True):
            measured: dict[Task, list[Measurement]] = {task: [] for task in tasks}
            for _ in range(repeats):
                for task in tasks:
                    bar.set_description(f"{task.method}, {task.images:,} images")
                    measured[task].append(measure(task.method, files[task.images]))
                    bar.update()
            results.append(compare(row, measured[row.ours], measured.get(row.peer) if row.peer else None))
    return results


def installed(task: Task) -> bool:
    package = METHODS[task.method].package
    return package is None or version(package) is not None


def measure(method: str, images: Path) -> Measurement:
    """What `report` measures, in a fresh process.

    Args:
      method: a name of `METHODS`.
      images: .npy file.

    Returns:
      "seconds" of the first call and "seconds_again" of the second, "megabytes" of peak memory, whether the memory is
      only a "lower_bound", and the "values" that were computed.

    Raises:
      ChildProcessError: the process failed, with what it said.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compilation is part of the first call
    program = "import sys; from experiments import benchmark; benchmark.report(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, method, str(images)], capture_output=True, text=True, env=environment
    )
    if done.returncode == -signal.SIGKILL:
        raise ChildProcessError(f"{method} was killed, probably for want of memory; use fewer with --images.")
    if done.returncode:
        raise ChildProcessError(f"{method} failed with exit code {done.returncode}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])  # libraries may print as well


def report(method: str, file: str) -> None:
    """Measure a method in this process, and print the measurement as one line of JSON."""
    images = np.load(file)
    compute = METHODS[method].prepare(images)
    gc.collect()
    exact = forget_peak()
    level = peak_memory()
    started = time.perf_counter()
    values = compute()
    seconds = time.perf_counter() - started
    peak = peak_memory()
    started = time.perf_counter()
    compute()
    again = time.perf_counter() - started
    measurement = {"seconds": seconds, "seconds_again": again, "megabytes": (peak - level) / 1e6}
    print(json.dumps(measurement | {"lower_bound": not exact, "values": values.tolist()}))


def forget_peak() -> bool:
    """Let the peak of this process's memory start again from its present level; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """Largest resident memory of this process, in bytes, since `forget_peak` succeeded or else since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # not on every system, and only needed where there is no /proc

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


# --- comparison ---


def compare(row: Row, ours: list[Measurement], peer: list[Measurement] | None) -> dict[str, Any]:
    """Medians of ours, their ratios to the peer's (above 1: ours is better), and whether the targets are met.

    Args:
      row: what was measured.
      ours, peer: one measurement a repeat; no peer if the row has none or it is not installed.

    Returns:
      all that the table and the summary say of the row; a number that was not measured is None.
    """
    numbers: dict[str, float | None] = dict.fromkeys(("faster", "faster_again", "less_memory", "difference"))
    numbers |= {name: median(ours, name) for name in ("seconds", "seconds_again", "megabytes")}
    targets = list(row.targets)
    if row.peer and peer:
        numbers["faster"] = ratio(peer, ours, "seconds")
        numbers["faster_again"] = ratio(peer, ours, "seconds_again")
        numbers["less_memory"] = ratio(peer, ours, "megabytes")
        if row.peer.images == row.ours.images:  # else the results are not the same, and need not be
            numbers["difference"] = relative_difference(peer[0]["values"], ours[0]["values"])
            targets.append(Target("difference", "at most", AGREEMENT))
    return {
        "title": row.title,
        "ours": row.ours._asdict() | runs(ours),
        "peer": row.peer._asdict() | runs(peer or []) if row.peer else None,
        "not_installed": METHODS[row.peer.method].package if row.peer and not peer else None,
        **numbers,
        "targets": [target._asdict() | {"met": is_met(target, numbers[target.number])} for target in targets],
    }


def is_met(target: Target, value: float | None) -> bool | None:
    """None where nothing was measured."""
    if value is None:
        return None
    return value >= target.bound if target.relation == "at least" else value <= target.bound


def runs(measurements: list[Measurement]) -> dict[str, list[Any]]:
    """Every repeat's numbers, by name."""
    names = ("seconds", "seconds_again", "megabytes", "lower_bound")
    return {name: [measurement[name] for measurement in measurements] for name in names}


def median(measurements: list[Measurement], name: str) -> float:
    return float(np.median([measurement[name] for measurement in measurements]))


def ratio(peer: list[Measurement], ours: list[Measurement], name: str) -> float | None:
    """Median of the peer over ours; None where ours is too small to be seen."""
    denominator = median(ours, name)
    return median(peer, name) / denominator if denominator else None


def relative_difference(a: Any, b: Any) -> float:
    """The largest |a - b| / max(|a|, |b|) of all entries, 0 where both are 0."""
    a, b = np.asarray(a), np.asarray(b)
    scale = np.maximum(np.abs(a), np.abs(b))
    return float(np.max(np.abs(a - b) / np.where(scale == 0, 1, scale)))


def table(results: list[dict[str, Any]]) -> str:
    """The results as text."""
    verdicts = {True: "met", False: "missed", None: "not measured"}
    lines = [f"{'':6}{'faster':>8}  {'2nd call':>8}  {'less memory':>11}  {'difference':>10}"]
    for row in results:
        met = [target["met"] for target in row["targets"]]
        verdict = "MISSED" if False in met else "ok" if True in met else "-"
        columns = [times(row["faster"], 8), times(row["faster_again"], 8), times(row["less_memory"], 11)]
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(f"{verdict:6}{'  '.join(columns)}  {difference:>10}  {row['title']}")
        if row["not_installed"]:
            lines.append(f"{'':8}peer: {row['not_installed']} is not installed; pip install '.[benchmark]' brings it")
        elif row["peer"]:
            lines.append(f"{'':8}peer: {side(row['peer'])}")
        lines.append(f"{'':8}ours: {side(row['ours'])}")
        targets = [
            f"{target['number'].replace('_', ' ')} {target['relation']} {target['bound']:g}: {verdicts[target['met']]}"
            for target in row["targets"]
        ]
        lines += [f"{'':8}{'; '.join(targets)}"] if targets else []
    if any(True in row["ours"]["lower_bound"] for row in results):
        lines.append("Memory is a lower bound: this system cannot reset the peak of a process.")
    return "\n".join(lines)


def times(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.3g} x':>{width}}"


def side(entry: Mapping[str, Any]) -> str:
    """One side of a row as text: medians, and the range of the first call over the repeats."""
    seconds = entry["seconds"]
    return (
        f"{np.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g}), 2nd call "
        f"{np.median(entry['seconds_again']):.3g} s; {np.median(entry['megabytes']):.4g} MB; "
        f"{entry['method']}, {entry['images']:,} images"
    )


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the load: processes that have wanted to run in the last minute, on average."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }
