"""Results on disk: settings, arrays and summary of a run, each written whole or not at
all."""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.frame.hosts import arrays_of_first, decided, hosts
from linear_cnn._npz import read_npz


def prepare_folder(folder: Path, option: str = "--out") -> Path:
    """Make a folder, and raise OSError with the remedy now rather than after the
    computation if it cannot be used. Of a job's processes only the first one needs
    it."""
    if not hosts().first:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error}; choose another folder with {option}."
        ) from error
    return folder


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it, so that no
    interruption leaves half a file; OSError names `path`, and what is left. Of a job's
    processes only the first one does."""
    if not hosts().first:
        return
    try:
        # The suffix stays the same, since writers choose the format by it.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=".unfinished-", suffix=path.suffix
        )
        os.close(descriptor)
        unfinished = Path(name)
        try:
            write(unfinished)
            umask = os.umask(0)
            os.umask(umask)
            unfinished.chmod(0o666 & ~umask)  # mkstemp keeps others out
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; what stood there before"
            " is as it was. Make room, or choose another folder."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes."""
    write_whole(path, lambda file: file.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write a file of text."""
    # Names of files may hold bytes that are no text.
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NumPy numbers and paths are accepted."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(content, indent=2, default=_plain) + "\n"


def each_float(change: Callable[[float], float | None], content: Any) -> Any:
    """What is written as JSON, with every float changed."""
    if isinstance(content, dict):
        return {key: each_float(change, value) for key, value in content.items()}
    if isinstance(content, list):
        return [each_float(change, value) for value in content]
    return change(content) if isinstance(content, float) else content


def four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as .npz."""
    content = {name: np.asarray(array) for name, array in arrays.items()}
    write_whole(path, lambda file: np.savez(file, **content))  # type: ignore[arg-type]


def read_json(path: Path, remedy: str) -> Any:
    """Read JSON; ValueError with the remedy if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # JSON can escape halves of characters, which nothing can show.
        json.dumps(content, ensure_ascii=False).encode()
        return content
    # UnicodeError is a ValueError too; thousands of brackets are the other one.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}.") from error


def read_arrays(
    path: Path, remedy: str = "run the experiment again"
) -> dict[str, np.ndarray]:
    """Read the arrays of a run.

    Raises:
      FileNotFoundError: there are none, with the remedy.
      ValueError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {remedy}.")
    return read_npz(path, "is damaged", remedy)


def kept_arrays(
    file: Path, make: Callable[[], Mapping[str, Any]], *, fresh: bool
) -> dict[str, np.ndarray]:
    """The arrays of a file, which are made if it is not there, or `fresh`."""
    if decided(lambda: fresh or not file.exists()):
        write_arrays(file, make())
    return arrays_of_first(lambda: read_arrays(file, f"remove {file}"))


def environment() -> dict[str, Any]:
    """What a run depends on besides its settings: versions and machine."""
    packages = (
        "linear-cnn",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "numpy",
        "scipy",
        "matplotlib",
    )
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "backend": jax.default_backend(),
        "devices": [str(device.device_kind) for device in jax.local_devices()],
        "float64": bool(jax.config.read("jax_enable_x64")),
    }


def version(package: str) -> str | None:
    """The installed version of a package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a source folder that was never installed


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def folder(out: Path, experiment: str, dataset: str) -> Path:
    """Where the results of an experiment on a data set go.

    A data set given as a path goes by its last part and a hash of the whole, lest
    another path write over its results.
    """
    if dataset.isidentifier():
        return out / experiment / dataset
    path = Path(dataset).expanduser().resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return out / experiment / f"{path.name.removesuffix('.npz')}-{digest}"
