"""A training whose gradients are looked at: those of its own steps, and those of other
batches at the same weights."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from experiments import trained
from experiments.beyond.drive.settings import steps

# Of which gradients are taken at every step, beside those of the step itself.
OWN, AGAIN, UNSEEN = range(3)


class Record(NamedTuple):
    """A network along its training.

    Attributes:
      network: as it is now.
      gradients: of conv1's kernel, (3, kh, kw, C, K), mean over the steps since the
        last record: of the batches that it was trained on (OWN), of as many others of
        the same images (AGAIN), and of images that it is not trained on (UNSEEN).
      accuracy: of the same, (3,).
      steps: since the last record.
    """

    network: nnx.Module
    gradients: np.ndarray
    accuracy: np.ndarray
    steps: int


class _State(NamedTuple):
    parameters: Any
    rest: Any
    gradients: jax.Array
    correct: jax.Array


def follow(
    run: trained.Run, data: trained.Data, index: int, intervals: int
) -> Iterator[Record]:
    """A network of a run before its training, with gradients of 0 over no steps, and
    at the end of each of so many equal parts of it.

    It is plain stochastic gradient descent, in which every batch is drawn anew with
    replacement, so that the noise of the steps is independent.
    """
    assert data.validation is not None  # the settings have one
    network = trained.initial_network(run, data, index)
    network.train()
    graph, *variables = nnx.split(network, nnx.Param, ...)
    kernel = network.conv1.kernel[...]  # type: ignore[attr-defined]
    none = jnp.zeros((3, *kernel.shape), kernel.dtype)
    parameters, rest = map(nnx.as_pure, variables)
    state = _State(parameters, rest, none, jnp.zeros(3, int))
    images = (data.images, data.labels), data.validation
    known = jax.tree.map(jnp.asarray, images)
    key = jax.random.fold_in(jax.random.key(run.seed), index)
    ends = np.linspace(0, steps(run, len(data.labels)), intervals + 1).astype(int)
    yield Record(network, np.asarray(none), np.zeros(3), 0)
    for start, stop in itertools.pairwise(ends):
        # The experiments compute in float64, networks do not.
        with jax.enable_x64(False):
            state = state._replace(gradients=none, correct=jnp.zeros(3, int))
            state = _advance(
                graph, run.batch_size, run.learning_rate, state, known, key, start, stop
            )
            now = nnx.merge(graph, state.parameters, state.rest, copy=True)
        count = int(stop - start)
        yield Record(
            now,
            np.asarray(state.gradients, np.float64) / count,
            np.asarray(state.correct) / (count * run.batch_size),
            count,
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(
    graph: Any,
    batch_size: int,
    learning_rate: float,
    state: _State,
    images: Any,
    key: jax.Array,
    start: Any,
    stop: Any,
) -> _State:
    def loss(parameters: Any, rest: Any, x: jax.Array, y: jax.Array) -> Any:
        network: Any = nnx.merge(graph, parameters, rest, copy=True)
        outputs = network(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
        after = nnx.as_pure(nnx.state(network, nnx.Not(nnx.Param)))
        return losses.mean(), (after, (outputs.argmax(axis=1) == y).sum())

    def step(index: Any, state: _State) -> _State:
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        found = []
        for which in (OWN, AGAIN, UNSEEN):
            x, y = images[which == UNSEEN]
            batch = jax.random.randint(keys[which], (batch_size,), 0, len(y))
            of_batch = jax.grad(loss, has_aux=True)
            found.append(of_batch(state.parameters, state.rest, x[batch], y[batch]))
        gradient, (rest, _) = found[OWN]
        parameters = jax.tree.map(
            lambda weights, change: weights - learning_rate * change,
            state.parameters,
            gradient,
        )
        kernels = jnp.stack([one["conv1"]["kernel"] for one, _ in found])
        correct = jnp.stack([number for _, (_, number) in found])
        return _State(
            parameters, rest, state.gradients + kernels, state.correct + correct
        )

    result: _State = lax.fori_loop(start, stop, step, state)
    return result
