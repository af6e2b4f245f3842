"""Moments of patches and of mean patches, and their spectrum, against loops over
patches."""

import dataclasses
import functools
import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.theory.twins import (
    all_patches,
    eigenvalue_error,
    entry_error,
    mean_and_covariance,
    patch_rows,
    recompose,
    relative_error,
)
from theory import (
    MeanPatchMoments,
    PatchMoments,
    mean_patch_moments,
    pair_sums,
    patch_moments,
    patch_spectrum,
    patches,
)

RANDOM = np.random.default_rng(0)
FLOAT64 = jax.config.read("jax_enable_x64")


def draw_images(shape, mean=0.5):
    return RANDOM.normal(size=shape) + mean


def draw_correlated(shape):
    """Like photographs, neighbouring pixels are correlated; the standard deviation is
    1."""
    images = RANDOM.normal(size=shape).cumsum(axis=1).cumsum(axis=2)
    return images / images.std()


# --- all patches ---

CASES = [
    # images, kernel_size, stride, padding
    ((6, 5, 7, 4), 1, 1, "VALID"),
    # Padding wider than the kernel: patches of zeros only.
    ((5, 7, 8, 1), 2, (1, 3), 3),
    ((9, 8, 12, 2), 2, (3, 4), "VALID"),  # strides beyond the kernel
    ((5, 7, 9, 3), 3, 1, "SAME"),
    ((23, 9, 9, 2), (3, 4), (1, 3), "SAME_LOWER"),
    ((7, 9, 8, 2), (5, 2), 2, ((0, 2), (3, 1))),
    ((51, 3, 6, 2), (3, 6), 1, "VALID"),  # one location
    # No row of pixels that meets all rows of the kernel.
    ((9, 8, 9, 1), (7, 2), 1, "VALID"),
    ((8, 8, 15, 1), (1, 8), (2, 1), "VALID"),
    ((5, 13, 13, 1), 9, 1, "SAME"),
    ((3, 6, 22, 1), (2, 10), 1, "VALID"),  # 13 columns of locations
    ((5, 15, 16, 1), 11, 1, "VALID"),
    ((5, 6, 8, 1), (6, 4), (1, 2), "SAME"),
]


def variants(shape):
    """Images for which sums about zero would lose digits."""
    images = draw_correlated(shape)
    # Means of channels differ.
    return (
        images,
        images + 1000,
        images + 1e6,
        1e-3 * images + 10.0 ** np.arange(shape[3]),
    )


def assert_exact(moments, images, kernel_size, stride, padding):
    rows = patch_rows(images, kernel_size, stride, padding)
    mean, covariance = mean_and_covariance(rows)
    assert moments.count == len(rows)
    np.testing.assert_allclose(
        moments.mean, mean, rtol=1e-14, atol=1e-14 * np.abs(images).max()
    )
    assert entry_error(moments.covariance, covariance) < 200
    np.testing.assert_array_equal(moments.covariance, moments.covariance.T)
    for center, second in (
        (True, covariance),
        (False, covariance + np.outer(mean, mean)),
    ):
        spectrum = moments.spectrum(center=center)
        variance, u = np.asarray(spectrum.variance), np.asarray(spectrum.components)
        # Variances of less than d * eps of the largest are returned as 0.
        assert eigenvalue_error(variance, second) < max(100, 2 * len(u))
        assert (variance[0] / variance[variance > 0][-1]) < 1 / (
            len(u) * np.finfo(float).eps
        )
        assert relative_error(recompose(variance, u), second) < 1e-12
        np.testing.assert_allclose(u.T @ u, np.eye(len(u)), atol=1e-13)
        assert (np.diff(variance) <= 0).all()
        assert (u.max(axis=0) == np.abs(u).max(axis=0)).all()  # the sign
        assert spectrum.centered is center
        np.testing.assert_array_equal(spectrum.mean, moments.mean)


# The narrowest strips, and a single wide one.
@pytest.mark.parametrize("overhead", [0, 10**6])
@pytest.mark.parametrize(("shape", "kernel_size", "stride", "padding"), CASES)
def test_every_eigenvalue_and_entry_is_exact_up_to_rounding(
    monkeypatch, shape, kernel_size, stride, padding, overhead
):
    monkeypatch.setattr(pair_sums, "_OVERHEAD_ENTRIES", overhead)
    for images in variants(shape):
        moments = patch_moments(images, kernel_size, stride=stride, padding=padding)
        assert_exact(moments, images, kernel_size, stride, padding)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride", "padding"),
    [CASES[i] for i in (1, 3, 4, 5, 7, 10)],
)
def test_traced_moments_are_exact_too(monkeypatch, shape, kernel_size, stride, padding):
    monkeypatch.setattr(pair_sums, "_OVERHEAD_ENTRIES", 0)
    traced = jax.jit(
        lambda images: patch_moments(
            images, kernel_size, stride=stride, padding=padding
        )
    )
    for images in variants(shape):
        assert_exact(traced(images), images, kernel_size, stride, padding)


def test_the_cases_are_hard(monkeypatch):
    """Condition numbers of 1e5 and more; strips of one and of two widths, one and many
    of them."""
    covariance = mean_and_covariance(patch_rows(draw_correlated((5, 15, 16, 1)), 11))[1]
    assert np.linalg.cond(covariance) > 1e5
    monkeypatch.setattr(pair_sums, "_OVERHEAD_ENTRIES", 0)
    strips = [
        [
            number
            for _, _, number in pair_sums._columns(patches.window(*case), case[0][3])
        ]
        for case in CASES
    ]
    assert {len(numbers) for numbers in strips} == {1, 2}
    assert {numbers[0] > 1 for numbers in strips} == {False, True}


def test_strips_cover_every_location_of_a_row_once():
    for locations, size, stride, channels in itertools.product(
        [1, 2, 7, 30, 31], [1, 3, 11], [1, 2, 12], [1, 4]
    ):
        where = patches.window(
            (1, size, (locations - 1) * stride + size, channels), size, stride, "VALID"
        )
        covered = [
            first + number * wide + i
            for first, wide, strips in pair_sums._columns(where, channels)
            for number in range(strips)
            for i in range(wide)
        ]
        assert covered == list(range(locations))


def test_variances_of_zero_up_to_rounding_are_zero():
    grey = np.repeat(draw_images((6, 5, 5, 1)), 3, axis=3)
    spectrum = patch_spectrum(grey, 2)
    assert (np.asarray(spectrum.variance) > 0).sum() == 4
    assert (np.asarray(theory.whitening_profile(spectrum.variance))[4:] == 0).all()
    # Two patches of 12 numbers.
    few = patch_spectrum(draw_images((1, 3, 2, 3)), 2, center=False)
    assert (np.asarray(few.variance) > 0).sum() == 2


@pytest.mark.parametrize("center", [True, False])
def test_the_spectrum_in_one_call(center):
    images = draw_images((6, 5, 7, 4))
    settings = {"stride": (2, 1), "padding": "SAME"}
    moments = patch_moments(images, 1, **settings)
    once, twice = (
        patch_spectrum(images, 1, center=center, **settings),
        moments.spectrum(center=center),
    )
    for field in dataclasses.fields(once):
        np.testing.assert_array_equal(
            getattr(once, field.name), getattr(twice, field.name)
        )
    np.testing.assert_array_equal(
        patch_spectrum(images, 1, **settings).variance, moments.spectrum().variance
    )


def test_how_the_patches_were_taken_is_recorded():
    images = draw_images((4, 6, 7, 2))
    settings = {"stride": (2, 3), "padding": "SAME"}
    all_of_them = patch_moments(images, (3, 2), **settings)
    means = mean_patch_moments(images, np.arange(4), (3, 2), **settings)
    for taken in (all_of_them, all_of_them.spectrum(), means):
        assert taken.kernel_shape == (3, 2, 2)
        assert taken.stride == (2, 3)
        assert taken.padding == ((0, 1), (0, 1))
    assert (means.count, means.patches_per_image) == (4, 9)
    assert all_of_them.count == all_of_them.spectrum().count == 36


# --- mean patches ---


@pytest.mark.parametrize(("shape", "kernel_size", "stride", "padding"), CASES[1:6])
def test_mean_patch_moments_equal_loops(shape, kernel_size, stride, padding):
    for pixel_mean, target_mean in ((0.5, 1), (1000, 1e6)):
        images, targets = (
            draw_images(shape, pixel_mean),
            RANDOM.normal(size=(shape[0], 2)) + target_mean,
        )
        moments = mean_patch_moments(
            images, targets, kernel_size, stride=stride, padding=padding
        )
        explicit = all_patches(images, kernel_size, stride, padding)
        n, rows, columns, d = explicit.shape
        means = np.array(
            [
                sum(patch for row in image for patch in row) / (rows * columns)
                for image in explicit
            ]
        )
        assert (moments.count, moments.patches_per_image) == (n, rows * columns)
        assert np.prod(moments.kernel_shape) == d
        for computed, expected in (
            (moments.second, sum(np.outer(p, p) for p in means) / n),
            (
                moments.cross,
                sum(np.outer(p, y) for p, y in zip(means, targets, strict=True)) / n,
            ),
            (moments.mean, means.mean(axis=0)),
            (moments.target_mean, targets.mean(axis=0)),
        ):
            assert relative_error(computed, expected) < 2e-14
        assert (
            entry_error(
                moments.target_covariance, np.cov((targets - targets.mean(axis=0)).T)
            )
            < 100
        )


def test_one_target_per_image_in_lists():
    images, targets = draw_images((3, 3, 3, 1)), [1, 2, 4]
    moments = mean_patch_moments(images.tolist(), targets, 2)
    means = all_patches(images, 2).mean(axis=(1, 2))
    assert relative_error(moments.cross, means.T @ targets / 3) < 1e-13
    assert relative_error(moments.target_mean, 7 / 3) < 1e-13
    assert relative_error(moments.target_covariance, np.var(targets, ddof=1)) < 1e-13
    assert mean_patch_moments(images[:1], [2], 2).target_covariance == 0


# --- moments add up ---

WAY = {"kernel_shape": (2, 3, 2), "stride": (1, 2), "padding": ((0, 0), (1, 0))}


def explicit_patch_moments(images):
    rows = patch_rows(images, (2, 3), (1, 2), WAY["padding"])
    return PatchMoments(*mean_and_covariance(rows), len(rows), **WAY)


def explicit_mean_patch_moments(images, targets):
    explicit = all_patches(images, (2, 3), (1, 2), WAY["padding"])
    means, n = explicit.mean(axis=(1, 2)), len(images)
    covariance = np.cov(targets.T) if n > 1 else np.zeros(targets.shape[1:] * 2)
    return MeanPatchMoments(
        means.T @ means / n,
        means.T @ targets / n,
        means.mean(axis=0),
        targets.mean(axis=0),
        covariance,
        n,
        explicit.shape[1] * explicit.shape[2],
        **WAY,
    )


def added(parts):
    """The sum in several orders and associations."""
    a, b, *rest = parts
    yield functools.reduce(operator.add, parts)
    yield functools.reduce(operator.add, reversed(parts))
    yield functools.reduce(lambda right, left: left + right, reversed(parts))
    yield functools.reduce(operator.add, rest) + (b + a)


@pytest.mark.parametrize("mean", [1, 1000])
def test_patch_moments_of_parts_add_up(mean):
    """Parts of 1, 2, 3 and 5 images, of different means."""
    images = draw_correlated((11, 4, 7, 2)) + mean + np.arange(11)[:, None, None, None]
    parts = [explicit_patch_moments(part) for part in np.split(images, [1, 3, 6])]
    whole = explicit_patch_moments(images)
    for total in added(parts):
        assert isinstance(total, PatchMoments)
        assert total.count == whole.count
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-14, atol=1e-14)
        # The parts hold their means to rounding of the mean.
        assert entry_error(total.covariance, whole.covariance) < 100 * mean
        assert {name: getattr(total, name) for name in WAY} == WAY


@pytest.mark.parametrize("outputs", [(), (3,)])
def test_mean_patch_moments_of_parts_add_up(outputs):
    images = draw_images((9, 4, 7, 2)) + np.arange(9)[:, None, None, None]
    targets = (
        RANDOM.normal(size=(9, *outputs))
        + 100
        + np.arange(9).reshape(-1, *(1 for _ in outputs))
    )
    parts = [
        explicit_mean_patch_moments(*part)
        for part in zip(
            np.split(images, [1, 2, 5]), np.split(targets, [1, 2, 5]), strict=True
        )
    ]
    whole = explicit_mean_patch_moments(images, targets)
    for total in added(parts):
        assert isinstance(total, MeanPatchMoments)
        assert (total.count, total.patches_per_image) == (
            whole.count,
            whole.patches_per_image,
        )
        assert {name: getattr(total, name) for name in WAY} == WAY
        for name in ("second", "cross", "mean", "target_mean", "target_covariance"):
            assert relative_error(getattr(total, name), getattr(whole, name)) < 1e-13


def test_sums_of_jax_arrays_and_inside_a_trace():
    images = draw_images((4, 4, 7, 2))
    both = [
        [
            explicit_patch_moments(part),
            explicit_mean_patch_moments(part, part[:, 0, 0, 0]),
        ]
        for part in (images[:1], images[1:])
    ]
    both = jax.tree.map(jnp.asarray, both)
    here = [a + b for a, b in zip(*both, strict=True)]
    traced = jax.jit(
        lambda left, right: [a + b for a, b in zip(left, right, strict=True)]
    )(*both)
    for leaf, expected in zip(
        jax.tree.leaves(traced), jax.tree.leaves(here), strict=True
    ):
        assert isinstance(expected, jax.Array)
        assert relative_error(leaf, expected) < 1e-14


def test_moments_that_do_not_fit_cannot_be_added():
    images = draw_images((3, 4, 7, 2))
    all_of_them, means = (
        explicit_patch_moments(images),
        explicit_mean_patch_moments(images, images[:, 0, 0, 0]),
    )
    for field, other in (
        ("kernel_shape", (3, 2, 2)),
        ("stride", (2, 1)),
        ("padding", ((0, 0), (0, 1))),
        ("patches_per_image", 8),
    ):
        for moments in (all_of_them, means):
            if hasattr(moments, field):
                with pytest.raises(
                    ValueError,
                    match=f"moments of different {field} cannot be added: .* and ",
                ):
                    moments + dataclasses.replace(moments, **{field: other})
    with pytest.raises(ValueError, match=r"targets of shapes \(\) and \(2,\)"):
        means + explicit_mean_patch_moments(images, images[:, 0, 0])
    with pytest.raises(
        TypeError, match=r"of one kind .* got PatchMoments and MeanPatchMoments"
    ):
        all_of_them + means
    with pytest.raises(TypeError, match=r"of one kind .* got MeanPatchMoments and int"):
        means + 1


# --- dtypes and transformations ---


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_results_are_float64_outside_traces_whatever_the_flag(dtype):
    images = draw_images((4, 5, 5, 2), mean=100).astype(dtype)
    targets = np.array([3, 1, 4, 1])
    spectrum, moments = (
        patch_spectrum(images, 2),
        mean_patch_moments(images, targets, 2),
    )
    results = (spectrum, moments, moments + moments)
    kinds = jax.Array if FLOAT64 else (np.ndarray, np.floating)
    assert all(isinstance(leaf, kinds) for leaf in jax.tree.leaves(results))
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {np.dtype(np.float64)}
    mean, covariance = mean_and_covariance(patch_rows(images, 2))
    assert eigenvalue_error(spectrum.variance, covariance) < 100
    assert relative_error(spectrum.mean, mean) < 1e-14
    means = all_patches(images, 2).mean(axis=(1, 2))
    assert relative_error(moments.second, means.T @ means / 4) < 1e-14
    assert relative_error(moments.cross, means.T @ targets / 4) < 1e-14
    assert relative_error(moments.target_covariance, np.var(targets, ddof=1)) < 1e-14


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


@pytest.mark.float32
def test_concrete_images_inside_a_trace_are_computed_at_once():
    images, targets = (
        draw_images((4, 5, 5, 2), mean=100).astype(np.float32),
        np.array([3, 1, 4, 1]),
    )
    outside = patch_spectrum(images, 2), mean_patch_moments(images, targets, 2)
    seen = []

    @jax.jit
    @jax.grad
    def function(scale):
        seen.append((patch_spectrum(images, 2), mean_patch_moments(images, targets, 2)))
        return scale**2

    assert function(3.0) == 6
    for leaf, expected in zip(
        jax.tree.leaves(seen), jax.tree.leaves(outside), strict=True
    ):
        assert leaf.dtype == np.float64
        np.testing.assert_array_equal(leaf, expected)


def test_gradients_of_the_spectrum():
    images = draw_images((3, 4, 5, 1))
    weights = np.arange(4) + 1.0

    def loss(images):
        return patch_spectrum(images, 2, padding=((1, 0), (0, 0))).variance @ weights

    value, slope = jax.jit(jax.value_and_grad(loss))(images)
    assert relative_error(value, loss(images)) < 1e-13
    step = RANDOM.normal(size=images.shape) * 1e-6
    difference = (loss(images + step) - loss(images - step)) / 2
    assert relative_error((slope * step).sum(), difference) < 1e-7


def test_gradients_of_the_mean_patch_moments():
    images, targets = draw_images((3, 4, 4, 1)), RANDOM.normal(size=3)

    def loss(images, targets):
        moments = mean_patch_moments(images, targets, 2)
        return (
            moments.second.sum()
            + (moments.cross * moments.mean).sum()
            + moments.target_covariance
        )

    slopes = jax.jit(jax.grad(loss, (0, 1)))(images, targets)
    steps = RANDOM.normal(size=images.shape) * 1e-6, RANDOM.normal(size=3) * 1e-6
    difference = (
        loss(images + steps[0], targets + steps[1])
        - loss(images - steps[0], targets - steps[1])
    ) / 2
    assert (
        relative_error(
            sum((a * b).sum() for a, b in zip(slopes, steps, strict=True)), difference
        )
        < 1e-7
    )


@pytest.mark.float32
def test_results_are_pytrees():
    images = draw_images((4, 5, 5, 2)).astype(np.float32)
    for result in (
        patch_moments(images, 2),
        patch_spectrum(images, 2),
        mean_patch_moments(images, np.arange(4), 2),
    ):
        doubled = jax.tree.map(lambda leaf: 2 * leaf, result)
        assert type(doubled) is type(result)
        assert (doubled.count, doubled.kernel_shape) == (result.count, (2, 2, 2))
        np.testing.assert_array_equal(doubled.mean, 2 * result.mean)


# --- bad input ---

GOOD = np.ones((3, 4, 5, 2))
HOLES = np.where(np.arange(2) == 0, np.nan, GOOD)


@pytest.mark.parametrize(
    ("error", "message", "images"),
    [
        (
            ValueError,
            r"images must have shape \(N, H, W, C\).* got \(4, 5, 2\).* images\[None\]",
            GOOD[0],
        ),
        (ValueError, r"no empty axis, got \(0, 4, 5, 2\)", GOOD[:0]),
        (
            TypeError,
            (
                r"images must be floating point, got uint8; .*asarray\(images,"
                r" 'float32'\) / 255"
            ),
            GOOD.astype("uint8"),
        ),
        (TypeError, "images must be floating point, got bool", GOOD > 0),
        (ValueError, "images has 60 entries that are NaN or infinite; remove", HOLES),
        (
            ValueError,
            "images has 60 entries that are NaN or infinite",
            np.where(np.isnan(HOLES), -np.inf, 1),
        ),
        (
            ValueError,
            "images are so large that their second moment overflows; scale",
            GOOD * [1e200, -1e200],
        ),
        (
            TypeError,
            "images must be an array .* or an iterable of such arrays, got int",
            3,
        ),
        (
            TypeError,
            "images must be an array .* or an iterable of such arrays, got str",
            "photographs",
        ),
    ],
)
def test_bad_images(error, message, images):
    with pytest.raises(error, match=message):
        patch_moments(images, 2)
    with pytest.raises(error, match=message):
        mean_patch_moments(images, np.ones(np.shape(images)[:1] or 3), 2)


def test_images_with_their_labels_are_refused():
    class ImageSet(NamedTuple):
        images: np.ndarray
        labels: np.ndarray

    with pytest.raises(
        TypeError, match=r"images must be an array .*, got ImageSet; pass its \.images"
    ):
        patch_moments(ImageSet(GOOD, np.ones(3)), 2)


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 1, 5, 5), (2, 3, 6, 5)])
def test_images_that_seem_to_have_their_channels_first(shape):
    images = np.random.default_rng(0).normal(size=shape)
    with pytest.warns(
        UserWarning,
        match=rf"{shape[1]} x {shape[2]} pixels with {shape[3]} channels; .*moveaxis",
    ):
        found = patch_moments(images, 1)
    assert found.mean.shape == shape[3:]  # read as they are
    with pytest.warns(UserWarning, match="channels first"):
        mean_patch_moments(images, np.ones(2), 1)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 3, 3),
        (2, 1, 4, 4),
        (2, 3, 3, 6),
        (2, 3, 6, 4),
        (2, 2, 6, 6),
        (2, 6, 6, 3),
    ],
)
def test_images_that_need_no_warning(shape):
    patch_moments(np.ones(shape), 1)  # warnings are errors here


def test_the_values_of_traced_images_are_not_checked():
    assert np.isnan(jax.jit(lambda images: patch_moments(images, 2))(HOLES).mean).any()


@pytest.mark.parametrize(
    ("message", "targets"),
    [
        (
            (
                r"targets must have shape \(N,\) or \(N, M\) with N = 3 as the images"
                r" have, got \(2,\)"
            ),
            np.ones(2),
        ),
        (r"N = 3 as the images have, got \(3, 1, 1\)", np.ones((3, 1, 1))),
        (r"got \(\)", 1.0),
        (r"got \(3, 0\)", np.ones((3, 0))),
        ("targets has 1 entries that are NaN or infinite", [1, np.inf, 2]),
    ],
)
def test_bad_targets(message, targets):
    with pytest.raises(ValueError, match=message):
        mean_patch_moments(GOOD, targets, 2)
