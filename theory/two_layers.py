"""Full-batch gradient descent on a linear CNN whose two layers both learn."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_head,
    check_iterations,
    check_kernel,
    check_kind,
    check_outputs,
    check_positive,
    check_squares,
)
from theory._precision import (
    Array,
    as_floats,
    concrete,
    einsum,
    float64_outside_traces,
    matmul,
    power_of_two_near,
)
from theory.linear_law import GRADIENT_FACTOR
from theory.mean_patches import MeanPatchMoments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TwoLayerTrajectory:
    """Both layers of a linear CNN at R recorded steps; a pytree.

    Attributes:
      kernel: the filters W, (R, kh, kw, C, K).
      head: a, (R, K, M).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> start = random.normal(size=(2, 2, 1, 3))
      >>> run = theory.two_layer_descent(moments, np.ones(3), start, 0.01, [0, 10])
      >>> run.kernel.shape, run.head.shape
      ((2, 2, 2, 1, 3), (2, 3, 1))
    """

    kernel: Array
    head: Array


def two_layer_descent(
    moments: MeanPatchMoments,
    head: ArrayLike,
    initial_kernel: ArrayLike,
    learning_rate: ArrayLike,
    record_steps: ArrayLike,
) -> TwoLayerTrajectory:
    r"""Full-batch gradient descent on the "mse" loss of a linear CNN that trains its
    filters and its head, step by step.

    .. math::

       W \leftarrow W + 2 \eta\, (B - A W a)\, a^T, \qquad
       a \leftarrow a + 2 \eta\, W^T (B - A W a)

    Both from the old values, as `optax.sgd` does it. Ours (docs/derivations.md, section
    20). It has no closed form in general; this recursion is exact for any data, targets
    and start, and a step costs d^2 M + 3 d K M products, whatever the number of images.

    Args:
      moments: of the training images and targets.
      head: a(0), (K,) or (K, M); may be zero where the filters are not.
      initial_kernel: W(0) in Flax order, (kh, kw, C, K).
      learning_rate: eta > 0 of both layers, as `optax.sgd` means it; scalar.
      record_steps: (R,), whole numbers that do not decrease; new values of them compile
        nothing.

    Returns:
      the trajectory. In float64 whatever JAX's flag, unless an argument is being
      traced. Differentiable in forward mode (`jax.jvp`), not in reverse; `jax.vmap`
      maps over starts, targets or rates.

    Raises:
      TypeError: other moments. ValueError: values that are not finite; shapes that do
        not match; both layers zero, which no gradient leaves; a step size that is not
        positive; steps that decrease or are not finite; weights that are no longer
        finite, with the step: the step size is too large. Two layers have no border of
        stability that is known before; that of the fixed head,
        `largest_stable_learning_rate`, belongs to the first steps.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> head, start = np.ones(3), 0.1 * random.normal(size=(2, 2, 1, 3))
      >>> run = theory.two_layer_descent(moments, head, start, 0.1, [0, 1, 1_000_000])

      The first step is that of a fixed head; both layers end at a least squares
      solution, and the head has moved:

      >>> fixed = theory.gradient_descent(moments, head, 0.1)
      >>> np.allclose(run.kernel[1], fixed.kernel(1, start))
      True
      >>> product = run.kernel[2].reshape(4, 3) @ run.head[2][:, 0]
      >>> np.allclose(moments.second @ product, moments.cross)
      True
      >>> bool(np.abs(run.head[2] - run.head[0]).max() > 0.1)
      True
    """
    _check_start(moments, head, initial_kernel)
    check_positive("learning_rate", learning_rate)
    steps = _whole_steps(record_steps)
    trajectory, reached = _descend(
        moments.second, moments.cross, head, initial_kernel, learning_rate, steps
    )
    _check_finished(reached, steps, learning_rate, trajectory)
    return trajectory


def _check_start(moments: MeanPatchMoments, head: Any, initial_kernel: Any) -> None:
    check_kind("moments", moments, MeanPatchMoments, "mean_patch_moments")
    for name in ("second", "cross"):
        check_finite(f"moments.{name}", getattr(moments, name))
    check_head(head, or_zero=True)
    check_squares("head", head)
    check_kernel(initial_kernel, "initial_kernel")
    check_squares("initial_kernel", initial_kernel)
    filters = np.shape(head)[0]
    if np.shape(initial_kernel) != (*moments.kernel_shape, filters):
        raise ValueError(
            "initial_kernel must have the axes (kh, kw, C, K) ="
            f" {(*moments.kernel_shape, filters)} of the moments and the head, got"
            f" {np.shape(initial_kernel)}; map over several with jax.vmap."
        )
    check_outputs(head, moments.cross)
    values = concrete(head), concrete(initial_kernel)
    if all(value is not None and not value.any() for value in values):
        raise ValueError(
            "head and initial_kernel are all zeros, which no gradient leaves; start one"
            " of them elsewhere."
        )


def _whole_steps(record_steps: Any) -> Any:
    """Steps as integers of JAX's largest kind, checked where they are known."""
    if np.ndim(record_steps) != 1 or np.size(record_steps) == 0:
        raise ValueError(
            "record_steps must be a list of at least one step, got shape"
            f" {np.shape(record_steps)}."
        )
    check_iterations(record_steps, "record_steps")
    known = concrete(record_steps)
    if known is None:
        return record_steps
    if (known > np.iinfo(np.int32).max).any() or (np.diff(known) < 0).any():
        raise ValueError(
            "record_steps must not decrease, nor exceed 2147483647, since every step is"
            f" taken; got {known[:10].tolist()}."
        )
    return np.rint(known).astype(np.int32)


@float64_outside_traces
@jax.jit
def _descend(
    second: ArrayLike,
    cross: ArrayLike,
    head: ArrayLike,
    initial_kernel: ArrayLike,
    learning_rate: ArrayLike,
    record_steps: ArrayLike,
) -> tuple[TwoLayerTrajectory, jax.Array]:
    """The trajectory, and the step at which it is not finite, if there is one, else the
    last."""
    second, cross, head, kernel, eta = as_floats(
        second, cross, head, initial_kernel, learning_rate
    )
    head = head.reshape(head.shape[0], -1)
    cross = cross.reshape(-1, head.shape[1])
    rate = GRADIENT_FACTOR * eta

    def step(state: Any) -> Any:
        done, w, a = state
        residual = cross - matmul(second, matmul(w, a))
        return (
            done + 1,
            w + rate * matmul(residual, a.T),
            a + rate * matmul(w.T, residual),
        )

    def record(state: Any, stop: jax.Array) -> Any:
        # Of numbers that are not finite no step makes others.
        state = lax.while_loop(
            lambda s: (
                (s[0] < stop) & jnp.isfinite(s[1]).all() & jnp.isfinite(s[2]).all()
            ),
            step,
            state,
        )
        return state, state[1:]

    start = jnp.zeros((), jnp.int32), kernel.reshape(-1, kernel.shape[-1]), head
    stops = jnp.round(jnp.asarray(record_steps)).astype(jnp.int32)
    (reached, *_), (kernels, heads) = lax.scan(record, start, stops)
    kernels = kernels.reshape(-1, *kernel.shape)
    return TwoLayerTrajectory(kernels, heads), reached


def _check_finished(
    reached: Any, steps: Any, learning_rate: Any, trajectory: TwoLayerTrajectory
) -> None:
    weights = concrete(trajectory.kernel), concrete(trajectory.head)
    if all(value is None or np.isfinite(value).all() for value in weights):
        return
    raise ValueError(
        f"with learning_rate = {learning_rate} the weights are not finite at step"
        f" {concrete(reached)}; take a smaller one."
    )


@float64_outside_traces
def head_change(head: ArrayLike, initial_kernel: ArrayLike, kernel: ArrayLike) -> Array:
    r"""How much the head must have changed, given how the filters have: tells lazy
    training, in which a fixed head describes the filters, from rich.

    .. math:: \frac{|W^T W - W(0)^T W(0)|}{|a(0)\, a(0)^T|}
       = \frac{|a a^T - a(0)\, a(0)^T|}{|a(0)\, a(0)^T|}

    In Frobenius norms; equal since gradient flow conserves a a^T - W^T W. Ours
    (docs/derivations.md, section 20). Of the filters that `LinearDynamics.kernel`
    predicts it is, to first order, what the head would do that is taken as fixed there.
    It falls with the fourth power of the head's scale or, for filters that start large,
    with its square.

    Lazy is a start for which both this and the ratio of the layers' squares, |W(0)|^2 /
    |a(0)|^2, are small: where they were below 0.1 the profile of the change by the
    fixed head was right to 4 % on photographs.

    Args:
      head: a(0), (K,) or (K, M).
      initial_kernel: W(0), (kh, kw, C, K).
      kernel: W, (..., kh, kw, C, K), trained or predicted.

    Returns:
      the relative change of a a^T, kernel.shape[:-4], without unit. Twice that of the
      head's length, as long as it is small.

    Raises:
      ValueError: malformed or not finite arguments, a head of zeros, shapes that do not
        match.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> start = np.zeros((2, 2, 1, 3))
      >>> for scale in (10, 100):
      ...     head = np.full(3, scale)
      ...     rate = 0.5 * theory.largest_stable_learning_rate(moments, head)
      ...     end = theory.gradient_descent(moments, head, rate).kernel(np.inf, start)
      ...     print(f"{theory.head_change(head, start, end):.1e}")
      2.8e-03
      2.8e-07
    """
    check_head(head)
    check_squares("head", head)
    check_kernel(initial_kernel, "initial_kernel")
    check_kernel(kernel)
    shape = np.shape(initial_kernel)
    if np.shape(kernel)[-4:] != shape or shape[-1] != np.shape(head)[0]:
        raise ValueError(
            "kernel and initial_kernel must have the same axes (kh, kw, C, K), with K ="
            f" {np.shape(head)[0]} as the head has, got {np.shape(kernel)} and {shape}."
        )
    return _head_change(head, initial_kernel, kernel)


@jax.jit
def _head_change(
    head: ArrayLike, initial_kernel: ArrayLike, kernel: ArrayLike
) -> jax.Array:
    a, before, after = as_floats(head, initial_kernel, kernel)
    # The norms have fourth powers of the weights in them, which need units.
    of_head = power_of_two_near(jnp.abs(a).max())
    of_filters = power_of_two_near(
        jnp.maximum(jnp.abs(after).max(axis=(-4, -3, -2, -1)), jnp.abs(before).max())
    )
    a = a.reshape(a.shape[0], -1) / of_head
    after = after.reshape(*after.shape[:-4], -1, a.shape[0])
    unit = jnp.broadcast_to(of_filters[..., None, None], after.shape)
    before = jnp.broadcast_to(before.reshape(-1, a.shape[0]), after.shape) / unit
    # W^T W - W0^T W0 from the change, of which it keeps all digits.
    change = after / unit - before
    mixed = einsum("...dk,...dl->...kl", change, before)
    square = einsum("...dk,...dl->...kl", change, change)
    grown = mixed + jnp.swapaxes(mixed, -1, -2) + square
    ratio = jnp.linalg.norm(grown, axis=(-2, -1)) / jnp.linalg.norm(matmul(a, a.T))
    of_both = of_filters / of_head
    return ratio * of_both * of_both
