"""Checkpoints of training: the whole state, what was recorded so far, and which run
they belong to."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def identify(
    trained: Any, frozen: Any, arrays: Mapping[str, Any], program: str
) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued, as JSON: parameters, arrays,
    and the program itself.

    The program is the text of the lowered step. It holds the network's arithmetic, the
    optimizer with its constants, the batch size and the loss, so a run with another
    learning rate is told apart.
    """
    parameters = {
        f"{jax.tree_util.keystr(path, simple=True, separator='.')}{suffix}": (
            f"{leaf.dtype}{list(leaf.shape)}"
        )
        for tree, suffix in ((trained, ""), (frozen, " (frozen)"))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    digests = {name: _digest(value) for name, value in arrays.items()}
    return {
        "parameters": parameters,
        **digests,
        "program": hashlib.sha256(program.encode()).hexdigest(),
    }


class Checkpoints:
    """The checkpoints in one folder; only the newest is kept. Orbax writes each whole
    or not at all."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open the folder, or make it.

        Raises:
          ValueError: it holds a checkpoint of another run. OSError: it cannot be
            written to.
        """
        # Takes seconds, which only those who need it should wait for.
        import orbax.checkpoint as ocp

        folder = folder.expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot write checkpoints to {folder}: {error}; choose another"
                " checkpoint_dir."
            ) from error
        self._args = ocp.args
        self._identity = identity
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(
            folder, options=options, item_names=("run", "state", "rows")
        )
        if self._manager.latest_step() is not None:
            self._check(folder, self._stored()["identity"])

    def restore(
        self, outline: Any
    ) -> tuple[Any, int, list[dict[str, np.ndarray]]] | None:
        """State, step and recorded rows of the newest checkpoint; None if there is
        none.

        Args:
          outline: the state's shapes, as `jax.eval_shape` gives them.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        rows = {
            name: np.empty(shape, dtype)
            for name, (shape, dtype) in self._stored()["rows"].items()
        }
        restored = self._manager.restore(
            step,
            args=self._args.Composite(
                state=self._args.StandardRestore(_kept(outline)),
                rows=self._args.StandardRestore(rows),
            ),
        )
        state = _unkept(outline, restored["state"])
        count = len(next(iter(rows.values())))
        return (
            state,
            step,
            [
                {name: restored["rows"][name][row] for name in rows}
                for row in range(count)
            ],
        )

    def save(self, state: Any, step: int, rows: list[dict[str, np.ndarray]]) -> None:
        """Write a checkpoint of the state after a step, and drop the one before."""
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        shapes = {
            name: (array.shape, str(array.dtype)) for name, array in stacked.items()
        }
        if self._manager.latest_step() == step:
            return
        self._manager.save(
            step,
            args=self._args.Composite(
                run=self._args.JsonSave({"identity": self._identity, "rows": shapes}),
                state=self._args.StandardSave(_kept(state)),
                rows=self._args.StandardSave(stacked),
            ),
        )

    def close(self) -> None:
        """Free what Orbax holds."""
        self._manager.close()

    def _stored(self) -> Any:
        return self._manager.restore(
            self._manager.latest_step(),
            args=self._args.Composite(run=self._args.JsonRestore()),
        )["run"]

    def _check(self, folder: Path, stored: Mapping[str, Any]) -> None:
        remedy = "Choose another checkpoint_dir, or delete this folder to start anew."
        if stored["parameters"] != self._identity["parameters"]:
            theirs, ours = stored["parameters"], self._identity["parameters"]
            name = next(
                name for name in [*theirs, *ours] if theirs.get(name) != ours.get(name)
            )
            raise ValueError(
                f"{folder} holds a checkpoint of another network: {name} is"
                f" {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} in"
                f" this one. {remedy}"
            )
        for name, value in self._identity.items():
            if stored.get(name) != value:
                what = (
                    "optimizer, batch size, loss, devices or versions"
                    if name == "program"
                    else name
                )
                raise ValueError(
                    f"{folder} holds a checkpoint of another run: its {what} differ."
                    f" {remedy}"
                )


def _kept(state: Any) -> dict[str, Any]:
    """The leaves of a state by number, as Orbax can keep them: without typed keys and
    empty arrays."""
    leaves = {}
    for number, leaf in enumerate(jax.tree.leaves(state)):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.eval_shape(jax.random.key_data, leaf)
            leaf = np.empty(leaf.shape, leaf.dtype)
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.size:
            leaves[str(number)] = np.asarray(leaf)
    return leaves


def _unkept(outline: Any, kept: Mapping[str, np.ndarray]) -> Any:
    """The state of that outline from its kept leaves."""
    leaves, structure = jax.tree.flatten(outline)
    values = []
    for number, leaf in enumerate(leaves):
        value = kept.get(
            str(number), np.empty(leaf.shape, None if _is_key(leaf) else leaf.dtype)
        )
        values.append(_wrapped(leaf, value) if _is_key(leaf) else value)
    return jax.tree.unflatten(structure, values)


def _wrapped(outline: Any, data: np.ndarray) -> jax.Array:
    """Keys of the outline's kind of generator."""
    kinds: list[Any] = []

    # A traced key tells its kind, an outline does not.
    def note(keys: jax.Array) -> jax.Array:
        kinds.append(jax.random.key_impl(keys))
        return keys

    jax.eval_shape(note, outline)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=kinds[0])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(value: Any) -> str:
    """A checksum of the arrays of a tree, with their shapes and types."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        if not isinstance(leaf, np.ndarray) and _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
