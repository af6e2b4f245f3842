"""How labels correlate with the principal components of the images (paper, Fig. 5)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import (
    check_images,
    check_orthonormal,
    check_unmasked,
    check_variance,
)
from theory._precision import (
    Array,
    concrete,
    einsum,
    float64_outside_traces,
    square_root,
)
from theory.mean_patches import MeanPatchCovariances, mean_patch_covariances
from theory.moments import PatchSpectrum
from theory.streaming import Images

_RENUMBER = (
    "numpy.unique(labels, return_inverse=True)[1] numbers the classes that occur"
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelCorrelation:
    """Pearson correlations of one-vs-all labels with the coefficients of patches on the
    PCA vectors.

    Attributes:
      patch: of single patches, each with the label of its image, (classes, d).
      mean_patch: of the mean patch of each image, which is what a linear CNN sees,
        (classes, d).
      patch_noise: standard deviation of `patch` if the labels are shuffled, (d,). It is
        far above 1 / sqrt(number of patches), because all patches of an image share
        their label.
      mean_patch_noise: the same of `mean_patch`, 1 / sqrt(N - 1) for every class and
        component, ().

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(101, 4, 4, 1))
      >>> spectrum = theory.patch_spectrum(images, 2)
      >>> found = theory.label_correlation(images, np.arange(101) % 3, spectrum)
      >>> found.patch.shape, found.patch_noise.shape
      ((3, 4), (4,))
      >>> print(found.mean_patch_noise)  # 1 / sqrt(N - 1)
      0.1
    """

    patch: Array
    mean_patch: Array
    patch_noise: Array
    mean_patch_noise: Array


def label_correlation(
    images: Images,
    labels: ArrayLike,
    spectrum: PatchSpectrum,
    *,
    mesh: Mesh | None = None,
) -> LabelCorrelation:
    r"""Correlation of each class, against all others, with each principal component of
    the patches.

    .. math::

       r_{ci} = \frac{\operatorname{cov}(1[y
         = c],\, u_i^T p)}{\sigma_c\, \sigma(u_i^T p)}

    Paper, assumption (ii) of Theorem 4.2 and Fig. 5, for a single patch p and (ours;
    docs/derivations.md, section 10) for the mean patch of an image. The covariance is
    the same for both, as labels belong to images; they differ in the standard deviation
    of the coefficient.

    Args:
      images: as in `theory.patch_moments`: an array (N, H, W, C), or an iterable of
        such arrays.
      labels: of all images, (N,), integers from 0; each class up to the largest must
        occur, and not be all of them.
      spectrum: of the patches of the same images; its kernel, stride and padding are
        used.
      mesh: as in `patch_moments`.

    Returns:
      the correlations; in float64 under the same rule as `patch_moments`. NaN for
      components without variance. Where, above rounding, only the mean patches have
      none, as those of equal images, theirs are NaN and those of single patches 0.

    Raises:
      TypeError: labels that are no integers. ValueError: labels of the wrong shape,
        negative, or with a class that has no image or all of them; images that are not
        those of the spectrum.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> labels = np.arange(100) % 2
      >>> noise = np.random.default_rng(0).normal(size=(100, 8, 8, 1))
      >>> images = noise + labels[:, None, None, None]  # those of class 1 are brighter
      >>> spectrum = theory.patch_spectrum(images, 2)
      >>> found = theory.label_correlation(images, labels, spectrum)
      >>> print(found.patch[:, 0].round(2), found.mean_patch[:, 0].round(2))
      [-0.7  0.7] [-0.96  0.96]
    """
    if not isinstance(spectrum, PatchSpectrum):
        raise TypeError(
            f"spectrum must be a PatchSpectrum, got {type(spectrum).__name__}; moments"
            " have .spectrum()."
        )
    check_orthonormal("spectrum.components", spectrum.components)
    check_variance(spectrum.variance)
    if hasattr(images, "shape"):
        check_images(images)
    one_hot = _one_vs_all(labels)
    if hasattr(images, "shape") and images.shape[0] != len(one_hot):
        raise ValueError(
            f"labels must have shape (N,) with N = {images.shape[0]} as the images"
            f" have, got {len(one_hot)}."
        )

    geometry = spectrum.kernel_shape[:2], spectrum.stride, spectrum.padding
    total = mean_patch_covariances(images, one_hot, geometry, mesh)
    locations = total.where.locations[0] * total.where.locations[1]
    if (total.count * locations, total.channels) != (
        spectrum.count,
        spectrum.kernel_shape[2],
    ):
        raise ValueError(
            "spectrum must be that of the same images: it was taken from"
            f" {spectrum.count} patches with {spectrum.kernel_shape[2]} channels, these"
            f" images have {total.count * locations} with {total.channels}."
        )
    return _correlations(total, spectrum)


def _one_vs_all(labels: ArrayLike) -> np.ndarray:
    """(N,) integers -> (N, classes) of booleans, checked."""
    check_unmasked("labels", labels)
    values = concrete(labels)
    if values is None:
        raise TypeError(
            "labels must be concrete, since their largest one says how many classes"
            " there are."
        )
    if values.ndim != 1 or not values.size:
        raise ValueError(f"labels must have shape (N,), got {values.shape}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {values.dtype}; {_RENUMBER}.")
    if values.min() < 0:
        raise ValueError(
            f"labels must be 0 or larger, got {values.min()}; {_RENUMBER}."
        )
    if values.max() >= len(values):
        raise ValueError(
            f"labels reach {values.max()}, but there are only {len(values)} images;"
            f" {_RENUMBER}."
        )
    counts = np.bincount(values)
    if (counts == 0).any() or len(counts) < 2:
        what = (
            "only class 0"
            if len(counts) < 2
            else f"no image of class {int(np.argmin(counts))}"
        )
        raise ValueError(
            "labels must hold each class from 0 to the largest, and at least two;"
            f" there is {what}; {_RENUMBER}."
        )
    return values[:, None] == np.arange(len(counts))[None, :]


@float64_outside_traces
def _correlations(
    total: MeanPatchCovariances, spectrum: PatchSpectrum
) -> LabelCorrelation:
    return _compiled_correlations(
        *(
            jnp.asarray(a)
            for a in (
                total.patches,
                total.cross,
                total.targets,
                total.rounding,
                spectrum.components,
            )
        ),
        jnp.asarray(spectrum.variance),
        jnp.asarray(spectrum.mean),
        total.count,
        spectrum.centered,
    )


@partial(jax.jit, static_argnames=("count", "centered"))
def _compiled_correlations(
    patches: jax.Array,
    cross: jax.Array,
    targets: jax.Array,
    rounding: jax.Array,
    u: jax.Array,
    variance: jax.Array,
    mean: jax.Array,
    count: int,
    centered: bool,
) -> LabelCorrelation:
    single = variance if centered else variance - einsum("di,d->i", u, mean) ** 2
    pooled = einsum("di,de,ei->i", u, patches, u)
    seen = (variance > 0) & (pooled > rounding) & (single > 0)
    deviation = (
        square_root(jnp.diagonal(targets))[:, None]
        * square_root(jnp.where(seen, pooled, 1))[None, :]
    )
    mean_patch = jnp.where(
        seen[None, :], einsum("dc,di->ci", cross, u) / deviation, jnp.nan
    )
    share = jnp.where(seen, square_root(pooled / jnp.where(seen, single, 1)), jnp.nan)
    # Where only the mean patches are all equal no label can tell patches apart.
    equal = (variance > 0) & ~seen & (single > 0)
    share = jnp.where(equal, 0, share)
    # Of labels shuffled in all orders, the correlation with any fixed numbers has this
    # standard deviation exactly.
    noise = jnp.full((), 1 / np.sqrt(count - 1), share.dtype)
    patch = jnp.where(equal[None, :], 0, mean_patch * share[None, :])
    return LabelCorrelation(patch, mean_patch, noise * share, noise)
