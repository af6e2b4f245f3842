"""Files that are made to fill the memory or to take for ever, and what reading them
costs.

    python -m tests.attack            all of them, at their full size; a table
    python -m tests.attack --scale 8  an eighth of each

Each is read in a process of its own, which reports the memory it took at most above
what the libraries take, the seconds, and the error. Nothing here is a test; those that
call it are in tests/test_budgets.py.
"""

import argparse
import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.hostile_pickles import (
    classes,
    colliding,
    copied,
    deep,
    empty_containers,
    long_key,
    memoised,
    objects,
    shared_state,
)

MEGABYTE = 2**20
BUDGET = 256  # MB above the honest result's size, of any file of up to 64 MB

# Runs in the other process: imports, reads an honest file so that all modules are
# there, and then measures. Linux says the most that was resident;
# writing 5 sets it back.
MEASURE = """
import sys, time
from pathlib import Path
import numpy as np
import linear_cnn, theory
from linear_cnn._npz import read_npz

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def read(path, by):
    if by == "weights":
        return linear_cnn.load_first_layer(path)
    if by == "images":
        return linear_cnn.npz_images(path)
    if by == "moments":
        return theory.load_moments(path)
    return read_npz(Path(path), "is damaged", "write it anew")

honest, *files = sys.argv[1:]
linear_cnn.load_first_layer(honest)
for path, by in zip(files[::2], files[1::2], strict=True):
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.perf_counter()
    try:
        said = repr(read(path, by))[:200]
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(f"{peak() - before:.0f} {time.perf_counter() - start:.1f} {said!r}")
"""


class Cost(NamedTuple):
    """Of reading a file: megabytes and seconds, and what was said of it."""

    megabytes: float
    seconds: float
    said: str


class Attack(NamedTuple):
    """A hostile file.

    Attributes:
      write: puts one of about so many bytes, or that makes so much, at a path.
      by: who reads it: "weights", "images", "moments", or "arrays" of a run.
      size: of the full attack, in what `write` counts.
    """

    write: Callable[[Path, int], None]
    by: str
    size: int


def npy(shape: tuple[int, ...], dtype: str, numbers: bytes = b"") -> bytes:
    """An array's header, and then what is given in place of its numbers."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(buffer, header)
    return buffer.getvalue() + numbers


def archive(path: Path, members: dict[str, bytes], method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)


def long_texts(method: int, name: str) -> Callable[[Path, int], None]:
    """A text of so many characters, most of them none."""

    def write(path: Path, size: int) -> None:
        arrays = {
            "images": npy((1, 1, 1, 1), "|u1", b"0"),
            "labels": npy((1,), "<i8", bytes(8)),
        }
        text = npy((1,), f"<U{size}", bytes(4 * size))
        archive(path, {f"{n}.npy": a for n, a in arrays.items()} | {name: text}, method)

    return write


def long_header(path: Path, size: int) -> None:
    """An array whose header has so many bytes, all of them blanks."""
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + b" " * size
    archive(path, {"images.npy": content}, zipfile.ZIP_DEFLATED)


def many_members(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for n in range(count):
            file.writestr(f"{n}.npy", b"")


def huge_directory(path: Path, size: int) -> None:
    """Entries of the directory alone, all of one member."""
    archive(path, {"a.npy": npy((1,), "<f4", bytes(4))}, zipfile.ZIP_STORED)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entries = content[start:end] * (size // (end - start))
    count = min(size // (end - start), 0xFFFF)
    tail = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), start, 0
    )
    path.write_bytes(content[:start] + entries + tail)


def torch_zip(path: Path, content: bytes) -> None:
    archive(path, {"net/data.pkl": content}, zipfile.ZIP_STORED)


def in_torch(make: Callable[[int], bytes], legacy: bool = False) -> Callable:
    def write(path: Path, size: int) -> None:
        content = make(size)
        if legacy:
            head = [pickle.dumps(n, 2) for n in (0x1950A86A20F9469CFC6C, 1001)]
            machine = pickle.dumps({"little_endian": True}, 2)
            path.write_bytes(b"".join([*head, machine, content, b"\x80\x02].", b""]))
        else:
            torch_zip(path, content)

    return write


def empty_nodes(path: Path, count: int) -> None:
    path.write_bytes(b"\x0a\x00" * count)


def small_nodes(path: Path, size: int) -> None:
    node = b"\x0a\x06\x0a\x01a\x12\x01b"
    path.write_bytes(node * (size // len(node)))


def small_onnx(node: bytes) -> Callable[[Path, int], None]:
    def write(path: Path, size: int) -> None:
        graph = node * (size // len(node))
        length = len(graph)
        groups = bytearray()
        while length > 127:
            groups.append(length & 127 | 128)
            length >>= 7
        groups.append(length)
        path.write_bytes(b"\x08\x08\x3a" + bytes(groups) + graph)

    return write


def in_json(part: bytes, of: str) -> Callable[[Path, int], None]:
    def write(path: Path, size: int) -> None:
        content = part.join([b"", *[b","] * (size // (len(part) + 1)), b""])
        content = b'{"weightsManifest":[' + content + b"]}"
        if of == "safetensors":
            content = len(content).to_bytes(8, "little") + content
        path.write_bytes(content)

    return write


def astral(path: Path, size: int) -> None:
    """One letter of four bytes makes all others take as many."""
    path.write_bytes(b'{"a":"' + "🦉".encode() + b"a" * size + b'"}')


def many_tensors(path: Path, size: int) -> None:
    """A header of safetensors with as many empty tensors as go in."""
    parts, length = [], 0
    while length < size:
        parts.append(
            f'"{len(parts)}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        )
        length += len(parts[-1])
    header = ("{" + ",".join(parts) + "}").encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def msgpack(value: bytes) -> Callable[[Path, int], None]:
    """A dictionary of a list with as many of one value as go in."""

    def write(path: Path, size: int) -> None:
        count = size // len(value)
        head = b"\x81\xda\x03\x80" + b"a" * 896 + b"\xdd" + struct.pack(">I", count)
        path.write_bytes(head + value * count)

    return write


def sparse(start: bytes) -> Callable[[Path, int], None]:
    """A file of so many bytes that takes none on the disk."""

    def write(path: Path, size: int) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return write


def lying_sizes(path: Path, size: int) -> None:
    """An array that says it has more numbers than the whole file has bytes."""
    content = npy((size // 4, 3, 3, 3), "<f4")
    archive(path, {"images.npy": content}, zipfile.ZIP_STORED)
    whole = bytearray(path.read_bytes())
    claimed = struct.pack("<LL", len(content) + 27 * size, len(content) + 27 * size)
    place = whole.index(b"PK\x01\x02")
    whole[place + 20 : place + 28] = claimed
    path.write_bytes(whole)


def flat_moments(path: Path, size: int) -> None:
    """Moments in an archive that unpacks to much."""
    described = {"kind": "PatchMoments", "count": 1, "kernel_shape": [1, 1, 1]}
    members = {
        "taken.npy": npy((), "<U9", json.dumps(described).encode()),
        "mean.npy": npy((size // 8,), "<f8", bytes(size)),
    }
    archive(path, members, zipfile.ZIP_DEFLATED)


MILLION = 10**6
ATTACKS = {
    "npz, a text of 10 million letters (LZMA)": Attack(
        long_texts(zipfile.ZIP_LZMA, "class_names.npy"), "images", 10 * MILLION
    ),
    "npz, a text of 100 million letters (deflate)": Attack(
        long_texts(zipfile.ZIP_DEFLATED, "class_names.npy"), "images", 100 * MILLION
    ),
    "npz of a run, the same (bzip2)": Attack(
        long_texts(zipfile.ZIP_BZIP2, "more.npy"), "arrays", 100 * MILLION
    ),
    "npz of weights, the same (LZMA)": Attack(
        long_texts(zipfile.ZIP_LZMA, "more.npy"), "weights", 100 * MILLION
    ),
    "npz, a header of 2 GB": Attack(long_header, "images", 2**31 - 1),
    "npz of weights, a header of 2 GB": Attack(long_header, "weights", 2**31 - 1),
    "npz, 200,000 members": Attack(many_members, "weights", 200_000),
    "npz of a run, 200,000 members": Attack(many_members, "arrays", 200_000),
    "moments, 200,000 members": Attack(many_members, "moments", 200_000),
    "npz, a directory of 64 MB": Attack(huge_directory, "weights", 64 * MEGABYTE),
    "moments, a directory of 64 MB": Attack(huge_directory, "moments", 64 * MEGABYTE),
    "npz, sizes that are not there": Attack(lying_sizes, "images", 2**26),
    "moments that unpack to 2 GB": Attack(flat_moments, "moments", 2**31 - 8),
    "PyTorch, a long key of 6 million": Attack(
        in_torch(long_key), "weights", 6 * MILLION
    ),
    "PyTorch, 16 MB of dictionaries": Attack(
        in_torch(empty_containers(b"}")), "weights", 16 * MILLION
    ),
    "PyTorch before 1.6, the same": Attack(
        in_torch(empty_containers(b"}"), legacy=True), "weights", 16 * MILLION
    ),
    "PyTorch, a million lists": Attack(
        in_torch(empty_containers(b"]")), "weights", MILLION
    ),
    "PyTorch, half a million that are memoised": Attack(
        in_torch(memoised), "weights", MILLION
    ),
    "PyTorch, a list copied": Attack(in_torch(copied), "weights", MILLION),
    "PyTorch, keys of one hash": Attack(in_torch(colliding), "weights", 3 * 10**5),
    "PyTorch, objects": Attack(in_torch(objects(b"h\x00)R")), "weights", 13 * 10**5),
    "PyTorch, objects with attributes": Attack(
        in_torch(objects(b"h\x00)\x81}b")), "weights", 12 * 10**5
    ),
    "PyTorch, objects with entries": Attack(
        in_torch(objects(b"(h\x00oNNs")), "weights", 12 * 10**5
    ),
    "PyTorch, objects of Python 1": Attack(
        in_torch(objects(b"(ia\nB\n")), "weights", 3 * 10**6
    ),
    "PyTorch, objects as keys": Attack(
        in_torch(
            lambda n: b"\x80\x02cno\nOne\nq\x00}(" + b"h\x00)RN" * (n // 5) + b"u\x86."
        ),
        "weights",
        13 * 10**5,
    ),
    "PyTorch, a million classes": Attack(in_torch(classes), "weights", MILLION),
    "PyTorch, attributes that are shared": Attack(
        in_torch(shared_state), "weights", MILLION
    ),
    "PyTorch, lists in lists": Attack(in_torch(deep), "weights", MILLION // 2),
    "PyTorch, lists of a number": Attack(
        in_torch(lambda n: b"\x80\x02](" + b"]Na" * (n // 3) + b"e."),
        "weights",
        MILLION,
    ),
    "GraphDef, 5 million empty nodes": Attack(empty_nodes, "weights", 5 * MILLION),
    "GraphDef, 64 MB of nodes": Attack(small_nodes, "weights", 64 * MEGABYTE),
    "ONNX, 64 MB of nodes": Attack(
        small_onnx(b"\x0a\x06\x12\x01a\x22\x01b"), "weights", 64 * MEGABYTE
    ),
    "ONNX, 64 MB of tensors": Attack(
        small_onnx(b"\x2a\x05\x08\x01\x42\x01a"), "weights", 64 * MEGABYTE
    ),
    "ONNX, a hundred thousand tensors": Attack(
        small_onnx(b"\x2a\x05\x08\x01\x42\x01a"), "weights", 7 * 10**5
    ),
    "ONNX, a hundred thousand nodes": Attack(
        small_onnx(b"\x0a\x09\x0a\x01b\x12\x01a\x22\x01b"), "weights", 11 * 10**5
    ),
    "ONNX, a tensor of 64 MB of axes": Attack(
        small_onnx(b"\x2a\x02\x08\x01"), "weights", 64 * MEGABYTE
    ),
    "model.json, 64 MB of dictionaries": Attack(
        in_json(b'{"":0}', "tfjs"), "weights", 64 * MEGABYTE
    ),
    "model.json, 2 MB of dictionaries": Attack(
        in_json(b'{"":0}', "tfjs"), "weights", 2 * MEGABYTE
    ),
    "model.json, one letter of four bytes": Attack(astral, "weights", 64 * MEGABYTE),
    "safetensors, 64 MB of lists": Attack(
        in_json(b"[]", "safetensors"), "weights", 64 * MEGABYTE
    ),
    "safetensors, a million tensors": Attack(many_tensors, "weights", 64 * MEGABYTE),
    "safetensors, 8 MB of tensors": Attack(many_tensors, "weights", 8 * MEGABYTE),
    "msgpack, 64 MB of numbers": Attack(msgpack(b"\xc0"), "weights", 64 * MEGABYTE),
    "msgpack, arrays of long names": Attack(
        msgpack(b"\xc7\x0d\x01\x93\x94\x00\x03\x03\x03\xa4int8\xc4\x00"),
        "weights",
        16 * 2**15,
    ),
    "msgpack, lists in lists": Attack(msgpack(b"\x91"), "weights", 64 * MEGABYTE),
    "a sparse msgpack of 3 GB": Attack(
        sparse(b"\x81\xa1a\xc6\xc0\x00\x00\x00"), "weights", 3 * 2**30
    ),
    "a sparse npy of 3 GB": Attack(
        sparse(npy((2**20, 3, 16, 16), "<f4")), "weights", 3 * 2**30
    ),
    "a sparse file of 3 GB": Attack(sparse(b""), "weights", 3 * 2**30),
    "a sparse ONNX of 2 GB": Attack(
        sparse(b"\x08\x08\x3a\xf5\xff\xff\xff\x07"), "weights", 2**31 - 3
    ),
    "a sparse PyTorch before 1.6 of 3 GB": Attack(
        sparse(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "weights", 3 * 2**30
    ),
    "a sparse model.json of 3 GB": Attack(sparse(b"{"), "weights", 3 * 2**30),
    "a sparse safetensors of 3 GB": Attack(
        sparse(struct.pack("<Q", 2**31) + b"{"), "weights", 3 * 2**30
    ),
    "a sparse npz of 3 GB": Attack(sparse(b"PK\x03\x04"), "images", 3 * 2**30),
    "sparse moments of 3 GB": Attack(sparse(b"PK\x03\x04"), "moments", 3 * 2**30),
}


def costs(files: list[tuple[Path, str]], limit: int = 600) -> list[Cost]:
    """What reading each file takes, one after the other in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        honest = Path(folder, "honest.npz")
        np.savez(honest, w=np.ones((4, 3, 5, 5)))
        given = [str(part) for file in files for part in file]
        found = subprocess.run(
            [sys.executable, "-c", MEASURE, str(honest), *given],
            capture_output=True,
            text=True,
            timeout=limit,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            cwd=Path(__file__).parents[1],
            check=False,
        )
    lines = found.stdout.splitlines()
    told = [line.split(" ", 2) for line in lines]
    took = [Cost(float(m), float(s), ast.literal_eval(said)) for m, s, said in told]
    if found.returncode or len(took) != len(files):
        took.append(Cost(float("inf"), float("inf"), found.stderr[-300:] or "killed"))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the attacks' names")
    options = parser.parse_args()
    print(f"{'MB':>6} {'s':>6} {'file, MB':>8}  attack: what was said")
    with tempfile.TemporaryDirectory() as folder:
        for name, attack in ATTACKS.items():
            if options.only not in name:
                continue
            path = Path(folder, "hostile")
            attack.write(path, attack.size // options.scale)
            size = path.stat().st_blocks * 512 / MEGABYTE
            took = costs([(path, attack.by)])[-1]
            said = took.said.replace(folder, "")[:160]
            print(
                f"{took.megabytes:6.0f} {took.seconds:6.1f} {size:8.1f}  {name}: {said}"
            )
            path.unlink()


if __name__ == "__main__":
    main()
