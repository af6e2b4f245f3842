"""Files from package registries by the registries' own clients, which know where they
are; no package is ever run."""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import IO


def run(
    command: list[str], output: IO[bytes], without: str, folder: Path | None = None
) -> None:
    """Run a program; OSError with what it said if it fails, or with what to do if it is
    not installed."""
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed; {without}")
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise OSError(f"`{shlex.join(command)}` failed: {' / '.join(said)}")


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of a folder whose name fits; OSError if there is another number of
    them."""
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise OSError(f"expected one file {pattern}, got {len(files)}")
    return files[0]


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError if so many bytes are not free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e6:,.0f} MB free, but {needed / 1e6:,.0f} MB are"
            " needed; free some, or choose another folder with --data-dir."
        )


def npm_pack(package: str, folder: Path) -> Path:
    """The archive of an npm package, "name@version", in an empty folder."""
    command = [
        "npm",
        "pack",
        package,
        "--ignore-scripts",
        "--pack-destination",
        str(folder),
    ]
    with tempfile.TemporaryFile() as output:
        run(command, output, "install Node.js to use this way")
    return only_file(folder, "*.tgz")


def pip_wheel(package: str, folder: Path) -> Path:
    """The wheel of a Python package, "name==version", in an empty folder."""
    command = [
        *_pip("download"),
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        package,
    ]
    with tempfile.TemporaryFile() as output:
        run(command, output, _WITHOUT_PIP)
    return only_file(folder, "*.whl")


def pip_source(package: str, folder: Path) -> Path:
    """The source archive (.tar.gz) of a Python package, "name==version", in a folder.

    `pip download` would run the package's build script, so pip is only asked where the
    archive is.
    """
    name, _, version = package.partition("==")
    archive = f"{name}-{version}.tar.gz"
    with tempfile.TemporaryFile() as output:
        run([*_pip("index"), "versions", name, "-vv"], output, _WITHOUT_PIP)
        output.seek(0)
        said = output.read().decode(errors="replace")
    found = re.search(rf"\S+/{re.escape(archive)}(?=[#\s])", said)
    if found is None:
        raise OSError(f"pip names no {archive} among the versions of {name}")
    with (
        urllib.request.urlopen(found.group(), timeout=60) as response,
        (folder / archive).open("wb") as file,
    ):
        shutil.copyfileobj(response, file)
    return folder / archive


def _pip(command: str) -> list[str]:
    # -P: a pip.py in the working folder is not run.
    return [sys.executable, "-P", "-m", "pip", command, "--disable-pip-version-check"]


_WITHOUT_PIP = "install pip to use this way"
