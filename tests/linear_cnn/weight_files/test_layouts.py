"""The order of a kernel's axes."""

import math

import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    RANDOM,
    write_graph,
    write_npz,
    write_onnx,
    write_safetensors,
    write_tfjs,
    write_torch,
)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((64, 3, 7, 7), "OIHW"), ((11, 11, 3, 9), "HWIO"), ((3, 3, 3, 8), "HWIO")],
)
def test_layouts_are_recognised(tmp_path, shape, layout):
    weights = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    kernel = linear_cnn.load_first_layer(
        write_npz(tmp_path / "net.npz", {"w": weights})
    ).kernel
    np.testing.assert_array_equal(
        kernel, weights if layout == "HWIO" else weights.transpose(2, 3, 1, 0)
    )


def test_ambiguous_and_oblong_kernels_need_the_layout(tmp_path):
    ambiguous = RANDOM.normal(size=(3, 3, 3, 3)).astype(np.float32)
    oblong = RANDOM.normal(size=(8, 3, 3, 5)).astype(np.float32)
    for weights, message in [
        (ambiguous, "'w'.*ambiguous; layout='OIHW', 'HWIO' or 'OHWI'"),
        (oblong, "'w' would be one with layout='OIHW' or 'HWIO', .* needs"),
    ]:
        file = write_npz(tmp_path / "net.npz", {"w": weights})
        with pytest.raises(ValueError, match=message):
            linear_cnn.load_first_layer(file)
        kernel = linear_cnn.load_first_layer(file, layout="OIHW").kernel
        np.testing.assert_array_equal(kernel, weights.transpose(2, 3, 1, 0))
    with pytest.raises(ValueError, match="Without layout=, kernels must be square"):
        linear_cnn.load_first_layer(file, "w")


@pytest.mark.parametrize(
    ("write", "weights", "layout"),
    [
        (write_torch, HWIO, "HWIO"),
        (write_onnx, HWIO, "HWIO"),
        (write_graph, OIHW, "OIHW"),
        (write_tfjs, OIHW, "OIHW"),
    ],
)
def test_a_given_layout_prevails_over_that_of_the_format(
    tmp_path, write, weights, layout
):
    file = write(tmp_path / "file", {NAME: weights})
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(file, layout=layout).kernel, HWIO
    )


@pytest.mark.parametrize(
    ("write", "layout", "shape"),
    [
        (write_torch, "OIHW", (3, 3, 3, 3)),
        (write_torch, "OIHW", (8, 3, 3, 5)),
        (write_graph, "HWIO", (3, 3, 3, 3)),
        (write_graph, "HWIO", (3, 5, 3, 8)),
    ],
)
def test_kernels_of_a_framework_may_be_oblong_and_are_not_ambiguous(
    tmp_path, write, layout, shape
):
    weights = RANDOM.normal(size=shape).astype(np.float32)
    kernel = linear_cnn.load_first_layer(
        write(tmp_path / "file", {NAME: weights})
    ).kernel
    np.testing.assert_array_equal(
        kernel, weights if layout == "HWIO" else weights.transpose(2, 3, 1, 0)
    )


@pytest.mark.parametrize("write", [write_npz, write_safetensors])
@pytest.mark.parametrize("layout", ["OIHW", "HWIO"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_layout_is_that_of_all_kernels(tmp_path, write, layout, channels):
    """(16, 16, 3, 3) alone could be 16x16 pixels, 3 channels and 3 filters in the other
    order."""
    tensors = {
        "b1": RANDOM.normal(size=(16, channels, 3, 3)),
        "c1": RANDOM.normal(size=(16, 16, 3, 3)),
    }
    tensors |= {
        "c2": RANDOM.normal(size=(32, 16, 3, 3)),
        "down": RANDOM.normal(size=(32, 16, 1, 1)),
    }
    tensors |= {
        "mixing": RANDOM.normal(size=(5, 5, 1, 1)),
        "positions": RANDOM.normal(size=(1, 1, 7, 9)),
    }
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    first = tensors["b1"].transpose(2, 3, 1, 0)
    if layout == "HWIO":
        tensors = {
            name: np.ascontiguousarray(values.transpose(2, 3, 1, 0))
            for name, values in tensors.items()
        }
    file = write(tmp_path / "net", tensors)
    if channels == 3:
        found = linear_cnn.load_first_layer(file)
        assert found.name == "b1"
        np.testing.assert_array_equal(found.kernel, first)
    else:
        with pytest.raises(
            ValueError,
            match=r"no tensor of this .* is a convolution with 3 input channels",
        ):
            linear_cnn.load_first_layer(file)
