"""Networks that others have trained: how they are called, and which of their filters
are dead."""

import json

import numpy as np

from experiments import trained
from experiments.download import pretrained as download_pretrained
from tests.experiments.fakes import folder_of, smooth_bank


def test_files_of_one_name_are_networks_and_families_of_their_own(tmp_path):
    files = [tmp_path / folder / "model.npz" for folder in ("a", "b", "c", "d/b")]
    files.append(tmp_path / "VGG16.npz")  # as a family of the table is called
    for seed, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, w=smooth_bank(seed))
    found = trained.present(tmp_path, files).networks
    assert [network["title"] for network in found] == [
        "model",
        "b/model",
        "c/model",
        "b/model (2)",
        "VGG16",
    ]
    assert [network["family"] for network in found] == [
        network["title"] for network in found
    ]


def test_models_of_tensorflow_js_are_called_after_their_folder(tmp_path):
    folder, bank = tmp_path / "my_network", smooth_bank(7, 5)
    weights = [{"name": "conv", "shape": bank.shape, "dtype": "float32"}]
    folder_of(folder, {"weights.bin": bank.tobytes()})
    (folder / "model.json").write_text(
        json.dumps(
            {"weightsManifest": [{"paths": ["weights.bin"], "weights": weights}]}
        )
    )
    found = trained.present(tmp_path, [folder / "model.json"])
    assert found.networks == [
        {
            "title": "my_network",
            "family": "my_network",
            "file": str(folder / "model.json"),
            "kernel_size": 5,
            "channel_order": "RGB",
            "licence": "not known",
            "remark": "",
            "tensor": "conv",
            "format": "TensorFlow.js",
            "own": True,
        }
    ]
    assert found.kernels[0].dtype == np.float64
    np.testing.assert_array_equal(found.kernels[0], bank)


def test_the_users_own_networks_are_marked(tmp_path, monkeypatch):
    network = download_pretrained.Network("A", "A", "A.npz", 3, "RGB", "CC0")
    monkeypatch.setattr(download_pretrained, "NETWORKS", (network,))
    (tmp_path / "pretrained").mkdir()
    for file in ("pretrained/A.npz", "mine.npz"):
        np.savez(tmp_path / file, w=smooth_bank(7))
    found = trained.present(tmp_path, [tmp_path / "mine.npz"]).networks
    assert {row["title"]: row["own"] for row in found} == {"A": False, "mine": True}


def test_filters_below_a_hundredth_of_the_largest_norm_are_dead():
    bank = np.ones((2, 2, 3, 4)) * [0.011, 1, 0.009, 0.5]
    assert trained.dead(bank).tolist() == [False, False, True, False]


def test_filters_of_norm_zero_are_dead():
    bank = smooth_bank(1)
    bank[..., 3] = 0
    assert trained.dead(bank).nonzero()[0].tolist() == [3, 11]
    norms = [np.linalg.norm(bank[..., k]) for k in range(12)]
    np.testing.assert_allclose(trained.norms(bank), norms, rtol=1e-6)
