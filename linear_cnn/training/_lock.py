"""A folder that one process at a time may write to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout


@contextmanager
def locked(file: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold a lock file, which names this process and its host.

    One that a process of this host left behind is taken over: its process is gone, or
    its number has gone to one that started at another time.

    Args:
      file: of the lock.
      what: it is for, and what to do if another has it; for the message.

    Raises:
      ValueError: another process has it. OSError: it cannot be written.
    """
    # By its existence: the locks of the operating system do not reach other hosts on
    # many network file systems, and do not say who holds them.
    lock = SoftFileLock(file, thread_local=False)
    try:
        # Long enough to take over the lock of a process that was killed.
        lock.acquire(timeout=0.5, poll_interval=0.05)
    except Timeout:
        message = (
            f"{what} is in use by {_owner(file)}; {remedy}. If that process has ended,"
            f" delete {file}."
        )
        raise ValueError(message) from None
    try:
        yield
    finally:
        lock.release()


def _owner(file: Path) -> str:
    """The process that holds a lock, in words."""
    try:
        pid, host, *_ = file.read_text().splitlines()
    except (OSError, ValueError):
        return "a process that left no name"
    host = host.partition("?")[0]  # what follows tells containers of a host apart
    ours = " (this one)" if pid == str(os.getpid()) else ""
    return f"process {pid}{ours} on {host}"
