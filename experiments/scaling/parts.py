"""The parts of `make accelerator`, each a process of its own that prints JSON.

    python -m experiments.scaling.parts NAME FOLDER SECONDS [--small]

A part returns its numbers, by their names. It takes what the backend is from JAX, so
that the same code runs on any.
"""

import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import linear_cnn
import theory
from experiments.benchmark import growth, training
from experiments.benchmark.training import VGGRun
from experiments.compiled import keep_compiled_programs
from experiments.frame import disk

ROOT = Path(__file__).parents[2]
FILTERS = 16
Numbers = dict[str, Any]


class Sizes(NamedTuple):
    """How much of everything.

    Attributes:
      tests: files, below the folder of tests, of the float32 tests.
      images: photographs of the exact dynamics.
      steps: at which they are compared.
      seeds: numbers of linear CNNs.
      vgg: what is trained beside PyTorch, for each of two numbers of steps.
      vgg_steps: these.
      preset: of the trained networks.
    """

    tests: tuple[str, ...]
    images: int
    steps: tuple[int, ...]
    seeds: tuple[int, ...]
    vgg: VGGRun
    vgg_steps: tuple[int, int]
    preset: str


FULL = Sizes(
    tests=(".",),
    images=1000,
    steps=(10, 100, 1000, 10_000),
    seeds=(1, 4, 16, 64, 256, 1024, 4096),
    vgg=VGGRun(width=1.0, batch_size=256),
    vgg_steps=(50, 250),
    preset="paper",
)
# Everything once, on two cores and in two minutes.
SMALL = Sizes(
    tests=("theory/test_streaming.py",),
    images=50,
    steps=(10, 100),
    seeds=(1, 8),
    vgg=VGGRun(width=1 / 16, batch_size=16),
    vgg_steps=(2, 10),
    preset="smoke",
)


def float32_tests(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """The tests marked float32, on this backend."""
    tests = ROOT / "tests"
    if not tests.is_dir():
        raise FileNotFoundError(f"{tests} does not exist; start from the repository.")
    output = disk.prepare_folder(folder) / "float32_tests.txt"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-v", "--tb=short"]
    command += ["-m", "float32", *(str(tests / name) for name in sizes.tests)]
    environment = os.environ | {"JAX_ENABLE_X64": "0"}
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return outcomes(output.read_text(), finished=process.returncode in (0, 1))


def outcomes(text: str, finished: bool) -> Numbers:
    """How many tests had which outcome, and which of them failed, by what pytest has
    said of them one by one."""
    found = dict(re.findall(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)", text, re.M))
    if not found:
        raise ChildProcessError(f"pytest ran no test:\n{text[-2000:]}")
    return {
        "passed": sum(outcome == "PASSED" for outcome in found.values()),
        "failed": [test for test, how in found.items() if how in ("FAILED", "ERROR")],
        "finished": finished,
    }


class OwnLinear(nnx.Module):
    """The linear CNN as a user writes it, with `nnx.Conv` as it is."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(
            channels,
            FILTERS,
            (3, 3),
            padding="VALID",
            use_bias=False,
            kernel_init=nnx.initializers.normal(1e-3),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        responses = self.conv1(images).mean(axis=(1, 2))
        return responses.sum(axis=-1, keepdims=True) / FILTERS**0.5


def exact_dynamics(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """Trained linear CNNs in float32, with and without TF32, against their closed form
    in float64: the error of the weights' change, over the change."""
    images = linear_cnn.photographs().images[: sizes.images]
    images = np.asarray(images, np.float32)
    targets = np.random.default_rng(0).normal(size=len(images)).astype(np.float32)
    head = np.full(FILTERS, FILTERS**-0.5)
    moments = theory.mean_patch_moments(images, targets, 3)
    rate = float(0.5 * theory.largest_stable_learning_rate(moments, head))
    dynamics = theory.gradient_descent(moments, head, rate)

    def ours(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            images.shape[-1], FILTERS, head=head, rngs=nnx.Rngs(key)
        )

    def own(key: jax.Array) -> nnx.Module:
        return OwnLinear(images.shape[-1], nnx.Rngs(key))

    def errors(init: Callable[[jax.Array], nnx.Module], precision: str | None) -> Any:
        with jax.default_matmul_precision(precision) if precision else nullcontext():
            trajectory = linear_cnn.train(
                init,
                images,
                targets[:, None],
                optimizer=optax.sgd(rate),
                steps=sizes.steps[-1],
                record_steps=[0, *sizes.steps],
                key=jax.random.key(0),
                fast_convolutions=False,
            )
        kernel = np.asarray(trajectory.conv1, np.float64)
        exact = np.asarray(dynamics.kernel(np.array(sizes.steps), kernel[0]))
        axes = (1, 2, 3, 4)
        off = np.sqrt(((kernel[1:] - exact) ** 2).sum(axes))
        return (off / np.sqrt(((exact - kernel[0]) ** 2).sum(axes))).tolist()

    return {
        "steps": list(sizes.steps),
        "LinearCNN": errors(ours, None),
        "nnx.Conv, as JAX multiplies": errors(own, None),
        "nnx.Conv, TF32": errors(own, "tensorfloat32"),
        "nnx.Conv, highest": errors(own, "highest"),
    }


def linear_cnns(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """Seconds of training so many linear CNNs at once, of a first and of a second
    call."""
    images = linear_cnn.photographs().images[: sizes.images]
    first, again = [], []
    for size in sizes.seeds:
        compute = growth.linear_cnns(np.asarray(images, np.float32), size)
        first.append(_seconds(compute))
        again.append(_seconds(compute))
    return {
        "seeds": list(sizes.seeds),
        "steps": growth.STEPS,
        "first_call": first,
        "second_call": again,
    }


def images_per_second(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """Training VGG11 by this library."""
    return {"batch": sizes.vgg.batch_size, "rate": _rate(sizes, training.our_vgg)}


def images_per_second_of_pytorch(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """The same by PyTorch, where it is installed; in a process of its own, since both
    bring libraries of their own for the device."""
    if disk.version("torch") is None:
        return {"rate": "PyTorch is not installed"}
    import torch

    there = torch.accelerator.is_available()
    device = str(torch.accelerator.current_accelerator()) if there else "cpu"
    rate = _rate(sizes, partial(training.torch_vgg, device=device))
    return {"batch": sizes.vgg.batch_size, "rate": rate, "device": device}


def _rate(
    sizes: Sizes, method: Callable[[np.ndarray, VGGRun], training.Compute]
) -> float:
    """Images a second: those of the steps by which one training is longer than another,
    over the time by which it is longer."""
    images = np.asarray(linear_cnn.photographs().images[:1024], np.float32)
    times = []
    for steps in sizes.vgg_steps:
        compute = method(images, sizes.vgg._replace(steps=steps))
        compute()  # which compiles
        times.append(min(_seconds(compute) for _ in range(3)))
    few, many = sizes.vgg_steps
    return (many - few) * sizes.vgg.batch_size / max(times[1] - times[0], 1e-9)


def trained_networks(sizes: Sizes, folder: Path, seconds: float) -> Numbers:
    """The runs that the experiments share, on true and on shuffled labels, two seeds of
    each: they go to <folder>/runs, which --store of any experiment reads, here or
    elsewhere."""
    command = [sys.executable, "-m", "experiments", "random_labels"]
    command += ["--preset", sizes.preset, "--seeds", "2", "--out", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    finished = True
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        finished = False
        process.terminate()  # training saves what it has, and continues another time
        _, said = process.communicate()
    sys.stderr.write(said)
    if finished and process.returncode:
        raise ChildProcessError(said.strip().splitlines()[-1])
    configs = [
        disk.read_json(file, "run it again")
        for file in sorted((folder / "runs").glob("*/config.json"))
    ]
    runs = {
        "true" if content["run"]["shuffled_labels"] is None else "shuffled": {
            "seconds": content["seconds"],
            "epochs": content["run"]["epochs"],
        }
        for content in configs
    }
    if not finished:
        return {"finished": False, "runs": runs}
    dataset = "photographs" if sizes.preset == "smoke" else "cifar10"
    place = disk.folder(folder, "random_labels", dataset)
    summary = disk.read_json(place / "summary.json", "run it again")
    profiles = {row["comparison"]: row["change"]["mean"] for row in summary["results"]}
    return {"finished": True, "runs": runs, "profiles": profiles}


PARTS: dict[str, Callable[[Sizes, Path, float], Numbers]] = {
    part.__name__: part
    for part in (
        float32_tests,
        exact_dynamics,
        linear_cnns,
        images_per_second,
        images_per_second_of_pytorch,
        trained_networks,
    )
}


def _seconds(compute: Callable[[], Any]) -> float:
    started = time.perf_counter()
    np.asarray(compute())
    return time.perf_counter() - started


def main(arguments: Sequence[str]) -> None:
    """Run one part, and print as the last line its numbers, or its error, and where it
    ran."""
    name, folder, seconds, *small = arguments
    jax.config.update("jax_enable_x64", True)
    keep_compiled_programs()
    content: dict[str, Any]
    try:
        sizes = SMALL if small else FULL
        numbers = PARTS[name](sizes, Path(folder), float(seconds))
        content = {"numbers": disk.each_float(_in_json, numbers)}
    except Exception as error:  # whatever it is, the other parts go on
        traceback.print_exc()
        content = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(content | {"environment": disk.environment()}))


def _in_json(value: float) -> float | None:
    return disk.four_digits(value) if np.isfinite(value) else None


if __name__ == "__main__":
    main(sys.argv[1:])
