"""Curvature and drive of a layer's weights in the tangent space of its network."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from linear_cnn._checks import integer
from linear_cnn.tangent._arguments import checked_data, checked_labels
from linear_cnn.tangent._gradients import Chain, batch_gradients
from linear_cnn.tangent._network import take_apart, weights_of
from linear_cnn.tangent._statistics import PatchStatistics, at_statistics


@dataclass(frozen=True, eq=False)
class TangentMoments:
    r"""What linearised training of one layer needs to know; NumPy arrays of float64.

    L is the mean loss of the images at the network's weights. A filter's weights have
    the order (kh, kw, C) of its kernel, flattened; then, if asked for, comes its bias.

    Attributes:
      curvature: H, (K, d, K, d), the Gauss-Newton curvature :math:`E[J^T P J]` of L; or
        only its blocks of single filters, (K, d, d).
      drive: b, (K, d), the gradient of L: the weights begin to move along -b.
      gradient_moment: D, of the shape of `curvature`: :math:`E[g g^T]` over the
        gradients g of single images' losses with the given targets. Their covariance is
        D - b b^T; a minibatch of n has 1/n of it.
      count: N, the number of images.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> moments = linear_cnn.TangentMoments(
      ...     curvature=np.eye(6).reshape(2, 3, 2, 3),
      ...     drive=np.ones((2, 3)),
      ...     gradient_moment=np.ones((2, 3, 2, 3)),
      ...     count=1,
      ... )
      >>> change = -0.1 * moments.drive  # of one step of gradient descent
      >>> change.shape
      (2, 3)
    """

    curvature: np.ndarray
    drive: np.ndarray
    gradient_moment: np.ndarray
    count: int


def tangent_moments(
    network: nnx.Module,
    images: ArrayLike,
    targets: ArrayLike,
    *,
    loss: str,
    labels: str = "exact",
    samples: int = 10,
    key: jax.Array | None = None,
    layer: str | None = None,
    bias: bool = False,
    blocks: bool = False,
    statistics: str = "data",
    statistics_images: int = 1000,
    batch_size: int = 50,
    memory_limit: int = 4 * 2**30,
    progress: bool = False,
) -> TangentMoments:
    r"""Curvature and drive of one convolution of a network, all its other weights
    fixed.

    .. math:: H = \frac1N \sum_n J_n^T P_n J_n , \qquad
              b = \frac1N \sum_n J_n^T r_n

    with the Jacobian J_n of image n's outputs f by the layer's weights, the loss's
    derivative r_n by f, and its second derivative P_n: 2 for "mse",
    :math:`\operatorname{diag}(p) - p p^T` with the softmax p for "cross_entropy". They
    are those of the model that is linear in these weights (ours; docs/derivations.md,
    section 17). The network is not changed, and `statistics` alone says in which mode
    it is measured, whatever mode it is in.

    Args:
      network: any `flax.nnx.Module` that maps images to outputs (N, M).
      images: floating point, (N, H, W, C), in the network's dtype.
      targets: for "mse" real numbers, (N,) or (N, M); for "cross_entropy" integer
        labels (N,).
      loss: "mse", summed over outputs, or "cross_entropy", in nats; as in `train`.
      labels: what `curvature` is made of. "exact": its definition, M backward passes an
        image. "sampled": :math:`E[g g^T]` of the gradients g of single images with
        targets drawn from the model, exp(-loss): labels from the softmax, or normal
        targets of variance 1/2. Its mean is the exact one, at as many passes as
        samples. "given": the same of the given targets, the empirical Fisher matrix,
        which is `gradient_moment`.
      samples: targets drawn for each image if labels = "sampled".
      key: of the drawn targets.
      layer: attribute path of the convolution, a `flax.nnx.Conv` with two image axes,
        without groups or mask, that the network calls once; by default the first layer,
        found as `train` finds it.
      bias: whether the filters' biases are among the weights, d then being kh kw C + 1.
      blocks: whether only the blocks of single filters are kept.
      statistics: what batch norms (`flax.nnx.BatchNorm`) normalise by. "data": the
        images. Batch norms that take the layer's responses follow the weights through
        mean and variance over all images; all others are frozen at those of the first
        `statistics_images`. "running": their running statistics, as in inference.
        Dropout is off in both. "batch": each batch's, as in training, with dropout from
        the network's own stream.
      statistics_images: see there; they pass through the network at once.
      batch_size: images that are computed at once. If statistics = "batch", it is a
        part of what is measured: batches are taken in the order of the images, a last
        smaller one is left out; J_n is then the Jacobian of image n's outputs within
        its batch, the exact curvature takes batch_size times as long, and
        `gradient_moment` is such that D - b b^T is batch_size times the covariance of
        the batches' gradients.
      memory_limit: in bytes, for the moments and the gradients of a batch.
      progress: show a progress bar, with the number of gradients.

    Raises:
      TypeError, ValueError: malformed arguments, no such layer, outputs that do not
        match the targets, batch statistics that cannot be frozen, moments above the
        memory limit; the message names the remedy. All before anything is computed.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import numpy as np
      >>> from flax import nnx
      >>> network = linear_cnn.SmallCNN(
      ...     2, features=(4, 3), batch_norm=True, rngs=nnx.Rngs(0)
      ... )
      >>> images = jax.random.normal(jax.random.key(0), (20, 8, 8, 3))
      >>> labels = np.arange(20) % 2
      >>> moments = linear_cnn.tangent_moments(
      ...     network, images, labels, loss="cross_entropy"
      ... )
      >>> moments.curvature.shape, moments.drive.shape
      ((4, 27, 4, 27), (4, 27))

      Batch norm takes no notice of a filter's length, so its curvature is 0:

      >>> filters = np.asarray(network.conv1.kernel[...]).reshape(27, 4).T
      >>> along = np.einsum("kd,kdle->kle", filters, moments.curvature)
      >>> bool(abs(along).max() < 1e-3 * abs(moments.curvature).max())
      True
    """
    coupled = statistics == "batch"
    chosen = checked_labels(loss, labels, samples)
    data = checked_data(images, targets, chosen, batch_size, coupled, key)
    statistics_images = integer("statistics_images", statistics_images, minimum=1)
    program, variables, plan = take_apart(
        network, layer, statistics, jnp.asarray(data.images[: data.size])
    )
    data = data.matched(loss, plan.outputs)
    kernel, offset = weights_of(program, variables)
    if bias and offset is None:
        raise ValueError(
            f"bias=True, but layer {program.layer!r} has none; leave it out."
        )
    if statistics == "data" and plan.other_norm is not None:
        raise ValueError(
            f"statistics='data' needs the batch norm after layer {program.layer!r} to"
            f" take its responses as they are, but {plan.other_norm!r} takes something"
            " else; choose statistics='running' or 'batch'."
        )
    shape = kernel.shape[1], kernel.shape[0] + bias
    # Images that see one another are one unit, with one gradient.
    units, unit = (1, data.size) if coupled else (data.size, 1)
    gradients = units * (chosen.columns(unit, plan.outputs.shape[1]) + 1)
    _check_memory(shape, blocks, gradients, memory_limit)

    program, variables, patches = at_statistics(
        program, variables, plan, data, statistics_images
    )
    chain = None if patches is None else _chain(kernel, patches, bias)
    curvature, moment, drive = np.zeros(()), np.zeros(()), np.zeros(shape)
    description = (
        f"{data.batches * gradients:,} gradients of {math.prod(shape):,} weights"
    )
    for batch in data.read(progress, description):
        of_batch, variables = batch_gradients(
            program,
            chosen,
            bias,
            variables,
            chain,
            batch.images,
            batch.targets,
            batch.key,
        )
        valid = np.asarray(of_batch, np.float64)[:, : batch.valid]
        curvature = curvature + _products(valid[:-1], blocks)
        moment = moment + _products(valid[-1:], blocks)
        drive += valid[-1].sum(axis=0)

    drive /= data.used
    of_drive = _products(drive[None, None], blocks)
    moment = moment / data.used - (unit - 1) * of_drive
    curvature = curvature / (data.used * chosen.draws)
    return TangentMoments(
        moment.copy() if labels == "given" else curvature, drive, moment, data.used
    )


def _products(gradients: np.ndarray, blocks: bool) -> np.ndarray:
    """Sum of the products g g^T of gradients (..., K, d): (K, d, K, d), or (K, d, d) of
    single filters."""
    shape = gradients.shape[-2:]
    rows = gradients.reshape(-1, *shape)
    if blocks:
        return np.matmul(rows.transpose(1, 2, 0), rows.transpose(1, 0, 2))
    rows = rows.reshape(-1, math.prod(shape))
    return (rows.T @ rows).reshape(*shape, *shape)


def _chain(kernel: np.ndarray, patches: PatchStatistics, bias: bool) -> Chain:
    """The derivatives of mean w.m + bias and variance w.C w of a filter's responses."""
    of_mean, of_variance = patches.mean, 2 * kernel.T @ patches.covariance
    if bias:
        of_mean = np.append(of_mean, 1.0)
        of_variance = np.pad(of_variance, ((0, 0), (0, 1)))
    return Chain(jnp.asarray(of_mean[None, None]), jnp.asarray(of_variance[None]))


def _check_memory(
    shape: tuple[int, int], blocks: bool, gradients: int, limit: int
) -> None:
    """Raise if the moments, or with them the gradients of a batch, take more bytes than
    the limit."""
    filters, entries = shape
    # Two moments and a product that is added to them; single and double precision.
    full, single = (24 * filters**n * entries**2 for n in (2, 1))
    moments, rows = single if blocks else full, 12 * gradients * math.prod(shape)
    if moments > limit:
        remedy = (
            "raise the limit"
            if blocks
            else f"blocks=True keeps those of single filters alone, {_size(single)}"
        )
        raise ValueError(
            f"the curvature of {filters} filters of {entries} weights needs"
            f" {_size(moments)}, more than memory_limit = {_size(limit)}; {remedy}."
        )
    if moments + rows > limit:
        raise ValueError(
            f"the {gradients:,} gradients of a batch need {_size(rows)} beside the"
            f" curvature's {_size(moments)}, more than memory_limit = {_size(limit)};"
            " lower batch_size or raise the limit."
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
