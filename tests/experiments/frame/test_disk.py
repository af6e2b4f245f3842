"""Files are written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from experiments.frame import disk


@pytest.mark.slow
def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    disk.write_arrays(path, {"a": np.arange(3)})

    def interrupted(file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.write_whole(path, interrupted)
    assert [file.name for file in tmp_path.iterdir()] == ["arrays.npz"]
    np.testing.assert_array_equal(disk.read_arrays(path)["a"], np.arange(3))
