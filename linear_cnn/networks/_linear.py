"""The linear CNN of the theory."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from linear_cnn._checks import check_rngs, integer, pair, renamed
from linear_cnn.networks._convolution import Convolution, patch_convolution


class Fixed(nnx.Variable):
    """An array of a network that training leaves alone."""


class LinearCNN(nnx.Module):
    r"""Convolution without bias, global average pool, head: the linear CNN of the
    paper, section 4, whose head is fixed.

    .. math:: f(x) = a^T \frac1J \sum_j W^T p_j(x)

    Or with a dense read-out, which has fixed weights of their own for each location, as
    the layers above the first one of a deep network have (ours; docs/derivations.md,
    section 18):

    .. math:: f_m(x) = \sum_k \sum_j a_{kjm} w_k^T p_j(x)

    Only the convolution is trained, unless `train_head` says that both layers are. All
    products run at the highest precision on every backend.

    Attributes:
      conv1: the convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        features).
      head: a, (features, M), trained (`flax.nnx.Param`) or not; of a dense read-out
        (features, J, M), with the locations row by row.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.LinearCNN(3, 4, kernel_size=5, rngs=nnx.Rngs(0))
      >>> network.conv1.kernel.shape
      (5, 5, 3, 4)
      >>> images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
      >>> network(images).shape
      (2, 1)
      >>> bool(jax.numpy.allclose(network(2 * images), 2 * network(images)))
      True
      >>> dense = linear_cnn.LinearCNN(
      ...     3, 4, read_out="dense", image_size=8, outputs=2, rngs=nnx.Rngs(0)
      ... )
      >>> dense.head.shape, dense(images).shape
      ((4, 36, 2), (2, 2))
      >>> both = linear_cnn.LinearCNN(3, 4, train_head=True, rngs=nnx.Rngs(0))
      >>> sorted(nnx.as_pure(nnx.state(both, nnx.Param)))
      ['conv1', 'head']
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int | tuple[int, int]] = "VALID",
        head: ArrayLike | Sequence[float] | Sequence[Sequence[float]] | None = None,
        read_out: str = "mean",
        image_size: int | Sequence[int] | None = None,
        outputs: int | None = None,
        train_head: bool = False,
        init_std: float = 1e-3,
        dtype: DTypeLike = jnp.float32,
        conv_general_dilated: Convolution = patch_convolution,
        strides: int | Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the filters.

        Args:
          in_features: C, channels of the images.
          features: K, number of filters.
          kernel_size: kh = kw, or (kh, kw).
          stride, padding: of the convolution, as `flax.nnx.Conv` takes strides and
            padding.
          head: a, (K,) or (K, M); all ones, one output, if None (the paper's choice).
            Of a dense read-out (K, J) or (K, J, M); if None independent Gaussian
            weights of variance 1 / J, drawn after the filters, so other ones for every
            seed.
          read_out: "mean" over the locations, or "dense".
          image_size, outputs: H = W or (H, W), and M, 1 if None: of a dense head that
            is drawn.
          init_std: standard deviation of the independent Gaussian weights.
          dtype: of the filters, the head and the computation; images are converted to
            it.
          conv_general_dilated: how to convolve: `patch_convolution`, fast under
            `jax.vmap` over seeds, or `jax.lax.conv_general_dilated`, which needs less
            memory for large images (and `train(..., fast_convolutions=False)`).
          strides: the old name of `stride`; warns.
          rngs: source of the initial filters and of a drawn head.

        Raises:
          ValueError: a head of the wrong shape, not finite, or of zeros that are not
            trained; a negative init_std; malformed kernel_size or stride; an unknown
            read-out; image_size and outputs where no head is drawn, or no image_size
            where one is.
        """
        check_rngs(rngs)
        stride = renamed("strides", strides, "stride", stride)
        _check_read_out(read_out, head, image_size, outputs)
        drawn = read_out == "dense" and head is None
        if not drawn:
            a = _checked_head(
                jnp.ones(features) if head is None else head,
                features,
                read_out,
                dtype,
                or_zero=train_head,
            )
        if not 0 <= init_std < np.inf:
            raise ValueError(f"init_std must be finite and >= 0, got {init_std}.")
        self.conv1 = nnx.Conv(
            in_features,
            features,
            pair("kernel_size", kernel_size),
            strides=pair("stride", stride),
            padding=padding,
            use_bias=False,
            kernel_init=nnx.initializers.normal(init_std),
            dtype=dtype,
            param_dtype=dtype,
            precision=lax.Precision.HIGHEST,
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )
        if drawn:
            a = self._drawn_head(
                image_size, 1 if outputs is None else outputs, dtype, rngs
            )
        self.head = nnx.Param(a) if train_head else Fixed(a)

    def _drawn_head(
        self, image_size: Any, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> jax.Array:
        shape = (1, *pair("image_size", image_size), self.conv1.in_features)
        images = jax.ShapeDtypeStruct(shape, dtype)
        locations = math.prod(jax.eval_shape(self.conv1, images).shape[1:3])
        if locations == 0:
            raise ValueError(
                f"image_size {shape[1:3]} is smaller than the kernel, padding included."
            )
        count = integer("outputs", outputs, minimum=1)
        a = jax.random.normal(
            rngs.params(), (self.conv1.out_features, locations, count), dtype
        )
        return a / math.sqrt(locations)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> outputs (N, M).

        Raises:
          ValueError: images of another rank, with other channels than the filters, or
            smaller than these; of other locations than a dense head has.
        """
        if images.ndim != 4 or images.shape[-1] != self.conv1.in_features:
            raise ValueError(
                f"images must have shape (N, H, W, {self.conv1.in_features}), got"
                f" {images.shape}."
            )
        responses, head = self.conv1(images), self.head[...]
        if 0 in responses.shape[1:3]:  # their mean would be NaN
            raise ValueError(
                f"images of shape {images.shape} are smaller than the kernel, padding"
                " included."
            )
        if head.ndim == 2:
            read, weights = responses.mean(axis=(1, 2)), head
        else:
            locations = math.prod(responses.shape[1:3])
            if locations != head.shape[1]:
                raise ValueError(
                    f"images of shape {images.shape} have {locations} locations, but"
                    f" the dense head {head.shape[1]}; give the network the images'"
                    " image_size or a head for them."
                )
            read = responses.reshape(len(images), -1)
            weights = head.swapaxes(0, 1).reshape(-1, head.shape[2])
        return jnp.matmul(read, weights, precision=lax.Precision.HIGHEST)


def _check_read_out(read_out: str, head: Any, image_size: Any, outputs: Any) -> None:
    if read_out not in ("mean", "dense"):
        raise ValueError(f"read_out must be 'mean' or 'dense', got {read_out!r}.")
    drawn = read_out == "dense" and head is None
    if drawn and image_size is None:
        raise ValueError(
            "read_out='dense' needs image_size, e.g. images.shape[1:3], to draw a head"
            " for all locations; or a head (K, J, M)."
        )
    if not drawn and (image_size is not None or outputs is not None):
        raise ValueError(
            f"image_size={image_size} and outputs={outputs} are of a drawn head,"
            " of read_out='dense' with head=None; leave them out."
        )


def _checked_head(
    head: Any, features: int, read_out: str, dtype: DTypeLike, *, or_zero: bool
) -> jax.Array:
    """The head with an axis of outputs."""
    a = jnp.asarray(head, dtype)
    axes, wanted = (
        (1, f"({features},) or ({features}, M)")
        if read_out == "mean"
        else (2, f"({features}, J) or ({features}, J, M)")
    )
    if a.ndim not in (axes, axes + 1) or a.shape[0] != features or 0 in a.shape:
        raise ValueError(
            f"head must have shape {wanted}, one row a filter, got {a.shape}."
        )
    if not isinstance(head, jax.core.Tracer) and not (
        np.isfinite(np.asarray(head)).all() and (or_zero or np.asarray(head).any())
    ):
        zeros = (
            "" if or_zero else " and not all zeros, or no gradient reaches the filters"
        )
        raise ValueError(f"head must be finite{zeros}.")
    return a.reshape(*a.shape[:axes], -1)
