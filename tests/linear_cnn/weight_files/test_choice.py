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
    write_safetensors,
    write_tfjs,
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


GENERATOR = {  # transposed convolutions, (channels, filters, height, width)
    "main.0.weight": np.ones((100, 256, 4, 4), np.float32),
    "main.3.weight": np.ones((256, 128, 4, 4), np.float32),
    "main.9.weight": np.ones((128, 64, 4, 4), np.float32),
    "main.12.weight": np.ones((64, 3, 4, 4), np.float32),
}
LAST = r"'main.12.weight' \(64, 3, 4, 4\), comes last, and 'main.9.weight' .* before"


@pytest.mark.parametrize("write", [write_npz, write_safetensors, write_torch])
def test_the_last_layer_of_a_generator(tmp_path, write):
    """Of safetensors, whose order is another, the numbers in the names tell it."""
    file = write(tmp_path / "net", GENERATOR)
    with pytest.raises(ValueError, match=LAST):
        linear_cnn.load_first_layer(file)
    assert linear_cnn.load_first_layer(file, "main.12.weight").kernel.shape[2] == 3
    # The same shapes in the order of a network that sees images.
    names = [f"main.{n}.weight" for n in range(4)]
    network = dict(zip(names, reversed(GENERATOR.values()), strict=True))
    found = linear_cnn.load_first_layer(write(tmp_path / "net", network))
    assert found.name == "main.0.weight"


def test_the_last_layer_of_a_generator_in_other_layouts_and_behind_a_convolution(
    tmp_path,
):
    hwio = {name: w.transpose(2, 3, 0, 1) for name, w in GENERATOR.items()}
    swapped = {name: w.swapaxes(2, 3) for name, w in hwio.items()}
    for write in (write_npz, write_graph, write_tfjs):
        # (height, width, filters, channels): filters of the last are 3.
        file = write(tmp_path / write.__name__, swapped)
        assert "comes last" in refusal(file)
    behind = {
        "a": np.ones((32, 32, 3, 3), np.float32),
        "b": np.ones((32, 3, 2, 2), np.float32),
        "pixels": np.ones((3, 3, 1, 1), np.float32),
    }
    assert "'b' (32, 3, 2, 2), comes last" in refusal(
        write_torch(tmp_path / "b", behind)
    )


def refusal(file):
    with pytest.raises(ValueError, match=r".") as error:
        linear_cnn.load_first_layer(file)
    return str(error.value)


@pytest.mark.parametrize("name", ["up.conv_transpose.weight", "deconv1.w", "convt.w"])
def test_transposed_convolutions_by_their_names(tmp_path, name):
    file = write_torch(tmp_path / "net", {name: np.ones((16, 3, 4, 4), np.float32)})
    assert "is a transposed convolution by its name" in refusal(file)
    assert linear_cnn.load_first_layer(file, name).name == name


def test_names_that_are_not_those_of_transposed_convolutions(tmp_path):
    weights = np.ones((16, 3, 4, 4), np.float32)
    for name in ("conv_tall.weight", "convtiny", "stem.conv.weight"):
        file = write_torch(tmp_path / "net", {name: weights})
        assert linear_cnn.load_first_layer(file).name == name


def test_names_are_quoted_in_short_and_escaped(tmp_path):
    """Neither control characters, nor more than 200 characters of the file."""
    evil = "\x1b[2J\r\u202e"
    long = "n" * 900
    tensors = {f"{evil}{long}{n}": np.ones((16, 4, 3, 3)) for n in range(9)}
    for write in (write_npz, write_torch):
        file = write(tmp_path / "net", tensors)
        message = refusal(file).removeprefix(str(file))
        assert message.isprintable()
        assert "9 more" not in message
        assert "\\x1b[2J" in message
        assert message.count("n") < 200 + 60
    file = write_npz(tmp_path / "\x1b[2J.npz", tensors)
    assert "\\x1b[2J.npz" in refusal(file)
    assert refusal(file).isprintable()
