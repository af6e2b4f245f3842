"""Exact gradient descent on a linear CNN, and its distribution over random
initialisation and targets."""

from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from theory._checks import (
    check_components,
    check_initial_kernel,
    check_positive,
    check_probabilities,
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
from theory.linear_law import (
    GaussianEnergy,
    Targets,
    expected,
    law_of_drive,
    quantiles,
)
from theory.optimizer import Optimizer, Response, check_times, last_rate, responses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearDynamics:
    r"""Full-batch training of a linear CNN, decomposed into independent modes.

    With A = E diag(alpha) E^T (mean patches) and a^T a = Q diag(h) Q^T (head), mode (i,
    j) has the curvature g alpha_i h_j. In plain gradient descent it decays by 1 - x_ij
    in each step, x_ij = g eta alpha_i h_j. Made by `gradient_descent`; a pytree.

    Attributes:
      learning_rate: eta, (); or (S,), of every step or between the optimizer's
        boundaries.
      optimizer: momentum, weight decay, and where the learning rate changes.
      head: a, (K, M); centred over outputs for cross-entropy.
      mean_patch_variance: alpha, (d,), descending; 0 where it is zero up to rounding.
      components: E, (d, d), as columns.
      head_variance: h, (M,); 0 where it is zero up to rounding.
      head_components: Q, (M, M), as columns.
      drive: E^T B Q, (d, M). (`QuadraticDynamics.drive` is the gradient: it has the
        other sign.)
      mean: E^T m, (d,), the mean over images of the mean patch.
      target_mean: Q^T y, (M,).
      target_covariance: Q^T C Q, (M, M).
      count: N, the number of images.
      kernel_shape: (kh, kw, C).
      gradient_factor: g: 2 for the mean squared error; 1 / M for cross-entropy, whose
        targets are M times the one-hot ones less their mean.
      continuous: gradient flow instead of steps.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(20, 6, 6, 1)), random.normal(size=20)
      >>> moments = theory.mean_patch_moments(images, targets, 2)
      >>> head = np.ones(3)
      >>> dynamics = theory.gradient_descent(moments, head, 0.1)

      At the start the profile is that of the initialisation:

      >>> print(dynamics.expected_profile(0, init_std=0.3).round(6))
      [0.3 0.3 0.3 0.3]

      After 100 steps, with a band that holds each component in 9 of 10 runs:

      >>> typical = dynamics.expected_profile(100, init_std=0.3)
      >>> band = dynamics.profile_quantiles(np.array([0.05, 0.95]), 100, init_std=0.3)
      >>> bool(((band[0] < typical) & (typical < band[1])).all())
      True
    """

    learning_rate: Array
    optimizer: Optimizer
    head: Array
    mean_patch_variance: Array
    components: Array
    head_variance: Array
    head_components: Array
    drive: Array
    mean: Array
    target_mean: Array
    target_covariance: Array
    count: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    gradient_factor: float = field(default=2.0, metadata={"static": True})
    continuous: bool = field(default=False, metadata={"static": True})

    @property
    def rates(self) -> jax.Array:
        """x_ij = g eta alpha_i h_j, (d, M), without unit, at the last learning rate;
        in [0, 2) for plain gradient descent."""
        eta, _ = as_floats(last_rate(self.learning_rate), self.head)
        return eta * _curvature(self)

    def kernel(self, t: ArrayLike, initial_kernel: ArrayLike) -> Array:
        r"""The filters after t steps, exactly, for any data, targets, head and
        initialisation.

        .. math::

           W(t) = W(0)
             + g \eta E [\varphi_t(x_{ij}) \circ (E^T (B - A W(0) a) Q)] Q^T a^T

        for plain gradient descent: ours (docs/derivations.md, section 3; section 19
        has momentum, weight decay and schedules).

        Args:
          t: steps, scalar or any shape, from 0 to infinity; integers, given as integers
            or in floating point and then rounded. In continuous time real: learning
            rate times t is the time.
          initial_kernel: W(0) in Flax order, (..., kh, kw, C, K), leading batch axes
            allowed.

        Returns:
          kernel, t.shape + initial_kernel.shape. Directions that no image's mean patch
          has keep their initial value, but for weight decay.

        Raises:
          ValueError: the kernel's shape is not that of the moments and head, or t is
            negative or beyond the schedule.
        """
        self._check_start(t, initial_kernel)
        return _kernel(self, as_float_like(self.learning_rate, t), initial_kernel)

    def profile(
        self,
        t: ArrayLike,
        initial_kernel: ArrayLike,
        *,
        change: bool = False,
        components: ArrayLike | None = None,
    ) -> Array:
        r"""Energy profile of the filters after t steps, exactly, without the filters.

        It is `energy_profile` of `kernel`, at the cost of one number for each of d x M
        modes in the place of d x K weights: for many initial kernels at many times.
        Ours (docs/derivations.md, section 19).

        Args:
          t, initial_kernel: as in `kernel`.
          change: the profile of W(t) - W(0) instead of W(t).
          components: orthonormal directions as columns, (d, p), e.g.
            `PatchSpectrum.components`; E if None.

        Returns:
          e, t.shape + the kernel's batch axes + (p,), in units of the filters.

        Raises:
          ValueError: as `kernel`, or components that are not orthonormal.
        """
        self._check_start(t, initial_kernel)
        if components is not None:
            check_components(components, self.components.shape[0])
        t = as_float_like(self.learning_rate, t)
        return _profile(self, t, initial_kernel, components, change)

    def expected_profile(
        self,
        t: ArrayLike,
        *,
        init_std: ArrayLike,
        targets: Targets = "drawn",
        change: bool = False,
        components: ArrayLike | None = None,
    ) -> Array:
        r"""Root mean square energy profile over random initialisation and targets.

        For one output and plain gradient descent, in the eigenbasis of A, with
        :math:`\rho_i = (1 - x_i)^t`:

        .. math:: E[e_i(t)^2] = \sigma^2 \left[1 - \frac{1 - \rho_i^2}{K}\right]
           + \frac{g^2 h \eta^2}{K} \varphi_t(x_i)^2 \frac{\tau^2 \alpha_i}{N}

        Ours (docs/derivations.md, section 4, with several outputs and any basis, and
        section 19 for other optimisers).

        Args:
          t: steps, as in `kernel`.
          init_std: sigma, standard deviation of the independent Gaussian weights of
            W(0); may be 0.
          targets: "drawn": independent of the images and of one another, of mean 0 and
            of the moments' `target_covariance`. "redrawn": the same, of the moments'
            own `target_mean` too, e.g. one-hot classes of these frequencies.
            "shuffled": the moments' own targets, randomly permuted over the images.
          change: the profile of W(t) - W(0) instead of W(t).
          components: orthonormal directions as columns, (d, p), e.g.
            `PatchSpectrum.components`; E if None.

        Returns:
          sqrt(E[e^2]), t.shape + (p,), in units of the filters.

        Raises:
          ValueError: `targets` is none of these, a shape is wrong, init_std or t is
            negative, t is beyond the schedule, init_std squared is too large or small
            for a float, components are not orthonormal.
        """
        self._check_law(t, init_std, targets, components)
        return _profile_law(
            self,
            None,
            as_float_like(self.learning_rate, t),
            init_std,
            components,
            targets,
            change,
        )

    def profile_quantiles(
        self,
        q: ArrayLike,
        t: ArrayLike,
        *,
        init_std: ArrayLike,
        targets: Targets = "drawn",
        change: bool = False,
        components: ArrayLike | None = None,
    ) -> Array:
        r"""Quantiles of each component of the energy profile over random initialisation
        and targets.

        :math:`K e_i^2` is a sum of independent (noncentral) chi-square variables with
        known weights; its distribution function is inverted numerically
        (`quadratic_form_quantile`). Exact for Gaussian targets; for others a central
        limit theorem, poor for rare classes. Ours (docs/derivations.md, section 4).

        Args:
          q: probabilities in (0, 1), any shape.
          t, init_std, targets, change, components: as in `expected_profile`.

        Returns:
          quantiles of e, q.shape + t.shape + (p,), in units of the filters.

        Raises:
          ValueError: as `expected_profile`, or a probability outside (0, 1).
        """
        self._check_law(t, init_std, targets, components)
        check_probabilities("q", q)
        return _profile_law(
            self,
            q,
            as_float_like(self.learning_rate, t),
            init_std,
            components,
            targets,
            change,
        )

    def _check_start(self, t: ArrayLike, initial_kernel: ArrayLike) -> None:
        check_initial_kernel(initial_kernel, self.kernel_shape, self.head.shape[0])
        check_times(self.learning_rate, self.optimizer, t)

    def _check_law(
        self,
        t: ArrayLike,
        init_std: ArrayLike,
        targets: str,
        components: ArrayLike | None,
    ) -> None:
        check_times(self.learning_rate, self.optimizer, t)
        if targets not in get_args(Targets):
            raise ValueError(
                f"targets must be one of {', '.join(map(repr, get_args(Targets)))}, got"
                f" {targets!r}."
            )
        check_positive("init_std", init_std, or_zero=True)
        check_squares("init_std", as_float_like(self.learning_rate, init_std))
        if components is not None:
            check_components(components, self.components.shape[0])


def _curvature(dynamics: LinearDynamics) -> jax.Array:
    """g alpha_i h_j, (d, M)."""
    alpha, h = as_floats(dynamics.mean_patch_variance, dynamics.head_variance)
    return dynamics.gradient_factor * alpha[:, None] * h[None]


# A program of its own, and all modes in one: those with momentum take long to compile,
# and every method needs it.
@jax.jit
def _modes(dynamics: LinearDynamics, t: jax.Array) -> tuple[Response, Response]:
    """What t steps make of the modes, t.shape + (d, M), and of the filter directions
    that the head does not read, t.shape."""
    curvature = _curvature(dynamics)
    found = responses(
        dynamics.learning_rate,
        dynamics.optimizer,
        jnp.concatenate([curvature.ravel(), jnp.zeros(1, curvature.dtype)]),
        t,
        continuous=dynamics.continuous,
    )
    modes = (x[..., :-1].reshape(*t.shape, *curvature.shape) for x in found)
    return Response(*modes), Response(*(x[..., -1] for x in found))


def _read(dynamics: LinearDynamics) -> tuple[jax.Array, jax.Array]:
    """The filter directions that the head reads, unit columns (K, M), and their length
    in it, sqrt(h), (M,); both 0 for outputs that read nothing."""
    a, h, q = as_floats(dynamics.head, dynamics.head_variance, dynamics.head_components)
    length = square_root(h)
    seen = (h > 0)[None]
    units = jnp.where(seen, matmul(a, q) / jnp.where(seen, length[None], 1), 0)
    return units, length


def _gained(dynamics: LinearDynamics, modes: Response, length: jax.Array) -> jax.Array:
    """What the modes, in units of the filters, have gained for each unit of E^T B Q,
    t.shape + (d, M)."""
    return dynamics.gradient_factor * einsum("j,...ij->...ij", length, modes.gained)


@float64_outside_traces
def _kernel(
    dynamics: LinearDynamics, t: ArrayLike, initial_kernel: ArrayLike
) -> jax.Array:
    kernel, t, _ = as_floats(initial_kernel, t, dynamics.head)
    found = _kernels_of(dynamics, *_modes(dynamics, t.reshape(-1)), kernel)
    return found.reshape(*t.shape, *kernel.shape)


@jax.jit
def _kernels_of(
    dynamics: LinearDynamics, modes: Response, unread: Response, kernel: jax.Array
) -> jax.Array:
    e, drive, kernel = as_floats(dynamics.components, dynamics.drive, kernel)
    units, length = _read(dynamics)
    w = kernel.reshape(-1, e.shape[0], units.shape[0])  # every batch axis in one
    initial = einsum("di,bdk,kj->bij", e, w, units)
    moved = modes.moved - unread.moved[:, None, None]
    gained = _gained(dynamics, modes, length)
    change = moved[:, None] * initial[None] + (gained * drive[None])[:, None]
    change = einsum("di,tbij,kj->tbdk", e, change, units)
    if dynamics.optimizer.weight_decay is not None:
        change = change + unread.moved[:, None, None, None] * w[None]
    return kernel[None] + change.reshape(moved.shape[0], *kernel.shape)


@float64_outside_traces
def _profile(
    dynamics: LinearDynamics,
    t: ArrayLike,
    initial_kernel: ArrayLike,
    components: ArrayLike | None,
    change: ArrayLike,
) -> jax.Array:
    kernel, t, _ = as_floats(initial_kernel, t, dynamics.head)
    modes = _modes(dynamics, t.reshape(-1))
    found = _profiles_of(dynamics, *modes, kernel, components, change)
    return found.reshape(*t.shape, *found.shape[1:])


@jax.jit
def _profiles_of(
    dynamics: LinearDynamics,
    modes: Response,
    unread: Response,
    kernel: jax.Array,
    components: ArrayLike | None,
    change: ArrayLike,
) -> jax.Array:
    e, drive, kernel = as_floats(dynamics.components, dynamics.drive, kernel)
    units, length = _read(dynamics)
    w = kernel.reshape(-1, e.shape[0], units.shape[0])
    u = e if components is None else as_floats(components, e)[0]
    along = einsum("dp,bdk->bpk", u, w)
    rest = along - einsum("bpk,kj,lj->bpl", along, units, units)
    initial = einsum("di,bdk,kj->bij", e, w, units)
    kept = jnp.where(change, modes.moved, modes.kept)[:, None]
    gained = _gained(dynamics, modes, length) * drive[None]
    read = kept * initial[None] + gained[:, None]
    if components is not None:
        read = einsum("ip,tbij->tbpj", matmul(e.T, u), read)
    kept = jnp.where(change, unread.moved, unread.kept)
    energy = (read**2).sum(axis=-1) + (
        kept[:, None, None] ** 2 * (rest**2).sum(axis=-1)[None]
    )
    profile = square_root(energy / units.shape[0])
    return profile.reshape(kept.shape[0], *kernel.shape[:-4], u.shape[1])


@partial(jax.jit, static_argnums=5)
def _law(
    dynamics: LinearDynamics,
    modes: Response,
    unread: Response,
    init_std: jax.Array,
    components: ArrayLike | None,
    targets: Targets,
    change: ArrayLike,
) -> GaussianEnergy:
    (e,) = as_floats(dynamics.components)
    _, length = _read(dynamics)
    kept = jnp.where(change, modes.moved, modes.kept)
    kept_unread = jnp.where(change, unread.moved, unread.kept)
    read = (length > 0).astype(e.dtype)  # 1 for the filter directions that it reads
    # The directions in the eigenbasis of A.
    v = matmul(e.T, e if components is None else jnp.asarray(components, e.dtype))
    initial = init_std**2 * einsum("ip,...ij,j->...pj", v**2, kept**2, read)
    mean, driven = law_of_drive(
        v,
        _gained(dynamics, modes, length),
        targets,
        *as_floats(
            dynamics.mean_patch_variance,
            dynamics.mean,
            dynamics.target_mean,
            dynamics.target_covariance / dynamics.count,
        ),
    )
    j = jnp.arange(length.shape[0])
    return GaussianEnergy(
        (init_std * kept_unread[..., None]) ** 2,
        dynamics.head.shape[0] - read.sum(),
        mean,
        driven.at[..., j, j].add(initial),
    )


@float64_outside_traces
def _profile_law(
    dynamics: LinearDynamics,
    q: ArrayLike | None,
    t: ArrayLike,
    init_std: ArrayLike,
    components: ArrayLike | None,
    targets: Targets,
    change: ArrayLike,
) -> jax.Array:
    """The quantiles of e, or its root mean square if q is None."""
    t, init_std, _ = as_floats(t, init_std, dynamics.head)
    modes = _modes(dynamics, t)
    law = _law(dynamics, *modes, init_std, components, targets, change)
    filters = dynamics.head.shape[0]
    return expected(law, filters) if q is None else quantiles(law, q, filters)
