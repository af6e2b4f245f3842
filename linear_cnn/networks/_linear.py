"""Networks, and the one place that says where a network's first layer is."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from linear_cnn._checks import check_rngs, pair
from linear_cnn.networks._convolution import Convolution, patch_convolution


class Fixed(nnx.Variable):
    """An array of a network that training leaves alone."""


class LinearCNN(nnx.Module):
    r"""Convolution without bias, global average pool, fixed head: the linear CNN of the
    paper, section 4.

    .. math:: f(x) = a^T \frac1J \sum_j W^T p_j(x)

    Only the convolution is trained. All products run at the highest precision on every
    backend.

    Attributes:
      conv1: the convolution, `flax.nnx.Conv`; its kernel is (kh, kw, in_features,
        features).
      head: a, (features, M), not trained.

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
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        strides: int | Sequence[int] = 1,
        padding: str | int | Sequence[int | tuple[int, int]] = "VALID",
        head: ArrayLike | Sequence[float] | Sequence[Sequence[float]] | None = None,
        init_std: float = 1e-3,
        dtype: DTypeLike = jnp.float32,
        conv_general_dilated: Convolution = patch_convolution,
        rngs: nnx.Rngs,
    ) -> None:
        """Draw the filters.

        Args:
          in_features: C, channels of the images.
          features: K, number of filters.
          kernel_size: kh = kw, or (kh, kw).
          strides, padding: of the convolution, as `flax.nnx.Conv` takes them.
          head: a, (K,) or (K, M); all ones, one output, if None (the paper's choice).
          init_std: standard deviation of the independent Gaussian weights.
          dtype: of the filters, the head and the computation; images are converted to
            it.
          conv_general_dilated: how to convolve: `patch_convolution`, fast under
            `jax.vmap` over seeds, or `jax.lax.conv_general_dilated`, which needs less
            memory for large images.
          rngs: source of the initial filters.

        Raises:
          ValueError: a head of the wrong shape, of zeros, or not finite; a negative
            init_std; malformed kernel_size or strides.
        """
        check_rngs(rngs)
        a = jnp.ones(features, dtype) if head is None else jnp.asarray(head, dtype)
        if a.ndim not in (1, 2) or a.shape[0] != features or 0 in a.shape:
            raise ValueError(
                f"head must have shape ({features},) or ({features}, M), one row a"
                f" filter, got {a.shape}."
            )
        if not isinstance(head, jax.core.Tracer | None) and not (
            np.isfinite(np.asarray(head)).all() and np.asarray(head).any()
        ):
            raise ValueError(
                "head must be finite and not all zeros, or no gradient reaches the"
                " filters."
            )
        if not 0 <= init_std < np.inf:
            raise ValueError(f"init_std must be finite and >= 0, got {init_std}.")
        self.conv1 = nnx.Conv(
            in_features,
            features,
            pair("kernel_size", kernel_size),
            strides=pair("strides", strides),
            padding=padding,
            use_bias=False,
            kernel_init=nnx.initializers.normal(init_std),
            dtype=dtype,
            param_dtype=dtype,
            precision=lax.Precision.HIGHEST,
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )
        self.head = Fixed(a.reshape(features, -1))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) -> outputs (N, M).

        Raises:
          ValueError: images of another rank, with other channels than the filters, or
            smaller than these.
        """
        if images.ndim != 4 or images.shape[-1] != self.conv1.in_features:
            raise ValueError(
                f"images must have shape (N, H, W, {self.conv1.in_features}), got"
                f" {images.shape}."
            )
        responses = self.conv1(images)
        if 0 in responses.shape[1:3]:  # their mean would be NaN
            raise ValueError(
                f"images of shape {images.shape} are smaller than the kernel, padding"
                " included."
            )
        return jnp.matmul(
            responses.mean(axis=(1, 2)), self.head[...], precision=lax.Precision.HIGHEST
        )


def first_kernel(parameters: Mapping[str, Mapping[str, jax.Array]]) -> jax.Array:
    """The first layer's kernel, (kh, kw, C, K), among the parameters of a network.

    Every network names its first convolution `conv1`.

    Args:
      parameters: plain arrays by the names of the layers, as
        `nnx.as_pure(nnx.state(network, nnx.Param))` gives them.

    Raises:
      ValueError: it has no such layer.

    Examples:
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.LinearCNN(3, 4, rngs=nnx.Rngs(0))
      >>> parameters = nnx.as_pure(nnx.state(network, nnx.Param))
      >>> linear_cnn.first_kernel(parameters).shape
      (3, 3, 3, 4)
    """
    if "conv1" not in parameters or "kernel" not in parameters["conv1"]:
        parts = sorted(map(str, parameters))
        found = (
            "its `conv1` has no kernel; make that the convolution itself"
            if "conv1" in parts
            else f"it has {parts}"
        )
        raise ValueError(
            "the network needs an attribute `conv1`, its first convolution, for its"
            f" trajectory to be recorded; {found}."
        )
    return parameters["conv1"]["kernel"]
