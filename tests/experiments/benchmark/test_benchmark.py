"""The whole benchmark, with measurements that cost nothing: its order, its summary, its
table, and bad input."""

import itertools
import json
import os

import numpy as np
import pytest

from experiments import benchmark, frame
from experiments.benchmark import Settings
from experiments.benchmark import benchmark as whole
from experiments.benchmark import measurement as one
from experiments.benchmark.growth import SERIES
from experiments.benchmark.rows import Row, Task, rows
from tests.experiments.benchmark.fakes import (
    FIT,
    FITS,
    KERNELS,
    NUMPY,
    OURS,
    PEERS,
    SCAN,
    TORCH,
    measurement,
    some_images,
)


def install(monkeypatch, version):
    """Peers of these versions, whatever is installed."""
    for module in (whole, one):
        monkeypatch.setattr(module, "version", version)


@pytest.fixture
def measured(monkeypatch):
    """The measurements taken, as (method, images in the file); torch takes 50, 60 and
    100 times as long as ours."""
    taken, torch_seconds = [], itertools.cycle((100.0, 50.0, 60.0))

    def measure(method, file, cache=None):
        taken.append((method, len(np.load(file))))
        if method == TORCH:
            return measurement(
                next(torch_seconds), 20.0, 3000.0, (4.0, 2.0 + 1e-9, 0.0)
            )
        return measurement(2.0, 1.5) if method == NUMPY else measurement()

    monkeypatch.setattr(whole, "measure", measure)
    return taken


def run(tmp_path, **settings):
    """The summary, the only file."""
    benchmark.main(Settings(out=tmp_path, **settings))
    part = "_theory_fit_profile" if "only" in settings else ""
    (file,) = (tmp_path / "benchmark").iterdir()
    assert file.name == f"summary{part}.json"
    return json.loads(file.read_text())


def test_peer_and_ours_take_turns_and_ratios_say_how_much_better_ours_is(
    tmp_path, measured, monkeypatch, capsys
):
    install(monkeypatch, PEERS.get)
    summary = run(tmp_path, images=20)
    assert measured[:6] == [(TORCH, 20), (OURS, 20)] * 3
    assert measured[18:24] == [(OURS, 4), (OURS, 20)] * 3
    assert measured[27:33] == [(SCAN, 20), (FIT, 20)] * 3
    assert len(measured) == 3 * (14 + sum(len(series.sizes) for series in SERIES))

    first = summary["rows"][0]
    assert (first["faster"], first["faster_again"], first["less_memory"]) == (
        60.0,
        40.0,
        30.0,
    )
    assert first["difference"] == pytest.approx(5e-10)
    assert first["peer"]["seconds"] == [100.0, 50.0, 60.0]
    assert first["targets"] == [
        {"number": "difference", "relation": "at most", "bound": 1e-6, "met": True}
        | {"value": first["difference"], "range": None}
    ]
    assert summary["rows"][3]["difference"] is None  # other images, other numbers
    given = {"dataset": "photographs", "images": 20, "repeats": 3, "only": None}
    given |= frame.AS_STORED
    assert summary["settings"] == {"out": str(tmp_path), "publish": None} | given
    assert summary["programs"] == []

    shown = capsys.readouterr().out.splitlines()
    assert shown[2].split() == [
        "ok",
        "60",
        "x",
        "40",
        "x",
        "30",
        "x",
        "5.0e-10",
        "3x3x3",
        "patch",
        "spectrum",
    ]
    assert (
        shown[3].strip()
        == "peer: 60 s (50 to 100), 2nd call 20 s (CPU 120, 40 s); 3000 MB;"
        f" {TORCH}, 20 images"
    )
    assert (
        shown[4].strip()
        == f"ours: 1 s (1 to 1), 2nd call 0.5 s (CPU 2, 1 s); 100 MB; {OURS}, 20 images"
    )
    assert shown[-1] == f"written to {tmp_path / 'benchmark'}"


def test_only_some_rows(tmp_path, measured, monkeypatch):
    install(monkeypatch, PEERS.get)
    rows = run(tmp_path, images=20, repeats=1, only="theory.fit_profile")["rows"]
    assert measured[:2] == [(SCAN, 20), (FIT, 20)]
    assert len(measured) == sum(1 + (row["peer"] is not None) for row in rows)
    assert all("theory.fit_profile" in row["ours"]["method"] for row in rows)
    measured.clear()
    with pytest.raises(
        ValueError,
        match=(
            r"--only 'fit_profil\?' occurs in no row; these are compared:"
            r" .*theory.fit_profile"
        ),
    ):
        run(tmp_path, images=20, only="fit_profil?")
    assert not measured


def test_a_process_finds_what_an_earlier_one_has_compiled(tmp_path, monkeypatch):
    taken = []

    def measure(method, file, cache=None):
        taken.append((method, cache))
        return measurement()

    monkeypatch.setattr(whole, "measure", measure)
    row = Row("section", "title", Task(OURS, 5, cached=True), Task(OURS, 5))
    (result,) = whole.run([row], {5: tmp_path / "5.npy"}, repeats=2)
    (cache,) = {cache for _, cache in taken} - {None}
    assert cache.parent == tmp_path
    # The first one fills it, and does not count.
    assert taken == [(OURS, cache)] + [(OURS, None), (OURS, cache)] * 2
    assert len(result["ours"]["seconds"]) == 2


def test_programs_are_profiled_once_for_the_chosen_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "measure", lambda *_: measurement())
    profiled = []

    def profile(method, file):
        profiled.append(method)
        return {"seconds": 1.0, "programs": []}

    monkeypatch.setattr(whole, "profile", profile)
    benchmark.main(Settings(out=tmp_path, only="SmallCNN", images=256, repeats=1))
    assert profiled == [
        "linear_cnn.train, SmallCNN",
        "linear_cnn.train_seeds, SmallCNN, 4 seeds",
    ]
    (file,) = (tmp_path / "benchmark").iterdir()
    assert [p["method"] for p in json.loads(file.read_text())["programs"]] == profiled
    assert set(whole.PROFILED) <= {
        task.method for task in whole.profiled(rows((50_000, 32, 32, 3)))
    }


def test_the_summary_names_machine_and_versions(tmp_path, measured, monkeypatch):
    install(monkeypatch, PEERS.get)
    environment = run(tmp_path, images=5, repeats=1)["environment"]
    assert set(environment) == {"machine", "python", "versions", "peers"}
    assert environment["peers"] == PEERS
    assert environment["versions"]["jax"]
    machine = environment["machine"]
    assert machine["cores"] >= 1
    assert 0.5 < machine["memory_gigabytes"] < 1e5
    assert isinstance(machine["processor"], str)


@pytest.mark.parametrize("load", [3.0, 0.1])
def test_a_busy_machine_is_told(tmp_path, measured, monkeypatch, capsys, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert run(tmp_path, images=5, repeats=1)["environment"]["machine"]["load"] == load
    assert (
        "The machine was busy (load 3.0 on 2 cores)" in capsys.readouterr().out
    ) == (load == 3.0)


def test_without_peers_ours_is_still_measured_and_the_remedy_named(
    tmp_path, measured, monkeypatch, capsys
):
    install(monkeypatch, lambda package: None)
    rows = run(tmp_path, images=5, repeats=2)["rows"]
    in_series = {series.method(size) for series in SERIES for size in series.sizes}
    assert {method for method, _ in measured} - in_series == {
        OURS,
        f"{OURS}, 7x7",
        NUMPY,
        FIT,
        FITS,
        SCAN,
        KERNELS,
    }
    assert [row["not_installed"] for row in rows if row["peer"]] == [
        "torch",
        "scikit-learn",
        *[None] * 4,
    ]
    assert rows[0]["seconds"] == 1.0
    assert rows[0]["faster"] is None
    assert rows[0]["peer"]["seconds"] == []
    shown = capsys.readouterr().out
    for package in PEERS:
        assert f"{package} is not installed; pip install '.[benchmark]'" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 0}, "--images must be at least 1, got 0"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"images": 2821}, "--images is 2,821, but photographs has 2,820 images"),
        ({"dataset": "no-such-set"}, "no-such-set"),
    ],
)
def test_bad_settings_stop_before_any_work(tmp_path, measured, settings, message):
    with pytest.raises(ValueError, match=message):
        benchmark.main(Settings(out=tmp_path, **settings))
    assert not measured
    assert not any(tmp_path.iterdir())


def test_images_smaller_than_the_largest_kernel(tmp_path, measured):
    np.savez(
        tmp_path / "small.npz",
        images=some_images(size=6) / 2,
        labels=np.zeros(5, np.int32),
    )
    with pytest.raises(
        ValueError, match=r"small.npz has images of 6x6 pixels; patches of 7x7"
    ):
        benchmark.main(Settings(out=tmp_path, dataset=str(tmp_path / "small.npz")))
    assert not measured


def test_a_full_disk_names_the_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        OSError, match=r"No space left on device; choose another folder with TMPDIR"
    ):
        whole.save_images(some_images(), rows((5, 8, 8, 3)), tmp_path)


def test_a_failed_measurement_writes_no_summary(tmp_path, monkeypatch):
    def fail(method, file, cache=None):
        raise ChildProcessError(f"{method} failed")

    monkeypatch.setattr(whole, "measure", fail)
    with pytest.raises(ChildProcessError):
        benchmark.main(Settings(out=tmp_path, images=5))
    assert not list(tmp_path.rglob("*.json"))
