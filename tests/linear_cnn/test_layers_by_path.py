"""The first layer, wherever a network has it; kernels of other layers; misspelt
paths."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import linear_cnn
from linear_cnn import SmallCNN, train, train_seeds, trained_network
from linear_cnn.networks._paths import first_layer_path
from tests.linear_cnn.test_own_training import FAST, IMAGES, KEYS, LABELS

SGD = optax.sgd(0.1)
SETTINGS = {"optimizer": SGD, "steps": 4, "record_steps": [2, 4], "batch_size": 6}
SETTINGS |= {"loss": "cross_entropy"}


class Block(nnx.Module):
    def __init__(self, channels, features, rngs):
        self.conv = nnx.Conv(channels, features, (3, 3), rngs=rngs, **FAST)
        self.norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, images):
        return nnx.relu(self.norm(self.conv(images)))


class Own(nnx.Module):
    """As a network of the user's may be: no `conv1`, layers in a list, two heads."""

    def __init__(self, rngs):
        self.stem = Block(2, 3, rngs)
        self.blocks = nnx.List([Block(3, 3, rngs), Block(3, 4, rngs)])
        self.scale = nnx.Param(jnp.ones((1, 4), jnp.float32))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)) * self.scale)


def own(key):
    return Own(nnx.Rngs(key))


def network(**layers):
    """Of layers that nobody calls."""
    found = nnx.Module()
    for name, layer in layers.items():
        setattr(found, name, layer)
    return found


def conv(channels, size=(3, 3), **options):
    return nnx.Conv(channels, 4, size, rngs=nnx.Rngs(0), **FAST | options)


SHARED = conv(2)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ({"conv1": conv(2), "conv0": conv(2)}, "conv1"),
        ({"stem": conv(2), "then": conv(4)}, "stem"),
        # The only one, though it takes other channels than the images have.
        ({"only": conv(5), "head": nnx.Linear(4, 2, rngs=nnx.Rngs(0))}, "only"),
        ({"stem": nnx.Sequential(conv(2), nnx.relu, conv(4))}, "stem.layers.0"),
        ({"conv1": nnx.Sequential(conv(2), nnx.relu)}, "conv1.layers.0"),
        # Of one image axis, or in groups, it is none.
        ({"a": conv(2, (3,)), "b": conv(2)}, "b"),
        ({"a": conv(2, feature_group_count=2), "b": conv(2)}, "b"),
        # One layer at two places.
        ({"body": nnx.Sequential(SHARED), "first": SHARED}, "body.layers.0"),
    ],
)
def test_it_is_found(layers, found):
    assert first_layer_path(network(**layers), 2, None, "layer") == f"{found}.kernel"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"left": conv(2), "right": conv(2), "then": conv(4)},
            r"no attribute 'conv1', and \['left', 'right'\] all could be; name it by"
            r" first_layer='left', or call it 'conv1'",
        ),
        ({"a": conv(5), "b": conv(4)}, r"\['a', 'b'\] all could be"),
        (
            {"dense": nnx.Linear(4, 2, rngs=nnx.Rngs(0))},
            r"no flax.nnx.Conv of two image axes is among its kernels \['dense.ker",
        ),
        ({"a": conv(2, feature_group_count=2)}, r"kernels \['a\.kernel'\]"),
    ],
)
def test_it_cannot_be_told(layers, message):
    with pytest.raises(ValueError, match=message):
        first_layer_path(network(**layers), 2, None, "first_layer")


def test_a_network_without_conv1_is_recorded_and_comes_back():
    names = ("blocks.1.conv", "head", "scale", "stem.conv.kernel")
    run = train(own, IMAGES, LABELS, key=KEYS[0], record=names, **SETTINGS)
    assert {name: kernel.shape for name, kernel in run.kernels.items()} == {
        "blocks.1.conv": (3, 3, 3, 3, 4),
        "head": (3, 4, 3),
        "scale": (3, 1, 4),
        "stem.conv.kernel": (3, 3, 3, 2, 3),
    }
    np.testing.assert_array_equal(run.conv1, run.kernels["stem.conv.kernel"])
    found = trained_network(own, run)
    for kernel, expected in (
        (found.stem.conv.kernel, run.conv1),
        (found.blocks[1].conv.kernel, run.kernels["blocks.1.conv"]),
        (found.head.kernel, run.kernels["head"]),
        (found.scale, run.kernels["scale"]),
    ):
        np.testing.assert_array_equal(kernel[...], expected[-1])
        assert np.abs(np.asarray(expected[-1] - expected[0])).max() > 1e-4
    # Another layer in the place of the first, and frozen ones are recorded too.
    named = train(
        own,
        IMAGES,
        LABELS,
        key=KEYS[0],
        first_layer="blocks.1.conv",
        record=("stem.conv",),
        frozen=("stem", "head.kernel"),
        **SETTINGS,
    )
    assert named.conv1.shape == (3, 3, 3, 3, 4)
    frozen = named.kernels["stem.conv"]
    np.testing.assert_array_equal(frozen[0], frozen[-1])
    np.testing.assert_array_equal(frozen[0], run.conv1[0])
    many = train_seeds(own, IMAGES, LABELS, keys=KEYS[:2], record=names, **SETTINGS)
    for name, kernel in run.kernels.items():
        np.testing.assert_allclose(many.kernels[name][0], kernel, atol=2e-5)
    assert many.conv1.shape == (2, 3, 3, 3, 2, 3)


def test_records_inside_vmap():
    def kernels(key):
        settings = SETTINGS | {"batch_size": None}
        run = train(own, IMAGES, LABELS, key=key, record=("head",), **settings)
        return run.kernels["head"], run.state["head"]["kernel"]

    recorded, state = jax.vmap(kernels)(KEYS[:2])
    np.testing.assert_array_equal(recorded[:, -1], state)


@pytest.mark.filterwarnings("ignore:the signal that flows back")
@pytest.mark.parametrize("method", ["tangent_moments", "backpropagated_signal"])
def test_what_looks_at_the_first_layer_finds_it(method):
    measure = getattr(linear_cnn, method)
    model = own(KEYS[0])
    settings = {"loss": "cross_entropy", "statistics": "running"}
    if method == "backpropagated_signal":
        settings["at"] = "stem.norm"
    found = measure(model, IMAGES, LABELS, **settings)
    named = measure(model, IMAGES, LABELS, layer="stem.conv", **settings)
    chex.assert_trees_all_equal(vars(found), vars(named))
    two = network(left=conv(2), right=conv(2))
    with pytest.raises(ValueError, match="name it by layer='left', or call it 'conv1'"):
        measure(two, IMAGES, LABELS, loss="cross_entropy")


def test_a_closed_form_in_a_layer_of_any_name():
    components = np.linalg.qr(np.random.default_rng(0).normal(size=(18, 18)))[0]
    first = linear_cnn.closed_form_init(components, np.ones(18))

    def init(key):
        model = own(key)
        kernel = model.stem.conv.kernel
        kernel[...] = first(key, kernel.shape, kernel.dtype)
        return model

    settings = SETTINGS | {"frozen": ("stem.conv.kernel",)}
    run = train(init, IMAGES, LABELS, key=KEYS[0], **settings)
    expected = first(KEYS[0], (3, 3, 2, 3), jnp.float32)
    np.testing.assert_allclose(run.conv1[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(run.conv1[0], run.conv1[-1])
    layer = linear_cnn.first_layer(trained_network(init, run), channels=2)
    assert layer.name == "stem.conv.kernel"
    np.testing.assert_array_equal(layer.kernel, run.conv1[-1])
    state = nnx.as_pure(nnx.state(trained_network(init, run), nnx.Param))
    found = linear_cnn.first_kernel(state, "stem.conv")
    np.testing.assert_array_equal(found, run.conv1[-1])


def test_records_belong_to_the_identity_of_a_run(tmp_path):
    """The two kernels have one shape: only their names tell them apart."""

    def init(key):
        return SmallCNN(3, in_features=2, features=(2, 2), rngs=nnx.Rngs(key))

    def run(folder=None, **settings):
        return train(
            init,
            IMAGES,
            LABELS,
            key=KEYS[0],
            checkpoint_dir=folder,
            **SETTINGS | settings,
        )

    first, second = ("conv1",), ("features.layers.2",)
    kept = run(tmp_path, record=first)
    chex.assert_trees_all_equal(run(tmp_path, record=list(first)), kept)
    chex.assert_trees_all_equal(run(record=first), kept)
    for other in (
        {"record": second},
        {"record": ()},
        {"record": first, "first_layer": second[0]},
    ):
        with pytest.raises(ValueError, match="another run: its network in inference"):
            run(tmp_path, **other)


NEAREST = r"there are 'stem\.conv', "


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"record": "stem.conv"}, TypeError, "record must be a sequence of attribute"),
        ({"record": [1]}, TypeError, "record must be a sequence of attribute paths"),
        ({"record": ("stem.con",)}, ValueError, f"does not have; .*: {NEAREST}"),
        ({"record": ("stem.norm",)}, ValueError, "'stem.norm', which is no kernel"),
        ({"record": ("stem.conv.bias",)}, ValueError, f"is no kernel; .*: {NEAREST}"),
        ({"record": ("stem",)}, ValueError, f"is no kernel; .*: {NEAREST}"),
        ({"record": ("head", "head")}, ValueError, "record names a kernel twice"),
        ({"first_layer": "conv1"}, ValueError, "first_layer names 'conv1', which the"),
        ({"first_layer": 1}, TypeError, "first_layer must be the attribute path of"),
        (
            {"frozen": ("stem.conv.kernal",)},
            ValueError,
            r"frozen names 'stem\.conv\.kernal', .* nearest are 'stem\.conv\.kernel', ",
        ),
        ({"frozen": 3}, TypeError, "frozen must be a sequence of attribute paths"),
        (
            {"metrics": {"validation_loss": optax.safe_softmax_cross_entropy}},
            ValueError,
            r"metrics has \['validation_loss'\], which is recorded as it is",
        ),
        (
            {"metrics": [("a", jnp.sum), ("a", jnp.sum)]},
            TypeError,
            "metrics must be functions",
        ),
        ({"optimizer": optax.lbfgs()}, TypeError, r"value_fn.* as optax\.lbfgs does"),
        (
            {"optimizer": optax.contrib.sophia(0.1)},
            TypeError,
            "optimizer cannot be used here: ValueError: .*; it gets the gradients",
        ),
        (
            {"augment": lambda key, x: x.astype(jnp.float16)},
            ValueError,
            "augment must keep the shape and type of the images",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(
    settings, error, message, monkeypatch
):
    def lower(*arguments):
        raise AssertionError("it got to the compiler")

    monkeypatch.setattr("linear_cnn.training._loop._lowered", lower)
    with pytest.raises(error, match=message):
        train(own, IMAGES, LABELS, key=KEYS[0], **SETTINGS | settings)


@pytest.mark.parametrize("many", [False, True])
def test_optimizers_that_look_at_the_loss_or_do_not(many):
    """One seed or many: the loss goes to those that take it."""
    keys = {"keys": KEYS[:2]} if many else {"key": KEYS[0]}
    inner = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    for optimizer in (
        optax.chain(SGD, optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(0.5),
        optax.contrib.sam(SGD, inner, sync_period=2),
    ):
        run = (train_seeds if many else train)(
            own, IMAGES, LABELS, **keys, **SETTINGS | {"optimizer": optimizer}
        )
        loss = np.atleast_2d(run.loss)
        assert (loss[:, -1] < loss[:, 0]).all()


def test_a_loss_that_is_not_finite_at_the_start_waits_for_no_compiler(monkeypatch):
    from linear_cnn.training import _loop

    class Endless:
        def __init__(self, program):
            self.as_text = program.as_text

        def compile(self):
            raise AssertionError("nobody asks for it")

    lowered = _loop._lowered

    def with_endless(*arguments):
        recording, training = lowered(*arguments)
        return recording, Endless(training)

    monkeypatch.setattr(_loop, "_lowered", with_endless)
    with pytest.raises(
        linear_cnn.TrainingDiverged,
        match="loss is nan at step 0; nothing is trained yet, so look at the loss",
    ):
        train(
            own,
            IMAGES,
            LABELS,
            key=KEYS[0],
            **SETTINGS | {"loss": lambda o, t: jnp.log(-1 - o[:, 0] ** 2)},
        )
