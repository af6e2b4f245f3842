"""Second moments of what reaches a filter: against the Jacobian of convolution, batch
norm, activation and max pool, by automatic differentiation."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.theory.twins import patch_rows, relative_error
from theory import batch_sums, filter_curvature, patch_moments

RANDOM = np.random.default_rng(8)
IMAGES = RANDOM.normal(size=(5, 7, 8, 2)).cumsum(axis=1).cumsum(axis=2)
IMAGES = IMAGES + np.array([3.0, -40])
FILTERS = RANDOM.normal(size=(3, 2, 2, 3))


def outputs(
    weights, images, stride, padding, pool, activation, batch_norm, epsilon, filters
):
    """What leaves the max pool, (N, rows, columns, K). Batch norm takes its statistics
    from these images, so that they are differentiated too."""
    w, bias = weights
    z = lax.conv_general_dilated(
        images,
        w.reshape(filters.shape),
        stride,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if batch_norm:
        rest = z - z.mean(axis=(0, 1, 2), keepdims=True)
        variance = (rest**2).mean(axis=(0, 1, 2), keepdims=True)
        z = rest / jnp.sqrt(variance + epsilon)
    else:
        z = z + bias[None, None, None]
    if activation == "relu":
        z = jnp.maximum(z, 0)
    if pool is None:
        return z
    shape = (1, *pool, 1)
    return lax.reduce_window(z, -jnp.inf, lax.max, shape, shape, "VALID")


def by_jacobian(images, filters, locations, **settings):
    """The sum over outputs of the outer product of their gradients, by the number of
    patches."""
    count = filters.shape[-1]
    w = jnp.asarray(filters).reshape(-1, count)
    take = functools.partial(outputs, images=images, filters=filters, **settings)
    jacobians = jax.jit(jax.jacrev(take))((w, jnp.zeros(count)))
    moments = []
    for k in range(count):
        gradient = jacobians[0][..., k, :, k].reshape(-1, len(w))
        if not settings["batch_norm"]:
            bias = jacobians[1][..., k, k].reshape(-1, 1)
            gradient = jnp.concatenate([gradient, bias], axis=1)
        moments.append(gradient.T @ gradient / (len(images) * locations))
    return np.array(moments)


SETTINGS = {
    "relu and pool": {"pool": (2, 2)},
    "a window that does not divide the grid": {"pool": (2, 3)},
    "relu alone": {},
    "pool alone": {"pool": (2, 2), "activation": "identity"},
    "neither": {"activation": "identity"},
    "strides": {"pool": (2, 2), "stride": (2, 1), "padding": ((1, 0), (2, 1))},
    "no padding": {"pool": (3, 3), "padding": ((0, 0), (0, 0))},
    "epsilon": {"pool": (2, 2), "epsilon": 3.0},
    "no batch norm": {"pool": (2, 2), "batch_norm": False},
    "no batch norm, no pool": {"batch_norm": False},
    "linear": {"activation": "identity", "batch_norm": False},
}


def settings_of(name):
    plain = {
        "pool": None,
        "activation": "relu",
        "batch_norm": True,
        "epsilon": 0.0,
        "stride": (1, 1),
        "padding": ((1, 1), (0, 1)),  # "SAME" of 3x2
    }
    return plain | SETTINGS[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_moment_of_the_gradients(name):
    settings = settings_of(name)
    kernel = FILTERS.shape[:2]
    rows = patch_rows(IMAGES, kernel, settings["stride"], settings["padding"])
    expected = by_jacobian(IMAGES, FILTERS, len(rows) / len(IMAGES), **settings)
    found = filter_curvature(IMAGES, FILTERS, **settings)
    assert relative_error(found, expected) < 1e-10
    if name in ("relu and pool", "no batch norm"):
        traced = jax.jit(functools.partial(filter_curvature, **settings))
        assert relative_error(traced(IMAGES, FILTERS), expected) < 1e-10
    if settings["batch_norm"] and not settings["epsilon"]:
        w = FILTERS.reshape(-1, 3)
        left = np.einsum("kde,ek->kd", found, w)
        assert np.abs(left).max() < 1e-10 * np.abs(found).max()


def test_what_is_dropped_makes_a_difference():
    """Each part of the gate and of the projection changes the result."""
    named = {
        name: np.asarray(filter_curvature(IMAGES, FILTERS, **settings_of(name)))
        for name in SETTINGS
    }
    for one, other in (
        ("relu and pool", "relu alone"),
        ("relu and pool", "pool alone"),
        ("relu alone", "neither"),
        ("relu and pool", "a window that does not divide the grid"),
        ("relu and pool", "epsilon"),
    ):
        assert relative_error(named[one], named[other]) > 0.01, (one, other)
    unpadded = named["no padding"]
    padded = filter_curvature(IMAGES, FILTERS, pool=3, epsilon=0)
    assert relative_error(unpadded, padded) > 0.01


def test_the_defaults_are_those_of_a_network():
    plain = filter_curvature(IMAGES, FILTERS)
    named = filter_curvature(
        IMAGES, FILTERS, **settings_of("relu alone") | {"epsilon": 1e-5}
    )
    np.testing.assert_array_equal(plain, named)


def test_without_gates_it_is_the_projected_covariance():
    moments = patch_moments(IMAGES, (3, 2), padding="SAME")
    covariance = np.asarray(moments.covariance)
    found = filter_curvature(IMAGES, FILTERS, activation="identity", epsilon=0)
    for k, w in enumerate(FILTERS.reshape(-1, 3).T):
        variance = w @ covariance @ w
        along = covariance @ w
        expected = (covariance - np.outer(along, along) / variance) / variance
        assert relative_error(found[k], expected) < 1e-11


def test_equal_entries_of_a_window_count_once():
    """Flat images: every location is as large as its neighbours."""
    images = np.ones((1, 4, 4, 1)) * np.array([1.0, 2, -3]).reshape(3, 1, 1, 1)
    found = filter_curvature(
        images, np.ones((1, 1, 1, 1)), pool=2, batch_norm=False, padding="VALID"
    )
    # Of 16 locations of each image 4 windows, of those of positive images.
    expected = np.array([[1 + 4, 1 + 2], [1 + 2, 1 + 1]]) * 4 / 48
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)


def test_a_large_mean_costs_no_digits():
    far = IMAGES + np.array([1e4, -1e5])
    one, other = (
        filter_curvature(images, FILTERS, pool=2, epsilon=0, padding="VALID")
        for images in (IMAGES, far)
    )
    assert relative_error(other, one) < 1e-10


# --- images in parts ---


class Twice:
    """Batches that can be read again, not as a list."""

    def __init__(self, images, sizes):
        self.parts = np.split(images, np.cumsum(sizes))
        self.readings = 0

    def __iter__(self):
        self.readings += 1
        return (part for part in self.parts)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_batches_are_the_whole(batch_norm):
    settings = {"pool": 2, "batch_norm": batch_norm}
    whole = filter_curvature(IMAGES, FILTERS, **settings)
    batches = Twice(IMAGES, [2, 1])
    assert relative_error(filter_curvature(batches, FILTERS, **settings), whole) < 1e-13
    assert batches.readings == 1 + batch_norm
    parts = list(batches.parts)
    assert relative_error(filter_curvature(parts, FILTERS, **settings), whole) < 1e-13
    moments = patch_moments(IMAGES, (3, 2), padding="SAME")
    once = filter_curvature(iter(parts), FILTERS, moments=moments, **settings)
    assert relative_error(once, whole) < 1e-13


def test_parts_add_up_with_the_moments_of_all():
    moments = patch_moments(IMAGES, (3, 2), padding="SAME")
    take = functools.partial(filter_curvature, filters=FILTERS, pool=2, moments=moments)
    sums = [len(part) * take(part) for part in np.split(IMAGES, [1, 3])]
    total = functools.reduce(operator.add, sums) / len(IMAGES)
    assert relative_error(total, take(IMAGES)) < 1e-13


def test_chunks_on_a_device_count_each_image_once():
    """More images than a chunk holds, and not a multiple of it: what is repeated must
    not count, though one of two opposite filters lets through patches of zeros."""
    images = RANDOM.normal(size=(11, 3, 9, 1))
    w = RANDOM.normal(size=(2, 2, 1, 2))
    filters = np.concatenate([w, -w], axis=-1)
    moments = patch_moments(images, 2)
    whole = filter_curvature(images, filters, padding="VALID", moments=moments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_sums, "_chunk_size", lambda shape, where: 3)
        for on_device in (jax.device_put(images, jax.devices()[1]), images):
            traced = jax.jit(
                lambda images: filter_curvature(
                    images, filters, padding="VALID", moments=moments
                )
            )
            assert relative_error(traced(on_device), whole) < 1e-12


# --- precision and transformations ---


@pytest.mark.float32
def test_float32_images_are_summed_in_float64():
    images, filters = IMAGES.astype(np.float32), FILTERS.astype(np.float32)
    found = filter_curvature(images, filters, pool=2, epsilon=0)
    assert found.dtype == np.float64
    exact = filter_curvature(
        images.astype(np.float64), filters.astype(np.float64), pool=2, epsilon=0
    )
    assert relative_error(found, exact) < 1e-13
    inside = jax.jit(functools.partial(filter_curvature, pool=2))(images, filters)
    assert inside.dtype == np.float32
    assert relative_error(inside, exact) < 1e-3


def test_banks_are_mapped_and_differentiated():
    moments = patch_moments(IMAGES, (3, 2), padding="SAME")
    banks = RANDOM.normal(size=(2, *FILTERS.shape))
    take = functools.partial(filter_curvature, IMAGES, pool=2, moments=moments)
    mapped = jax.jit(jax.vmap(take))(banks)
    for one, bank in zip(mapped, banks, strict=True):
        assert relative_error(one, take(bank)) < 1e-12
    slope = jax.jit(jax.grad(lambda w: take(w).sum()))(FILTERS)
    step = 1e-6
    ends = [take(FILTERS + sign * step * banks[0]).sum() for sign in (1, -1)]
    along = (slope * banks[0]).sum()
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


# --- bad input ---


BAD = [
    (
        ValueError,
        r"filters must have Flax's axes .* \(3, 2\)",
        {"filters": np.ones((3, 2))},
    ),
    (ValueError, "filters must be one bank, .*vmap", {"filters": FILTERS[None]}),
    (ValueError, "filters has 36 entries", {"filters": FILTERS * np.nan}),
    (
        ValueError,
        "filters of 3 channels do not fit images of 2",
        {"filters": np.ones((3, 2, 3, 1))},
    ),
    (
        ValueError,
        "smaller than kernel_size 9x2",
        {"filters": np.ones((9, 2, 2, 1)), "padding": "VALID"},
    ),
    (ValueError, "pool of 8x2 is larger than the grid of 7x8 lo", {"pool": (8, 2)}),
    (ValueError, "pool must be one or two integers >= 1", {"pool": 0}),
    (TypeError, "pool must be an integer", {"pool": 2.0}),
    (ValueError, "activation must be 'relu' .*, got 'tanh'", {"activation": "tanh"}),
    (ValueError, "epsilon must be finite and >= 0, got -1", {"epsilon": -1.0}),
    (
        ValueError,
        "images has 1 entries that are NaN",
        {"images": np.where(IMAGES.max() == IMAGES, np.nan, IMAGES)},
    ),
    (TypeError, "images must be floating point", {"images": IMAGES.astype(int)}),
    (
        TypeError,
        r"images is an iterator \(generator\).*pass a list .*theory.patch_moments",
        {"images": (image for image in [IMAGES])},
    ),
    (TypeError, "moments must be PatchMoments", {"moments": 3}),
    (
        ValueError,
        r"moments must be .*\(1, 1\), \(\(0, 0\), \(0, 0\)\)\.",
        {"moments": patch_moments(IMAGES, (3, 2))},
    ),
    (
        ValueError,
        r"filters \[0, 2\] respond so strongly .* scale the filters",
        {"images": IMAGES * 1e100, "filters": FILTERS * [1e100, 1, 1e100]},
    ),
    (
        ValueError,
        r"filters \[1\] respond alike to all patches \(variance 0\)",
        {"filters": FILTERS * np.array([1, 0, 1]), "epsilon": 0},
    ),
]


@pytest.mark.parametrize(("error", "message", "changes"), BAD)
def test_bad_input(error, message, changes):
    for kind in (lambda images: images, lambda images: [images]):
        given = {"images": IMAGES, "filters": FILTERS} | changes
        if hasattr(given["images"], "shape"):
            given["images"] = kind(given["images"])
        with pytest.raises(error, match=message):
            filter_curvature(**given)


def test_moments_that_are_not_finite_are_refused():
    moments = patch_moments(IMAGES, (3, 2), padding="SAME")
    moments = dataclasses.replace(moments, mean=np.nan * np.asarray(moments.mean))
    with pytest.raises(ValueError, match=r"moments\.mean has 12 entries"):
        filter_curvature(IMAGES, FILTERS, moments=moments)


def test_what_does_not_fit_is_refused_before_anything_is_read():
    """But the first batch, which has the images' shape."""
    batches = iter([IMAGES, IMAGES, IMAGES])
    with pytest.raises(ValueError, match="pool of 9x9 is larger"):
        filter_curvature(batches, FILTERS, pool=9, batch_norm=False)
    assert len(list(batches)) == 2


def test_filters_that_see_a_constant_are_refused_unless_epsilon_saves_them():
    """A channel that is 7 everywhere has no variance but rounding's."""
    images = np.concatenate([IMAGES, np.full_like(IMAGES[..., :1], 7)], axis=-1)
    filters = np.zeros((1, 1, 3, 2))
    filters[..., 0], filters[..., 2, 1] = 1, 0.3
    with pytest.raises(ValueError, match=r"filters \[1\] respond alike"):
        filter_curvature(images, filters, epsilon=0)
    assert np.isfinite(filter_curvature(images, filters)).all()
