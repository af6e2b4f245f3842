"""Full-batch training of a linear CNN, decomposed into independent modes."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_head,
    check_kind,
    check_outputs,
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
from theory.dynamics import LinearDynamics
from theory.linear_law import GRADIENT_FACTOR
from theory.mean_patches import MeanPatchMoments
from theory.modes import eigenmodes, is_noise
from theory.optimizer import (
    Optimizer,
    given_optimizer,
    largest_constant_rate,
    last_rate,
    with_optimizer,
)

Loss = Literal["mse", "cross_entropy"]


@float64_outside_traces
def largest_stable_learning_rate(
    moments: MeanPatchMoments,
    head: ArrayLike,
    *,
    momentum: ArrayLike = 0.0,
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    decoupled: bool = False,
    loss: Loss = "mse",
) -> Array:
    r"""The border of stability: below it every mode decays.

    With the largest curvature :math:`c = g \max_i \alpha_i \max_j h_j`, momentum
    :math:`\beta` and weight decay :math:`\mu`,

    .. math:: \eta = \frac{2}{s (c + \mu)}, \qquad s = \frac{1}{1 + \beta}
       \quad\text{or, for Nesterov's,}\quad \frac{1 + 2 \beta}{1 + \beta}

    with :math:`s c + \mu` in the denominator where the decay is decoupled. Ours
    (docs/derivations.md, sections 3 and 19).

    Args:
      moments: of the training images; their targets, however many, do not matter.
      head: a, (K,) or (K, M).
      momentum, nesterov, weight_decay, decoupled, loss: as in `gradient_descent`.

    Returns:
      eta, scalar; infinite if all images are zero and nothing decays. In float64 under
      the same rule as `gradient_descent`.

    Raises:
      TypeError: other moments.
      ValueError: moments that are not finite; a head of zeros or of the wrong rank, or
        a head or images so small or large that the border is no floating-point number;
        momentum or weight decay as in `gradient_descent`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> head = np.ones(3)
      >>> border = theory.largest_stable_learning_rate(moments, head)
      >>> dynamics = theory.gradient_descent(moments, head, 0.99 * border)
      >>> print(round(float(dynamics.rates.max()), 4))  # it reaches 2 at the border
      1.98

      Momentum allows larger ones:

      >>> further = theory.largest_stable_learning_rate(moments, head, momentum=0.9)
      >>> print(round(float(further / border), 4))
      1.9
    """
    _check(moments, head)
    _, optimizer = given_optimizer(
        1.0, momentum, nesterov, weight_decay, decoupled, False
    )
    head, factor = _of_loss(head, loss)
    second, a = as_floats(moments.second, head)
    # The largest singular value of the head squares to the largest eigenvalue of a^T a.
    curvature = (
        factor
        * jnp.linalg.eigvalsh(second)[-1]
        * jnp.linalg.norm(a.reshape(a.shape[0], -1), ord=2) ** 2
    )
    border = 2 / optimizer.effective_curvature(curvature)
    value, largest = concrete(border), concrete(second)
    seen = largest is not None and largest.any()
    if seen and value is not None and not 0 < value < np.inf:
        raise ValueError(
            f"the largest stable learning rate is no {value.dtype}, since the head or"
            " the images are too small or too large; scale them."
        )
    return border


@float64_outside_traces
def gradient_descent(
    moments: MeanPatchMoments,
    head: ArrayLike,
    learning_rate: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    momentum: ArrayLike = 0.0,
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    decoupled: bool = False,
    continuous: bool = False,
    loss: Loss = "mse",
) -> LinearDynamics:
    r"""Closed form of full-batch training of a linear CNN: decompose once, query at any
    t.

    The network is conv (no bias), global average pool and a fixed head. Plain gradient
    descent on the "mse" loss, the mean over images of the squared error summed over
    outputs, unless told otherwise. Ours (docs/derivations.md, section 3, and section 19
    for all options).

    The options for other optimisers of optax:

    * ``sgd(eta, momentum=b, nesterov=True)``: ``momentum=b, nesterov=True``
    * ``chain(add_decayed_weights(m), sgd(eta, b))``: ``momentum=b, weight_decay=m``
    * ``chain(trace(b), add_decayed_weights(m), scale(-eta))``: ``decoupled=True`` too
    * ``sgd(piecewise_constant_schedule(...), b)``: a pair (boundaries, rates)
    * ``sgd(any_schedule, b)``: the rates of all steps

    Args:
      moments: of the training images and targets; for cross-entropy of one-hot targets
        (N, M).
      head: a, (K,) or (K, M), of any rank; its number of outputs must be that of the
        targets.
      learning_rate: eta > 0, as `optax.sgd` means it: a number; a pair (boundaries,
        rates), (S - 1,) and (S,), the rate changing in the step of each boundary, the
        first step being 0; or the rates of all steps, (T,), for t up to T.
      momentum: beta in [0, 1), as `optax.trace` has it, with no momentum at the start.
      nesterov: Nesterov's momentum.
      weight_decay: mu >= 0, of the filters.
      decoupled: weight decay beside the momentum instead of in the gradient.
      continuous: gradient flow, the limit of small steps at the same eta t.
      loss: "mse", or "cross_entropy": the softmax cross-entropy linearised about equal
        probabilities, which holds early, while the logits are small.

    Returns:
      the dynamics. Curvatures below rounding (d * eps * the largest) are taken as zero.
      Outside a JAX transformation the decomposition is in float64 whatever JAX's flag;
      inside, in the dtype of the moments, and values are not checked. In float32 a
      curvature below about 3e-6 of the largest counts as zero: its mode grows by its
      drive for ever, which is right while learning_rate * curvature * t is small.

    Raises:
      TypeError: other moments. ValueError: moments that are not finite; a head of
        zeros (for cross-entropy, of equal outputs), or whose squares are too small or
        large for a float; outputs that do not match; targets of cross-entropy that do
        not add up to 1; a momentum outside [0, 1), Nesterov's without one, a negative
        decay, or a decoupled one of 0; a malformed schedule; or a step size that is
        not positive or, if constant or of a piece, at or beyond the border of
        stability; the message names the largest stable one.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> head = np.ones(3)
      >>> rate = 0.5 * theory.largest_stable_learning_rate(moments, head)
      >>> dynamics = theory.gradient_descent(moments, head, rate)
      >>> start = random.normal(size=(2, 2, 1, 3))
      >>> kernels = dynamics.kernel(np.array([0, 10, np.inf]), start)
      >>> kernels.shape
      (3, 2, 2, 1, 3)

      It starts where it should, and ends at a least squares solution:

      >>> np.allclose(kernels[0], start)
      True
      >>> np.allclose(moments.second @ kernels[2].reshape(4, 3) @ head, moments.cross)
      True

      With weight decay it whitens only above the noise: the profile of the limit is
      sqrt(alpha) / (alpha + mu / 2h), with its peak where both are equal.

      >>> decayed = theory.gradient_descent(moments, head, rate, weight_decay=0.1)
      >>> limit = decayed.expected_profile(np.inf, init_std=1.0)
      >>> alpha = decayed.mean_patch_variance
      >>> print((limit * (alpha + 0.1 / 6) / np.sqrt(alpha)).round(4))
      [0.0672 0.0672 0.0672 0.0672]
    """
    _check(moments, head)
    check_outputs(head, moments.cross)
    rates, optimizer = given_optimizer(
        learning_rate, momentum, nesterov, weight_decay, decoupled, continuous
    )
    head, factor = _of_loss(head, loss)
    if loss == "cross_entropy":
        _check_one_hot(moments)
        moments = _centered_classes(moments)
    # One program decomposes for all optimisers and schedules.
    dynamics = _decompose(moments, head, last_rate(rates), factor, continuous)
    dynamics = with_optimizer(dynamics, rates, optimizer)
    constant = largest_constant_rate(rates, optimizer)
    if not continuous and constant is not None:
        largest = dynamics.mean_patch_variance[:1] * dynamics.head_variance[:1]
        effective = dynamics.optimizer.effective_curvature(factor * largest)
        check_stable("learning_rate", constant, effective)
    return dynamics


def _of_loss(head: ArrayLike, loss: str) -> tuple[Any, float]:
    """The head as the loss sees it, and the factor of its gradient."""
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'mse' or 'cross_entropy', got {loss!r}.")
    if loss == "mse":
        return head, GRADIENT_FACTOR
    outputs = 1 if np.ndim(head) == 1 else np.shape(head)[1]
    if outputs < 2:
        raise ValueError(
            "loss='cross_entropy' needs a head of two or more outputs, (K, M), got"
            f" shape {np.shape(head)}."
        )
    (a,) = as_floats(head)
    centered = a - a.mean(axis=1, keepdims=True)
    known, size = concrete(centered), concrete(a)
    if known is not None and size is not None:
        eps = jnp.finfo(known.dtype).eps
        if not np.abs(known).max() > 4 * outputs * eps * np.abs(size).max():
            raise ValueError(
                "head gives all outputs alike, which the softmax does not see; use one"
                " whose columns differ."
            )
    return centered, 1 / outputs


def _check_one_hot(moments: MeanPatchMoments) -> None:
    total = concrete(moments.target_mean)
    if total is not None and abs(total.sum() - 1) > 1e-3:
        raise ValueError(
            "loss='cross_entropy' needs moments of one-hot targets (N, M), which add up"
            f" to 1, got {total.sum():g} on average; numpy.eye(M)[labels] makes them."
        )


def _centered_classes(moments: MeanPatchMoments) -> MeanPatchMoments:
    """With the targets M y - 1: what the linearised softmax is driven by, times M."""
    outputs = moments.cross.shape[1]
    return replace(
        moments,
        cross=outputs * moments.cross - moments.mean[:, None],
        target_mean=outputs * moments.target_mean - 1,
        target_covariance=outputs**2 * moments.target_covariance,
    )


def _check(moments: MeanPatchMoments, head: ArrayLike) -> None:
    check_kind("moments", moments, MeanPatchMoments, "mean_patch_moments")
    for name in ("second", "cross", "mean", "target_mean", "target_covariance"):
        check_finite(f"moments.{name}", getattr(moments, name))
    check_head(head)
    check_squares("head", head)


@partial(jax.jit, static_argnums=(3, 4))
def _decompose(
    moments: MeanPatchMoments,
    head: ArrayLike,
    learning_rate: ArrayLike,
    factor: float,
    continuous: bool,
) -> LinearDynamics:
    second, cross, mean, target_mean, covariance, a, eta = as_floats(
        moments.second,
        moments.cross,
        moments.mean,
        moments.target_mean,
        moments.target_covariance,
        head,
        learning_rate,
    )
    a = a.reshape(a.shape[0], -1)
    outputs = a.shape[1]
    (alpha, e), (h, q) = eigenmodes(second), eigenmodes(matmul(a.T, a))
    alpha, h = without_rounding(alpha), without_rounding(h)
    target_mean = matmul(q.T, target_mean.reshape(outputs))
    covariance = einsum("mi,mn,nj->ij", q, covariance.reshape(outputs, outputs), q)
    drive = einsum("di,dm,mj->ij", e, cross.reshape(-1, outputs), q)
    # By Cauchy and Schwarz |drive_ij|^2 <= alpha_i E[y_j^2]. Where alpha_i is zero the
    # drive is rounding, of E or of the sum over images in B.
    of_axes = alpha.shape[0] * jnp.linalg.norm(drive, axis=0, keepdims=True)
    of_sums = jnp.sqrt(alpha[0] * (jnp.diag(covariance) + target_mean**2))[None]
    eps = jnp.finfo(drive.dtype).eps
    noise = is_noise(drive, alpha[:, None], of_axes + of_sums, eps)
    return LinearDynamics(
        learning_rate=eta,
        optimizer=Optimizer(),
        head=a,
        mean_patch_variance=alpha,
        components=e,
        head_variance=h,
        head_components=q,
        drive=jnp.where(noise, 0, drive),
        mean=jnp.where(alpha > 0, matmul(e.T, mean), 0),
        target_mean=target_mean,
        target_covariance=covariance,
        count=moments.count,
        kernel_shape=moments.kernel_shape,
        gradient_factor=factor,
        continuous=continuous,
    )
