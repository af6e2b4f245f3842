"""What training recorded, and the error that holds it."""

from dataclasses import dataclass

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
      conv1: the first layer's kernel at these steps, (R, kh, kw, C, K).
      loss: the training loss at these steps, (R,).
      accuracy: share of training images whose largest output is their label, (R,); None
        unless the loss is "cross_entropy".
      validation_loss, validation_accuracy: the same of the validation images; None
        without them.
    """

    steps: jax.Array
    conv1: jax.Array
    loss: jax.Array
    accuracy: jax.Array | None = None
    validation_loss: jax.Array | None = None
    validation_accuracy: jax.Array | None = None


class TrainingDiverged(FloatingPointError):
    """A loss was infinite or NaN. `trajectory` holds what was recorded until then.
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory
