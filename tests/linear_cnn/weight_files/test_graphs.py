"""First layers from ONNX and GraphDef."""

import ml_dtypes
import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    field,
    graph_tensor,
    onnx_model,
    onnx_node,
    onnx_tensor,
    varint,
    write_graph,
    write_onnx,
)


def test_graphdef_repeats_its_last_number(tmp_path):
    numbers = np.array([1, 2, 3], "<f4")
    file = write_graph(tmp_path / "file", {NAME: HWIO}, numbers.tobytes())
    expected = np.concatenate([[1, 2, 3], np.full(HWIO.size - 3, 3)]).reshape(
        HWIO.shape
    )
    np.testing.assert_array_equal(linear_cnn.load_first_layer(file).kernel, expected)


def onnx_content(*fields):
    """An ONNX file of one kernel in the shape of OIHW, its numbers and type in these
    fields."""
    shape = b"".join(field(1, axis) for axis in OIHW.shape)
    tensor = field(5, b"".join([shape, field(8, NAME.encode()), *fields]))
    return onnx_model(tensor + onnx_node("Conv", ["input", NAME], "output"))


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


def test_onnx_with_its_weights_elsewhere(tmp_path):
    axes = b"".join(field(1, axis) for axis in OIHW.shape)
    tensor = (
        axes
        + field(2, 1)
        + field(8, b"w")
        + field(13, field(1, b"location") + field(2, b"x"))
        + field(14, 1)
    )
    node = onnx_node("Conv", ["input", "w"], "output")
    (tmp_path / "net.onnx").write_bytes(onnx_model(field(5, tensor) + node))
    with pytest.raises(ValueError, match="lie in another file"):
        linear_cnn.load_first_layer(tmp_path / "net.onnx")
