"""Gradient descent on a quadratic loss at any step, and its law over random drives."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from theory._checks import (
    check_components,
    check_finite,
    check_positive,
    check_probabilities,
    check_shape,
    check_symmetric,
)
from theory._precision import (
    Array,
    as_float_like,
    as_floats,
    concrete,
    einsum,
    float64_outside_traces,
    is_traced,
    square_root,
)
from theory.modes import is_noise
from theory.optimizer import Optimizer, Response, check_times, last_rate, responses
from theory.quadratic_form import quantiles_in_turn


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuadraticDynamics:
    r"""Gradient descent on a quadratic loss of curvature H, decomposed into independent
    modes.

    With :math:`H = V \operatorname{diag}(h) V^T`, mode m decays by :math:`1 - \eta h_m`
    in each step of plain gradient descent, and in continuous time by :math:`e^{-\eta
    h_m}`. The last axis of the
    weights, of length d, is that of one filter; the axes before it count the K filters.
    Made by `quadratic_descent`; a pytree.

    Attributes:
      learning_rate: eta, (); or (S,), of every step or between the optimizer's
        boundaries.
      optimizer: momentum, weight decay, and where the learning rate changes.
      curvature: h, eigenvalues of H, descending; 0 where they are zero up to rounding.
        (n,), or (K, d) for independent filters.
      modes: V, as columns, (n, n) or (K, d, d).
      drive: V^T b, in the shape of `curvature`, with b the GRADIENT at the start: the
        first step is -eta b. (`LinearDynamics.drive` has the other sign.)
      start: V^T w, in the shape of `curvature`, with w the weights at the start; None
        without weight decay, which alone depends on them.
      shape: of b, and of the weights.
      continuous: gradient flow instead of steps. `dataclasses.replace(dynamics,
        continuous=True)` needs no new decomposition, nor momentum or a schedule.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> gradients = random.normal(size=(500, 3, 4)) * [2, 1, 0.5, 0.1]
      >>> curvature = np.einsum("nki,nlj->kilj", gradients, gradients) / 500
      >>> drive = gradients[:100].mean(axis=0)  # three filters of four weights
      >>> dynamics = theory.quadratic_descent(curvature, drive, 0.1)
      >>> dynamics.change([0, 10, np.inf]).shape
      (3, 3, 4)

      Profiles over labels drawn for 100 images, at first along the curvature, then
      against it:

      >>> rms = dynamics.expected_profile([1, np.inf], np.eye(4), count=100)
      >>> print(rms.round(2))
      [[0.02 0.01 0.   0.  ]
       [0.05 0.1  0.2  1.01]]
    """

    learning_rate: Array
    optimizer: Optimizer
    curvature: Array
    modes: Array
    drive: Array
    start: Array | None
    shape: tuple[int, ...] = field(metadata={"static": True})
    continuous: bool = field(metadata={"static": True})

    @property
    def rates(self) -> jax.Array:
        """eta h, in the shape of `curvature`, without unit, at the last learning rate;
        below 2 in steps of plain gradient descent."""
        eta, h = as_floats(last_rate(self.learning_rate), self.curvature)
        return eta * h

    def change(self, t: ArrayLike) -> Array:
        r"""How far the weights have moved after t steps, exactly.

        .. math:: \Delta(t) = -\eta \varphi_t(\eta H) b, \qquad \text{in continuous
           time} \quad -H^{-1} (1 - e^{-\eta t H}) b

        for plain gradient descent: ours (docs/derivations.md, section 13; section 19
        has momentum, weight decay and schedules).

        Args:
          t: steps, scalar or any shape, from 0 to infinity; integers, given as integers
            or in floating point and then rounded. Real in continuous time, where eta t
            is the time.

        Returns:
          change, t.shape + shape, in units of the weights.

        Raises:
          ValueError: t is negative or beyond the schedule.
        """
        check_times(self.learning_rate, self.optimizer, t)
        return _change(self, as_float_like(self.learning_rate, t))

    def expected_profile(
        self,
        t: ArrayLike,
        components: ArrayLike,
        *,
        count: int | None = None,
        target_std: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
        mean: ArrayLike | None = None,
    ) -> Array:
        r"""Root mean square energy profile of the change over random drives b.

        .. math:: E[e_i(t)^2] = \frac1K \sum_k u_i^T \, E[\Delta_k \Delta_k^T] \, u_i,
           \qquad \operatorname{Cov} \Delta = \eta^2 \varphi_t(\eta H)
           \operatorname{Cov}(b) \, \varphi_t(\eta H)

        Ours (docs/derivations.md, section 13). Either `count` or `covariance` says how
        the drive is distributed; this object's own `drive` has no part in it. The
        change is linear in b, so the law is that of b alone. Weight decay adds a mean.

        Args:
          t: steps, as in `change`.
          components: u_i, orthonormal directions of a filter as columns, (d, p), e.g.
            `PatchSpectrum.components`.
          count: N, images whose labels are drawn: Cov b = H / N. Exact for cross-
            entropy with labels drawn from the softmax at the start.
          target_std: tau, with `count`: Cov b = 2 tau^2 H / N, that of the "mse" loss
            with independent targets of standard deviation tau.
          covariance: of any other drive, in the shape of H; positive semidefinite (of
            that only the diagonal is checked).
          mean: of the drive, in the shape of b; 0 by default.

        Returns:
          sqrt(E[e^2]), t.shape + (p,), in units of the weights. A time costs O(p n), or
          O(p n^2) where a covariance is given.

        Raises:
          ValueError: neither count nor covariance, or both; a shape is wrong, an entry
            is not finite, t is negative, components are not orthonormal, a covariance
            is not symmetric or has a negative diagonal.
        """
        law = Law(components, count, target_std, covariance, mean)
        check_law(self, t, law)
        return _expected_profile(self, as_float_like(self.learning_rate, t), law)

    def profile_quantiles(
        self,
        q: ArrayLike,
        t: ArrayLike,
        components: ArrayLike,
        *,
        count: int | None = None,
        target_std: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
        mean: ArrayLike | None = None,
    ) -> Array:
        r"""Quantiles of each component of the energy profile of the change over
        Gaussian drives.

        :math:`K e_i^2` is a quadratic form in a Gaussian, whose distribution function
        is inverted numerically (`quadratic_form_quantile`). Exact for Gaussian drives;
        for means over many images a central limit theorem. Ours (docs/derivations.md,
        section 13).

        Args:
          q: probabilities in (0, 1), any shape.
          t, components, count, target_std, covariance, mean: as in `expected_profile`.

        Returns:
          quantiles of e, q.shape + t.shape + (p,), in units of the weights. A time
          costs O(p K n), times n where a covariance is given, and O(p K^3).

        Raises:
          ValueError: as `expected_profile`, or a probability outside (0, 1).
        """
        law = Law(components, count, target_std, covariance, mean)
        check_law(self, t, law)
        check_probabilities("q", q)
        return _profile_quantiles(self, q, as_float_like(self.learning_rate, t), law)


class Law(NamedTuple):
    """The law of the drive, and the directions in which the change is looked at: the
    arguments of `QuadraticDynamics.expected_profile`."""

    components: ArrayLike
    images: ArrayLike | None
    target_std: ArrayLike | None
    covariance: ArrayLike | None
    mean: ArrayLike | None


def check_law(dynamics: QuadraticDynamics, t: ArrayLike, law: Law) -> None:
    """Raise unless times, directions and the law of the drive suit the dynamics."""
    check_times(dynamics.learning_rate, dynamics.optimizer, t)
    check_components(law.components, dynamics.shape[-1])
    if (law.images is None) == (law.covariance is None):
        given = "neither" if law.images is None else "both"
        raise ValueError(
            "give either count, of images whose labels are drawn, or the"
            f" covariance of the drive; got {given}."
        )
    if law.images is not None:
        check_positive("count", law.images)
    if law.target_std is not None:
        if law.images is None:
            raise ValueError(
                "target_std goes with count; a covariance has its scale already."
            )
        check_positive("target_std", law.target_std, or_zero=True)
    if law.mean is not None:
        check_shape("mean", law.mean, dynamics.shape)
        check_finite("mean", law.mean)
    if law.covariance is not None:
        coupled = len(dynamics.curvature.shape) == 1
        rows = dynamics.shape if coupled else dynamics.shape[-1:]
        check_shape("covariance", law.covariance, dynamics.shape + rows)
        check_finite("covariance", law.covariance)
        blocks = as_blocks(law.covariance, dynamics.curvature.shape[-1])
        check_symmetric("covariance", blocks)
        known = concrete(blocks)
        if known is not None:
            diagonal = np.diagonal(known, axis1=-2, axis2=-1)
            if not (diagonal >= 0).all():
                raise ValueError(
                    "covariance must be positive semidefinite, but has a variance"
                    f" of {diagonal.min()} on its diagonal."
                )


def as_blocks(matrix: Any, n: int) -> Any:
    """A matrix between groups of n weights that act on one another, (groups, n, n)."""
    if is_traced(matrix):
        return jnp.asarray(matrix).reshape(-1, n, n)
    return np.reshape(matrix, (-1, n, n))


class Modes(NamedTuple):
    """Of groups of f filters, n = f d weights: curvature (groups, n), modes (groups, n,
    n), and the weights at the start along them, (groups, n)."""

    learning_rate: jax.Array
    curvature: jax.Array
    modes: jax.Array
    start: jax.Array | None

    def moved(self, response: Response, drive: jax.Array | None) -> jax.Array | None:
        """The change along the modes by a drive (groups, n) or none, and by the decay
        of the weights, t.shape + (groups, n); None if there is neither."""
        change = None
        if drive is not None:
            change = -einsum("...gn,gn->...gn", response.gained, drive)
        if self.start is not None:
            # The loss alone holds the weights where they are, but for its drive.
            decayed = einsum("...gn,gn->...gn", response.decayed, self.start)
            change = decayed if change is None else change + decayed
        return change

    def along(self, drive: jax.Array, eps: ArrayLike = 0.0) -> jax.Array:
        """A drive (groups, n) along each mode, zero where it is rounding, by `eps` or
        that of its dtype."""
        projected = einsum("gnm,gn->gm", self.modes, drive)
        size = drive.shape[-1] * jnp.linalg.norm(drive, axis=-1, keepdims=True)
        eps = jnp.maximum(eps, jnp.finfo(drive.dtype).eps)
        noise = is_noise(projected, self.curvature, size, eps)
        return jnp.where(noise, 0, projected)


def modes_of(dynamics: QuadraticDynamics) -> Modes:
    eta, h, vectors = as_floats(
        dynamics.learning_rate, dynamics.curvature, dynamics.modes
    )
    n, start = h.shape[-1], dynamics.start
    return Modes(
        eta,
        h.reshape(-1, n),
        vectors.reshape(-1, n, n),
        None if start is None else as_floats(start, h)[0].reshape(-1, n),
    )


# A program of its own: every method needs it, and momentum takes long to compile.
@jax.jit
def _responses(dynamics: QuadraticDynamics, t: jax.Array) -> Response:
    """What t steps make of the modes, t.shape + (groups, n)."""
    eta, h, continuous = *modes_of(dynamics)[:2], dynamics.continuous
    return responses(eta, dynamics.optimizer, h, t, continuous=continuous)


@float64_outside_traces
def _change(dynamics: QuadraticDynamics, t: ArrayLike) -> jax.Array:
    t, _ = as_floats(t, dynamics.drive)
    change = _change_of(dynamics, _responses(dynamics, t.reshape(-1)))
    return change.reshape(*t.shape, *dynamics.shape)


@jax.jit
def _change_of(dynamics: QuadraticDynamics, response: Response) -> jax.Array:
    modes = modes_of(dynamics)
    drive, _ = as_floats(dynamics.drive, response.kept)
    moved = modes.moved(response, drive.reshape(modes.curvature.shape))
    return einsum("gnm,tgm->tgn", modes.modes, moved)


def _drawn(law: Law, modes: Modes) -> jax.Array:
    """Eigenvalues of the covariance of drawn labels' drive, (groups, n)."""
    count, _ = as_floats(law.images, modes.learning_rate)
    if law.target_std is None:
        return modes.curvature / count
    target_std, _ = as_floats(law.target_std, modes.learning_rate)
    return 2 * target_std**2 * modes.curvature / count


def given_covariance(law: Law, modes: Modes) -> jax.Array:
    """The covariance of the drive between modes, (groups, n, n), without rounding of
    modes that have no curvature."""
    covariance, _ = as_floats(law.covariance, modes.learning_rate)
    v, h = modes.modes, modes.curvature
    n = h.shape[-1]
    between = einsum("gnm,gnl,glk->gmk", v, covariance.reshape(-1, n, n), v)
    variance = jnp.diagonal(between, axis1=-2, axis2=-1)
    size = n * jnp.abs(variance).max(axis=-1, keepdims=True)
    noise = is_noise(variance, h, size, jnp.finfo(h.dtype).eps)
    return jnp.where(noise[:, :, None] | noise[:, None, :], 0, between)


def _mean(law: Law, modes: Modes) -> jax.Array | None:
    """The mean of the drive along each mode, (groups, n)."""
    if law.mean is None:
        return None
    mean, _ = as_floats(law.mean, modes.learning_rate)
    return modes.along(mean.reshape(modes.curvature.shape))


def directions_of(
    dynamics: QuadraticDynamics, modes: Modes, components: ArrayLike
) -> jax.Array:
    """Modes along the component of each filter, (groups, p, f, n)."""
    d, (groups, n) = dynamics.shape[-1], modes.curvature.shape
    u, _ = as_floats(components, modes.learning_rate)
    return einsum("gfdm,dp->gpfm", modes.modes.reshape(groups, n // d, d, n), u)


def mode_shares(
    dynamics: QuadraticDynamics, components: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """What part of the energy of each mode is along each component, as a mean over
    filters, (p, modes), and the modes' curvature, (modes,)."""
    modes = modes_of(dynamics)
    shares = (directions_of(dynamics, modes, components) ** 2).sum(axis=2)
    shares = shares / math.prod(dynamics.shape[:-1])
    return shares.swapaxes(0, 1).reshape(shares.shape[1], -1), modes.curvature.ravel()


@float64_outside_traces
def _expected_profile(dynamics: QuadraticDynamics, t: ArrayLike, law: Law) -> jax.Array:
    t, _ = as_floats(t, dynamics.learning_rate)
    found = _expected_of(dynamics, _responses(dynamics, t.reshape(-1)), law)
    return found.reshape(*t.shape, *found.shape[1:])


@jax.jit
def _expected_of(
    dynamics: QuadraticDynamics, response: Response, law: Law
) -> jax.Array:
    modes = modes_of(dynamics)
    sums = response.gained  # (times, groups, n)
    directions = directions_of(dynamics, modes, law.components)
    if law.covariance is None:
        weights = (directions**2).sum(axis=2)
        energy = einsum("gpm,tgm->tp", weights, sums**2 * _drawn(law, modes)[None])
    else:
        covariance = given_covariance(law, modes)

        def of_component(direction: jax.Array) -> jax.Array:
            """(groups, f, n) -> (times,)."""
            form = covariance * einsum("gfm,gfl->gml", direction, direction)
            return (einsum("tgm,gml->tgl", sums, form) * sums).sum(axis=(-2, -1))

        energy = lax.map(of_component, directions.swapaxes(0, 1)).T
    mean = modes.moved(response, _mean(law, modes))
    if mean is not None:
        moved = einsum("gpfm,tgm->tpgf", directions, mean)
        energy = energy + (moved**2).sum(axis=(-2, -1))
    filters = math.prod(dynamics.shape[:-1])
    return square_root(energy / filters)


@float64_outside_traces
def _profile_quantiles(
    dynamics: QuadraticDynamics, q: ArrayLike, t: ArrayLike, law: Law
) -> jax.Array:
    q, t, _ = as_floats(q, t, dynamics.learning_rate)
    forms = _forms(dynamics, _responses(dynamics, t.reshape(-1)), law)
    energy = quantiles_in_turn(q, *forms)
    found = square_root(energy / math.prod(dynamics.shape[:-1]))
    return found.reshape(*q.shape, *t.shape, *found.shape[q.ndim + 1 :])


@jax.jit
def _forms(
    dynamics: QuadraticDynamics, response: Response, law: Law
) -> tuple[jax.Array, jax.Array]:
    """The energy along each component as a sum of squares of independent Gaussian
    variables: their variances and means, each (times, p, terms)."""
    modes = modes_of(dynamics)
    directions = directions_of(dynamics, modes, law.components)
    covariance = (
        _drawn(law, modes) if law.covariance is None else given_covariance(law, modes)
    )
    mean_drive = _mean(law, modes)

    def at_time(response: Response) -> tuple[jax.Array, jax.Array]:
        moved = directions * response.gained[:, None, None]
        driven = (
            moved * covariance[:, None, None]
            if law.covariance is None
            else einsum("gpfm,gml->gpfl", moved, covariance)
        )
        of_filters = einsum("gpfm,gpem->pgfe", driven, moved)
        variances, axes = jnp.linalg.eigh(of_filters)
        means = jnp.zeros_like(variances)
        mean = modes.moved(response, mean_drive)
        if mean is not None:
            means = einsum("pgfe,gpfm,gm->pge", axes, directions, mean)
        terms = (variances.shape[0], -1)
        return jnp.maximum(variances, 0).reshape(terms), means.reshape(terms)

    return lax.map(at_time, response)
