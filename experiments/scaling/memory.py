"""Memory of programs that are compiled for 8 devices and never run.

    python -m experiments.scaling.memory --publish docs

The shapes of ImageNet and of 10,000 seeds, compiled on 8 virtual devices as for
accelerators; what a device holds is what the compiler reports. Writes
<docs>/results/memory.json, and the page that is made of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linear_cnn
from experiments.benchmark import growth
from experiments.frame import disk
from experiments.scaling import publication
from theory import batch_sums, moments
from theory.patches import Padding, Window, window

DEVICES = 8
IMAGES, SIZE = 1_281_167, 224
SEEDS, STEPS = 10_000, 1000
Shape = jax.ShapeDtypeStruct


class Kernel(NamedTuple):
    """A first convolution, and whose it is."""

    size: int
    stride: int
    padding: Padding
    network: str


KERNELS = (Kernel(7, 2, 3, "ResNet"), Kernel(16, 16, "VALID", "ViT"))


@dataclass(frozen=True)
class Settings:
    """Memory of programs that are compiled for 8 devices and never run."""

    publish: Path = Path("docs")
    """Folder of the documentation."""


def main(settings: Settings) -> None:
    """Compile, and write what the compiler reports."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_enable_x64", True)
    content = {
        "command": "python -m experiments.scaling.memory --publish docs",
        "environment": disk.environment(),
        "rows": rows(IMAGES, SIZE, SEEDS),
    }
    disk.write_json(settings.publish / "results" / publication.MEMORY, content)
    for file, text in publication.pages(settings.publish).items():
        disk.write_text(file, text)
        print(f"published: {file}")


def rows(images: int, size: int, seeds: int) -> list[dict[str, Any]]:
    """What each program needs, compiled as for accelerators, of which the blocks and
    chunks are larger than a CPU's."""
    with mock.patch.object(jax, "default_backend", return_value="accelerator"):
        found = []
        for kernel in KERNELS:
            found += statistics(kernel, images, size)
        title = "linear CNNs, full batch"
        data = Shape((27, 3, 3, 3), jnp.float32), Shape((27, 1), jnp.float32)
        found.append(many_seeds(title, linear_cnns, seeds, *data))
        title = "SmallCNN, batches of 64 of 2,000 images"
        data = Shape((2000, 32, 32, 3), jnp.float32), Shape((2000,), jnp.int32)
        found.append(many_seeds(title, small_cnns, seeds, *data))
        return found


def statistics(kernel: Kernel, images: int, size: int) -> list[dict[str, Any]]:
    """`theory.patch_moments` of all images at once, and of one batch of a stream."""
    mesh = Mesh(np.array(jax.devices()), ("images",))
    where = window((1, size, size, 3), *kernel[:3])
    title = f"{kernel.size}x{kernel.size}x3, stride {kernel.stride} ({kernel.network})"
    batch = min(batch_sums.batch_size((images, size, size, 3), where, mesh), images)
    return [
        {"what": f"patch_moments, {title}", "images": images, "at_once": count}
        | compiled(_sums, _images(mesh, count, size), where, mesh)
        for count in (images, batch)
    ]


def _images(mesh: Mesh, count: int, size: int) -> Shape:
    """So many images, filled up to a multiple of the devices and split over them."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = -(-count // mesh.size) * mesh.size
    return Shape((whole, size, size, 3), jnp.float32, sharding=sharding)


def _sums(images: Shape, where: Window, mesh: Mesh) -> Any:
    targets = Shape((images.shape[0], 1), jnp.float64, sharding=images.sharding)
    origins = [Shape((channels,), jnp.float64) for channels in (3, 1)]
    task = batch_sums.Task(moments._PATCHES, None, where, jnp.dtype(jnp.float64))
    return batch_sums._sums_on_mesh.lower(
        images, targets, images.shape[0], *origins, (), task, mesh, mesh.axis_names
    )


def linear_cnns(keys: jax.Array, images: jax.Array, targets: jax.Array) -> jax.Array:
    """As `benchmark` trains them."""

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            3, growth.FILTERS, head=growth.HEAD, rngs=nnx.Rngs(key)
        )

    return _trained(keys, init, images, targets)


def small_cnns(keys: jax.Array, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Of the width that `benchmark` trains."""

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.SmallCNN(10, features=(8, 16, 32), rngs=nnx.Rngs(key))

    batches = {"batch_size": 64, "loss": "cross_entropy"}
    return _trained(keys, init, images, targets, **batches)


def _trained(
    keys: jax.Array,
    init: Callable[[jax.Array], nnx.Module],
    images: jax.Array,
    targets: jax.Array,
    **settings: Any,
) -> jax.Array:
    return linear_cnn.train_seeds(
        init,
        images,
        targets,
        optimizer=optax.sgd(0.01),
        steps=STEPS,
        record_steps=[STEPS],
        keys=keys,
        keep_state=False,
        **settings,
    ).conv1


def many_seeds(
    title: str, train: Callable[..., jax.Array], seeds: int, *data: Shape
) -> dict[str, Any]:
    """`linear_cnn.train_seeds`, 1,000 steps, first layers recorded at both ends."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), seeds))
    lower = jax.jit(train).lower
    found = compiled(lower, keys, *data)
    return {"what": f"train_seeds, {title}", "seeds": seeds} | found


def compiled(lower: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """On how many devices a program runs, and the bytes that each of them needs."""
    program = lower(*arguments).compile()
    analysis = program.memory_analysis()
    (sharding, *_) = jax.tree.leaves(program.output_shardings)
    return {
        "devices": len(sharding.device_set),
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
