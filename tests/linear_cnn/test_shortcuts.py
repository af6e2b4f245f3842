"""Mean-patch images and compressed data against explicit patches."""

import jax.numpy as jnp
import numpy as np
import pytest

from linear_cnn import compress, mean_patch_images
from tests.linear_cnn.twins import linear_outputs, mse, mse_gradient, patches_by_loop

RANDOM = np.random.default_rng(17)


@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "padding"),
    [
        ((6, 7), (3, 3), (1, 1), "VALID"),
        ((6, 7), (2, 3), (1, 1), "SAME"),
        ((6, 7), (3, 2), (2, 3), "SAME"),
        ((6, 7), (2, 4), (3, 2), "SAME_LOWER"),
        ((7, 8), (3, 3), (3, 2), "VALID"),  # the last columns are in no patch
        ((7, 8), (3, 2), (2, 2), 1),
        ((5, 5), (2, 2), (1, 2), (0, 2)),
        ((5, 6), (4, 3), (2, 1), ((1, 0), (2, 3))),
        ((4, 3), (4, 3), (1, 1), "VALID"),
        ((2, 2), (3, 3), (2, 2), ((1, 1), [0, 1])),
    ],
)
def test_mean_patches(size, kernel_size, strides, padding):
    images = RANDOM.normal(size=(3, *size, 2))
    expected = (
        patches_by_loop(images, kernel_size, strides, padding)
        .mean(axis=1)
        .reshape(3, *kernel_size, 2)
    )
    means = mean_patch_images(images, kernel_size, stride=strides, padding=padding)
    assert means.shape == expected.shape
    np.testing.assert_allclose(means, expected, rtol=0, atol=1e-15)


def test_one_number_stands_for_both_axes():
    images = RANDOM.normal(size=(2, 6, 7, 1))
    np.testing.assert_array_equal(
        mean_patch_images(images, 3, stride=2, padding="same"),
        mean_patch_images(images, [np.int64(3), 3], stride=(2, 2), padding="SAME"),
    )


@pytest.mark.float32
def test_float32_images_stay_in_float32():
    images = RANDOM.normal(size=(9, 6, 7, 1)).astype(np.float32)
    means = mean_patch_images(images, (2, 2), padding="SAME")
    small, targets = compress(means, RANDOM.normal(size=9))
    assert means.dtype == small.dtype == targets.dtype == jnp.float32
    expected = patches_by_loop(images.astype(np.float64), (2, 2), padding="SAME").mean(
        axis=1
    )
    np.testing.assert_allclose(means.reshape(9, -1), expected, rtol=0, atol=1e-6)
    second = np.asarray(small.reshape(4, 4).T @ small.reshape(4, 4)) / 4
    np.testing.assert_allclose(second, expected.T @ expected / 9, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("outputs", [(), (3,), (2, 2)])
@pytest.mark.parametrize("count", [40, 12, 7])
def test_compressed_data_have_the_same_moments_and_loss(count, outputs, dependent):
    images = RANDOM.normal(size=(count, 2, 3, 2)) + 0.5
    if dependent:
        images[:, 0] = images[:, 1]  # the mean patches do not span the space
    targets = RANDOM.normal(size=(count, *outputs)) + 1
    small, projected = compress(images, targets)
    rank = min(count, 12)
    assert small.shape == (rank, 2, 3, 2)
    assert projected.shape == (rank, *outputs)

    def as_patches(images, targets):
        return np.asarray(images).reshape(len(images), 1, -1), np.asarray(
            targets
        ).reshape(len(targets), -1)

    original, compressed = as_patches(images, targets), as_patches(small, projected)
    head = RANDOM.normal(size=(4, original[1].shape[1]))
    differences = []
    for kernel in RANDOM.normal(size=(3, 2, 3, 2, 4)):
        gradients = [
            mse_gradient(*data, kernel, head) for data in (original, compressed)
        ]
        np.testing.assert_allclose(
            gradients[1], gradients[0], rtol=0, atol=1e-12 * np.abs(gradients[0]).max()
        )
        losses = [
            mse(linear_outputs(patches, kernel, head), y)
            for patches, y in (original, compressed)
        ]
        assert losses[0] > 1
        differences.append(losses[0] - losses[1])
    # What no linear function of the mean patches reaches.
    matrix, y = original[0][:, 0], original[1]
    residual = (
        np.sum((y - matrix @ np.linalg.lstsq(matrix, y, rcond=1e-10)[0]) ** 2) / count
    )
    if not dependent:  # else Q has more columns than the mean patches span
        np.testing.assert_allclose(differences, residual, rtol=0, atol=1e-11)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-11)


def test_integer_targets_count_as_numbers():
    images = RANDOM.normal(size=(5, 2, 2, 1))
    labels = np.array([0, 3, 1, 2, 2])
    np.testing.assert_array_equal(
        compress(images, labels)[1], compress(images, labels.astype(float))[1]
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be >= 1, got 0"),
        ({"kernel_size": 2.5}, TypeError, r"kernel_size must be an integer, got 2\.5"),
        ({"kernel_size": (2, 2, 2)}, ValueError, r"pair of integers, got \(2, 2, 2\)"),
        (
            {"kernel_size": (2, 5)},
            ValueError,
            r"4x4 pixels \(padded to 4x4\) are smaller than the kernel of 2x5",
        ),
        (
            {"kernel_size": 7, "padding": 1},
            ValueError,
            r"4x4 pixels \(padded to 6x6\) are smaller",
        ),
        ({"stride": 0}, ValueError, "stride must be >= 1, got 0"),
        ({"stride": (1, -2)}, ValueError, "stride must be >= 1, got -2"),
        (
            {"padding": "CIRCULAR"},
            ValueError,
            "padding must be 'VALID', 'SAME'.*got 'CIRCULAR'",
        ),
        ({"padding": -1}, ValueError, "padding must be >= 0, got -1"),
        (
            {"padding": [1]},
            ValueError,
            r"padding must have one entry for each of the two image axes, got \[1\]",
        ),
        (
            {"padding": ((1, 2, 3), 1)},
            ValueError,
            r"padding must be an integer or a pair.*got \(1, 2, 3\)",
        ),
        ({"padding": 0.5}, TypeError, r"padding must be an integer, got 0\.5"),
    ],
)
def test_malformed_geometry_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mean_patch_images(np.ones((1, 4, 4, 1)), **{"kernel_size": 2, **arguments})


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.ones(4), r"targets must have shape \(N, \.\.\.\) with N = 5.*got \(4,\)"),
        (1.0, r"got \(\)"),
        ([0, 1, np.nan, 3, 4], "targets must be finite"),
    ],
)
def test_malformed_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        compress(np.ones((5, 2, 2, 1)), targets)
