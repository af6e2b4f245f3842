"""Theorems 4.2 and 4.3 of the paper, and the diagnostic that says whether their
assumption holds."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from theory._checks import (
    check_finite,
    check_head,
    check_iterations,
    check_kind,
    check_orthonormal,
    check_positive,
    check_probabilities,
    check_squares,
    check_stable,
    check_variance,
)
from theory._precision import (
    Array,
    as_floats,
    as_steps,
    concrete,
    einsum,
    float64_outside_traces,
    matmul,
    square_root,
    without_rounding,
)
from theory.geometric_sum import geometric_sum
from theory.linear_law import GRADIENT_FACTOR
from theory.mean_patches import MeanPatchMoments
from theory.moments import PatchSpectrum


def iteration_profile(
    variance: ArrayLike, iterations: ArrayLike, effective_learning_rate: ArrayLike
) -> jax.Array:
    r"""Energy profile of a linear CNN's first layer after t iterations, up to a
    constant factor.

    .. math:: e_i(t) \propto \frac{|1 - (1 - \eta' \lambda_i^2)^t|}{\lambda_i}

    Paper, Theorem 4.2 (equations 3 and 7). It assumes that different patches of an
    image are uncorrelated; see `decorrelation_ratio`. All constants are in
    `theorem_profile`.

    Args:
      variance: lambda_i^2, (d,), e.g. `PatchSpectrum.variance`.
      iterations: t, scalar or any shape, from 0 to infinity; integers, given as
        integers or in floating point and then rounded.
      effective_learning_rate: eta' > 0, scalar, in units of 1 / variance. Stable while
        eta' lambda^2 < 2.

    Returns:
      profile, iterations.shape + (d,), in units of 1 / lambda; 0 where lambda^2 = 0.

    Raises:
      ValueError: negative variance or iterations, or a step size at or beyond the
        border of stability (the message names it). Not checked under tracing.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.array([4.0, 1.0, 0.25])
      >>> steps = np.array([1, 10, np.inf])
      >>> profiles = theory.iteration_profile(variance, steps, 0.1)

      The first step leaves lambda, the last ones 1 / lambda:

      >>> print(np.asarray(profiles / profiles[:, :1]).round(2))
      [[1.   0.5  0.25]
       [1.   1.31 0.9 ]
       [1.   2.   4.  ]]
    """
    check_variance(variance, one_axis=True)
    check_iterations(iterations)
    check_positive("effective_learning_rate", effective_learning_rate)
    variance, t, rate = as_floats(
        variance, as_steps(iterations), effective_learning_rate
    )
    check_stable("effective_learning_rate", rate, variance)
    sums = _masked_geometric_sum(rate * variance, t[..., None])
    return einsum("i,...i->...i", rate * square_root(variance), sums)


def whitening_profile(variance: ArrayLike, epsilon: ArrayLike = 0.0) -> jax.Array:
    r"""The limit of `iteration_profile` at t = infinity, a whitening filter bank, and
    its regularised form.

    .. math:: e_i = \frac{1}{\sqrt{\lambda_i^2 + \epsilon}}

    Paper, Theorem 4.3, at epsilon = 0: 1 / lambda_i. A positive epsilon is the usual
    remedy against the noise in components of little variance, not the paper's.

    Args:
      variance: lambda_i^2, (..., d).
      epsilon: a scalar, at least 0, in units of the variance: components of more
        variance are whitened, those of less all get the weight 1 / sqrt(epsilon).

    Returns:
      profile, the shape of `variance`; 0 where lambda^2 + epsilon = 0, as nothing
      drives these components.

    Raises:
      ValueError: negative variance or epsilon. Not checked under tracing.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.array([4.0, 1.0, 0.25, 0.0])
      >>> print(theory.whitening_profile(variance))
      [0.5 1.  2.  0. ]
      >>> print(np.asarray(theory.whitening_profile(variance, 0.25)).round(2))
      [0.49 0.89 1.41 2.  ]
    """
    check_variance(variance)
    check_positive("epsilon", epsilon, or_zero=True)
    variance, epsilon = as_floats(variance, epsilon)
    raised = variance + epsilon
    seen = raised > 0
    return jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, raised, 1)), 0)


def theorem_profile(
    variance: ArrayLike,
    iterations: ArrayLike,
    *,
    learning_rate: ArrayLike,
    head: ArrayLike,
    patches_per_image: int,
    count: int,
    target_std: ArrayLike = 1.0,
) -> jax.Array:
    r"""Root mean square energy profile of Theorem 4.2 with every constant, hence no
    free parameter.

    .. math:: \operatorname{rms} e_i(t) = \tau \sqrt{\frac{J}{h K N}} \,
       \frac{|1 - (1 - \eta' \lambda_i^2)^t|}{\lambda_i}, \qquad \eta' = \frac{2 \eta
       h}{J}, \quad h = |a|^2

    Ours (docs/derivations.md, section 5, which has the sum over several outputs): the
    rms over random targets of the kernel's change, for small initialisation, under the
    paper's assumptions that different patches of an image are uncorrelated and of zero
    mean, and targets uncorrelated with the images.

    Args:
      variance: lambda_i^2, (d,), of the patches.
      iterations: t as in `iteration_profile`.
      learning_rate: eta, as `optax.sgd` means it, on the "mse" loss (mean over images
        of the squared error summed over outputs).
      head: a, (K,) or (K, M).
      patches_per_image: J.
      count: N, the number of images.
      target_std: tau, standard deviation of every target.

    Returns:
      profile, iterations.shape + (d,), in units of the filters.

    Raises:
      ValueError: as `iteration_profile`; or a head of zeros, of the wrong rank, or
        whose squares are too small or large for a float; or a count that is not
        positive.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.array([4.0, 1.0, 0.25])
      >>> profile = theory.theorem_profile(
      ...     variance,
      ...     iterations=30,
      ...     learning_rate=0.1,
      ...     head=np.ones(8),
      ...     patches_per_image=16,
      ...     count=100,
      ... )

      It is `iteration_profile` with eta' = 2 eta h / J, times tau sqrt(J / (h K N)):

      >>> shape = theory.iteration_profile(variance, 30, 2 * 0.1 * 8 / 16)
      >>> print(np.asarray(profile / shape).round(4), np.sqrt(16 / (8 * 8 * 100)))
      [0.05 0.05 0.05] 0.05
    """
    check_variance(variance, one_axis=True)
    check_iterations(iterations)
    check_positive("learning_rate", learning_rate)
    check_head(head)
    check_positive("patches_per_image", patches_per_image)
    check_positive("count", count)
    check_positive("target_std", target_std, or_zero=True)
    variance, t, rate, a, tau = as_floats(
        variance, as_steps(iterations), learning_rate, head, target_std
    )
    check_squares("head", a)
    a = a.reshape(a.shape[0], -1)
    h = without_rounding(jnp.linalg.eigvalsh(matmul(a.T, a))[::-1])
    curvature = GRADIENT_FACTOR * variance[:, None] * h[None] / patches_per_image
    check_stable("learning_rate", rate, curvature)
    sums = _masked_geometric_sum(rate * curvature, t[..., None, None])
    scale = (
        GRADIENT_FACTOR
        * rate
        * tau
        * square_root(variance / (patches_per_image * a.shape[0] * count))
    )
    return einsum(
        "i,...i->...i", scale, square_root(einsum("j,...ij->...i", h, sums**2))
    )


def whitening_schedule(
    variance: ArrayLike,
    count: int,
    tolerance: float,
    *,
    effective_learning_rate: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""The learning rate and the number of iterations after which the first components
    of Theorem 4.2 are whitened.

    Component i is within a share :math:`\epsilon` of :math:`1 / \lambda_i` once
    :math:`|1 - \eta' \lambda_i^2|^t \le \epsilon`. The fewest steps are at the rate
    at which the first and the last of them decay alike,

    .. math:: \eta' = \frac{2}{\lambda_1^2 + \lambda_m^2}, \qquad
       t = \left\lceil \frac{\log \epsilon}{\log(1 - \eta' \lambda_m^2)} \right\rceil

    Ours, from the paper's equation 3. It inverts `iteration_profile`; the time of a
    given profile is that of `fit_profile`. The rate is the effective one, eta' = 2 eta
    h / J as in `theorem_profile`, and both hold where the theorem does: look at
    `decorrelation_ratio` first. On images whose patches are correlated, eta may be far
    beyond `largest_stable_learning_rate`.

    Args:
      variance: lambda_i^2, (d,), e.g. `PatchSpectrum.variance`.
      count: m, how many of the components of the largest variance to whiten.
      tolerance: epsilon, in (0, 1).
      effective_learning_rate: eta', if another rate is wanted than the fastest.

    Returns:
      eta', in units of 1 / variance, and t, a whole number.

    Raises:
      ValueError: variances that are negative, count below 1 or beyond the components
        that have any variance, which no time whitens; a tolerance outside (0, 1); a
        rate at or beyond the border of stability.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> variance = np.array([4.0, 1.0, 0.25, 0.0])
      >>> rate, steps = theory.whitening_schedule(variance, 3, 0.01)
      >>> profile = theory.iteration_profile(variance, steps, rate)
      >>> print(int(steps), np.asarray(profile * np.sqrt(variance)).round(2))
      37 [1.01 1.   0.99 0.  ]
    """
    check_variance(variance, one_axis=True)
    check_probabilities("tolerance", tolerance)
    (values,) = as_floats(variance)
    known = concrete(values)
    if not (isinstance(count, int | np.integer) and 1 <= count <= values.shape[0]):
        raise ValueError(
            f"count must be a whole number from 1 to {values.shape[0]}, the number of"
            f" components, got {count!r}."
        )
    ordered = jnp.sort(values)[::-1]
    if known is not None and not np.sort(known)[::-1][count - 1] > 0:
        raise ValueError(
            f"count = {count} is beyond the {int((known > 0).sum())} components that"
            " have any variance; no number of steps whitens the others."
        )
    largest, smallest = ordered[0], ordered[count - 1]
    if effective_learning_rate is None:
        rate = 2 / (largest + smallest)
        slowest = rate * smallest  # and 2 - rate * largest, but for its rounding
    else:
        check_positive("effective_learning_rate", effective_learning_rate)
        rate, _ = as_floats(effective_learning_rate, values)
        check_stable("effective_learning_rate", rate, largest)
        slowest = jnp.minimum(rate * smallest, 2 - rate * largest)
    # The slowest loses this share in each step; of equal ones at the fastest rate, all.
    steps = jnp.ceil(jnp.log(tolerance) / jnp.log1p(-jnp.minimum(slowest, 1)))
    return rate, jnp.maximum(steps, 1)


@float64_outside_traces
def decorrelation_ratio(moments: MeanPatchMoments, spectrum: PatchSpectrum) -> Array:
    r"""How far the data are from the assumption of Theorem 4.2 that patches of an image
    are uncorrelated.

    .. math:: \frac{J\, u_i^T A u_i}{\lambda_i^2}

    Ours (docs/derivations.md, section 6). It is 1 if different patches of an image are
    uncorrelated, J if all are equal, and below 1 where neighbours cancel. If the
    spectrum is centred then A is centred here too (the covariance of the mean patch
    over images); otherwise both are about zero.

    Args:
      moments: of the images' mean patches.
      spectrum: of the patches of the same images, with the same kernel, stride and
        padding.

    Returns:
      ratio, (d,), without unit; NaN where lambda_i^2 = 0. In float64 under the same
      rule as `patch_spectrum`.

    Raises:
      TypeError: the two are not what they should be. ValueError: they were not taken
        from the same windows, or are not finite.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> def ratio(images):
      ...     moments = theory.mean_patch_moments(images, np.ones(1000), 2, stride=2)
      ...     spectrum = theory.patch_spectrum(images, 2, stride=2)
      ...     return theory.decorrelation_ratio(moments, spectrum)

      Independent pixels, and images of one colour each, of J = 9 patches:

      >>> pixels = np.random.default_rng(0).normal(size=(1000, 6, 6, 1))
      >>> print(ratio(pixels).round(1))
      [1. 1. 1. 1.]
      >>> print(ratio(np.broadcast_to(pixels[:, :1, :1], pixels.shape)).round(6))
      [ 9. nan nan nan]
    """
    check_kind("moments", moments, MeanPatchMoments, "mean_patch_moments")
    check_kind("spectrum", spectrum, PatchSpectrum, "patch_spectrum")
    taken = [(m.kernel_shape, m.stride, m.padding) for m in (moments, spectrum)]
    if (
        taken[0] != taken[1]
        or spectrum.count != moments.count * moments.patches_per_image
    ):
        raise ValueError(
            "moments and spectrum must come from the same images, kernel, stride and"
            f" padding; got (kernel shape, stride, padding) {taken[0]} of"
            f" {moments.count} x {moments.patches_per_image} patches and {taken[1]} of"
            f" {spectrum.count} patches."
        )
    check_finite("moments.second", moments.second)
    check_orthonormal("spectrum.components", spectrum.components)
    check_variance(spectrum.variance)
    second, mean, u, variance = as_floats(
        moments.second, moments.mean, spectrum.components, spectrum.variance
    )
    if spectrum.centered:
        second = second - jnp.outer(mean, mean)
    seen = variance > 0
    ratio = (
        moments.patches_per_image
        * einsum("di,de,ei->i", u, second, u)
        / jnp.where(seen, variance, 1)
    )
    # Not below 0, where rounding of nearly equal images may leave it.
    return jnp.where(seen, jnp.maximum(ratio, 0), jnp.nan)


def _masked_geometric_sum(x: jax.Array, t: jax.Array) -> jax.Array:
    """phi_t(x), and 0 where x = 0: nothing drives that component, not even for ever."""
    seen = x > 0
    return jnp.where(seen, geometric_sum(jnp.where(seen, x, 1), t), 0)
