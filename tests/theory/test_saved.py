"""Files of moments that are not what moments can be."""

import json
import zipfile

import numpy as np
import pytest

from theory import PatchMoments, load_moments, save_moments

WAY = {"kernel_shape": [1, 2, 1], "stride": [1, 2], "padding": [[0, 1], [2, 3]]}
STATIC = {
    "PatchMoments": {"count": 9, **WAY},
    "MeanPatchMoments": {"count": 9, "patches_per_image": 4, **WAY},
    "CrossMoments": {
        "distances": [0, 1, 5],
        "count": 9,
        "locations": [6, 8],
        "kernel_shape": [1, 2, 1],
        "centered": True,
    },
}
ARRAYS = {
    "PatchMoments": {"mean": np.ones(2), "covariance": np.eye(2)},
    "MeanPatchMoments": {
        "second": np.eye(2),
        "cross": np.ones((2, 3)),
        "mean": np.ones(2),
        "target_mean": np.ones(3),
        "target_covariance": np.eye(3),
    },
    "CrossMoments": {
        "second": np.eye(2),
        "cross": np.ones((3, 2, 2)),
        "mean": np.ones(2),
        "pair_mean": np.ones((3, 2)),
    },
}


def written(path, kind, static=(), arrays=(), save=np.savez):
    header = {"kind": kind, **STATIC[kind], **dict(static)}
    save(path, taken=np.array(json.dumps(header)), **{**ARRAYS[kind], **dict(arrays)})
    return path


def refusal(path):
    with pytest.raises(
        ValueError, match=r"part\.npz holds no moments written"
    ) as error:
        load_moments(path)
    return str(error.value)


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_other_shapes_are_named(tmp_path, kind):
    path = tmp_path / "part.npz"
    assert type(load_moments(written(path, kind))).__name__ == kind
    for name, array in ARRAYS[kind].items():
        for wrong in (np.ones((*array.shape, 2)), np.ones(array.shape[:-1]), array[:1]):
            message = refusal(written(path, kind, arrays={name: wrong}))
            if name == "target_mean":  # the others are compared with this one
                assert "has the shape" in message
            else:
                assert f"its array {name!r} has the shape {wrong.shape}, not" in message


@pytest.mark.parametrize("dtype", [int, complex, "f2", ">f8", bool, "<U4"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_other_types_are_named(tmp_path, kind, dtype):
    for name, array in ARRAYS[kind].items():
        path = tmp_path / "part.npz"
        message = refusal(written(path, kind, arrays={name: array.astype(dtype)}))
        assert f"its array {name!r} holds {np.dtype(dtype)}, not numbers" in message
    for name, array in ARRAYS[kind].items():
        written(path, kind, arrays={name: array.astype("f4")})
        assert np.asarray(getattr(load_moments(path), name)).dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "static"),
    [
        ("PatchMoments", {"count": 0}),
        ("PatchMoments", {"count": 2.5}),
        ("PatchMoments", {"count": True}),
        ("PatchMoments", {"kernel_shape": [1, 2]}),
        ("PatchMoments", {"kernel_shape": [-1, -2, 1]}),
        ("PatchMoments", {"kernel_shape": "121"}),
        ("PatchMoments", {"stride": [0, 1]}),
        ("PatchMoments", {"padding": [[0, 1], [2, -3]]}),
        ("PatchMoments", {"padding": [0, 1]}),
        ("MeanPatchMoments", {"patches_per_image": None}),
        ("CrossMoments", {"distances": [0, 1, -5]}),
        ("CrossMoments", {"locations": [6]}),
        ("CrossMoments", {"centered": 1}),
    ],
)
def test_numbers_that_moments_cannot_have_are_named(tmp_path, kind, static):
    message = refusal(written(tmp_path / "part.npz", kind, static))
    [name] = static
    assert f"their {name} cannot be {static[name]!r}" in message


def test_what_save_moments_does_not_write(tmp_path):
    path = tmp_path / "part.npz"
    compressed = written(path, "PatchMoments", save=np.savez_compressed)
    assert "'taken' is compressed" in refusal(compressed)
    long = written(path, "PatchMoments", {"note": "n" * 2**15})
    assert "'taken' is no short text" in refusal(long)
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(20_000):
            archive.writestr(f"{n:040}", b"")
    assert "far too large" in refusal(path)
    static = {"kind": "\x1b[2J" + "n" * 1000}
    message = refusal(written(path, "PatchMoments", static))
    assert message.isprintable()
    assert len(message) < 200 + len(str(path)) + 100


def test_a_flipped_bit_of_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "part.npz"
    way = {name: STATIC["PatchMoments"][name] for name in WAY}
    save_moments(path, PatchMoments(np.full(2, 7.5), np.eye(2), 9, **way))
    content = bytearray(path.read_bytes())
    content[content.index(np.full(2, 7.5).tobytes())] ^= 1
    path.write_bytes(content)
    assert "CRC" in refusal(path)
