"""Exact gradient descent on a linear CNN, and its distribution over random
initialisation and targets."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_components,
    check_iterations,
    check_kernel,
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
from theory.geometric_sum import decay
from theory.modes import mode_sums
from theory.quadratic_form import quadratic_form_quantile

# The "mse" loss is the mean over images of the squared error summed over outputs; its
# gradient has a factor 2.
GRADIENT_FACTOR = 2

Targets = Literal["drawn", "shuffled"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearDynamics:
    r"""Full-batch gradient descent on a linear CNN, decomposed into independent modes.

    With A = E diag(alpha) E^T (mean patches) and a^T a = Q diag(h) Q^T (head), mode (i,
    j) decays by 1 - x_ij in each step, x_ij = 2 eta alpha_i h_j. Made by
    `gradient_descent`; a pytree.

    Attributes:
      learning_rate: eta.
      head: a, (K, M).
      mean_patch_variance: alpha, (d,), descending; 0 where it is zero up to rounding.
      components: E, (d, d), as columns.
      head_variance: h, (M,); 0 where it is zero up to rounding.
      head_components: Q, (M, M), as columns.
      drive: E^T B Q, (d, M).
      mean: E^T m, (d,), the mean over images of the mean patch.
      target_mean: Q^T y, (M,).
      target_covariance: Q^T C Q, (M, M).
      count: N, the number of images.
      kernel_shape: (kh, kw, C).

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

    @property
    def rates(self) -> jax.Array:
        """x_ij = 2 eta alpha_i h_j, (d, M), without unit; all in [0, 2)."""
        return _rates(
            *as_floats(self.learning_rate, self.mean_patch_variance, self.head_variance)
        )

    def kernel(self, t: ArrayLike, initial_kernel: ArrayLike) -> Array:
        r"""The filters after t steps, exactly, for any data, targets, head and
        initialisation.

        .. math::

           W(t) = W(0)
             + 2 \eta E [\varphi_t(x_{ij}) \circ (E^T (B - A W(0) a) Q)] Q^T a^T

        Ours (docs/derivations.md, section 3).

        Args:
          t: steps, scalar or any shape, from 0 to infinity; integers, given as integers
            or in floating point and then rounded.
          initial_kernel: W(0) in Flax order, (..., kh, kw, C, K), leading batch axes
            allowed.

        Returns:
          kernel, t.shape + initial_kernel.shape. Directions that no image's mean patch
          has keep their initial value.

        Raises:
          ValueError: the kernel's shape is not that of the moments and head, or t is
            negative.
        """
        expected = (*self.kernel_shape, self.head.shape[0])
        check_kernel(initial_kernel, "initial_kernel")
        if np.shape(initial_kernel)[-4:] != expected:
            raise ValueError(
                f"initial_kernel must end in the axes (kh, kw, C, K) = {expected}, got"
                f" {np.shape(initial_kernel)}."
            )
        check_iterations(t)
        return _kernel(self, as_float_like(self.learning_rate, t), initial_kernel)

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

        For one output, in the eigenbasis of A, with :math:`\rho_i = (1 - x_i)^t`:

        .. math:: E[e_i(t)^2] = \sigma^2 \left[1 - \frac{1 - \rho_i^2}{K}\right]
           + \frac{4 h \eta^2}{K} \varphi_t(x_i)^2 \frac{\tau^2 \alpha_i}{N}

        Ours (docs/derivations.md, section 4, with several outputs and any basis).

        Args:
          t: steps, as in `kernel`.
          init_std: sigma, standard deviation of the independent Gaussian weights of
            W(0); may be 0.
          targets: "drawn": independent of the images and of one another, of mean 0 and
            of the moments' `target_covariance`. "shuffled": the moments' own targets,
            randomly permuted over the images.
          change: the profile of W(t) - W(0) instead of W(t).
          components: orthonormal directions as columns, (d, p), e.g.
            `PatchSpectrum.components`; E if None.

        Returns:
          sqrt(E[e^2]), t.shape + (p,), in units of the filters.

        Raises:
          ValueError: `targets` is neither word, a shape is wrong, init_std or t is
            negative, init_std squared is too large or small for a float, components are
            not orthonormal.
        """
        self._check_law(t, init_std, targets, components)
        return _expected_profile(
            self,
            as_float_like(self.learning_rate, t),
            init_std,
            components,
            targets == "shuffled",
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
        return _profile_quantiles(
            self,
            q,
            as_float_like(self.learning_rate, t),
            init_std,
            components,
            targets == "shuffled",
            change,
        )

    def _check_law(
        self,
        t: ArrayLike,
        init_std: ArrayLike,
        targets: str,
        components: ArrayLike | None,
    ) -> None:
        check_iterations(t)
        if targets not in ("drawn", "shuffled"):
            raise ValueError(f"targets must be 'drawn' or 'shuffled', got {targets!r}.")
        check_positive("init_std", init_std, or_zero=True)
        check_squares("init_std", as_float_like(self.learning_rate, init_std))
        if components is not None:
            check_components(components, self.components.shape[0])


def _rates(
    learning_rate: jax.Array, mean_patch_variance: jax.Array, head_variance: jax.Array
) -> jax.Array:
    """x_ij = 2 eta alpha_i h_j, (d, M)."""
    return (
        GRADIENT_FACTOR
        * learning_rate
        * mean_patch_variance[:, None]
        * head_variance[None]
    )


@float64_outside_traces
@jax.jit
def _kernel(
    dynamics: LinearDynamics, t: ArrayLike, initial_kernel: ArrayLike
) -> jax.Array:
    kernel, t, eta, a, alpha, e, h, q, drive = as_floats(
        initial_kernel,
        t,
        dynamics.learning_rate,
        dynamics.head,
        dynamics.mean_patch_variance,
        dynamics.components,
        dynamics.head_variance,
        dynamics.head_components,
        dynamics.drive,
    )
    w = kernel.reshape(-1, e.shape[0], a.shape[0])  # every batch axis in one
    # No rounding from outputs that the head does not read.
    aq = jnp.where(h[None] > 0, matmul(a, q), 0)
    residual = drive[None] - einsum("i,di,bdk,kj->bij", alpha, e, w, aq)
    sums = mode_sums(_rates(eta, alpha, h), t.reshape(-1, 1, 1))
    change = (
        GRADIENT_FACTOR * eta * einsum("di,tij,bij,kj->tbdk", e, sums, residual, aq)
    )
    change = change.reshape(*t.shape, *kernel.shape)
    return jnp.broadcast_to(kernel, change.shape) + change


@jax.jit
def _gaussian_law(
    dynamics: LinearDynamics,
    t: jax.Array,
    init_std: jax.Array,
    components: ArrayLike | None,
    shuffled: ArrayLike,
    change: ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """K e_u^2 as sigma^2 chi2 with some degrees of freedom plus |z|^2, z Gaussian
    (docs/derivations.md, section 4).

    Returns:
      sigma^2 (); degrees of freedom (), the filter directions that the head does not
      read, 0 for the change; mean of z, t.shape + (p, M); covariance of z, t.shape +
      (p, M, M).
    """
    sigma, t, eta, alpha, e, h, m, q_mean, q_covariance = as_floats(
        init_std,
        t,
        dynamics.learning_rate,
        dynamics.mean_patch_variance,
        dynamics.components,
        dynamics.head_variance,
        dynamics.mean,
        dynamics.target_mean,
        dynamics.target_covariance,
    )
    u = e if components is None else jnp.asarray(components, e.dtype)
    v = matmul(e.T, u)  # (d, p): the directions in the eigenbasis of A
    read = (h > 0).astype(h.dtype)  # 1 for the filter directions that the head reads
    x = _rates(eta, alpha, h)
    sums = mode_sums(x, t[..., None, None])
    # What the initialisation contributes, up to its sign: 1 - (1-x)^t = x phi_t(x) to
    # the change.
    kept = jnp.where(
        change, einsum("ij,...ij->...ij", x, sums), decay(x, t[..., None, None])
    )
    initial = sigma**2 * einsum("ip,...ij,j->...pj", v**2, kept**2, read)
    gain = GRADIENT_FACTOR * eta * square_root(h)
    # The mean of the drive along u; drawn targets have mean 0.
    projected = jnp.where(shuffled, einsum("ip,...ij,i->...pj", v, sums, m), 0)
    spread = einsum("ip,...ij,...il,i->...pjl", v**2, sums, sums, alpha)
    spread = spread - projected[..., :, None] * projected[..., None, :]
    mean = einsum("j,...pj->...pj", gain * q_mean, projected)
    driven = einsum(
        "j,l,jl,...pjl->...pjl", gain, gain, q_covariance / dynamics.count, spread
    )
    j = jnp.arange(h.shape[0])
    covariance = driven.at[..., j, j].add(initial)
    freedom = jnp.where(change, 0, dynamics.head.shape[0] - read.sum())
    return sigma**2, freedom, mean, covariance


@float64_outside_traces
@jax.jit
def _expected_profile(
    dynamics: LinearDynamics,
    t: ArrayLike,
    init_std: ArrayLike,
    components: ArrayLike | None,
    shuffled: ArrayLike,
    change: ArrayLike,
) -> jax.Array:
    t, init_std, _ = as_floats(t, init_std, dynamics.learning_rate)
    variance, freedom, mean, covariance = _gaussian_law(
        dynamics, t, init_std, components, shuffled, change
    )
    energy = (
        variance * freedom
        + jnp.trace(covariance, axis1=-2, axis2=-1)
        + jnp.sum(mean**2, axis=-1)
    )
    return square_root(energy / dynamics.head.shape[0])


@float64_outside_traces
@jax.jit
def _profile_quantiles(
    dynamics: LinearDynamics,
    q: ArrayLike,
    t: ArrayLike,
    init_std: ArrayLike,
    components: ArrayLike | None,
    shuffled: ArrayLike,
    change: ArrayLike,
) -> jax.Array:
    q, t, init_std, _ = as_floats(q, t, init_std, dynamics.learning_rate)
    variance, freedom, mean, covariance = _gaussian_law(
        dynamics, t, init_std, components, shuffled, change
    )
    weights, axes = jnp.linalg.eigh(covariance)
    means = einsum("...jl,...j->...l", axes, mean)
    # The first term stands for the filter directions that the head does not read.
    unread = jnp.ones((*weights.shape[:-1], 1), weights.dtype)
    energy = quadratic_form_quantile(
        q.reshape(*q.shape, *(1,) * (weights.ndim - 1)),
        variances=jnp.concatenate(
            [variance * unread, jnp.maximum(weights, 0)], axis=-1
        ),
        means=jnp.concatenate([0 * unread, means], axis=-1),
        degrees=jnp.concatenate([freedom * unread, jnp.ones_like(weights)], axis=-1),
    )
    return square_root(energy / dynamics.head.shape[0])
