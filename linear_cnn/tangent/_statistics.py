"""The statistics at which batch norms are frozen, from the images."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from linear_cnn.tangent._arguments import Data
from linear_cnn.tangent._calls import modules
from linear_cnn.tangent._network import (
    Outline,
    Program,
    patches_of,
    run,
    set_norms,
    weights_of,
)


class PatchStatistics(NamedTuple):
    """Of the patches that the layer sees, at all locations of all images."""

    mean: np.ndarray
    """(d,)"""
    covariance: np.ndarray
    """(d, d)"""


def at_statistics(
    program: Program,
    variables: Any,
    plan: Outline,
    data: Data,
    first: int,
) -> tuple[Program, Any, PatchStatistics | None]:
    """Program and variables with the batch norms as they are to be measured, and what
    the layer's own follow from, if they follow its weights."""
    if program.statistics != "data":
        return program, variables, None
    few = jnp.asarray(data.images[:first])
    if plan.norms_before:
        variables = _measured(program, variables, few)
    program = program._replace(norms=plan.norms)
    patches = None
    if plan.norms:
        patches = _patch_statistics(program, variables, data)
        variables = _own_statistics(program, variables, patches)
    return program, _measured(program, variables, few), patches


@partial(jax.jit, static_argnums=0)
def _measured(program: Program, variables: Any, images: jax.Array) -> Any:
    """The variables with the statistics of these images in all batch norms but
    `program.norms`, which keep theirs; all images at once, since each norm's depend on
    those before it."""
    network = nnx.merge(program.graph, variables, copy=True)
    norms = set_norms(network, program.norms.__contains__)
    for norm in norms.values():
        # The running statistics become the batch's.
        norm.momentum, norm.use_fast_variance = 0.0, False
    network(images)
    return nnx.as_pure(nnx.state(network))


def _patch_statistics(program: Program, variables: Any, data: Data) -> PatchStatistics:
    count, total, products = 0, np.zeros(()), np.zeros(())
    for batch in data.read(progress=False, description=""):
        patches = _patches(program, variables, batch.images)[: batch.valid]
        flat = np.asarray(patches, np.float64).reshape(-1, patches.shape[-1])
        if count == 0:  # about a point inside, so that nothing cancels
            origin = flat.mean(axis=0)
        flat = flat - origin
        count += len(flat)
        total, products = total + flat.sum(axis=0), products + flat.T @ flat
    mean = total / count
    return PatchStatistics(origin + mean, products / count - np.outer(mean, mean))


@partial(jax.jit, static_argnums=0)
def _patches(program: Program, variables: Any, images: jax.Array) -> jax.Array:
    _, (inputs, _) = run(program, variables, images)
    return patches_of(program, variables, inputs)


def _own_statistics(program: Program, variables: Any, patches: PatchStatistics) -> Any:
    """The variables with what follows from the patches in `program.norms`."""
    kernel, bias = weights_of(program, variables)
    values = {
        "mean": patches.mean @ kernel + (0 if bias is None else bias),
        "var": np.sum(kernel * (patches.covariance @ kernel), axis=0),
    }
    network = nnx.merge(program.graph, variables, copy=True)
    named = modules(network)
    for name in program.norms:
        for statistic, value in values.items():
            variable = getattr(named[name], statistic)
            variable[...] = jnp.asarray(value, variable.dtype)
    return nnx.as_pure(nnx.state(network))
