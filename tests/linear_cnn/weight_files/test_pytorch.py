"""First layers from PyTorch's files."""

import collections
import pickletools
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

import linear_cnn
from linear_cnn.weight_files import _pytorch
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    STORAGE_NAMES,
    Called,
    Persistent,
    described,
    pickled,
    write_legacy,
    write_legacy_stream,
    write_torch,
    write_torch_zip,
)


@pytest.mark.parametrize("write", [write_torch, write_legacy])
def test_nested_state_dictionaries(tmp_path, write):
    file = write(
        tmp_path / "file",
        {NAME: OIHW},
        wrap=lambda state: {"epoch": 3, "nets": [None, {"state": state}]},
    )
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == f"nets.1.state.{NAME}"
    np.testing.assert_array_equal(layer.kernel, HWIO)


def test_archives_of_torch_that_are_compressed_are_refused(tmp_path):
    file = write_torch(tmp_path / "net.pth", {"w": OIHW})
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(
        ValueError, match=r"its zip archive is compressed, as torch\.save never does"
    ):
        linear_cnn.load_first_layer(file)
    assert _pytorch._LARGEST_PICKLE <= 2**25  # more instructions take minutes


@pytest.mark.parametrize("write", [write_torch, write_legacy])
def test_tensors_of_every_type_beside_the_first_layer(tmp_path, write):
    others = {
        name: np.ones(3, ml_dtypes.bfloat16 if name == "bfloat16" else name)
        for name in STORAGE_NAMES
    }
    layer = linear_cnn.load_first_layer(
        write(tmp_path / "file", {**others, NAME: OIHW})
    )
    np.testing.assert_array_equal(layer.kernel, HWIO)
    with pytest.raises(ValueError, match=r"named 'conv1'; it holds 'stem.weight'"):
        linear_cnn.load_first_layer(tmp_path / "file", "conv1")


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_values_and_tuples_beside_the_tensors(tmp_path, protocol):
    content, storages = described({NAME: OIHW})
    plain = {
        "epoch": 300,
        "seed": -(2**40),
        "state": 2**4000,
        "rate": 0.1,
        "amp": True,
        "half": False,
        "best": None,
        5: (1, "two", (3, 4), ()),
        "losses": [[0.5], [1, 2, 3, 4], []],
    }
    if protocol == 4:
        plain |= {"short": b"ab", "long": bytes(300)}
    file = write_torch_zip(
        tmp_path / "net.pth", pickled((plain, content), protocol), storages
    )
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == f"1.{NAME}"
    np.testing.assert_array_equal(layer.kernel, HWIO)


@pytest.mark.parametrize("protocol", [2, 4])
def test_networks_of_many_layers(tmp_path, protocol):
    content, storages = described(
        {**{f"bias{n}": np.zeros(2, np.float32) for n in range(100)}, NAME: OIHW}
    )
    last = ["the 256th thing that is referred to, or later"]
    file = write_torch_zip(
        tmp_path / "net.pth", pickled([content, last, last], protocol), storages
    )
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == f"0.{NAME}"
    np.testing.assert_array_equal(layer.kernel, HWIO)


def texts_of_python_2(content):
    """A pickle whose texts are written as Python 2 did, in the short and the long way
    in turn."""
    parts, short = [], True
    places = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    for (instruction, argument, place), end in zip(
        pickletools.genops(content), places[1:], strict=True
    ):
        if instruction.name == "BINUNICODE":
            size = bytes([len(argument)]) if short else struct.pack("<i", len(argument))
            parts.append((b"U" if short else b"T") + size + argument.encode())
            short = not short
        else:
            parts.append(content[place:end])
    return b"".join(parts)


def test_tensors_as_early_versions_of_torch_describe_them(tmp_path):
    torch, utils = sys.modules["torch"], sys.modules["torch._utils"]
    storage = Persistent("storage", torch.FloatStorage, "0", "cpu", OIHW.size, None)
    view = Called(
        utils._rebuild_tensor, storage, 0, Called(torch.Size, OIHW.shape), (27, 9, 3, 1)
    )
    content = texts_of_python_2(
        pickled(Called(collections.OrderedDict, [["epoch", 3], [NAME, view]]))
    )
    layer = linear_cnn.load_first_layer(
        write_legacy_stream(tmp_path / "net.pth", content, {"0": OIHW.ravel()})
    )
    assert layer.name == NAME
    np.testing.assert_array_equal(layer.kernel, HWIO)


def test_zip_archives_of_torch_that_say_no_byte_order(tmp_path):
    content, storages = described({NAME: OIHW})
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(content))
        archive.writestr("archive/data/0", storages["0"].tobytes())
        archive.writestr("archive/version", b"3")
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(tmp_path / "net.pth").kernel, HWIO
    )


def test_storages_in_another_order_than_their_tensors(tmp_path):
    content, storages = described({NAME: OIHW, **OTHERS}, legacy=True)
    backwards = dict(reversed(storages.items()))
    file = write_legacy_stream(tmp_path / "net.pth", pickled(content), backwards)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (130, (5, 3, 3, 3), (27, 9, 3, 1), "outside of its storage"),
        (3, (5, 3, 3, 3), (27, 9, 3, 1), "outside of its storage"),
        (0, (5, 3, 3, 3), (60, 9, 3, 1), "outside of its storage"),
        (0, (5, 3, 3, 3), (27, 9, 3), "damaged"),
        (0, (2**20, 3, 3, 3), (0, 0, 0, 0), "no tensor of this"),
        (-1, (5, 3, 3, 3), (27, 9, 3, 1), "a tensor that cannot be"),
        (0, (5, 3, 3, 3), (-27, 9, 3, 1), "a tensor that cannot be"),
        (0, (5, 3, -3, -3), (27, 9, 3, 1), "a tensor that cannot be"),
        (0, (5.0, 3, 3, 3), (27, 9, 3, 1), "a tensor that cannot be"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_outside_of_their_storage(
    tmp_path, legacy, offset, shape, strides, message
):
    identifier = (
        "storage",
        sys.modules["torch"].FloatStorage,
        "0",
        "cpu",
        137,
        *([None] if legacy else []),
    )
    view = Called(
        sys.modules["torch._utils"]._rebuild_tensor_v2,
        Persistent(*identifier),
        offset,
        shape,
        strides,
    )
    write = write_legacy_stream if legacy else write_torch_zip
    file = write(
        tmp_path / "net.pth", pickled({NAME: view}), {"0": np.zeros(137, np.float32)}
    )
    with pytest.raises(ValueError, match=f"net.pth.*{message}"):
        linear_cnn.load_first_layer(file)


@pytest.mark.parametrize(("change", "size"), [(-1, 24), (1, 32)])
def test_storages_of_another_size_than_described(tmp_path, change, size):
    content, storages = described({NAME: OIHW, **OTHERS}, legacy=True)
    storages["1"] = np.zeros(7 + change, np.float32)  # of a bias, which is not read
    with pytest.raises(ValueError, match="the data of storage 1 is not whole"):
        linear_cnn.load_first_layer(
            write_legacy_stream(tmp_path / "old.pth", pickled(content), storages)
        )
    with pytest.raises(ValueError, match=rf"storage 1 has {size} bytes, not 7 numbers"):
        linear_cnn.load_first_layer(
            write_torch_zip(tmp_path / "net.pth", pickled(content), storages)
        )
    del storages["1"]
    with pytest.raises(ValueError, match=r"damaged.*the data of a storage is missing"):
        linear_cnn.load_first_layer(
            write_legacy_stream(tmp_path / "old.pth", pickled(content), storages)
        )
    with pytest.raises(ValueError, match=r"damaged.*net/data/1"):
        linear_cnn.load_first_layer(
            write_torch_zip(tmp_path / "net.pth", pickled(content), storages)
        )


def view_of(*identifier):
    arguments = (Persistent(*identifier), 0, (5, 3, 3, 3), (27, 9, 3, 1))
    return Called(sys.modules["torch._utils"]._rebuild_tensor_v2, *arguments)


@pytest.mark.parametrize(
    ("kind", "key", "count", "rest"),
    [
        ("storage", "0", 135, [("1", 0, 135)]),  # a part of another
        ("module", "0", 135, []),
        ("storage", 0, 135, []),
        ("storage", "0", 135.0, []),
    ],
)
def test_storages_that_are_described_in_another_way_are_refused(
    tmp_path, kind, key, count, rest
):
    content = pickled(
        {
            NAME: view_of(
                kind, sys.modules["torch"].FloatStorage, key, "cpu", count, *rest
            )
        }
    )
    for write in (write_legacy_stream, write_torch_zip):
        file = write(tmp_path / "net.pth", content, {"0": OIHW.ravel()})
        with pytest.raises(ValueError, match=rf"'{kind}' in an unknown way"):
            linear_cnn.load_first_layer(file)


def test_storages_that_are_described_twice_are_refused(tmp_path):
    torch = sys.modules["torch"]
    views = {
        NAME: view_of("storage", torch.FloatStorage, "0", "cpu", 135),
        "again": view_of("storage", torch.IntStorage, "0", "cpu", 135),
    }
    for write in (write_legacy_stream, write_torch_zip):
        file = write(tmp_path / "net.pth", pickled(views), {"0": OIHW.ravel()})
        with pytest.raises(ValueError, match="storage 0 is described twice"):
            linear_cnn.load_first_layer(file, NAME)


def test_big_endian_files_of_torch(tmp_path):
    content, storages = described({NAME: OIHW}, legacy=True)
    file = write_legacy_stream(
        tmp_path / "net.pth", pickled(content), storages, little_endian=False
    )
    with pytest.raises(ValueError, match="big-endian"):
        linear_cnn.load_first_layer(file)
    content, storages = described({NAME: OIHW})
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("net/data.pkl", pickled(content))
        archive.writestr("net/byteorder", b"big")
    with pytest.raises(ValueError, match="big-endian"):
        linear_cnn.load_first_layer(tmp_path / "net.zip")
