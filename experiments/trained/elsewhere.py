"""First layers that others have trained: the downloaded networks that are there, and
files of the user's."""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import linear_cnn
from experiments.download import pretrained
from linear_cnn import datasets

DEAD = 0.01  # of the largest norm in a bank
COMMAND = "python -m experiments data pretrained"


class Present(NamedTuple):
    """The first layers that are there.

    Attributes:
      kernels: float64, (kh, kw, 3, K) each.
      networks: what they are: the fields of `download.pretrained.Network`, "tensor",
        "format", and whether it is the user's "own".
      missing: titles of the networks that are not there.
    """

    kernels: list[np.ndarray]
    networks: list[dict[str, Any]]
    missing: list[str]


def present(
    data_dir: Path | None,
    files: Sequence[Path] = (),
    name: str | None = None,
    **options: Any,
) -> Present:
    """The first layers of the networks that were fetched, and of files of the user's.

    Args:
      data_dir: as in `linear_cnn.load_images`.
      files, name, options: more networks, and arguments of
        `linear_cnn.load_first_layer` for these.

    Raises:
      FileNotFoundError: a file that was named is not there. ValueError: a file cannot
        be read.
    """
    folder = datasets.data_folder(data_dir) / "pretrained"
    found = [
        network for network in pretrained.NETWORKS if (folder / network.file).exists()
    ]
    missing = [network.title for network in pretrained.NETWORKS if network not in found]
    layers = [
        linear_cnn.load_first_layer(
            folder / network.file, channel_order=network.channel_order
        )
        for network in found
    ]
    downloaded = len(found)
    for file in files:
        layers.append(linear_cnn.load_first_layer(file, name, **options))
        title = _title(
            file,
            {network.title for network in found}
            | {network.family for network in found},
        )
        order, size = options.get("channel_order", "RGB"), layers[-1].kernel.shape[0]
        found.append(
            pretrained.Network(title, title, str(file), size, order, "not known")
        )
    if missing:
        print(
            f"not in {folder}: {', '.join(missing)}; `{COMMAND}` gets them", flush=True
        )
    described = [
        network._asdict()
        | {"tensor": layer.name, "format": layer.format, "own": place >= downloaded}
        for place, (network, layer) in enumerate(zip(found, layers, strict=True))
    ]
    return Present(
        [layer.kernel.astype(np.float64) for layer in layers], described, missing
    )


def _title(file: Path, taken: Collection[str]) -> str:
    """A name of a file's network, and of its family: many files have one name,
    model.safetensors or the like."""
    folder = file.expanduser().resolve().parent.name
    short, long = (
        (folder if file.name == "model.json" else file.stem),
        f"{folder}/{file.stem}",
    )
    titles = itertools.chain(
        (short, long), (f"{long} ({number})" for number in itertools.count(2))
    )
    return next(title for title in titles if title not in taken)


def dead(bank: np.ndarray) -> np.ndarray:
    """Which filters of (kh, kw, C, K) have less than 1 % of the largest norm, (K,)."""
    norm = norms(bank)
    return norm < DEAD * norm.max()


def norms(bank: np.ndarray) -> np.ndarray:
    """Norm of every filter of (..., kh, kw, C, K), (..., K)."""
    return np.sqrt((bank**2).sum(axis=(-4, -3, -2)))
