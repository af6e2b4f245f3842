"""Convolution as a bilinear map that every transformation of JAX knows.

<cotangents, convolution of images with filters> is linear in each of the three. So the
convolution and its two gradients are the three maps of two of them to what the third is
multiplied by, and the transpose of each map, in either of its operands, is another. One
primitive has the three, and they are all that its derivatives of any order and mode are
made of: none is left to automatic differentiation, which makes slow ones.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from linear_cnn.networks import _products
from linear_cnn.networks._products import Settings

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# Of each map, by its result. Transposes are taken of the last operand first: there the
# gradient of images comes before that of filters.
_OPERANDS = {
    "responses": ("filters", "images"),
    "images": ("filters", "responses"),
    "filters": ("responses", "images"),
}
_map_p = Primitive("bilinear_convolution")


def convolve(
    images: jax.Array, filters: jax.Array, settings: Settings, by_xla: bool
) -> jax.Array:
    """Responses (N, H', W', K) of images (N, H, W, C) to filters (kh, kw, C, K) of one
    type; by XLA's convolution or by products of matrices, as under `jax.vmap` always.
    """
    # Inside `jax.shard_map` one may be the same on all devices, the other not.
    axes = [jax.typeof(values).mat.varying for values in (images, filters)]
    images, filters = (
        lax.pcast(values, tuple((axes[0] | axes[1]) - own), to="varying")
        for values, own in zip((images, filters), axes, strict=True)
    )
    responses: jax.Array = _map_p.bind(
        filters,
        images,
        to="responses",
        mapped=(),
        sizes=(images.shape[1:3], filters.shape[:2]),
        settings=settings,
        by_xla=by_xla,
    )
    return responses


@_map_p.def_impl
def _compute(
    *operands: jax.Array,
    to: str,
    mapped: tuple[tuple[bool, bool], ...],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    settings: Settings,
    by_xla: bool,
) -> jax.Array:
    """One of the maps.

    Args:
      operands: both, with leading axes of the `jax.vmap`s over them.
      to: the map's result, a key of `_OPERANDS`.
      mapped: of each `jax.vmap`, the innermost first: which operands it is over.
      sizes: height and width of images and of filters.
    """
    by = _by_xla if by_xla and not mapped else _by_products
    function = partial(by, to=to, sizes=sizes, settings=settings)
    for over in mapped:
        function = jax.vmap(function, tuple(0 if own else None for own in over))
    return function(*operands)


def _by_products(
    *operands: jax.Array, to: str, sizes: Any, settings: Settings
) -> jax.Array:
    given = dict(zip(_OPERANDS[to], operands, strict=True))
    if to == "responses":
        return _products.convolved(**given, settings=settings)
    if to == "images":
        return _products.image_gradient(**given, size=sizes[0], settings=settings)
    return _products.filter_gradient(**given, size=sizes[1], settings=settings)


def _by_xla(*operands: jax.Array, to: str, sizes: Any, settings: Settings) -> jax.Array:
    given = dict(zip(_OPERANDS[to], operands, strict=True))

    def responses(filters: jax.Array, images: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            images,
            filters,
            settings.strides,
            settings.pads,
            dimension_numbers=NHWC,
            precision=settings.precision,
            preferred_element_type=settings.preferred_element_type,
        )

    if to == "responses":
        return responses(**given)
    cotangents = given.pop("responses")
    ((name, other),) = given.items()
    shape = (
        (cotangents.shape[0], *sizes[0], other.shape[2])
        if to == "images"
        else (*sizes[1], other.shape[3], cotangents.shape[3])
    )
    wanted = jax.eval_shape(lambda other: jnp.zeros_like(other, shape=shape), other)
    transpose = jax.linear_transpose(
        lambda wanted: responses(**{name: other, to: wanted}), wanted
    )
    gradient: jax.Array = transpose(cotangents)[0]
    return gradient


@_map_p.def_abstract_eval
@lru_cache(maxsize=1024)  # each trace asks a few times
def _outline(*operands: Any, **parameters: Any) -> Any:
    return jax.make_jaxpr(partial(_compute, **parameters))(*operands).out_avals[0]


mlir.register_lowering(_map_p, mlir.lower_fun(_compute, multiple_results=False))


def _batch(
    operands: tuple[jax.Array, jax.Array],
    axes: tuple[int | None, int | None],
    *,
    mapped: Any,
    **parameters: Any,
) -> tuple[jax.Array, int]:
    moved = (
        jnp.moveaxis(values, axis, 0) if axis else values
        for values, axis in zip(operands, axes, strict=True)
    )
    over = tuple(axis is not None for axis in axes)
    return _map_p.bind(*moved, mapped=(*mapped, over), **parameters), 0


def _transpose(
    place: int, cotangents: jax.Array, *operands: Any, to: str, mapped: Any, **rest: Any
) -> jax.Array:
    """Of a map in its first or second operand: another of the maps."""
    wanted, other = _OPERANDS[to][place], _OPERANDS[to][1 - place]
    given = {to: cotangents, other: operands[1 - place]}
    swapped = tuple(
        tuple(name == to or over[1 - place] for name in _OPERANDS[wanted])
        for over in mapped
    )
    result = _map_p.bind(
        *(given[name] for name in _OPERANDS[wanted]), to=wanted, mapped=swapped, **rest
    )
    # Of an operand that all have in common, the sum over them.
    shared = [axis for axis, over in enumerate(mapped[::-1]) if not over[place]]
    return result.sum(shared) if shared else result


ad.defbilinear(_map_p, partial(_transpose, 0), partial(_transpose, 1))
batching.primitive_batchers[_map_p] = _batch
