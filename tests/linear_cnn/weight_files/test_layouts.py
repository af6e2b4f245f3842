"""The order of a kernel's axes."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

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


OHWI_FILE = {  # as MLX writes a network of 3x3 kernels
    "a.weight": RANDOM.normal(size=(64, 3, 3, 3)).astype(np.float32),
    "b.weight": RANDOM.normal(size=(64, 3, 3, 64)).astype(np.float32),
    "c.weight": RANDOM.normal(size=(32, 1, 1, 64)).astype(np.float32),
}


@pytest.mark.parametrize("write", [write_npz, write_safetensors])
def test_filters_height_width_channels(tmp_path, write):
    """(64, 3, 3, 3) alone could be of two layouts; the others decide."""
    first = OHWI_FILE["a.weight"]
    layer = linear_cnn.load_first_layer(write(tmp_path / "net", OHWI_FILE))
    assert layer.name == "a.weight"
    np.testing.assert_array_equal(layer.kernel, first.transpose(1, 2, 3, 0))
    large = {"w": RANDOM.normal(size=(64, 7, 7, 3)).astype(np.float32)}
    kernel = linear_cnn.load_first_layer(write(tmp_path / "net", large)).kernel
    np.testing.assert_array_equal(kernel, large["w"].transpose(1, 2, 3, 0))
    file = write(tmp_path / "net", {"a": first})
    with pytest.raises(ValueError, match=r"'a', .*layout='OIHW' or 'OHWI' decides"):
        linear_cnn.load_first_layer(file)
    for layout, axes in (("OIHW", (2, 3, 1, 0)), ("OHWI", (1, 2, 3, 0))):
        kernel = linear_cnn.load_first_layer(file, layout=layout).kernel
        np.testing.assert_array_equal(kernel, first.transpose(axes))


@pytest.mark.parametrize(
    ("writer", "axes"),
    [("pt", (2, 3, 1, 0)), ("mlx", (1, 2, 3, 0)), ("jax", None)],
)
def test_safetensors_that_name_their_writer(tmp_path, writer, axes):
    first = OHWI_FILE["a.weight"]
    save_file({"a": first}, tmp_path / "net", metadata={"format": writer})
    if axes is None:
        with pytest.raises(ValueError, match="ambiguous"):
            linear_cnn.load_first_layer(tmp_path / "net")
        return
    kernel = linear_cnn.load_first_layer(tmp_path / "net").kernel
    np.testing.assert_array_equal(kernel, first.transpose(axes))
    # The other kernels say more than the name.
    save_file(OHWI_FILE, tmp_path / "net", metadata={"format": writer})
    kernel = linear_cnn.load_first_layer(tmp_path / "net").kernel
    np.testing.assert_array_equal(kernel, first.transpose(1, 2, 3, 0))


def test_a_framework_s_file_of_another_s_kernels(tmp_path):
    file = write_torch(tmp_path / "net", OHWI_FILE)
    with pytest.raises(
        ValueError, match=r"square in the layout OHWI, not .* OIHW; .*='OIHW' or 'OHWI'"
    ):
        linear_cnn.load_first_layer(file)
    kernel = linear_cnn.load_first_layer(file, layout="OHWI").kernel
    first = OHWI_FILE["a.weight"]
    np.testing.assert_array_equal(kernel, first.transpose(1, 2, 3, 0))
    file = write_torch(tmp_path / "net", {"w": np.ones((64, 7, 7, 3), np.float32)})
    for name in (None, "w"):
        with pytest.raises(ValueError, match=r"'w' \(64, 7, 7, 3\), layout='OHWI' dec"):
            linear_cnn.load_first_layer(file, name)
    for name in (None, "w"):
        with pytest.raises(ValueError, match=r"would be one with layout='OHWI'"):
            linear_cnn.load_first_layer(file, name, layout="OIHW")


def test_positions_of_patches_are_no_kernels(tmp_path):
    tensors = {
        "position": np.zeros((1, 14, 14, 768), np.float32),
        "w": RANDOM.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "later": np.zeros((8, 8, 3, 3), np.float32),
    }
    kernel = linear_cnn.load_first_layer(write_npz(tmp_path / "n", tensors)).kernel
    np.testing.assert_array_equal(kernel, tensors["w"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize("channels", [1, 4])
def test_no_layout_is_advised_that_cannot_fit(tmp_path, channels):
    """(8, 4, 3, 3) would be of 8x4 pixels."""
    tensors = {"a": np.ones((8, channels, 3, 3)), "b": np.ones((8, 8, 3, 3))}
    for write in (write_npz, write_torch):
        file = write(tmp_path / "net", tensors)
        for name in (None, "a"):
            with pytest.raises(ValueError, match=r"3 input channels") as error:
                linear_cnn.load_first_layer(file, name)
            assert "layout=" not in str(error.value)
