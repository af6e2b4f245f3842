"""Full-batch gradient descent, or gradient flow, on any quadratic loss, decomposed into
independent modes."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_shape,
    check_stable,
    check_symmetric,
)
from theory._precision import (
    Array,
    as_floats,
    concrete,
    einsum,
    float64_outside_traces,
    without_rounding,
)
from theory.modes import eigenmodes
from theory.optimizer import (
    Optimizer,
    given_optimizer,
    largest_constant_rate,
    last_rate,
    with_optimizer,
)
from theory.quadratic_dynamics import Modes, QuadraticDynamics, as_blocks


def quadratic_descent(
    curvature: ArrayLike,
    drive: ArrayLike,
    learning_rate: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    momentum: ArrayLike = 0.0,
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    decoupled: bool = False,
    weights: ArrayLike | None = None,
    continuous: bool = False,
) -> QuadraticDynamics:
    r"""Closed form of full-batch training on a quadratic loss: decompose once, query at
    any t. Plain gradient descent, unless told otherwise.

    .. math:: L(\Delta) = L(0) + b^T \Delta + \tfrac12 \Delta^T H \Delta

    Ours (docs/derivations.md, sections 13 and 19). A network whose outputs are
    linearised in some of its weights has such a loss: exactly with a squared error, to
    second order with cross-entropy; H is then the Gauss-Newton matrix and b the
    gradient.

    Args:
      curvature: H, symmetric and positive semidefinite: of shape drive.shape +
        drive.shape, that is (n, n), or (K, d, K, d) for K filters; or (K, d, d) for
        filters that do not act on one another.
      drive: b, (n,) or (K, d): the GRADIENT of the loss at the start. Steps go against
        it, the first one is -eta b.
      learning_rate: eta > 0, as `optax.sgd` means it; a number, or a schedule, as in
        `gradient_descent`.
      momentum, nesterov, weight_decay, decoupled: as in `gradient_descent`.
      weights: w, in the shape of b: the weights at the start, which weight decay pulls
        to 0; needed with it alone.
      continuous: gradient flow, the limit of small steps at the same eta t, which has
        no border of stability.

    Returns:
      the dynamics. Curvatures below rounding (n * eps * the largest, for each filter if
      they are independent, eps that of the dtype given) are taken as zero. A mode
      without curvature moves by its drive for ever, unless that is rounding itself. At
      t = infinity it counts as not moved, since it has no limit. Outside a JAX
      transformation the decomposition is in float64 whatever JAX's flag; inside, in the
      dtype of the arguments, and values are not checked.

    Raises:
      ValueError: shapes that do not match, entries that are not finite, a curvature
        that is not symmetric or has an eigenvalue clearly below 0; momentum, decay or
        schedule as in `gradient_descent`; weight decay without weights; a constant
        learning rate that is not positive or, in steps, at or beyond the border of
        stability, 2 / max h without momentum; the message names it.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> curvature, drive = np.diag([4.0, 1.0, 0.0]), np.array([2.0, 2.0, 2.0])
      >>> dynamics = theory.quadratic_descent(curvature, drive, 0.1)
      >>> print(dynamics.change([0, 1, 100]).round(3) + 0.0)
      [[  0.    0.    0. ]
       [ -0.2  -0.2  -0.2]
       [ -0.5  -2.  -20. ]]

      Blocks are filters that do not act on one another, here one for each row:

      >>> blocks = np.stack([curvature, 2 * curvature])
      >>> dynamics = theory.quadratic_descent(blocks, np.stack([drive, drive]), 0.1)
      >>> print(dynamics.curvature)
      [[4. 1. 0.]
       [8. 2. 0.]]
    """
    shape, given = np.shape(drive), np.shape(curvature)
    if not shape or 0 in shape or given not in (shape + shape, shape + shape[-1:]):
        raise ValueError(
            "curvature must have the shape drive.shape + drive.shape or, for"
            " independent filters, drive.shape + (d,), with drive of shape (n,) or (K,"
            f" d), not empty; got curvature {given} and drive {shape}."
        )
    check_finite("drive", drive)
    rates, optimizer = given_optimizer(
        learning_rate, momentum, nesterov, weight_decay, decoupled, continuous
    )
    if (weights is None) != (optimizer.weight_decay is None):
        raise ValueError(
            "give weights, those at the start, with weight_decay, which pulls them to"
            " 0, and only with it."
        )
    if weights is not None:
        check_shape("weights", weights, shape)
        check_finite("weights", weights)
    check_finite("curvature", curvature)
    # A vector's two shapes are one.
    of_values = shape if given == shape + shape[-1:] else (math.prod(shape),)
    blocks = as_blocks(curvature, of_values[-1])
    check_symmetric("curvature", blocks)
    eps = _eps(curvature), _eps(drive)
    dynamics, lowest = _decompose(
        blocks,
        drive,
        last_rate(rates),
        weights,
        eps,
        shape=of_values,
        continuous=continuous,
    )
    dynamics = with_optimizer(dynamics, rates, optimizer)
    _check_semidefinite(dynamics.curvature, lowest, eps[0])
    constant = largest_constant_rate(rates, optimizer)
    if not continuous and constant is not None:
        effective = dynamics.optimizer.effective_curvature(dynamics.curvature)
        check_stable("learning_rate", constant, effective)
    return dynamics


@float64_outside_traces
@partial(jax.jit, static_argnames=("shape", "continuous"))
def _decompose(
    blocks: jax.Array,
    drive: ArrayLike,
    learning_rate: ArrayLike,
    weights: ArrayLike | None,
    eps: tuple[float, float],
    *,
    shape: tuple[int, ...],
    continuous: bool,
) -> tuple[QuadraticDynamics, jax.Array]:
    """The dynamics, and the lowest eigenvalue of each block before rounding is taken
    away.

    Args:
      eps: of the curvature and of the drive as given.
      shape: of the eigenvalues.
    """
    matrix, b, eta = as_floats(blocks, drive, learning_rate)
    own = jnp.finfo(b.dtype).eps
    of_curvature, of_drive = (jnp.maximum(jnp.asarray(e, b.dtype), own) for e in eps)
    values, vectors = eigenmodes(matrix)
    h = without_rounding(values, of_curvature)
    modes = Modes(eta, h, vectors, None)
    along = modes.along(b.reshape(h.shape), jnp.maximum(of_curvature, of_drive))
    start = None
    if weights is not None:
        (w,) = as_floats(weights)
        start = einsum("gnm,gn->gm", vectors, w.astype(b.dtype).reshape(h.shape))
        start = start.reshape(shape)
    dynamics = QuadraticDynamics(
        learning_rate=eta,
        optimizer=Optimizer(),
        curvature=h.reshape(shape),
        modes=vectors.reshape(*shape, -1),
        drive=along.reshape(shape),
        start=start,
        shape=b.shape,
        continuous=continuous,
    )
    return dynamics, values[:, -1]


def _check_semidefinite(curvature: Array, lowest: Array, eps: float) -> None:
    """Raise if the lowest of each group of eigenvalues is negative beyond doubt."""
    low, known = concrete(lowest), concrete(curvature)
    if low is None or known is None:
        return
    largest = np.maximum(known[..., :1].reshape(low.shape), np.abs(low))
    bad = low < -(eps**0.5) * largest
    if bad.any():
        raise ValueError(
            "curvature must be positive semidefinite, but has an eigenvalue of"
            f" {low[bad].min()}, with the largest {known.max()}; a Hessian need not be"
            " so, a Gauss-Newton or Fisher matrix is."
        )


def _eps(value: Any) -> float:
    """Machine epsilon of an array's dtype; of float64 for what is not floating."""
    dtype = getattr(value, "dtype", np.dtype(np.float64))
    floating = jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(dtype if floating else np.float64).eps)
