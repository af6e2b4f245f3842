"""Training of one seed or many, recording the first layer's trajectory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from linear_cnn._checks import check_keys
from linear_cnn._losses import ForEach, Loss
from linear_cnn.training._loop import _run
from linear_cnn.training._mesh import (
    BATCH,
    SEEDS,
    check_active_mesh,
    checked_mesh,
    no_active_mesh,
)
from linear_cnn.training._plan import Augment, _plan
from linear_cnn.training._rows import OnRecord
from linear_cnn.training._seeds import _layout
from linear_cnn.training._step import Init, _Program
from linear_cnn.training._trajectory import Trajectory


@no_active_mesh()
def train(
    init: Init,
    images: ArrayLike,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: Loss = "mse",
    metrics: Mapping[str, ForEach] | None = None,
    validation: tuple[ArrayLike, Any] | None = None,
    augment: Augment | None = None,
    frozen: Sequence[str] = (),
    first_layer: str | None = None,
    record: Sequence[str] = (),
    on_record: OnRecord | None = None,
    fast_convolutions: bool = True,
    keep_state: bool = True,
    mesh: Mesh | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train a network and record the trajectory of its first layer. Pure in `key`.

    Programs are compiled anew only for new shapes, or new `init`, `optimizer`,
    `batch_size`, `loss`, `metrics`, `augment`, `frozen`, `first_layer` or `record`
    objects, so make functions and optimizer once and reuse them; keys, data, steps,
    the values of `record_steps` and `on_record` are free. Inside `jax.jit` or
    `jax.vmap` it works too, without checks of the values, checkpoints, progress or
    `on_record`.

    Args:
      init: key -> `flax.nnx.Module` that maps images to outputs (N, M). It is trained
        in training mode (`network.train()`) and recorded in inference mode
        (`network.eval()`).
      images: floating point, (N, H, W, C); their dtype should be that of the network
        (`LinearCNN` converts them).
      targets: for "mse" real numbers, (N,) or (N, M), converted to the dtype of the
        outputs; for "cross_entropy" integer labels (N,) from 0 to M - 1. For a loss of
        your own any tree of arrays with a leading axis N.
      optimizer: any optax transformation; its learning rate refers to the stated loss.
        One that looks at the loss, such as `optax.contrib.reduce_on_plateau`, gets that
        of the batch as `value`.
        Weight decay is a part of it, e.g. `optax.chain(optax.add_decayed_weights(5e-4),
        optax.sgd(0.01))`.
      key: of the initialisation and the order of the batches.
      steps, epochs: length of the run, one of the two. Steps after the last recorded
        one are run for the final state alone, so not if that is not kept.
      record_steps: increasing steps to record, such as log-spaced ones; after every
        epoch if None. Step 0, before training, is always recorded.
      batch_size: images per step; all of them (full-batch gradient descent) if None.
        Every epoch is a new permutation; images left over when N is no multiple are
        skipped for that epoch.
      loss: "mse", the mean over images of the squared error summed over outputs, or
        "cross_entropy", the mean over images of the softmax cross-entropy in nats; or a
        function (outputs, targets) -> (N,), the loss of each image, whose mean is
        trained on. Outputs may then be any tree of arrays with a leading axis N.
      metrics: functions of the same kind by their names, whose means over all images
        are recorded beside the loss.
      validation: images (V, H, W, C) and targets, (V,) or (V, M), that are only
        evaluated.
      augment: (key, images) -> images of the same shape and type, applied to each batch
        before a step with a key of its own, e.g. `random_crop_and_flip`; not to what is
        recorded.
      frozen: layers, or single parameters, that keep their initial values, by their
        attribute paths: ("conv1",), or ("conv1.kernel",), whose bias then learns.
      first_layer: attribute path of the layer that is recorded in `Trajectory.conv1`,
        such as "stem.conv". By default the layer `conv1`, else the only convolution
        (`flax.nnx.Conv` of two image axes, not in groups) that takes as many channels
        as the images have, else the only one at all.
      record: kernels of other layers to record in `Trajectory.kernels`, by the paths of
        the layers or, if they are not called `kernel`, their own: any parameters of two
        or more axes.
      on_record: (step, record) -> bool or None, called by the host after every record,
        that of step 0 included. `record` is a `Trajectory` of this step alone, without
        the axis R and the state: NumPy arrays that cannot be written to. True stops the
        run; the trajectory then has the records so far, says that it was `stopped`, and
        its state is that of this step. What the function raises is passed on, after a
        checkpoint. It is no part of a run's identity: a run that is continued from a
        checkpoint is asked about its new records alone (and the one where the function
        failed); one that was stopped comes back as it is, or without `on_record` is
        trained to its end.
      fast_convolutions: where an `nnx.Conv` has JAX's own convolution, which is its
        default, train with `patch_convolution` in its place: on a CPU, and elsewhere
        with many seeds. The values are the same up to rounding, and a warning says so;
        the networks that `init` and `trained_network` make keep theirs. Checkpoints are
        continued by runs with the same convolutions.
      keep_state: return the trained network's variables, `Trajectory.state`.
      mesh: devices over which the images of each step are spread, along its axis
        "batch", whose size must divide their number: `jax.make_mesh((8,), ("batch",))`.
        Parameters and the whole data set are on each of them; batch statistics are
        those of the whole batch. The result is that of one device up to rounding, and
        a checkpoint goes from one mesh to another. It may span all processes that
        `jax.distributed` connects, each of which makes the same call. None: one device.
        A mesh that `jax.set_mesh` has made active is set aside.
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
      TypeError, ValueError: malformed arguments, a network whose first layer is not
        told, paths that it does not have, outputs that do not match the targets, a loss
        or metric that does not give one number for each image, an augmentation that
        changes shape or type, a mesh of other axes or whose devices do not divide the
        images of a step, an active or explicit mesh inside a JAX transformation, an
        optimizer that needs more than gradients, parameters and loss, `on_record`
        inside a JAX transformation, checkpoints of another run,
        in use by another process or all damaged, before anything is trained; the
        message names the remedy. OSError: a checkpoint cannot be written.
      TrainingDiverged: a loss is not finite, which at step 0 is known before the
        training's program is compiled; it holds what was recorded until then.

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

      The trained network itself:

      >>> network = linear_cnn.trained_network(init, run)
      >>> bool(jax.numpy.array_equal(network.conv1.kernel[...], run.conv1[-1]))
      True

      Stopped as soon as it is good enough:

      >>> short = linear_cnn.train(
      ...     init,
      ...     images,
      ...     images[:, 1, 1, 0],
      ...     optimizer=optax.sgd(0.05),
      ...     key=jax.random.key(1),
      ...     steps=1000,
      ...     record_steps=[10, 100, 1000],
      ...     on_record=lambda step, record: record.loss < 0.1,
      ... )
      >>> short.stopped, int(short.steps[-1]) < 1000
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
        metrics,
        augment,
        record,
        first_layer,
        on_record,
    )
    program = _Program(init, *plan.settings)._replace(
        fast_convolutions=fast_convolutions,
        mesh=checked_mesh(mesh, (BATCH,), plan.batch),
    )
    if program.mesh is not None:
        check_active_mesh(program.mesh)
    return _run(
        program, None, key, plan, checkpoint_dir, progress, keep_state, on_record
    )


@no_active_mesh()
def train_seeds(
    init: Init,
    images: ArrayLike,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    steps: int | None = None,
    epochs: int | None = None,
    record_steps: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    loss: Loss = "mse",
    metrics: Mapping[str, ForEach] | None = None,
    validation: tuple[ArrayLike, Any] | None = None,
    augment: Augment | None = None,
    frozen: Sequence[str] = (),
    first_layer: str | None = None,
    record: Sequence[str] = (),
    on_record: OnRecord | None = None,
    fast_convolutions: bool = True,
    keep_state: bool = True,
    mesh: Mesh | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Train many seeds in one compiled program; the same as `train` for each of the
    keys, up to rounding.

    The seeds are spread over the devices that are there, in blocks whose size does
    not depend on how many these are: nor do the bits of a seed, as far as the compiler
    treats one device and several, one block and several alike. A checkpoint is
    continued on any number. A CPU counts as one device unless told otherwise before JAX
    first computes: `jax.config.update("jax_num_cpu_devices", 2)` uses two cores.

    Args:
      targets: shared, as in `train`, or one set a seed with a leading seed axis S.
      mesh: devices over which the seeds are spread, along its axis "seeds", and the
        images of each step of each seed, along its axis "batch"; it may have one of
        them or both: `jax.make_mesh((2, 4), ("seeds", "batch"))`. By default all
        devices take seeds, those of the other processes too where `jax.distributed`
        connects several: each of these then makes the same call and gets the same
        trajectory, and the first one alone writes checkpoints.
      keys: (S,), one a seed, for example `jax.random.split(key, S)`. Those of other
        generators than "threefry2x32", such as "rbg", train one after the other on each
        device, since JAX draws their numbers from the first key of a block alone.
      on_record: as in `train`; its record has the leading seed axis, and True stops all
        seeds.
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
        metrics,
        augment,
        record,
        first_layer,
        on_record,
        keys.shape[0],
    )
    program = _Program(init, *plan.settings)._replace(
        fast_convolutions=fast_convolutions
    )
    both = checked_mesh(mesh, (SEEDS, BATCH), plan.batch)
    layout = _layout(program, keys, plan, both)
    check_active_mesh(layout.mesh)
    if BATCH in layout.mesh.axis_names:
        program = program._replace(mesh=layout.mesh)
    return _run(
        program, layout, keys, plan, checkpoint_dir, progress, keep_state, on_record
    )
