"""Checkpoints in several files, by their index or by the numbers in their names."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from linear_cnn._text import quoted, shown
from linear_cnn.weight_files._beside import _beside
from linear_cnn.weight_files._contents import _Contents, _named, _Refused, _Tensor

# A network of a trillion weights has five hundred.
_MOST_SHARDS = 2**10
_MOST_TENSORS = 2**16
_SHARD = re.compile(
    r"(?P<stem>.*)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<end>\..*)"
)
_Read = Callable[[Path], _Contents]


def _indexed(path: Path, places: Any, read: _Read) -> _Contents:
    """The tensors that an index places in files beside it."""
    if type(places) is not dict:
        raise ValueError("its weight_map is no dictionary")
    wanted: dict[Any, set[str]] = {}
    for tensor, name in places.items():
        wanted.setdefault(name, set()).add(tensor)
    if len(wanted) > _MOST_SHARDS:
        raise _Refused(f"it names more than {_MOST_SHARDS} shards.")
    shards = [(_beside(path, name, "shard"), own) for name, own in wanted.items()]
    return _merged(shards, read)


def _numbered(paths: Iterable[Path], read: _Read) -> _Contents | None:
    """The tensors of the shards among these files; None if there are none."""
    sets: dict[tuple[str, str, int], dict[int, Path]] = {}
    for path in paths:
        if found := _SHARD.fullmatch(path.name):
            key = (found["stem"], found["end"], int(found["count"]))
            sets.setdefault(key, {})[int(found["number"])] = path
    if not sets:
        return None
    if len(sets) > 1:
        names = ", ".join(sorted(f"{stem}{end}" for stem, end, _ in sets))
        raise _Refused(
            f"its shards are of several checkpoints; keep one: {shown(names)}."
        )
    [((stem, end, count), shards)] = sets.items()
    missing = next((n for n in range(1, count + 1) if n not in shards), None)
    if missing is not None:
        raise _Refused(
            f"shard {missing} of {count} of {shown(f'{stem}{end}')} is not there; put"
            " all of them into this folder."
        )
    return _merged(((path, None) for _, path in sorted(shards.items())), read)


def _merged(parts: Iterable[tuple[Path, set[str] | None]], read: _Read) -> _Contents:
    """All tensors of several files, or those of these names."""
    tensors: list[tuple[str, _Tensor]] = []
    first: _Contents | None = None
    for path, names in parts:
        try:
            contents = read(path)
        except _Refused as error:
            raise _Refused(f"of its shard {shown(path.name)}: {error}") from error
        first = first or contents
        if contents.format != first.format:
            raise _Refused(f"its shards are {first.format} and {contents.format}.")
        tensors += _of_names(path, contents.tensors, names)
        if len(tensors) > _MOST_TENSORS:
            raise _Refused(f"its shards have more than {_MOST_TENSORS} tensors.")
    if first is None:
        raise ValueError("it names no shard")
    return first._replace(tensors=_named(tensors), in_order=False)


def _of_names(
    path: Path, tensors: Mapping[str, _Tensor], names: set[str] | None
) -> list[tuple[str, _Tensor]]:
    if names is None:
        return list(tensors.items())
    if missing := next((name for name in names if name not in tensors), None):
        raise _Refused(
            f"its index says that {quoted(missing)} lies in {shown(path.name)}, where"
            " it does not; get index and shards anew."
        )
    return [(name, tensors[name]) for name in names]
