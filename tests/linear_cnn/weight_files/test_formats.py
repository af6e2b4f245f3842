"""Every format from a file made here, and every fault."""

import json
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.flax import save_file as save_flax

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    FORMATS,
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    RANDOM,
    every_format,
    write_legacy,
    write_npz,
    write_safetensors,
    write_torch,
    written,
)


@every_format
def test_kernel_name_and_format(tmp_path, kind):
    layer = linear_cnn.load_first_layer(written(kind, tmp_path / "file"))
    np.testing.assert_array_equal(layer.kernel, HWIO)
    assert layer.kernel.dtype == np.float32
    assert layer.kernel.flags.c_contiguous
    assert (layer.name, layer.format) == (NAME, FORMATS[kind][1])


@every_format
def test_channels_of_bgr_are_reversed(tmp_path, kind):
    kernel = linear_cnn.load_first_layer(
        written(kind, tmp_path / "file"), channel_order="BGR"
    ).kernel
    np.testing.assert_array_equal(kernel, np.flip(HWIO, 2))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *[
            (kind, dtype)
            for kind in ("npz", "safetensors", "torch", "legacy torch", "onnx")
            for dtype in ("f2", "f8")
        ],
        ("graphdef", "f2"),
        ("graphdef", "f8"),
    ],
)
def test_other_floats(tmp_path, kind, dtype):
    kernel = linear_cnn.load_first_layer(
        written(kind, tmp_path / "file", {NAME: OIHW.astype(dtype)})
    ).kernel
    np.testing.assert_array_equal(kernel, HWIO.astype(dtype).astype(np.float32))
    assert kernel.dtype == np.float32


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_bfloat16(tmp_path, kind):
    weights = jnp.asarray(OIHW, jnp.bfloat16)
    if kind == "torch":
        file = write_torch(tmp_path / "file", {NAME: np.asarray(weights)})
    else:
        others = {"later": jnp.asarray(OTHERS["later"])}
        save_flax({NAME: weights, **others}, file := tmp_path / "file")
    kernel = linear_cnn.load_first_layer(file).kernel
    np.testing.assert_array_equal(
        kernel, HWIO.astype(ml_dtypes.bfloat16).astype(np.float32)
    )


def test_the_format_is_recognised_by_content(tmp_path):
    for suffix in (".npz", ".pth", ".onnx", ".json"):
        file = write_safetensors(tmp_path / f"net{suffix}", {NAME: OIHW, **OTHERS})
        assert linear_cnn.load_first_layer(str(file)).format == "safetensors"


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "net.npz", {NAME: OIHW, **OTHERS})
    np.testing.assert_array_equal(linear_cnn.load_first_layer("~/net.npz").kernel, HWIO)


def test_weights_that_are_too_large_for_single_precision(tmp_path):
    file = write_npz(tmp_path / "net.npz", {NAME: 1e300 * OIHW.astype(float), **OTHERS})
    with pytest.raises(ValueError, match=r"'stem.weight' hold NaN or infinite"):
        linear_cnn.load_first_layer(file)


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, kind, value):
    weights = OIHW.copy()
    weights[2, 1, 0, 2] = value
    with pytest.raises(ValueError, match=r"file.*'stem.weight' hold NaN or infinite"):
        linear_cnn.load_first_layer(written(kind, tmp_path / "file", {NAME: weights}))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *[
            (kind, dtype)
            for kind in ("npz", "safetensors", "onnx")
            for dtype in ("u1", "i4", "i8")
        ],
        *[(kind, "i4") for kind in ("torch", "legacy torch", "graphdef", "tfjs")],
    ],
)
def test_integers_without_a_scale(tmp_path, kind, dtype):
    file = written(kind, tmp_path / "file", {NAME: (10 * OIHW).astype(dtype)})
    with pytest.raises(
        ValueError, match=r"file.*'stem.weight' are u?int.* without a scale"
    ):
        linear_cnn.load_first_layer(file)


TRUNCATED = [kind for kind in FORMATS if kind != "tfjs"]


def ends_of_nodes(content):
    """Where the fields of a GraphDef end; all have a size of one or two bytes."""
    place = 0
    while place < len(content):
        size, place = content[place + 1], place + 2
        if size > 127:
            size, place = size - 128 + 128 * content[place], place + 1
        place += size
        if place < len(content):
            yield place


@pytest.mark.parametrize("kind", TRUNCATED)
def test_truncated_anywhere(tmp_path, kind):
    content = written(kind, tmp_path / "file").read_bytes()
    cut = tmp_path / "cut"
    # Behind the kernel a file of protobuf may end after each of its messages.
    allowed = [len(content) - 6] if kind.startswith("onnx") else []
    if kind == "graphdef":
        allowed = [end for end in ends_of_nodes(content) if end > len(OIHW.tobytes())]
    for length in {
        *range(80),
        *range(0, len(content), 7),
        *range(len(content) - 60, len(content)),
        *allowed,
    }:
        cut.write_bytes(content[:length])
        if length in allowed:
            np.testing.assert_array_equal(linear_cnn.load_first_layer(cut).kernel, HWIO)
            continue
        with pytest.raises(
            ValueError,
            match=f"(?s){cut}.*(truncated|no tensor of this|not one of torch.save)",
        ):
            linear_cnn.load_first_layer(cut)


@pytest.mark.parametrize(
    "write", [write_torch, write_legacy, write_npz, write_safetensors]
)
def test_truncated_behind_the_first_layer(tmp_path, write):
    file = write(tmp_path / "file", {NAME: OIHW, **OTHERS})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        linear_cnn.load_first_layer(file)


@every_format
def test_damaged_anywhere_gives_a_kernel_or_a_named_fault(tmp_path, kind):
    file = written(kind, tmp_path / "file")
    content = bytearray(file.read_bytes())
    for place in RANDOM.choice(len(content), min(len(content), 250), replace=False):
        damaged = content.copy()
        damaged[place] ^= 1 << int(RANDOM.integers(8))
        file.write_bytes(damaged)
        try:
            linear_cnn.load_first_layer(file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017


def test_unknown_files(tmp_path):
    file = tmp_path / "net.safetensors"
    hdf5, gzip = b"\x89HDF\r\n\x1a\n" + bytes(99), b"\x1f\x8b" + bytes(50)
    texts = (b"", b"PK", b"layer 1\n", b"[1, 2]", b"{}", b'{"name": "package"}')
    for content in (*texts, hdf5, gzip, bytes(200), b"\xff" * 200):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"{file}.*none of the formats safetensors"
        ):
            linear_cnn.load_first_layer(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", b"text")
    with pytest.raises(
        ValueError, match=r"a zip archive with a.txt is none of the formats"
    ):
        linear_cnn.load_first_layer(file)
    np.savez(tmp_path / "net.npz", w=OIHW)
    with zipfile.ZipFile(tmp_path / "net.npz", "a") as archive:
        archive.writestr("a.txt", b"text")
    with pytest.raises(
        ValueError, match=r"a zip archive with w.npy, a.txt is none of the formats"
    ):
        linear_cnn.load_first_layer(tmp_path / "net.npz")
    write_torch(file, {NAME: OIHW})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("code/data.pkl", b"another")
    with pytest.raises(ValueError, match=r"code/data.pkl is none of the formats"):
        linear_cnn.load_first_layer(file)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.pth does not exist"):
        linear_cnn.load_first_layer(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="this is a folder of no weights; give"):
        linear_cnn.load_first_layer(tmp_path)


def test_bad_arguments(tmp_path):
    file = write_npz(tmp_path / "net.npz", {NAME: OIHW})
    with pytest.raises(
        ValueError, match="layout must be 'OIHW', 'HWIO', 'OHWI' or None, got 'IOHW'"
    ):
        linear_cnn.load_first_layer(file, layout="IOHW")
    with pytest.raises(
        ValueError, match="channel_order must be 'RGB' or 'BGR', got 'GBR'"
    ):
        linear_cnn.load_first_layer(file, channel_order="GBR")


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)
PAGES = [b"<!DOCTYPE html>\n<title>Sign in</title>", b"\xef\xbb\xbf\n <HTML><body>"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "this is a Git LFS pointer, .* `git lfs pull` gets"),
        *[
            (page, "this is an HTML page, .* download the file itself")
            for page in PAGES
        ],
        (b'<?xml version="1.0"?><Error/>', "this is an XML document"),
        (b"\x1f\x8b" + bytes(50), "compressed by gzip .* none of the formats"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, .* none of the formats"),
    ],
)
def test_what_came_in_place_of_the_weights_is_named(tmp_path, content, message):
    file = tmp_path / "net.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        linear_cnn.load_first_layer(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("place", ["tensor", "field", "metadata"])
def test_a_key_that_safetensors_give_twice(tmp_path, place):
    """The reader of safetensors takes one of the two."""
    file = write_safetensors(tmp_path / "net", {NAME: OIHW, **OTHERS})
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size].decode().rstrip(), content[8 + size :]
    entry = json.dumps(json.loads(header)[NAME])
    twice = {
        "tensor": header[:-1] + f',"{NAME}":{entry}}}',
        "field": header.replace('"dtype"', '"dtype":"F32","dtype"', 1),
        "metadata": '{"__metadata__":{"a":"1","a":"2"},' + header[1:],
    }[place].encode()
    file.write_bytes(len(twice).to_bytes(8, "little") + twice + data)
    key = {"tensor": NAME, "field": "dtype", "metadata": "a"}[place]
    with pytest.raises(ValueError, match=f"it gives the key '{key}' twice"):
        linear_cnn.load_first_layer(file)
