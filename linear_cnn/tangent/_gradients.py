"""Gradients of a layer's weights, image by image."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from linear_cnn.tangent._calls import modules
from linear_cnn.tangent._labels import Labels, columns, derivatives
from linear_cnn.tangent._network import Own, Program, patches_of, run


class Chain(NamedTuple):
    """How the layer's own statistics follow its weights."""

    mean: jax.Array
    """The derivative of a filter's mean response by its weights, the same for all:
    (1, 1, d), with the bias (1, 1, d + 1)."""
    variance: jax.Array
    """That of its variance, 2 C w: (1, K, d), with the bias (1, K, d + 1)."""


@partial(jax.jit, static_argnums=(0, 1, 2))
def batch_gradients(
    program: Program,
    labels: Labels,
    bias: bool,
    variables: Any,
    chain: Chain | None,
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Any]:
    """Gradients of the layer's weights, (columns + 1, units, K, d), and the variables
    after the batch.

    Gradients of a unit, which is an image or all of a batch whose images see one
    another, are J^T c with the Jacobian J of its outputs and a column c of the labels;
    the last is that of the loss with the targets.
    """
    coupled = program.statistics == "batch"
    count = images.shape[0]
    shift = jnp.zeros((count, *program.responses.shape[1:]), program.responses.dtype)
    outputs, pull_back, (inputs, after) = jax.vjp(
        lambda shift, own: run(program, variables, images, shift, own),
        shift,
        _own_copies(program, variables, count),
        has_aux=True,
    )
    patches = patches_of(program, variables, inputs)
    if bias:
        patches = jnp.concatenate([patches, jnp.ones_like(patches[..., :1])], axis=-1)

    def gradients(column: jax.Array) -> jax.Array:
        of_responses, of_own = pull_back(column)
        result = jnp.einsum(
            "njk,njd->kd" if coupled else "njk,njd->nkd",
            of_responses.reshape(*patches.shape[:2], -1),
            patches,
            precision=lax.Precision.HIGHEST,
        )
        if chain is not None:
            for values, derivative in zip(of_own, chain, strict=True):
                each = jnp.moveaxis(values[:, 0], 1, 2).astype(result.dtype)
                result = result + each * derivative.astype(result.dtype)
        return result[None] if coupled else result

    given = derivatives(labels.loss, outputs, targets)[None]
    starts = jnp.concatenate([columns(labels, outputs, key, coupled), given])
    return lax.map(gradients, starts), after


def _own_copies(program: Program, variables: Any, count: int) -> Own | None:
    """The statistics of the layer's batch norms, a copy for each image."""
    if not program.norms:
        return None
    norm: Any = modules(nnx.merge(program.graph, variables, copy=True))[
        program.norms[0]
    ]
    return Own(
        *(
            jnp.broadcast_to(values.reshape(1, 1, 1, -1), (count, 1, 1, values.size))
            for values in (norm.mean[...], norm.var[...])
        )
    )
