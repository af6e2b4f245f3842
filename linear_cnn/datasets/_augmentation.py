"""Changes of images that leave what they show."""

import jax
import jax.numpy as jnp
from jax import lax


def random_crop_and_flip(
    key: jax.Array, images: jax.Array, *, padding: int = 4
) -> jax.Array:
    """The usual augmentation of small photographs: each image shifted by up to
    `padding` pixels in both directions, zeros moving in, and mirrored left to right in
    half of all cases.

    Args:
      key: of the shifts and the mirroring.
      images: (N, H, W, C).
      padding: pixels.

    Returns:
      images of the same shape and type.

    Examples:
      >>> import jax
      >>> import linear_cnn
      >>> images = jax.numpy.ones((5, 8, 8, 3))
      >>> changed = linear_cnn.random_crop_and_flip(jax.random.key(0), images)
      >>> changed.shape, bool(changed.sum() < images.sum())
      ((5, 8, 8, 3), True)
    """
    count = images.shape[0]
    shift_key, flip_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (count, 2), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(flip_key, shape=(count,))
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    framed = jnp.pad(images, frame)

    def one(image: jax.Array, shift: jax.Array, mirror: jax.Array) -> jax.Array:
        start = (shift[0], shift[1], jnp.zeros_like(shift[0]))
        cropped = lax.dynamic_slice(image, start, images.shape[1:])
        return jnp.where(mirror, cropped[:, ::-1], cropped)

    return jax.vmap(one)(framed, shifts, mirrored)
