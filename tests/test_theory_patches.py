"""Patch spectra and mean-patch moments against loops over patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from theory_twins import all_patches, recompose, relative_error

import theory
from theory import mean_patch_moments, patch_spectrum, patches

RANDOM = np.random.default_rng(0)
FLOAT64 = jax.config.read("jax_enable_x64")

WINDOWS = [
    # images, kernel_size, stride, padding, center
    ((5, 5, 6, 1), 3, 1, "VALID", True),
    ((4, 6, 5, 3), (2, 3), 1, "SAME", False),
    ((4, 6, 7, 2), (3, 2), (2, 3), "SAME", True),
    ((4, 6, 7, 2), [3, 2], 2, "SAME_LOWER", False),
    ((3, 5, 4, 4), 2, (1, 2), 1, True),
    ((3, 5, 4, 3), (1, 2), np.int64(2), ((0, 2), (1, 0)), False),
    ((3, 4, 4, 2), 3, 5, (1, (0, 1)), True),
    ((2, 3, 2, 2), (3, 2), 1, "valid", False),
]


def draw_images(shape, mean=0.5):
    return RANDOM.normal(size=shape) + mean


def twin_padding(padding):
    return padding.upper() if isinstance(padding, str) else padding


@pytest.mark.parametrize(("shape", "kernel_size", "stride", "padding"), [window[:4] for window in WINDOWS])
def test_mean_patch_moments_equal_loops(shape, kernel_size, stride, padding):
    images, targets = draw_images(shape), RANDOM.normal(size=(shape[0], 2)) + 1
    moments = mean_patch_moments(images, targets, kernel_size, stride=stride, padding=padding)
    explicit = all_patches(images, kernel_size, stride, twin_padding(padding))
    n, rows, columns, d = explicit.shape
    means = np.array([sum(patch for row in image for patch in row) / (rows * columns) for image in explicit])
    assert (moments.count, moments.patches_per_image) == (n, rows * columns)
    assert np.prod(moments.kernel_shape) == d
    assert moments.kernel_shape[2] == shape[3]
    for computed, expected in (
        (moments.second, sum(np.outer(p, p) for p in means) / n),
        (moments.cross, sum(np.outer(p, y) for p, y in zip(means, targets, strict=True)) / n),
        (moments.mean, means.mean(axis=0)),
        (moments.target_mean, targets.mean(axis=0)),
        (moments.target_covariance, np.cov(targets.T)),
    ):
        assert relative_error(computed, expected) < 1e-13


@pytest.mark.parametrize(("shape", "kernel_size", "stride", "padding", "center"), WINDOWS[:6])
def test_spectrum_equals_loops(shape, kernel_size, stride, padding, center):
    images = draw_images(shape)
    spectrum = patch_spectrum(images, kernel_size, stride=stride, padding=padding, center=center)
    rows = all_patches(images, kernel_size, stride, twin_padding(padding))
    rows = rows.reshape(-1, rows.shape[-1])
    assert relative_error(spectrum.mean, rows.mean(axis=0)) < 1e-13
    if center:
        rows = rows - rows.mean(axis=0)
    second = sum(np.outer(p, p) for p in rows) / len(rows)
    variance, u = np.asarray(spectrum.variance), np.asarray(spectrum.components)
    assert relative_error(variance, np.linalg.eigvalsh(second)[::-1]) < 1e-13
    assert (np.diff(variance) <= 0).all()
    assert (variance >= 0).all()
    assert relative_error(recompose(variance, u), second) < 1e-12
    np.testing.assert_allclose(u.T @ u, np.eye(len(u)), atol=1e-12)
    assert (u.max(axis=0) == np.abs(u).max(axis=0)).all()  # the sign
    assert spectrum.count == len(rows)
    assert spectrum.centered is center


def test_how_the_patches_were_taken_is_recorded():
    images = draw_images((4, 6, 7, 2))
    spectrum = patch_spectrum(images, (3, 2), stride=(2, 3), padding="SAME")
    moments = mean_patch_moments(images, np.arange(4), (3, 2), stride=(2, 3), padding="SAME")
    for taken in (spectrum, moments):
        assert taken.kernel_shape == (3, 2, 2)
        assert taken.stride == (2, 3)
        assert taken.padding == ((0, 1), (0, 1))
    assert moments.patches_per_image == 9
    assert spectrum.count == 36


def test_entries_lie_in_the_order_of_a_flax_kernel():
    """An image as large as the kernel has one patch, which is the image; a kernel flattened alike reads it."""
    for index in np.ndindex(2, 3, 2):
        image = np.zeros((1, 2, 3, 2))
        image[(0, *index)] = 1
        cross = mean_patch_moments(image, np.ones(1), (2, 3)).cross
        np.testing.assert_array_equal(cross.reshape(2, 3, 2), image[0])
    images, kernel = draw_images((2, 5, 6, 2)), RANDOM.normal(size=(2, 3, 2, 4))
    responses = lax.conv_general_dilated(
        jnp.asarray(images), jnp.asarray(kernel), (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    explicit = patches.extract_patches(jnp.asarray(images), patches.window(images.shape, (2, 3), (2, 1), "SAME"))
    assert relative_error(explicit @ kernel.reshape(-1, 4), responses) < 1e-13


@pytest.mark.parametrize("entries", [1, 100, 300, 10**6])
def test_chunks_cover_every_image_once(monkeypatch, entries):
    """Of 7 images with 4 * 4 * 8 entries each: one at a time, again, two at a time and one left, all at once."""
    images = draw_images((7, 5, 5, 2))
    monkeypatch.setattr(patches, "_CHUNK_ENTRIES", entries)
    where = patches.window(images.shape, 2, 1, "VALID")
    sizes = []

    def statistic(chunk):
        sizes.append(chunk.shape[0])
        return jnp.einsum("nhwc->c", chunk), jnp.einsum("nhwc,nhwd->cd", chunk, chunk)

    total = jax.jit(lambda images: patches.sum_over_images(statistic, images, where))(images)
    assert set(sizes) == {1: {1}, 100: {1}, 300: {2, 1}, 10**6: {7}}[entries]
    assert relative_error(total[0], images.sum(axis=(0, 1, 2))) < 1e-13
    assert relative_error(total[1], np.einsum("nhwc,nhwd->cd", images, images)) < 1e-13


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_results_are_float64_outside_traces_whatever_the_flag(dtype):
    images = draw_images((4, 5, 5, 2), mean=100).astype(dtype)
    targets = np.array([3, 1, 4, 1])
    spectrum, moments = patch_spectrum(images, 2), mean_patch_moments(images, targets, 2)
    kind = jax.Array if FLOAT64 else np.ndarray
    assert all(isinstance(leaf, kind) for leaf in jax.tree.leaves((spectrum, moments)))
    assert {leaf.dtype for leaf in jax.tree.leaves((spectrum, moments))} == {np.dtype(np.float64)}
    explicit = all_patches(images, 2).reshape(4, -1, 8)
    centered = (explicit - explicit.mean(axis=(0, 1))).reshape(-1, 8)
    assert relative_error(spectrum.variance, np.linalg.eigvalsh(centered.T @ centered / len(centered))[::-1]) < 1e-12
    means = explicit.mean(axis=1)
    assert relative_error(moments.second, means.T @ means / 4) < 1e-12
    assert relative_error(moments.cross, means.T @ targets / 4) < 1e-12


@pytest.mark.float32
def test_inside_a_trace_the_dtype_is_that_of_the_images():
    images = draw_images((3, 4, 5, 5, 2), mean=0).astype(np.float32)
    targets = RANDOM.normal(size=(3, 4)).astype(np.float32)

    def both(images, targets):
        return patch_spectrum(images, 2), mean_patch_moments(images, targets, 2)

    mapped = jax.jit(jax.vmap(both))(images, targets)
    assert {leaf.dtype for leaf in jax.tree.leaves(mapped)} == {np.dtype(np.float32)}
    for n in range(3):
        spectrum, moments = both(images[n], targets[n])
        assert relative_error(mapped[0].variance[n], spectrum.variance) < 1e-5
        assert relative_error(mapped[1].second[n], moments.second) < 1e-5
        assert relative_error(mapped[1].cross[n], moments.cross) < 1e-5


def test_a_large_mean_costs_no_digits_of_the_centered_spectrum():
    images = draw_images((6, 5, 5, 1), mean=0)
    shifted = patch_spectrum(images + 1e5, 2)
    assert relative_error(shifted.variance, patch_spectrum(images, 2).variance) < 1e-9


def test_variances_of_zero_up_to_rounding_are_zero():
    grey = np.repeat(draw_images((6, 5, 5, 1)), 3, axis=3)
    spectrum = patch_spectrum(grey, 2)
    assert (np.asarray(spectrum.variance) > 0).sum() == 4
    assert (np.asarray(theory.whitening_profile(spectrum.variance))[4:] == 0).all()
    few = patch_spectrum(draw_images((1, 3, 2, 3)), 2, center=False)  # two patches of 12 numbers
    assert (np.asarray(few.variance) > 0).sum() == 2


@pytest.mark.float32
def test_results_are_pytrees():
    images = draw_images((3, 4, 4, 1)).astype(np.float32)
    for result in (patch_spectrum(images, 2), mean_patch_moments(images, np.arange(3), 2)):
        doubled = jax.tree.map(lambda leaf: 2 * leaf, result)
        assert type(doubled) is type(result)
        assert (doubled.count, doubled.kernel_shape) == (result.count, (2, 2, 1))
        np.testing.assert_array_equal(doubled.mean, 2 * result.mean)


def test_one_target_per_image_in_lists():
    images, targets = draw_images((3, 3, 3, 1)), [1, 2, 4]
    moments = mean_patch_moments(images.tolist(), targets, 2)
    means = all_patches(images, 2).mean(axis=(1, 2))
    assert relative_error(moments.cross, means.T @ targets / 3) < 1e-13
    assert relative_error(moments.target_mean, 7 / 3) < 1e-13
    assert relative_error(moments.target_covariance, np.var(targets, ddof=1)) < 1e-13
    assert mean_patch_moments(images[:1], [2], 2).target_covariance == 0


def test_gradients_of_the_moments():
    images, targets = draw_images((3, 4, 4, 1)), RANDOM.normal(size=3)
    slope = jax.jit(jax.grad(lambda images: mean_patch_moments(images, targets, 2).second.sum()))(images)
    step = np.zeros_like(images)
    step[1, 2, 1, 0] = 1e-6
    difference = (
        mean_patch_moments(images + step, targets, 2).second.sum()
        - mean_patch_moments(images - step, targets, 2).second.sum()
    ) / 2e-6
    np.testing.assert_allclose(slope[1, 2, 1, 0], difference, rtol=1e-7)


GOOD = np.ones((3, 4, 5, 2))
HOLES = np.where(np.arange(2) == 0, np.nan, GOOD)


@pytest.mark.parametrize(
    ("error", "message", "images", "settings"),
    [
        (ValueError, r"images must have shape \(N, H, W, C\).* got \(4, 5, 2\).* images\[None\]", GOOD[0], {}),
        (ValueError, r"no empty axis, got \(0, 4, 5, 2\)", GOOD[:0], {}),
        (TypeError, r"images must be floating point, got uint8; .*astype\('float32'\) / 255", GOOD.astype("uint8"), {}),
        (ValueError, "images has 60 entries that are NaN or infinite; remove", HOLES, {}),
        (ValueError, "images of 4x5 pixels .*smaller than kernel_size 6x2", GOOD, {"kernel_size": (6, 2)}),
        (ValueError, r"of 4x5 pixels \(padded to 6x7\) .* 7x7; use larger", GOOD, {"kernel_size": 7, "padding": 1}),
        (ValueError, "kernel_size must be one or two integers >= 1, got 0", GOOD, {"kernel_size": 0}),
        (ValueError, r"kernel_size must be one or two integers >= 1, got \(1, 2", GOOD, {"kernel_size": (1, 2, 3)}),
        (TypeError, "kernel_size must be an integer or a pair of integers, got 2.5", GOOD, {"kernel_size": 2.5}),
        (ValueError, "stride must be one or two integers >= 1, got -1", GOOD, {"stride": -1}),
        (ValueError, "padding must be 'VALID', .* got 'CIRCULAR'", GOOD, {"padding": "CIRCULAR"}),
        (ValueError, "padding must be one or two integers >= 0, got -1", GOOD, {"padding": -1}),
        (ValueError, r"padding must have one entry for each of the two image axes, got \[1\]", GOOD, {"padding": [1]}),
    ],
)  # fmt: skip
def test_bad_images_and_windows(error, message, images, settings):
    with pytest.raises(error, match=message):
        patch_spectrum(images, **({"kernel_size": 2} | settings))
    with pytest.raises(error, match=message):
        mean_patch_moments(images, np.ones(len(images)), **({"kernel_size": 2} | settings))


@pytest.mark.parametrize(
    ("message", "targets"),
    [
        (r"targets must have shape \(N,\) or \(N, M\) with N = 3 as the images have, got \(2,\)", np.ones(2)),
        (r"N = 3 as the images have, got \(3, 1, 1\)", np.ones((3, 1, 1))),
        (r"got \(\)", 1.0),
        (r"got \(3, 0\)", np.ones((3, 0))),
        ("targets has 1 entries that are NaN or infinite", [1, np.inf, 2]),
    ],
)
def test_bad_targets(message, targets):
    with pytest.raises(ValueError, match=message):
        mean_patch_moments(GOOD, targets, 2)
