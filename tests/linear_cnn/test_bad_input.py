"""Malformed data and runs are refused by name, value and remedy, before the network is
even built."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linear_cnn import ImageSet, compress, mean_patch_images, train, train_seeds

IMAGES = np.ones((6, 5, 5, 2))
KEY = jax.random.key(0)
SETTINGS = {
    "targets": np.ones(6),
    "optimizer": optax.sgd(0.1),
    "steps": 10,
    "record_steps": [1, 10],
}


def unbuilt(key):
    raise AssertionError("work started")


def run_train(**arguments):
    return train(unbuilt, **{"images": IMAGES, "key": KEY, **SETTINGS, **arguments})


def run_train_seeds(**arguments):
    return train_seeds(
        unbuilt,
        **{"images": IMAGES, "keys": jax.random.split(KEY, 3), **SETTINGS, **arguments},
    )


def holding(value):
    images = IMAGES.copy()
    images[3, 2, 1, 0] = value
    return images


BAD_IMAGES = [
    (
        holding(np.nan),
        ValueError,
        "images must be finite, but has NaN or infinite entries; remove",
    ),
    (holding(np.inf), ValueError, "images must be finite"),
    (jnp.asarray(holding(np.nan)), ValueError, "images must be finite"),
    (
        IMAGES[0],
        ValueError,
        (
            r"images must have shape \(N, H, W, C\).*got \(5, 5, 2\); one image is"
            r" images\[None\]"
        ),
    ),
    (IMAGES[None], ValueError, r"got \(1, 6, 5, 5, 2\)"),
    (IMAGES[:0], ValueError, r"no axis empty, got \(0, 5, 5, 2\)"),
    (IMAGES[..., :0], ValueError, r"no axis empty, got \(6, 5, 5, 0\)"),
    (
        IMAGES.astype(np.uint8),
        TypeError,
        r"got uint8; scale 8-bit ones by linear_cnn\.scale_pixels",
    ),
    (IMAGES.astype(int), TypeError, "images must be floating point, got int64"),
    (IMAGES.astype(bool), TypeError, "images must be floating point, got bool"),
    (
        IMAGES.astype(complex),
        TypeError,
        "images must be floating point, got complex128; convert them",
    ),
    (
        "photographs",
        TypeError,
        r"images must be an array .*got 'photographs'; load_images loads them",
    ),
    (
        ImageSet(IMAGES, np.zeros(6, int), ("a",)),
        TypeError,
        r"images must be an array .*an image set; pass its \.images",
    ),
]


@pytest.mark.parametrize(("images", "error", "message"), BAD_IMAGES)
@pytest.mark.parametrize(
    "use",
    [
        lambda images: run_train(images=images),
        lambda images: run_train_seeds(images=images),
        lambda images: mean_patch_images(images, 3),
        lambda images: compress(images, np.ones(6)),
    ],
    ids=["train", "train_seeds", "mean_patch_images", "compress"],
)
def test_images(use, images, error, message):
    with pytest.raises(error, match=message):
        use(images)


@pytest.mark.parametrize("run", [run_train, run_train_seeds])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"targets": np.ones(5)},
            ValueError,
            r"targets must have shape.*with N = 6, the number of images.*got \(5,\)",
        ),
        ({"targets": 1.0}, ValueError, r"targets must have shape.*got \(\)"),
        ({"targets": np.ones((6, 0))}, ValueError, r"got \(6, 0\)"),
        ({"targets": np.ones((2, 6, 1, 1))}, ValueError, r"got \(2, 6, 1, 1\)"),
        (
            {"targets": [0, 1, 2, np.nan, 4, 5]},
            ValueError,
            "targets must be finite, but has NaN",
        ),
        (
            {"targets": np.ones(6) * 1j},
            TypeError,
            "targets must be real numbers, got complex128; convert",
        ),
        (
            {"targets": list("abcdef")},
            TypeError,
            r"targets must be real numbers, got <U1; numpy\.unique\(labels.* numbers",
        ),
        (
            {"targets": list("abcdef"), "loss": "cross_entropy"},
            TypeError,
            r"got <U1; numpy\.unique\(labels.* numbers",
        ),
        (
            {"record_steps": [-1, 5]},
            ValueError,
            r"record_steps must increase.*steps = 10, got \[-1, 5\]; numpy\.unique",
        ),
        (
            {"record_steps": [5, 4]},
            ValueError,
            r"record_steps must increase.*got \[5, 4\]",
        ),
        (
            {"record_steps": [1, 5, 5]},
            ValueError,
            r"record_steps must increase.*got \[1, 5, 5\]",
        ),
        (
            {"record_steps": np.array([5, 4], np.uint32)},
            ValueError,
            r"record_steps must increase.*got \[5, 4\]",
        ),
        (
            {"record_steps": [1, 11]},
            ValueError,
            r"between 0 and steps = 10, got \[1, 11\]",
        ),
        (
            {"record_steps": [1.0, 2.0]},
            TypeError,
            r"record_steps must be a list of integers, got \[1\.0, 2\.0\]",
        ),
        (
            {"record_steps": [True, False]},
            TypeError,
            "record_steps must be a list of integers",
        ),
        (
            {"record_steps": [[1, 2]]},
            TypeError,
            "record_steps must be a list of integers",
        ),
        (
            {"record_steps": "all"},
            TypeError,
            "record_steps must be a list of integers, got 'all'",
        ),
        ({"steps": -1}, ValueError, "steps must be >= 0, got -1"),
        ({"steps": 10.0}, TypeError, r"steps must be an integer, got 10\.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        (
            {"batch_size": 7},
            ValueError,
            "batch_size must be at most the number of images 6, got 7",
        ),
        ({"batch_size": 2.0}, TypeError, r"batch_size must be an integer, got 2\.0"),
        (
            {"loss": "hinge"},
            ValueError,
            r"loss must be one of \['cross_entropy', 'mse'\] or a function .* 'hinge'",
        ),
        (
            {"optimizer": 0.1},
            TypeError,
            (
                r"optimizer must be an optax transformation, e\.g\. optax\.sgd\(0\.1\),"
                r" got 0\.1"
            ),
        ),
        ({"epochs": 2}, TypeError, "either steps or epochs, got steps=10, epochs=2"),
        ({"steps": None, "epochs": -2}, ValueError, "epochs must be >= 0, got -2"),
        (
            {"frozen": "conv1"},
            TypeError,
            (
                r"frozen must be a sequence of attribute paths, e\.g\. \('conv1',\),"
                r" got 'conv1'"
            ),
        ),
        (
            {"validation": IMAGES},
            TypeError,
            r"validation must be a pair \(images, targets\), got ndarray",
        ),
        (
            {"validation": (IMAGES[0], 1)},
            ValueError,
            r"validation images must have shape \(N, H, W, C\)",
        ),
        (
            {"validation": (IMAGES[:2], np.ones(3))},
            ValueError,
            r"validation targets must have.*N = 2.*got \(3,\)",
        ),
        (
            {"validation": (IMAGES[..., :1], np.ones(6))},
            ValueError,
            (
                r"validation images must have the shape of the training images \(5, 5,"
                r" 2\), got \(5, 5, 1\)"
            ),
        ),
        (
            {"loss": "cross_entropy"},
            TypeError,
            "targets must be integer labels for loss='cross_entropy', got float64",
        ),
        (
            {"loss": "cross_entropy", "targets": np.eye(6, 4, dtype=int)},
            ValueError,
            r"targets must have shape \(N,\) with N = 6.*got \(6, 4\)",
        ),
    ],
)
def test_runs(run, arguments, error, message):
    with pytest.raises(error, match=message):
        run(**arguments)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (0, "0"),
        (None, "None"),
        (np.zeros(2), r"float64 of shape \(2,\)"),
        (np.zeros(2, np.int32), r"int32 of shape \(2,\)"),
        (jax.random.split(KEY, 2), r"key<fry> of shape \(2,\)"),
        (jax.random.key_data(jax.random.split(KEY, 2)), r"uint32 of shape \(2, 2\)"),
    ],
)
def test_one_key(key, found):
    with pytest.raises(
        TypeError,
        match=rf"key must be one JAX key, e\.g\. jax\.random\.key\(0\), got {found}",
    ):
        run_train(key=key)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (3, "3"),
        (KEY, r"key<fry> of shape \(\)"),
        (np.arange(3), r"int64 of shape \(3,\)"),
        (jax.random.key_data(KEY), r"uint32 of shape \(2,\)"),
        (jax.random.split(KEY, (2, 2)), r"key<fry> of shape \(2, 2\)"),
        (jax.random.split(KEY, 0), r"key<fry> of shape \(0,\)"),
    ],
)
def test_several_keys(keys, found):
    with pytest.raises(
        TypeError,
        match=rf"keys must be JAX keys.*jax\.random\.split\(key, 8\), got {found}",
    ):
        run_train_seeds(keys=keys)


@pytest.mark.parametrize(
    ("run", "name"), [(run_train, "key"), (run_train_seeds, "keys")]
)
def test_a_list_of_keys(run, name):
    with pytest.raises(
        TypeError,
        match=(
            rf"{name} must be an array of JAX keys, got a list; jax\.numpy\.stack makes"
        ),
    ):
        run(**{name: [KEY, KEY]})


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 1, 5, 7)])
@pytest.mark.parametrize(
    "use",
    [
        lambda images: mean_patch_images(images, 1),
        lambda images: run_train(images=images),
    ],
)
def test_images_that_seem_to_have_their_channels_first(use, shape):
    message = (
        rf"{shape[1]} x {shape[2]} pixels with {shape[3]} channels; .*channels"
        r" first.*moveaxis"
    )
    # Of the targets.
    with pytest.warns(UserWarning, match=message), contextlib.suppress(ValueError):
        use(np.ones(shape))


def test_sound_arguments_reach_the_network():
    """So that the tests above fail for the reason they name."""
    for run in (run_train, run_train_seeds):
        with pytest.raises(AssertionError, match="work started"):
            run()
        with pytest.raises(AssertionError, match="work started"):
            run(
                images=IMAGES.tolist(),
                targets=list(range(6)),
                record_steps=range(11),
                batch_size=np.int64(6),
            )
