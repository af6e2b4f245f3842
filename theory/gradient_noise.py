"""What the noise of minibatches does to weights with a quadratic loss."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import check_kind, check_positive
from theory._precision import (
    Array,
    as_float_like,
    as_floats,
    einsum,
    float64_outside_traces,
    square_root,
)
from theory.modes import mode_sums
from theory.quadratic_dynamics import (
    Law,
    QuadraticDynamics,
    check_law,
    directions_of,
    given_covariance,
    modes_of,
)


def gradient_noise_profile(
    dynamics: QuadraticDynamics,
    t: ArrayLike,
    components: ArrayLike,
    *,
    batch_size: int,
    count: int | None = None,
    covariance: ArrayLike | None = None,
) -> Array:
    r"""Root mean square energy profile of what the noise of minibatches alone adds to
    the change of the weights.

    .. math:: C(t) = \frac{\eta^2}{B} \sum_{s<t} (1 - \eta H)^s \, D \, (1 - \eta H)^s,
       \qquad e_i^2 = \frac1K \sum_k u_i^T C_{kk} u_i

    Ours (docs/derivations.md, section 14). D is the covariance of the gradients of
    single images, held fixed, and every batch of B is drawn anew with replacement. In
    continuous time it is the Ornstein-Uhlenbeck process of the same noise. With D = H,
    the noise of labels drawn from the network, :math:`C = \frac{\eta}{2B} (1 - e^{-2
    \eta t H})`, which saturates at a white profile; it is of the order of the learning
    rate, while what drives all images is not. The energies of the two add up.

    Where every epoch is a permutation of the images, as in `linear_cnn.train`, the
    noises of its steps add up to almost nothing, and only modes that forget within an
    epoch keep much: give `count`.

    Args:
      dynamics: of the loss, from `quadratic_descent`; its `drive` has no part in this.
      t: steps, as in `QuadraticDynamics.change`.
      components: u_i, orthonormal directions of a filter as columns, (d, p).
      batch_size: B, images a step.
      count: N, the number of images, if batches are drawn without replacement: an epoch
        has N // B steps, and images left over are skipped. With replacement if None.
      covariance: D, in the shape of the curvature; H if None. Of
        `linear_cnn.TangentMoments` it is `gradient_moment` less the product of the
        drive with itself.

    Returns:
      sqrt(E[e^2]), t.shape + (p,), in units of the weights. A time costs O(p n), or O(p
      n^2) where a covariance is given.

    Raises:
      TypeError: other dynamics. ValueError: momentum, weight decay or a schedule; t is
        negative, components are not orthonormal or of another length, a batch size that
        is not positive, fewer images than a batch has, a covariance of another shape,
        not finite, not symmetric or with a negative diagonal.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> curvature = np.diag([1.0, 0.1, 0.01])[None]  # of one filter
      >>> dynamics = theory.quadratic_descent(curvature, np.zeros((1, 3)), 0.01)
      >>> profile = theory.gradient_noise_profile(
      ...     dynamics, [1, 1000, 1_000_000], np.eye(3), batch_size=16)
      >>> print((1e3 * profile).round(1))  # at first the curvature, then white
      [[ 2.5  0.8  0.2]
       [17.7 16.4  7.5]
       [17.7 17.7 17.7]]
    """
    check_kind("dynamics", dynamics, QuadraticDynamics, "quadratic_descent")
    check_positive("batch_size", batch_size)
    if not dynamics.optimizer.is_plain or np.ndim(dynamics.learning_rate):
        raise ValueError(
            "dynamics must be of plain gradient descent at one learning rate; with"
            " momentum, weight decay or a schedule the noise has another law."
        )
    if count is not None and not count >= batch_size >= 1:
        raise ValueError(
            f"count must be at least the batch size {batch_size}, of one image or more,"
            f" got {count}; it is the number of all images."
        )
    # The gradient of a batch with drawn labels has the covariance H / B.
    drawn = batch_size if covariance is None else None
    law = Law(components, drawn, None, covariance, None)
    check_law(dynamics, t, law)
    t = as_float_like(dynamics.learning_rate, t)
    return _noise_profile(dynamics, t, batch_size, count, law)


@float64_outside_traces
@partial(jax.jit, static_argnums=(2, 3))
def _noise_profile(
    dynamics: QuadraticDynamics,
    t: ArrayLike,
    batch_size: int,
    count: int | None,
    law: Law,
) -> jax.Array:
    modes = modes_of(dynamics)
    t, _ = as_floats(t, modes.learning_rate)
    rates = modes.learning_rate * modes.curvature
    directions = directions_of(dynamics, modes, law.components)

    def left(one: jax.Array, other: jax.Array, t: jax.Array) -> jax.Array:
        return _sums(one, other, t, batch_size, count, continuous=dynamics.continuous)

    if law.covariance is None:
        weights = (directions**2).sum(axis=2)
        kept = left(rates[None], rates[None], t.reshape(-1, 1, 1))
        # The covariance of a batch's gradient is H / B.
        energy = einsum("gpm,tgm->tp", weights, modes.curvature[None] * kept)
        energy = energy / batch_size
    else:
        forms = given_covariance(law, modes)[:, None] * einsum(
            "gpfm,gpfl->gpml", directions, directions
        )

        def at_time(t: jax.Array) -> jax.Array:
            """(p,)."""
            kept = left(rates[:, :, None], rates[:, None, :], t)
            return einsum("gpml,gml->p", forms, kept) / batch_size

        energy = lax.map(at_time, t.reshape(-1))
        # Of the images that there are, and not of those that labels are drawn for.
        energy = energy * (1 if count is None else count / max(count - 1, 1))
    energy = modes.learning_rate**2 * jnp.maximum(energy, 0)
    filters = math.prod(dynamics.shape[:-1])
    return square_root(energy / filters).reshape(*t.shape, -1)


def _sums(
    one: jax.Array,
    other: jax.Array,
    t: jax.Array,
    batch_size: int,
    count: int | None,
    *,
    continuous: bool,
) -> jax.Array:
    """Sum over the steps of what they leave of two modes of these rates, less, within
    an epoch, what its other steps take back."""
    lost = one + other - (0 if continuous else one * other)

    def of_steps(t: jax.Array) -> jax.Array:
        return mode_sums(lost, t, continuous=continuous)

    if count is None:
        return of_steps(t)
    share = batch_size / count

    def within(t: jax.Array) -> jax.Array:
        both = [mode_sums(rate, t, continuous=continuous) for rate in (one, other)]
        return of_steps(t) - share * both[0] * both[1]

    length = jnp.full_like(t, count // batch_size)
    epochs = jnp.floor(t / length)
    rest = jnp.where(jnp.isinf(t), 0, t - jnp.where(jnp.isinf(t), 0, epochs) * length)
    before = within(length) * mode_sums(lost * of_steps(length), epochs)
    return before * (1 - lost * of_steps(rest)) + within(rest)
