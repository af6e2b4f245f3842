"""Filters that the network computes from the tensors in its file."""

import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    RANDOM,
    write_npz,
    write_safetensors,
    write_torch,
)

# What torch.nn.utils.parametrizations and the older functions made of these (2.13):
# every fifth entry.
SINES = np.sin(np.arange(24.0)).reshape(2, 3, 2, 2)
GAINS = np.array([1.5, -2.0]).reshape(2, 1, 1, 1)
LEFT = np.array([0.6, -0.8])
RIGHT = np.cos(np.arange(12.0)) / np.linalg.norm(np.cos(np.arange(12.0)))
WEIGHT_NORM = [
    0.0,
    -0.5871497564723166,
    -0.33310436623027684,
    -0.5441846174226882,
    -0.7639859325603245,
]
SPECTRAL_NORM = [
    0.0,
    -0.9206560682377157,
    -0.5223106247525833,
    0.624336521621754,
    0.8765119491280544,
]
OLDER_WEIGHT = ("stem.weight_g", "stem.weight_v")
NEWER_WEIGHT = (
    "stem.parametrizations.weight.original0",
    "stem.parametrizations.weight.original1",
)
OLDER_SPECTRAL = ("stem.weight_orig", "stem.weight_u", "stem.weight_v")
NEWER_SPECTRAL = (
    "stem.parametrizations.weight.original",
    "stem.parametrizations.weight.0._u",
    "stem.parametrizations.weight.0._v",
)
every_writer = pytest.mark.parametrize(
    "write", [write_npz, write_safetensors, write_torch]
)


def file_with(tmp_path, write, names, values, others=OTHERS):
    tensors = dict(zip(names, values, strict=True))
    return write(
        tmp_path / "file",
        {name: np.array(value, order="C") for name, value in tensors.items()} | others,
    )


def loaded(file, name=None):
    """The filters in torch's order of the axes, and their name."""
    layer = linear_cnn.load_first_layer(file, name)
    return layer.kernel.transpose(3, 2, 0, 1), layer.name


@every_writer
@pytest.mark.parametrize("names", [OLDER_WEIGHT, NEWER_WEIGHT])
def test_weight_norm(tmp_path, write, names):
    file = file_with(tmp_path, write, names, (GAINS, SINES))
    found, name = loaded(file)
    assert name == NAME
    np.testing.assert_allclose(found.ravel()[::5], WEIGHT_NORM, rtol=1e-6)
    for filter_, gain, direction in zip(found, GAINS.ravel(), SINES, strict=True):
        length = np.sqrt(sum(entry**2 for entry in direction.ravel()))
        np.testing.assert_allclose(filter_, gain * direction / length, rtol=1e-6)
    assert np.abs(found - SINES).max() > 0.5  # the stored tensor is far from it
    np.testing.assert_array_equal(loaded(file, NAME)[0], found)


@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 3, 1, 1), (0, 2, 3)), ((), (0, 1, 2, 3))]
)
def test_weight_norm_of_other_axes(tmp_path, shape, axes):
    gain = RANDOM.uniform(1, 2, size=shape)
    file = file_with(tmp_path, write_torch, NEWER_WEIGHT, (gain, SINES))
    expected = (
        gain
        * SINES
        / np.linalg.norm(
            SINES.transpose(1, 0, 2, 3).reshape(3, -1) if shape else SINES.ravel(),
            axis=-1,
            keepdims=True,
        ).reshape(shape)
    )
    np.testing.assert_allclose(loaded(file)[0], expected, rtol=1e-6)


@every_writer
@pytest.mark.parametrize("names", [OLDER_SPECTRAL, NEWER_SPECTRAL])
def test_spectral_norm(tmp_path, write, names):
    file = file_with(tmp_path, write, names, (SINES, LEFT, RIGHT))
    found, name = loaded(file)
    assert name == NAME
    np.testing.assert_allclose(found.ravel()[::5], SPECTRAL_NORM, rtol=1e-6)
    sigma = sum(
        LEFT[row] * SINES[row].ravel()[column] * RIGHT[column]
        for row in range(2)
        for column in range(12)
    )
    np.testing.assert_allclose(found, SINES / sigma, rtol=1e-6)
    assert np.abs(found - SINES).max() > 0.03


def test_spectral_norm_by_the_names_of_others(tmp_path):
    names = [name.replace("_orig", "_bar") for name in OLDER_SPECTRAL]
    file = file_with(tmp_path, write_torch, names, (SINES, LEFT, RIGHT))
    np.testing.assert_allclose(loaded(file)[0].ravel()[::5], SPECTRAL_NORM, rtol=1e-6)


def test_pruned_filters(tmp_path):
    mask = (RANDOM.random(OIHW.shape) > 0.3).astype(np.float32)
    names = ("stem.weight_orig", "stem.weight_mask")
    found, name = loaded(file_with(tmp_path, write_torch, names, (OIHW, mask)))
    assert name == NAME
    np.testing.assert_array_equal(found, OIHW * mask)


def test_filters_that_are_stored_beside_their_parts(tmp_path):
    names = (NAME, "stem.weight_orig", "stem.weight_u")
    file = file_with(tmp_path, write_torch, names, (OIHW, 2 * OIHW, np.ones(5)))
    np.testing.assert_array_equal(loaded(file)[0], OIHW)


@pytest.mark.parametrize("names", [OLDER_WEIGHT, NEWER_WEIGHT])
def test_the_name_of_a_part_is_refused(tmp_path, names):
    file = file_with(tmp_path, write_torch, names, (GAINS, SINES))
    with pytest.raises(ValueError, match=r"is a part of the filter 'stem.weight'"):
        linear_cnn.load_first_layer(file, names[1])


@pytest.mark.parametrize(
    ("names", "values", "reason"),
    [
        (["stem.weight_orig"], [SINES], "'stem.weight_orig', and .* not say how"),
        (
            ["stem.parametrizations.weight.original"],
            [SINES],
            "and the file does not say how. .*remove_parametrizations",
        ),
        (
            [NEWER_SPECTRAL[0], "stem.parametrizations.weight.0.base"],
            [SINES, LEFT],
            r"weight.0.base', .*weight.original', and the file does not",
        ),
        (
            [*NEWER_WEIGHT, "stem.parametrizations.weight.1._u"],
            [GAINS, SINES, LEFT],
            r"weight.1._u', 'stem.*, and the file does not say how",
        ),
        (OLDER_WEIGHT, [np.ones(7), SINES], "does not say how"),
        *[
            ([name], [SINES], f"is computed from '{name}', and the file")
            for name in (OLDER_WEIGHT[1], NEWER_WEIGHT[0], NEWER_WEIGHT[1])
        ],
        (OLDER_SPECTRAL, [SINES, LEFT, RIGHT[:-1]], "do not fit each other"),
        (OLDER_SPECTRAL, [SINES, 0 * LEFT, RIGHT], "u^T W v = 0"),
        (OLDER_WEIGHT, [GAINS, 0 * SINES], "has the length 0"),
        ([NAME, "stem.gain"], [OIHW, np.ones(5)], "weights are standardised"),
        ([NAME, "stem.weight_u"], [OIHW, np.ones(5)], "which spectral norm has"),
        ([NAME, "stem.sv0"], [OIHW, np.ones(1)], "'stem.sv0' is beside it"),
        ([NAME, "stem.weight_scale"], [OIHW, np.ones(1)], "are multiplied by"),
        (
            ["p/stem/kernel", "b/norm/stem/kernel/sigma"],
            [OIHW, np.ones(())],
            "kernel/sigma' is beside it, which spectral norm has",
        ),
        *[
            ([name], [OIHW], "name says that its weights are standardised")
            for name in (
                "resnet/root_block/standardized_conv2d/kernel",
                "StdConv2d_0.weight",
                "stem.ws_conv.weight",
            )
        ],
    ],
)
def test_what_the_file_does_not_say_is_refused(tmp_path, names, values, reason):
    file = file_with(tmp_path, write_npz, names, values)
    pattern = reason.replace("^", r"\^")
    with pytest.raises(ValueError, match=pattern) as error:
        linear_cnn.load_first_layer(file)
    assert str(file) in str(error.value)


def test_names_that_merely_look_like_parts(tmp_path):
    """Batch norm has a scale, and a layer may be called as a part is."""
    others = {"stem_v": OTHERS["later"], "norm.scale": np.ones(5), "norm.g": np.ones(5)}
    file = file_with(tmp_path, write_torch, [NAME], [OIHW], others)
    np.testing.assert_array_equal(loaded(file)[0].transpose(2, 3, 1, 0), HWIO)
