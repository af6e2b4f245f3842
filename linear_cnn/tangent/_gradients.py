"""Gradients of a layer's weights, image by image."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from linear_cnn._losses import LOSSES
from linear_cnn.tangent._calls import modules
from linear_cnn.tangent._network import Own, Program, patches_of, run


class Measure(NamedTuple):
    """What is measured, as far as programs are compiled for it."""

    loss: str
    labels: str
    samples: int
    bias: bool


class Chain(NamedTuple):
    """How the layer's own statistics follow its weights."""

    mean: jax.Array
    """The derivative of a filter's mean response by its weights, the same for all:
    (1, 1, d), with the bias (1, 1, d + 1)."""
    variance: jax.Array
    """That of its variance, 2 C w: (1, K, d), with the bias (1, K, d + 1)."""


def number_of_columns(measure: Measure, unit: int, outputs: int) -> int:
    """Of a unit of so many images, those of its given targets included."""
    of_curvature = {
        "exact": outputs * unit,
        "sampled": measure.samples,
        "given": 0,
    }
    return of_curvature[measure.labels] + 1


@partial(jax.jit, static_argnums=(0, 1))
def batch_gradients(
    program: Program,
    measure: Measure,
    variables: Any,
    chain: Chain | None,
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Any]:
    """Gradients of the layer's weights, (columns, units, K, d), and the variables after
    the batch.

    Gradients of a unit, which is an image or all of a batch whose images see one
    another, are J^T c with the Jacobian J of its outputs and a column c of `_columns`.
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
    if measure.bias:
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

    columns = _columns(measure, coupled, outputs, targets, key)
    return lax.map(gradients, columns), after


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


def _columns(
    measure: Measure,
    coupled: bool,
    outputs: jax.Array,
    targets: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """(columns, N, M): those of a factor R with R R^T = P, or random ones with E[c c^T]
    = P; the last is the derivative of the loss with the given targets."""
    given = _derivatives(measure.loss, outputs, targets)[None]
    if measure.labels == "given":
        return given
    if measure.labels == "sampled":
        drawn = _drawn(measure.loss, outputs, measure.samples, key)
        of_drawn = jax.vmap(_derivatives, (None, None, 0))
        return jnp.concatenate([of_drawn(measure.loss, outputs, drawn), given])
    count, size = outputs.shape
    unit = jnp.eye(size, dtype=outputs.dtype)
    if measure.loss == "mse":
        factor = jnp.broadcast_to(math.sqrt(2) * unit, (count, size, size))
    else:
        root = jnp.sqrt(jax.nn.softmax(outputs))
        outer = root[:, :, None] * root[:, None, :]
        factor = root[:, :, None] * (unit[None] - outer)
    columns = jnp.moveaxis(factor, 2, 0)
    if coupled:  # one image after another, the others' derivatives 0
        images = jnp.eye(count, dtype=outputs.dtype)[:, None, :, None]
        columns = (images * columns[None]).reshape(-1, count, size)
    return jnp.concatenate([columns, given])


def _derivatives(loss: str, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Those of each image's loss by its outputs, (N, M)."""
    return jax.grad(lambda outputs: jnp.sum(LOSSES[loss](outputs, targets)))(outputs)


def _drawn(loss: str, outputs: jax.Array, samples: int, key: jax.Array) -> jax.Array:
    """Targets from the density exp(-loss) that the outputs say: labels from the
    softmax, or normal ones of variance 1/2. (samples, N) or (samples, N, M)."""
    if loss == "cross_entropy":
        return jax.random.categorical(key, outputs, shape=(samples, len(outputs)))
    shape = (samples, *outputs.shape)
    return outputs[None] + math.sqrt(0.5) * jax.random.normal(key, shape, outputs.dtype)
