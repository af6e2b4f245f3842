"""First layers from models of TensorFlow.js."""

import json

import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    write_tfjs,
)


@pytest.mark.parametrize(("dtype", "steps"), [("u1", 255), ("u2", 65_535)])
def test_quantized_weights_of_tensorflow_js(tmp_path, dtype, steps):
    file = write_tfjs(
        tmp_path / "model",
        {"bias": np.ones(7, np.float32), NAME: HWIO},
        np.dtype(dtype),
        (50, 90),
    )
    kernel = linear_cnn.load_first_layer(file).kernel
    assert 0 < np.abs(kernel - HWIO).max() <= np.ptp(HWIO) / steps * 0.51


def test_faults_of_tensorflow_js(tmp_path):
    bank = HWIO.tobytes()
    weight = {"name": "w", "shape": HWIO.shape, "dtype": "float32"}

    def load(paths, weights, content):
        (tmp_path / "shard").write_bytes(content)
        (tmp_path / "model.json").write_text(
            json.dumps({"weightsManifest": [{"paths": paths, "weights": weights}]})
        )
        return linear_cnn.load_first_layer(tmp_path / "model.json")

    np.testing.assert_array_equal(
        load(["shard"], [weight | {"quantization": None}], bank).kernel, HWIO
    )
    for paths, weights, content, message in (
        (["shard", "shard"], [weight], bank[: len(bank) // 2], "lists a shard twice"),
        (["shard"], [weight, weight], bank * 2, "two of its tensors are named 'w'"),
        (
            ["shard"],
            [{"name": "b", "shape": [-5], "dtype": "float32"}, weight],
            bank[20:],
            "has the shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load(paths, weights, content)
    steps = {"quantization": {"dtype": "uint8", "scale": 0.5}}
    with pytest.raises(ValueError, match="without a scale"):
        load(["shard"], [weight | steps], bytes(HWIO.size))


@pytest.mark.parametrize("start", ['{"meta":{},', "\n  {", " " * 50 + "{"])
def test_models_of_tensorflow_js_however_they_begin(tmp_path, start):
    file = write_tfjs(tmp_path / "model", {NAME: HWIO})
    file.write_text(start + file.read_text()[1:])
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


def test_groups_of_tensorflow_js_and_half_precision(tmp_path):
    groups = []
    for number, (name, tensor) in enumerate(
        {"bias": np.ones(9, "f2"), NAME: HWIO.astype("f2")}.items()
    ):
        (tmp_path / f"group{number}.bin").write_bytes(tensor.tobytes())
        weight = {
            "name": name,
            "shape": tensor.shape,
            "dtype": "float32",
            "quantization": {"dtype": "float16"},
        }
        groups.append({"paths": [f"group{number}.bin"], "weights": [weight]})
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": groups}))
    kernel = linear_cnn.load_first_layer(tmp_path / "model.json").kernel
    np.testing.assert_array_equal(kernel, HWIO.astype("f2").astype(np.float32))


def test_weights_of_tensorflow_js_of_an_unknown_type(tmp_path):
    file = write_tfjs(tmp_path / "model", {NAME: HWIO})
    file.write_text(file.read_text().replace('"float32"', '"complex64"'))
    with pytest.raises(
        ValueError, match=r"'stem.weight' has the type complex64, which is not read"
    ):
        linear_cnn.load_first_layer(file)


def test_truncated_model_of_tensorflow_js(tmp_path):
    file = write_tfjs(tmp_path / "model", {"bias": np.ones(9, np.float32), NAME: HWIO})
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model.json.*truncated"):
            linear_cnn.load_first_layer(file)
    file.write_bytes(content)
    shard = file.with_name("group1-shard2of3.bin")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"group1-shard2of3.* have 575 bytes instead of 576"
    ):
        linear_cnn.load_first_layer(file)
    shard.unlink()
    with pytest.raises(
        ValueError, match=r"shard group1-shard2of3.bin is not beside it"
    ):
        linear_cnn.load_first_layer(file)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_shards_outside_of_the_folder(tmp_path, name):
    (tmp_path / "secret").write_bytes(HWIO.tobytes())
    file = write_tfjs(tmp_path / "model", {NAME: HWIO})
    weights = [{"name": NAME, "shape": list(HWIO.shape), "dtype": "float32"}]
    file.write_text(
        json.dumps({"weightsManifest": [{"paths": [name], "weights": weights}]})
    )
    with pytest.raises(ValueError, match="lies outside"):
        linear_cnn.load_first_layer(file)


def test_graphs_say_what_a_convolution_takes(tmp_path):
    file = write_tfjs(tmp_path / "model", {NAME: HWIO, "up": 2 * HWIO})
    model = json.loads(file.read_text())
    nodes = [
        {"name": NAME, "op": "Const"},
        {"name": "c", "op": "_FusedConv2D", "input": ["x", NAME, "bias"]},
        {"name": "t", "op": "Conv2DBackpropInput", "input": ["sizes", "up", "c"]},
    ]
    model["modelTopology"] = {"node": nodes}
    file.write_text(json.dumps(model))
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == NAME
    np.testing.assert_array_equal(layer.kernel, HWIO)
    model["modelTopology"] = {"model_config": {}}
    file.write_text(json.dumps(model))
    with pytest.raises(ValueError, match="several"):
        linear_cnn.load_first_layer(file)


def test_shards_that_are_pointers_of_git(tmp_path):
    file = write_tfjs(tmp_path / "model", {NAME: HWIO})
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    file.with_name("group1-shard2of3.bin").write_bytes(pointer)
    with pytest.raises(ValueError, match=r"shard2of3.bin: this is a Git LFS pointer"):
        linear_cnn.load_first_layer(file)
