"""The network that training left."""

import jax
import numpy as np
from flax import nnx

from linear_cnn.training._step import Init
from linear_cnn.training._trajectory import Trajectory


def trained_network(
    init: Init, trajectory: Trajectory, seed: int | None = None
) -> nnx.Module:
    """The network after the last step of a run, in inference mode.

    It is a network like any other: `network.train()` and it can be trained on;
    `safetensors.flax.save_file` of its flattened parameters, or Orbax's
    `StandardCheckpointer().save(folder, nnx.state(network))`, keeps it.

    Args:
      init: key -> `flax.nnx.Module`, as it was trained; nothing is computed by it.
      trajectory: of `train` or `train_seeds`.
      seed: which of the networks of `train_seeds`, from 0.

    Returns:
      the network, with its parameters, batch statistics and random streams.

    Raises:
      ValueError: the trajectory has no state, or that of another network; a seed that
        is not there, none where there are several, or one where there is only one.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import optax
      >>> from flax import nnx
      >>> def init(key):
      ...     rngs = nnx.Rngs(key)
      ...     return linear_cnn.SmallCNN(2, in_features=1, features=(2,), rngs=rngs)
      >>> images = jax.random.normal(jax.random.key(0), (20, 4, 4, 1))
      >>> runs = linear_cnn.train_seeds(
      ...     init,
      ...     images,
      ...     jax.numpy.arange(20) % 2,
      ...     optimizer=optax.sgd(0.1),
      ...     keys=jax.random.split(jax.random.key(1), 3),
      ...     steps=5,
      ...     loss="cross_entropy",
      ... )
      >>> network = linear_cnn.trained_network(init, runs, seed=2)
      >>> network(images).shape
      (20, 2)
    """
    if trajectory.state is None:
        raise ValueError(
            "the trajectory has no state: train with keep_state=True, to the end."
        )
    state, seeds = trajectory.state, np.ndim(trajectory.loss) == 2
    if seeds:
        count = np.shape(trajectory.loss)[0]
        if seed is None or not -count <= seed < count:
            raise ValueError(
                f"seed must say which of the {count} networks, from 0 to {count - 1},"
                f" got {seed}."
            )
        state = jax.tree.map(lambda leaf: leaf[seed], state)
    elif seed is not None:
        raise ValueError(f"there is one network, so leave out seed = {seed}.")
    outline = nnx.eval_shape(lambda: init(jax.random.key(0)))
    outline.eval()
    graph, variables = nnx.split(outline)
    expected = jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), nnx.as_pure(variables)
    )
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    if expected != found:
        raise ValueError(
            "init makes another network than the one that was trained: its variables"
            " have other names, shapes or types."
        )
    network: nnx.Module = nnx.merge(graph, state)
    return network
