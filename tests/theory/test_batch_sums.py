"""Images that are spread over devices, by `mesh=` or by the user, against those of the
host; on devices of one process and of two."""

import itertools
import socket
import subprocess
import sys
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import theory
from tests.theory.devices import ROOT, run_on_eight_devices
from tests.theory.twins import mean_and_covariance, patch_rows, relative_error
from theory import batch_sums

RANDOM = np.random.default_rng(6)
# The mean drifts from image to image, so that every part has another one.
IMAGES = (
    RANDOM.normal(size=(29, 4, 6, 2)).cumsum(axis=2)
    + np.arange(29)[:, None, None, None] / 5
)
LABELS = np.arange(29) % 3
TARGETS = RANDOM.normal(size=(29, 2)) + LABELS[:, None]
FILTERS = RANDOM.normal(size=(2, 3, 2, 4))
KERNEL = (2, 3)
EQUAL = 1e-12

# One call each: images, number of them, mesh -> arrays.
STATISTICS = {
    "patch_moments": lambda images, count, mesh: theory.patch_moments(
        images, KERNEL, stride=2, padding="SAME", mesh=mesh
    ),
    "patch_spectrum": lambda images, count, mesh: (
        theory.patch_spectrum(images, 2, mesh=mesh).variance
    ),
    "mean_patch_moments": lambda images, count, mesh: theory.mean_patch_moments(
        images, TARGETS[:count], KERNEL, mesh=mesh
    ),
    "fourth_moments": lambda images, count, mesh: theory.mean_patch_fourth_moments(
        images, TARGETS[:count, 0], 2, mesh=mesh
    ),
    "cross_moments": lambda images, count, mesh: theory.cross_moments(
        images, 2, [0, 2], mesh=mesh
    ),
    "lag_moments": lambda images, count, mesh: theory.lag_moments(
        images, KERNEL, 2, mesh=mesh
    ),
    "label_correlation": lambda images, count, mesh: theory.label_correlation(
        images,
        LABELS[:count],
        theory.patch_spectrum(IMAGES[:count], 2),
        mesh=mesh,
    ),
    "filter_curvature": lambda images, count, mesh: theory.filter_curvature(
        images, FILTERS, pool=2, mesh=mesh
    ),
    "without_batch_norm": lambda images, count, mesh: theory.filter_curvature(
        images, FILTERS, batch_norm=False, mesh=mesh
    ),
}


def largest_error(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(relative_error(*pair) for pair in pairs)


def recorded_programs():
    """The compiled text of every program that runs on a mesh, from now on."""
    programs = []
    original = batch_sums._sums_on_mesh

    def recorded(*arguments):
        compiled = original.lower(*arguments).compile()
        programs.append(compiled.as_text())
        return compiled(*arguments[:6])

    batch_sums._sums_on_mesh = recorded
    return programs


# --- 8 devices, one process ---


def on_eight_devices():
    """Run in a process of its own, below."""
    assert jax.device_count() == 8
    line = Mesh(np.array(jax.devices()), ("n",))
    grid = Mesh(np.array(jax.devices()).reshape(4, 2), ("seeds", "batch"))
    modern = jax.make_mesh((2, 4), ("seeds", "batch"))  # whose axes are explicit
    expected = {name: take(IMAGES, 29, None) for name, take in STATISTICS.items()}
    rows = patch_rows(IMAGES, 2)
    variance = np.linalg.eigvalsh(mean_and_covariance(rows)[1])[::-1]
    assert relative_error(expected["patch_spectrum"], variance) < EQUAL

    programs = recorded_programs()
    meshes = itertools.cycle([line, grid, modern])
    for (name, take), mesh in zip(STATISTICS.items(), meshes, strict=False):
        programs.clear()
        error = largest_error(take(IMAGES, 29, mesh), expected[name])
        assert error < EQUAL, (name, error)
        assert programs, name
        for program in programs:
            # 4 images on each device, the last ones of them zeros; only sums travel.
            assert "f64[4,4,6,2]" in program
            assert "f64[29,4,6,2]" not in program
            assert "all-reduce" in program
            assert "all-gather" not in program

    # Whatever the images come in; fewer than the devices, too.
    take = STATISTICS["mean_patch_moments"]
    on_one = jax.device_put(IMAGES, jax.devices()[3])
    crosswise = jax.device_put(
        IMAGES, NamedSharding(grid, PartitionSpec(None, None, None, "batch"))
    )
    parts = np.split(IMAGES, [3, 16])
    for images in (on_one, crosswise, iter(parts), map(jnp.asarray, parts)):
        programs.clear()
        error = largest_error(take(images, 29, grid), expected["mean_patch_moments"])
        assert error < EQUAL, (error, images)
        assert programs
    assert "[1,4,6,2]" in batch_of_three(programs, grid)

    already_sharded(programs, line, grid, modern)

    # Where the devices are accelerators, all of them without a mesh.
    programs.clear()
    jax.default_backend = lambda: "accelerator"
    error = largest_error(take(iter(parts), 29, None), expected["mean_patch_moments"])
    assert error < EQUAL
    assert len(programs) == len(parts)


def batch_of_three(programs, mesh):
    programs.clear()
    theory.patch_moments(IMAGES[:3], 2, mesh=mesh)
    return programs[0]


def already_sharded(programs, line, grid, modern):
    """Images that are split along N stay where they are, with and without a mesh."""
    images = IMAGES[:16]
    take = STATISTICS["mean_patch_moments"]
    expected = take(images, 16, None)
    for mesh, axes, share in (
        (line, ("n",), 2),
        (grid, (("seeds", "batch"), None), 2),
        (modern, (("seeds", "batch"), None), 2),
        (grid, ("seeds",), 4),  # the same on both devices of a pair
        (line, (), 0),  # the same on all of them
        (grid, (None, "seeds"), 0),  # parts of an image on each: still right
        (grid, ("batch", "seeds"), 0),
    ):
        array = jax.device_put(images, NamedSharding(mesh, PartitionSpec(*axes)))
        for given in (None, line):
            programs.clear()
            assert largest_error(take(array, 16, given), expected) < EQUAL
            if share:
                assert f"f64[{share},4,6,2]" in programs[0]
            assert len(programs) == (share > 0 or given is not None), axes
            for program in programs:
                assert "f64[16,4,6,2]" not in program
                assert "all-gather" not in program


@pytest.mark.slow
def test_images_on_eight_devices():
    run_on_eight_devices(__name__)


# --- 2 processes ---


def on_two_hosts(process, port):
    """Run in two processes of 4 devices each, below."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    assert (jax.local_device_count(), jax.device_count()) == (4, 8)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("seeds", "batch"))
    expected = {name: take(IMAGES, 29, None) for name, take in STATISTICS.items()}
    for name in ("mean_patch_moments", "filter_curvature"):
        found = STATISTICS[name](IMAGES, 29, mesh)
        assert largest_error(found, expected[name]) < EQUAL
    # Each process has half of the images.
    sharding = NamedSharding(mesh, PartitionSpec(("seeds", "batch")))
    half = slice(0, 8) if process == 0 else slice(8, 16)

    def all_of(images):
        return jax.make_array_from_process_local_data(sharding, images[half])

    whole = theory.patch_moments(IMAGES[:16], KERNEL)
    assert largest_error(theory.patch_moments(all_of(IMAGES), KERNEL), whole) < EQUAL
    explicit = jax.make_mesh((4, 2), ("seeds", "batch"))
    with jax.set_mesh(explicit):
        spread = jax.device_put(all_of(IMAGES), NamedSharding(explicit, sharding.spec))
        for given in (None, mesh):
            found = theory.patch_moments(spread, KERNEL, mesh=given)
            assert largest_error(found, whole) < EQUAL
    holes = IMAGES.copy()
    holes[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="images has 1 entries that are NaN or inf"):
        theory.patch_moments(all_of(holes), KERNEL)


@pytest.mark.slow
def test_images_on_two_hosts():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", __name__]
    with ExitStack() as started:
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [*command, str(number), str(port)],
                    cwd=ROOT,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors


# --- two devices, one process ---


@pytest.mark.parametrize("name", STATISTICS)
def test_a_mesh_that_is_active_changes_nothing(name):
    mesh = Mesh(np.array(jax.devices()), ("n",))
    expected = STATISTICS[name](IMAGES, 29, mesh)
    for active in (jax.make_mesh((2,), ("rows",)), Mesh(mesh.devices, ("rows",))):
        with jax.set_mesh(active):
            found = STATISTICS[name](IMAGES, 29, mesh)
            assert jax.sharding.get_mesh() == active
        assert largest_error(found, expected) == 0


def test_batches_are_read_under_the_mesh_that_is_active():
    active = jax.make_mesh((2,), ("rows",))

    def batches():
        for part in (IMAGES[:10], IMAGES[10:28]):
            assert jax.sharding.get_mesh() == active
            yield jax.device_put(part, PartitionSpec("rows"))

    expected = theory.patch_moments(IMAGES[:28], 2)
    with jax.set_mesh(active):
        found = theory.patch_moments(batches(), 2)
    assert largest_error(found, expected) < EQUAL


@pytest.mark.parametrize(
    "spec", [("a", "b"), (None, "a"), (None, None, ("a", "b")), ("b",)]
)
@pytest.mark.parametrize("given", [False, True])
def test_images_on_explicit_axes(spec, given):
    """Also where they are split over others than the first."""
    mesh = Mesh(np.array(jax.devices()), ("n",)) if given else None
    explicit = jax.make_mesh((2, 1), ("a", "b"))
    images = IMAGES[:28]
    spread = jax.device_put(images, NamedSharding(explicit, PartitionSpec(*spec)))
    take = STATISTICS["mean_patch_moments"]
    assert largest_error(take(spread, 28, mesh), take(images, 28, None)) < EQUAL


# --- bad input ---


def test_a_mesh_with_a_device_twice_is_refused():
    mesh = Mesh(jax.devices()[:1] * 2, ("n",))
    with pytest.raises(ValueError, match=r"mesh has CpuDevice\(id=0\) 2 times"):
        theory.patch_moments(IMAGES, 2, mesh=mesh)


def test_traced_images_on_explicit_axes_are_refused():
    spread = NamedSharding(jax.make_mesh((2,), ("n",)), PartitionSpec("n"))
    images = jax.device_put(IMAGES[:28], spread)
    with pytest.raises(ValueError, match=r"traced on the explicit .* {'n': 2}"):
        jax.jit(lambda images: theory.patch_moments(images, 2))(images)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_mesh_that_is_none_is_refused_before_anything_is_read(name):
    def never():
        raise AssertionError("read")
        yield

    images = IMAGES if name == "filter_curvature" else never()
    with pytest.raises(
        TypeError, match=r"mesh must be a jax.sharding.Mesh, .* got list; jax.make_mesh"
    ):
        STATISTICS[name](images, 29, jax.devices())


def test_a_mesh_under_a_transformation_is_refused():
    mesh = Mesh(np.array(jax.devices()), ("n",))
    with pytest.raises(TypeError, match="mesh cannot be given under a JAX transform"):
        jax.jit(lambda images: theory.patch_moments(images, 2, mesh=mesh))(IMAGES)


if __name__ == "__main__":
    if sys.argv[1:]:
        on_two_hosts(*map(int, sys.argv[1:]))
    else:
        on_eight_devices()


@pytest.mark.parametrize("dtype", [">f8", ">f4", np.longdouble])
def test_floats_that_jax_does_not_have(dtype):
    images = np.random.default_rng(3).normal(size=(5, 6, 6, 2)).astype("f4")
    mesh = jax.make_mesh((2,), ("images",))
    found = theory.patch_moments(images.astype(dtype), 3, mesh=mesh)
    expected = theory.patch_moments(images, 3)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-14)
