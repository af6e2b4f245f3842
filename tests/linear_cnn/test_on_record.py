"""A function that is called after every record, and may stop the run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from linear_cnn import LinearCNN, train, train_seeds

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.normal(size=(8, 4, 4, 2)).astype(np.float32)
TARGETS = RANDOM.normal(size=(8, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(5), 3)
SGD = optax.sgd(0.05)


def init(key):
    return LinearCNN(2, 3, head=np.eye(3), init_std=0.3, rngs=nnx.Rngs(key))


def largest(outputs, targets):
    return jnp.abs(outputs - targets).max(axis=-1)


METRICS = {"largest": largest}
SETTINGS = {"optimizer": SGD, "steps": 8, "record_steps": [2, 5], "batch_size": 4}
SETTINGS |= {"metrics": METRICS, "validation": (IMAGES[:3], TARGETS[:3])}
RECORDS = [0, 2, 5]


def run(on_record=None, folder=None, **settings):
    return train(
        init,
        IMAGES,
        TARGETS,
        key=KEYS[0],
        on_record=on_record,
        checkpoint_dir=folder,
        **SETTINGS | settings,
    )


def seeds(on_record=None, **settings):
    return train_seeds(
        init, IMAGES, TARGETS, keys=KEYS, on_record=on_record, **SETTINGS | settings
    )


def stop_at(last):
    return lambda step, record: step == last


@pytest.mark.parametrize("many", [False, True])
def test_it_sees_every_record(many, monkeypatch):
    # Blocks of two seeds, so that a fourth one fills them up.
    monkeypatch.setattr("linear_cnn.training._seeds._ON_CPU", (1e5, 4e6, 2))
    seen = []
    train_them = seeds if many else run

    def note(step, record):
        with pytest.raises(ValueError, match="read-only"):
            record.conv1[...] = 0
        assert isinstance(step, int)
        seen.append((step, record))

    trajectory = train_them(note, record=("conv1",))
    assert [step for step, _ in seen] == RECORDS
    assert [int(record.steps) for _, record in seen] == RECORDS
    chex.assert_trees_all_equal(train_them(record=("conv1",)), trajectory)
    axis = int(many)
    for index, (_, record) in enumerate(seen):
        for name in ("conv1", "loss", "validation_loss"):
            found, expected = getattr(record, name), getattr(trajectory, name)
            np.testing.assert_array_equal(
                found, np.take(np.asarray(expected), index, axis)
            )
        for group in ("metrics", "validation_metrics", "kernels"):
            (found,), (expected,) = (
                getattr(one, group).values() for one in (record, trajectory)
            )
            np.testing.assert_array_equal(
                found, np.take(np.asarray(expected), index, axis)
            )
        assert record.accuracy is None
        assert record.state is None
        assert record.loss.shape == ((3,) if many else ())
    assert not trajectory.stopped


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("last", [0, 2])
def test_true_stops_and_the_rest_is_kept(many, last):
    train_them = seeds if many else run
    stopped, whole = train_them(stop_at(last)), train_them()
    assert stopped.stopped
    assert not whole.stopped
    count = RECORDS.index(last) + 1
    np.testing.assert_array_equal(stopped.steps, RECORDS[:count])
    for name in ("conv1", "loss", "validation_loss"):
        found, expected = getattr(stopped, name), getattr(whole, name)
        np.testing.assert_array_equal(
            found, expected[:, :count] if many else expected[:count]
        )
    # The state is that of the step where it stopped.
    kernel = stopped.state["conv1"]["kernel"]
    np.testing.assert_array_equal(
        kernel, stopped.conv1[:, -1] if many else stopped.conv1[-1]
    )
    moved = np.asarray(whole.state["conv1"]["kernel"]) - np.asarray(kernel)
    assert np.abs(moved).max() > 1e-3


def test_nothing_is_stopped_after_the_last_step():
    finished = run(stop_at(8), record_steps=[2, 8])
    assert not finished.stopped
    assert run(stop_at(5), keep_state=False).stopped is False
    assert run(stop_at(5)).stopped


def never(step, record):
    raise AssertionError("it was asked again")


def test_a_stopped_run_comes_back_as_it_was_and_can_go_on(tmp_path):
    stopped = run(lambda step, record: np.bool_(step == 2), tmp_path)
    chex.assert_trees_all_equal(run(never, tmp_path), stopped)
    chex.assert_trees_all_equal(run(never, tmp_path), stopped)
    # Without a function nobody stops it.
    went_on = run(folder=tmp_path)
    chex.assert_trees_all_equal(went_on, run())
    # It is beyond that step now, and finished.
    chex.assert_trees_all_equal(run(never, tmp_path), went_on)


def test_a_stopped_run_of_many_seeds_comes_back(tmp_path):
    stopped = seeds(
        lambda step, record: (record.loss < np.inf).all() and step == 2,
        checkpoint_dir=tmp_path,
    )
    assert stopped.loss.shape == (3, 2)
    again = seeds(never, checkpoint_dir=tmp_path)
    chex.assert_trees_all_equal(again, stopped)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
@pytest.mark.parametrize("then_stops", [False, True])
def test_its_error_loses_nothing(tmp_path, error, then_stops):
    def fail(step, record):
        if step == 2:
            raise error("mine")

    with pytest.raises(error, match="mine"):
        run(fail, tmp_path)
    assert {path.name for path in tmp_path.glob("[0-9]*")} == {"0", "2"}
    # It is asked again of that record, and of none before.
    asked = []

    def note(step, record):
        asked.append((step, float(record.loss)))
        return then_stops

    found, whole = run(note, tmp_path), run()
    steps = [2] if then_stops else [2, 5]
    assert asked == [(step, float(whole.loss[RECORDS.index(step)])) for step in steps]
    assert found.stopped == then_stops
    chex.assert_trees_all_equal(run(never, tmp_path), found)
    if not then_stops:
        chex.assert_trees_all_equal(found, whole)


def test_an_error_at_the_last_record_is_not_the_end(tmp_path):
    """Where that is the last step too, nothing else would be asked again."""
    settings = {"record_steps": [2, 8]}

    def fail(step, record):
        if step == 8:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run(fail, tmp_path, **settings)
    asked = []
    found = run(lambda step, record: asked.append(step), tmp_path, **settings)
    assert asked == [8]
    chex.assert_trees_all_equal(found, run(**settings))
    chex.assert_trees_all_equal(run(never, tmp_path, **settings), found)


@pytest.mark.parametrize("answer", [1, "stop", 0.5, np.array([True, False])])
def test_answers_that_are_none(answer):
    with pytest.raises(TypeError, match=r"on_record must return True.* got .*\.all"):
        run(lambda step, record: answer)


@pytest.mark.parametrize(
    "trace",
    [
        jax.jit,
        lambda f: lambda key: jax.vmap(f)(key[None]),
        lambda f: lambda key: jax.jit(lambda: f(key))(),
    ],
)
def test_it_is_refused_under_tracing(trace):
    def traced(key):
        return train(
            init, IMAGES, TARGETS, key=key, on_record=never, optimizer=SGD, steps=2
        ).loss

    with pytest.raises(ValueError, match=r"on_record must be None inside jax\.jit"):
        trace(traced)(KEYS[0])


def test_it_is_refused_under_grad():
    def final(scale):
        return train(
            init,
            scale * jnp.asarray(IMAGES),
            TARGETS,
            key=KEYS[0],
            on_record=never,
            optimizer=SGD,
            steps=2,
        ).loss[-1]

    with pytest.raises(ValueError, match=r"on_record must be None inside .*jax.grad"):
        jax.grad(final)(1.0)


@pytest.mark.parametrize("wrong", [True, lambda step: None, [].append])
def test_it_must_be_a_function_of_two(wrong):
    """Known before anything is computed; `list.append` takes one."""
    with pytest.raises(TypeError, match=r"on_record must be a function \(step, rec"):
        run(wrong)


def test_a_function_whose_arguments_python_does_not_know_is_tried():
    with pytest.raises(TypeError, match="expected at most 1 argument, got 2"):
        run(vars)
