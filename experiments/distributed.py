"""`--distributed`: the same command on several hosts is one job."""

import os
import signal
import subprocess
import sys
from typing import Any, NoReturn

import jax

OPTION = "--distributed"
# Where JAX does not detect them: the words after them, and what they are.
_TOLD = {
    "--coordinator": "coordinator_address",
    "--processes": "num_processes",
    "--process": "process_id",
}
_HEARTBEAT_SECONDS = 30  # a lost host ends the others within a minute
_COMPUTES = "LINEAR_CNN_JOB"  # set in the process that computes
_AGAIN = (
    "start the same command again on every host, and what was trained continues from"
    " its checkpoints"
)


def requested(words: list[str]) -> dict[str, Any] | None:
    """Take the options of a job out of the words of a command line; None without
    `--distributed`.

    Raises:
      ValueError: a part of a job without it, no value, or no number.
    """
    job: dict[str, Any] = {}
    for option, name in _TOLD.items():
        for at, word in enumerate(words):
            given, _, value = word.partition("=")
            if given != option:
                continue
            if OPTION not in words:
                raise ValueError(f"{option} is for {OPTION}, which is missing.")
            if value:
                del words[at]
            elif at + 1 < len(words):
                value = words[at + 1]
                del words[at : at + 2]
            if not value or (name != "coordinator_address" and not value.isdecimal()):
                kind = "HOST:PORT" if name == "coordinator_address" else "a number"
                raise ValueError(f"{option} takes {kind}, got {value!r}.")
            job[name] = value if name == "coordinator_address" else int(value)
            break
    if OPTION not in words:
        return None
    words.remove(OPTION)
    if job and len(job) < len(_TOLD):
        raise ValueError(
            f"{', '.join(_TOLD)} go together: the host of the first process with a free"
            " port, how many processes there are, and which this is, from 0."
        )
    return job


def join(job: dict[str, Any]) -> None:
    """Be a process of a job, which a parent watches; only in the one that computes does
    this return.

    Raises:
      ValueError: JAX detects no cluster.
    """
    if os.environ.get(_COMPUTES) is None:
        sys.exit(_watched())
    # SIGTERM is for this program's own handler.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **job,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            # The others wait while the first one draws; who is lost is found out.
            shutdown_timeout_seconds=24 * 3600,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{OPTION}: JAX cannot connect the processes ({error}). Under Slurm or Open"
            " MPI it finds them by itself; elsewhere give each process --coordinator"
            " HOST:PORT --processes N --process I."
        ) from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def lost(error: BaseException) -> NoReturn:
    """End after an error of a computation that several processes share."""
    first = str(error).partition("\n")[0][:200]
    leave(f"error: another process of the job is lost ({first}); {_AGAIN}")


def leave(status: Any) -> NoReturn:
    """End without waiting for the others, which may wait for this one."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _watched() -> int:
    """Run this command again as a child; its status. JAX ends a process whose job is
    lost by an abort, which says nothing in words."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(os.environ)
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env=quiet | {_COMPUTES: "1"}
    )
    # A terminal sends SIGINT to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    status = child.wait()
    if status >= 0:
        return status
    print(
        f"error: another process of the job is lost, or this one was ended"
        f" ({signal.Signals(-status).name}); {_AGAIN}",
        file=sys.stderr,
    )
    return 1
