"""Gradient descent in minibatches on a linear CNN: exact mean and covariance of what it
learns, at any step."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from theory._checks import (
    check_components,
    check_initial_kernel,
    check_iterations,
    check_positive,
    check_squares,
)
from theory._precision import (
    Array,
    as_float_like,
    as_floats,
    einsum,
    float64_outside_traces,
    matmul,
    square_root,
)
from theory.geometric_sum import decay, geometric_sum
from theory.linear_law import GRADIENT_FACTOR
from theory.modes import mode_sums
from theory.symmetric_products import pack, pair_products, pairs, unpack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StochasticDynamics:
    r"""Gradient descent in minibatches on a linear CNN of one output, without momentum:
    every step takes B images, drawn anew with replacement.

    The mean over batches is full-batch descent, in the modes of A = E diag(alpha) E^T.
    The covariance of the predictor v = W a follows a linear recursion of its own, with
    the fourth moments of the mean patches in it, which is decomposed into D = d (d + 1)
    / 2 modes. Both are exact at any learning rate. Made by `stochastic_descent`; a
    pytree.

    Attributes:
      learning_rate: eta.
      batch_size: B.
      head: a, (K,).
      mean_patch_variance: alpha, (d,), descending; 0 where it is zero up to rounding.
      components: E, (d, d), as columns.
      solution: E^T v*, (d,), of the smallest predictor v* with the smallest loss.
      rates: by which the modes of the covariance decay, 1 - rate in each step, (D,),
        without unit; in (0, 2), or 0 for pairs of directions of which one is not seen.
      modes: (D, D), as columns; symmetric matrices in the basis E, as vectors.
      noise: what drives each mode, (D, 1 + d + D): without an error of the mean
        predictor, by this error e, and by e e^T as a vector; in the basis E.
      count: N, the number of images.
      kernel_shape: (kh, kw, C).

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_fourth_moments(images, targets, 2)
      >>> head = np.ones(3)
      >>> dynamics = theory.stochastic_descent(moments, head, 0.1, batch_size=4)
      >>> late = dynamics.expected_profile(np.inf, init_std=0)

      The predictor does not come to rest where full batches would:

      >>> best = theory.gradient_descent(
      ...     theory.mean_patch_moments(images, targets, 2), head, 0.1)
      >>> rest = best.kernel(np.inf, np.zeros((2, 2, 1, 3)))
      >>> bool((late > theory.energy_profile(rest, dynamics.components)).all())
      True
    """

    learning_rate: Array
    batch_size: Array
    head: Array
    mean_patch_variance: Array
    components: Array
    solution: Array
    rates: Array
    modes: Array
    noise: Array
    count: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})

    def predictor(self, t: ArrayLike, initial_kernel: ArrayLike) -> Array:
        r"""The mean over batches of the predictor v = W a after t steps; it is that of
        full batches.

        .. math:: \mathrm{E}[v(t)] = v(0) + E [(1 - (1 - \gamma \alpha_i)^t)
           \circ E^T (v^* - v(0))], \qquad \gamma = 2 \eta |a|^2

        Ours (docs/derivations.md, section 21).

        Args:
          t: steps, scalar or any shape, from 0 to infinity; integers, given as integers
            or in floating point and then rounded.
          initial_kernel: W(0) in Flax order, (..., kh, kw, C, K), leading batch axes
            allowed.

        Returns:
          E[v], t.shape + (..., d). Directions that no image's mean patch has keep their
          initial value.

        Raises:
          ValueError: the kernel's shape is not that of the moments and head, or t is
            negative.
        """
        self._check_start(t, initial_kernel)
        return _predictor(self, as_float_like(self.learning_rate, t), initial_kernel)

    def predictor_covariance(self, t: ArrayLike, initial_kernel: ArrayLike) -> Array:
        r"""The covariance over batches of the predictor v = W a after t steps.

        Ours (docs/derivations.md, section 21). Filters move along the head only,
        :math:`W(t) - W(0) = (v(t) - v(0)) a^T / |a|^2`, so this and the mean are the
        second moments of all filters.

        Args:
          t, initial_kernel: as in `predictor`.

        Returns:
          Cov[v], t.shape + (..., d, d).

        Raises:
          ValueError: as `predictor`.
        """
        self._check_start(t, initial_kernel)
        return _covariance(self, as_float_like(self.learning_rate, t), initial_kernel)

    def expected_profile(
        self,
        t: ArrayLike,
        *,
        init_std: ArrayLike,
        target_std: ArrayLike | None = None,
        change: bool = False,
        components: ArrayLike | None = None,
    ) -> Array:
        r"""Root mean square energy profile over random batches, initialisation and, if
        wanted, targets.

        In the eigenbasis of A, with :math:`\rho_i = (1 - \gamma \alpha_i)^t` and C the
        mean of `predictor_covariance`:

        .. math:: E[e_i(t)^2] = \sigma^2 \left[1 - \frac{1 - \rho_i^2}{K}\right]
           + \frac{(1 - \rho_i)^2 (E_i^T v^*)^2 + E_i^T C(t) E_i}{K |a|^2}

        Ours (docs/derivations.md, section 21). At t = infinity it is the stationary
        profile. Without C it is that of full batches.

        Args:
          t: steps, as in `predictor`.
          init_std: sigma, standard deviation of the independent weights of W(0), of
            mean 0 and any distribution; may be 0.
          target_std: tau, standard deviation of targets that are drawn independently of
            the images and of one another, with mean 0. If None, the targets are those
            of the moments.
          change: the profile of W(t) - W(0) instead of W(t).
          components: orthonormal directions as columns, (d, p), e.g.
            `PatchSpectrum.components`; E if None.

        Returns:
          sqrt(E[e^2]), t.shape + (p,), in units of the filters.

        Raises:
          ValueError: a shape is wrong, t or a standard deviation is negative, or that
            squared is too large or small for a float, components are not orthonormal.
        """
        check_iterations(t)
        for name, std in ("init_std", init_std), ("target_std", target_std):
            if std is not None or name == "init_std":
                check_positive(name, std, or_zero=True)
                check_squares(name, as_float_like(self.learning_rate, std))
        if components is not None:
            check_components(components, self.components.shape[0])
        return _expected_profile(
            self,
            as_float_like(self.learning_rate, t),
            init_std,
            target_std,
            components,
            change,
        )

    def _check_start(self, t: ArrayLike, initial_kernel: ArrayLike) -> None:
        check_initial_kernel(initial_kernel, self.kernel_shape, self.head.shape[0])
        check_iterations(t)


def _floats(dynamics: StochasticDynamics, *others: ArrayLike) -> list[jax.Array]:
    """Others, then eta, B, a, alpha, E, v*, rates and modes, in one dtype."""
    return as_floats(
        *others,
        dynamics.learning_rate,
        dynamics.batch_size,
        dynamics.head,
        dynamics.mean_patch_variance,
        dynamics.components,
        dynamics.solution,
        dynamics.rates,
        dynamics.modes,
    )


def _mean_rates(eta: jax.Array, a: jax.Array, alpha: jax.Array) -> jax.Array:
    return GRADIENT_FACTOR * eta * (a**2).sum() * alpha


def _learnt(z: jax.Array, t: jax.Array) -> jax.Array:
    """1 - (1 - z)^t without cancellation, t.shape + (d,)."""
    return einsum("i,...i->...i", z, mode_sums(z, t[..., None]))


@float64_outside_traces
@jax.jit
def _predictor(
    dynamics: StochasticDynamics, t: ArrayLike, initial_kernel: ArrayLike
) -> jax.Array:
    t, kernel, eta, _, a, alpha, e, solution, *_ = _floats(dynamics, t, initial_kernel)
    start = matmul(kernel.reshape(-1, e.shape[0], a.shape[0]), a)
    learnt = _learnt(_mean_rates(eta, a, alpha), t.reshape(-1))
    change = einsum("di,ti,bi->tbd", e, learnt, solution[None] - matmul(start, e))
    return (start[None] + change).reshape(*t.shape, *kernel.shape[:-4], -1)


@float64_outside_traces
@jax.jit
def _covariance(
    dynamics: StochasticDynamics, t: ArrayLike, initial_kernel: ArrayLike
) -> jax.Array:
    t, kernel, _, _, a, _, e, solution, *_ = _floats(dynamics, t, initial_kernel)
    start = matmul(matmul(kernel.reshape(-1, e.shape[0], a.shape[0]), a), e)
    error = start - solution[None]
    noise = _noise(dynamics, t.reshape(-1), error, pair_products(error))
    packed = einsum("cm,tbm->tbc", _floats(dynamics)[-1], noise)
    covariance = einsum("di,tbij,ej->tbde", e, unpack(packed, e.shape[0]), e)
    return covariance.reshape(*t.shape, *kernel.shape[:-4], *e.shape)


@float64_outside_traces
@jax.jit
def _expected_profile(
    dynamics: StochasticDynamics,
    t: ArrayLike,
    init_std: ArrayLike,
    target_std: ArrayLike | None,
    components: ArrayLike | None,
    change: ArrayLike,
) -> jax.Array:
    t, sigma, eta, _, a, alpha, e, solution, _, modes = _floats(dynamics, t, init_std)
    u = e if components is None else jnp.asarray(components, e.dtype)
    v = matmul(e.T, u)  # (d, p): the directions in the eigenbasis of A
    h, filters, z = (a**2).sum(), a.shape[0], _mean_rates(eta, a, alpha)
    learnt = _learnt(z, t)
    kept = jnp.where(change, learnt, decay(z, t[..., None]))
    unread = jnp.where(change, 0, filters - 1)
    initial = sigma**2 * (unread + einsum("ip,...i->...p", v**2, kept**2))
    if target_std is None:
        learnt_energy = einsum("ip,...i,i->...p", v, learnt, solution) ** 2
        moment = jnp.outer(solution, solution)
    else:
        dynamics, variance = _with_drawn_targets(dynamics, target_std)
        learnt_energy = einsum("ip,...i,i->...p", v**2, learnt**2, variance)
        solution, moment = jnp.zeros_like(variance), jnp.diag(variance)
    # The error at the start is v(0) - v*, v(0) of mean 0 and covariance sigma^2 h.
    moment = moment + sigma**2 * h * jnp.eye(len(solution), dtype=e.dtype)
    noise = _noise(dynamics, t.reshape(-1), -solution[None], pack(moment)[None])
    directions = matmul(pair_products(v.T), modes)
    noisy = einsum("pm,tm->tp", directions, noise[:, 0]).reshape(initial.shape)
    return square_root((initial + (learnt_energy + noisy) / h) / filters)


def _with_drawn_targets(
    dynamics: StochasticDynamics, target_std: ArrayLike
) -> tuple[StochasticDynamics, jax.Array]:
    """The dynamics with the mean noise of such targets, and the variances of their
    solution in the basis E, (d,), which is uncorrelated with its residuals."""
    tau, noise, _, _, _, alpha, _, _, _, modes = _floats(
        dynamics, target_std, dynamics.noise
    )
    live = alpha > 0
    variance = jnp.where(live, tau**2 / jnp.where(live, alpha, 1), 0) / dynamics.count
    # The mean of p p^T eps^2, where an image takes part of the variance of its own
    # target: tau^2 (1 - p^T A^-1 p / N) of it is left.
    whole = (1 - 1 / dynamics.count) * tau**2 * pack(jnp.diag(alpha))
    taken = matmul(noise[:, 1 + len(alpha) :], pack(jnp.diag(variance)))
    noise = noise.at[:, 0].set(matmul(whole, modes) - taken)
    return replace(dynamics, noise=noise), variance


def _noise(
    dynamics: StochasticDynamics, t: jax.Array, error: jax.Array, moment: jax.Array
) -> jax.Array:
    """Covariance over batches of the predictor, in its modes, (T, b, D).

    Args:
      t: (T,).
      error, moment: mean of v(0) - v* in the basis E, (b, d), and its second moment, as
        vectors, (b, D).
    """
    t, error, moment, noise, eta, size, a, alpha, _, _, rates, _ = _floats(
        dynamics, t, error, moment, dynamics.noise
    )
    z = _mean_rates(eta, a, alpha)
    i, j = pairs(len(z))
    of_squares = z[i] + z[j] - z[i] * z[j]  # 1 - (1 - z_i) (1 - z_j)
    drives = jnp.concatenate([jnp.zeros_like(z[:1]), z, of_squares])
    start = jnp.concatenate([jnp.ones_like(error[:, :1]), error, moment], axis=1)

    mode, drive = jnp.broadcast_arrays(rates[:, None], drives[None])

    def at_time(t: jax.Array) -> jax.Array:
        """(b, D)."""
        overlap = _overlap(mode, drive, t)
        return einsum("mk,bk->bm", noise * overlap, start)

    gain = GRADIENT_FACTOR * eta * (a**2).sum()
    return gain**2 / size * lax.map(at_time, t)


def _overlap(mode: jax.Array, drive: jax.Array, t: jax.Array) -> jax.Array:
    r"""What a mode that decays by 1 - x has kept after t steps of a drive that decays
    by 1 - z: the sum of :math:`(1-x)^{t-1-s} (1-z)^s` over s < t
    (docs/derivations.md, section 21)."""
    swapped = jnp.abs(1 - drive) > jnp.abs(1 - mode)
    slow, fast = jnp.where(swapped, drive, mode), jnp.where(swapped, mode, drive)
    at_once = slow == 1  # so is the other
    ratio = jnp.where(at_once, 1, (fast - slow) / jnp.where(at_once, 1, 1 - slow))
    forever = jnp.isinf(t)
    steps = jnp.where(forever, 0, t)
    kept = decay(slow, jnp.maximum(steps - 1, 0)) * geometric_sum(ratio, steps)
    # Of a drive that stays, 1 / x are kept at last; of others nothing.
    stays = (drive == 0) & (mode != 0)
    last = jnp.where(stays, 1 / jnp.where(stays, mode, 1), 0)
    return jnp.where(forever, last, kept)
