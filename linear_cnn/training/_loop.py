"""A jit-compiled training loop that records the first layer's trajectory.

The run is cut into stretches of steps, each of them one call of a compiled program (no
Python between steps): to the next step to record, or as far as about a second takes.
Between them the host records, reports and keeps checkpoints.
"""

import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Lowered

from linear_cnn._progress import progress_bar
from linear_cnn.training._checkpoints import (
    FAILED,
    STOPPED,
    Checkpoints,
    in_use,
    restored_by_all,
)
from linear_cnn.training._compilation import compiled_beside
from linear_cnn.training._hosts import hosts_of
from linear_cnn.training._identity import identify
from linear_cnn.training._mesh import SEEDS
from linear_cnn.training._plan import _matched, _Plan
from linear_cnn.training._rows import OnRecord, Row, _stops, _trajectory
from linear_cnn.training._seeds import (
    _advance_all,
    _first,
    _Layout,
    _on_host,
    _one_block,
    _place,
    _record_all,
    _start_all,
    _start_traced,
)
from linear_cnn.training._signals import stop, stop_later
from linear_cnn.training._step import _Program, _State, _update
from linear_cnn.training._trajectory import TrainingDiverged, Trajectory


def _run(
    program: _Program,
    layout: _Layout | None,
    keys: jax.Array,
    plan: _Plan,
    checkpoint_dir: str | Path | None,
    progress: bool,
    keep_state: bool,
    on_record: OnRecord | None,
) -> Trajectory:
    count, records = plan.images.shape[0], plan.records
    seeds = 1 if layout is None else keys.shape[0]
    of_each = None if layout is None else seeds
    shape = jax.ShapeDtypeStruct(plan.images.shape, plan.images.dtype)
    keys = _place(program, layout, keys, of_each=True)
    outline = _start_all().eval_shape(program, layout, shape, keys)
    leaves, tree = outline.outputs
    outputs = jax.tree.unflatten(tree, leaves)
    data, validation = _matched(program.loss, program.metrics, plan, outputs)
    _check_optimizer(program, outline, layout)
    # What nobody sees is not run.
    last = plan.steps if keep_state else int(records[-1])
    data = tuple(
        _place(program, layout, values, own)
        for values, own in zip(data, (False, plan.targets_of_each), strict=True)
    )
    validation = _place(program, layout, validation, of_each=False)
    traced = any(
        isinstance(leaf, jax.core.Tracer)
        for leaf in jax.tree.leaves((keys, data, validation))
    )
    if checkpoint_dir is not None and traced:
        raise ValueError(
            "checkpoint_dir must be None inside jax.jit or jax.vmap: a trace has"
            " nothing to keep."
        )
    if on_record is not None and traced:
        raise ValueError(
            "on_record must be None inside jax.jit, jax.vmap or jax.grad: a trace has"
            " no numbers to show. The trajectory that is returned has all records; many"
            " seeds outside of them is what train_seeds is for."
        )
    images_per_step = seeds * (program.batch_size or count)
    hosts = hosts_of(program.mesh if layout is None else layout.mesh)
    if checkpoint_dir is not None and not hosts.several and jax.process_index():
        raise ValueError(
            "checkpoint_dir must be None for a run of one process that is not the first"
            " of its job: only that one can write checkpoints. Give a mesh of all"
            " devices, jax.devices()."
        )
    with ExitStack() as stack:
        folder = checkpoint_dir and hosts.on_first(
            lambda: stack.enter_context(in_use(Path(checkpoint_dir)))
        )
        if traced:
            # Compiler options cannot be given inside a trace.
            state = _start_traced(program, layout, shape, keys)
            ready = _never
        else:
            recording, training = _lowered(
                program, layout, outline, keys, data, validation
            )
            # The first record, and what was kept, need not wait for it.
            ready = stack.enter_context(compiled_beside(training)) if last else _never
            state = _start_all()(program, layout, shape, keys)
            recording.compile()
        step, stopped = 0, False
        rows: list[Row] = []
        checkpoints: Checkpoints | None = None  # of the first process

        def save(ending: str | None) -> None:
            if checkpoint_dir is not None:
                kept = _on_host(state, of_each)

                def write() -> None:
                    if checkpoints is not None:
                        checkpoints.save(kept, step, rows, ending)

                hosts.on_first(write)

        def asked() -> bool:
            """Whether `on_record` stops the run; an error of it loses no state."""
            if on_record is None:
                return False
            answer, failed = False, None
            try:
                answer = _stops(on_record, step, rows[-1], layout, seeds)
            except (Exception, SystemExit) as error:
                failed = error
            answers = hosts.gathered(failed is not None, answer)
            if answers[:, 0].any():
                save(FAILED)
                raise failed or ValueError("on_record has failed in another process.")
            return bool(answers[0, 1]) and step < last

        if checkpoint_dir is not None:
            begun, own_keys = _on_host((state, keys), of_each)
            targets = _on_host(data[1], seeds if plan.targets_of_each else None)

            def opened() -> Checkpoints:
                identity = _identity(
                    program,
                    layout,
                    outline,
                    begun,
                    own_keys,
                    (data[0], targets),
                    validation,
                    records,
                    last,
                )
                return Checkpoints(Path(folder or checkpoint_dir), identity)

            checkpoints = hosts.on_first(opened)
            of_row = _record_all.eval_shape(program, layout, outline, data, validation)
            restored = restored_by_all(
                hosts,
                checkpoints,
                _first(outline, of_each),
                _first(of_row, of_each),
                records,
            )
            if restored is not None:
                state, step, rows, ending = restored
                state = _place(program, layout, state, of_each=True)
                stopped = ending == STOPPED and on_record is not None
                if ending == FAILED:
                    stopped = asked()
                    save(STOPPED if stopped else None)
        # Without checkpoints there is nothing to save.
        signalled = stack.enter_context(stop_later()) if checkpoint_dir else _never
        bar = stack.enter_context(
            progress_bar(
                total=last,
                initial=step,
                disable=not (progress and hosts.first),
                unit="step",
                dynamic_ncols=True,
            )
        )
        stretch, saved, received = 1, -np.inf, 0
        while not stopped and (len(rows) < len(records) or step < last):
            recording_now = len(rows) < len(records)
            target = int(records[len(rows)]) if recording_now else last
            slow = True
            if step < target:
                end = target if traced else min(target, step + stretch)
                ready()
                began = time.perf_counter()
                state = _advance_all(
                    program, layout, state, *data, _index(step), _index(end)
                )
                if not traced:
                    # Waits for the result.
                    failed, losses = map(
                        np.atleast_1d, _on_host((state.failed, state.loss), of_each)
                    )
                    _check_steps(failed, losses, rows, records, layout, seeds)
                    seconds = time.perf_counter() - began
                    _report(bar, losses, rows, (end - step) * images_per_step / seconds)
                    bar.update(end - step)
                    slow = seconds >= _STRETCH_SECONDS
                step = end
            if step == target and recording_now:
                row = _record_all(program, layout, state, data, validation)
                if not traced:
                    row = _on_host(row, of_each)
                    _check_record(row, step, rows, records, layout, seeds)
                rows.append(row)
                stopped = asked()
            due = time.perf_counter() - saved > _CHECKPOINT_SECONDS
            if not traced:
                # As the first process finds; a signal may come to any.
                found = hosts.gathered(slow, due, signalled() or 0)
                (slow, due), received = map(bool, found[0, :2]), int(found[:, 2].max())
            stretch = stretch if slow else stretch * 2
            if checkpoint_dir is not None and (
                received
                or stopped
                or due
                or (len(rows) == len(records) and step == last)
            ):
                save(STOPPED if stopped else None)
                saved = time.perf_counter()
            if received:
                break
    if received:
        stop(
            received,
            f"training was stopped by {signal.Signals(received).name} after step {step}"
            f" of {last}; called again with the same arguments it continues from"
            f" the checkpoint in {folder or checkpoint_dir}",
        )
    kept = _final(state, layout, seeds, traced) if keep_state else None
    return _trajectory(records, rows, layout, seeds, kept, stopped)


def _check_optimizer(
    program: _Program, outline: _State, layout: _Layout | None
) -> None:
    """Raise if the optimizer asks for more than the loop has; nothing is computed."""
    axes_of_seeds = 0 if layout is None else 1
    weights, moments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes_of_seeds:], leaf.dtype),
        (outline.trained, outline.moments),
    )
    value = jax.ShapeDtypeStruct((), outline.loss.dtype)
    try:
        jax.eval_shape(partial(_update, program), weights, moments, weights, value)
    except Exception as error:  # each transformation has its own
        raise TypeError(
            f"optimizer cannot be used here: {type(error).__name__}: {error}; it gets"
            " the gradients, the parameters and the loss as `value`; one that evaluates"
            " the loss anew in each step, as optax.lbfgs does, needs a loop of its own."
        ) from error


def _final(state: _State, layout: _Layout | None, seeds: int, traced: bool) -> Any:
    """All variables of the network, or of the networks with a leading seed axis, as
    plain arrays; seeds that only filled up a block are dropped."""
    variables = nnx.merge_state(state.trained, state.frozen, state.rest)

    if layout is None and traced:
        return variables
    if traced:
        return jax.tree.map(lambda leaf: leaf[:seeds], variables)
    return jax.device_put(_on_host(variables, None if layout is None else seeds))


def _never() -> Any:
    """No signal, or nothing to wait for."""


def _identity(
    program: _Program,
    layout: _Layout | None,
    outline: _State,
    state: _State,
    keys: jax.Array,
    data: tuple[Any, Any],
    validation: tuple[Any, Any] | None,
    records: np.ndarray,
    last: int,
) -> dict[str, Any]:
    """What a checkpoint of this run must agree with; of its state before step 0.

    Nothing of it depends on how many devices there are: the programs are those that one
    device has for one block of seeds.
    """
    alone = None if layout is None else _one_block(layout)
    size = None if alone is None else alone.size
    of_block = (
        _first(data[0]),
        _first(data[1], size if layout and layout.targets_of_each else None),
    )
    recording, training = _lowered(
        program._replace(mesh=None),
        alone,
        _first(outline, size),
        None,
        of_block,
        _first(validation),
    )
    weights = state.trained, state.frozen, state.rest
    arrays = {
        "keys": keys,
        "images": data[0],
        "targets": data[1],
        "validation": validation,
        "record_steps": records,
        # Those of the same key differ too: by the scale of the initialisation, or a
        # fixed head.
        "initial weights": weights,
        # A learning rate may be there, or a seed of noise.
        "initial state of the optimizer": state.moments,
    }
    if last != records[-1]:
        arrays["steps"] = np.asarray(last)
    return identify(
        state.trained,
        state.frozen,
        arrays,
        {"program": training.as_text(), "recording": recording.as_text()},
        data[0].devices(),
    )


def _lowered(
    program: _Program,
    layout: _Layout | None,
    outline: _State,
    keys: jax.Array | None,
    data: tuple[Any, Any],
    validation: tuple[Any, Any] | None,
) -> tuple[Lowered, Lowered]:
    """The programs that record and that train, as the calls will ask for them."""

    def place(leaf: Any) -> Any:
        if layout is None:
            return keys.sharding if keys is not None and keys.committed else None
        # XLA spreads no empty array.
        spec = PartitionSpec(*(SEEDS,) if leaf.size else ())
        return NamedSharding(layout.mesh, spec)

    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf)),
        outline,
    )
    recording = _record_all.lower(program, layout, placed, data, validation)
    zero = _index(0)
    return recording, _advance_all.lower(program, layout, placed, *data, zero, zero)


_STRETCH_SECONDS = 1.0  # long beside the cost of a call, short beside patience
_CHECKPOINT_SECONDS = 20.0


def _index(step: int) -> np.ndarray:
    return np.asarray(step, int)


def _check_steps(
    failed: np.ndarray,
    loss: np.ndarray,
    rows: Any,
    records: np.ndarray,
    layout: _Layout | None,
    seeds: int,
) -> None:
    """Raise if the loss of a step was not finite."""
    if (failed < 0).all():
        return
    seed = int(np.argmin(np.where(failed < 0, np.iinfo(failed.dtype).max, failed)))
    _diverged(
        "the loss",
        loss[seed],
        f"step {failed[seed]}",
        seed,
        rows,
        records,
        layout,
        seeds,
    )


def _check_record(
    row: Any,
    step: int,
    rows: Any,
    records: np.ndarray,
    layout: _Layout | None,
    seeds: int,
) -> None:
    """Raise if a recorded loss is not finite."""
    for name in ("loss", "validation_loss"):
        values = np.atleast_1d(row.get(name, 0.0))[:seeds]
        if not np.isfinite(values).all():
            seed = int(np.argmin(np.isfinite(values)))
            what = f"the recorded {name.replace('_', ' ')}"
            _diverged(
                what, values[seed], f"step {step}", seed, rows, records, layout, seeds
            )


def _diverged(
    what: str,
    value: Any,
    when: str,
    seed: int,
    rows: Any,
    records: Any,
    layout: Any,
    seeds: int,
) -> None:
    of_seed = "" if layout is None else f" of seed {seed}"
    remedy = (
        "lower the learning rate or scale the images"
        if rows
        else "nothing is trained yet, so look at the loss (a logarithm or quotient of"
        " 0), the scale of the images and the initial weights"
    )
    raise TrainingDiverged(
        f"{what}{of_seed} is {value} at {when}; {remedy}. The {len(rows)} records until"
        " then are in this error's `trajectory`.",
        _trajectory(records, rows, layout, seeds),
    )


def _report(
    bar: Any, loss: np.ndarray, rows: list[dict[str, Any]], rate: float
) -> None:
    """Loss of the last batch and last recorded accuracies (means over seeds), and
    images a second."""
    shown = {"loss": f"{loss.mean():.4g}"}
    for name in ("accuracy", "validation_accuracy"):
        if name in rows[-1]:
            shown[name.replace("_", " ")] = f"{np.mean(rows[-1][name]):.3f}"
    # Shown when the bar is due.
    bar.set_postfix(shown | {"images/s": f"{rate:,.0f}"}, refresh=False)
