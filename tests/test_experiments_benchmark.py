"""The benchmark: what each method computes, how honest clock and memory are, and what is said of both sides."""

import itertools
import json
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import benchmark, training_benchmark
from experiments.benchmark import METHODS, Method, Row, Settings, Target, Task
from linear_cnn import classifiers

OURS = "theory.patch_spectrum"
TORCH = "torch.pca_lowrank of all patches"
NUMPY = "NumPy sum over batches"
FIT, FITS, SCAN = "theory.fit_profile", "theory.fit_profile, 256 profiles", "scan of 19,961 times"
SPECTRA = [name for name in METHODS if name not in (FIT, FITS, SCAN) and "CNN" not in name and "VGG" not in name]
PEERS = {"torch": "2.0", "scikit-learn": "1.0"}
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak")


def some_images(count=5, size=8):
    return np.random.default_rng(0).random((count, size, size, 3), dtype=np.float32) + np.float32(0.5)


# --- methods ---


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in (FIT, FITS, SCAN) and "CNN" not in name and "VGG" not in name]
)
def test_every_method_has_the_eigenvalues_of_the_centred_patches(name, monkeypatch):
    package = METHODS[name].package
    if package and benchmark.version(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(benchmark, "BATCH", 2)
    images, size = some_images(), 7 if "7x7" in name else 3
    places = range(images.shape[1] - size + 1)
    patches = [image[i : i + size, j : j + size].ravel() for image in images for i in places for j in places]
    covariance = np.cov(np.array(patches, np.float64).T, bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    values = METHODS[name].prepare(images)()
    rank = min(len(expected), len(patches)) - 1  # 7x7: fewer patches than pixels in one
    np.testing.assert_allclose(values[:rank], expected[:rank], rtol=1e-9)
    assert values.dtype == np.float64


def test_the_fits_agree(monkeypatch):
    monkeypatch.setattr(benchmark, "ITERATIONS", range(10_000, 5_000_001, 10_000))
    one, many, scan = (METHODS[name].prepare(some_images(count=20))() for name in (FIT, FITS, SCAN))
    assert one.shape == many.shape == scan.shape == (1,)
    assert {one.dtype, many.dtype, scan.dtype} == {np.dtype(np.float64)}
    assert 0.5 < scan[0] <= one[0] < scan[0] + 1e-4
    np.testing.assert_allclose(one, many, rtol=1e-12)
    assert len(range(10_000, 5_000_001, 250)) == 19_961


@pytest.mark.slow
def test_all_ways_of_training_train_the_same_small_network(monkeypatch):
    monkeypatch.setattr(classifiers, "convolution", classifiers.convolution)  # to be put back
    for name, value in (("SEEDS", 2), ("SEEDS_BATCH", 4), ("SEEDS_STEPS", 1)):
        monkeypatch.setattr(training_benchmark, name, value)
    names = [name for name in METHODS if "SmallCNN" in name]
    assert len(names) == 3
    for name in sorted(names):  # that with XLA's convolution last
        np.testing.assert_array_equal(METHODS[name].prepare(some_images())(), [6362])
    assert classifiers.convolution is jax.lax.conv_general_dilated


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in METHODS if "VGG" in name and "16 filters" in name and "XLA" not in name]
)
def test_all_ways_of_training_train_the_same_vgg(name, monkeypatch):
    package = METHODS[name].package
    if package and benchmark.version(package) is None:
        pytest.skip(f"{package} is not installed")
    for constant, value in (("VGG_BATCH", 4), ("VGG_STEPS", 1)):
        monkeypatch.setattr(training_benchmark, constant, value)
    np.testing.assert_array_equal(METHODS[name].prepare(some_images(size=32))(), [612_810])


# --- rows ---


def test_rows_of_cifar_10_have_targets_and_smaller_data_none():
    full = benchmark.rows((50_000, 32, 32, 3))
    assert [row.ours.images for row in full] == [10_000] * 3 + [50_000] * 2 + [10_000] * 2 + [256] * 4 + [64] * 2
    assert [row.peer and row.peer.images for row in full] == [10_000] * 4 + [None] + [10_000] * 2 + [256] * 4 + [64] * 2
    assert [len(row.targets) for row in full] == [2, 0, 0, 2, 1, 1, 1] + [1] * 6
    assert [len(row.targets) for row in benchmark.rows((10_000, 32, 32, 3))] == [2, 0, 0, 0, 0, 1, 1] + [1] * 6
    for shape in ((2820, 32, 32, 3), (50_000, 28, 28, 1)):
        rows = benchmark.rows(shape)
        assert not any(row.targets for row in rows)
        assert {row.title for row in rows[:5]} == {f"{size}x{size}x{shape[3]} patch spectrum" for size in (3, 7)}
    assert [row.ours.images for row in benchmark.rows((2820, 32, 32, 3))] == [2820] * 7 + [256] * 4 + [64] * 2
    assert len(benchmark.rows((127, 32, 32, 3))) == len(benchmark.rows((2820, 31, 32, 3))) == 7
    assert {task.method for row in full for task in (row.ours, row.peer) if task} == set(METHODS)


# --- one measurement ---


@needs_proc
def test_report_measures_the_calls_and_not_the_preparation(tmp_path, monkeypatch, capsys):
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
    benchmark.report("fake", str(tmp_path / "images.npy"))
    measurement = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measurement["seconds"] == pytest.approx(0.2)
    assert measurement["seconds_again"] == pytest.approx(0.1)
    assert 155 < measurement["megabytes"] < 175
    assert measurement["lower_bound"] is False
    assert measurement["values"] == [2.0, 2.0]


def test_memory_is_called_a_lower_bound_where_the_peak_cannot_be_reset(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # no /proc: the portable way
    assert 2e7 < benchmark.peak_memory() < 1e11  # bytes: an interpreter with JAX
    np.save(tmp_path / "images.npy", some_images())
    benchmark.report(NUMPY, str(tmp_path / "images.npy"))
    assert json.loads(capsys.readouterr().out)["lower_bound"] is True


def test_a_fresh_process_compiles_whatever_the_cache_holds(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    np.save(tmp_path / "images.npy", some_images())
    measurement = benchmark.measure(OURS, tmp_path / "images.npy")
    assert measurement["seconds"] > 2 * measurement["seconds_again"] > 0
    assert len(measurement["values"]) == 27
    assert not any(cache.iterdir())


def test_a_failing_process_says_why(tmp_path):
    np.save(tmp_path / "images.npy", some_images(size=2))
    with pytest.raises(
        ChildProcessError, match=rf"(?s){NUMPY} failed with exit code 1:\n.*Traceback.*window shape cannot be larger"
    ):
        benchmark.measure(NUMPY, tmp_path / "images.npy")


def test_a_process_killed_for_want_of_memory_says_so(tmp_path, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(ChildProcessError, match=f"{NUMPY} was killed.*memory.*--images"):
        benchmark.measure(NUMPY, tmp_path / "images.npy")


# --- the whole run, with measurements that cost nothing ---


def measurement(seconds=1.0, again=0.5, megabytes=100.0, values=(4.0, 2.0, 0.0), lower_bound=False):
    numbers = {"seconds": seconds, "seconds_again": again, "megabytes": megabytes}
    return numbers | {"lower_bound": lower_bound, "values": list(values)}


@pytest.fixture
def measured(monkeypatch):
    """The measurements taken, as (method, images in the file); torch takes 50, 60 and 100 times as long as ours."""
    taken, torch_seconds = [], itertools.cycle((100.0, 50.0, 60.0))

    def measure(method, file):
        taken.append((method, len(np.load(file))))
        if method == TORCH:
            return measurement(next(torch_seconds), 20.0, 3000.0, (4.0, 2.0 + 1e-9, 0.0))
        return measurement(2.0, 1.5) if method == NUMPY else measurement()

    monkeypatch.setattr(benchmark, "measure", measure)
    return taken


def run(tmp_path, **settings):
    """The summary, the only file."""
    benchmark.main(Settings(out=tmp_path, **settings))
    part = "_theory_fit_profile" if "only" in settings else ""
    (file,) = (tmp_path / "benchmark").iterdir()
    assert file.name == f"summary{part}.json"
    return json.loads(file.read_text())


def test_peer_and_ours_take_turns_and_ratios_say_how_much_better_ours_is(tmp_path, measured, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "version", PEERS.get)
    summary = run(tmp_path, images=20)
    assert measured[:6] == [(TORCH, 20), (OURS, 20)] * 3
    assert measured[18:24] == [(OURS, 4), (OURS, 20)] * 3
    assert measured[27:33] == [(SCAN, 20), (FIT, 20)] * 3
    assert len(measured) == 3 * 13

    first = summary["rows"][0]
    assert (first["faster"], first["faster_again"], first["less_memory"]) == (60.0, 40.0, 30.0)
    assert first["difference"] == pytest.approx(5e-10)
    assert first["peer"]["seconds"] == [100.0, 50.0, 60.0]
    assert first["targets"] == [{"number": "difference", "relation": "at most", "bound": 1e-6, "met": True}]
    assert summary["rows"][3]["difference"] is None  # other images, other numbers
    given = {"dataset": "photographs", "images": 20, "repeats": 3, "only": None}
    assert summary["settings"] == {"out": str(tmp_path)} | given

    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["ok", "60", "x", "40", "x", "30", "x", "5.0e-10", "3x3x3", "patch", "spectrum"]
    assert shown[2].strip() == f"peer: 60 s (50 to 100), 2nd call 20 s; 3000 MB; {TORCH}, 20 images"
    assert shown[3].strip() == f"ours: 1 s (1 to 1), 2nd call 0.5 s; 100 MB; {OURS}, 20 images"
    assert shown[-1] == f"written to {tmp_path / 'benchmark'}"


def test_only_some_rows(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(benchmark, "version", PEERS.get)
    rows = run(tmp_path, images=20, repeats=1, only="theory.fit_profile")["rows"]
    assert measured[:2] == [(SCAN, 20), (FIT, 20)]
    assert len(measured) == sum(1 + (row["peer"] is not None) for row in rows)
    assert all("theory.fit_profile" in row["ours"]["method"] for row in rows)
    measured.clear()
    with pytest.raises(
        ValueError, match=r"--only 'fit_profil\?' occurs in no row; these are compared: .*theory.fit_profile"
    ):
        run(tmp_path, images=20, only="fit_profil?")
    assert not measured


def test_the_summary_names_machine_and_versions(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(benchmark, "version", PEERS.get)
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
    monkeypatch.setattr(benchmark.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(benchmark.os, "cpu_count", lambda: 2)
    assert run(tmp_path, images=5, repeats=1)["environment"]["machine"]["load"] == load
    assert ("The machine was busy (load 3.0 on 2 cores)" in capsys.readouterr().out) == (load == 3.0)


def test_without_peers_ours_is_still_measured_and_the_remedy_named(tmp_path, measured, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "version", lambda package: None)
    rows = run(tmp_path, images=5, repeats=2)["rows"]
    assert {method for method, _ in measured} == {OURS, f"{OURS}, 7x7", NUMPY, FIT, FITS, SCAN}
    assert [row["not_installed"] for row in rows] == ["torch", "scikit-learn", *[None] * 5]
    assert rows[0]["seconds"] == 1.0
    assert rows[0]["faster"] is None
    assert rows[0]["peer"]["seconds"] == []
    shown = capsys.readouterr().out
    for package in PEERS:
        assert f"{package} is not installed; pip install '.[benchmark]'" in shown


@pytest.mark.parametrize(
    ("peer", "met"),
    [
        ({"seconds": 50.0, "megabytes": 3000.0}, [True, True, True, True]),
        ({"seconds": 49.0, "megabytes": 3000.0}, [False, True, True, True]),
        ({"seconds": 50.0, "megabytes": 2900.0}, [True, False, True, True]),
        ({"seconds": 50.0, "megabytes": 3000.0, "values": (4.0, 2.1, 0.0)}, [True, True, True, False]),
        (None, [None, None, True]),
    ],
)
def test_targets(peer, met):
    targets = Target("faster", "at least", 50), Target("less_memory", "at least", 30), Target("seconds", "at most", 1)
    row = Row("title", Task(OURS, 9), Task(TORCH, 9), targets)
    result = benchmark.compare(row, [measurement()], peer and [measurement(**peer)])
    assert [target["met"] for target in result["targets"]] == met
    shown = benchmark.table([result])
    assert shown.splitlines()[1].startswith("MISSED" if False in met else "ok")
    assert "seconds at most 1: met" in shown
    assert ("faster at least 50: not measured" in shown) == (peer is None)


def test_a_lower_bound_is_marked_in_the_table():
    row = Row("title", Task(OURS, 9))
    for lower_bound in (True, False):
        result = benchmark.compare(row, [measurement(lower_bound=lower_bound, megabytes=0.0)], None)
        assert ("Memory is a lower bound" in benchmark.table([result])) == lower_bound
        assert benchmark.table([result]).splitlines()[1].startswith("- ")  # no target, no verdict


def test_memory_too_small_to_be_seen_has_no_ratio():
    row = Row("title", Task(OURS, 9), Task(NUMPY, 9))
    result = benchmark.compare(row, [measurement(megabytes=0.0)], [measurement()])
    assert result["less_memory"] is None
    assert result["faster"] == 1.0


# --- bad input ---


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
    np.savez(tmp_path / "small.npz", images=some_images(size=6) / 2, labels=np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=r"small.npz has images of 6x6 pixels; patches of 7x7"):
        benchmark.main(Settings(out=tmp_path, dataset=str(tmp_path / "small.npz")))
    assert not measured


def test_a_full_disk_names_the_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"No space left on device; choose another folder with TMPDIR"):
        benchmark.save_images(some_images(), benchmark.rows((5, 8, 8, 3)), tmp_path)


def test_a_failed_measurement_writes_no_summary(tmp_path, monkeypatch):
    def fail(method, file):
        raise ChildProcessError(f"{method} failed")

    monkeypatch.setattr(benchmark, "measure", fail)
    with pytest.raises(ChildProcessError):
        benchmark.main(Settings(out=tmp_path, images=5))
    assert not list(tmp_path.rglob("*.json"))
