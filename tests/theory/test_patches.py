"""Where patches lie, and sums over them that never form them, against loops over
patches and convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.theory.twins import all_patches, padding_pixels, relative_error
from theory import mean_patch_moments, patch_moments, patch_spectrum, patches
from theory.pair_sums import assemble_pair_sums, pair_sums

RANDOM = np.random.default_rng(0)


def convolve(images, kernel, stride, padding):
    return lax.conv_general_dilated(
        images, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# --- where patches lie ---


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        ("VALID", None),
        ("SAME", None),
        ("same_lower", None),
        (0, ((0, 0), (0, 0))),
        (np.int64(12), ((12, 12), (12, 12))),
        (((0, 2), (5, 1)), ((0, 2), (5, 1))),
        ([1, np.array([2, 0])], ((1, 1), (2, 0))),
    ],
)
def test_locations_are_those_of_a_convolution(padding, sides):
    for size in ((11, 11), (13, 11), (12, 17)):
        for kernel in ((1, 1), (2, 3), (4, 1), (5, 8), (11, 11)):
            for stride in ((1, 1), (1, 3), (2, 5), (7, 12)):
                where = patches.window((2, *size, 3), kernel, stride, padding)
                axes = zip(size, kernel, stride, strict=True)
                expected = sides or tuple(
                    padding_pixels(*axis, padding) for axis in axes
                )
                responses = jax.eval_shape(
                    lambda x, w, stride=stride: convolve(
                        x, w, stride, sides or padding.upper()
                    ),
                    jax.ShapeDtypeStruct((2, *size, 3), jnp.float32),
                    jax.ShapeDtypeStruct((*kernel, 3, 1), jnp.float32),
                )
                assert where == (kernel, stride, expected, responses.shape[1:3])


def test_one_number_stands_for_both_axes():
    where = patches.window((1, 9, 9, 1), 3, 2, 1)
    assert where == patches.window((1, 9, 9, 1), [3, 3], np.array([2, 2]), [1, 1])
    assert where == ((3, 3), (2, 2), ((1, 1), (1, 1)), (5, 5))
    assert hash(where) == hash(
        patches.window((1, 9, 9, 1), np.int64(3), np.int32(2), np.int64(1))
    )


GOOD = np.ones((3, 4, 5, 2))


@pytest.mark.parametrize(
    ("error", "message", "settings"),
    [
        (
            ValueError,
            "images of 4x5 pixels .*smaller than kernel_size 6x2",
            {"kernel_size": (6, 2)},
        ),
        (
            ValueError,
            r"of 4x5 pixels \(padded to 6x7\) .* 7x7; use larger",
            {"kernel_size": 7, "padding": 1},
        ),
        (
            ValueError,
            "kernel_size must be one or two integers >= 1, got 0",
            {"kernel_size": 0},
        ),
        (
            ValueError,
            r"kernel_size must be one or two integers >= 1, got \(1, 2",
            {"kernel_size": (1, 2, 3)},
        ),
        (
            TypeError,
            "kernel_size must be an integer or a pair of integers, got 2.5",
            {"kernel_size": 2.5},
        ),
        (ValueError, "stride must be one or two integers >= 1, got -1", {"stride": -1}),
        (
            ValueError,
            "padding must be 'VALID', .* got 'CIRCULAR'",
            {"padding": "CIRCULAR"},
        ),
        (
            ValueError,
            "padding must be one or two integers >= 0, got -1",
            {"padding": -1},
        ),
        (
            ValueError,
            r"padding must have one entry for each of the two image axes, got \[1\]",
            {"padding": [1]},
        ),
    ],
)
def test_bad_windows(error, message, settings):
    settings = {"kernel_size": 2} | settings
    for images in (GOOD, iter([GOOD])):
        with pytest.raises(error, match=message):
            patch_spectrum(images, **settings)
    with pytest.raises(error, match=message):
        mean_patch_moments(GOOD, np.ones(3), **settings)
    with pytest.raises(error, match=message):
        jax.eval_shape(
            lambda images: patch_spectrum(images, **settings), jnp.asarray(GOOD)
        )


# --- in which order their entries lie ---


def test_an_image_as_large_as_the_kernel_is_its_only_patch():
    images = np.eye(12).reshape(12, 2, 3, 2)
    where = patches.window(images.shape, (2, 3), 1, "VALID")
    np.testing.assert_array_equal(
        patches.patch_sums(jnp.asarray(images), where), np.eye(12)
    )


def test_a_flax_kernel_flattened_alike_reads_the_moments():
    """Means and covariances of the responses of a real convolution, from the moments of
    the patches."""
    images, kernel = (
        RANDOM.normal(size=(3, 7, 8, 2)) + 1,
        RANDOM.normal(size=(2, 3, 2, 4)),
    )
    responses = np.asarray(
        convolve(jnp.asarray(images), jnp.asarray(kernel), (2, 1), "SAME")
    ).reshape(-1, 4)
    moments = patch_moments(images, (2, 3), stride=(2, 1), padding="SAME")
    filters = kernel.reshape(-1, 4)
    assert relative_error(filters.T @ moments.mean, responses.mean(axis=0)) < 1e-14
    assert (
        relative_error(
            filters.T @ moments.covariance @ filters, np.cov(responses.T, ddof=0)
        )
        < 1e-14
    )


# --- sums over locations ---


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride", "padding"),
    [
        ((2, 5, 7, 2), (2, 3), 1, "VALID"),
        ((2, 6, 5, 1), 3, (2, 1), "SAME"),
        ((1, 7, 8, 3), (1, 2), (3, 2), ((0, 2), (1, 0))),
    ],
)
def test_patch_sums_over_some_locations(shape, kernel_size, stride, padding):
    images = RANDOM.normal(size=shape)
    where = patches.window(shape, kernel_size, stride, padding)
    padded = patches.pad_images(jnp.asarray(images), where)
    explicit = all_patches(images, kernel_size, stride, padding)
    assert explicit.shape[1:3] == where.locations
    everywhere = patches.patch_sums(padded, where)
    assert relative_error(everywhere, explicit.sum(axis=(1, 2))) < 1e-14
    some = patches.patch_sums(padded, where, (1, 2), (2, where.locations[1]))
    assert relative_error(some, explicit[:, 1:2, 2:].sum(axis=(1, 2))) < 1e-14


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride", "padding", "distances"),
    [
        # Distances shorter and as long as the kernel.
        ((2, 6, 9, 2), (3, 2), 1, "VALID", (0, 1, 3)),
        ((2, 9, 8, 1), (3, 2), 2, 1, (0, 2, 1)),  # a stride within the kernel
        ((2, 9, 11, 1), 2, (3, 4), "VALID", (1,)),  # beyond it, and no distance 0
    ],
)
def test_pair_sums_equal_loops_over_pairs(
    shape, kernel_size, stride, padding, distances
):
    images = RANDOM.normal(size=shape)
    where = patches.window(shape, kernel_size, stride, padding)
    padded = patches.pad_images(jnp.asarray(images), where)
    parts = jax.jit(lambda padded: pair_sums(padded, where, distances))
    both = jax.jit(lambda sums: assemble_pair_sums(sums, where, distances, shape[-1]))
    sums = jax.tree.map(jnp.add, parts(padded[:1]), parts(padded[1:]))
    explicit = all_patches(images, kernel_size, stride, padding)
    rows = explicit.shape[1]
    expected = [
        sum(
            np.outer(image[y, x], image[y + distance, x])
            for image in explicit
            for y in range(rows - distance)
            for x in range(explicit.shape[2])
        )
        for distance in distances
    ]
    assert relative_error(both(sums), expected) < 1e-14
