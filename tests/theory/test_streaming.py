"""Sums over images that arrive in batches or are taken in chunks, against all at
once."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.twins import (
    all_patches,
    entry_error,
    mean_and_covariance,
    patch_rows,
    relative_error,
)
from theory import (
    batch_sums,
    cross_moments,
    mean_patch_moments,
    patch_moments,
    patch_spectrum,
    streaming,
)

RANDOM = np.random.default_rng(4)
KERNEL = (2, 3)
# The mean drifts from image to image, so that every part has another one.
IMAGES = (
    RANDOM.normal(size=(29, 4, 11, 2)).cumsum(axis=2)
    + np.arange(29)[:, None, None, None] / 5
)
TARGETS = RANDOM.normal(size=(29, 2)) + np.arange(29)[:, None]


def assert_mean_patch_moments(moments, images=IMAGES, targets=TARGETS):
    means = all_patches(images, KERNEL).mean(axis=(1, 2))
    assert moments.count == len(images)
    for computed, expected in (
        (moments.second, means.T @ means / len(images)),
        (moments.cross, means.T @ targets / len(images)),
        (moments.mean, means.mean(axis=0)),
        (moments.target_mean, targets.mean(axis=0)),
        (moments.target_covariance, np.cov(targets.T)),
    ):
        assert relative_error(computed, expected) < 1e-14


def assert_patch_moments(moments, images=IMAGES):
    rows = patch_rows(images, KERNEL)
    mean, covariance = mean_and_covariance(rows)
    assert moments.count == len(rows)
    assert relative_error(moments.mean, mean) < 1e-14
    assert entry_error(moments.covariance, covariance) < 100


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    """Chunks of 3 images, batches of 12: 2 chunks for each of 2 devices. The sizes of
    all batches.

    No other module has images of this size, so that no program with larger chunks is
    taken from the cache.
    """
    sizes = []
    original = streaming.sums_of_batch

    def recorded(task, images, *others):
        sizes.append(len(images))
        return original(task, images, *others)

    monkeypatch.setattr(
        batch_sums, "_chunk_size", lambda shape, where: min(shape[0], 3)
    )
    monkeypatch.setattr(streaming, "batch_size", lambda shape, where, mesh: 12)
    monkeypatch.setattr(streaming, "sums_of_batch", recorded)
    return sizes


@pytest.fixture(params=["host", "devices"])
def place(request, monkeypatch):
    """Where arrays of the host are summed: there, or as if these CPUs were
    accelerators."""
    if request.param == "devices":
        monkeypatch.setattr(jax, "default_backend", lambda: "accelerator")
    return request.param


def split(sizes):
    return np.split(IMAGES, np.cumsum(sizes)[:-1])


# --- batches ---


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([29], [12, 12, 5]),
        ([12, 12, 5], [12, 12, 5]),
        ([17, 9, 3], [12, 5, 9, 3]),  # a batch larger than ours
        ([5, 23, 1], [5, 12, 11, 1]),
    ],
)
@pytest.mark.usefixtures("place")
def test_batches_of_any_size_give_the_same(batches, sizes, expected):
    moments = mean_patch_moments(
        iter(split(sizes)) if len(sizes) > 1 else IMAGES, TARGETS, KERNEL
    )
    assert batches == expected
    assert_mean_patch_moments(moments)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        lambda parts: (part for part in parts),
        lambda parts: dict(enumerate(parts)).values(),
        lambda parts: map(jnp.asarray, parts),
    ],
)
def test_what_batches_may_come_in(kind):
    assert_mean_patch_moments(
        mean_patch_moments(kind(split([12, 12, 5])), TARGETS, KERNEL)
    )


def test_one_output_from_batches():
    moments = mean_patch_moments(
        iter(split([12, 12, 5])), TARGETS[:, 0].tolist(), KERNEL
    )
    both = mean_patch_moments(IMAGES, TARGETS, KERNEL)
    assert moments.cross.shape == (12,)
    assert relative_error(moments.cross, np.asarray(both.cross)[:, 0]) < 1e-14
    assert relative_error(moments.target_mean, np.asarray(both.target_mean)[0]) < 1e-14
    assert (
        relative_error(
            moments.target_covariance, np.asarray(both.target_covariance)[0, 0]
        )
        < 1e-14
    )


@pytest.mark.usefixtures("place")
def test_all_patches_from_batches_in_parts_and_in_chunks():
    whole = patch_moments(IMAGES, KERNEL)
    assert_patch_moments(whole)
    assert_patch_moments(patch_moments(iter(split([12, 12, 5])), KERNEL))
    parts = [
        patch_moments(iter([part, part[:0:-1]]), KERNEL)
        for part in (IMAGES[:12], IMAGES[12:24])
    ]
    repeated = np.concatenate([IMAGES[:12], IMAGES[1:12], IMAGES[12:24], IMAGES[13:24]])
    assert_patch_moments(parts[0] + parts[1], repeated)
    assert_patch_moments(parts[1] + parts[0], repeated)
    spectrum = patch_spectrum(iter(split([12, 12, 5])), KERNEL, center=False)
    assert (
        relative_error(spectrum.variance, whole.spectrum(center=False).variance) < 1e-14
    )


def test_pairs_of_patches_from_batches_and_in_parts():
    def moments(images):
        return cross_moments(images, 1, [2])

    whole, streamed = moments(IMAGES), moments(iter(split([12, 12, 5])))
    parts = moments(IMAGES[12:24]) + (moments(iter([IMAGES[:12], IMAGES[24:]])))
    pixels = IMAGES - IMAGES.mean(axis=(0, 1, 2))
    across = np.einsum("nyxc,nyxd->cd", pixels[:, :, :-2], pixels[:, :, 2:]) / (
        29 * 4 * 9
    )
    down = np.einsum("nyxc,nyxd->cd", pixels[:, :-2], pixels[:, 2:]) / (29 * 2 * 11)
    expected = (across + across.T + down + down.T) / 4
    for computed in (whole, streamed, parts):
        assert computed.count == 29
        assert relative_error(computed.cross[0], expected) < 1e-14
        assert (
            relative_error(
                computed.second, np.einsum("nyxc,nyxd->cd", pixels, pixels) / (29 * 44)
            )
            < 1e-14
        )


def test_an_array_on_a_device_is_one_batch_of_many_chunks(batches, place):
    """29 images in chunks of 3, the last of which is short; where the device is the
    host, batches like NumPy's."""
    assert_mean_patch_moments(
        mean_patch_moments(jax.device_put(IMAGES, jax.devices()[1]), TARGETS, KERNEL)
    )
    assert batches == ([29] if place == "devices" else [12, 12, 5])


def test_traced_images_are_taken_in_chunks():
    traced = jax.jit(
        lambda images, targets: mean_patch_moments(images, targets, KERNEL)
    )
    assert_mean_patch_moments(traced(IMAGES, TARGETS))
    assert "length=10" in str(jax.make_jaxpr(traced)(IMAGES, TARGETS))


def test_a_large_mean_costs_no_digits():
    """About the mean, not about zero, in chunks and batches too."""
    for mean in (1000, 1e6):
        expected = mean_and_covariance(patch_rows(IMAGES + mean, KERNEL))[1]
        for images in (IMAGES + mean, iter(np.split(IMAGES + mean, [3, 16]))):
            assert entry_error(patch_moments(images, KERNEL).covariance, expected) < 100


@pytest.mark.float32
def test_batches_of_float32_are_summed_in_float64():
    images = (IMAGES + 100).astype(np.float32)
    moments = mean_patch_moments(
        iter(np.split(images, [12, 24])), TARGETS.astype(np.float32), KERNEL
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(moments)} == {np.dtype(np.float64)}
    assert_mean_patch_moments(
        moments, images, TARGETS.astype(np.float32).astype(np.float64)
    )


@pytest.mark.float32
@pytest.mark.usefixtures("place")
def test_batches_that_are_all_written_to_one_buffer():
    """Aligned, so that JAX could use the memory without copying it."""
    memory = np.zeros(12 * 4 * 11 * 2 * 8 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    buffer = (
        memory[start : start + 12 * 4 * 11 * 2 * 8]
        .view(np.float64)
        .reshape(12, 4, 11, 2)
    )

    def filled():
        for number in range(40):
            buffer[...] = IMAGES[:12] + number
            yield buffer
            buffer[...] = np.nan

    moments = mean_patch_moments(filled(), np.tile(TARGETS[:12], (40, 1)), KERNEL)
    images = np.concatenate([IMAGES[:12] + number for number in range(40)])
    assert_mean_patch_moments(moments, images, np.tile(TARGETS[:12], (40, 1)))

    def with_holes():
        buffer[...] = np.inf
        yield buffer
        yield from filled()

    with pytest.raises(
        ValueError, match="images has 1056 entries that are NaN or infinite"
    ):
        mean_patch_moments(with_holes(), np.ones(41 * 12), KERNEL)


def test_memory_does_not_grow_with_the_number_of_batches():
    yielded, alive, on_devices = [], [], []

    def fresh():
        for _ in range(30):
            alive.append(sum(batch() is not None for batch in yielded))
            on_devices.append(sum(array.nbytes for array in jax.live_arrays()))
            batch = RANDOM.normal(size=(12, 4, 11, 2))
            yielded.append(weakref.ref(batch))
            yield batch
            del batch

    patch_moments(fresh(), KERNEL)
    assert len(alive) == 30
    assert max(alive) <= 2
    assert max(on_devices) - on_devices[0] < 4 * 12 * 4 * 11 * 2 * 8


# --- images of different sizes ---

SIZES = [(4, 11), (9, 3), (2, 3), (9, 3), (4, 11), (17, 23), (5, 5)]


def of_different_sizes(mean=0.0):
    """One or two images of each size, whose means differ."""
    random = np.random.default_rng(5)
    return [
        mean
        + number / 3
        + random.normal(size=(1 + number % 2, *size, 2)).cumsum(axis=2)
        for number, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize("mean", [0, 1e5])
@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, ((1, 0), (2, 2)))])
def test_every_patch_counts_alike_whatever_the_size_of_its_image(mean, stride, padding):
    images = of_different_sizes(mean)
    rows = np.concatenate([patch_rows(x, KERNEL, stride, padding) for x in images])
    expected = mean_and_covariance(rows)
    orders = [
        images,
        images[::-1],
        [x[:1] for x in images] + [x[1:] for x in images[1::2]],
    ]
    for several in (*orders, map(jnp.asarray, images)):
        moments = patch_moments(iter(several), KERNEL, stride=stride, padding=padding)
        assert moments.count == len(rows)
        assert relative_error(moments.mean, expected[0]) < 1e-12
        assert entry_error(moments.covariance, expected[1]) < 200
    # Another weight, each image alike, is another covariance.
    each = [mean_and_covariance(patch_rows(x, KERNEL, stride, padding)) for x in images]
    alike = np.mean([covariance for _, covariance in each], axis=0)
    assert relative_error(moments.covariance, alike) > 0.05


def test_an_image_that_does_not_fit_is_named():
    images = of_different_sizes()  # 10 images, the last two batches of 1
    small = np.ones((1, 1, 5, 2))
    with pytest.raises(ValueError, match=r"image 3: images of 1x5 .*smaller than ker"):
        patch_spectrum([*images[:2], small], KERNEL)
    with pytest.raises(ValueError, match=r"image 0: images of 1x5 .*smaller than ker"):
        patch_spectrum([small, *images], KERNEL)
    with pytest.raises(ValueError, match="image 10 has 1 channels, but image 0 has 2;"):
        patch_moments([*images, np.ones((1, 4, 4, 1))], KERNEL)
    with pytest.raises(
        ValueError,
        match=r"image 1 of 9x3 .*, but image 0 by .*in pixels, not as 'SAME'",
    ):
        patch_moments(images, 2, stride=2, padding="SAME")
    with pytest.raises(ValueError, match=r"got \(4, 11, 2\); a single image is images"):
        patch_moments([images[0], images[0][0]], KERNEL)
    holes = [images[0], np.full((1, 5, 5, 2), np.nan)]
    with pytest.raises(ValueError, match="images has 50 entries that are NaN"):
        patch_moments(holes, KERNEL)


# --- bad input ---


def test_bad_batches():
    with pytest.raises(ValueError, match="images is an iterable without any batch"):
        patch_moments(iter([]), KERNEL)
    with pytest.raises(ValueError, match="images is an iterable without any batch"):
        patch_moments([], KERNEL)
    with pytest.raises(
        ValueError,
        match=(
            r"batches must hold images of one shape here, got \(4, 11, 2\), then \(3,"
            r" 11, 2\); scale and crop them to one"
        ),
    ):
        cross_moments(iter([IMAGES[:12], IMAGES[:12, :3]]), KERNEL, 1)
    with pytest.raises(TypeError, match="images must be floating point, got uint8"):
        patch_moments(iter([IMAGES[:12], IMAGES[:12].astype(np.uint8)]), KERNEL)
    with pytest.raises(ValueError, match=r"no empty axis, got \(0, 4, 11, 2\)"):
        patch_moments(iter([IMAGES[:0]]), KERNEL)
    holes = np.where(IMAGES[:12] > 3, np.nan, IMAGES[:12])
    count = int((IMAGES[:12] > 3).sum())
    for batches in ([holes, IMAGES[:12]], [IMAGES[:12], holes]):
        with pytest.raises(
            ValueError, match=f"images has {count} entries that are NaN or infinite"
        ):
            patch_moments(iter(batches), KERNEL)


@pytest.mark.parametrize(
    ("message", "targets"),
    [
        ("targets has 23 rows, but there are at least 24 images", TARGETS[:23]),
        ("targets has 30 rows, but there are 29 images", np.ones(30)),
        (
            (
                r"targets must have shape \(N,\) or \(N, M\) with N = the number of"
                r" images, got \(\)"
            ),
            1.0,
        ),
        (
            "targets has 1 entries that are NaN or infinite",
            np.where(np.arange(29) == 3, np.nan, 1),
        ),
    ],
)
def test_targets_that_do_not_fit_the_batches(message, targets):
    with pytest.raises(ValueError, match=message):
        mean_patch_moments(iter(split([12, 12, 5])), targets, KERNEL)


def test_a_window_that_does_not_fit_stops_after_the_first_batch():
    source = iter(split([12, 12, 5]))
    with pytest.raises(ValueError, match="smaller than kernel_size 5x5"):
        patch_moments(source, 5)
    assert len(list(source)) == 2


def test_traced_batches_are_refused():
    with pytest.raises(
        TypeError,
        match="under a JAX transformation images must be one array, not an iterable",
    ):
        jax.jit(lambda images: patch_moments([images, images], KERNEL))(IMAGES[:12])
