"""What training recorded, and the error that holds it."""

from dataclasses import dataclass, field
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """What training recorded; a pytree. `train_seeds` puts a leading seed axis S on all
    but `steps`.

    Losses and accuracies are those of the network in inference mode (running batch
    statistics, no dropout), over all images of the set.

    Attributes:
      steps: the recorded steps, (R,), increasing from 0.
      conv1: the first layer's kernel at these steps, (R, kh, kw, C, K), whatever the
        network calls that layer.
      loss: the training loss at these steps, (R,).
      accuracy: share of training images whose largest output is their label, (R,); None
        unless the loss is "cross_entropy".
      validation_loss, validation_accuracy: the same of the validation images; None
        without them.
      metrics, validation_metrics: means over images of the `metrics` asked for, at
        these steps, (R,), by their names; None without.
      kernels: the kernels that `record` asked for, at these steps, (R, ...), by the
        names that it gave; None without.
      stopped: whether `on_record` ended the run before its last step; then the last of
        `steps` is where.
      state: all variables of the network after the last step of the run, which may be
        later than the last record: parameters, batch statistics and random streams, a
        tree of arrays. `trained_network` makes the network of them. None with
        `keep_state=False`, and where training diverged.

    Examples:
      >>> import jax.numpy as jnp
      >>> import linear_cnn
      >>> run = linear_cnn.Trajectory(
      ...     steps=jnp.array([0, 10, 100]),
      ...     conv1=jnp.zeros((3, 5, 5, 1, 8)),
      ...     loss=jnp.array([1.0, 0.5, 0.25]),
      ... )
      >>> run.conv1[-1].shape  # the trained kernel
      (5, 5, 1, 8)
      >>> run.accuracy is None
      True
    """

    steps: jax.Array
    conv1: jax.Array
    loss: jax.Array
    accuracy: jax.Array | None = None
    validation_loss: jax.Array | None = None
    validation_accuracy: jax.Array | None = None
    metrics: dict[str, jax.Array] | None = None
    validation_metrics: dict[str, jax.Array] | None = None
    kernels: dict[str, jax.Array] | None = None
    state: Any = None
    stopped: bool = field(default=False, metadata={"static": True})


class TrainingDiverged(FloatingPointError):
    """A loss was infinite or NaN. `trajectory` holds what was recorded until then.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import optax
      >>> from flax import nnx
      >>> def init(key):
      ...     return linear_cnn.LinearCNN(1, 1, rngs=nnx.Rngs(key))
      >>> images = jax.random.normal(jax.random.key(0), (10, 3, 3, 1))
      >>> settings = {"optimizer": optax.sgd(1e6), "key": jax.random.key(1)}
      >>> try:
      ...     linear_cnn.train(init, images, images[:, 1, 1, 0], steps=50, **settings)
      ... except linear_cnn.TrainingDiverged as error:
      ...     reached = error.trajectory.steps[-1]
      >>> bool(reached < 50)
      True
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory
