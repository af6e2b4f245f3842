"""One measurement: how honest clock and memory are, and what a failing process says."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import measurement as one
from experiments.benchmark.methods import METHODS, Method
from tests.experiments.benchmark.fakes import NUMPY, OURS, some_images

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak"
)


@needs_proc
def test_report_measures_the_calls_and_not_the_preparation(
    tmp_path, monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def take(seconds):
        now[0] += seconds

    def prepare(images):
        np.ones(40_000_000)  # 320 MB, freed at once
        kept = np.ones(10_000_000)
        take(0.4)
        delays = iter((0.2, 0.1))

        def compute():
            take(next(delays))
            print("some library's message")
            return np.ones(20_000_000)[:2] + kept[:2] + images.sum()  # 160 MB

        return compute

    np.save(tmp_path / "images.npy", np.zeros(1))
    monkeypatch.setitem(METHODS, "fake", Method(prepare))
    one.report("fake", str(tmp_path / "images.npy"))
    measurement = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measurement["seconds"] == pytest.approx(0.2)
    assert measurement["seconds_again"] == pytest.approx(0.1)
    assert 155 < measurement["megabytes"] < 175
    assert measurement["cpu"] > 0 < measurement["cpu_again"]
    assert measurement["lower_bound"] is False
    assert measurement["values"] == [2.0, 2.0]


def test_memory_is_called_a_lower_bound_where_the_peak_cannot_be_reset(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # no /proc: the portable way
    assert 2e7 < one.peak_memory() < 1e11  # bytes: an interpreter with JAX
    np.save(tmp_path / "images.npy", some_images())
    one.report(NUMPY, str(tmp_path / "images.npy"))
    assert json.loads(capsys.readouterr().out)["lower_bound"] is True


def test_a_fresh_process_compiles_whatever_the_cache_holds(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    np.save(tmp_path / "images.npy", some_images())
    measurement = one.measure(OURS, tmp_path / "images.npy")
    assert measurement["seconds"] > 2 * measurement["seconds_again"] > 0
    assert len(measurement["values"]) == 27
    assert not any(cache.iterdir())


def test_a_fresh_process_keeps_compiled_programs_where_it_is_told(tmp_path):
    np.save(tmp_path / "images.npy", some_images())
    cache = tmp_path / "cache"
    first, second = (one.measure(OURS, tmp_path / "images.npy", cache) for _ in "12")
    assert first["values"] == second["values"]
    assert cache.exists()
    assert first["others"] is None or 0 <= first["others"] < 1e4


def test_a_failing_process_says_why(tmp_path):
    np.save(tmp_path / "images.npy", some_images(size=2))
    with pytest.raises(
        ChildProcessError,
        match=(
            rf"(?s){NUMPY} failed with exit code 1:\n.*Traceback.*window shape cannot"
            r" be larger"
        ),
    ):
        one.measure(NUMPY, tmp_path / "images.npy")


def test_a_process_killed_for_want_of_memory_says_so(tmp_path, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(
        ChildProcessError, match=f"{NUMPY} was killed.*memory.*--images"
    ):
        one.measure(NUMPY, tmp_path / "images.npy")
