"""Properties of what reaches a filter: its curvature, in closed form and in the mean
over filters, and the lag moments of the patches."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import theory
from tests.theory.properties import (
    assert_close,
    image_sets,
    orthogonal,
    seeds,
    variances,
    wide_scales,
)

D, K = 4, 3
SHAPE = (2, 2, 1, K)
pools = st.sampled_from([None, (2, 1), 2])


@st.composite
def problems(draw, offset=10):
    """Images on which no filter is constant, and filters."""
    images = draw(image_sets(channels=(1,)))
    random = np.random.default_rng(draw(seeds))
    # None of the patches and responses of a filter are tied.
    images = images + 0.1 * random.normal(size=images.shape)
    return images + offset * random.normal(), random.normal(size=SHAPE), random


def curvature(images, filters, **options):
    options = {"padding": "VALID", "epsilon": 0.0} | options
    return np.asarray(theory.filter_curvature(images, filters, **options))


def flat(filters):
    """(K, D)."""
    return filters.reshape(-1, filters.shape[-1]).T


# The curvature of filters


@given(problem=problems(), pool=pools, scale=wide_scales, unit=wide_scales)
def test_batch_norm_undoes_offset_and_unit(problem, pool, scale, unit):
    images, filters, random = problem
    found = curvature(images, filters, pool=pool)
    assert_close(found, found.swapaxes(1, 2))
    size = np.abs(found).max(axis=(1, 2))
    assert (np.linalg.eigvalsh(found)[:, 0] >= -1e-12 * size).all()
    along = np.einsum("kde,ke->kd", found, flat(filters))
    assert (np.abs(along).max(axis=1) <= 1e-8 * size).all()
    assert_close(curvature(images + 3, filters, pool=pool), found, rtol=1e-8)
    assert_close(curvature(scale * images, filters, pool=pool), found, rtol=1e-10)
    units = unit * np.exp2(random.integers(-9, 9, size=K))
    scaled = curvature(images, units * filters, pool=pool)
    assert_close(scaled * (units**2)[:, None, None], found, rtol=1e-10)
    # With an epsilon it has the unit of the images' squares.
    raised = curvature(images, filters, pool=pool, epsilon=0.3)
    scaled = curvature(scale * images, filters, pool=pool, epsilon=0.3 * scale**2)
    assert_close(scaled, raised, rtol=1e-10)
    order = random.permutation(K)
    assert_close(curvature(images, filters[..., order], pool=pool), found[order])


@given(problem=problems(), pool=pools, batch_norm=st.booleans(), data=st.data())
def test_curvatures_add_up_over_images(problem, pool, batch_norm, data):
    images, filters, random = problem
    moments = theory.patch_moments(images, 2) if batch_norm else None
    options = {"pool": pool, "batch_norm": batch_norm, "moments": moments}
    whole = curvature(images, filters, **options)
    first = data.draw(st.integers(1, len(images) - 1))
    order = random.permutation(len(images))
    parts = np.split(images[order], [first])
    summed = [len(part) * curvature(part, filters, **options) for part in parts]
    size = np.abs(whole).max()
    assert_close(sum(summed) / len(images), whole, scale=size, rtol=1e-10)
    options["moments"] = None
    assert_close(curvature(parts, filters, **options), whole, scale=size, rtol=1e-9)


@given(problem=problems())
def test_gates_let_through_what_they_share(problem):
    """A filter and its negative share the patches between them; pools let through some
    of what passes without."""
    images, filters, _ = problem
    relu, negative, identity = (
        curvature(images, sign * filters, activation=activation)
        for sign, activation in ((1, "relu"), (-1, "relu"), (1, "identity"))
    )
    size = np.abs(identity).max()
    assert_close(relu + negative, identity, scale=size, rtol=1e-9)
    alone = curvature(images, filters, pool=1)
    assert_close(alone, relu, scale=size)
    for options, all_of_them in (
        ({"pool": 2}, relu),
        ({"pool": (4, 3)}, curvature(images, filters, pool=(2, 1))),
        ({"pool": 2, "activation": "identity"}, identity),
    ):
        left = all_of_them - curvature(images, filters, **options)
        assert np.linalg.eigvalsh(left).min() >= -1e-9 * size
    # All patches by definition.
    moments = theory.patch_moments(images, 2)
    for epsilon in (0.0, 2.0):
        found = curvature(images, filters, activation="identity", epsilon=epsilon)
        for w, matrix in zip(flat(filters), found, strict=True):
            passed, variance = moments.covariance @ w, w @ moments.covariance @ w
            along = np.outer(passed, passed) / (variance + epsilon)
            left = along * (2 - variance / (variance + epsilon))
            expected = (moments.covariance - left) / (variance + epsilon)
            scale = np.abs(moments.covariance).max() / (variance + epsilon)
            assert_close(matrix, expected, scale=scale, rtol=1e-9)
    plain = curvature(images, filters, activation="identity", batch_norm=False)
    one = np.append(moments.mean, 1)
    second = np.outer(one, one)
    second[:-1, :-1] += moments.covariance
    assert_close(plain, np.stack([second] * K))


COMPILED = jax.jit(lambda *of: theory.filter_curvature(*of, pool=2, padding="VALID"))


@given(seed=seeds)
def test_curvature_of_float32(seed):
    random = np.random.default_rng(seed)
    images = random.normal(size=(5, 5, 4, 1)).astype(np.float32)
    filters = random.normal(size=SHAPE).astype(np.float32)
    exact = theory.filter_curvature(
        images.astype(float), filters.astype(float), pool=2, padding="VALID"
    )
    for same in (images, jnp.array(images)):
        found = theory.filter_curvature(same, filters, pool=2, padding="VALID")
        assert_close(found, exact, rtol=1e-9)
    traced = COMPILED(images, filters)
    assert traced.dtype == np.float32
    # All but patches at which two responses round to one.
    assert_close(traced, exact, rtol=1e-3)


# Symmetric patches


@given(problem=problems(offset=0), scale=wide_scales, unit=wide_scales)
def test_curvature_of_symmetric_patches(problem, scale, unit):
    images, filters, random = problem
    both = np.concatenate([images, -images])
    covariance = theory.patch_moments(both, 2).covariance
    found = np.asarray(theory.symmetric_filter_curvature(covariance, filters))
    size = np.abs(found).max()
    assert_close(found, curvature(both, filters), scale=size, rtol=1e-9)
    # Images and filters have no unit but that of 1 / w^2.
    scaled = theory.symmetric_filter_curvature(scale**2 * covariance, filters)
    assert_close(scaled, found, rtol=1e-10)
    scaled = theory.symmetric_filter_curvature(scale**2 * covariance, unit * filters)
    assert_close(np.asarray(scaled) * unit**2, found, rtol=1e-10)
    turn = orthogonal(random, D)
    turned = (turn @ filters.reshape(D, K)).reshape(SHAPE)
    rotated = turn @ covariance @ turn.T
    rotated = theory.symmetric_filter_curvature((rotated + rotated.T) / 2, turned)
    assert_close(rotated, turn @ found @ turn.T, scale=size, rtol=1e-8)
    banks = np.stack([filters, -2 * filters, filters])
    several = np.asarray(theory.symmetric_filter_curvature(covariance, banks))
    assert_close(several, np.stack([found, found / 4, found]), scale=size)


@given(variance=variances(), seed=seeds, scale=wide_scales)
def test_mean_filter_curvature(variance, seed, scale):
    random = np.random.default_rng(seed)
    found = np.asarray(theory.mean_filter_curvature(variance))
    assert (found > 0).all()
    order = random.permutation(len(variance))
    others = np.stack([variance[order], scale**2 * variance])
    both = np.asarray(theory.mean_filter_curvature(others))
    np.testing.assert_allclose(both, [found[order], found], rtol=1e-12)
    with_zero = theory.mean_filter_curvature(np.append(variance, 0))
    np.testing.assert_allclose(with_zero, np.append(found, 0), rtol=1e-12)
    # It grows with the variance, less than in proportion, by at most a factor of two.
    ascending = np.argsort(variance)
    assert (np.diff(found[ascending]) > 0).all()
    share = (found / variance)[ascending]
    assert (np.diff(share) <= 1e-12 * share[1:]).all()
    assert share[0] <= 2 * share[-1] * (1 + 1e-12)
    small = theory.mean_filter_curvature(np.float32(variance / variance.max()))
    np.testing.assert_allclose(small, found, rtol=1e-5)


@given(power=st.integers(-60, 60), first=st.floats(0.1, 10))
def test_mean_curvature_of_two_pairs_of_variances(power, first):
    """Of which the mean of 1 / variance of a response is elementary."""
    ratio = first * 10.0**power
    a, b = first, first / ratio
    found = np.asarray(theory.mean_filter_curvature([a, b, a, b]))
    logarithm = np.log(ratio)
    mean = logarithm / np.expm1(logarithm) if logarithm else 1
    # Sum of M_i / lambda_i^2 = (d - 1) / 2 E[1 / sigma^2].
    total = (found / np.array([a, b, a, b])).sum()
    np.testing.assert_allclose(total, 3 / 4 * mean / b, rtol=1e-10)


# Lag moments


def lags(images, largest=3, kernel_size=2, **options):
    return np.asarray(theory.lag_moments(images, kernel_size, largest, **options))


@given(images=image_sets(channels=(2,)), data=st.data(), scale=wide_scales)
def test_lag_moments_of_parts_add_up(images, data, scale):
    whole = lags(images)
    size = np.abs(images).max() ** 2
    first = data.draw(st.integers(1, len(images) - 1))
    order = np.random.default_rng(data.draw(seeds)).permutation(len(images))
    parts = np.split(images[order], [first])
    summed = sum(len(part) * lags(part) for part in parts) / len(images)
    assert_close(summed, whole, scale=12 * size)
    assert_close(lags(iter(parts)), whole, scale=12 * size)
    assert_close(lags(scale * images) / scale**2, whole, scale=12 * size)
    reversed_lags = whole[::-1, ::-1].swapaxes(2, 3)
    assert_close(whole, reversed_lags, scale=12 * size)
    for largest in (0, 1):
        near = slice(3 - largest, 4 + largest)
        assert_close(lags(images, largest), whole[near, near], scale=12 * size)


@given(images=image_sets(channels=(1, 2)), seed=seeds)
def test_lag_moments_between_single_and_mean_patches(images, seed):
    """White gradients see single patches, equal ones the mean patch, and those of any
    autocovariance something positive."""
    found, size = lags(images), np.abs(images).max() ** 2
    patches = theory.patch_moments(images, 2)
    second = patches.covariance + np.outer(patches.mean, patches.mean)
    assert_close(found[3, 3], 12 * second, scale=12 * size)
    means = theory.mean_patch_moments(images, np.ones(len(images)), 2)
    assert_close(found.sum(axis=(0, 1)), 144 * means.second, scale=144 * size)
    lag, random = np.arange(-3, 4), np.random.default_rng(seed)
    down, across = random.uniform(0, np.pi, size=2)
    for weights in (
        np.cos(down * lag[:, None] + across * lag),
        np.exp(-down * lag[:, None] ** 2 - across * np.abs(lag)),
    ):
        seen = np.einsum("yx,yxde->de", weights, found)
        assert np.linalg.eigvalsh((seen + seen.T) / 2)[0] >= -1e-11 * 144 * size
    # Means over pairs along either axis, of distances.
    pairs = theory.cross_moments(images, 2, [0, 1, 2], center=False)
    for distance, cross in zip([0, 1, 2], np.asarray(pairs.cross), strict=True):
        vertical = found[3 + distance, 3] / ((4 - distance) * 3)
        horizontal = found[3, 3 + distance] / (4 * (3 - distance))
        mean = (vertical + horizontal) / 2
        assert_close(cross, (mean + mean.T) / 2, scale=size)


@given(images=image_sets(channels=(2,)), seed=seeds)
def test_lag_moments_turn_with_the_images(images, seed):
    found, size = lags(images), 12 * np.abs(images).max() ** 2
    place = np.arange(8).reshape(2, 2, 2)

    def entries(moved, place):
        place = place.ravel()
        return moved[..., place, :][..., place]

    other = lags(images[:, ::-1])
    assert_close(other, entries(found[::-1], place[::-1]), scale=size)
    other = lags(images.swapaxes(1, 2))
    expected = entries(found.swapaxes(0, 1), place.swapaxes(0, 1))
    assert_close(other, expected, scale=size)
    order = np.random.default_rng(seed).permutation(2)
    other = lags(images[..., order])
    assert_close(other, entries(found, place[..., order]), scale=size)


@given(images=image_sets(), pad=st.integers(0, 2), stride=st.integers(1, 2))
def test_lags_of_padded_and_thinned_images(images, pad, stride):
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = 100 * np.abs(images).max() ** 2
    one = lags(images, 1, 1, stride=stride, padding=pad)
    assert_close(one, lags(padded[:, ::stride, ::stride], 1, 1), scale=size)
    one = lags(images, 1, 2, stride=stride, padding=pad)
    assert_close(one, lags(padded, 1, 2, stride=stride), scale=size)


COMPILED_LAGS = jax.jit(lambda images: theory.lag_moments(images, 2, 3))


@given(seed=seeds, offset=st.sampled_from([0.0, 3.0]))
def test_lags_of_float32(seed, offset):
    random = np.random.default_rng(seed)
    images = (random.normal(size=(4, 5, 4, 1)) + offset).astype(np.float32)
    exact = lags(images.astype(float))
    for same in (images, jnp.array(images)):
        assert_close(lags(same), exact)
    traced = COMPILED_LAGS(images)
    assert traced.dtype == np.float32
    assert_close(traced, exact, rtol=1e-5)
