"""--redraw of arrays that another version has left, or that are damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import frame
from experiments.frame import disk


def redraw(out: Path) -> None:
    def summary(arrays: frame.Arrays) -> dict[str, Any]:
        total = float(arrays["values"][:, 1].sum() + arrays["weights"])
        return {"checks": [frame.check("total", total, at_least=0)]}

    def draw(folder: Path, arrays: frame.Arrays) -> None:
        disk.write_text(folder / "drawn.txt", str(arrays["drawn"]))

    frame.run(
        "fake",
        frame.Settings(out=out, redraw=True),
        lambda settings: pytest.fail("computed"),
        summary,
        draw,
        lambda summary: None,
    )


WHOLE = {"values": np.ones((3, 2)), "weights": np.array(1.0), "drawn": np.array(2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fake" / "photographs"
    folder.mkdir(parents=True)
    disk.write_arrays(folder / "arrays.npz", WHOLE)
    return folder


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        *(({name: None}, f"the array '{name}' is missing") for name in WHOLE),
        ({"values": np.ones(3)}, "IndexError: too many indices"),
        ({"values": np.ones((3, 1))}, "IndexError: index 1 is out of bounds"),
        ({"weights": np.array(["a"])}, "ufunc 'add' did not contain"),
        ({"weights": np.ones(2)}, "TypeError: only .*converted"),
    ],
)
def test_arrays_of_another_version(
    folder: Path, changed: dict[str, Any], reason: str
) -> None:
    arrays = {k: v for k, v in (WHOLE | changed).items() if v is not None}
    disk.write_arrays(folder / "arrays.npz", arrays)
    with pytest.raises(
        ValueError,
        match=(
            rf"{folder}/arrays\.npz holds results of another version, or is damaged"
            rf" \(.*{reason}.*\); run the experiment again without --redraw\.$"
        ),
    ) as raised:
        redraw(folder.parents[1])
    assert "\n" not in str(raised.value)


def test_whole_arrays_are_drawn(folder: Path, capsys) -> None:
    redraw(folder.parents[1])
    assert (folder / "drawn.txt").read_text() == "2"
    assert "1 of 1 checks passed" in capsys.readouterr().out


def test_an_error_of_the_disk_stays_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.tempfile, "mkstemp", full)
    with pytest.raises(OSError, match=r"cannot write .*drawn\.txt: No space left"):
        redraw(folder.parents[1])
