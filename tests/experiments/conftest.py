"""What tests of several experiments are given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import linear_cnn


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linear_cnn,
        "train_seeds",
        lambda *args, **arguments: pytest.fail("trained again"),
    )


@pytest.fixture
def refused(tmp_path: Path, no_training: None) -> Callable[[Any, dict, str], None]:
    """A check that an experiment refuses a change of a preset's settings with a
    message, before it trains, and leaves no file."""

    def check(module: Any, change: dict, message: str, preset: str = "smoke") -> None:
        places = {"out": tmp_path, "data_dir": tmp_path / "none"}
        settings = replace(module.PRESETS[preset], **places | change)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            module.main(settings)
        assert not any(file.is_file() for file in tmp_path.rglob("*"))

    return check
