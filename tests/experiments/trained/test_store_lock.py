"""One process at a time trains a run, and nobody removes what another one trains."""

from pathlib import Path

import numpy as np
import pytest

import linear_cnn
from experiments.trained import Run, store
from experiments.trained import data as trained_data
from linear_cnn.training._lock import locked


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks were trained, each time."""
    trained_data._image_set.cache_clear()
    counts = []

    def train(*arguments, keys, record_steps, checkpoint_dir, validation, **options):
        counts.append(len(keys))
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        some = np.ones((len(keys), 1 + len(record_steps)), np.float32)
        validated = (
            {"validation_loss": some, "validation_accuracy": some} if validation else {}
        )
        return linear_cnn.Trajectory(
            np.array([0, *record_steps]),
            np.ones((*some.shape, 3, 3, 3, 4)),
            some,
            some,
            **validated,
        )

    monkeypatch.setattr(linear_cnn, "train_seeds", train)
    return counts


def recorded(run: Run, folder: Path, **options):
    return store.recorded(run, trained_data.load(run), folder, **options)


def lock_of(run: Run, folder: Path) -> Path:
    config = store.configuration(run, trained_data.load(run))
    return folder / f"{store.identifier(config)}.lock"


def test_a_run_that_another_process_trains(
    run: Run, trained: list[int], tmp_path: Path
) -> None:
    lock = lock_of(run, tmp_path)
    lock.write_text("4321\nelsewhere\n17\n")
    message = (
        rf"the run {lock.with_suffix('')} is in use by process 4321 on elsewhere; wait"
        rf" for its end, and what it trained is read\. If .* has ended, delete {lock}"
    )
    for fresh in (False, True):
        with pytest.raises(ValueError, match=message):
            recorded(run, tmp_path, fresh=fresh)
    assert not trained
    lock.unlink()
    recorded(run, tmp_path)
    assert trained == [2]
    assert not lock.exists()


def test_fresh_removes_nothing_that_another_process_trains(
    run: Run, trained: list[int], tmp_path: Path
) -> None:
    recorded(run, tmp_path)
    lock = lock_of(run, tmp_path)
    begun = lock.with_suffix("") / "checkpoints" / "from_0"
    begun.mkdir(parents=True)
    with locked(lock, "it", "wait"), pytest.raises(ValueError, match="is in use by"):
        recorded(run, tmp_path, fresh=True)
    assert begun.exists()
    # What is finished can be read meanwhile.
    with locked(lock, "it", "wait"):
        recorded(run, tmp_path)
    assert trained == [2]


def test_what_another_process_finished_meanwhile_is_read(
    run: Run, trained: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for it and the lock."""
    prepare = store.disk.prepare_folder

    def finished_first(folder: Path, option: str) -> Path:
        monkeypatch.setattr(store.disk, "prepare_folder", prepare)
        recorded(run, tmp_path)
        return prepare(folder, option)

    monkeypatch.setattr(store.disk, "prepare_folder", finished_first)
    recorded(run, tmp_path)
    assert trained == [2]


def test_a_config_of_thousands_of_brackets(
    run: Run, trained: list[int], tmp_path: Path
) -> None:
    """Of another run: whoever asks for that one is told."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("[" * 100_000)
    recorded(run, tmp_path)
    assert trained == [2]
