"""Moments on disk, so that machines or runs can each take their part of the images and
add up later."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory._precision import is_traced
from theory._saved import Archive, check_arrays, check_way, shown
from theory.autocorrelation import CrossMoments
from theory.mean_patches import MeanPatchMoments
from theory.moments import PatchMoments

Moments = PatchMoments | MeanPatchMoments | CrossMoments

_KINDS = {
    kind.__name__: kind for kind in (PatchMoments, MeanPatchMoments, CrossMoments)
}
_HEADER = "taken"


def save_moments(path: str | os.PathLike[str], moments: Moments) -> None:
    """Write moments to an .npz file, whole or not at all.

    Args:
      path: of the file; its folder must exist.
      moments: `PatchMoments`, `MeanPatchMoments` or `CrossMoments`.

    Raises:
      TypeError: something else, or moments inside a JAX transformation. OSError: the
        file cannot be written; one that stood there before is as it was.

    Examples:
      >>> import tempfile
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 1))
      >>> halves = [theory.patch_moments(part, 2) for part in np.split(images, 2)]

      Of two machines each saves its part, and whoever has both files adds them up:

      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for n in (0, 1):
      ...         theory.save_moments(f"{folder}/{n}.npz", halves[n])
      ...     parts = [theory.load_moments(f"{folder}/{n}.npz") for n in (0, 1)]
      >>> whole = theory.patch_moments(images, 2)
      >>> np.allclose((parts[0] + parts[1]).covariance, whole.covariance)
      True
    """
    kind = type(moments).__name__
    if kind not in _KINDS or is_traced(moments):
        raise TypeError(
            f"moments must be one of {sorted(_KINDS)}, outside a JAX transformation,"
            f" got {kind}."
        )
    values = {field.name: getattr(moments, field.name) for field in fields(moments)}
    static = {
        field.name: values.pop(field.name)
        for field in fields(moments)
        if field.metadata.get("static")
    }
    arrays = {name: np.asarray(value) for name, value in values.items()}
    unfinished = None
    try:
        descriptor, unfinished = tempfile.mkstemp(
            dir=Path(path).parent, prefix=".unfinished-"
        )
        with os.fdopen(descriptor, "wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                **{_HEADER: np.array(json.dumps({"kind": kind, **static}))},
                **arrays,
            )
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(unfinished, 0o666 & ~umask)  # mkstemp keeps others out
        os.replace(unfinished, path)
    except BaseException as error:
        if unfinished is not None:
            with suppress(OSError):  # the other error is the one to tell of
                os.unlink(unfinished)
        if not isinstance(error, OSError):
            raise
        # Of its own kind, such as FileNotFoundError.
        raise type(error)(
            f"cannot write the moments to {os.fspath(path)}: {error.strerror or error};"
            " what stood there before is as it was. Make room, or choose another"
            " folder, which must exist."
        ) from error


def load_moments(path: str | os.PathLike[str]) -> Moments:
    """Read what `save_moments` wrote, bit for bit.

    Args:
      path: of the file, as it was given to `save_moments`.

    Returns:
      the moments, of the class that was saved; NumPy arrays if JAX's float64 is off.

    Raises:
      FileNotFoundError: there is none. ValueError: the file is damaged or was written
        by something else; arrays of shapes or types that moments do not have.

    Examples:
      >>> import tempfile
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 1))
      >>> moments = theory.cross_moments(images, 2, [1, 2])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     theory.save_moments(f"{folder}/moments.npz", moments)
      ...     again = theory.load_moments(f"{folder}/moments.npz")
      >>> type(again).__name__, np.array_equal(again.cross, moments.cross)
      ('CrossMoments', True)
    """
    try:
        with Archive(path) as stored:
            static = stored.described(_HEADER)
            name = static.pop("kind")
            kind = _KINDS[name]
            check_way(static)
            names = [
                field.name for field in fields(kind) if not field.metadata.get("static")
            ]
            check_arrays(name, static, {name: stored.header(name) for name in names})
            arrays: dict[str, Any] = {name: stored.array(name) for name in names}
            if jax.config.read("jax_enable_x64"):
                arrays = jax.tree.map(jnp.asarray, arrays)
            return kind(
                **arrays, **{name: _tuples(value) for name, value in static.items()}
            )
    except FileNotFoundError:
        message = (
            f"there is no file {os.fspath(path)}; give one that save_moments wrote (it"
            " adds no .npz to its name)."
        )
        raise FileNotFoundError(message) from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged archive makes its readers fail in many ways
        raise ValueError(
            f"{os.fspath(path)} holds no moments written by save_moments, or is"
            f" damaged: {shown(error)}."
        ) from error


def _tuples(value: Any) -> Any:
    return (
        tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
    )
