"""First layers from ONNX and GraphDef."""

import ml_dtypes
import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    RANDOM,
    field,
    graph_tensor,
    onnx_attribute,
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


LATER = RANDOM.normal(size=(8, 5, 3, 3)).astype(np.float32)


def onnx_file(tmp_path, tensors, *nodes):
    stored = [field(5, onnx_tensor(name, tensor)) for name, tensor in tensors.items()]
    (tmp_path / "net.onnx").write_bytes(onnx_model(b"".join([*stored, *nodes])))
    return tmp_path / "net.onnx"


def test_only_what_a_convolution_takes_counts(tmp_path):
    """The generator's last layer, a filter of two groups, and what nobody takes."""
    tensors = {"w": OIHW, "up": 2 * OIHW, "lonely": 3 * OIHW, "later": LATER}
    nodes = [
        onnx_node("ConvTranspose", ["z", "up"], "image"),
        onnx_node("Identity", ["w"], "w again"),
        onnx_node("Conv", ["image", "w again"], "y"),
        onnx_node("Conv", ["y", "later"], "y2"),
    ]
    layer = linear_cnn.load_first_layer(onnx_file(tmp_path, tensors, *nodes))
    assert layer.name == "w"
    np.testing.assert_array_equal(layer.kernel, HWIO)
    del tensors["w"]
    file = onnx_file(tmp_path, tensors, nodes[0], nodes[3])
    message = r"the graph gives 'up' .*, 'lonely' \(.*\) to no convolution"
    with pytest.raises(ValueError, match=message):
        linear_cnn.load_first_layer(file)
    found = linear_cnn.load_first_layer(file, "up").kernel
    np.testing.assert_array_equal(found, 2 * HWIO)


def test_filters_of_several_groups(tmp_path):
    node = onnx_node("Conv", ["x", "w"], "y", onnx_attribute("group", 2))
    file = onnx_file(tmp_path, {"w": OIHW}, node)
    with pytest.raises(ValueError, match="no tensor of this ONNX file"):
        linear_cnn.load_first_layer(file)
    with pytest.raises(ValueError, match="has 2 groups"):
        linear_cnn.load_first_layer(file, "w")
    node = onnx_node("Conv", ["x", "w"], "y", onnx_attribute("group", 1))
    layer = linear_cnn.load_first_layer(onnx_file(tmp_path, {"w": OIHW}, node))
    np.testing.assert_array_equal(layer.kernel, HWIO)


@pytest.mark.parametrize("operation", ["Mul", "Div"])
def test_filters_that_the_graph_computes(tmp_path, operation):
    """As weight norm and spectral norm are exported."""
    file = onnx_file(
        tmp_path,
        {"w": OIHW, "g": np.ones(1, np.float32)},
        onnx_node(operation, ["w", "g"], "made"),
        onnx_node("Conv", ["x", "made"], "y"),
    )
    message = f"'w' is not the filter: its Conv takes what {operation} computes from it"
    for name in (None, "w"):
        with pytest.raises(ValueError, match=message):
            linear_cnn.load_first_layer(file, name)


QUANTISED = RANDOM.integers(-127, 127, size=OIHW.shape).astype(np.int8)
SCALES = RANDOM.uniform(0.01, 0.02, size=5).astype(np.float32)
ZEROS = np.arange(5).astype(np.int8)


@pytest.mark.parametrize("form", ["one by one", "per filter", "QLinearConv", "no zero"])
def test_quantised_weights_with_their_scale(tmp_path, form):
    scales, zeros = (
        (SCALES[:1], ZEROS[2:3]) if form == "one by one" else (SCALES, ZEROS)
    )
    tensors = {"w": QUANTISED, "s": scales, "z": zeros, "later": LATER}
    if form == "QLinearConv":
        inputs = ["x", "xs", "xz", "w", "s", "z", "ys", "yz"]
        nodes = [onnx_node("QLinearConv", inputs, "y")]
    else:
        parts = ["w", "s"] if form == "no zero" else ["w", "s", "z"]
        axis = onnx_attribute("axis", 0)
        nodes = [
            onnx_node("DequantizeLinear", parts, "floats", axis),
            onnx_node("Conv", ["x", "floats"], "y"),
        ]
    zeros = 0 * zeros if form == "no zero" else zeros
    layer = linear_cnn.load_first_layer(onnx_file(tmp_path, tensors, *nodes))
    assert layer.name == "w"
    found = layer.kernel.transpose(3, 2, 0, 1)
    for n in range(5):
        of_filter = n if len(scales) > 1 else 0
        expected = (QUANTISED[n].astype(float) - zeros[of_filter]) * scales[of_filter]
        np.testing.assert_allclose(found[n], expected, rtol=1e-7)
    assert np.abs(found - QUANTISED).max() > 1


def test_quantised_weights_without_a_scale_that_can_be_used(tmp_path):
    convolution = onnx_node("Conv", ["x", "floats"], "y")
    cases = [
        ({}, [onnx_node("ConvInteger", ["x", "w"], "y")], "behind its ConvInteger"),
        (
            {},
            [onnx_node("DequantizeLinear", ["w", "dynamic"], "floats"), convolution],
            "a scale that the graph computes",
        ),
        (
            {"s": SCALES},
            [
                onnx_node(
                    "DequantizeLinear", ["w", "s"], "floats", onnx_attribute("axis", 1)
                ),
                convolution,
            ],
            r"in blocks: \(5,\) scales for a tensor of shape \(5, 3, 3, 3\)",
        ),
        ({}, [onnx_node("Conv", ["x", "w"], "y")], "are int8 without a scale"),
    ]
    for more, nodes, message in cases:
        file = onnx_file(tmp_path, {"w": QUANTISED, **more}, *nodes)
        with pytest.raises(ValueError, match=message):
            linear_cnn.load_first_layer(file)


def graph_node(name, operation, *inputs):
    taken = b"".join(field(3, taken.encode()) for taken in inputs)
    return field(1, field(1, name.encode()) + field(2, operation.encode()) + taken)


def test_graphs_of_tensorflow_that_transpose_or_compute(tmp_path):
    file = write_graph(tmp_path / "net.pb", {"w": HWIO, "up": 2 * HWIO})
    whole = file.read_bytes()
    used = [
        graph_node("w/read", "Identity", "w"),
        graph_node("c", "Conv2D", "image", "w/read:0", "^w"),
        graph_node("t", "Conv2DBackpropInput", "sizes", "up", "z"),
    ]
    file.write_bytes(whole + b"".join(used))
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == "w"
    np.testing.assert_array_equal(layer.kernel, HWIO)
    computed = [
        graph_node("m", "Mul", "w", "gamma"),
        graph_node("c", "Conv2D", "image", "m"),
        used[2],
    ]
    file.write_bytes(whole + b"".join(computed))
    with pytest.raises(ValueError, match="its Conv2D takes what Mul computes"):
        linear_cnn.load_first_layer(file)


def test_graphs_that_go_round_in_a_circle(tmp_path):
    nodes = [
        onnx_node("Identity", ["a"], "b"),
        onnx_node("Identity", ["b"], "a"),
        onnx_node("Add", ["c", "a"], "c"),
        onnx_node("Conv", ["x", "a"], "y"),
        onnx_node("Conv", ["x", "c"], "y2"),
        onnx_node("Conv", ["x", "w"], "y3"),
    ]
    layer = linear_cnn.load_first_layer(onnx_file(tmp_path, {"w": OIHW}, *nodes))
    np.testing.assert_array_equal(layer.kernel, HWIO)
