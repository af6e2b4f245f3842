"""Checkpoints of several files: shards, and ONNX with external data."""

import json

import numpy as np
import pytest

import linear_cnn
from linear_cnn.weight_files import _sharded
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    field,
    onnx_model,
    onnx_node,
    write_npz,
    write_safetensors,
    write_torch,
)

SHARDS = {"safetensors": write_safetensors, "bin": write_torch}
INDEX = {
    "safetensors": "model.safetensors.index.json",
    "bin": "pytorch_model.bin.index.json",
}


def sharded(folder, end, index=True):
    """As Hugging Face's libraries write it."""
    folder.mkdir(exist_ok=True)
    parts = ({"later": OTHERS["later"]}, {NAME: OIHW, "bias": OTHERS["bias"]})
    places = {}
    for number, tensors in enumerate(parts, 1):
        name = f"model-{number:05d}-of-00002.{end}"
        SHARDS[end](folder / name, tensors)
        places |= dict.fromkeys(tensors, name)
    described = {"metadata": {"total_size": 1}, "weight_map": places}
    if index:
        (folder / INDEX[end]).write_text(json.dumps(described, indent=2))
    (folder / "config.json").write_text("{}")
    return folder / INDEX[end]


@pytest.mark.parametrize("end", SHARDS)
def test_shards(tmp_path, end):
    index = sharded(tmp_path / "net", end)
    sharded(tmp_path / "bare", end, index=False)
    for path in (index, index.parent, tmp_path / "bare"):
        layer = linear_cnn.load_first_layer(path)
        np.testing.assert_array_equal(layer.kernel, HWIO)
        assert layer.name == NAME
        assert layer.format == {"bin": "PyTorch"}.get(end, end)
    (tmp_path / f"bare/model-00001-of-00002.{end}").unlink()
    with pytest.raises(ValueError, match=r"bare: shard 1 of 2 of model\.\w+ is not th"):
        linear_cnn.load_first_layer(tmp_path / "bare")


def test_shards_in_a_cache_that_links_to_them(tmp_path):
    index = sharded(tmp_path / "snapshot", "safetensors")
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(index.parent.iterdir())):
        file.rename(tmp_path / f"blobs/{number}")
        file.symlink_to(f"../blobs/{number}")
    np.testing.assert_array_equal(linear_cnn.load_first_layer(index).kernel, HWIO)
    layer = linear_cnn.load_first_layer(index.parent)
    np.testing.assert_array_equal(layer.kernel, HWIO)


def test_indices_that_do_not_hold(tmp_path, monkeypatch):
    index = sharded(tmp_path / "net", "safetensors")
    write_npz(tmp_path / "secret", {NAME: OIHW, **OTHERS})
    (index.parent / "link").symlink_to("../secret")
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    for places, message in (
        ({NAME: "../secret"}, "'../secret' lies outside of its folder"),
        ({NAME: str(tmp_path / "secret")}, "lies outside of its folder"),
        ({NAME: "link"}, "'link' lies outside of its folder"),
        ({NAME: "none.bin"}, "shard none.bin is not beside it; put all"),
        ({NAME: 3}, "name of a shard is no text"),
        ({NAME: first, "later": first}, f"'{NAME}' lies in {first}, where it does not"),
        ({NAME: index.name}, "of its shard .*JSON in the place of a shard"),
        ({}, "it names no shard"),
        ([NAME], "weight_map is no dictionary"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(ValueError, match=f"index.json( is|: ).*{message}"):
            linear_cnn.load_first_layer(index)
    write_npz(index.parent / "other.npz", {"later": OTHERS["later"]})
    both = {"weight_map": {NAME: second, "later": "other.npz"}}
    index.write_text(json.dumps(both))
    with pytest.raises(ValueError, match="its shards are safetensors and npz"):
        linear_cnn.load_first_layer(index)
    monkeypatch.setattr(_sharded, "_MOST_SHARDS", 1)
    with pytest.raises(ValueError, match="more than 1 shards"):
        linear_cnn.load_first_layer(index)


def test_folders_of_weights(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {NAME: OIHW, **OTHERS})
    (tmp_path / "README.md").write_text("text")
    layer = linear_cnn.load_first_layer(tmp_path)
    np.testing.assert_array_equal(layer.kernel, HWIO)
    write_torch(tmp_path / "pytorch_model.bin", {NAME: OIHW, **OTHERS})
    several = r"several files of weights, model.safetensors, pytorch_model.bin; give"
    with pytest.raises(ValueError, match=several):
        linear_cnn.load_first_layer(tmp_path)
    sharded(tmp_path / "two", "bin")
    sharded(tmp_path / "two", "safetensors")
    with pytest.raises(ValueError, match=r"files of weights, model.safeten"):
        linear_cnn.load_first_layer(tmp_path / "two")
    (tmp_path / "two" / INDEX["bin"]).unlink()
    (tmp_path / "two" / INDEX["safetensors"]).unlink()
    with pytest.raises(ValueError, match=r"several checkpoints; keep one: model.b"):
        linear_cnn.load_first_layer(tmp_path / "two")


def write_external(folder, location="net.onnx.data", **where):
    """Two tensors, as onnx.save_model(save_as_external_data=True) writes them."""
    content, graph = bytes(64), b""
    for name, tensor in {"bias": OTHERS["bias"], "w": OIHW}.items():
        numbers = tensor.tobytes()
        entries = {"location": location, "offset": len(content), "length": len(numbers)}
        entries |= where if name == "w" else {}
        content += numbers
        external = b"".join(
            field(13, field(1, key.encode()) + field(2, str(value).encode()))
            for key, value in entries.items()
            if value is not None
        )
        axes = b"".join(field(1, axis) for axis in tensor.shape)
        head = axes + field(2, 1) + field(8, name.encode())
        graph += field(5, head + external + field(14, 1))
    graph += onnx_node("Conv", ["input", "w", "bias"], "output")
    (folder / "net.onnx.data").write_bytes(content)
    (folder / "net.onnx").write_bytes(onnx_model(graph))
    return folder / "net.onnx"


def test_onnx_with_external_data(tmp_path):
    layer = linear_cnn.load_first_layer(write_external(tmp_path))
    assert (layer.name, layer.format) == ("w", "ONNX")
    np.testing.assert_array_equal(layer.kernel, HWIO)
    # No length is said: as much as the tensor takes.
    layer = linear_cnn.load_first_layer(write_external(tmp_path, length=None))
    np.testing.assert_array_equal(layer.kernel, HWIO)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"net\.onnx: its file of weights net\.onn"):
        linear_cnn.load_first_layer(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"location": "../net.onnx.data"}, "lies outside"),
        ({"location": "/etc/hostname"}, "lies outside"),
        ({"location": "link"}, "lies outside"),
        ({"location": ""}, "not beside it"),
        ({"location": None}, "not beside it"),
        ({"offset": 85}, "does not hold the 540 bytes"),
        ({"offset": -1}, "does not hold the 540 bytes"),
        ({"offset": 10**30}, "does not hold the 540 bytes"),
        ({"length": 539}, "does not hold the 540 bytes"),
        ({"offset": "x"}, "truncated or damaged"),
    ],
)
def test_external_data_that_is_not_there(tmp_path, where, message):
    (tmp_path / "net").mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    (tmp_path / "net/link").symlink_to("../secret")
    file = write_external(tmp_path / "net", **where)
    with pytest.raises(ValueError, match=message):
        linear_cnn.load_first_layer(file)
