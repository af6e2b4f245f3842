"""First layers from files of weights: every format from a file made here, every fault,
and pickles that carry code."""

import builtins
import collections
import io
import json
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import types
import warnings
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.flax import save_file as save_flax
from safetensors.numpy import save_file

import linear_cnn
from linear_cnn.weight_files import _pytorch

RANDOM = np.random.default_rng(3)
HWIO = RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32)
OIHW = np.ascontiguousarray(HWIO.transpose(3, 2, 0, 1))
OTHERS = {  # no first layer, in any layout
    "bias": np.zeros(5, np.float32),
    "later": RANDOM.normal(size=(8, 5, 3, 3)).astype(np.float32),
    "mean": np.ones((1, 3, 1, 1), np.float32),
    "count": np.array(7, np.int64),
}
NAME = "stem.weight"


# --- files of each format, written by hand ---


def write_npz(path, tensors):
    with path.open("wb") as file:  # whatever its suffix
        np.savez(file, **tensors)
    return path


def write_safetensors(path, tensors):
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path
    )
    return path


STORAGE_NAMES = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "bfloat16": "BFloat16",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
    "b1": "Bool",
}


class Persistent:
    """Pickled as a reference to a storage, as torch.save does."""

    def __init__(self, *identifier):
        self.identifier = identifier


class TorchPickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identifier if isinstance(value, Persistent) else None


class Called:
    """Pickled as a call of `function`; and with attributes, as a state dictionary
    has."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture(autouse=True)
def torch_names(monkeypatch):
    """Modules of torch's names, so that Python's own pickler writes references to
    them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in [
        (torch, ["Size", *(f"{name}Storage" for name in STORAGE_NAMES.values())]),
        (utils, ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"]),
    ]:
        for name in names:

            def function(*arguments):
                pytest.fail("called")

            function.__name__ = function.__qualname__ = name
            function.__module__ = module.__name__
            setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return torch, utils


def described(tensors, legacy=False, wrap=lambda state: state):
    """The content of a torch.save, and its storages by their keys."""
    torch, utils = sys.modules["torch"], sys.modules["torch._utils"]
    state, storages = collections.OrderedDict(), {}
    for key, (name, tensor) in enumerate(tensors.items()):
        kind = (
            "bfloat16" if tensor.dtype == ml_dtypes.bfloat16 else tensor.dtype.str[1:]
        )
        storage = getattr(torch, f"{STORAGE_NAMES[kind]}Storage")
        # The storage begins two numbers before the tensor, which lies transposed in it.
        flat = np.concatenate([np.zeros(2, tensor.dtype), tensor.T.ravel()])
        strides = tuple(np.cumprod([1, *tensor.shape])[:-1].tolist())
        identifier = (
            "storage",
            storage,
            str(key),
            "cuda:0",
            flat.size,
            *([None] if legacy else []),
        )
        arguments = (
            Persistent(*identifier),
            2,
            tensor.shape,
            strides,
            False,
            collections.OrderedDict(),
        )
        state[name] = Called(utils._rebuild_tensor_v2, *arguments)
        storages[str(key)] = flat
    first = next(iter(state))
    state[first] = Called(
        utils._rebuild_parameter, state[first], True, collections.OrderedDict()
    )
    state._metadata = {"version": 1}
    return wrap(state), storages


def pickled(value, protocol=2):
    stream = io.BytesIO()
    TorchPickler(stream, protocol).dump(value)
    return stream.getvalue()


def write_torch(path, tensors, protocol=2, **options):
    content, storages = described(tensors, **options)
    return write_torch_zip(path, pickled(content, protocol), storages)


def write_torch_zip(path, content, storages=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/byteorder", b"little")
        for key, numbers in (storages or {}).items():
            archive.writestr(f"net/data/{key}", numbers.tobytes())
    return path


def write_legacy(path, tensors, protocol=2, **options):
    content, storages = described(tensors, legacy=True, **options)
    return write_legacy_stream(path, pickled(content, protocol), storages, protocol)


def write_legacy_stream(path, content, storages, protocol=2, little_endian=True):
    machine = {
        "protocol_version": 1001,
        "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4},
    }
    head = [
        pickled(value, protocol) for value in (0x1950A86A20F9469CFC6C, 1001, machine)
    ]
    data = [
        struct.pack("<q", numbers.size) + numbers.tobytes()
        for numbers in storages.values()
    ]
    path.write_bytes(
        b"".join([*head, content, pickled(list(storages), protocol), *data])
    )
    return path


def varint(number):
    number &= 2**64 - 1
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number, value):
    """One field of a protobuf message: an integer, or bytes (texts, messages, packed
    numbers)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


ONNX_TYPES = {"f4": 1, "u1": 2, "i1": 3, "i4": 6, "i8": 7, "f2": 10, "f8": 11}


def onnx_tensor(name, tensor, packed=False):
    axes = b"".join(field(1, axis) for axis in tensor.shape)
    content = field(4, tensor.tobytes()) if packed else field(9, tensor.tobytes())
    return (
        axes
        + field(2, ONNX_TYPES[tensor.dtype.str[1:]])
        + field(8, name.encode())
        + content
    )


def write_onnx(path, tensors, packed=False, constants=False):
    node = field(1, b"input") + field(2, b"output") + field(4, b"Conv")
    graph = field(1, node) + field(2, b"graph")
    for name, tensor in tensors.items():
        if constants:
            attribute = (
                field(1, b"value")
                + field(5, onnx_tensor("", tensor, packed))
                + field(20, 4)
            )
            graph += field(
                1, field(2, name.encode()) + field(4, b"Constant") + field(5, attribute)
            )
        else:
            graph += field(
                5, onnx_tensor(name, tensor, packed and tensor.dtype == np.float32)
            )
    opset = field(1, b"") + field(2, 13)
    path.write_bytes(
        field(1, 8) + field(2, b"by hand") + field(7, graph) + field(8, opset)
    )
    return path


GRAPH_TYPES = {"f4": 1, "f8": 2, "i4": 3, "u1": 4, "i8": 9, "f2": 19}


def graph_tensor(tensor, numbers=None):
    shape = b"".join(field(2, field(1, axis)) for axis in tensor.shape)
    content = field(4, tensor.tobytes()) if numbers is None else field(5, numbers)
    return field(1, GRAPH_TYPES[tensor.dtype.str[1:]]) + field(2, shape) + content


def write_graph(path, tensors, numbers=None):
    nodes = field(1, field(1, b"input") + field(2, b"Placeholder"))
    for name, tensor in tensors.items():
        value = field(1, b"value") + field(2, field(8, graph_tensor(tensor, numbers)))
        dtype = field(1, b"dtype") + field(2, field(6, 1))
        nodes += field(
            1,
            field(1, name.encode())
            + field(2, b"Const")
            + field(5, dtype)
            + field(5, value),
        )
    nodes += field(
        1,
        field(1, b"conv")
        + field(2, b"Conv2D")
        + field(3, b"input")
        + field(3, NAME.encode()),
    )
    path.write_bytes(nodes + field(4, field(1, 21)))
    return path


def write_tfjs(path, tensors, quantized=None, cuts=(100, 300)):
    """model.json beside three shards; `quantized` is None or the dtype of the stored
    integers."""
    path.mkdir()
    weights, content = [], b""
    for name, tensor in tensors.items():
        weight = {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": {"f": "float32", "i": "int32"}[tensor.dtype.kind],
        }
        if quantized and tensor.dtype.kind == "f":
            low, scale = (
                float(tensor.min()),
                float(np.ptp(tensor)) / np.iinfo(quantized).max or 1.0,
            )
            weight["quantization"] = {
                "dtype": np.dtype(quantized).name,
                "min": low,
                "scale": scale,
            }
            content += (
                np.round((tensor.astype(float) - low) / scale)
                .astype(quantized)
                .tobytes()
            )
        else:
            content += tensor.astype(
                "<f4" if tensor.dtype.kind == "f" else "<i4"
            ).tobytes()
        weights.append(weight)
    shards = [content[slice(*ends)] for ends in [(0, cuts[0]), cuts, (cuts[1], None)]]
    names = [f"group1-shard{n}of3.bin" for n in (1, 2, 3)]
    for name, shard in zip(names, shards, strict=True):
        (path / name).write_bytes(shard)
    model = {
        "format": "layers-model",
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    (path / "model.json").write_text(json.dumps(model))
    return path / "model.json"


# by format: how it is written, its name, its layout
FORMATS = {
    "npz": (write_npz, "npz", "OIHW"),
    "npz, HWIO": (write_npz, "npz", "HWIO"),
    "safetensors": (write_safetensors, "safetensors", "OIHW"),
    "safetensors, HWIO": (write_safetensors, "safetensors", "HWIO"),
    "torch": (write_torch, "PyTorch", "OIHW"),
    "torch, protocol 4": (
        lambda *args: write_torch(*args, protocol=4),
        "PyTorch",
        "OIHW",
    ),
    "legacy torch": (write_legacy, "PyTorch before 1.6", "OIHW"),
    "onnx": (write_onnx, "ONNX", "OIHW"),
    "onnx, packed floats": (
        lambda *args: write_onnx(*args, packed=True),
        "ONNX",
        "OIHW",
    ),
    "onnx, constant nodes": (
        lambda *args: write_onnx(*args, constants=True),
        "ONNX",
        "OIHW",
    ),
    "graphdef": (write_graph, "TensorFlow GraphDef", "HWIO"),
    "tfjs": (write_tfjs, "TensorFlow.js", "HWIO"),
}
every_format = pytest.mark.parametrize("kind", FORMATS)


def written(kind, path, tensors=None, others=OTHERS):
    """A file with the kernel, or other tensors, in the layout of its format; `tensors`
    are given as OIHW."""
    write, _, layout = FORMATS[kind]
    tensors = {NAME: OIHW} if tensors is None else tensors
    tensors = {**others, **tensors}
    if layout == "HWIO":
        tensors = {
            name: t.transpose(2, 3, 1, 0) if t.ndim == 4 else t
            for name, t in tensors.items()
        }
    return write(
        path, {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    )


# --- what is read ---


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
        save_flax({NAME: weights}, file := tmp_path / "file")
    kernel = linear_cnn.load_first_layer(file).kernel
    np.testing.assert_array_equal(
        kernel, HWIO.astype(ml_dtypes.bfloat16).astype(np.float32)
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


def test_graphdef_repeats_its_last_number(tmp_path):
    numbers = np.array([1, 2, 3], "<f4")
    file = write_graph(tmp_path / "file", {NAME: HWIO}, numbers.tobytes())
    expected = np.concatenate([[1, 2, 3], np.full(HWIO.size - 3, 3)]).reshape(
        HWIO.shape
    )
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, expected)


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


def test_the_format_is_recognised_by_content(tmp_path):
    for suffix in (".npz", ".pth", ".onnx", ".json"):
        file = write_safetensors(tmp_path / f"net{suffix}", {NAME: OIHW})
        assert linear_cnn.load_first_layer(str(file)).format == "safetensors"


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
        (ambiguous, "'w'.*ambiguous; layout='OIHW' or 'HWIO'"),
        (oblong, "needs layout="),
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


@pytest.mark.parametrize("shape", [(8, 3, 1, 7), (8, 3, 7, 1)])
def test_kernels_of_a_single_row_or_column(tmp_path, shape):
    weights = RANDOM.normal(size=shape).astype(np.float32)
    kernel = linear_cnn.load_first_layer(
        write_torch(tmp_path / "file", {**OTHERS, NAME: weights})
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
    with pytest.raises(
        ValueError, match=r"net\.pth is truncated or damaged \(a pickle (uses|refers)"
    ):
        linear_cnn.load_first_layer(file)


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


def test_names_that_grow_are_refused(tmp_path):
    content = {"x" * 600: {"y" * 600: 0}}
    with pytest.raises(ValueError, match="names are longer than 1000 characters"):
        linear_cnn.load_first_layer(
            write_torch_zip(tmp_path / "net.pth", pickled(content), {})
        )


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]
)
def test_faults_of_npz_archives(tmp_path, compression):
    """Compressed or not, whole ones are read, and those with a changed byte are refused
    by the file's name."""
    kernel = RANDOM.normal(size=(64, 3, 7, 7)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, kernel)
    with zipfile.ZipFile(tmp_path / "net.npz", "w", compression) as archive:
        archive.writestr("w.npy", buffer.getvalue())
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(tmp_path / "net.npz").kernel,
        kernel.transpose(2, 3, 1, 0),
    )
    content = (tmp_path / "net.npz").read_bytes()
    for place in range(60, len(content) - 200, len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "net.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.npz"):
            linear_cnn.load_first_layer(tmp_path / "net.npz")


def test_a_header_that_declares_fewer_numbers(tmp_path):
    np.savez(
        tmp_path / "net.npz", w=RANDOM.normal(size=(64, 3, 7, 7)).astype(np.float32)
    )
    content = bytearray((tmp_path / "net.npz").read_bytes())
    content[content.index(b"(64, 3") + 1] ^= 4  # 24
    (tmp_path / "net.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.npz is truncated or damaged"):
        linear_cnn.load_first_layer(tmp_path / "net.npz")


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


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "net.npz", {NAME: OIHW})
    np.testing.assert_array_equal(linear_cnn.load_first_layer("~/net.npz").kernel, HWIO)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_version_and_order(tmp_path, version, order):
    with (
        zipfile.ZipFile(tmp_path / "net.npz", "w") as archive,
        archive.open(f"{NAME}.npy", "w") as file,
    ):
        np.lib.format.write_array(file, np.array(OIHW, order=order), version)
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(tmp_path / "net.npz").kernel, HWIO
    )


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
    content, storages = described({**OTHERS, NAME: OIHW}, legacy=True)
    backwards = dict(reversed(storages.items()))
    file = write_legacy_stream(tmp_path / "net.pth", pickled(content), backwards)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


def onnx_content(*fields):
    """An ONNX file of one kernel in the shape of OIHW, its numbers and type in these
    fields."""
    shape = b"".join(field(1, axis) for axis in OIHW.shape)
    return field(1, 8) + field(
        7, field(5, b"".join([shape, field(8, NAME.encode()), *fields]))
    )


def graph_content(*fields):
    """The same of a GraphDef and HWIO; the attributes of a node come in any order."""
    shape = field(2, b"".join(field(2, field(1, axis)) for axis in HWIO.shape))
    value = field(
        5, field(1, b"value") + field(2, field(8, b"".join([shape, *fields])))
    )
    dtype = field(5, field(1, b"dtype") + field(2, field(6, 1)))
    return field(1, field(1, NAME.encode()) + field(2, b"Const") + value + dtype)


def test_only_constants_of_a_graph_are_weights(tmp_path):
    """Nodes of other operations may have tensors of the same attributes: fillings,
    examples."""
    value = field(5, field(1, b"value") + field(2, field(8, graph_tensor(2 * HWIO))))
    other = field(1, field(1, b"fill") + field(2, b"Fill") + value)
    file = write_graph(tmp_path / "net.pb", {NAME: HWIO})
    file.write_bytes(file.read_bytes() + other)
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)
    attribute = field(1, b"value") + field(5, onnx_tensor("", 2 * OIHW)) + field(20, 4)
    node = field(
        1, field(2, b"other") + field(4, b"ConstantOfShape") + field(5, attribute)
    )
    file = write_onnx(tmp_path / "net.onnx", {NAME: OIHW})
    # Messages of one number are joined.
    file.write_bytes(file.read_bytes() + field(7, node))
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, HWIO)


def test_graphs_whose_nodes_are_empty_are_of_no_format(tmp_path):
    (tmp_path / "net.pb").write_bytes(field(1, b""))
    with pytest.raises(ValueError, match="is none of the formats"):
        linear_cnn.load_first_layer(tmp_path / "net.pb")


CONTENTS, TYPE_FIELDS = (
    {"onnx": onnx_content, "graphdef": graph_content},
    {
        "onnx": 2,
        "graphdef": 1,
    },
)


def as_varints(weights):
    return b"".join(varint(int(bits)) for bits in weights.view(np.uint16).ravel())


@pytest.mark.parametrize(
    ("kind", "number", "dtype", "place", "encoded"),
    [
        ("onnx", 11, "f8", 10, np.ndarray.tobytes),
        ("onnx", 10, "f2", 5, as_varints),
        ("onnx", 16, ml_dtypes.bfloat16, 5, as_varints),
        ("onnx", 16, ml_dtypes.bfloat16, 9, np.ndarray.tobytes),
        ("graphdef", 1, "f4", 5, np.ndarray.tobytes),
        ("graphdef", 2, "f8", 6, np.ndarray.tobytes),
        ("graphdef", 19, "f2", 13, as_varints),
        ("graphdef", 14, ml_dtypes.bfloat16, 13, as_varints),
        ("graphdef", 14, ml_dtypes.bfloat16, 4, np.ndarray.tobytes),
    ],
)
def test_weights_number_by_number_and_in_every_type(
    tmp_path, kind, number, dtype, place, encoded
):
    weights = (OIHW if kind == "onnx" else HWIO).astype(dtype)
    content = CONTENTS[kind](
        field(TYPE_FIELDS[kind], number), field(place, encoded(weights))
    )
    (tmp_path / "file").write_bytes(content)
    layer = linear_cnn.load_first_layer(tmp_path / "file")
    assert layer.name == NAME
    np.testing.assert_array_equal(layer.kernel, HWIO.astype(dtype).astype(np.float32))


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


# --- faults ---


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


def test_weights_that_are_too_large_for_single_precision(tmp_path):
    file = write_npz(tmp_path / "net.npz", {NAME: 1e300 * OIHW.astype(float)})
    with pytest.raises(ValueError, match=r"'stem.weight' hold NaN or infinite"):
        linear_cnn.load_first_layer(file)


@pytest.mark.parametrize(
    ("kind", "number", "fields", "message"),
    [
        (
            "onnx",
            1,
            [field(4, OIHW.tobytes()[:-4])],
            "134 numbers for a tensor of shape",
        ),
        (
            "onnx",
            1,
            [field(9, OIHW.tobytes()[:-4])],
            "134 numbers for a tensor of shape",
        ),
        ("onnx", 1, [], "0 numbers for a tensor of shape"),
        ("onnx", 8, [], "data type number 8, which is not read"),
        (
            "graphdef",
            1,
            [field(4, HWIO.tobytes()[:-4])],
            "134 numbers for a tensor of shape",
        ),
        (
            "graphdef",
            1,
            [field(5, HWIO.tobytes() + bytes(4))],
            "136 numbers for a tensor of shape",
        ),
        ("graphdef", 1, [], "0 numbers for a tensor of shape"),
        ("graphdef", 8, [], "data type number 8, which is not read"),
    ],
)
def test_numbers_that_are_too_few_or_too_many_or_of_an_unknown_type(
    tmp_path, kind, number, fields, message
):
    (tmp_path / "file").write_bytes(
        CONTENTS[kind](field(TYPE_FIELDS[kind], number), *fields)
    )
    with pytest.raises(ValueError, match=message):
        linear_cnn.load_first_layer(tmp_path / "file")


def test_weights_of_tensorflow_js_of_an_unknown_type(tmp_path):
    file = write_tfjs(tmp_path / "model", {NAME: HWIO})
    file.write_text(file.read_text().replace('"float32"', '"complex64"'))
    with pytest.raises(
        ValueError, match=r"'stem.weight' has the type complex64, which is not read"
    ):
        linear_cnn.load_first_layer(file)


def test_damaged_names_in_a_pickle_give_no_warning(tmp_path):
    content, storages = described({NAME: OIHW})
    file = write_torch_zip(
        tmp_path / "net.pth",
        pickled(content).replace(b"torch._utils", rb"torch.\utils"),
        storages,
    )
    with pytest.raises(ValueError, match=r"net.pth"):
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


@pytest.mark.parametrize("kind", TRUNCATED)
def test_truncated_anywhere(tmp_path, kind):
    content = written(kind, tmp_path / "file").read_bytes()
    cut = tmp_path / "cut"
    # The places where a protobuf message ends before the whole file does, with the
    # kernel in it.
    whole = {"onnx": [len(content) - 6], "graphdef": []}
    if kind == "graphdef":
        last = content.index(field(1, b"conv") + field(2, b"Conv2D")) - 2
        whole["graphdef"] = [last, len(content) - 4]
    allowed = whole.get(kind.partition(",")[0], [])
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
    with pytest.raises(ValueError, match="is no file"):
        linear_cnn.load_first_layer(tmp_path)


def test_bad_arguments(tmp_path):
    file = write_npz(tmp_path / "net.npz", {NAME: OIHW})
    with pytest.raises(
        ValueError, match="layout must be 'OIHW', 'HWIO' or None, got 'OHWI'"
    ):
        linear_cnn.load_first_layer(file, layout="OHWI")
    with pytest.raises(
        ValueError, match="channel_order must be 'RGB' or 'BGR', got 'GBR'"
    ):
        linear_cnn.load_first_layer(file, channel_order="GBR")


def test_onnx_with_its_weights_elsewhere(tmp_path):
    axes = b"".join(field(1, axis) for axis in OIHW.shape)
    tensor = (
        axes
        + field(2, 1)
        + field(8, b"w")
        + field(13, field(1, b"location") + field(2, b"x"))
        + field(14, 1)
    )
    (tmp_path / "net.onnx").write_bytes(field(1, 8) + field(7, field(5, tensor)))
    with pytest.raises(ValueError, match="lie in another file"):
        linear_cnn.load_first_layer(tmp_path / "net.onnx")


def test_npz_with_objects_runs_nothing(tmp_path, ran):
    np.savez(
        tmp_path / "net.npz",
        w=np.array(
            [[[[Called(builtins.exec, ran.code)] * 3] * 3] * 3] * 9, dtype=object
        ),
    )
    with pytest.raises(ValueError, match=r"net.npz"):
        linear_cnn.load_first_layer(tmp_path / "net.npz", "w", layout="OIHW")
    assert not ran.path.exists()


# --- pickles that carry code ---


@pytest.fixture
def ran(tmp_path):
    """A file that malicious code makes, and Python code that makes it."""
    path = tmp_path / "ran"
    return types.SimpleNamespace(path=path, code=f"open({str(path)!r}, 'w')")


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


def malicious(kind, ran):
    return MALICIOUS[kind](ran)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", MALICIOUS)
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, ran, legacy, kind, protocol):
    content, storages = described({NAME: OIHW}, legacy)
    content["epoch"] = malicious(kind, ran)
    write = write_legacy_stream if legacy else write_torch_zip
    file = write(tmp_path / "net.pth", pickled(content, protocol), storages)
    with pytest.raises(
        ValueError, match=r"net.pth: its pickle refers to .*nothing of it was run"
    ):
        linear_cnn.load_first_layer(file)
    assert not ran.path.exists()


def test_the_malicious_pickles_would_run(tmp_path, ran):
    pickle.loads(pickled(malicious("system", ran)))
    assert ran.path.exists()


def test_instructions_that_tensors_do_not_need(tmp_path, ran):
    calls = {
        "its pickle uses STRING": (
            b"(S'" + ran.code.encode().replace(b"'", b'"') + b"'\nibuiltins\neval\n."
        ),
        "its pickle uses INST": b"(ibuiltins\neval\n.",
        "refers to builtins.eval": b"(cbuiltins\neval\nX\x01\x00\x00\x001o.",
        "its pickle uses OBJ": b"(ccollections\nOrderedDict\no.",
        "refers to types.SimpleNamespace": pickle.dumps(types.SimpleNamespace(), 2),
        "its pickle uses NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "its pickle uses EXT1": b"\x80\x02\x82\x01.",
        "refers to __main__.WithState": (
            b"\x80\x02}X\x01\x00\x00\x00ac__main__\nWithState\n)\x81X\x01\x00\x00\x00bbs."
        ),
        "a pickle calls torch FloatStorage": b"\x80\x02ctorch\nFloatStorage\n)R.",
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
