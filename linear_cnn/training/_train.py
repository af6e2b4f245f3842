"""Training of one seed or many, recording the first layer's trajectory."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from linear_cnn._checks import check_keys
from linear_cnn.training._loop import _run
from linear_cnn.training._plan import _plan
from linear_cnn.training._seeds import _layout
from linear_cnn.training._step import Init, _Program
from linear_cnn.training._trajectory import Trajectory


def train(
    init: Init,
    images: ArrayLike,
    targets: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: str = "mse",
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    frozen: Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train a network and record the trajectory of its first layer. Pure in `key`.

    Programs are compiled anew only for new shapes, or new `init`, `optimizer`,
    `batch_size`, `loss` or `frozen` objects, so make `init` and `optimizer` once and
    reuse them; keys, data, steps and the values of `record_steps` are free. Inside
    `jax.jit` or `jax.vmap` it works too, without checks of the values, checkpoints or
    progress.

    Args:
      init: key -> `flax.nnx.Module` that maps images to outputs (N, M) and has its
        first convolution in `conv1`. It is trained in training mode (`network.train()`)
        and recorded in inference mode (`network.eval()`).
      images: floating point, (N, H, W, C); their dtype should be that of the network
        (`LinearCNN` converts them).
      targets: for "mse" real numbers, (N,) or (N, M), converted to the dtype of the
        outputs; for "cross_entropy" integer labels (N,) from 0 to M - 1.
      optimizer: any optax transformation; its learning rate refers to the stated loss.
        Weight decay is a part of it, e.g. `optax.chain(optax.add_decayed_weights(5e-4),
        optax.sgd(0.01))`.
      key: of the initialisation and the order of the batches.
      steps, epochs: length of the run, one of the two. Steps after the last recorded
        one leave no trace and are not run.
      record_steps: increasing steps to record, such as log-spaced ones; after every
        epoch if None. Step 0, before training, is always recorded.
      batch_size: images per step; all of them (full-batch gradient descent) if None.
        Every epoch is a new permutation; images left over when N is no multiple are
        skipped for that epoch.
      loss: "mse", the mean over images of the squared error summed over outputs, or
        "cross_entropy", the mean over images of the softmax cross-entropy in nats.
      validation: images (V, H, W, C) and targets, (V,) or (V, M), that are only
        evaluated.
      frozen: names of layers, or of single parameters, that keep their initial values,
        as attribute paths: ("conv1",), or ("conv1.kernel",), whose bias then learns.
      checkpoint_dir: folder for checkpoints (Orbax), of one process at a time. Killed
        at any moment and called again with the same arguments, the run continues from
        the last one and ends bit-identical to one that was never interrupted. SIGINT
        and SIGTERM are answered when the steps under way are finished and saved, a
        second one at once. A damaged checkpoint is named in a warning and never used;
        the one before is.
      progress: show a progress bar with loss, accuracy and rate.

    Returns:
      the trajectory.

    Raises:
      TypeError, ValueError: malformed arguments, a network without `conv1`, outputs
        that do not match the targets, checkpoints of another run, in use by
        another process or all damaged, before anything is trained; the message names
        the remedy. OSError: a checkpoint cannot be written.
      TrainingDiverged: a loss is not finite; it holds what was recorded until then.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import optax
      >>> from flax import nnx
      >>> def init(key):
      ...     return linear_cnn.LinearCNN(1, 2, kernel_size=3, rngs=nnx.Rngs(key))
      >>> images = jax.random.normal(jax.random.key(0), (20, 3, 3, 1))
      >>> run = linear_cnn.train(
      ...     init,
      ...     images,
      ...     images[:, 1, 1, 0],  # the pixel in the middle
      ...     optimizer=optax.sgd(0.05),
      ...     key=jax.random.key(1),
      ...     steps=1000,
      ...     record_steps=[10, 100, 1000],
      ... )
      >>> run.steps.tolist(), run.conv1.shape
      ([0, 10, 100, 1000], (4, 3, 3, 1, 2))
      >>> bool(run.loss[0] > 0.1), bool(run.loss[-1] < 1e-3)
      (True, True)
    """
    check_keys("key", key, axes=0)
    plan = _plan(
        images,
        targets,
        optimizer,
        steps,
        epochs,
        record_steps,
        batch_size,
        loss,
        validation,
        frozen,
    )
    return _run(
        _Program(init, *plan.settings), None, key, plan, checkpoint_dir, progress
    )


def train_seeds(
    init: Init,
    images: ArrayLike,
    targets: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: str = "mse",
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    frozen: Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train many seeds in one compiled program; the same as `train` for each of the
    keys, up to rounding.

    The seeds are spread over the devices of this process. A CPU counts as one device
    unless told otherwise before JAX first computes:
    `jax.config.update("jax_num_cpu_devices", 2)` uses two cores.

    Args:
      targets: shared, as in `train`, or one set a seed with a leading seed axis S.
      keys: (S,), one a seed, for example `jax.random.split(key, S)`.
      others: as in `train`; the validation set is shared.

    Returns:
      the trajectories, with a leading seed axis on all fields but `steps`.

    Raises:
      as `train`; also ValueError where (N, M) and (S, N) targets cannot be told apart.
      `TrainingDiverged` if any of the seeds diverges.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import optax
      >>> from flax import nnx
      >>> def init(key):
      ...     return linear_cnn.LinearCNN(1, 2, kernel_size=3, rngs=nnx.Rngs(key))
      >>> images = jax.random.normal(jax.random.key(0), (20, 3, 3, 1))
      >>> runs = linear_cnn.train_seeds(
      ...     init,
      ...     images,
      ...     images[:, 1, 1, 0],
      ...     optimizer=optax.sgd(0.05),
      ...     keys=jax.random.split(jax.random.key(1), 5),
      ...     steps=100,
      ...     record_steps=[10, 100],
      ... )
      >>> runs.conv1.shape, runs.loss.shape, runs.steps.tolist()
      ((5, 3, 3, 3, 1, 2), (5, 3), [0, 10, 100])
    """
    check_keys("keys", keys, axes=1)
    plan = _plan(
        images,
        targets,
        optimizer,
        steps,
        epochs,
        record_steps,
        batch_size,
        loss,
        validation,
        frozen,
        keys.shape[0],
    )
    program = _Program(init, *plan.settings)
    layout = _layout(program, keys, plan)
    return _run(program, layout, keys, plan, checkpoint_dir, progress)
