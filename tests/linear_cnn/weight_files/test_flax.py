"""What Flax and its neighbours write, and what is in memory."""

import collections
import types

import flax.linen
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.core import freeze
from flax.training.train_state import TrainState

import linear_cnn
from linear_cnn.weight_files import _msgpack, _orbax
from tests.linear_cnn.weight_files.writers import HWIO, NAME, OIHW, OTHERS

LATER = OTHERS["later"].transpose(2, 3, 1, 0)
BFLOAT16 = HWIO.astype(ml_dtypes.bfloat16)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(5, 8, (3, 3), rngs=rngs)])
        self.stem.kernel.set_value(jnp.asarray(HWIO))


@pytest.fixture(scope="module")
def net():
    return Net(nnx.Rngs(0))


PARAMETERS = {
    "params": {"stem": {"kernel": HWIO, "bias": np.zeros(5)}, "b": {"kernel": LATER}},
    "batch_stats": {"norm": {"mean": np.zeros(5)}},
}


def check(layer, name, kind, kernel=HWIO):
    np.testing.assert_array_equal(layer.kernel, kernel)
    assert layer.kernel.dtype == np.float32
    assert (layer.name, layer.format) == (name, kind)


def test_modules_and_states(net):
    for weights in (net, nnx.state(net), nnx.state(net, nnx.Param)):
        check(linear_cnn.first_layer(weights), "stem.kernel", "Flax state")
    pure = nnx.to_pure_dict(nnx.state(net))
    check(linear_cnn.first_layer(pure), "stem.kernel", "pytree")
    check(linear_cnn.first_layer(dict(nnx.state(net))), "stem.kernel", "pytree")


def test_trees_of_arrays():
    for weights in (
        PARAMETERS,
        freeze(PARAMETERS),
        jax.tree.map(jnp.asarray, PARAMETERS),
    ):
        check(linear_cnn.first_layer(weights), "params.stem.kernel", "pytree")
    state = collections.OrderedDict({NAME: OIHW, **OTHERS}, epoch=3, note="text")
    check(linear_cnn.first_layer(state), NAME, "pytree")
    check(linear_cnn.first_layer([{"w": OIHW}, OTHERS]), "0.w", "pytree")
    check(linear_cnn.first_layer({"w": BFLOAT16, "v": LATER}), "w", "pytree", BFLOAT16)
    # Not square in any layout but by its name.
    wide = np.ones((3, 3, 3, 3), np.float32)
    check(linear_cnn.first_layer({"kernel": wide}), "kernel", "pytree", wide)


def test_an_array_alone():
    five = np.zeros((5, 5, 3, 8))
    for weights in (five, jnp.asarray(five), nnx.Param(jnp.asarray(five))):
        check(linear_cnn.first_layer(weights), "array", "pytree", five)
    check(linear_cnn.first_layer(OIHW, layout="OIHW"), "array", "pytree")
    with pytest.raises(ValueError, match=r"^weights: the layout of 'array'.*layout="):
        linear_cnn.first_layer(np.zeros((64, 3, 3, 3)))


def test_trained_states_name_what_an_optimiser_keeps(net):
    optimiser = nnx.Optimizer(net, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    both = {"model": nnx.state(net), "optimizer": nnx.state(optimiser)}
    with pytest.raises(ValueError, match=r"several tensors of this pytree .* name="):
        linear_cnn.first_layer(both)
    check(
        linear_cnn.first_layer(both, "model.stem.kernel"), "model.stem.kernel", "pytree"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("net.npz", r"weights: 'net.npz' is a path; load_first_layer"),
        ({}, r"weights: no tensor of this pytree .* holds no tensor with 4 axes"),
        (3, "weights: no tensor"),
        ({"w": (10 * OIHW).astype(int), **OTHERS}, "are int64 without a scale"),
        ({"w": np.full_like(OIHW, np.nan), **OTHERS}, "NaN"),
        ({"w": np.zeros((2, 2, 3, 4), object)}, "'w' holds Python objects"),
        (
            {"w": jax.ShapeDtypeStruct((5, 5, 3, 4), jnp.float32)},
            "'w' has a shape and no",
        ),
        (
            {"a": {"b.c": OIHW}, "a.b": {"c": OIHW}},
            r"two of its tensors are named 'a.b.c'",
        ),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        linear_cnn.first_layer(weights)


def test_modules_whose_filters_are_computed(net):
    for norm, what in (
        (nnx.SpectralNorm, "spectral norm"),
        (nnx.WeightNorm, "weight n"),
    ):
        layer = norm(nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
        for network in (layer, nnx.Sequential(layer, *net.blocks)):
            with pytest.raises(ValueError, match=f"which {what}.* Save the weights"):
                linear_cnn.first_layer(network)
    with pytest.raises(ValueError, match="channel_order must"):
        linear_cnn.first_layer(net, channel_order="GBR")


# --- msgpack ---


def test_msgpack(tmp_path):
    file = tmp_path / "net"
    file.write_bytes(serialization.to_bytes(PARAMETERS))
    check(linear_cnn.load_first_layer(file), "params.stem.kernel", "Flax msgpack")
    many = {f"layer{n}": np.zeros(n, np.int8) for n in range(70_000 // 200)}
    half = {**many, "w": BFLOAT16, "step": np.float32(2), "z": [1, -1, 1e9, None, True]}
    file.write_bytes(serialization.msgpack_serialize(half))
    kernel = BFLOAT16.astype(np.float32)
    check(linear_cnn.load_first_layer(file), "w", "Flax msgpack", kernel)


def test_msgpack_of_a_training_state(tmp_path):
    class Linen(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            return flax.linen.Conv(5, (3, 3))(x)

    linen = Linen()
    variables = linen.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.float32))
    kernel = variables["params"]["Conv_0"]["kernel"]
    state = TrainState.create(
        apply_fn=linen.apply, params=variables["params"], tx=optax.adam(0.1)
    )
    file = tmp_path / "state.msgpack"
    file.write_bytes(serialization.to_bytes(state))
    with pytest.raises(ValueError, match=r"several .*'params.Conv_0.kernel'"):
        linear_cnn.load_first_layer(file)
    name = "params.Conv_0.kernel"
    check(linear_cnn.load_first_layer(file, name), name, "Flax msgpack", kernel)


def test_msgpack_that_is_cut_or_damaged(tmp_path):
    content = serialization.to_bytes(PARAMETERS)
    file = tmp_path / "net"
    for end in {*range(2, len(content), 97), *range(2, 60), len(content) - 1}:
        file.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"net (is truncated|.*none of the)"):
            linear_cnn.load_first_layer(file)
    file.write_bytes(content + b"\xc0")
    with pytest.raises(ValueError, match="more follows behind"):
        linear_cnn.load_first_layer(file)
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 200, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        try:
            linear_cnn.load_first_layer(file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017


def test_msgpack_that_would_take_for_ever(tmp_path, monkeypatch):
    file = tmp_path / "net"
    file.write_bytes(b"\x81\xa1a" * 100 + b"\xc0")
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        linear_cnn.load_first_layer(file)
    file.write_bytes(serialization.to_bytes(PARAMETERS))
    monkeypatch.setattr(_msgpack, "_MOST_TENSORS", 2)
    with pytest.raises(ValueError, match="more than 2 arrays"):
        linear_cnn.load_first_layer(file)
    monkeypatch.setattr(_msgpack, "_MOST_VALUES", 5)
    with pytest.raises(ValueError, match="more than 5 values"):
        linear_cnn.load_first_layer(file)
    file.write_bytes(serialization.msgpack_serialize({"w": HWIO.astype(complex)}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'w' holds complex128"):
        linear_cnn.load_first_layer(file)


# --- .npy ---


def test_npy(tmp_path):
    file = tmp_path / "conv1.npy"
    five = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype("f4")
    for array in (five, np.asfortranarray(five), five.astype("f8"), five.astype(">f4")):
        np.save(file, array)
        layer = linear_cnn.load_first_layer(file)
        check(layer, "conv1", "npy", five.transpose(2, 3, 1, 0))
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"0", content[:8], content[:60]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"conv1\.npy is truncated or damaged"):
            linear_cnn.load_first_layer(file)
    np.save(file, np.full((2, 3, 5, 5), None, object))
    with pytest.raises(ValueError, match="'conv1' holds object"):
        linear_cnn.load_first_layer(file)


# --- Orbax ---


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}])
def test_orbax(tmp_path, net, options):
    folder = tmp_path / "a folder, 100%"
    tree = {
        "net": nnx.state(net),
        "own": {"a.b/c": [np.ones(3), 2, None, {}, "text"]},
    }
    with ocp.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(folder, tree)
    check(linear_cnn.load_first_layer(folder), "net.stem.kernel", "Orbax")
    with pytest.raises(ValueError, match="no tensor of this Orbax is named 'x'"):
        linear_cnn.load_first_layer(folder, "x")


def test_orbax_of_numpy_and_in_half_precision(tmp_path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "numpy", PARAMETERS)
        checkpointer.save(tmp_path / "half", {"w": jnp.asarray(BFLOAT16), "v": LATER})
    check(
        linear_cnn.load_first_layer(tmp_path / "numpy"), "params.stem.kernel", "Orbax"
    )
    kernel = BFLOAT16.astype(np.float32)
    check(linear_cnn.load_first_layer(tmp_path / "half"), "w", "Orbax", kernel)


def test_orbax_of_a_manager(tmp_path, net):
    state = nnx.state(net, nnx.Param)
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (9, 10):
            scaled = jax.tree.map(lambda x, step=step: step * x, state)
            manager.save(step, args=ocp.args.StandardSave(scaled))
        manager.wait_until_finished()
    (tmp_path / "run/11.orbax-checkpoint-tmp").mkdir()
    layer = linear_cnn.load_first_layer(tmp_path / "run")
    check(layer, "stem.kernel", "Orbax", 10 * HWIO)
    layer = linear_cnn.load_first_layer(tmp_path / "run/9")
    check(layer, "stem.kernel", "Orbax", 9 * HWIO)
    items = {
        name: ocp.args.StandardSave({name: jnp.asarray(HWIO)}) for name in ("a", "b")
    }
    with ocp.CheckpointManager(tmp_path / "two") as manager:
        manager.save(3, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    with pytest.raises(ValueError, match=r"give the folder of one: 3/a, 3/b"):
        linear_cnn.load_first_layer(tmp_path / "two")
    check(linear_cnn.load_first_layer(tmp_path / "two/3/b"), "b", "Orbax")


def test_orbax_that_is_damaged_or_lies(tmp_path, monkeypatch):
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(tmp_path / "net", {"w": jnp.asarray(HWIO), "v": LATER})
    described = tmp_path / "net/_METADATA"
    text = described.read_text()
    for wrong, message in (
        ("{}", "truncated or damaged"),
        (text[:-9], "truncated or damaged"),
        (text.replace('"key": "w"', '"key": "../../w"'), "outside of the folder"),
        (text.replace("[3, 3, 3, 5]", "[3, 3, 3, 6]"), "'w' has the shape"),
        (" " * 2**24 + text, "far larger than that of any network"),
    ):
        described.write_text(wrong)
        with pytest.raises(ValueError, match=f"net(:| is).*{message}"):
            linear_cnn.load_first_layer(tmp_path / "net")
    described.write_text(text)
    monkeypatch.setattr(_orbax, "_LARGEST", 100)
    with pytest.raises(ValueError, match="larger than any first layer"):
        linear_cnn.load_first_layer(tmp_path / "net")
    (tmp_path / "net/w/0.0.0.0").write_bytes(b"damaged")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"net is truncated or damaged"):
        linear_cnn.load_first_layer(tmp_path / "net")


def test_attributes_of_a_tree_are_names():
    tree = jax.tree_util.register_dataclass(
        type("Tree", (types.SimpleNamespace,), {}), ["conv"], []
    )
    check(linear_cnn.first_layer(tree(conv=OIHW), layout="OIHW"), "conv", "pytree")
