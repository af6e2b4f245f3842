"""Each program of a run is compiled once, and beside the others."""

import itertools
import threading
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import linear_cnn
from linear_cnn._losses import cross_entropies
from linear_cnn.training import _seeds
from linear_cnn.training._compilation import compiled_beside, known_options

IMAGES = np.random.default_rng(0).normal(size=(6, 3, 3, 1)).astype(np.float32)
TARGETS = IMAGES[:, 1, 1, 0]
KEY = jax.random.key(0)
WIDTHS = itertools.count(3)  # each run with programs of its own


@pytest.fixture(scope="module")
def compiled():
    """Names of the programs that were compiled, as they are; and in which threads."""
    found = []

    def note(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append((fun_name, threading.current_thread()))

    jax.monitoring.register_event_duration_secs_listener(note)
    return found


@pytest.mark.parametrize(
    ("seeds", "steps"), [(None, 3), (None, 0), (3, 3), ("committed", 3)]
)
def test_each_program_is_compiled_once(compiled, seeds, steps):
    width = next(WIDTHS)

    def init(key):
        return linear_cnn.LinearCNN(1, width, rngs=nnx.Rngs(key))

    settings = {"optimizer": optax.sgd(0.1), "steps": steps}
    settings |= {"record_steps": [steps], "validation": (IMAGES[:2], TARGETS[:2])}
    for first in (True, False):
        compiled.clear()
        if seeds == 3:
            keys = jax.random.split(KEY, seeds)
            linear_cnn.train_seeds(init, IMAGES, TARGETS, keys=keys, **settings)
        else:
            key = jax.device_put(KEY, jax.devices()[0]) if seeds else KEY
            linear_cnn.train(init, IMAGES, TARGETS, key=key, **settings)
        counts = Counter(name for name, _ in compiled)
        assert counts["jit(_start_traced)"] == first
        assert counts["jit(_record_all)"] == first
        assert counts["jit(_advance_all)"] == (first and steps > 0)
        if first and steps:
            threads = dict(compiled)
            assert threads["jit(_advance_all)"] is not threading.current_thread()


def test_functions_of_ones_own_are_compiled_once(compiled):
    """The same objects: other keys, and another on_record, compile nothing."""

    def init(key):
        return linear_cnn.LinearCNN(1, next(widths), rngs=nnx.Rngs(key))

    def loss(outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)

    def augment(key, images):
        return images * jax.random.uniform(key, (len(images), 1, 1, 1), images.dtype)

    widths = itertools.repeat(next(WIDTHS))
    settings = {"optimizer": optax.sgd(0.1), "steps": 3, "batch_size": 3, "loss": loss}
    settings |= {"augment": augment, "metrics": {"m": loss}, "record": ("conv1",)}
    programs = ["_advance_all", "_record_all", "_start_traced"]
    for number, key in enumerate(jax.random.split(KEY, 3)):
        compiled.clear()
        seen = []
        run = linear_cnn.train(
            init,
            IMAGES,
            TARGETS,
            key=key,
            on_record=lambda step, record, seen=seen: seen.append(step),
            **settings,
        )
        assert seen == run.steps.tolist() == [0, 2]
        ours = [name for name, _ in compiled if "_threefry" not in name]
        names = [name for name in ours if name.removeprefix("jit(")[:-1] in programs]
        assert sorted(names) == (
            [f"jit({name})" for name in programs] if not number else []
        )
        if number:
            assert not ours


def test_a_program_that_cannot_be_compiled_says_so():
    class Broken:
        def compile(self):
            raise MemoryError("no room")

    with (
        compiled_beside(Broken()) as ready,
        pytest.raises(MemoryError, match="no room"),
    ):
        ready()


def test_who_does_not_need_a_program_does_not_wait():
    class Slow:
        def compile(self):
            assert go_on.wait(60)
            ended.set()

    go_on, ended = threading.Event(), threading.Event()
    with compiled_beside(Slow()):
        pass
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(60)


def test_an_error_inside_is_not_hidden():
    program = jax.jit(lambda x: x + 1).lower(1.0)
    with pytest.raises(ValueError, match="mine"), compiled_beside(program):
        raise ValueError("mine")


@pytest.mark.float32
def test_cross_entropies_and_their_gradients():
    outputs = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
    labels = jnp.array([3, 0, 1, 1, 2], jnp.int32)

    def by_index(outputs):
        return -jax.nn.log_softmax(outputs)[jnp.arange(5), labels]

    for function in (
        lambda f: f(outputs),
        lambda f: jax.grad(lambda outputs: (f(outputs) ** 2).sum())(outputs),
    ):
        own = function(lambda outputs: cross_entropies(outputs, labels))
        np.testing.assert_allclose(own, function(by_index), rtol=2e-6, atol=1e-6)
    # An infinite output of another class is no reason for a NaN of its own.
    endless = outputs.at[0, 0].set(-jnp.inf)
    assert np.isfinite(cross_entropies(endless, labels)).all()


def test_options_that_the_compiler_does_not_know_are_left_out():
    options = {"xla_backend_optimization_level": 0, "xla_no_such_option": True}
    assert known_options(options) == {"xla_backend_optimization_level": 0}


@pytest.mark.float32
@pytest.mark.parametrize("seeds", [None, 3])
def test_initial_weights_are_those_of_full_optimisation(monkeypatch, seeds):
    def init(key):
        return linear_cnn.SmallCNN(10, in_features=1, rngs=nnx.Rngs(key))

    def kernels():
        _seeds._start_all.cache_clear()
        images = np.ones((2, 8, 8, 1), np.float32)
        settings = {"optimizer": optax.sgd(0.1), "steps": 0, "loss": "cross_entropy"}
        train = linear_cnn.train if seeds is None else linear_cnn.train_seeds
        keys = KEY if seeds is None else jax.random.split(KEY, seeds)
        named = {"key" if seeds is None else "keys": keys}
        trained = train(init, images, np.arange(2), **settings, **named)
        return jax.tree.leaves(nnx.to_pure_dict(trained.state, None))

    ours = kernels()
    # The tests' own settings may ask for less.
    options = {"xla_backend_optimization_level": 3}
    monkeypatch.setattr(_seeds, "known_options", lambda wanted: options)
    for own, full in zip(ours, kernels(), strict=True):
        np.testing.assert_array_equal(own, full)
    monkeypatch.undo()
    _seeds._start_all.cache_clear()
