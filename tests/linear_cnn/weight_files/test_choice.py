"""Which tensor of a file is the first layer."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    RANDOM,
    every_format,
    write_graph,
    write_npz,
    write_torch,
    written,
)


@every_format
def test_one_candidate_of_several_by_its_name(tmp_path, kind):
    file = written(kind, tmp_path / "file", {NAME: OIHW, "ema": 2 * OIHW})
    with pytest.raises(
        ValueError, match=r"several .* name= decides: '(stem.weight|ema)' \(.*\), '"
    ) as error:
        linear_cnn.load_first_layer(file)
    assert str(file) in str(error.value)
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(file, "ema").kernel, 2 * HWIO
    )


@pytest.mark.parametrize("shape", [(8, 3, 1, 7), (8, 3, 7, 1)])
def test_kernels_of_a_single_row_or_column(tmp_path, shape):
    weights = RANDOM.normal(size=shape).astype(np.float32)
    kernel = linear_cnn.load_first_layer(
        write_torch(tmp_path / "file", {NAME: weights, **OTHERS})
    ).kernel
    np.testing.assert_array_equal(kernel, weights.transpose(2, 3, 1, 0))


def test_single_pixels_are_read_by_their_name(tmp_path):
    weights = RANDOM.normal(size=(8, 3, 1, 1)).astype(np.float32)
    file = write_torch(
        tmp_path / "file",
        {NAME: OIHW, "pixel": weights, "empty": np.zeros((0, 3, 3, 3), np.float32)},
    )
    assert linear_cnn.load_first_layer(file).name == NAME
    kernel = linear_cnn.load_first_layer(file, "pixel").kernel
    np.testing.assert_array_equal(kernel, weights.transpose(2, 3, 1, 0))
    with pytest.raises(
        ValueError,
        match=r"'empty' has the shape \(0, 3, 3, 3\), which is no convolution",
    ):
        linear_cnn.load_first_layer(file, "empty")


def test_kernels_as_large_as_those_of_vision_transformers_and_no_larger(tmp_path):
    one = np.ones(1, "<f4").tobytes()  # the file has but this number and the shape
    patches, damaged = (
        np.broadcast_to(np.float32(1), shape)
        for shape in [(32, 32, 3, 1024), (3, 3, 3, 2**21)]
    )
    assert (
        linear_cnn.load_first_layer(
            write_graph(tmp_path / "file", {NAME: patches}, one)
        ).kernel.shape[3]
        == 1024
    )
    file = write_graph(tmp_path / "file", {NAME: damaged}, one)
    for name, message in [
        (None, "no tensor of this"),
        (NAME, "which is no convolution"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_cnn.load_first_layer(file, name)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_layer_of_three_filters_may_come_before(tmp_path, channels):
    """A network of grey images whose first layer has 3 filters: the second one has 3
    input channels."""
    tensors = {
        "conv1": RANDOM.normal(size=(3, channels, 5, 5)),
        "conv2": RANDOM.normal(size=(16, 3, 5, 5)),
    }
    file = write_torch(
        tmp_path / "net.pth",
        {name: values.astype(np.float32) for name, values in tensors.items()},
    )
    with pytest.raises(
        ValueError,
        match=(
            rf"'conv1' \(3, {channels}, 5, 5\) may come before 'conv2', .* name="
            r" decides"
        ),
    ):
        linear_cnn.load_first_layer(file)
    assert linear_cnn.load_first_layer(file, "conv2").name == "conv2"


def test_tensors_of_one_name_are_refused(tmp_path):
    message = "two of its tensors are named '{}'"
    twice = write_torch(
        tmp_path / "net.pth",
        {"a.b": OIHW},
        wrap=lambda state: {**state, "a": {"b": state["a.b"]}},
    )
    with pytest.raises(ValueError, match=message.format("a.b")):
        linear_cnn.load_first_layer(twice)
    with (
        zipfile.ZipFile(tmp_path / "net.npz", "w") as archive,
        warnings.catch_warnings(action="ignore"),
    ):
        for factor in (1, 2):
            buffer = io.BytesIO()
            np.save(buffer, factor * OIHW)
            archive.writestr("w.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=message.format("w")):
        linear_cnn.load_first_layer(tmp_path / "net.npz")


@pytest.mark.parametrize("write", [write_npz, write_torch])
@pytest.mark.parametrize(
    ("count", "end"),
    [(8, ""), (9, " and 1 more with 4 axes"), (11, " and 3 more with 4 axes")],
)
def test_at_most_eight_tensors_are_listed(tmp_path, write, count, end):
    later = np.zeros((2, 5, 3, 3), np.float32)
    file = write(
        tmp_path / "file",
        {"bias": np.zeros(2, np.float32), **{f"w{n}": later for n in range(count)}},
    )
    listed = ", ".join(f"'w{n}' (2, 5, 3, 3)" for n in range(8))
    with pytest.raises(ValueError, match=re.escape(f"it holds {listed}{end}.") + "$"):
        linear_cnn.load_first_layer(file)
    file = write(tmp_path / "file", {"bias": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="it holds no tensor with 4 axes"):
        linear_cnn.load_first_layer(file)


@every_format
@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_four_channels(tmp_path, kind, channels):
    weights = RANDOM.normal(size=(5, channels, 3, 3)).astype(np.float32)
    file = written(kind, tmp_path / "file", {NAME: weights})
    with pytest.raises(
        ValueError, match=rf"{NAME}' \((5, {channels}, 3, 3|3, 3, {channels}, 5)\)"
    ) as error:
        linear_cnn.load_first_layer(file)
    assert "3 input channels" in str(error.value)
    assert str(file) in str(error.value)
    with pytest.raises(ValueError, match="no convolution with 3 input channels"):
        linear_cnn.load_first_layer(file, NAME)


@every_format
def test_a_name_that_is_not_there(tmp_path, kind):
    with pytest.raises(ValueError, match=r"named 'conv1'; it holds .*'stem.weight' \("):
        linear_cnn.load_first_layer(written(kind, tmp_path / "file"), "conv1")
