"""Gradient descent in minibatches on a linear CNN, its covariance decomposed into
independent modes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_head,
    check_kind,
    check_positive,
    check_squares,
    check_stable,
)
from theory._precision import (
    Array,
    as_floats,
    concrete,
    einsum,
    float64_outside_traces,
    matmul,
    without_rounding,
)
from theory.fourth_moments import MeanPatchFourthMoments
from theory.linear_law import GRADIENT_FACTOR
from theory.modes import eigenmodes
from theory.stochastic_dynamics import StochasticDynamics
from theory.symmetric_products import pack, pair_products, pairs, unpack


@float64_outside_traces
def largest_stable_stochastic_rate(
    moments: MeanPatchFourthMoments, head: ArrayLike, batch_size: ArrayLike
) -> Array:
    r"""The border of stability of minibatches: below it the covariance of what is
    learnt stays finite for ever.

    .. math:: \frac{1}{2 |a|^2 \lambda_{\max}}, \qquad \lambda_{\max} = \max_S
       \frac{(1 - 1/B) \langle S, A S A \rangle + \mathrm{E} (p^T S p)^2 / B}
       {2 \langle S, A S \rangle}

    over symmetric S. Ours (docs/derivations.md, section 21). It is below
    `largest_stable_learning_rate`, that of full batches, which it reaches as B grows;
    between the two the mean converges and the covariance does not.

    Args:
      moments: of the training images; their targets do not matter.
      head: a, (K,).
      batch_size: B.

    Returns:
      eta, scalar; infinite if all images are zero. In float64 under the same rule as
      `stochastic_descent`.

    Raises:
      TypeError: other moments. ValueError: moments that are not finite; a head of zeros
        or not of one output; a batch size that is no whole number.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_fourth_moments(images, targets, 2)
      >>> head = np.ones(3)
      >>> for size in 1, 10, 100:
      ...     print(theory.largest_stable_stochastic_rate(moments, head, size).round(2))
      1.66
      2.63
      2.76
      >>> full = theory.mean_patch_moments(images, targets, 2)
      >>> print(theory.largest_stable_learning_rate(full, head).round(2))
      2.77
    """
    _check(moments, head, batch_size)
    return _border(_turned(moments), head, batch_size)


@float64_outside_traces
def stochastic_descent(
    moments: MeanPatchFourthMoments,
    head: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
) -> StochasticDynamics:
    """Closed form of gradient descent in minibatches on the "mse" loss of a linear CNN
    of one output: decompose once, query mean and covariance at any t.

    Ours (docs/derivations.md, section 21). The network is that of `gradient_descent`.
    Every step draws its batch anew, with replacement, and has no momentum. Epochs that
    are permutations of the images, as in `linear_cnn.train`, leave far less noise along
    modes that need many epochs.

    Args:
      moments: of the training images and targets.
      head: a, (K,).
      learning_rate: eta > 0, as `optax.sgd` means it; scalar.
      batch_size: B >= 1, images a step; scalar.

    Returns:
      the dynamics. Curvatures below rounding (d^2 * eps * the largest) are taken as
      zero. Outside a JAX transformation the decomposition is in float64 whatever JAX's
      flag; inside, in the dtype of the moments, and values are not checked. Its time is
      that of the eigenvectors of a matrix of d (d + 1) / 2 rows: about a second for 27
      weights, ten for 48.

    Raises:
      TypeError: other moments. ValueError: moments that are not finite; a head of
        zeros, of several outputs, or whose squares are too small or large for a float;
        a batch size that is no whole number; a step size that is not positive or at or
        beyond the border of stability; the message names the largest stable one.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_fourth_moments(images, targets, 2)
      >>> head, start = np.ones(3), np.zeros((2, 2, 1, 3))
      >>> rate = 0.1 * theory.largest_stable_stochastic_rate(moments, head, 4)
      >>> dynamics = theory.stochastic_descent(moments, head, rate, batch_size=4)

      The mean converges; the covariance stays, and is of the order of eta / B:

      >>> mean = dynamics.predictor(np.inf, start)
      >>> np.allclose(moments.second @ mean, moments.cross)
      True
      >>> once = np.trace(dynamics.predictor_covariance(np.inf, start))
      >>> half = theory.stochastic_descent(moments, head, rate / 2, batch_size=4)
      >>> print((np.trace(half.predictor_covariance(np.inf, start)) / once).round(2))
      0.48
    """
    _check(moments, head, batch_size)
    check_positive("learning_rate", learning_rate)
    turned = _turned(moments)
    check_stable("learning_rate", learning_rate, 2 / _border(turned, head, batch_size))
    return _decompose(
        turned, head, learning_rate, batch_size, moments.count, moments.kernel_shape
    )


def _check(
    moments: MeanPatchFourthMoments, head: ArrayLike, batch_size: ArrayLike
) -> None:
    check_kind("moments", moments, MeanPatchFourthMoments, "mean_patch_fourth_moments")
    for name in ("second", "cross", "fourth", "fourth_cross", "fourth_target"):
        check_finite(f"moments.{name}", getattr(moments, name))
    check_head(head)
    if np.ndim(head) != 1:
        raise ValueError(
            f"head must have shape (K,), one output, got {np.shape(head)}; the moments"
            " are of one target."
        )
    check_squares("head", head)
    check_positive("batch_size", batch_size)
    size = concrete(batch_size)
    if size is not None and (size < 1 or size % 1):
        raise ValueError(
            f"batch_size must be a whole number of images, 1 or more, got {size}."
        )


class _Turned(NamedTuple):
    """Moments of mean patches in the basis of their second moment, of which E are the
    columns; 0 in directions that are not seen."""

    alpha: jax.Array
    e: jax.Array
    cross: jax.Array
    fourth: jax.Array
    fourth_cross: jax.Array
    fourth_target: jax.Array

    @property
    def seen(self) -> jax.Array:
        """Of pairs of directions, (D,)."""
        i, j = pairs(self.alpha.shape[0])
        return (self.alpha[i] > 0) & (self.alpha[j] > 0)


@jax.jit
def _turned(moments: MeanPatchFourthMoments) -> _Turned:
    second, cross, fourth, fourth_cross, fourth_target = as_floats(
        moments.second,
        moments.cross,
        moments.fourth,
        moments.fourth_cross,
        moments.fourth_target,
    )
    alpha, e = eigenmodes(second)
    d = alpha.shape[0]
    # Modes of the covariance are known up to the rounding of D, and not d, numbers.
    alpha = without_rounding(alpha, d * jnp.finfo(alpha.dtype).eps)
    live = alpha > 0

    def of_pairs(products: jax.Array) -> jax.Array:
        """Vectors (n, D) of symmetric matrices, in the basis E."""
        matrices = pack(einsum("nab,ai,bj->nij", unpack(products, d), e, e))
        seen = pair_products(live.astype(e.dtype)) > 0
        return jnp.where(seen[None], matrices, 0)

    return _Turned(
        alpha,
        e,
        cross=jnp.where(live, matmul(cross, e), 0),
        fourth=of_pairs(of_pairs(fourth).T),
        fourth_cross=jnp.where(live[None], matmul(of_pairs(fourth_cross.T).T, e), 0),
        fourth_target=of_pairs(fourth_target[None])[0],
    )


def _step(turned: _Turned, batch_size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """On symmetric matrices X in the basis E: A X + X A, which is diagonal, (D,), and
    (1 - 1/B) A X A + E[p p^T (p^T X p)] / B, (D, D)."""
    i, j = pairs(turned.alpha.shape[0])
    both = jnp.diag(turned.alpha[i] * turned.alpha[j])
    second = both + (turned.fourth - both) / batch_size
    return turned.alpha[i] + turned.alpha[j], second


@jax.jit
def _border(turned: _Turned, head: ArrayLike, batch_size: ArrayLike) -> jax.Array:
    a, size, _ = as_floats(head, batch_size, turned.alpha)
    first, second = _step(turned, size)
    scale = jnp.where(turned.seen, 1 / jnp.sqrt(jnp.where(turned.seen, first, 1)), 0)
    largest = jnp.linalg.eigvalsh(scale[:, None] * second * scale[None])[-1]
    return 1 / (GRADIENT_FACTOR * (a**2).sum() * largest)


@partial(jax.jit, static_argnames=("count", "kernel_shape"))
def _decompose(
    turned: _Turned,
    head: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    count: int,
    kernel_shape: tuple[int, int, int],
) -> StochasticDynamics:
    a, eta, size, *values = as_floats(head, learning_rate, batch_size, *turned)
    turned = _Turned(*values)
    alpha, e, cross, fourth, fourth_cross, fourth_target = turned
    gamma = GRADIENT_FACTOR * eta * (a**2).sum()
    first, second = _step(turned, size)
    seen = turned.seen
    # Pairs that are not seen are set apart, so that no mode mixes them with the others,
    # and from one another, as derivatives of eigenvectors need.
    apart = -1 - jnp.arange(seen.shape[0], dtype=alpha.dtype) / seen.shape[0]
    loss = jnp.where(
        seen[:, None] & seen[None], gamma * jnp.diag(first) - gamma**2 * second, 0
    ) + jnp.diag(jnp.where(seen, 0, apart))
    rates, modes = eigenmodes(loss)
    mode_seen = jnp.where(seen[:, None], modes**2, 0).sum(axis=0) > 0.5
    live = alpha > 0
    solution = jnp.where(live, cross / jnp.where(live, alpha, 1), 0)
    # Of the residuals y - p^T v* in the place of the targets.
    along = einsum("mij,j->mi", unpack(fourth, alpha.shape[0]), solution)
    squared = (
        fourth_target
        - 2 * matmul(fourth_cross, solution)
        + matmul(fourth, pair_products(solution))
    )
    i, j = pairs(alpha.shape[0])
    noise = jnp.concatenate(
        [
            squared[:, None],
            -2 * (fourth_cross - along),
            fourth - jnp.diag(alpha[i] * alpha[j]),
        ],
        axis=1,
    )
    return StochasticDynamics(
        learning_rate=eta,
        batch_size=size,
        head=a,
        mean_patch_variance=alpha,
        components=e,
        solution=solution,
        rates=jnp.where(mode_seen, rates, 0),
        modes=modes,
        noise=matmul(modes.T, noise),
        count=count,
        kernel_shape=kernel_shape,
    )
