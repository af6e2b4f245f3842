"""Networks that were downloaded, of random weights."""

from pathlib import Path

import numpy as np
import pytest

from experiments.download import pretrained as download_pretrained
from experiments.download.pretrained import Network
from tests.experiments.fakes import smooth_bank


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data of this machine: a test adds what it needs."""
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def present(data_folder, monkeypatch) -> dict[str, np.ndarray]:
    """Four networks of three families with kernels of 3x3, one of 5x5, one that is not
    there: in the data folder."""
    described = [
        ("A1", "A", 3, "RGB"),
        ("A2", "A", 3, "RGB"),
        ("B", "B", 3, "BGR"),
        ("C", "C", 3, "RGB"),
        ("D", "D", 5, "RGB"),
        ("E", "E", 3, "RGB"),
    ]
    table = tuple(
        Network(title, family, f"{title}.npz", size, order, "CC0")
        for title, family, size, order in described
    )
    monkeypatch.setattr(download_pretrained, "NETWORKS", table)
    folder = data_folder / "pretrained"
    folder.mkdir(parents=True)
    banks = {}
    for seed, network in enumerate(table[:-1]):
        bank = smooth_bank(seed, network.kernel_size)
        banks[network.title] = bank.astype(np.float64)
        np.savez(
            folder / network.file,
            w=bank[:, :, ::-1] if network.channel_order == "BGR" else bank,
        )
    return banks
