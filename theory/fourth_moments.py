"""Fourth moments of the images' mean patches and targets: what the noise of minibatches
on a linear CNN depends on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from theory._checks import check_images, check_squares
from theory._precision import Array, as_results, concrete, matmul
from theory.batch_sums import Statistic
from theory.mean_patches import checked_targets
from theory.moments import check_same_patches, weighted_mean
from theory.patches import Padding, Window, patch_sums
from theory.streaming import Images, accumulate
from theory.symmetric_products import pair_products, unpack

LARGEST_SIZE = 48


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanPatchFourthMoments:
    r"""All that gradient descent in minibatches on a linear CNN of one output sees of
    its data, up to second moments of the filters; `a + b` are those of both sets of
    images.

    Means over the images of products of the mean patch p, (d,), and the target y. The s
    are the D = d (d + 1) / 2 products of two entries of p: :math:`p_i^2` and
    :math:`\sqrt2 p_i p_j` for i < j, in the order of `numpy.triu_indices`.

    Attributes:
      second: A, the mean of p p^T, (d, d), never centred.
      cross: b, that of p y, (d,).
      fourth: that of s s^T, (D, D).
      fourth_cross: that of s p^T y, (D, d).
      fourth_target: that of s y^2, (D,).
      count: N, the number of images.
      patches_per_image: J.
      kernel_shape, stride, padding: as in `PatchSpectrum`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(10, 8, 8, 1)), random.normal(size=10)
      >>> whole = theory.mean_patch_fourth_moments(images, targets, 3)
      >>> whole.second.shape, whole.fourth.shape, whole.fourth_cross.shape
      ((9, 9), (45, 45), (45, 9))
      >>> first = theory.mean_patch_fourth_moments(images[:4], targets[:4], 3)
      >>> total = first + theory.mean_patch_fourth_moments(images[4:], targets[4:], 3)
      >>> np.allclose(total.fourth, whole.fourth)
      True
    """

    second: Array
    cross: Array
    fourth: Array
    fourth_cross: Array
    fourth_target: Array
    count: int = field(metadata={"static": True})
    patches_per_image: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})

    def __add__(self, other: "MeanPatchFourthMoments") -> "MeanPatchFourthMoments":
        check_same_patches(
            self, other, "patches_per_image", "kernel_shape", "stride", "padding"
        )
        means = ("second", "cross", "fourth", "fourth_cross", "fourth_target")
        return replace(
            self,
            **weighted_mean(self, other, *means),
            count=self.count + other.count,
        )


def mean_patch_fourth_moments(
    images: Images,
    targets: ArrayLike,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    mesh: Mesh | None = None,
) -> MeanPatchFourthMoments:
    r"""Fourth moments of the images' mean patches and their targets, for
    `stochastic_descent` (ours, docs/derivations.md, section 21).

    Args:
      images: as in `patch_moments`: an array (N, H, W, C), or an iterable of such
        arrays.
      targets: (N,), real numbers, of all images.
      kernel_size, stride, padding: of the convolution, as in `patch_spectrum`. A kernel
        has at most 48 weights, d = kh * kw * C: `fourth` takes d^4 / 4 numbers, and its
        time grows as that times N.
      mesh: as in `patch_moments`.

    Returns:
      the moments, in float64 under the same rule as `patch_moments`.

    Raises:
      TypeError, ValueError: as `patch_moments`; a kernel that is too large; targets of
        the wrong rank or length, with NaN, or whose squares are too small or large for
        a float; images whose fourth moments are that.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> random = np.random.default_rng(0)
      >>> images, targets = random.normal(size=(10, 8, 8, 2)), random.normal(size=10)
      >>> moments = theory.mean_patch_fourth_moments(images, targets, 1)

      Of a kernel of one pixel, the mean patch is the mean colour of the image:

      >>> red, green = images.mean(axis=(1, 2)).T
      >>> np.allclose(moments.fourth[0], [
      ...     np.mean(red**4), np.sqrt(2) * np.mean(red**3 * green),
      ...     np.mean(red**2 * green**2)])
      True
    """
    if hasattr(images, "shape"):
        check_images(images)
    one_output, y = checked_targets(images, targets)
    if not one_output:
        raise ValueError(
            f"targets must have shape (N,), one output, got {np.shape(targets)}; take"
            " the moments of one column at a time."
        )

    def build(
        result: Any, count: int, where: Window, channels: int
    ) -> MeanPatchFourthMoments:
        second, cross, fourth, fourth_cross, fourth_target = result
        return MeanPatchFourthMoments(
            second=second,
            cross=cross,
            fourth=fourth,
            fourth_cross=fourth_cross,
            fourth_target=fourth_target,
            count=count,
            patches_per_image=where.locations[0] * where.locations[1],
            kernel_shape=(*where.kernel_size, channels),
            stride=where.stride,
            padding=where.padding,
        )

    moments = accumulate(
        _FOURTH,
        None,
        images,
        y,
        (kernel_size, stride, padding),
        build,
        _check_size,
        origin=np.zeros(1),  # no moment is centred
        mesh=mesh,
    )
    if concrete(moments.second) is not None:
        check_squares("the images' second moment", moments.second)
    return as_results(moments)


def _check_size(where: Window, channels: int) -> None:
    d = where.kernel_size[0] * where.kernel_size[1] * channels
    if d > LARGEST_SIZE:
        products = d * (d + 1) // 2
        raise ValueError(
            f"kernels of {d} weights have {products} products of two weights, and"
            f" their fourth moments take {8 * products**2 / 1e6:,.0f} MB, their"
            f" decomposition several times that; at most {LARGEST_SIZE} weights are"
            " taken. Use a smaller kernel, or images of fewer channels."
        )


def _fourth_sums(images: Any, targets: Any, where: Window, settings: None) -> Any:
    p = patch_sums(images, where) / (where.locations[0] * where.locations[1])
    s = pair_products(p)
    return (
        p.sum(axis=0),
        matmul(p.T, targets)[:, 0],
        s.sum(axis=0),
        matmul(s.T, targets)[:, 0],
        matmul(s.T, targets**2)[:, 0],
        matmul(s.T, p),
        matmul(s.T, p * targets),
        matmul(s.T, s),
    )


def _finish_fourth(
    sums: Any,
    count: Any,
    origin: Any,
    target_origin: Any,
    where: Window,
    settings: None,
) -> tuple[Any, ...]:
    p, py, s, sy, syy, sp, spy, ss = (total / count for total in sums)
    y = target_origin[0]  # what the targets were taken about
    return (
        unpack(s, p.shape[0]),
        py + y * p,
        (ss + ss.T) / 2,
        spy + y * sp,
        syy + 2 * y * sy + y**2 * s,
    )


_FOURTH = Statistic(_fourth_sums, _finish_fourth)
