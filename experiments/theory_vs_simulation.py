"""Closed forms against linear CNNs that were really trained.

    python -m experiments theory_vs_simulation --out results
    python -m experiments theory_vs_simulation --out results --dataset cifar10 --exact-steps 1000

Trains the Flax model by automatic differentiation and optax: single runs that must follow the exact form to rounding,
and ensembles of seeds that must follow the expected form and, where its assumption holds, Theorem 4.2 of the
paper. Writes <out>/theory_vs_simulation/<dataset>/{config.json, arrays.npz, summary.json, *.png, *.pdf}.
On the photographs the default takes two to three minutes on 2 cores, 1,024 seeds about seven.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

import linear_cnn
import theory
from experiments import frame, inputs, simulation_figures, store

Stage = Callable[[], dict[str, Any]]

NAME = "theory_vs_simulation"
BLOCK = 64  # seeds trained between two moves of the progress bar
QUANTILES = (0.05, 0.95)
DISTANCES = tuple(range(16))
EXACT_INIT_STD = 0.1  # of the single runs: large, so that the initial filters matter throughout
TOLERANCE = {"float64": 1e-9, "float32": 1e-2}

# Images whose gradients are computed at once in the full convolution of all of them: few, so that their patches stay
# in the cache of a CPU (five times faster than 500).
LARGEST_BATCH = 10

ENSEMBLES = {
    "raw_drawn": "raw images, drawn targets",
    "raw_shuffled": "raw images, shuffled labels",
    "patches_drawn": "patch-shuffled images, drawn targets",
}
EXACT = {
    "full": "all images, full convolution, true and shuffled labels",
    "classes": "all mean patches, each class against the rest, true and shuffled labels",
    "few": "32 images, full convolution, stride 3",
    "hard": "32 images, stride 2, SAME, an output a class, head of rank 2, x_max 1.9",
    "mean_patches": "all mean patches",
    "float32": "all mean patches, float32",
    "compressed": "all images, compressed to d pseudo-images",
    "compressed_full": "all images, compressed, steps of the full convolution",
}


@dataclass(frozen=True)
class Settings(frame.Settings):
    """Closed forms against trained linear CNNs."""

    label: int = 3
    """The class that the labels tell from all others, counted from 0 (photographs: coffee; CIFAR-10: cat)."""
    seeds: int = 128
    """Random initialisations, with new targets each, in every ensemble."""
    steps: int = 150_000
    """Gradient steps on patch-shuffled images; raw images are trained for a tenth of them."""
    filters: int = 16
    """Width of the convolution."""
    kernel_size: int = 3
    """Height and width of the filters."""
    rate: float = 0.9
    """Learning rate times the largest curvature; stable below 2."""
    init_std: float = 1e-4
    """Standard deviation of the initial weights of the ensembles."""
    full_steps: int = 20
    """Steps of the runs through the full convolution of all images, with gradients accumulated over batches."""
    exact_steps: int = 10_000
    """Steps of the other single runs; a tenth where the convolution is hard or there are many networks."""
    seed: int = 0
    """Of every random number in the experiment."""


def main(settings: Settings) -> None:
    """Theorems 4.2 and 4.3 of the paper and the exact form, against linear CNNs that are trained here."""
    check(settings)
    folder = inputs.folder(settings.out, NAME, settings.dataset)
    if settings.redraw:
        arrays = frame.saved_arrays(folder)
        draw(folder, arrays)
        print(table(judge(arrays)))
        print(f"figures drawn again in {folder}")
        return
    store.prepare_folder(folder)
    started = time.perf_counter()
    arrays, seconds = compute(settings)
    checks = judge(arrays)
    seconds |= {f"{name}, training alone": float(arrays[f"{name}/training_seconds"]) for name in ENSEMBLES}
    summary = {"checks": checks, "seconds": seconds}
    frame.write(folder, settings, arrays, summary, draw, time.perf_counter() - started)
    print(table(checks))
    print(f"written to {folder}")


def draw(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Draw the four figures."""
    simulation_figures.draw(folder, arrays, EXACT, ENSEMBLES)


def check(settings: Settings) -> None:
    """Raise ValueError for settings that cannot work, before anything is computed."""
    smallest = {"seeds": 2, "steps": 1, "filters": 1, "kernel_size": 1, "full_steps": 1, "exact_steps": 1, "images": 64}
    frame.check_at_least(settings, smallest)
    if not 0 < settings.rate < 2:
        raise ValueError(f"--rate must lie between 0 and 2, the border of stability, got {settings.rate}.")
    if not settings.init_std >= 0:
        raise ValueError(f"--init-std must be >= 0, got {settings.init_std}.")


def record_steps(steps: int) -> np.ndarray:
    """0, 1, 2, 5, 10, 20, 50, ... and the last step."""
    series = [m * 10**e for e in range(len(str(steps))) for m in (1, 2, 5)]
    return np.unique([0, *(step for step in series if step < steps), steps])


def compute(settings: Settings) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """All that takes time: arrays named "stage/array", and the seconds of each stage."""
    shuffle_key, exact_key, head_key, ensemble_key = jax.random.split(jax.random.key(settings.seed), 4)
    pixels, classes, class_names = inputs.load(settings.dataset, settings.data_dir, settings.images)
    check_inputs(settings, pixels, class_names)
    # The theorem assumes patches of mean zero; channels are brought to one scale as for CIFAR-10 in the paper.
    raw = linear_cnn.normalize_channels(pixels.astype(np.float64))
    one_hot = np.eye(len(class_names))[classes]
    labels = one_hot[:, settings.label]
    shuffled = one_hot[linear_cnn.shuffle_labels(classes, exact_key)]
    few = np.linspace(0, len(raw) - 1, 32).round().astype(int)
    left, right = jax.random.split(head_key)
    rank_two = jax.random.normal(left, (settings.filters, 2)) @ jax.random.normal(right, (2, one_hot.shape[1]))
    true_and_shuffled = np.stack([labels, shuffled[:, settings.label]])
    against_rest = np.concatenate([one_hot, shuffled], axis=1).T

    exact = partial(exact_run, settings, exact_key)
    ensemble = partial(run_ensemble, settings, ensemble_key, labels)
    raw_steps, tenth = max(1, settings.steps // 10), max(1, settings.exact_steps // 10)
    blocks = -(-settings.seeds // BLOCK)
    bar = tqdm(total=len(EXACT) + 2 + len(ENSEMBLES) * (blocks + 1), unit="stage")
    stages: dict[str, Stage] = {
        "full": lambda: exact(raw, true_and_shuffled, steps=settings.full_steps, accumulate=True),
        "classes": lambda: exact(raw, against_rest, steps=tenth, data="mean patches"),
        "few": lambda: exact(raw[few], labels[None, few], stride=3),
        "hard": lambda: exact(
            pixels[few], one_hot[None, few], steps=tenth, stride=2, padding="SAME", head=rank_two, rate=1.9
        ),
        "mean_patches": lambda: exact(raw, labels[None], data="mean patches"),
        "float32": lambda: exact(raw, labels[None], data="mean patches", dtype=jnp.float32),
        "compressed": lambda: exact(raw, labels[None], data="compressed"),
        "compressed_full": lambda: exact(raw, true_and_shuffled, steps=settings.full_steps, data="compressed"),
        "permutations": lambda: run_permutations(settings, exact_key, raw),
        "raw_drawn": lambda: ensemble(raw, "drawn", raw_steps, bar.update),
        "raw_shuffled": lambda: ensemble(raw, "shuffled", raw_steps, bar.update),
        "patches_drawn": lambda: ensemble(
            np.asarray(linear_cnn.shuffle_patches(raw, settings.kernel_size, shuffle_key)),
            "drawn", settings.steps, bar.update, stride=settings.kernel_size,
        ),
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}

    def run(name: str, stage: Stage) -> None:
        bar.set_description(name)
        started = time.perf_counter()
        arrays.update({f"{name}/{field}": np.asarray(value) for field, value in stage().items()})
        seconds[name] = round(time.perf_counter() - started, 2)
        bar.update()

    with bar:
        for name, stage in stages.items():
            run(name, stage)
        run("autocorrelation", lambda: run_autocorrelation(settings, raw, arrays["patches_drawn/kernels"]))
    return arrays, seconds


def check_inputs(settings: Settings, images: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Raise ValueError for settings that do not fit the images."""
    largest = min(images.shape[1:3]) // 3
    if settings.kernel_size > largest:
        raise ValueError(
            f"--kernel-size must be at most {largest}, for 3x3 patches in an image of {images.shape[1]}x"
            f"{images.shape[2]} pixels, got {settings.kernel_size}."
        )
    if not 0 <= settings.label < len(class_names):
        names = ", ".join(f"{number} {name}" for number, name in enumerate(class_names))
        raise ValueError(f"--label must be one of {names}; got {settings.label}.")


def exact_run(
    settings: Settings,
    key: jax.Array,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int | None = None,
    data: str = "images",
    accumulate: bool = False,
    head: Any = None,
    stride: int = 1,
    padding: str = "VALID",
    rate: float | None = None,
    dtype: Any = jnp.float64,
) -> dict[str, Any]:
    """One trained network for each set of targets, (S, N) or (S, N, M); the exact form, and deliberately wrong ones."""
    size, width = settings.kernel_size, settings.filters
    head = np.ones(width) if head is None else head
    window: dict[str, Any] = {"stride": stride, "padding": padding}
    sets = targets.reshape(*targets.shape[:2], -1)
    moments = theory.mean_patch_moments(images, sets.transpose(1, 0, 2).reshape(len(images), -1), size, **window)
    # x_max = rate: the border of stability is at 2.
    learning_rate = (rate or settings.rate) / 2 * float(theory.largest_stable_learning_rate(moments, head))
    records = record_steps(steps or settings.exact_steps)

    seen: Any = images
    conv: dict[str, Any] = {"strides": stride, "padding": padding}
    if data != "images":
        seen, conv = linear_cnn.mean_patch_images(images, size, **conv), {}
    if data == "compressed":
        seen, projected = linear_cnn.compress(seen, sets.transpose(1, 0, 2))
        sets = np.asarray(projected).transpose(1, 0, 2)

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            images.shape[-1], width, size, **conv, head=head, init_std=EXACT_INIT_STD, dtype=dtype, rngs=nnx.Rngs(key)
        )

    optimizer: Any = optax.sgd(learning_rate)
    batch, batches = None, 1
    if accumulate:
        batch = max(n for n in range(1, min(len(images), LARGEST_BATCH) + 1) if len(images) % n == 0)
        batches = len(images) // batch
        # The mean of the gradients of all batches of an epoch is that of the full batch.
        optimizer = optax.MultiSteps(optimizer, batches, accumulator_dtype=dtype)
    run = partial(
        linear_cnn.train_seeds if len(sets) > 1 else linear_cnn.train,
        init,
        jnp.asarray(seen, dtype),
        optimizer=optimizer,
        steps=int(records[-1]) * batches,
        record_steps=records * batches,
        batch_size=batch,
    )
    shown = jnp.asarray(sets, dtype)
    if len(sets) > 1:
        kernels = np.asarray(run(shown, keys=jax.random.split(key, len(sets))).conv1)
    else:
        kernels = np.asarray(run(shown[0], key=key).conv1)[None]

    initial = kernels[:, 0].astype(np.float64)

    def predict(second: Any, learning_rate: float) -> np.ndarray:
        forms = []
        for start in range(0, sets.shape[0] * sets.shape[2], sets.shape[2]):
            own = slice(start, start + sets.shape[2])
            of_set = replace(
                moments,
                second=second,
                cross=moments.cross[:, own],
                target_mean=moments.target_mean[own],
                target_covariance=moments.target_covariance[own, own],
            )
            forms.append(theory.gradient_descent(of_set, head, learning_rate))
        return np.stack([form.kernel(records, kernel) for form, kernel in zip(forms, initial, strict=True)])

    wrong = {"wrong_learning_rate": predict(moments.second, learning_rate / 2)}
    if data == "images":
        spectrum = theory.patch_spectrum(images, size, **window, center=False)
        u, variance = np.asarray(spectrum.components), np.asarray(spectrum.variance)
        uncorrelated = jnp.asarray((u * variance) @ u.T) / moments.patches_per_image
        wrong["wrong_second_moment"] = predict(uncorrelated, learning_rate)
    return {
        "steps": records,
        "simulated": kernels,
        "learning_rate": learning_rate,
        "head": head,
        "second": moments.second,
        "cross": moments.cross,
        "predicted": predict(moments.second, learning_rate),
        **wrong,
    }


def run_permutations(settings: Settings, key: jax.Array, images: np.ndarray) -> dict[str, Any]:
    """Networks trained on all 720 orders of 6 labels: the shuffled law gives their mean energy exactly."""
    size, width, head = settings.kernel_size, settings.filters, np.ones(settings.filters)
    few = images[np.linspace(0, len(images) - 1, 6).round().astype(int)]
    labels = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 7.0])
    orders = np.array(list(itertools.permutations(labels)))
    moments = theory.mean_patch_moments(few, labels, size)
    learning_rate = settings.rate / 2 * float(theory.largest_stable_learning_rate(moments, head))
    components = theory.patch_spectrum(images, size, center=False).components
    records = record_steps(min(1000, settings.exact_steps))

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(images.shape[-1], width, size, init_std=0.0, dtype=jnp.float64, rngs=nnx.Rngs(key))

    trained = linear_cnn.train_seeds(
        init,
        linear_cnn.mean_patch_images(few, size),
        orders,
        optimizer=optax.sgd(learning_rate),
        steps=int(records[-1]),
        keys=jax.random.split(key, len(orders)),
        record_steps=records,
    )
    biased = replace(moments, target_covariance=jnp.asarray(moments.target_covariance) * 5 / 6)
    law: dict[str, Any] = {"init_std": 0.0, "targets": "shuffled", "components": components}
    return {
        "steps": records,
        "energy": np.mean(np.asarray(theory.energy_profile(trained.conv1, components)) ** 2, axis=0),
        "expected": theory.gradient_descent(moments, head, learning_rate).expected_profile(records, **law),
        "wrong_count": theory.gradient_descent(biased, head, learning_rate).expected_profile(records, **law),
    }


def run_ensemble(
    settings: Settings,
    key: jax.Array,
    labels: np.ndarray,
    images: np.ndarray,
    targets: str,
    steps: int,
    advance: Callable[[], Any],
    *,
    stride: int = 1,
) -> dict[str, Any]:
    """Many seeds of the compressed problem, and what the closed forms say of them."""
    size, head = settings.kernel_size, np.ones(settings.filters)
    moments = theory.mean_patch_moments(images, labels, size, stride=stride)
    spectrum = theory.patch_spectrum(images, size, stride=stride, center=False)
    if targets == "drawn":
        moments = replace(moments, target_covariance=jnp.ones(()))  # standard normal, whatever the labels are
    learning_rate = settings.rate / 2 * float(theory.largest_stable_learning_rate(moments, head))
    dynamics = theory.gradient_descent(moments, head, learning_rate)
    slow = theory.gradient_descent(moments, head, learning_rate / 2)  # deliberately wrong
    records = record_steps(steps)

    kernels, seconds = train_ensemble(
        settings, key, labels, linear_cnn.mean_patch_images(images, size, strides=stride), targets, learning_rate,
        records, advance,
    )  # fmt: skip
    law: dict[str, Any] = {"init_std": settings.init_std, "targets": targets, "components": spectrum.components}
    theorem: dict[str, Any] = {"head": head, "patches_per_image": moments.patches_per_image, "count": moments.count}
    if targets == "shuffled":
        theorem["target_std"] = float(np.sqrt(moments.target_covariance))
    predictions: dict[str, Any] = {}
    for kind, change in (("weights", False), ("change", True)):
        predictions[f"expected_{kind}"] = dynamics.expected_profile(records, change=change, **law)
        predictions[f"quantiles_{kind}"] = dynamics.profile_quantiles(
            np.array(QUANTILES), records, change=change, **law
        )
        predictions[f"wrong_learning_rate_{kind}"] = slow.expected_profile(records, change=change, **law)
    formula = partial(theory.theorem_profile, spectrum.variance, records, **theorem)
    return {
        "steps": records,
        "kernels": kernels,
        "variance": spectrum.variance,
        "components": spectrum.components,
        "decorrelation_ratio": theory.decorrelation_ratio(moments, spectrum),
        "second": moments.second,
        "mean": moments.mean,
        "target_covariance": moments.target_covariance,
        "target_mean": moments.target_mean,
        "count": moments.count,
        "patches_per_image": moments.patches_per_image,
        "learning_rate": learning_rate,
        "init_std": settings.init_std,
        "theorem": formula(learning_rate=learning_rate),
        "theorem_wrong_learning_rate": formula(learning_rate=learning_rate / 2),
        "training_seconds": seconds,
        **predictions,
    }


def train_ensemble(
    settings: Settings,
    key: jax.Array,
    labels: np.ndarray,
    mean_patches: jax.Array,
    targets: str,
    learning_rate: float,
    records: np.ndarray,
    advance: Callable[[], Any],
) -> tuple[np.ndarray, float]:
    """The kernels of all seeds, (S, R, kh, kw, C, K), and the seconds of training without compilation."""

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            mean_patches.shape[-1], settings.filters, settings.kernel_size,
            init_std=settings.init_std, dtype=jnp.float64, rngs=nnx.Rngs(key),
        )  # fmt: skip

    def draw(key: jax.Array) -> jax.Array:
        if targets == "drawn":
            return jax.random.normal(key, labels.shape)
        return jax.random.permutation(key, jnp.asarray(labels))

    optimizer = optax.sgd(learning_rate)
    init_keys, target_keys = (jax.random.split(k, settings.seeds) for k in jax.random.split(key))

    def train(block: slice, steps: np.ndarray) -> np.ndarray:
        pseudo_images, pseudo_targets = linear_cnn.compress(mean_patches, jax.vmap(draw)(target_keys[block]).T)
        trajectory = linear_cnn.train_seeds(
            init,
            pseudo_images,
            pseudo_targets.T[..., None],
            optimizer=optimizer,
            steps=int(steps[-1]),
            keys=init_keys[block],
            record_steps=steps,
        )
        return np.asarray(trajectory.conv1)

    blocks = [slice(start, start + BLOCK) for start in range(0, settings.seeds, BLOCK)]
    # Steps are data to the compiled program, so that a run of as many records in few steps compiles it.
    train(blocks[0], np.arange(len(records)))
    started = time.perf_counter()
    kernels = []
    for block in blocks:
        kernels.append(train(block, records))
        advance()
    return np.concatenate(kernels), time.perf_counter() - started


def run_autocorrelation(settings: Settings, images: np.ndarray, kernels: np.ndarray) -> dict[str, Any]:
    """Autocorrelation on raw images of the filters trained on patch-shuffled ones, all seeds as one bank."""
    images = images[::4]  # enough for two digits
    size, channels = settings.kernel_size, images.shape[-1]
    distances = [distance for distance in DISTANCES if distance <= images.shape[1] - size]
    moments = theory.cross_moments(images, size, distances)
    spectrum = theory.patch_spectrum(images, size)
    banks = np.moveaxis(kernels, 0, -1).reshape(*kernels.shape[1:-1], -1)
    whitening = theory.filters_with_profile(theory.whitening_profile(spectrum.variance), spectrum)

    # The same number measured on the responses of a convolution, for the filters of one seed on some images.
    some, filters = images[:: max(1, len(images) // 32)], kernels[0, -1]
    single = theory.cross_moments(some, size, distances)
    return {
        "distances": distances,
        "pixels": theory.autocorrelation(np.eye(channels)[None, None], theory.cross_moments(images, 1, distances)),
        "filters": theory.autocorrelation(banks, moments),
        "whitening": theory.autocorrelation(whitening, moments),
        "shortcut": theory.autocorrelation(filters, single),
        "measured": measured_autocorrelation(some, filters, distances),
    }


def measured_autocorrelation(images: np.ndarray, kernel: np.ndarray, distances: list[int]) -> np.ndarray:
    """Convolve, subtract the mean response, and average products over all pairs of locations inside the image."""
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    z = np.asarray(convolve(jnp.asarray(images), jnp.asarray(kernel), (1, 1), "VALID", precision="highest"))
    z = z - z.mean(axis=(0, 1, 2))
    height, width = z.shape[1:3]
    across = [np.mean(np.sum(z[:, :, : width - step] * z[:, :, step:], axis=-1)) for step in distances]
    down = [np.mean(np.sum(z[:, : height - step] * z[:, step:], axis=-1)) for step in distances]
    return (np.array(across) + np.array(down)) / 2 / np.mean(np.sum(z**2, axis=-1))


# --- comparison: from the arrays alone ---


def judge(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every comparison, with how far the simulation moved, the bound, and what a wrong formula gives."""
    checks = [exact_check(arrays, name, title) for name, title in EXACT.items()]
    checks += [
        agreement_check(arrays, original, compressed)
        for original, compressed in (("full", "compressed_full"), ("mean_patches", "compressed"))
    ]
    checks.append(permutation_check(arrays))
    for name, title in ENSEMBLES.items():
        for kind in ("weights", "change"):
            checks += ensemble_checks(arrays, name, title, kind)
    checks += [theorem_check(arrays, "patches_drawn", True), theorem_check(arrays, "raw_drawn", False)]
    flat = arrays["patches_drawn/theorem"][-1] * np.sqrt(arrays["patches_drawn/variance"])
    checks.append(result("e_i lambda_i constant at the last step (theorem)", flat.max() / flat.min() - 1, 0.1))
    gap = np.abs(arrays["autocorrelation/shortcut"] - arrays["autocorrelation/measured"]).max()
    filters = arrays["autocorrelation/filters"]
    checks.append(
        result(
            "autocorrelation from cross moments vs a real convolution",
            gap,
            1e-6,
            moved=f"C up to {np.abs(filters[-1] - filters[0]).max():.2g}",
        )
    )
    return checks


def result(
    name: str, measured: Any, bound: float, *, moved: Any = None, wrong: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """One row: it passes if the measured number is within the bound and every wrong formula's is not."""
    wrong = {label: float(value) for label, value in (wrong or {}).items()}
    passed = bool(measured <= bound) and all(value > bound for value in wrong.values())
    row = {"check": name, "moved": moved, "measured": float(measured), "bound": bound, "wrong_formulas": wrong}
    return row | {"passed": passed} | more


def exact_check(arrays: dict[str, np.ndarray], name: str, title: str) -> dict[str, Any]:
    """Largest error of the exact form over all recorded steps, as a fraction of how far the weights moved."""
    simulated = arrays[f"{name}/simulated"]
    # The least of several networks.
    moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()

    wrong = {"eta / 2": "wrong_learning_rate", "Sigma / J for A": "wrong_second_moment"}

    def error(form: str) -> float:
        return float(np.abs(simulated - arrays[f"{name}/{form}"]).max() / moved)

    return result(
        f"exact form, {title}, {arrays[f'{name}/steps'][-1]:,} steps",
        error("predicted"),
        TOLERANCE[str(simulated.dtype)],
        moved=f"max |w - w(0)| = {moved:.2g}",
        wrong={label: error(form) for label, form in wrong.items() if f"{name}/{form}" in arrays},
    )


def agreement_check(arrays: dict[str, np.ndarray], original: str, compressed: str) -> dict[str, Any]:
    """Trajectories of the same network on the original and on the compressed data."""
    simulated = arrays[f"{original}/simulated"]
    moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()
    return result(
        f"{EXACT[original]}, vs compressed",
        np.abs(simulated - arrays[f"{compressed}/simulated"]).max() / moved,
        1e-9,
        moved=f"max |w - w(0)| = {moved:.2g}",
    )


def permutation_check(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean energy over all orders of the labels against the shuffled law, relative to each step's largest."""
    energy = arrays["permutations/energy"][1:]

    def error(form: str) -> float:
        return float((np.abs(arrays[f"permutations/{form}"][1:] ** 2 - energy).max(axis=1) / energy.max(axis=1)).max())

    return result(
        "shuffled law, mean over all 720 orders of 6 labels",
        error("expected"),
        1e-9,
        moved=f"rms profile up to {np.sqrt(energy.max()):.2g} from 0",
        wrong={"N for N - 1": error("wrong_count")},
    )


def simulated_profiles(arrays: dict[str, np.ndarray], name: str, kind: str) -> np.ndarray:
    """Energy profile of each seed at each recorded step, (S, R, d)."""
    kernels = arrays[f"{name}/kernels"]
    if kind == "change":
        kernels = kernels - kernels[:, :1]
    return np.asarray(theory.energy_profile(kernels, arrays[f"{name}/components"]))


def ensemble_checks(arrays: dict[str, np.ndarray], name: str, title: str, kind: str) -> list[dict[str, Any]]:
    """Mean energy in standard errors from the expected one, and the share of seeds inside the 90 % band."""
    profiles = simulated_profiles(arrays, name, kind)[:, 1:]
    energy, seeds = profiles**2, len(profiles)
    mean, error = energy.mean(axis=0), energy.std(axis=0, ddof=1) / np.sqrt(seeds)

    def deviation(form: str) -> float:
        return float(np.abs((mean - arrays[f"{name}/{form}_{kind}"][1:] ** 2) / error).max())

    label = {"weights": "W", "change": "change of W"}[kind]
    moved = f"rms change {np.sqrt(mean[-1].max()) / arrays[f'{name}/init_std']:.2g} x init"
    rows = [
        result(
            f"expected profile, {title}, {label}: standard errors, worst of {mean.size}",
            deviation("expected"),
            5.0,
            moved=moved,
            wrong={"eta / 2": deviation("wrong_learning_rate")},
        )
    ]
    low, high = arrays[f"{name}/quantiles_{kind}"][:, 1:]
    inside = ((profiles >= low) & (profiles <= high)).mean(axis=0)
    share = QUANTILES[1] - QUANTILES[0]
    binomial = np.sqrt(share * (1 - share) / seeds)
    if name.endswith("drawn"):  # for other targets the band rests on a central limit theorem
        rows.append(
            result(
                f"90 % band, {title}, {label}: binomial errors, worst of {inside.size}",
                np.abs(inside - share).max() / binomial,
                5.0,
                moved=moved,
                mean_coverage=float(inside.mean()),
            )
        )
    return rows


def theorem_check(arrays: dict[str, np.ndarray], name: str, holds: bool) -> dict[str, Any]:
    """Relative error of Theorem 4.2, no parameter fitted, beyond 3 standard errors of the simulated rms profile."""
    energy = simulated_profiles(arrays, name, "change")[:, 1:] ** 2
    mean, seeds = energy.mean(axis=0), len(energy)
    rms, error = np.sqrt(mean), energy.std(axis=0, ddof=1) / np.sqrt(seeds) / (2 * np.sqrt(mean))

    def excess(form: str) -> float:
        profile = arrays[f"{name}/{form}"][1:]
        return float(((np.abs(rms - profile) - 3 * error) / profile).max())

    title = ENSEMBLES[name]
    if holds:
        wrong = {"eta / 2": excess("theorem_wrong_learning_rate")}
        return result(
            f"Theorem 4.2, {title}: relative error beyond 3 s.e.",
            excess("theorem"),
            0.1,
            moved=moved_text(rms),
            wrong=wrong,
        )
    ratio = arrays[f"{name}/decorrelation_ratio"]
    row = result(
        f"Theorem 4.2 fails on {title} (decorrelation ratio {ratio.min():.2g} to {ratio.max():.3g})",
        0.1,
        excess("theorem"),
        moved=moved_text(rms),
    )
    return row | {"measured": excess("theorem"), "bound": "> 0.1"}


def moved_text(rms: np.ndarray) -> str:
    return f"rms profile {rms[0].max():.2g} -> {rms[-1].max():.2g}"


def table(checks: list[dict[str, Any]]) -> str:
    """The checks as text."""
    lines = [f"{'':6}{'measured':>10}  {'bound':>7}  check"]
    for row in checks:
        wrong = ", ".join(f"{name}: {value:.2g}" for name, value in row["wrong_formulas"].items())
        notes = "; ".join(filter(None, [row["moved"] and f"moved: {row['moved']}", wrong and f"wrong formula {wrong}"]))
        bound = row["bound"] if isinstance(row["bound"], str) else f"{row['bound']:.2g}"
        lines.append(f"{'ok' if row['passed'] else 'FAIL':6}{row['measured']:>10.2g}  {bound:>7}  {row['check']}")
        lines += [f"{'':27}{notes}"] if notes else []
    passed = sum(row["passed"] for row in checks)
    return "\n".join([*lines, f"{passed} of {len(checks)} checks passed"])
