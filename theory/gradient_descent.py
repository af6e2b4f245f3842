"""Full-batch gradient descent on a linear CNN, decomposed into independent modes."""

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
from theory.dynamics import GRADIENT_FACTOR, LinearDynamics
from theory.mean_patches import MeanPatchMoments
from theory.modes import eigenmodes, is_noise


@float64_outside_traces
def largest_stable_learning_rate(moments: MeanPatchMoments, head: ArrayLike) -> Array:
    r"""The border of stability, :math:`2 / (2 \max_i \alpha_i \max_j h_j)`: below it
    every mode decays.

    Ours (docs/derivations.md, section 3).

    Args:
      moments: of the training images; their targets, however many, do not matter.
      head: a, (K,) or (K, M).

    Returns:
      eta, scalar; infinite if all images are zero. In float64 under the same rule as
      `gradient_descent`.

    Raises:
      TypeError: other moments.
      ValueError: moments that are not finite; a head of zeros or of the wrong rank, or
        a head or images so small or large that the border is no floating-point number.

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
    """
    _check(moments, head)
    second, a = as_floats(moments.second, head)
    # The largest singular value of the head squares to the largest eigenvalue of a^T a.
    curvature = (
        GRADIENT_FACTOR
        * jnp.linalg.eigvalsh(second)[-1]
        * jnp.linalg.norm(a.reshape(a.shape[0], -1), ord=2) ** 2
    )
    border = 2 / curvature
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
    moments: MeanPatchMoments, head: ArrayLike, learning_rate: ArrayLike
) -> LinearDynamics:
    """Closed form of full-batch gradient descent on the "mse" loss of a linear CNN:
    decompose once, query at any t.

    Ours (docs/derivations.md, section 3). The network is conv (no bias), global average
    pool and a fixed head; the loss is the mean over images of the squared error summed
    over outputs.

    Args:
      moments: of the training images and targets.
      head: a, (K,) or (K, M), of any rank; its number of outputs must be that of the
        targets.
      learning_rate: eta > 0, as `optax.sgd` means it; scalar.

    Returns:
      the dynamics. Curvatures below rounding (d * eps * the largest) are taken as zero.
      Outside a JAX transformation the decomposition is in float64 whatever JAX's flag;
      inside, in the dtype of the moments, and values are not checked. In float32 a
      curvature below about 3e-6 of the largest counts as zero: its mode grows by its
      drive for ever, which is right while learning_rate * curvature * t is small.

    Raises:
      TypeError: other moments. ValueError: moments that are not finite; a head of
        zeros, or whose squares are too small or large for a float; outputs that do not
        match; or a step size that is not positive or at or beyond the border of
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
    """
    _check(moments, head)
    _check_outputs(moments, head)
    check_positive("learning_rate", learning_rate)
    dynamics = _decompose(moments, head, learning_rate)
    curvature = (
        GRADIENT_FACTOR * dynamics.mean_patch_variance[:1] * dynamics.head_variance[:1]
    )
    check_stable("learning_rate", learning_rate, curvature)
    return dynamics


def _check(moments: MeanPatchMoments, head: ArrayLike) -> None:
    check_kind("moments", moments, MeanPatchMoments, "mean_patch_moments")
    for name in ("second", "cross", "mean", "target_mean", "target_covariance"):
        check_finite(f"moments.{name}", getattr(moments, name))
    check_head(head)
    check_squares("head", head)


def _check_outputs(moments: MeanPatchMoments, head: ArrayLike) -> None:
    outputs = 1 if moments.cross.ndim == 1 else moments.cross.shape[1]
    head_outputs = 1 if np.ndim(head) == 1 else np.shape(head)[1]
    if head_outputs != outputs:
        raise ValueError(
            f"head of shape {np.shape(head)} has {head_outputs} outputs, but the"
            f" targets have {outputs}."
        )


@jax.jit
def _decompose(
    moments: MeanPatchMoments, head: ArrayLike, learning_rate: ArrayLike
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
    )
