"""Moments of the images' mean patches: all that a linear CNN sees of its data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import check_finite, check_images, check_squares
from theory._precision import Array, as_results, is_traced, matmul, namespace
from theory.batch_sums import Statistic
from theory.moments import check_same_patches, repeated, weighted_mean
from theory.patches import Padding, Window, patch_sums
from theory.streaming import Images, accumulate


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanPatchMoments:
    """All that full-batch gradient descent on a linear CNN sees of its data; `a + b`
    are those of both sets of images.

    Attributes:
      second: A = (1/N) sum of p p^T over the images' mean patches p, (d, d), never
        centred.
      cross: b = (1/N) sum of p y, (d,) for targets (N,), or B, (d, M) for targets (N,
        M).
      mean: the mean over images of p, (d,).
      target_mean: () or (M,).
      target_covariance: () or (M, M), normalised by N - 1; zero for a single image.
      count: N, the number of images.
      patches_per_image: J.
      kernel_shape, stride, padding: as in `PatchSpectrum`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images = random.normal(size=(10, 8, 8, 3))
      >>> targets = random.normal(size=(10, 2))
      >>> whole = theory.mean_patch_moments(images, targets, 3)
      >>> whole.second.shape, whole.cross.shape, whole.patches_per_image
      ((27, 27), (27, 2), 36)
      >>> first = theory.mean_patch_moments(images[:4], targets[:4], 3)
      >>> total = first + theory.mean_patch_moments(images[4:], targets[4:], 3)
      >>> np.allclose(total.target_covariance, np.cov(targets.T))
      True
    """

    second: Array
    cross: Array
    mean: Array
    target_mean: Array
    target_covariance: Array
    count: int = field(metadata={"static": True})
    patches_per_image: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})

    def __add__(self, other: "MeanPatchMoments") -> "MeanPatchMoments":
        check_same_patches(
            self, other, "patches_per_image", "kernel_shape", "stride", "padding"
        )
        if np.shape(self.target_mean) != np.shape(other.target_mean):
            raise ValueError(
                f"moments of targets of shapes {np.shape(self.target_mean)} and"
                f" {np.shape(other.target_mean)} (without the axis of images) cannot be"
                " added."
            )
        count = self.count + other.count
        gap = other.target_mean - self.target_mean
        between = (
            self.count
            * other.count
            / count
            * (gap[..., :, None] * gap[..., None, :] if gap.ndim else gap * gap)
        )
        within = [m.target_covariance * (m.count - 1) for m in (self, other)]
        return replace(
            self,
            **weighted_mean(self, other, "second", "cross", "mean", "target_mean"),
            target_covariance=(within[0] + within[1] + between) / (count - 1),
            count=count,
        )


def mean_patch_moments(
    images: Images,
    targets: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    mesh: Mesh | None = None,
) -> MeanPatchMoments:
    r"""Moments of the images' mean patches and their targets (ours,
    docs/derivations.md, section 3).

    .. math::

       A = \frac1N \sum_n \bar p_n \bar p_n^T, \qquad B = \frac1N \sum_n \bar p_n y_n^T

    Args:
      images: as in `patch_moments`: an array (N, H, W, C), or an iterable of such
        arrays.
      targets: (N,) or (N, M), real numbers, of all images; a class index counts as a
        number, it is not one-hot encoded.
      kernel_size, stride, padding: of the convolution, as in `patch_spectrum`.
      mesh: as in `patch_moments`.

    Returns:
      the moments, in float64 under the same rule as `patch_moments`.

    Raises:
      TypeError, ValueError: as `patch_moments`; targets of the wrong rank or length,
        with NaN, or whose squares are too large or small for a float.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(10, 8, 8, 3)), random.normal(size=10)
      >>> moments = theory.mean_patch_moments(images, targets, 1)

      Of a kernel of one pixel, the mean patch is the mean colour of the image:

      >>> colour = images.mean(axis=(1, 2))
      >>> np.allclose(moments.second, colour.T @ colour / 10)
      True
      >>> np.allclose(moments.cross, colour.T @ targets / 10)
      True
    """
    if hasattr(images, "shape"):
        check_images(images)
    one_output, y = checked_targets(images, targets)
    total = mean_patch_covariances(images, y, (kernel_size, stride, padding), mesh)
    cross = total.cross + total.mean[:, None] * total.target_mean[None, :]
    target_mean, target_covariance = (
        total.target_mean,
        total.targets * (total.count / max(total.count - 1, 1)),
    )
    if one_output:
        cross, target_mean, target_covariance = (
            cross[:, 0],
            target_mean[0],
            target_covariance[0, 0],
        )
    moments = MeanPatchMoments(
        second=total.patches + total.mean[:, None] * total.mean[None, :],
        cross=cross,
        mean=total.mean,
        target_mean=target_mean,
        target_covariance=target_covariance,
        count=total.count,
        patches_per_image=total.where.locations[0] * total.where.locations[1],
        kernel_shape=(*total.where.kernel_size, total.channels),
        stride=total.where.stride,
        padding=total.where.padding,
    )
    return as_results(moments)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanPatchCovariances:
    """Of images' mean patches and targets, all about their means and normalised by the
    number of images; `rounding` is what it may leave of a variance of mean patches that
    is zero."""

    mean: Array
    target_mean: Array
    patches: Array
    cross: Array
    targets: Array
    rounding: Array
    count: int = field(metadata={"static": True})
    where: Window = field(metadata={"static": True})
    channels: int = field(metadata={"static": True})


def mean_patch_covariances(
    images: Any,
    targets: Any,
    geometry: tuple[Any, Any, Padding],
    mesh: Mesh | None = None,
) -> MeanPatchCovariances:
    """Covariances of the mean patches with themselves and with targets (N, M);
    arguments as in `mean_patch_moments`."""
    return accumulate(
        _MEAN_PATCHES,
        None,
        images,
        targets,
        geometry,
        lambda result, *taken: MeanPatchCovariances(*result, *taken),
        mesh=mesh,
    )


def checked_targets(images: Any, targets: Any) -> tuple[bool, Any]:
    """Whether there is one output without an axis of its own, and the targets as (N,
    M)."""
    shape = np.shape(targets)
    count = images.shape[0] if hasattr(images, "shape") and len(images.shape) else None
    if (
        len(shape) not in (1, 2)
        or 0 in shape
        or (count is not None and shape[0] != count)
    ):
        expected = (
            "the number of images" if count is None else f"{count} as the images have"
        )
        raise ValueError(
            f"targets must have shape (N,) or (N, M) with N = {expected}, got {shape}."
        )
    check_finite("targets", targets)
    values = jnp.asarray(targets) if is_traced(images, targets) else np.asarray(targets)
    if not is_traced(values):
        check_squares("targets", np.asarray(values, np.float64))
    return len(shape) == 1, values.reshape(shape[0], -1)


def _mean_patch_sums(images: Any, targets: Any, where: Window, settings: None) -> Any:
    p = patch_sums(images, where) / (where.locations[0] * where.locations[1])
    return (
        p.sum(axis=0),
        targets.sum(axis=0),
        matmul(p.T, p),
        matmul(p.T, targets),
        matmul(targets.T, targets),
    )


def _finish_mean_patches(
    sums: Any,
    count: Any,
    origin: Any,
    target_origin: Any,
    where: Window,
    settings: None,
) -> tuple[Any, ...]:
    patch, target, second, cross, target_second = (total / count for total in sums)
    covariance = second - patch[:, None] * patch[None, :]
    mean = patch + repeated(origin, where)
    # Of the sum over the images, four times what many equal images showed; and of the
    # sum within each.
    xp = namespace(patch)
    eps = xp.finfo(patch.dtype).eps
    rounding = 4 * eps * (patch.shape[0] + count**0.5) * xp.trace(second)
    rounding = rounding + (64 * eps) ** 2 * (mean**2).sum()
    return (
        mean,
        target + target_origin,
        (covariance + covariance.T) / 2,
        cross - patch[:, None] * target[None, :],
        target_second - target[:, None] * target[None, :],
        rounding,
    )


_MEAN_PATCHES = Statistic(_mean_patch_sums, _finish_mean_patches)
