"""Correlation of labels with principal components, against np.corrcoef over all patches
and over all mean patches."""

import itertools

import jax
import numpy as np
import pytest

import theory
from tests.theory.twins import all_patches
from theory import label_correlation, patch_spectrum

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.normal(size=(11, 5, 6, 2)).cumsum(axis=1).cumsum(axis=2) + np.array(
    [0.5, -2]
)
LABELS = np.array([0, 1, 2, 2, 0, 1, 2, 1, 1, 2, 2])


def explicit_correlations(images, labels, spectrum):
    """For single patches and for mean patches, (classes, d) each."""
    patches = all_patches(
        images, spectrum.kernel_shape[:2], spectrum.stride, spectrum.padding
    )
    coefficients = patches.reshape(len(images), -1, patches.shape[-1]) @ np.asarray(
        spectrum.components
    )
    repeated = np.repeat(labels, coefficients.shape[1])
    return tuple(
        np.array(
            [
                [np.corrcoef(names == label, column)[0, 1] for column in rows.T]
                for label in range(max(labels) + 1)
            ]
        )
        for names, rows in (
            (repeated, coefficients.reshape(-1, patches.shape[-1])),
            (labels, coefficients.mean(axis=1)),
        )
    )


@pytest.mark.float32
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("settings", [{"stride": (1, 2), "padding": "SAME"}, {}])
def test_it_equals_the_correlation_over_all_patches(center, settings):
    spectrum = patch_spectrum(IMAGES, (2, 3), center=center, **settings)
    measured = label_correlation(IMAGES, LABELS, spectrum)
    patch, mean_patch = explicit_correlations(IMAGES, LABELS, spectrum)
    np.testing.assert_allclose(measured.patch, patch, rtol=0, atol=1e-11)
    np.testing.assert_allclose(measured.mean_patch, mean_patch, rtol=0, atol=1e-11)
    assert {leaf.dtype for leaf in jax.tree.leaves(measured)} == {np.dtype(np.float64)}
    assert np.abs(mean_patch - patch).max() > 0.2  # they are different numbers
    streamed = label_correlation(
        iter(np.split(IMAGES, [4, 5])), LABELS.tolist(), spectrum
    )
    for leaf, expected in zip(
        jax.tree.leaves(streamed), jax.tree.leaves(measured), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_the_noise_is_the_deviation_over_all_orders_of_the_labels(center):
    images, labels = IMAGES[:5], np.array([0, 0, 1, 1, 1])
    spectrum = patch_spectrum(images, 2, center=center)
    orders = [
        label_correlation(
            images, np.where(np.isin(np.arange(5), zeros), 0, 1), spectrum
        )
        for zeros in itertools.combinations(range(5), 2)
    ]
    measured = label_correlation(images, labels, spectrum)
    for name in ("patch", "mean_patch"):
        over_orders = np.array([getattr(order, name) for order in orders])
        assert over_orders.shape == (10, 2, 8)
        noise = np.broadcast_to(getattr(measured, f"{name}_noise"), (2, 8))
        np.testing.assert_allclose(over_orders.mean(axis=0), 0, atol=1e-11)
        np.testing.assert_allclose(
            np.sqrt((over_orders**2).mean(axis=0)), noise, rtol=1e-10
        )
    assert measured.mean_patch_noise == 1 / 2
    # Patches of one image share their label, so that there are not as many independent
    # ones as patches.
    assert (np.asarray(measured.patch_noise)[0] > 2 / np.sqrt(spectrum.count)).all()


def test_a_planted_label_is_found():
    images = np.concatenate(
        [IMAGES + RANDOM.normal(size=IMAGES.shape) for _ in range(20)]
    )
    spectrum = patch_spectrum(images, 2)
    coefficients = all_patches(images, 2).mean(axis=(1, 2)) @ np.asarray(
        spectrum.components
    )
    for component in (0, 3, 7):
        labels = (
            coefficients[:, component] > np.median(coefficients[:, component])
        ).astype(int)
        measured = label_correlation(images, labels, spectrum)
        assert np.argmax(np.abs(measured.mean_patch[1])) == component
        assert measured.mean_patch[1, component] > 0.6
        np.testing.assert_allclose(
            measured.mean_patch[0], -measured.mean_patch[1], atol=1e-12
        )
        assert measured.patch[1, component] > 5 * measured.patch_noise[component]
    shuffled = label_correlation(images, RANDOM.permutation(labels), spectrum)
    assert np.abs(shuffled.mean_patch).max() < 4 * shuffled.mean_patch_noise


def test_components_without_variance_have_no_correlation():
    grey = np.repeat(IMAGES[..., :1], 2, axis=3)
    spectrum = patch_spectrum(grey, 2)
    measured = label_correlation(grey, LABELS, spectrum)
    nothing = np.asarray(spectrum.variance) == 0
    assert nothing.sum() == 4
    for values in (
        measured.patch,
        measured.mean_patch,
        np.asarray(measured.patch_noise)[None],
    ):
        np.testing.assert_array_equal(
            np.isnan(values), np.broadcast_to(nothing, values.shape)
        )


SPECTRUM = patch_spectrum(IMAGES, 2)


@pytest.mark.parametrize(
    ("error", "message", "images", "labels"),
    [
        (
            ValueError,
            r"labels must have shape \(N,\), got \(11, 1\)",
            IMAGES,
            LABELS[:, None],
        ),
        (ValueError, r"labels must have shape \(N,\), got \(0,\)", IMAGES, []),
        (
            ValueError,
            r"labels must have shape \(N,\) with N = 11 as the images have, got 10",
            IMAGES,
            LABELS[1:],
        ),
        (TypeError, "labels must be integers, got float64", IMAGES, LABELS / 2),
        (TypeError, "labels must be integers, got bool", IMAGES, LABELS > 0),
        (ValueError, "labels must be 0 or larger, got -1", IMAGES, LABELS - 1),
        (
            ValueError,
            "each class from 0 to the largest, .* no image of class 1",
            IMAGES,
            LABELS * 2,
        ),
        (ValueError, "at least two; there is only class 0", IMAGES, LABELS * 0),
        (ValueError, r"images must have shape \(N, H, W, C\)", IMAGES[0], LABELS),
        (
            ValueError,
            (
                "spectrum must be that of the same images: .* 220 patches with 2"
                " channels, .* 200 with 2"
            ),
            IMAGES[:10],
            LABELS[:10],
        ),
        (
            ValueError,
            "220 patches with 2 channels, these images have 220 with 3",
            IMAGES[..., [0, 1, 1]],
            LABELS,
        ),
        (
            ValueError,
            "targets has 11 rows, but there are 10 images",
            iter([IMAGES[:10]]),
            LABELS,
        ),
    ],
)
def test_bad_labels(error, message, images, labels):
    with pytest.raises(error, match=message):
        label_correlation(images, labels, SPECTRUM)


def test_traced_labels_are_refused():
    with pytest.raises(TypeError, match="labels must be concrete"):
        jax.jit(lambda labels: label_correlation(IMAGES, labels, SPECTRUM))(LABELS)


def test_traced_images():
    traced = jax.jit(
        lambda images: label_correlation(images, LABELS, patch_spectrum(images, 2))
    )(IMAGES)
    measured = label_correlation(IMAGES, LABELS, SPECTRUM)
    np.testing.assert_allclose(traced.patch, measured.patch, atol=1e-10)
    assert isinstance(traced, theory.LabelCorrelation)
