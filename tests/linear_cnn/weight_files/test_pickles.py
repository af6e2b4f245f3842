"""Pickles that carry code, or would take for ever."""

import builtins
import collections
import os
import pickle
import pickletools
import struct
import sys
import types

import numpy as np
import pytest

import linear_cnn
from linear_cnn.weight_files import _pickle, _pytorch
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    Called,
    Persistent,
    described,
    pickled,
    write_legacy_stream,
    write_torch_zip,
)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 60 + b"Ns.",
        b"\x80\x02}(" + b")" + b"q\x00h\x00\x86" * 60 + b"Nu.",
        b"\x80\x04" + b")" + b"q\x00h\x00\x86" * 60 + b"\x8c\x01a\x93.",
        b"\x80\x02(" + b")" + b"q\x00h\x00\x86" * 60 + b"NX\x01\x00\x00\x000NK\x01tQ.",
    ],
)
def test_tuples_in_tuples_are_neither_hashed_nor_printed(tmp_path, content):
    """Either would take 2^60 steps."""
    file = write_torch_zip(tmp_path / "net.pth", content, {"0": OIHW.ravel()})
    refused = r" is truncated or damaged \(a pickle refers|: no tensor of this PyTorch"
    with pytest.raises(ValueError, match=rf"net\.pth({refused})"):
        linear_cnn.load_first_layer(file)


def test_names_that_grow_are_refused(tmp_path):
    content = {"x" * 600: {"y" * 600: 0}}
    with pytest.raises(ValueError, match="names are longer than 1000 characters"):
        linear_cnn.load_first_layer(
            write_torch_zip(tmp_path / "net.pth", pickled(content), {})
        )


def test_damaged_names_in_a_pickle_give_no_warning(tmp_path):
    content, storages = described({NAME: OIHW})
    file = write_torch_zip(
        tmp_path / "net.pth",
        pickled(content).replace(b"torch._utils", rb"torch.\utils"),
        storages,
    )
    with pytest.raises(ValueError, match=r"net.pth"):
        linear_cnn.load_first_layer(file)


MALICIOUS = {
    "system": lambda ran: Called(os.system, f"touch {ran.path}"),
    "eval": lambda ran: Called(builtins.eval, ran.code),
    "exec": lambda ran: Called(builtins.exec, ran.code),
    "getattr": lambda ran: Called(builtins.getattr, "text", "upper"),
    "nested": lambda ran: {"a": [(1, {"b": Called(os.system, f"touch {ran.path}")})]},
    "as a key": lambda ran: {Called(builtins.eval, ran.code): 1},
    "in a tensor": lambda ran: Called(
        sys.modules["torch._utils"]._rebuild_tensor_v2,
        Called(builtins.eval, ran.code),
        0,
        (1,),
        (1,),
    ),
    "in a dictionary": lambda ran: Called(
        collections.OrderedDict, [["w", Called(builtins.eval, ran.code)]]
    ),
    "a module": lambda ran: Called(builtins.__import__, "antigravity"),
    "a storage": lambda ran: Persistent(
        "storage", Called(builtins.eval, ran.code), "0", "cpu", 1
    ),
    "a number of NumPy": lambda ran: np.float64(3),
}


NO_TENSORS = ("in a tensor", "a storage")


def malicious(kind, ran):
    return MALICIOUS[kind](ran)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", MALICIOUS)
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, ran, legacy, kind, protocol):
    content, storages = described({NAME: OIHW}, legacy)
    content["epoch"] = malicious(kind, ran)
    write = write_legacy_stream if legacy else write_torch_zip
    file = write(tmp_path / "net.pth", pickled(content, protocol), storages)
    if kind in NO_TENSORS:
        with pytest.raises(ValueError, match=r"cannot be|storage of an unknown type"):
            linear_cnn.load_first_layer(file)
    else:
        np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)
    assert not ran.path.exists()


def test_the_malicious_pickles_would_run(tmp_path, ran):
    pickle.loads(pickled(malicious("system", ran)))
    assert ran.path.exists()


def test_instructions_that_tensors_do_not_need(tmp_path, ran):
    calls = {
        "its pickle uses STRING": (
            b"(S'" + ran.code.encode().replace(b"'", b'"') + b"'\nibuiltins\neval\n."
        ),
        "what is no class": b"\x80\x02X\x01\x00\x00\x001)\x81.",
        "its pickle uses EXT1": b"\x80\x02\x82\x01.",
        "calls what is no function": b"\x80\x02X\x04\x00\x00\x00eval)R.",
        "a pickle calls what is no function": b"\x80\x02ccollections\nOrderedDict\n]R.",
        "a pickle fills a _Global as if it were a dict": (
            b"\x80\x02ctorch\nFloatStorage\n}b."
        ),
        "a pickle fills a dict as if it were a list": b"\x80\x02}Na.",
        "damaged": b"\x80\x02}",
        "truncated or damaged": b"\x80\x02.",
        "is truncated or damaged": b"\x80\x02h\x07.",
        "truncated or": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        "no tensor of this PyTorch": b"\x80\x02}r\xff\xff\xff\xff.",
    }
    for message, content in calls.items():
        for file in (
            write_torch_zip(tmp_path / "net.pth", content),
            write_legacy_stream(tmp_path / "old.pth", content, {}),
        ):
            with pytest.raises(ValueError, match=f"{file.name}.*{message}"):
                linear_cnn.load_first_layer(file)
    for content in (
        b"(ibuiltins\neval\n.",
        b"(cbuiltins\neval\nX\x01\x00\x00\x001o.",
        b"(ccollections\nOrderedDict\no.",
        pickle.dumps(types.SimpleNamespace(), 2),
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02}X\x01\x00\x00\x00ac__main__\nA\n)\x81X\x01\x00\x00\x00bbs.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
    ):
        file = write_torch_zip(tmp_path / "net.pth", content)
        with pytest.raises(ValueError, match="holds no tensor with 4 axes"):
            linear_cnn.load_first_layer(file)
    assert not ran.path.exists()


def test_other_pickles_are_not_read(tmp_path, ran):
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(malicious("eval", ran)))
    with pytest.raises(ValueError, match=r"not one of torch.save, and is not read"):
        linear_cnn.load_first_layer(tmp_path / "net.pkl")
    assert not ran.path.exists()


def test_containers_that_hold_themselves(tmp_path):
    content, storages = described({NAME: OIHW})
    content = {"state": content}
    content["self"] = [content]
    layers = [content]
    for _ in range(60):  # 2^60 paths
        layers = [layers, layers]
    layer = linear_cnn.load_first_layer(
        write_torch_zip(tmp_path / "net.pth", pickled(layers), storages)
    )
    np.testing.assert_array_equal(layer.kernel, HWIO)


def test_pickles_that_are_far_too_large_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_pytorch, "_LARGEST_PICKLE", 1000)
    content, storages = described({NAME: OIHW})
    with pytest.raises(ValueError, match=r"net/data.pkl is far too large"):
        linear_cnn.load_first_layer(
            write_torch_zip(
                tmp_path / "net.pth", pickled([content, "x" * 1000]), storages
            )
        )
    file = write_torch_zip(tmp_path / "net.pth", pickled(content), storages)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}(X\x01\x00\x00\x00wNX\x01\x00\x00\x00wNu.",
        b"\x80\x02}X\x01\x00\x00\x00wNsX\x01\x00\x00\x00wNs.",
        b"\x80\x02ccollections\nOrderedDict\n"
        b"(](X\x01\x00\x00\x00wN\x86X\x01\x00\x00\x00wN\x86etR.",
    ],
)
def test_a_key_that_is_given_twice(tmp_path, content):
    """Python takes the last one."""
    file = write_torch_zip(tmp_path / "net.pth", content)
    with pytest.raises(ValueError, match="it gives the key 'w' twice"):
        linear_cnn.load_first_layer(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}(\x8a\x08" + b"\x7f" * 8 + b"Nu.", "uses a huge number"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00"
            + 2 * (b"(" + b"K\x01" * 70 + b"t")
            + b"tR.",
            "a tensor that cannot be",
        ),
    ],
)
def test_keys_and_shapes_that_would_take_for_ever(tmp_path, content, message):
    file = write_torch_zip(tmp_path / "net.pth", content)
    with pytest.raises(ValueError, match=message):
        linear_cnn.load_first_layer(file)


def test_instructions_are_counted(tmp_path, monkeypatch):
    content, storages = described({NAME: OIHW})
    file = write_torch_zip(tmp_path / "net.pth", pickled(content), storages)
    count = sum(1 for _ in pickletools.genops(pickled(content)))
    monkeypatch.setattr(_pickle, "_MOST_INSTRUCTIONS", count)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)
    monkeypatch.setattr(_pickle, "_MOST_INSTRUCTIONS", count - 1)
    with pytest.raises(ValueError, match=f"more than {count - 1} instructions"):
        linear_cnn.load_first_layer(file)
