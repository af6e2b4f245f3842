"""Every convolution of a file, by its shape."""

import numpy as np
import pytest
from flax import nnx

import linear_cnn
from linear_cnn import stored_convolutions
from tests.hostile_pickles import deep
from tests.linear_cnn.weight_files.writers import (
    write_npz,
    write_safetensors,
)

# As PyTorch stores them, with what the listing says: shape, and a word of the problem.
STORED = {
    "stem.weight": ((8, 3, 7, 7), (7, 7, 3, 8), ""),
    "body.1.weight": ((16, 8, 3, 3), (3, 3, 8, 16), ""),
    "body.2.weight": ((16, 12, 1, 7), (1, 7, 12, 16), ""),
    "body.3.depthwise.weight": ((16, 1, 3, 3), (3, 3, 1, 16), ""),
    "body.10.weight": ((16, 16, 1, 1), (1, 1, 16, 16), ""),
    "up.conv_transpose.weight": ((16, 8, 2, 2), (2, 2, 8, 16), "transposed"),
    "sound.conv.weight": ((4, 16, 9), (4, 16, 9), "one axis of space"),
    "film.weight": ((4, 16, 3, 3, 3), (4, 16, 3, 3, 3), "three axes of space"),
    "position": ((1, 4, 14, 64), (14, 64, 4, 1), "14x64 pixels"),
    "mean": ((1, 3, 1, 1), (1, 1, 3, 1), "a constant"),
    "standard.weight": ((16, 8, 5, 5), (5, 5, 8, 16), "is beside it"),
    "standard.weight_u": ((16,), None, ""),
    "norm.weight": ((8,), None, ""),
    "attention": ((2, 5, 6), None, ""),
    "empty": ((0, 3, 3, 3), None, ""),
    "huge.weight": ((4096, 4096, 1, 1), (1, 1, 4096, 4096), "weights, and is not read"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    tensors = {
        name: np.zeros(stored, np.float16) for name, (stored, _, _) in STORED.items()
    }
    return write_safetensors(tmp_path_factory.mktemp("weights") / "a", tensors)


def test_shapes_and_problems(file, monkeypatch):
    monkeypatch.setattr(np, "frombuffer", None)  # what reads numbers
    found = stored_convolutions(file)
    expected = {name: (shape, word) for name, (_, shape, word) in STORED.items()}
    assert {one.name for one in found} == {n for n, (s, _) in expected.items() if s}
    for one in found:
        shape, word = expected[one.name]
        assert one.shape == shape, one
        assert word in one.problem, one
        assert bool(word) == bool(one.problem), one


def test_those_without_a_problem_are_read(file):
    for one in stored_convolutions(file):
        if not one.problem:
            given = {"name": one.name, "channels": one.shape[2], "layout": "OIHW"}
            layer = linear_cnn.load_first_layer(file, **given)
            assert layer.kernel.shape == one.shape


def test_names_are_in_the_order_of_numbers_and_modules_in_their_own():
    """Of weights whose order says nothing."""
    network = nnx.eval_shape(
        lambda: linear_cnn.SmallCNN(features=(2, 3, 4), rngs=nnx.Rngs(0))
    )
    found = stored_convolutions(network)
    assert [one.shape for one in found] == [(3, 3, 3, 2), (3, 3, 2, 3), (3, 3, 3, 4)]
    tree = {f"conv{n}": {"kernel": np.zeros((3, 3, n, n))} for n in (10, 2, 1)}
    names = [one.name for one in stored_convolutions(tree)]
    assert names == ["conv1.kernel", "conv2.kernel", "conv10.kernel"]


def test_an_ambiguous_layout_is_said_and_chosen(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"a": np.zeros((8, 3, 3, 3), np.float32)})
    [one] = stored_convolutions(path)
    assert one.shape == (8, 3, 3, 3)
    assert "layout= decides" in one.problem
    assert stored_convolutions(path, layout="OIHW") == [("a", (3, 3, 3, 8), "")]


def test_bad_files_and_arguments(tmp_path):
    """By the same ways, and with the same errors, as the first layer."""
    (tmp_path / "pickle").write_bytes(deep(3))
    with pytest.raises(ValueError, match="pickle"):
        stored_convolutions(tmp_path / "pickle")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        stored_convolutions(tmp_path / "nothing")
    with pytest.raises(ValueError, match="layout must be"):
        stored_convolutions({}, layout="CHW")
    assert stored_convolutions({"dense": np.zeros((3, 4))}) == []
    control = {"\x1b[31mconv": np.zeros((4, 1, 5, 5))}
    assert stored_convolutions(control)[0].name == "\\x1b[31mconv"
