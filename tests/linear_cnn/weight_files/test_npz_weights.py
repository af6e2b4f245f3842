"""First layers from .npz files."""

import builtins
import io
import zipfile

import numpy as np
import pytest

import linear_cnn
from tests.linear_cnn.weight_files.writers import (
    HWIO,
    NAME,
    OIHW,
    RANDOM,
    Called,
)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]
)
def test_faults_of_npz_archives(tmp_path, compression):
    """Compressed or not, whole ones are read, and those with a changed byte are refused
    by the file's name."""
    kernel = RANDOM.normal(size=(64, 3, 7, 7)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, kernel)
    with zipfile.ZipFile(tmp_path / "net.npz", "w", compression) as archive:
        archive.writestr("w.npy", buffer.getvalue())
    np.testing.assert_array_equal(
        linear_cnn.load_first_layer(tmp_path / "net.npz").kernel,
        kernel.transpose(2, 3, 1, 0),
    )
    content = (tmp_path / "net.npz").read_bytes()
    for place in range(60, len(content) - 200, len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "net.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.npz"):
            linear_cnn.load_first_layer(tmp_path / "net.npz")


def test_a_header_that_declares_fewer_numbers(tmp_path):
    np.savez(
        tmp_path / "net.npz", w=RANDOM.normal(size=(64, 3, 7, 7)).astype(np.float32)
    )
    content = bytearray((tmp_path / "net.npz").read_bytes())
    content[content.index(b"(64, 3") + 1] ^= 4  # 24
    (tmp_path / "net.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.npz is truncated or damaged"):
        linear_cnn.load_first_layer(tmp_path / "net.npz")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_version_and_order(tmp_path, version, order):
    with (
        zipfile.ZipFile(tmp_path / "net.npz", "w") as archive,
        archive.open(f"{NAME}.npy", "w") as file,
    ):
        np.lib.format.write_array(file, np.array(OIHW, order=order), version)
    found = linear_cnn.load_first_layer(tmp_path / "net.npz", layout="OIHW")
    np.testing.assert_array_equal(found.kernel, HWIO)


def test_npz_with_objects_runs_nothing(tmp_path, ran):
    np.savez(
        tmp_path / "net.npz",
        w=np.array(
            [[[[Called(builtins.exec, ran.code)] * 3] * 3] * 3] * 9, dtype=object
        ),
    )
    with pytest.raises(ValueError, match=r"net.npz"):
        linear_cnn.load_first_layer(tmp_path / "net.npz", "w", layout="OIHW")
    assert not ran.path.exists()
