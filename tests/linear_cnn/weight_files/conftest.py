"""Names of torch for the pickles, and code that a pickle may carry."""

import sys
import types

import pytest

from tests.linear_cnn.weight_files.writers import (
    STORAGE_NAMES,
)


@pytest.fixture(autouse=True)
def torch_names(monkeypatch):
    """Modules of torch's names, so that Python's own pickler writes references to
    them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in [
        (torch, ["Size", *(f"{name}Storage" for name in STORAGE_NAMES.values())]),
        (utils, ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"]),
    ]:
        for name in names:

            def function(*arguments):
                pytest.fail("called")

            function.__name__ = function.__qualname__ = name
            function.__module__ = module.__name__
            setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return torch, utils


@pytest.fixture
def ran(tmp_path):
    """A file that malicious code makes, and Python code that makes it."""
    path = tmp_path / "ran"
    return types.SimpleNamespace(path=path, code=f"open({str(path)!r}, 'w')")
