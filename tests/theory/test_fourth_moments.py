"""Fourth moments of mean patches and targets against loops over images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.theory.twins import all_patches

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(30, 6, 7, 2)) + 0.5
TARGETS = RANDOM.normal(size=30) - 3
FIELDS = ("second", "cross", "fourth", "fourth_cross", "fourth_target")


def by_loops(images, targets, kernel_size, **geometry):
    """The fields, of products taken one by one."""
    explicit = all_patches(images, kernel_size, **geometry)
    p = explicit.reshape(len(images), -1, explicit.shape[-1]).mean(axis=1)
    d = p.shape[1]
    s = [
        p[:, i] * p[:, j] * (1 if i == j else np.sqrt(2))
        for i in range(d)
        for j in range(i, d)
    ]
    s = np.stack(s, axis=1)

    def mean(*factors):
        left, right = factors
        return left.T @ right / len(p)

    return (
        mean(p, p),
        mean(p, targets),
        mean(s, s),
        mean(s, p * targets[:, None]),
        mean(s, targets**2),
    )


@pytest.mark.float32
@pytest.mark.parametrize(
    ("kernel_size", "geometry"),
    [(2, {}), ((1, 3), {"stride": 2, "padding": "SAME"}), (1, {"padding": 1})],
)
def test_against_loops(kernel_size, geometry):
    moments = theory.mean_patch_fourth_moments(IMAGES, TARGETS, kernel_size, **geometry)
    expected = by_loops(IMAGES, TARGETS, kernel_size, **geometry)
    for name, value in zip(FIELDS, expected, strict=True):
        found = np.asarray(getattr(moments, name))
        np.testing.assert_allclose(
            found, value, rtol=1e-11, atol=1e-13 * np.abs(value).max(), err_msg=name
        )
    full = theory.mean_patch_moments(IMAGES, TARGETS, kernel_size, **geometry)
    np.testing.assert_allclose(moments.second, full.second, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(moments.cross, full.cross, rtol=1e-11, atol=1e-13)
    assert moments.count == 30
    assert moments.kernel_shape == full.kernel_shape
    assert moments.patches_per_image == full.patches_per_image


def test_parts_batches_and_traces():
    whole = theory.mean_patch_fourth_moments(IMAGES, TARGETS, 2)
    first = theory.mean_patch_fourth_moments(IMAGES[:7], TARGETS[:7], 2)
    rest = theory.mean_patch_fourth_moments(IMAGES[7:], TARGETS[7:], 2)
    batches = theory.mean_patch_fourth_moments(
        (IMAGES[start : start + 11] for start in range(0, 30, 11)), TARGETS, 2
    )
    traced = jax.jit(lambda x, y: theory.mean_patch_fourth_moments(x, y, 2))(
        jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TARGETS, jnp.float32)
    )
    assert traced.fourth.dtype == jnp.float32
    assert whole.fourth.dtype == np.float64
    for name in FIELDS:
        expected = np.asarray(getattr(whole, name))
        for moments, error in ((first + rest, 1e-13), (batches, 1e-13), (traced, 1e-5)):
            np.testing.assert_allclose(
                getattr(moments, name), expected, atol=error * np.abs(expected).max()
            )
    assert (first + rest).count == 30
    with pytest.raises(ValueError, match="patches_per_image"):
        first + theory.mean_patch_fourth_moments(IMAGES, TARGETS, 1)


def test_what_is_refused():
    with pytest.raises(ValueError, match="one output"):
        theory.mean_patch_fourth_moments(IMAGES, np.ones((30, 2)), 2)
    with pytest.raises(ValueError, match="targets"):
        theory.mean_patch_fourth_moments(IMAGES, TARGETS[:9], 2)
    with pytest.raises(ValueError, match=r"50 weights .* 13 MB"):
        theory.mean_patch_fourth_moments(IMAGES, TARGETS, 5)
    with pytest.raises(TypeError, match="floating point"):
        theory.mean_patch_fourth_moments(IMAGES.astype(int), TARGETS, 2)
    for scale in (1e80, 1e-80):
        with pytest.raises(ValueError, match="scale"):
            theory.mean_patch_fourth_moments(scale * IMAGES, TARGETS, 2)
