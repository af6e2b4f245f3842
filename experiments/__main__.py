"""Command line of the experiments."""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import tyro

import linear_cnn
from experiments import benchmark, catalogue, everything, report
from experiments.download import standard

COMMANDS: dict[str, Callable[..., Any]] = {
    name: catalogue.module(name).main for name in catalogue.CATALOGUE
} | {
    "list": catalogue.show,
    "all": everything.main,
    "report": report.main,
    "benchmark": benchmark.main,
    "data": standard.main,
}


def main() -> None:
    # Patch spectra span five orders of magnitude; the networks choose their own
    # precision.
    jax.config.update("jax_enable_x64", True)
    # Seeds are spread over JAX's devices: let a CPU count as one for each core.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="python -m experiments",
            description=(
                "Theory of the first layer of CNNs, compared with networks that were"
                " really trained."
            ),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except (OSError, ValueError, TypeError, linear_cnn.TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(
            "interrupted; no result was left half-written, and training continues when"
            " started again without --fresh"
        )


if __name__ == "__main__":
    main()
