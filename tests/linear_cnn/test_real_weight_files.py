"""Files of weights that the frameworks themselves wrote, where these are installed:
torch is in the extra `benchmark`, onnx in none."""

import numpy as np
import pytest

import linear_cnn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def parametrised(torch, kind):
    """A convolution whose filter torch computes from other tensors."""
    utils, newer = torch.nn.utils, torch.nn.utils.parametrizations
    prune = pytest.importorskip("torch.nn.utils.prune")
    layer = torch.nn.Conv2d(3, 8, 3, bias=False)
    return {
        "plain": lambda: layer,
        "weight norm": lambda: newer.weight_norm(layer),
        "weight norm, second axis": lambda: newer.weight_norm(layer, dim=1),
        "weight norm of all": lambda: utils.weight_norm(layer, dim=None),
        "older weight norm": lambda: utils.weight_norm(layer),
        "spectral norm": lambda: newer.spectral_norm(layer),
        "older spectral norm": lambda: utils.spectral_norm(layer),
        "pruned": lambda: prune.l1_unstructured(layer, "weight", 0.3),
        "orthogonal": lambda: newer.orthogonal(layer),
        "two at once": lambda: newer.spectral_norm(newer.weight_norm(layer)),
    }[kind]()


def network(torch, first):
    """The layer in a network, trained for some steps so that the parts change."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3))
    steps = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        steps.zero_grad()
        (net(torch.randn(4, 3, 16, 16)) ** 2).mean().backward()
        steps.step()
    net.eval()
    net(torch.randn(1, 3, 16, 16))
    return net


COMPUTED = [
    "plain",
    "weight norm",
    "weight norm, second axis",
    "weight norm of all",
    "older weight norm",
    "spectral norm",
    "older spectral norm",
    "pruned",
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "checkpoint"])
@pytest.mark.parametrize("kind", COMPUTED)
def test_filters_that_torch_computes(tmp_path, torch, kind, form):
    net = network(torch, parametrised(torch, kind))
    state, path = net.state_dict(), tmp_path / "net"
    if form == "safetensors":
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file({name: w.contiguous() for name, w in state.items()}, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    layer = linear_cnn.load_first_layer(path)
    assert layer.name == ("state_dict." if form == "checkpoint" else "") + "0.weight"
    expected = net[0].weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["orthogonal", "two at once"])
def test_filters_of_which_the_file_does_not_say_how(tmp_path, torch, kind):
    net = network(torch, parametrised(torch, kind))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"'0.weight' is computed from"):
        linear_cnn.load_first_layer(tmp_path / "net.pth")


def test_a_generator_of_torch(tmp_path, torch):
    up = torch.nn.ConvTranspose2d
    net = torch.nn.Sequential(
        up(100, 128, 4), torch.nn.BatchNorm2d(128), up(128, 64, 4), up(64, 3, 4, 2, 1)
    )
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"'3.weight' .* comes last"):
        linear_cnn.load_first_layer(tmp_path / "net.pth")


# --- ONNX ---


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx")


def saved_graph(onnx, path, tensors, *nodes):
    helper = onnx.helper
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(*node[:3], **(node[3] if node[3:] else {}))
            for node in nodes
        ],
        "net",
        [info("x", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


WEIGHTS = np.random.default_rng(4).normal(size=(8, 3, 3, 3)).astype(np.float32)


def test_convolutions_of_onnx(tmp_path, onnx):
    up = np.ones((64, 3, 4, 4), np.float32)
    file = saved_graph(
        onnx,
        tmp_path / "net.onnx",
        {"w": WEIGHTS, "up": up},
        ("Conv", ["x", "w"], ["z"], {"group": 1, "kernel_shape": [3, 3]}),
        ("ConvTranspose", ["z", "up"], ["y"]),
    )
    layer = linear_cnn.load_first_layer(file)
    assert layer.name == "w"
    np.testing.assert_array_equal(layer.kernel, WEIGHTS.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("axis", [0, None])
def test_quantised_convolutions_of_onnx(tmp_path, onnx, axis):
    """As the reference implementation dequantises them."""
    reference = pytest.importorskip("onnx.reference")
    scales = np.full(8, 0.01, np.float32) * (1 + np.arange(8, dtype=np.float32))
    zeros = np.arange(8).astype(np.int8)
    if axis is None:
        scales, zeros = np.float32(0.02), np.int8(3)
    integers = np.round(WEIGHTS / 0.03).astype(np.int8)
    tensors = {"q": integers, "s": np.array(scales), "z": np.array(zeros)}
    dequantise = ("DequantizeLinear", ["q", "s", "z"], ["w"], {"axis": axis or 0})
    file = saved_graph(
        onnx, tmp_path / "n", tensors, dequantise, ("Conv", ["x", "w"], ["y"])
    )
    only = saved_graph(
        onnx, tmp_path / "w", tensors, (*dequantise[:2], ["y"], dequantise[3])
    )
    [expected] = reference.ReferenceEvaluator(str(only)).run(
        None, {"x": np.zeros((1, 3, 16, 16), np.float32)}
    )
    found = linear_cnn.load_first_layer(file).kernel
    np.testing.assert_array_equal(found, expected.transpose(2, 3, 1, 0))
