"""Properties of moments, spectra, and what is made of them."""

import tempfile
from functools import partial, reduce
from operator import add
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory
from tests.theory.properties import (
    assert_close,
    image_sets,
    orthogonal,
    scales,
    seeds,
)


def mean_patches(images, kernel_size, **options):
    """With two targets an image that depend on it, so that permuting tells."""
    targets = np.stack([images.mean(axis=(1, 2, 3)), images[:, 0, 0, 0] + 1], axis=-1)
    return theory.mean_patch_moments(images, targets, kernel_size, **options)


KINDS = {
    "patches": partial(theory.patch_moments, kernel_size=2),
    "strided": partial(theory.patch_moments, kernel_size=(3, 2), stride=2, padding=1),
    "mean patches": partial(mean_patches, kernel_size=2, padding="SAME"),
    "pairs": partial(theory.cross_moments, kernel_size=2, distances=[0, 2]),
    "pairs about zero": partial(
        theory.cross_moments, kernel_size=(1, 2), distances=[1], center=False
    ),
}
kinds = pytest.mark.parametrize("take", KINDS.values(), ids=KINDS)


def assert_same_moments(a, b, images, rtol=1e-11):
    """Equal up to rounding of the images' squares, the target's included."""
    size = np.abs(images).max() + 1
    assert jax.tree.structure(a) == jax.tree.structure(b)  # counts and shapes
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert_close(one, other, scale=size**2, rtol=rtol)


@kinds
@given(images=image_sets(min_count=3), data=st.data())
def test_moments_of_parts_add_up(take, images, data):
    whole = take(images)
    first = data.draw(st.integers(1, len(images) - 2))
    second = data.draw(st.integers(first + 1, len(images) - 1))
    parts = [take(part) for part in np.split(images, [first, second])]
    assert_same_moments(reduce(add, parts), whole, images)
    assert_same_moments(reduce(add, parts[::-1]), whole, images)
    assert_same_moments(parts[0] + (parts[1] + parts[2]), whole, images)


@pytest.mark.parametrize("take", [KINDS[k] for k in ("patches", "strided", "pairs")])
@given(images=image_sets(min_count=3), data=st.data())
def test_batches_are_the_whole(take, images, data):
    first = data.draw(st.integers(1, len(images) - 1))
    batches = iter([images[:first], images[first:]])
    assert_same_moments(take(batches), take(images), images)


@kinds
@given(images=image_sets(), seed=seeds)
def test_the_order_of_images_does_not_matter(take, images, seed):
    order = np.random.default_rng(seed).permutation(len(images))
    assert_same_moments(take(images[order]), take(images), images)


@kinds
@given(images=image_sets(), times=st.integers(2, 4))
def test_repeated_images_only_raise_the_count(take, images, times):
    once, often = take(images), take(np.concatenate([images] * times))
    assert often.count == times * once.count
    for name in ("mean", "covariance", "second", "cross"):
        if hasattr(once, name):
            scale = (np.abs(images).max() + 1) ** 2
            assert_close(getattr(often, name), getattr(once, name), scale=scale)


@given(images=image_sets(), scale=scales)
def test_moments_scale_with_the_images(images, scale):
    """Exactly: scaling by a power of two commutes with rounding."""
    one, other = (theory.patch_moments(x, 2) for x in (images, scale * images))
    np.testing.assert_array_equal(other.covariance, scale**2 * one.covariance)
    np.testing.assert_array_equal(other.mean, scale * one.mean)
    pairs = [theory.cross_moments(x, 2, [1, 2]) for x in (images, scale * images)]
    np.testing.assert_array_equal(pairs[1].cross, scale**2 * pairs[0].cross)
    y = images[:, 0, 0, 0]
    means = [theory.mean_patch_moments(x, y, 2) for x in (images, scale * images)]
    np.testing.assert_allclose(means[1].second, scale**2 * means[0].second, rtol=1e-14)
    np.testing.assert_array_equal(means[1].mean, scale * means[0].mean)


@given(images=image_sets(), seed=seeds)
def test_a_constant_colour_moves_only_the_mean(images, seed):
    colour = 100 * np.random.default_rng(seed).normal(size=images.shape[-1])
    size = np.abs(images).max() + np.abs(colour).max()
    one, other = (theory.patch_moments(x, 2) for x in (images, images + colour))
    assert_close(other.covariance, one.covariance, scale=size**2)
    assert_close(other.mean, one.mean + np.tile(colour, 4), scale=size)
    assert np.abs(other.mean - one.mean).max() > 0.01 * np.abs(colour).max()
    pairs = [theory.cross_moments(x, 2, [0, 1]) for x in (images, images + colour)]
    assert_close(pairs[1].cross, pairs[0].cross, scale=size**2)


@given(images=image_sets(channels=(3,)), seed=seeds)
def test_channels_permuted_are_entries_permuted(images, seed):
    order = np.random.default_rng(seed).permutation(3)
    entries = (3 * np.arange(4)[:, None] + order).ravel()
    one, other = (theory.patch_moments(x, 2) for x in (images, images[..., order]))
    assert_close(other.covariance, one.covariance[np.ix_(entries, entries)])
    assert_close(other.mean, one.mean[entries], scale=np.abs(images).max())


@given(images=image_sets())
def test_images_upside_down_are_patches_upside_down(images):
    entries = np.arange(6 * images.shape[-1]).reshape(3, -1)[::-1].ravel()
    one, other = (theory.patch_moments(x, (3, 2)) for x in (images, images[:, ::-1]))
    assert_close(other.covariance, one.covariance[np.ix_(entries, entries)])


@given(images=image_sets())
def test_exchanged_axes_are_exchanged_entries(images):
    shape = (3, 2, images.shape[-1])
    entries = np.arange(np.prod(shape)).reshape(shape).swapaxes(0, 1).ravel()
    one = theory.cross_moments(images, (3, 2), [0, 1, 2])
    other = theory.cross_moments(images.swapaxes(1, 2), (2, 3), [0, 1, 2])
    scale = np.abs(images).max() ** 2
    assert_close(other.cross, one.cross[:, entries][:, :, entries], scale=scale)
    assert_close(other.pair_mean, one.pair_mean[:, entries], scale=scale)


@given(images=image_sets(), pad=st.integers(0, 2), stride=st.integers(1, 3))
def test_padding_and_stride_are_those_of_padded_and_thinned_images(images, pad, stride):
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    one = theory.patch_moments(images, 1, stride=stride, padding=pad)
    other = theory.patch_moments(padded[:, ::stride, ::stride], 1)
    assert one.count == other.count
    scale = np.abs(images).max() ** 2
    assert_close(one.covariance, other.covariance, scale=scale)
    one = theory.patch_moments(images, 3, stride=stride, padding=pad)
    other = theory.patch_moments(padded, 3, stride=stride)
    assert_close(one.covariance, other.covariance, scale=scale)


@given(images=image_sets())
def test_patches_as_large_as_the_image_are_the_images(images):
    flat = images.reshape(len(images), -1)
    moments = theory.patch_moments(images, images.shape[1:3])
    scale = np.abs(images).max() ** 2
    assert_close(moments.covariance, np.cov(flat.T, bias=True), scale=scale)
    assert moments.count == len(images)
    means = theory.mean_patch_moments(images, flat[:, 0], images.shape[1:3])
    assert_close(means.second, flat.T @ flat / len(flat), scale=scale)
    assert_close(means.cross, means.second[0], scale=scale)


@given(images=image_sets(), center=st.booleans(), scale=scales)
def test_a_spectrum_takes_the_second_moment_apart(images, center, scale):
    images = scale * images
    moments = theory.patch_moments(images, 2)
    spectrum = theory.patch_spectrum(images, 2, center=center)
    variance, u = np.asarray(spectrum.variance), np.asarray(spectrum.components)
    second = moments.covariance + (not center) * np.outer(moments.mean, moments.mean)
    assert_close(u.T @ u, np.eye(len(u)))
    assert_close((u * variance) @ u.T, second)
    assert (variance >= 0).all()
    assert (np.diff(variance) <= 0).all()
    largest = np.abs(u).argmax(axis=0)
    assert (u[largest, np.arange(len(u))] > 0).all()
    np.testing.assert_array_equal(moments.spectrum(center=center).variance, variance)


@given(images=image_sets())
def test_variances_about_the_mean_are_smaller(images):
    """By |mean|^2 in all, and each by Weyl's inequality."""
    about_mean, about_zero = (
        theory.patch_spectrum(images, 2, center=center) for center in (True, False)
    )
    scale = np.abs(images).max() ** 2
    difference = np.asarray(about_zero.variance) - np.asarray(about_mean.variance)
    assert (difference >= -1e-12 * scale).all()
    assert_close(difference.sum(), (about_mean.mean**2).sum(), scale=scale)


@given(images=image_sets(), seed=seeds)
def test_moments_are_linear_in_the_targets(images, seed):
    random = np.random.default_rng(seed)
    targets, mixing = random.normal(size=(len(images), 2)), random.normal(size=(2, 3))
    one = theory.mean_patch_moments(images, targets, 2)
    other = theory.mean_patch_moments(images, targets @ mixing, 2)
    assert_close(other.cross, one.cross @ mixing, scale=20 * np.abs(images).max())
    assert_close(other.target_mean, one.target_mean @ mixing, scale=20)
    expected = mixing.T @ one.target_covariance @ mixing
    assert_close(other.target_covariance, expected, scale=100)
    single = theory.mean_patch_moments(images, targets[:, 1], 2)
    assert_close(single.cross, one.cross[:, 1], scale=20 * np.abs(images).max())
    assert_close(single.target_covariance, np.var(targets[:, 1], ddof=1), scale=20)


@given(images=image_sets())
def test_second_moments_of_mean_patches_are_bounded(images):
    """Above zero, and by those of single patches (Jensen)."""
    means, patches = mean_patches(images, 2), theory.patch_moments(images, 2)
    scale = np.abs(images).max() ** 2
    assert_close(means.mean, patches.mean, scale=scale**0.5 + 1)
    about_zero = patches.covariance + np.outer(patches.mean, patches.mean)
    for matrix in (means.second, about_zero - means.second):
        assert np.linalg.eigvalsh(matrix)[0] > -1e-12 * scale


@given(images=image_sets(channels=(2,)), seed=seeds, scale=scales)
def test_autocorrelation(images, seed, scale):
    random = np.random.default_rng(seed)
    moments = theory.cross_moments(images, 2, [0, 1, 2])
    bank = random.normal(size=(2, 2, 2, images.shape[-1], 3))
    found = np.asarray(theory.autocorrelation(bank, moments))
    assert found.shape == (2, 3)
    assert_close(found[:, 0], np.ones(2))
    mixed = bank @ orthogonal(random, 3)
    assert_close(theory.autocorrelation(scale * mixed, moments), found, scale=1)
    each = [theory.autocorrelation(one, moments) for one in bank]
    assert_close(found, np.stack(each), scale=1)
    # The mean of the two banks weighs each by its energy.
    both = theory.autocorrelation(np.concatenate(bank, axis=-1), moments)
    assert (both >= found.min(axis=0) - 1e-12).all()
    assert (both <= found.max(axis=0) + 1e-12).all()
    reordered = theory.cross_moments(images, 2, [2, 0])
    assert_close(theory.autocorrelation(bank, reordered), found[:, [2, 0]], scale=1)


@given(images=image_sets(min_count=6, channels=(1,)), data=st.data(), scale=scales)
def test_label_correlation(images, data, scale):
    count = len(images)
    random = np.random.default_rng(data.draw(seeds))
    classes = data.draw(st.integers(2, 3))
    labels = random.permutation(np.arange(count) % classes)
    spectrum = theory.patch_spectrum(images, 2)
    found = theory.label_correlation(images, labels, spectrum)
    known = ~np.isnan(found.mean_patch[0])
    single, pooled = (np.asarray(r)[:, known] for r in (found.patch, found.mean_patch))
    assert (np.abs(pooled) <= 1 + 1e-9).all()
    assert (np.abs(single) <= np.abs(pooled) * (1 + 1e-9)).all()
    # Both are one covariance, by the deviation of a patch and of the mean patch.
    means, u = mean_patches(images, 2), np.asarray(spectrum.components)
    covariance = means.second - np.outer(means.mean, means.mean)
    deviation = np.sqrt(np.maximum(np.einsum("di,de,ei->i", u, covariance, u), 0))
    size = np.sqrt(spectrum.variance[0])
    assert_close(
        single * np.sqrt(np.asarray(spectrum.variance)[known]),
        pooled * deviation[known],
        scale=size,
        rtol=1e-6,
    )
    # The indicators of all classes add up to a constant.
    share = np.bincount(labels) / count
    weights = np.sqrt(share * (1 - share))
    assert_close(weights @ pooled, np.zeros(known.sum()), scale=1, rtol=1e-7)
    if classes == 2:
        assert_close(single[0], -single[1], scale=1, rtol=1e-7)
    order, names = random.permutation(count), random.permutation(classes)
    again = theory.label_correlation(
        scale * images[order],
        names[labels[order]],
        theory.patch_spectrum(scale * images[order], 2),
    )
    noise = np.asarray(found.patch_noise)[known]
    assert_close(np.asarray(again.patch_noise)[known], noise, scale=1, rtol=1e-6)
    # Components of equal variance may turn, and rounding of nearly equal ones.
    gap = np.diff(np.asarray(spectrum.variance))
    if known.all() and (gap < -1e-3 * spectrum.variance[0]).all():
        pooled_again = np.asarray(again.mean_patch)[names]
        assert_close(pooled_again, pooled, scale=1, rtol=1e-6)


@given(images=image_sets(channels=(1,)), scale=scales, center=st.booleans())
def test_decorrelation_ratio_lies_between_0_and_the_number_of_patches(
    images, scale, center
):
    def ratio(images, kernel_size):
        moments = theory.mean_patch_moments(images, np.ones(len(images)), kernel_size)
        spectrum = theory.patch_spectrum(images, kernel_size, center=center)
        # Rounding of the mean patches, in units of the variance.
        clear = np.asarray(spectrum.variance) > 1e-7 * np.abs(images).max() ** 2
        return np.asarray(theory.decorrelation_ratio(moments, spectrum)), clear

    found, clear = ratio(images, 2)
    assert ((found >= 0) | np.isnan(found)).all()
    assert (found[clear] <= 12 * (1 + 1e-6)).all()
    np.testing.assert_allclose(
        ratio(scale * images, 2)[0][clear], found[clear], rtol=1e-6, atol=1e-6
    )
    whole, clear = ratio(images, images.shape[1:3])
    np.testing.assert_allclose(whole[clear], 1, rtol=1e-6)
    plain = np.broadcast_to(images[:, :1, :1], images.shape)
    found, clear = ratio(plain, 2)
    np.testing.assert_allclose(found[clear], 12, rtol=1e-6)


@kinds
@given(images=image_sets(size=(5, 4), channels=(2,)))
def test_moments_come_back_from_a_file(take, images):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.npz"
        moments = take(images)
        theory.save_moments(path, moments)
        loaded = theory.load_moments(path)
        assert jax.tree.structure(loaded) == jax.tree.structure(moments)
        jax.tree.map(np.testing.assert_array_equal, loaded, moments)


TRACED = {
    "patches": KINDS["patches"],
    "pairs": KINDS["pairs"],
    "mean patches": lambda images: theory.mean_patch_moments(images, TARGETS, 2),
}
TARGETS = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
COMPILED = {name: jax.jit(take) for name, take in TRACED.items()}
MAPPED = jax.jit(jax.vmap(KINDS["patches"]))


@given(seed=seeds, offset=st.sampled_from([0.0, 3.0]))
def test_inside_jit_float32_is_close_to_float64(seed, offset):
    random = np.random.default_rng(seed)
    images = (random.normal(size=(4, 5, 4, 1)) + offset).astype(np.float32)
    for name, compiled in COMPILED.items():
        outside = TRACED[name](images)
        inside = compiled(images)
        assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {np.dtype("float32")}
        assert_same_moments(inside, outside, images, rtol=3e-6)


@given(seed=seeds)
def test_mapped_moments_are_those_of_each(seed):
    sets = np.random.default_rng(seed).normal(size=(2, 4, 5, 4, 1))
    mapped = MAPPED(sets)
    for number, images in enumerate(sets):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], mapped)
        assert_same_moments(one, KINDS["patches"](images), images)
