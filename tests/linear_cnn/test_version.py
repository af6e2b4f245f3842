"""The version that the package gives itself."""

import importlib.metadata
import tomllib
from pathlib import Path

import linear_cnn
from linear_cnn._version import installed_version

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_installed_package():
    assert linear_cnn.__version__ == importlib.metadata.version("linear-cnn")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert linear_cnn.__version__ == project["version"], "make install, to renew it"


def test_a_source_tree_that_was_never_installed_has_a_version_too(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert installed_version() == linear_cnn.__version__
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert installed_version() == "0+unknown"
