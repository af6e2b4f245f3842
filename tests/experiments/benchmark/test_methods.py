"""What each method of the benchmark computes: all of a row the same."""

import jax
import numpy as np
import pytest

from experiments.benchmark import methods, training
from experiments.benchmark.methods import METHODS
from experiments.benchmark.training import VGGRun
from experiments.frame.disk import version
from tests.experiments.benchmark.fakes import (
    FIT,
    FITS,
    NUMPY,
    OURS,
    SCAN,
    TORCH,
    some_images,
)


@pytest.mark.parametrize(
    "name", [OURS, f"{OURS}, 7x7", TORCH, "scikit-learn PCA of all patches", NUMPY]
)
def test_every_method_has_the_eigenvalues_of_the_centred_patches(name, monkeypatch):
    package = METHODS[name].package
    if package and version(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(methods, "BATCH", 2)
    images, size = some_images(), 7 if "7x7" in name else 3
    places = range(images.shape[1] - size + 1)
    patches = [
        image[i : i + size, j : j + size].ravel()
        for image in images
        for i in places
        for j in places
    ]
    covariance = np.cov(np.array(patches, np.float64).T, bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    values = METHODS[name].prepare(images)()
    rank = min(len(expected), len(patches)) - 1  # 7x7: fewer patches than pixels in one
    np.testing.assert_allclose(values[:rank], expected[:rank], rtol=1e-9)
    assert values.dtype == np.float64


def test_the_fits_agree(monkeypatch):
    monkeypatch.setattr(methods, "ITERATIONS", range(10_000, 5_000_001, 10_000))
    one, many, scan = (
        METHODS[name].prepare(some_images(count=20))() for name in (FIT, FITS, SCAN)
    )
    assert one.shape == many.shape == scan.shape == (1,)
    assert {one.dtype, many.dtype, scan.dtype} == {np.dtype(np.float64)}
    assert 0.5 < scan[0] <= one[0] < scan[0] + 1e-4
    np.testing.assert_allclose(one, many, rtol=1e-12)
    assert len(range(10_000, 5_000_001, 250)) == 19_961


@pytest.mark.long
def test_all_ways_of_training_train_the_same_small_network(monkeypatch):
    asked = set()  # the methods that took XLA's convolution

    def convolution(*arguments, **options):
        asked.add(name)
        return jax.lax.conv_general_dilated(*arguments, **options)

    monkeypatch.setitem(training.XLAS_CONVOLUTION, "conv_general_dilated", convolution)
    for constant, value in (("SEEDS", 2), ("SEEDS_BATCH", 4), ("SEEDS_STEPS", 1)):
        monkeypatch.setattr(training, constant, value)
    names = [name for name in METHODS if "SmallCNN" in name]
    assert len(names) == 5
    for name in names:
        np.testing.assert_array_equal(METHODS[name].prepare(some_images())(), [6362])
    assert asked == {"XLA's convolution, SmallCNN, lax.map"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the default of nnx.Conv:UserWarning")
def test_both_convolutions_train_the_same_module_of_ones_own(monkeypatch):
    for constant, value in (("OWN_SEEDS", 2), ("SEEDS_BATCH", 4), ("SEEDS_STEPS", 1)):
        monkeypatch.setattr(training, constant, value)
    names = [name for name in METHODS if "own module" in name]
    assert len(names) == 2
    for name in names:
        np.testing.assert_array_equal(METHODS[name].prepare(some_images())(), [5418])


@pytest.mark.long
@pytest.mark.parametrize("who", ["linear_cnn", "linear_cnn, own functions", "torch"])
@pytest.mark.parametrize(
    ("first_features", "parameters"), [(None, 612_810), (64, 628_074)]
)
def test_all_ways_of_training_train_the_same_vgg(who, first_features, parameters):
    if who == "torch" and version(who) is None:
        pytest.skip(f"{who} is not installed")
    train = training.torch_vgg if who == "torch" else training.our_vgg
    run = VGGRun(0.25, batch_size=4, steps=1, first_features=first_features)
    options = {"own": True} if "own" in who else {}
    np.testing.assert_array_equal(
        train(some_images(size=32), run, **options)(), [float(parameters)]
    )
