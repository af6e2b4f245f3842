"""Moments on disk: back bit for bit, whole or not at all, and a clear error for any
other file."""

import contextlib
import dataclasses
import errno
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import (
    CrossMoments,
    MeanPatchMoments,
    PatchMoments,
    load_moments,
    patch_spectrum,
    save_moments,
    storage,
)

FLOAT64 = jax.config.read("jax_enable_x64")
RANDOM = np.random.default_rng(6)
WAY = {"kernel_shape": (1, 2, 1), "stride": (1, 2), "padding": ((0, 1), (2, 3))}


def draw(*shape):
    """Numbers of all magnitudes, denormal ones and negative zeros too."""
    return RANDOM.normal(size=shape) * 10.0 ** RANDOM.integers(-320, 300, shape)


MOMENTS = [
    PatchMoments(draw(2), draw(2, 2), 10**20, **WAY),
    MeanPatchMoments(draw(2, 2), draw(2), draw(2), draw(), draw(), 3, 4, **WAY),
    MeanPatchMoments(draw(2, 2), draw(2, 3), draw(2), draw(3), draw(3, 3), 3, 4, **WAY),
    CrossMoments(
        draw(2, 2),
        draw(3, 2, 2),
        draw(2),
        draw(3, 2),
        (0, 1, 5),
        7,
        (6, 8),
        (1, 2, 1),
        False,
    ),
]


@pytest.mark.float32
@pytest.mark.parametrize("moments", MOMENTS, ids=lambda moments: type(moments).__name__)
def test_they_come_back_bit_for_bit(tmp_path, moments):
    path = tmp_path / "part 1"
    save_moments(path, moments)
    assert [file.name for file in tmp_path.iterdir()] == ["part 1"]
    loaded = load_moments(str(path))
    assert type(loaded) is type(moments)
    for field in dataclasses.fields(moments):
        value, expected = getattr(loaded, field.name), getattr(moments, field.name)
        if field.metadata.get("static"):
            assert value == expected
            assert repr(value) == repr(expected)  # tuples, not lists; False, not 0
        else:
            assert isinstance(value, jax.Array if FLOAT64 else np.ndarray)
            assert value.dtype == np.float64
            assert np.asarray(value).tobytes() == np.asarray(expected).tobytes()
    # For jax.jit.
    assert hash(jax.tree.structure(loaded)) == hash(jax.tree.structure(moments))
    save_moments(path, loaded)
    again = load_moments(path)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(moments)))


@pytest.mark.float32
def test_they_can_be_used_after_loading(tmp_path):
    parts = [
        PatchMoments(RANDOM.normal(size=2), np.diag([2.0, 1.0]), count, **WAY)
        for count in (3, 5)
    ]
    for number, part in enumerate(parts):
        save_moments(tmp_path / f"{number}.npz", part)
    total = load_moments(tmp_path / "0.npz") + load_moments(tmp_path / "1.npz")
    expected = parts[0] + parts[1]
    assert total.count == 8
    np.testing.assert_allclose(total.covariance, expected.covariance, rtol=1e-15)
    np.testing.assert_allclose(
        total.spectrum().variance, expected.spectrum().variance, rtol=1e-15
    )
    assert np.asarray(total.spectrum().variance).dtype == np.float64


def test_a_dtype_of_the_user_is_kept(tmp_path):
    single = jax.tree.map(
        lambda leaf: jnp.asarray(np.ones_like(leaf), jnp.float32), MOMENTS[0]
    )
    save_moments(tmp_path / "single", single)
    assert load_moments(tmp_path / "single").covariance.dtype == np.float32


@pytest.mark.parametrize("failing", ["numpy.savez", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, failing
):
    path = tmp_path / "moments.npz"
    save_moments(path, MOMENTS[0])
    old = path.read_bytes()

    def fail(file, *_, **__):
        if hasattr(file, "write"):
            file.write(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(failing, fail)
        with pytest.raises(OSError, match="no space left"):
            save_moments(path, MOMENTS[1])
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    save_moments(path, MOMENTS[1])
    assert type(load_moments(path)) is MeanPatchMoments


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "moments.npz"
    spectrum = patch_spectrum(RANDOM.normal(size=(3, 4, 5, 1)), 2)
    for other, name in ((spectrum, "PatchSpectrum"), ({"mean": 1}, "dict")):
        with pytest.raises(
            TypeError,
            match=rf"moments must be one of \['CrossMoments', .*outside.*, got {name}",
        ):
            save_moments(path, other)
    with pytest.raises(TypeError, match="outside a JAX transformation"):
        jax.jit(lambda moments: save_moments(path, moments))(
            jax.tree.map(jnp.asarray, MOMENTS[1])
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        save_moments(tmp_path / "no such folder" / "moments", MOMENTS[0])


def test_damaged_files_are_refused(tmp_path):
    """Cut off anywhere, or with one byte changed: an error that names the file, or the
    same moments."""
    path = tmp_path / "part.npz"
    save_moments(path, MOMENTS[1])
    whole = path.read_bytes()
    message = r"part\.npz holds no moments written by save_moments, or is damaged: ."
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=message):
            load_moments(path)
    for position in range(0, len(whole), 5):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
        )
        with contextlib.suppress(ValueError):
            assert all(
                map(
                    np.array_equal,
                    jax.tree.leaves(load_moments(path)),
                    jax.tree.leaves(MOMENTS[1]),
                )
            )


class Marker:
    """Unpickled, it would leave a trace."""

    loaded = False

    def __setstate__(self, state):
        Marker.loaded = True


def foreign_files():
    static = {"kind": "PatchMoments", "count": 3, **WAY}
    arrays = {"mean": np.ones(2), "covariance": np.eye(2)}

    def header(value):
        return {storage._HEADER: np.array(json.dumps(value))}

    yield "another archive", lambda file: np.savez(file, images=np.ones(3))
    yield "an array", lambda file: np.save(file, np.ones(3))
    yield "text", lambda file: file.write(b"moments of ten images\n")
    yield "a pickle", lambda file: pickle.dump({"mean": 1}, file)
    yield (
        "pickled objects",
        lambda file: np.savez(
            file, **header(static) | arrays | {"mean": np.array([Marker()])}
        ),
    )
    yield (
        "another kind",
        lambda file: np.savez(
            file, **header(static | {"kind": "PatchSpectrum"}) | arrays
        ),
    )
    yield "no kind", lambda file: np.savez(file, **header({"count": 3}) | arrays)
    yield (
        "a header that is a list",
        lambda file: np.savez(file, **header(["PatchMoments"]) | arrays),
    )
    yield (
        "a header that is a string",
        lambda file: np.savez(file, **header("PatchMoments") | arrays),
    )
    yield (
        "a header that is not JSON",
        lambda file: np.savez(file, **{storage._HEADER: np.array("{")}, **arrays),
    )
    yield (
        "an array less",
        lambda file: np.savez(file, **header(static), mean=np.ones(2)),
    )
    yield (
        "a field less",
        lambda file: np.savez(file, **header({"kind": "PatchMoments", **WAY}) | arrays),
    )
    yield (
        "a field more",
        lambda file: np.savez(file, **header(static | {"centered": True}) | arrays),
    )


@pytest.mark.parametrize(
    "write", [pytest.param(write, id=name) for name, write in foreign_files()]
)
def test_foreign_files_are_refused(tmp_path, write):
    path = tmp_path / "part.npz"
    with open(path, "wb") as file:
        write(file)
    with pytest.raises(
        ValueError,
        match=r"part\.npz holds no moments written by save_moments, or is damaged: .",
    ):
        load_moments(path)
    assert not Marker.loaded


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"there is no file .*missing\.npz; give one that save_moments wrote",
    ):
        load_moments(tmp_path / "missing.npz")


@pytest.mark.parametrize("failing", ["tempfile.mkstemp", "numpy.savez", "os.replace"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_nothing_can_be_written(tmp_path, monkeypatch, failing, number):
    """Simulated, since root may write everywhere. The error names the file that was
    asked for, not the one beside it, and what is left."""
    path = tmp_path / "moments.npz"
    save_moments(path, MOMENTS[0])
    old = path.read_bytes()

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / ".unfinished-1"))

    with monkeypatch.context() as patched:
        patched.setattr(failing, fail)
        with pytest.raises(
            OSError,
            match=(
                rf"^cannot write the moments to {path}: {os.strerror(number)}; what"
                r" stood there before is as it was\. Make room, or choose another"
            ),
        ):
            save_moments(path, MOMENTS[1])
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"cannot write the moments to .*no such folder/moments"
    ):
        save_moments(tmp_path / "no such folder" / "moments", MOMENTS[0])
