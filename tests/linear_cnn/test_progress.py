"""Progress where it is read: a bar on a terminal, lines in a file."""

import io
import subprocess
import sys

from linear_cnn import _progress

COUNT = """
from linear_cnn import _progress
_progress._SECONDS_A_LINE = 0
bar = _progress.progress_bar(total=3, unit="step")
for loss in (3, 2, 1):
    bar.set_postfix(loss=loss, refresh=False)
    bar.update()
bar.close()
"""


def test_a_file_gets_lines() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True
    )
    assert "\r" not in run.stderr
    lines = run.stderr.splitlines()
    counts = [line.split("/3")[0].split()[-1] for line in lines]
    assert list(dict.fromkeys(counts)) == ["0", "1", "2", "3"]
    assert "loss=1" in lines[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_and_what_took_its_place_get_a_bar(monkeypatch) -> None:
    for stream in (Terminal(), io.StringIO()):  # the latter as a notebook has it
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            if stream.isatty():
                patched.setattr(sys, "__stderr__", stream)
            list(_progress.progress_bar(range(3)))
        assert stream.getvalue().startswith("\r")
