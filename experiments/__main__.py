"""Command line of the experiments: `linear-cnn`, or `python -m experiments`."""

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
import tyro

import linear_cnn
from experiments import catalogue, distributed
from experiments.compiled import keep_compiled_programs
from experiments.frame import PRESET_NAMES, Preset

OTHERS = ("list", "all", "report", "benchmark", "data")


def commands(words: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """All commands by their names, experiments and tools with the defaults of the
    preset that is among the words of the command line. What is wrong with these is said
    later. Where the words begin with a command, the others are their names alone, since
    to import them all takes a second."""
    named: dict[str, Preset] = {name: name for name in PRESET_NAMES}
    chosen = None
    for word, following in itertools.pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if option == "--preset":
            chosen = named.get(value or following)
    names = [*catalogue.entries(), *OTHERS]
    wanted = set(words[:1]) & set(names) or names
    return {
        name: _command(name, chosen) if name in wanted else _another for name in names
    }


def _another() -> None:
    """Another command than the one that is run."""


def _command(name: str, preset: Preset | None) -> Callable[..., Any]:
    """What a command runs: of an experiment its `main`, whose default settings are
    those of a preset."""
    if name in OTHERS:
        return _other(name)
    module = catalogue.module(name)
    default = catalogue.default_settings(name, preset)

    def run(settings: Any = default) -> None:
        module.main(settings)

    run.__doc__ = module.main.__doc__
    run.__annotations__["settings"] = module.Settings
    return run


def _other(name: str) -> Callable[..., Any]:
    """One of OTHERS; those that are not asked for are not imported."""
    if name == "all":
        from experiments import everything

        return everything.main
    if name == "report":
        from experiments import report

        return report.main
    if name == "benchmark":
        from experiments import benchmark

        return benchmark.main
    if name == "data":
        from experiments.download import standard

        return standard.main
    return catalogue.show


NO_CACHE = "--no-cache"


class _Stopped(KeyboardInterrupt):
    """A signal to stop has come; training has saved what it had by then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.kind = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _program() -> str:
    """What the user has called: the console script, or this package by python -m."""
    called = Path(sys.argv[0])
    return "python -m experiments" if called.name == "__main__.py" else called.name


def main() -> None:
    """Run the command that the command line names."""
    # Patch spectra span five orders of magnitude; the networks choose their own
    # precision.
    jax.config.update("jax_enable_x64", True)
    # Seeds are spread over JAX's devices: let a CPU count as one for each core.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    # Before anything is computed, and before the handlers of signals.
    try:
        job = distributed.requested(sys.argv)
        if job is not None:
            if not set(catalogue.CATALOGUE) & set(sys.argv[1:2]):
                raise ValueError(f"{distributed.OPTION} is for one experiment.")
            distributed.join(job)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if job is None:
        _run()
        return
    try:
        _run()
    except SystemExit as ended:
        if ended.code:
            distributed.leave(ended.code)
    except jax.errors.JaxRuntimeError as error:
        distributed.lost(error)
    except BaseException:
        traceback.print_exc()
        distributed.leave(1)


def _run() -> None:
    if NO_CACHE in sys.argv:
        sys.argv.remove(NO_CACHE)
    else:
        keep_compiled_programs()
    for kind in (signal.SIGINT, signal.SIGTERM):
        # Jobs that a shell puts into the background ignore SIGINT, and go on to.
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, _stop)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands(sys.argv[1:]),
            prog=_program(),
            description=(
                "Theory of the first layer of CNNs, compared with networks that were"
                " really trained. Compiled programs are kept in the user's cache"
                f" folder; {NO_CACHE} compiles all of them afresh."
                f" {distributed.OPTION}, given to an experiment that is started in the"
                " same way on several hosts, makes one job of them."
            ),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except (OSError, ValueError, TypeError, linear_cnn.TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        kind = stopped.kind if isinstance(stopped, _Stopped) else signal.SIGINT
        print(
            f"interrupted by {kind.name}; no result was left half-written, and training"
            " continues when started again without --fresh",
            file=sys.stderr,
        )
        sys.exit(128 + kind)  # as shells say it


if __name__ == "__main__":
    main()
