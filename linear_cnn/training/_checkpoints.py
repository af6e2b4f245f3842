"""Checkpoints of training: the whole state, what was recorded so far, and which run
they belong to."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linear_cnn.training._hosts import Hosts
from linear_cnn.training._identity import difference, digest
from linear_cnn.training._lock import locked

LOCK = "in_use.lock"
KEPT = 2  # lest a damaged one be all there is
# How a run ended before its last step: `on_record` stopped it, or raised an error.
STOPPED, FAILED = "stopped by on_record", "on_record failed"
# Ends of the names of folders that an interruption may leave.
_UNFINISHED, _REMOVED = ".unfinished", ".removed"
_CONTENT = "run.json"
_ANEW = "Choose another checkpoint_dir, or delete this folder to start anew."


class _Damaged(Exception):
    """A checkpoint cannot be used; the reason in words."""


@contextmanager
def in_use(folder: Path) -> Iterator[Path]:
    """Make a folder for checkpoints, and keep other processes out of it.

    Yields:
      its whole path.

    Raises:
      OSError: it cannot be written to. ValueError: another process has it.
    """
    folder = folder.expanduser().resolve()
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = locked(
                folder / LOCK,
                f"the checkpoint folder {folder}",
                "wait for its end, or choose another checkpoint_dir",
            )
            stack.enter_context(lock)
        except OSError as error:
            raise OSError(
                f"cannot write checkpoints to {folder}: {error}; choose another"
                " checkpoint_dir."
            ) from error
        yield folder


class Checkpoints:
    """The checkpoints in one folder, each in one of its own that is named by the step:
    arrays as Orbax writes them, and beside them what run they are of, with checksums of
    all. Each is there whole or not at all; the newest two are kept."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open a folder that is `in_use` by this process."""
        self._folder, self._identity = folder, identity
        self._whole: dict[int, str | None] = {}  # steps, and how the run ended there
        self._clean()

    def restore(
        self, outline: Any, records: np.ndarray
    ) -> tuple[Any, int, list[dict[str, np.ndarray]], str | None] | None:
        """State, step and recorded rows of the newest checkpoint that is whole, and how
        the run ended there; None if there is none at all.

        Args:
          outline: the state's shapes, as `jax.eval_shape` gives them.
          records: the steps to record.

        Raises:
          ValueError: it is of another run, or none is whole.
        """
        damaged = {}
        for step in sorted(self._steps(), reverse=True):
            try:
                content = self._content(step)
                other = difference(content["identity"], self._identity)
                if other:
                    raise ValueError(
                        f"{self._folder} holds a checkpoint of {other}. {_ANEW}"
                    )
                if _count(content["rows"]) != np.searchsorted(records, step, "right"):
                    raise _Damaged("it is of no step of this run")
                restored = self._arrays(step, content, outline)
            except _Damaged as reason:
                damaged[self._folder / str(step)] = str(reason)
                continue
            ending = content.get("ending")
            self._whole[step] = ending
            if damaged:
                warnings.warn(
                    f"{_listed(damaged)}; training continues from the checkpoint"
                    f" before, of step {step}.",
                    stacklevel=7,  # whoever calls `train`
                )
            return *restored, ending
        if damaged:
            raise ValueError(
                f"no checkpoint in {self._folder} is whole: {_listed(damaged)}. {_ANEW}"
            )
        return None

    def save(
        self,
        state: Any,
        step: int,
        rows: list[dict[str, np.ndarray]],
        ending: str | None = None,
    ) -> None:
        """Write a checkpoint of the state after a step, and how the run ended there if
        it did; and drop those that are not among the last two.

        Raises:
          OSError: it cannot be written; the message says what is left.
        """
        if step in self._whole and self._whole[step] == ending:
            return
        ocp = _orbax()
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        kept = _kept(state)
        content = {
            "step": step,
            "identity": self._identity,
            "rows": {
                name: [list(array.shape), str(array.dtype)]
                for name, array in stacked.items()
            },
            "digests": _digests(kept, stacked),
        } | ({"ending": ending} if ending else {})
        place = self._folder / str(step)
        unfinished = self._folder / f"{step}{_UNFINISHED}"
        try:
            with _checkpointer() as writer:
                writer.save(
                    unfinished,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(kept),
                        rows=ocp.args.StandardSave(stacked),
                    ),
                )
            content["files"] = _checksums(unfinished)
            text = json.dumps(content | {"digest": _of_json(content)})
            (unfinished / _CONTENT).write_text(text, encoding="utf-8")
            if place.exists():  # damaged, or with another ending
                self._remove(step)
            unfinished.rename(place)
        except Exception as error:  # Orbax's own, and those of its storage
            self._clean()
            left = (
                f"from the one of step {max(self._whole)}, which is whole"
                if self._whole
                else "from the start, since there is none before it"
            )
            raise OSError(
                f"cannot write the checkpoint {place} ({_short(error)}). Make room and"
                f" start again with the same arguments: training continues {left}."
            ) from error
        whole = self._whole | {step: ending}
        self._whole = {kept: whole[kept] for kept in sorted(whole)[-KEPT:]}
        for old in self._steps() - set(self._whole):
            self._remove(old)

    def _steps(self) -> set[int]:
        names = {path.name for path in self._folder.iterdir()}
        # Of all ways to write a number those in which `save` does.
        return {
            int(name) for name in names if name.isdecimal() and str(int(name)) == name
        }

    def _remove(self, step: int) -> None:
        # Renamed first: an interruption leaves no half of a checkpoint.
        doomed = self._folder / f"{step}{_REMOVED}"
        (self._folder / str(step)).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _clean(self) -> None:
        """Remove what an interruption has left."""
        # What Orbax has not finished ends in more.
        for pattern in (f"*{_UNFINISHED}*", f"*{_REMOVED}"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _content(self, step: int) -> dict[str, Any]:
        """What is written of a checkpoint beside its arrays, after comparing all files
        with their checksums."""
        place = self._folder / str(step)
        try:
            content = json.loads((place / _CONTENT).read_text(encoding="utf-8"))
            expected = content.pop("digest")
        except Exception as error:  # any bytes may be there, and mean anything
            raise _Damaged(
                f"its {_CONTENT} is missing, damaged or of an older version"
            ) from error
        if expected != _of_json(content):
            raise _Damaged(f"its {_CONTENT} does not match its checksum")
        if content["step"] != step:
            raise _Damaged(f"it is the one of step {content['step']}")
        # Before Orbax sees them: of damaged files it tells in kilobytes, some of it
        # from threads of its own.
        found = _checksums(place)
        for name, checksum in content["files"].items():
            if found.get(name) != checksum:
                what = "does not match its checksum" if name in found else "is missing"
                raise _Damaged(f"its {name} {what}")
        return content

    def _arrays(
        self, step: int, content: Mapping[str, Any], outline: Any
    ) -> tuple[Any, int, list[dict[str, np.ndarray]]]:
        """State, step and rows of a checkpoint, compared with their checksums."""
        rows = {
            name: np.empty(shape, dtype)
            for name, (shape, dtype) in content["rows"].items()
        }
        restore = _orbax().args.StandardRestore
        found = self._read(step, state=restore(_kept(outline)), rows=restore(rows))
        if _digests(found["state"], found["rows"]) != content["digests"]:
            raise _Damaged("its arrays do not match their checksums")
        state = _unkept(outline, found["state"])
        return (
            state,
            step,
            [
                {name: found["rows"][name][row] for name in rows}
                for row in range(_count(content["rows"]))
            ],
        )

    def _read(self, step: int, **items: Any) -> Any:
        ocp = _orbax()
        try:
            with _checkpointer() as reader:
                return reader.restore(
                    self._folder / str(step), args=ocp.args.Composite(**items)
                )
        except Exception as error:  # Orbax's own, and those of its storage
            raise _Damaged("its arrays cannot be read") from error


def restored_by_all(
    hosts: Hosts,
    checkpoints: Checkpoints | None,
    outline: Any,
    row: Mapping[str, Any],
    records: np.ndarray,
) -> tuple[Any, int, list[dict[str, np.ndarray]], str | None] | None:
    """`Checkpoints.restore`, of which the first process alone has some, in all.

    Args:
      outline, row: shapes of the state and of what is recorded in one step.
    """
    found = hosts.on_first(
        lambda: None if checkpoints is None else checkpoints.restore(outline, records)
    )
    if not hosts.several:
        return found
    endings = [None, STOPPED, FAILED]
    state, step, rows, ending = found or (None, -1, [], None)
    step, count, number = map(
        int, hosts.gathered(step, len(rows), endings.index(ending))[0]
    )
    if step < 0:
        return None
    kept = _kept(outline if state is None else state)
    stacked = {
        name: np.stack([one[name] for one in rows])
        if rows
        else np.zeros((count, *leaf.shape), leaf.dtype)
        for name, leaf in sorted(row.items())
    }
    kept, stacked = hosts.of_first((kept, stacked))
    rows = [{name: stacked[name][n] for name in row} for n in range(count)]
    return _unkept(outline, kept), step, rows, endings[number]


def _checkpointer() -> Any:
    """Of this process alone: by default all of a job write together."""
    ocp = _orbax()
    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"of {own}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        **{
            name: ocp.StandardCheckpointHandler(multiprocessing_options=alone)
            for name in ("state", "rows")
        },
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _orbax() -> Any:
    # Takes seconds, which only those who need it should wait for.
    import orbax.checkpoint

    return orbax.checkpoint


def _count(rows: Mapping[str, Any]) -> int:
    """How many rows there are, from their shapes and types."""
    shape, _ = next(iter(rows.values()))
    return int(shape[0])


def _of_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    """Of all files in a folder, by their names in it, but for the one that lists
    them."""
    found = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path != folder / _CONTENT:
                with path.open("rb") as file:
                    checksum = hashlib.file_digest(file, "sha256").hexdigest()
                found[path.relative_to(folder).as_posix()] = checksum
    except OSError as error:
        raise _Damaged(f"a file of it cannot be read: {error}") from error
    return found


def _digests(state: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """A checksum of every array of a checkpoint."""
    return {
        name: {key: digest(array) for key, array in arrays.items()}
        for name, arrays in (("state", state), ("rows", rows))
    }


def _listed(damaged: Mapping[Path, str]) -> str:
    return ", ".join(
        f"the checkpoint {place} is damaged ({reason})"
        for place, reason in damaged.items()
    )


def _short(error: Exception) -> str:
    """An error in one line, without the kilobytes that some append."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:200]}..."


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
