"""The energy of a linear CNN's filters along a direction, over random initialisation
and targets: a quadratic form in Gaussian variables."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from theory._precision import as_floats, einsum, square_root
from theory.quadratic_form import quadratic_form_quantile

# The "mse" loss is the mean over images of the squared error summed over outputs; its
# gradient has a factor 2.
GRADIENT_FACTOR = 2

Targets = Literal["drawn", "redrawn", "shuffled"]


class GaussianEnergy(NamedTuple):
    """K e_u^2 is `variance` times a chi-square variable of `degrees`, plus |z|^2 with z
    Gaussian (docs/derivations.md, sections 4 and 19).

    Attributes:
      variance, degrees: of the filter directions that the head does not read, t.shape +
        (1,) and ().
      mean, covariance: of z, t.shape + (p, M) and t.shape + (p, M, M).
    """

    variance: jax.Array
    degrees: jax.Array
    mean: jax.Array
    covariance: jax.Array


def law_of_drive(
    v: jax.Array,
    gained: jax.Array,
    targets: Targets,
    alpha: jax.Array,
    mean: jax.Array,
    target_mean: jax.Array,
    covariance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Mean, t.shape + (p, M), and covariance, t.shape + (p, M, M), of what the targets
    have driven the modes to.

    Args:
      v: directions in the eigenbasis of A, (d, p).
      gained: of the modes for each unit of E^T B Q, t.shape + (d, M).
      targets: as in `LinearDynamics.expected_profile`.
      alpha: (d,). mean: E^T m, (d,). target_mean: (M,).
      covariance: of the targets, over the number of images, (M, M).
    """
    spread = einsum("ip,...ij,...il,i->...pjl", v**2, gained, gained, alpha)
    # The mean of the drive along u; drawn targets have mean 0.
    projected = einsum("ip,...ij,i->...pj", v, gained, mean)
    if targets == "shuffled":
        spread = spread - projected[..., :, None] * projected[..., None, :]
    share = target_mean * (0 if targets == "drawn" else 1)
    return (
        einsum("...pj,j->...pj", projected, share),
        einsum("...pjl,jl->...pjl", spread, covariance),
    )


# Programs of their own: they take long to compile, and serve dynamics of every kind.
@jax.jit
def expected(law: GaussianEnergy, filters: int) -> jax.Array:
    """sqrt(E[e_u^2]), t.shape + (p,)."""
    energy = (
        law.variance * law.degrees
        + jnp.trace(law.covariance, axis1=-2, axis2=-1)
        + jnp.sum(law.mean**2, axis=-1)
    )
    return square_root(energy / filters)


@jax.jit
def quantiles(law: GaussianEnergy, q: ArrayLike, filters: int) -> jax.Array:
    """Quantiles of e_u, q.shape + t.shape + (p,)."""
    (q, _) = as_floats(q, law.mean)
    weights, axes = jnp.linalg.eigh(law.covariance)
    means = einsum("...jl,...j->...l", axes, law.mean)
    # The first term stands for the filter directions that the head does not read.
    unread = jnp.ones((*weights.shape[:-1], 1), weights.dtype)
    energy = quadratic_form_quantile(
        q.reshape(*q.shape, *(1,) * (weights.ndim - 1)),
        variances=jnp.concatenate(
            [law.variance[..., None] * unread, jnp.maximum(weights, 0)], axis=-1
        ),
        means=jnp.concatenate([0 * unread, means], axis=-1),
        degrees=jnp.concatenate(
            [law.degrees * unread, jnp.ones_like(weights)], axis=-1
        ),
    )
    return square_root(energy / filters)
