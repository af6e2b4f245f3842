"""Second moments of patches, and the spectrum: what the closed forms start from.

Moments of parts of the images add up (`a + b`) to those of all of them, so that any map
and reduce can drive them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from theory._checks import check_mesh
from theory._precision import (
    Array,
    as_results,
    float64_now,
    is_traced,
    namespace,
    without_rounding,
)
from theory.batch_sums import Statistic
from theory.pair_sums import assemble_pair_sums, pair_sums
from theory.patches import Padding, Window, patch_sums, window
from theory.streaming import Images, accumulate, iterated


def weighted_mean(a: Any, b: Any, *names: str) -> dict[str, Any]:
    """The means of two samples, `a.count` and `b.count` large, as those of all of
    them."""
    share = b.count / (a.count + b.count)
    return {
        name: (1 - share) * getattr(a, name) + share * getattr(b, name)
        for name in names
    }


def check_same_patches(a: Any, b: Any, *names: str) -> None:
    """Raise ValueError unless two moments, to be added, were taken in the same way."""
    if type(a) is not type(b):
        raise TypeError(
            f"only moments of one kind can be added, got {type(a).__name__} and"
            f" {type(b).__name__}."
        )
    for name in names:
        if getattr(a, name) != getattr(b, name):
            raise ValueError(
                f"moments of different {name} cannot be added: {getattr(a, name)} and"
                f" {getattr(b, name)}."
            )


def repeated(origin: Any, where: Window) -> Any:
    """One number a channel -> a patch that is constant in each channel, (d,)."""
    return namespace(origin).tile(origin, where.kernel_size[0] * where.kernel_size[1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchSpectrum:
    """Principal components of image patches, and how they were taken (paper, Definition
    2.1).

    Attributes:
      variance: lambda_i^2, (d,), descending, in squared units of the images.
      components: the PCA vectors u_i as orthonormal columns, (d, d), rows in the order
        (kh, kw, C).
      mean: the mean patch, (d,); computed, but not subtracted, when `centered` is
        False.
      count: number of patches, N*J.
      kernel_shape: (kh, kw, C).
      stride, padding: of the patches; padding in pixels, ((top, bottom), (left,
        right)).
      centered: whether the second moment was taken about the mean patch or about zero.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> grey = np.random.default_rng(0).normal(size=(10, 4, 4, 1))
      >>> images = np.repeat(grey, 2, axis=-1)  # two channels that are equal
      >>> spectrum = theory.patch_spectrum(images, 1)
      >>> print(np.allclose(spectrum.variance[0], 2 * grey.var()), spectrum.variance[1])
      True 0.0
      >>> print(spectrum.components[:, 0].round(3))
      [0.707 0.707]
    """

    variance: Array
    components: Array
    mean: Array
    count: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})
    centered: bool = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchMoments:
    """First and second moments of all patches of some images; `a + b` are those of both
    sets of images.

    `functools.reduce(operator.add, parts)` adds up many. Adding them costs the rounding
    of the means: eps times a mean that is much larger than the standard deviation.

    Attributes:
      mean: the mean patch, (d,).
      covariance: of the patches, about their mean, (d, d), normalised by their number.
      count: number of patches, N*J.
      kernel_shape, stride, padding: as in `PatchSpectrum`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 3))
      >>> whole = theory.patch_moments(images, 3)
      >>> whole.covariance.shape, whole.count
      ((27, 27), 360)
      >>> first = theory.patch_moments(images[:4], 3)
      >>> total = first + theory.patch_moments(images[4:], 3)
      >>> total.count, np.allclose(total.covariance, whole.covariance)
      (360, True)
    """

    mean: Array
    covariance: Array
    count: int = field(metadata={"static": True})
    kernel_shape: tuple[int, int, int] = field(metadata={"static": True})
    stride: tuple[int, int] = field(metadata={"static": True})
    padding: tuple[tuple[int, int], tuple[int, int]] = field(metadata={"static": True})

    def __add__(self, other: "PatchMoments") -> "PatchMoments":
        check_same_patches(self, other, "kernel_shape", "stride", "padding")
        count = self.count + other.count
        gap = other.mean - self.mean
        means = weighted_mean(self, other, "mean", "covariance")
        between = (
            (self.count / count) * (other.count / count) * (gap[:, None] * gap[None, :])
        )
        covariance = means["covariance"] + between
        return PatchMoments(
            means["mean"],
            covariance,
            count,
            self.kernel_shape,
            self.stride,
            self.padding,
        )

    def spectrum(self, *, center: bool = True) -> PatchSpectrum:
        """Eigenvalues and eigenvectors of the second moment, about the mean patch or
        about zero.

        Each u_i has its entry of largest magnitude positive. Variances below rounding
        (d * eps * the largest) are 0.
        """
        variance, components = _eigenvectors(self.mean, self.covariance, bool(center))
        if isinstance(self.mean, jax.Array):
            with float64_now():
                variance, components = jnp.asarray(variance), jnp.asarray(components)
        return PatchSpectrum(
            variance,
            components,
            self.mean,
            self.count,
            self.kernel_shape,
            self.stride,
            self.padding,
            bool(center),
        )


def _eigenvectors(mean: Any, covariance: Any, center: bool) -> tuple[Array, Array]:
    # NumPy where it can be, since nothing needs to be compiled for it.
    if not is_traced(mean, covariance):
        mean, covariance = np.asarray(mean), np.asarray(covariance)
    xp = namespace(mean, covariance)
    variance, components = xp.linalg.eigh(
        covariance if center else covariance + mean[:, None] * mean[None, :]
    )
    variance, components = variance[::-1], components[:, ::-1]
    largest = xp.argmax(xp.abs(components), axis=0)
    return without_rounding(variance), components * xp.sign(
        xp.take_along_axis(components, largest[None], axis=0)
    )


def patch_moments(
    images: Images,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    mesh: Mesh | None = None,
) -> PatchMoments:
    r"""Mean and covariance of all patches of all images, in memory that does not grow
    with their number.

    .. math:: \bar p = \frac{1}{NJ} \sum_{n,j} p_{n,j}, \qquad
       \Sigma = \frac{1}{NJ} \sum_{n,j} (p_{n,j} - \bar p) (p_{n,j} - \bar p)^T

    No patch is formed: entries of the covariance are products of image rows, summed
    over locations (ours; docs/derivations.md, section 9). Results of parts of the
    images can be added.

    Args:
      images: floating point, (N, H, W, C), channels last; on the host, on a device or
        sharded along N over several devices (each sums its own, collectives add them
        up); or an iterable of such arrays, like batches read from a disk. Their images
        may have different heights and widths: each patch then counts alike, whatever
        the size of its image. On an accelerator each size is compiled for.
      kernel_size: kh = kw, or (kh, kw).
      stride, padding: as of the convolution; padding "VALID", "SAME", "SAME_LOWER",
        pixels, or pairs of them.
      mesh: whose devices, along all of its axes, sum the images of the host, or of each
        batch, in equal parts, the last ones with fewer; those that are split along N
        over devices already stay there. By default the host sums where it is JAX's
        backend, and all accelerators of this process elsewhere. Of devices of several
        processes each process gives the same images, and has the same result.

    Returns:
      the moments, in float64 when called outside a JAX transformation (NumPy arrays if
      JAX's float64 is off) and in the images' dtype inside, where values are not
      checked.

    Raises:
      TypeError: images of integer dtype; a mesh that is none, or under a
        transformation. ValueError: wrong rank, NaN, no batch at all, a mesh that has a
        device twice, under a transformation images on explicit axes of a mesh,
        images of another number of channels or of another padding than the first (of
        "SAME" it depends on the size), or smaller than the kernel; of batches it says
        which image.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(10, 8, 8, 3))
      >>> moments = theory.patch_moments(images, 5, stride=2, padding="SAME")
      >>> moments.kernel_shape, moments.padding, moments.count
      ((5, 5, 3), ((1, 2), (1, 2)), 160)

      The same from batches, of which only one is in memory at a time:

      >>> batches = (images[start : start + 2] for start in range(0, 10, 2))
      >>> again = theory.patch_moments(batches, 5, stride=2, padding="SAME")
      >>> np.allclose(again.covariance, moments.covariance)
      True

      Images of different sizes, one a batch:

      >>> several = [images[:1], images[1:2, :6], images[2:3, :, :5]]
      >>> theory.patch_moments(several, 5).count  # 16 + 8 + 4 locations
      28
    """
    return accumulated_moments(images, (kernel_size, stride, padding), mesh=mesh)


def accumulated_moments(
    images: Images,
    geometry: tuple[Any, Any, Padding],
    check: Callable[[Window, int], None] = lambda where, channels: None,
    mesh: Mesh | None = None,
) -> PatchMoments:
    """`patch_moments` of a geometry (kernel_size, stride, padding); `check` as in
    `accumulate`."""
    check_mesh(mesh, images)

    def build(
        result: Any, count: int, where: Window, channels: int
    ) -> tuple[PatchMoments, Any]:
        patches = count * where.locations[0] * where.locations[1]
        deviation, covariance, origin = result
        shape = (*where.kernel_size, channels)
        moments = PatchMoments(
            deviation, covariance, patches, shape, where.stride, where.padding
        )
        return moments, origin

    # About one origin, so that adding them costs no digits.
    origin, total = None, None
    for group in _of_one_size(images, geometry):
        moments, origin = accumulate(
            _PATCHES,
            None,
            group,
            None,
            geometry,
            build,
            check,
            origin=origin,
            mesh=mesh,
        )
        total = moments if total is None else total + moments
    assert total is not None
    assert origin is not None
    kh, kw, _ = total.kernel_shape
    repeated_origin = namespace(origin).tile(origin, kh * kw)
    return as_results(replace(total, mean=total.mean + repeated_origin))


def _of_one_size(images: Any, geometry: tuple[Any, Any, Padding]) -> Iterator[Any]:
    """An array as it is; of batches those together that follow one another and have one
    height and width, each read when it is its turn.

    Raises:
      ValueError: an image that is smaller than the kernel, or has other channels or
        another padding than the first one; it says which.
    """
    nested = isinstance(images, (list, tuple)) and not all(
        hasattr(item, "shape") for item in images[:1]
    )
    if hasattr(images, "shape") or is_traced(images) or nested:
        yield images
        return

    first: tuple[int, Window] | None = None
    seen = 0

    def size(batch: Any) -> tuple[int, ...]:
        nonlocal first, seen
        shape = np.shape(batch)
        if len(shape) != 4:
            return shape  # which is refused where it is read
        try:
            where = window(shape, *geometry)
        except ValueError as error:
            raise ValueError(f"image {seen}: {error}") from error
        first = first or (shape[3], where)
        channels, expected = first
        if shape[3] != channels:
            raise ValueError(
                f"image {seen} has {shape[3]} channels, but image 0 has {channels};"
                " bring them to as many, or leave some out."
            )
        if where.padding != expected.padding:
            raise ValueError(
                f"image {seen} of {shape[1]}x{shape[2]} pixels is padded by"
                f" {where.padding}, but image 0 by {expected.padding}; of images of"
                " different sizes give the padding in pixels, not as"
                f" {geometry[2]!r}."
            )
        seen += shape[0]
        return shape[1:3]

    for _, group in itertools.groupby(iterated(images), size):
        yield group
    if not seen:
        yield ()  # which has an error of its own


def _patch_sums(images: Any, targets: Any, where: Window, settings: None) -> Any:
    return images.sum(axis=0), pair_sums(images, where, (0,))


def _finish_patches(
    sums: Any,
    count: Any,
    origin: Any,
    target_origin: Any,
    where: Window,
    settings: None,
) -> tuple[Any, Any, Any]:
    image, products = sums
    patches = count * (where.locations[0] * where.locations[1])
    deviation = patch_sums(image[None], where)[0] / patches
    second = assemble_pair_sums(products, where, (0,), image.shape[-1])[0] / patches
    covariance = second - deviation[:, None] * deviation[None, :]
    return deviation, (covariance + covariance.T) / 2, origin


_PATCHES = Statistic(_patch_sums, _finish_patches)


def patch_spectrum(
    images: Images,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    center: bool = True,
    mesh: Mesh | None = None,
) -> PatchSpectrum:
    r"""Eigenvalues and eigenvectors of the second moment of all patches.

    .. math::

       \Sigma = \frac{1}{NJ} \sum_{n,j} p_{n,j} p_{n,j}^T
         = U \operatorname{diag}(\lambda^2) U^T

    Paper, Definitions 2.1 and 4.1. The paper defines the PCA about zero, its authors'
    code subtracts the mean patch first; the latter is the default here (`center=True`).
    Each u_i has its entry of largest magnitude positive. The same as
    `patch_moments(...).spectrum(center=center)`.

    Args:
      images, kernel_size, stride, padding, mesh: as in `patch_moments`.
      center: subtract the mean patch (of all images and locations) before taking the
        second moment.

    Returns:
      the spectrum, in the precision of `patch_moments`. Variances below rounding (d *
      eps * the largest) are 0.

    Raises:
      TypeError, ValueError: as `patch_moments`.

    Examples:
      >>> import numpy as np
      >>> import theory
      >>> images = np.random.default_rng(0).normal(size=(50, 3, 3, 1))
      >>> spectrum = theory.patch_spectrum(images, 3)  # one patch an image
      >>> covariance = np.cov(images.reshape(50, 9).T, bias=True)
      >>> np.allclose(spectrum.variance, np.linalg.eigvalsh(covariance)[::-1])
      True
      >>> u = spectrum.components
      >>> np.allclose(u @ np.diag(spectrum.variance) @ u.T, covariance)
      True
    """
    moments = patch_moments(
        images, kernel_size, stride=stride, padding=padding, mesh=mesh
    )
    return moments.spectrum(center=center)
