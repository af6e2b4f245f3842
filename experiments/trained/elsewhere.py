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
      kernels: float64, (kh, kw, C, K) each.
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
    tensors: Sequence[str] = (),
    channels: int = 3,
    **options: Any,
) -> Present:
    """The first layers of the networks that were fetched, and of files of the user's.

    Args:
      data_dir: as in `linear_cnn.load_images`.
      files, tensors, options: more networks; which of their tensors, as in
        `tensor_names`; and arguments of `linear_cnn.load_first_layer` for these.
      channels: of the networks' input. Those that were fetched have 3, and are left
        aside beside others.

    Raises:
      FileNotFoundError: a file that was named is not there. ValueError: a file cannot
        be read.
    """
    folder = datasets.data_folder(data_dir) / "pretrained"
    known = pretrained.NETWORKS if channels == 3 else ()
    found = [network for network in known if (folder / network.file).exists()]
    missing = [network.title for network in known if network not in found]
    layers = [
        linear_cnn.load_first_layer(
            folder / network.file, channel_order=network.channel_order
        )
        for network in found
    ]
    downloaded = len(found)
    for file, name in zip(files, tensor_names(files, tensors), strict=True):
        layers.append(
            linear_cnn.load_first_layer(file, name, channels=channels, **options)
        )
        title = file_title(
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


def tensor_names(files: Sequence[Path], given: Sequence[str]) -> list[str | None]:
    """The tensor of each file that is its first layer, None where it is recognised.

    Args:
      files: of the user's.
      given: "PATH=NAME" for one of the files; "NAME" for all that have none of their
        own.

    Raises:
      ValueError: a path that is none of the files, or two names for one.
    """
    own: dict[Path, str] = {}
    for_all: str | None = None
    for text in given:
        places = [place for place, letter in enumerate(text) if letter == "="]
        place = next((n for n in places if Path(text[:n]) in files), None)
        if place is None and places:
            raise ValueError(
                f"--tensor {text!r}: the path before = must be one of --files,"
                f" {', '.join(map(str, files)) or 'of which there are none'}."
            )
        if place is None and for_all is None:
            for_all = text
        elif place is not None and Path(text[:place]) not in own:
            own[Path(text[:place])] = text[place + 1 :]
        else:
            raise ValueError(
                f"--tensor {text!r} is a second name for the same file; give"
                " PATH=NAME once for each file that needs it."
            )
    return [own.get(file, for_all) for file in files]


def file_title(file: Path, taken: Collection[str]) -> str:
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
