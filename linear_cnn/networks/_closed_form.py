"""First layers made from a closed form."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linear_cnn._checks import check_finite

SCALES = ("he", "unit")


def closed_form_init(
    components: ArrayLike,
    profile: ArrayLike,
    *,
    signs: bool = True,
    scale: Literal["he", "unit"] | float = "he",
) -> Callable[..., jax.Array]:
    r"""An initialiser that makes a kernel's filters from a closed form: each component
    with the weight that a profile gives it.

    .. math:: w_k = c\, e_i u_i, \qquad w_{p + k} = -c\, e_i u_i

    The filters are e_1 u_1 to e_p u_p, in this order, then their negatives, since a
    ReLU passes one sign only. A kernel of fewer filters has the first of this list; one
    of more has the list again from its beginning, copies which only the layers above
    tell apart. Nothing is random: the key that an initialiser is given is not used.

    Ours. `theory` has the profiles: `whitening_profile`, with an epsilon or without,
    `iteration_profile` at a time, or all ones for the principal components themselves.

    Args:
      components: orthonormal vectors u_i as columns, (d, p) with d = kh*kw*C in the
        order of Flax's kernels (kh, kw, C), e.g. `theory.PatchSpectrum.components`.
      profile: e, (p,).
      signs: whether the negatives follow; if not, the list is e_1 u_1 to e_p u_p alone.
      scale: of the whole bank, c. "he": the root mean square weight is that of He's
        initialisation by fan-out, sqrt(2 / (kh*kw*K)), from which the networks here
        draw theirs; so the squares of all weights have the sum that is expected of it.
        A number: this root mean square weight. "unit": c = 1, filters in the units of
        the profile; that of whitening then gives responses of variance 1.

    Returns:
      initialiser (key, shape, dtype) -> kernel (kh, kw, C, K), as `flax.nnx.Conv` takes
      it for `kernel_init`. It raises ValueError for a shape whose kh*kw*C is not d, or
      one of so few filters that their weights in the profile are all 0.

    Raises:
      TypeError, ValueError: shapes that do not belong together, components that are not
        orthonormal, a profile that is not finite or all zeros, an unknown scale. Values
        are not checked under tracing.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> import theory
      >>> from flax import nnx
      >>> images = linear_cnn.photographs().images
      >>> spectrum = theory.patch_spectrum(images, kernel_size=3)
      >>> whitening = theory.whitening_profile(spectrum.variance, epsilon=0.01)
      >>> first = linear_cnn.closed_form_init(spectrum.components, whitening)

      In a convolution, or in a network after it was made:

      >>> conv = nnx.Conv(3, 54, (3, 3), kernel_init=first, rngs=nnx.Rngs(0))
      >>> def init(key):
      ...     network = linear_cnn.SmallCNN(features=(54, 16), rngs=nnx.Rngs(key))
      ...     kernel = network.conv1.kernel
      ...     kernel[...] = first(key, kernel.shape, kernel.dtype)
      ...     return network
      >>> network = init(jax.random.key(0))
      >>> bool((network.conv1.kernel == conv.kernel).all())
      True
    """
    _check_arrays(components, profile)
    _check_scale(scale)

    def init(
        key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
    ) -> jax.Array:
        _check_kernel_shape(shape, np.shape(components)[0])
        filters = shape[-1]
        _check_weight(profile, filters)
        working = np.promote_types(dtype, np.float32)
        bank = jnp.asarray(components, working) * jnp.asarray(profile, working)[None]
        if signs:
            bank = jnp.concatenate([bank, -bank], axis=1)
        bank = bank[:, np.arange(filters) % bank.shape[1]]
        if scale != "unit":
            he = math.sqrt(2 / (math.prod(shape[:2]) * filters))
            wanted = he if scale == "he" else scale
            largest = jnp.abs(bank).max()
            bank = bank / largest  # or squares may overflow
            bank = bank * (wanted / jnp.sqrt(jnp.mean(bank**2)))
        return bank.reshape(shape).astype(dtype)

    return init


def _check_arrays(components: Any, profile: Any) -> None:
    for name, value in (("components", components), ("profile", profile)):
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
        if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
            found = type(value).__name__ if np.dtype(dtype).hasobject else dtype
            raise TypeError(
                f"{name} must be real numbers, got {found}; of a spectrum pass its"
                " .components, and a profile of its .variance."
            )
        check_finite(name, value)
    shape = np.shape(components)
    if len(shape) != 2 or np.shape(profile) != shape[1:] or 0 in shape:
        raise ValueError(
            "components must have shape (d, p), one a column, and profile shape (p,),"
            f" got {shape} and {np.shape(profile)}; take both from one spectrum, e.g."
            " theory.patch_spectrum(images, kernel_size=3)."
        )
    if not isinstance(profile, jax.core.Tracer) and not np.any(np.asarray(profile)):
        raise ValueError(
            "profile must not be all zeros, or no image passes the filters."
        )
    if not isinstance(components, jax.core.Tracer):
        u = np.asarray(components, np.float64)
        error = np.abs(u.T @ u - np.eye(shape[1])).max()
        if error > 1e-3:
            raise ValueError(
                "components must be orthonormal columns, but their products differ from"
                f" 0 and 1 by up to {error:.3g}; take them from a spectrum, and give"
                " their sizes as the profile."
            )


def _check_weight(profile: Any, filters: int) -> None:
    """Raise if the first filters have no weight, so that no scale makes them more."""
    if isinstance(profile, jax.core.Tracer) or np.any(np.asarray(profile)[:filters]):
        return
    raise ValueError(
        f"profile is 0 for the first {filters} components, of which a kernel of"
        f" {filters} filters is made; order components and profile by weight, or take"
        " more filters."
    )


def _check_scale(scale: Any) -> None:
    number = not isinstance(scale, bool | str) and np.ndim(scale) == 0
    if isinstance(scale, str):
        sound = scale in SCALES
    else:
        sound = number and bool(0 < scale < np.inf)
    if not sound:
        raise ValueError(
            "scale must be 'he', 'unit' or a positive root mean square weight, got"
            f" {scale!r}."
        )


def _check_kernel_shape(shape: Any, d: int) -> None:
    """Raise unless a kernel has filters of d weights."""
    if len(shape) != 4:
        raise ValueError(
            "closed_form_init makes kernels of two-dimensional convolutions,"
            f" (kh, kw, C, K), got the shape {tuple(shape)}."
        )
    kh, kw, channels, _ = shape
    if kh * kw * channels != d:
        raise ValueError(
            f"the components are of patches of {d} values, but a kernel of shape"
            f" {tuple(shape)} has filters of {kh} x {kw} x {channels} ="
            f" {kh * kw * channels}; take them from images of {channels} channels,"
            f" theory.patch_spectrum(images, kernel_size=({kh}, {kw})), or give the"
            " layer the size and channels of their patches."
        )
