"""Every test runs with strict dtype and rank promotion, warnings as errors
(pyproject.toml) and no display.

Float64 is on unless JAX_ENABLE_X64=0, as in `make test-float32`, which runs the tests
marked float32.
"""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two tests run at once

import jax
import matplotlib as mpl
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)
mpl.use("Agg")
# A shell starts background jobs with SIGINT ignored, and their children inherit it;
# tests of signals are to see what a user's terminal does.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Properties see the same examples in every run; compiling has no deadline. Others are
# searched by pytest --hypothesis-profile=search.
settings.register_profile("suite", derandomize=True, max_examples=20, deadline=None)
settings.register_profile("search", max_examples=300, deadline=None)
settings.load_profile("suite")


# Of the 65,530 that Linux gives a process.
_MANY_MAPS = 30_000


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps() -> Iterator[None]:
    """Each compiled program takes some of the process's maps of memory, and a process
    that has no more is killed: after about two thousand tests."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MANY_MAPS:
        jax.clear_caches()


def pytest_collection_finish() -> None:
    """What was imported stays, and tracing makes many small objects: without this the
    collector of garbage takes a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With float64 off, only the tests that are made for it can run."""
    if not jax.config.jax_enable_x64:
        for item in items:
            if item.get_closest_marker("float32") is None:
                item.add_marker(pytest.mark.skip(reason="needs float64"))
