"""Checkpoints of PyTorch that hold more than tensors in plain containers."""

import argparse
import collections
import datetime
import enum
import pathlib
import sys
import types
import zipfile

import numpy as np
import pytest

import linear_cnn
from linear_cnn.weight_files import _pickle
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    OTHERS,
    Called,
    Persistent,
    described,
    pickled,
    write_legacy_stream,
    write_torch_zip,
)


class Phase(enum.Enum):
    TRAIN = 1


class Config(dict):
    pass


class Module:
    """Pickled as torch.nn.Module: a new object, and then its attributes."""

    def __init__(self, modules=None, **parameters):
        self.training = True
        self._parameters = collections.OrderedDict(parameters)
        self._buffers = collections.OrderedDict()
        self._modules = collections.OrderedDict(modules or {})


UNUSED = {
    "args": lambda: argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
    "best": lambda: np.float64(0.9),
    "epoch": lambda: np.int64(3),
    "history": lambda: np.arange(6.0).reshape(2, 3),
    "counts": lambda: collections.defaultdict(list, {"a": [1, 2]}),
    "classes": lambda: {"cat", "dog"},
    "frozen": lambda: frozenset({1, 2}),
    "when": lambda: datetime.datetime(2024, 5, 6),
    "phase": lambda: Phase.TRAIN,
    "config": lambda: Config(width=3),
    "by size": lambda: {(32, 32): 1, Phase.TRAIN: 2, np.int64(2): 3},
    "recent": lambda: collections.deque([0.1, 0.2], maxlen=5),
    "counter": lambda: collections.Counter("aab"),
    "complex": lambda: 1 + 2j,
    "ended": lambda: slice(1, 2),
    "kind": lambda: np.dtype("f4"),
    "simple": lambda: types.SimpleNamespace(a=bytearray(b"x")),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("write", [write_torch_zip, write_legacy_stream])
def test_objects_beside_the_tensors(tmp_path, write, protocol):
    state, storages = described({NAME: OIHW}, write is write_legacy_stream)
    content = {name: make() for name, make in UNUSED.items()} | {"state": state}
    file = write(tmp_path / "net.pth", pickled(content, protocol), storages)
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == f"state.{NAME}"
    np.testing.assert_array_equal(layer.kernel, HWIO)


@pytest.mark.parametrize(
    ("hold", "name"),
    [
        (lambda state: argparse.Namespace(model=state), f"model.{NAME}"),
        (lambda state: collections.defaultdict(dict, {"a": state}), f"a.{NAME}"),
        (lambda state: Config(net=state), f"net.{NAME}"),
        (lambda state: {Phase.TRAIN: state}, f"<{__name__}.Phase 0>.{NAME}"),
        (lambda state: {(1, 2): 0, "b": state}, f"b.{NAME}"),
        (lambda state: collections.deque([state]), f"0.{NAME}"),
    ],
)
def test_tensors_in_objects_are_found(tmp_path, hold, name):
    """Were they not, what an optimiser keeps of the first layer could pass for it."""
    state, storages = described({NAME: OIHW})
    file = write_torch_zip(tmp_path / "net.pth", pickled(hold(state)), storages)
    layer = linear_cnn.load_first_layer(file)
    np.testing.assert_array_equal(layer.kernel, HWIO)
    if "Phase" in name:
        assert layer.name.endswith(f".Phase 0>.{NAME}")
    else:
        assert layer.name.endswith(name)


def test_a_whole_module(tmp_path):
    state, storages = described({"w": OIHW, "v": OTHERS["later"]})
    convolutions = [Module(weight=state[key], bias=None) for key in ("w", "v")]
    block = Module({"conv": convolutions[0]})
    network = Module({"stem": block, "later": convolutions[1]})
    momentum = {"state": {0: {"momentum_buffer": state["w"]}}}
    file = tmp_path / "net.pth"
    write_torch_zip(file, pickled(network), storages)
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == "stem.conv.weight"
    np.testing.assert_array_equal(layer.kernel, HWIO)
    content = {"model": network, "optimizer": momentum}
    write_torch_zip(file, pickled(content), storages)
    with pytest.raises(ValueError, match=r"'model.stem.conv.weight'.*momentum_buffer"):
        linear_cnn.load_first_layer(file)


def test_torchscript(tmp_path):
    state, storages = described({"w": OIHW})
    body = pickled(Module(weight=state["w"])).replace(
        f"c{__name__}\nModule\n".encode(), b"c__torch__.net\nConv\n"
    )
    file = tmp_path / "net.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", body)
        archive.writestr("net/code/net.py", b"x" * 300, zipfile.ZIP_DEFLATED)
        archive.writestr("net/constants.pkl", pickled(()))
        archive.writestr("net/byteorder", b"little")
        archive.writestr("net/data/0", storages["0"].tobytes())
    layer = linear_cnn.load_first_layer(file)
    assert (layer.name, layer.format) == ("weight", "PyTorch")
    np.testing.assert_array_equal(layer.kernel, HWIO)


def function(module, name, *arguments):
    """A call of a function that torch has and this test writes the name of."""

    def made(*arguments):
        pytest.fail("called")

    made.__module__, made.__name__, made.__qualname__ = module, name, name
    setattr(sys.modules[module], name, made)
    return Called(made, *arguments)


def test_tensors_with_attributes(tmp_path, monkeypatch):
    """Such as torch writes of a parameter that somebody gave an attribute."""
    modules = {name: types.ModuleType(name) for name in ("torch._tensor", "torch.nn")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    state, storages = described({"w": OIHW})
    weight = state["w"].arguments[0]
    rebuild, arguments = weight.function, weight.arguments
    torch = sys.modules["torch"]
    torch.Tensor = type("Tensor", (), {"__module__": "torch"})
    modules["torch.nn"].Own = type("Own", (), {"__module__": "torch.nn"})
    for kind, message in ((torch.Tensor, None), (modules["torch.nn"].Own, "nn.Own")):
        with_type = function(
            "torch._tensor", "_rebuild_from_type_v2", rebuild, kind, arguments, {}
        )
        file = write_torch_zip(
            tmp_path / "net.pth", pickled({"w": with_type}), storages
        )
        if message:
            with pytest.raises(ValueError, match=rf"'w' is not stored .*{message}"):
                linear_cnn.load_first_layer(file)
        else:
            kernel = linear_cnn.load_first_layer(file).kernel
            np.testing.assert_array_equal(kernel, HWIO)
    with_state = function(
        "torch._utils", "_rebuild_parameter_with_state", weight, True, {}, {"lr": 1}
    )
    file = write_torch_zip(tmp_path / "net.pth", pickled({"w": with_state}), storages)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


def test_tensors_that_a_function_would_make_are_not_taken_for_filters(tmp_path):
    state, storages = described({"w": OIHW})
    weight = state["w"].arguments[0]
    quantised = function("torch._utils", "_rebuild_qtensor", *weight.arguments, (0, 1))
    masked = function("torch._utils", "_masked", weight, 1)
    for made, name in ((quantised, "w"), (masked, "w.0")):
        file = write_torch_zip(tmp_path / "net.pth", pickled({"w": made}), storages)
        with pytest.raises(ValueError, match=rf"'{name}' is not stored as .*plain"):
            linear_cnn.load_first_layer(file)
        # They count as candidates beside another.
        content = pickled({"w": made, "b": weight})
        file = write_torch_zip(tmp_path / "net.pth", content, storages)
        with pytest.raises(ValueError, match=f"several .*'{name}'"):
            linear_cnn.load_first_layer(file)
        kernel = linear_cnn.load_first_layer(file, "b").kernel
        np.testing.assert_array_equal(kernel, HWIO)


def test_storages_of_numbers_that_are_no_weights(tmp_path):
    """Of a complex window, say."""
    torch = sys.modules["torch"]
    torch.ComplexFloatStorage = type("ComplexFloatStorage", (), {"__module__": "torch"})
    state, storages = described({NAME: OIHW})
    window = np.ones(4, np.complex64)
    storage = Persistent("storage", torch.ComplexFloatStorage, "window", "cpu", 4)
    rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
    state["window"] = Called(rebuild, storage, 0, (4,), (1,), False, {})
    file = write_torch_zip(
        tmp_path / "net.pth", pickled(state), storages | {"window": window}
    )
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


def test_names_of_classes_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(_pickle, "_MOST_GLOBALS", 3)
    content = b"\x80\x02(" + b"".join(b"cm\nN%d\n" % n for n in (1, 2, 3, 1, 4)) + b"t."
    with pytest.raises(ValueError, match="more than 3 functions and classes"):
        linear_cnn.load_first_layer(write_torch_zip(tmp_path / "net.pth", content))
