"""The version of this package."""

import importlib.metadata


def installed_version() -> str:
    """The version that is installed; "0+unknown" in a source tree that never was."""
    try:
        return importlib.metadata.version("linear-cnn")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


__version__ = installed_version()
