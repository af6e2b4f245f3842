"""What was recorded at each step: side by side in a trajectory, or shown to a function
of the user's."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linear_cnn.training._seeds import _Layout
from linear_cnn.training._step import KERNEL, METRIC
from linear_cnn.training._trajectory import Trajectory

OnRecord = Callable[[int, Trajectory], bool | None]
Row = dict[str, Any]
_GROUPS = {
    METRIC: "metrics",
    f"validation_{METRIC}": "validation_metrics",
    KERNEL: "kernels",
}


def _trajectory(
    records: np.ndarray,
    rows: list[Row],
    layout: _Layout | None,
    seeds: int,
    state: Any = None,
    stopped: bool = False,
) -> Trajectory:
    """The rows side by side; seeds that only filled up a block are dropped."""
    rows = [_of_seeds(row, layout, seeds) for row in rows]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(rows))
    stack = partial((jnp if traced else np).stack, axis=0 if layout is None else 1)
    empty = np.zeros((0,), np.float32)
    fields = {"steps": records[: len(rows)], "conv1": empty, "loss": empty} | (
        {name: stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
    )
    # Put there as they are: `jnp.asarray` compiles a program for each shape.
    fields = jax.device_put(_grouped(fields))
    return Trajectory(**fields, state=state, stopped=stopped)


def _stops(
    on_record: OnRecord, step: int, row: Row, layout: _Layout | None, seeds: int
) -> bool:
    """Show a record to the user's function, and whether it wants the run to stop."""
    shown = {
        name: _read_only(value) for name, value in _of_seeds(row, layout, seeds).items()
    }
    fields = _grouped({"steps": _read_only(step)} | shown)
    answer = on_record(step, Trajectory(**fields))
    if answer is None:
        return False
    is_bool = isinstance(answer, bool) or getattr(answer, "dtype", None) == np.bool_
    if is_bool and np.ndim(answer) == 0:
        return bool(answer)
    raise TypeError(
        "on_record must return True, which stops the run, or False or None, got"
        f" {answer!r}; make one answer of many seeds by .all() or .any()."
    )


def _of_seeds(row: Row, layout: _Layout | None, seeds: int) -> Row:
    return row if layout is None else {name: v[:seeds] for name, v in row.items()}


def _read_only(values: Any) -> np.ndarray:
    view = np.asarray(values).view()
    view.flags.writeable = False
    return view


def _grouped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a trajectory: metrics and kernels in groups, by their names."""
    grouped: dict[str, Any] = {}
    for name, value in fields.items():
        start = next((start for start in _GROUPS if name.startswith(start)), None)
        if start is None:
            grouped[name] = value
        else:
            group = grouped.setdefault(_GROUPS[start], {})
            group[name.removeprefix(start)] = value
    return grouped
