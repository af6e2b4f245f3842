"""A network taken apart at one of its convolutions."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from linear_cnn.networks._paths import first_layer_path
from linear_cnn.tangent._calls import answer, modules

STATISTICS = ("data", "running", "batch")


class Program(NamedTuple):
    """What a program is compiled for, besides shapes."""

    graph: Any
    layer: str
    statistics: str
    responses: Any = None
    """Shape and dtype of the layer's, (N, H', W', K), whatever N."""
    norms: tuple[str, ...] = ()
    """The batch norms that follow the layer's weights: of "data", those that take its
    responses as they are."""


class Outline(NamedTuple):
    """What the network does with images of a shape."""

    inputs: jax.ShapeDtypeStruct
    """Of the layer, (N, ..., C)."""
    responses: jax.ShapeDtypeStruct
    """Of the layer, (N, H', W', K)."""
    outputs: jax.ShapeDtypeStruct
    norms: tuple[str, ...]
    """The batch norms that take the responses as they are."""
    norms_before: bool
    """Whether a batch norm comes before the layer."""
    next_layer: str | None
    """The next module with weights after the layer."""
    other_norm: str | None
    """The batch norm that comes after the layer and before the next layer with weights,
    but takes other values than the responses."""


class Own(NamedTuple):
    """Mean and variance of the responses, (N, 1, 1, K) each: every image has its own
    copy, so that it gets its own gradient."""

    mean: jax.Array
    variance: jax.Array


def take_apart(
    network: nnx.Module, layer: str | None, statistics: str, images: Any
) -> tuple[Program, Any, Outline]:
    """The program of a network in the mode of the statistics, its variables, and what
    it does with these images, of which nothing is computed. The network itself stays as
    it is."""
    if not isinstance(network, nnx.Module):
        raise TypeError(
            f"network must be a flax.nnx.Module, got {type(network).__name__}; those of"
            " flax.linen are none."
        )
    if statistics not in STATISTICS:
        raise ValueError(
            f"statistics must be one of {list(STATISTICS)}, got {statistics!r}."
        )
    if layer is None:
        path = first_layer_path(network, np.shape(images)[-1], None, "layer")
        layer = path.removesuffix(".kernel")
    named = modules(network)
    _check_layer(named, layer)
    if statistics == "data":
        _check_norms(named)
    copy = nnx.clone(network)
    if statistics == "batch":
        copy.train()
    else:
        copy.eval()
    dtype = named[layer].kernel.dtype  # type: ignore[attr-defined]
    for module in modules(copy).values():
        if isinstance(module, nnx.BatchNorm):
            # Flax makes them float32 in networks of float64 too.
            for name in ("mean", "var"):
                values = getattr(module, name)[...]
                wide = np.promote_types(values.dtype, dtype)
                setattr(module, name, nnx.BatchStat(values.astype(wide)))
    graph, variables = nnx.split(copy)
    program, variables = Program(graph, layer, statistics), nnx.as_pure(variables)
    plan = _outline(program, variables, images)
    return program._replace(responses=plan.responses), variables, plan


def _check_layer(named: Mapping[str, nnx.Module], layer: str) -> None:
    found = named.get(layer)
    plain = (
        isinstance(found, nnx.Conv)
        and type(found).__call__ is nnx.Conv.__call__
        and len(found.kernel_size) == 2
        and found.feature_group_count == 1
        and found.mask is None
    )
    if not plain:
        convolutions = [
            name for name, module in named.items() if isinstance(module, nnx.Conv)
        ]
        what = (
            f"is a {type(found).__name__} that is none"
            if layer in named
            else "the network does not have"
        )
        raise ValueError(
            f"layer must name a flax.nnx.Conv over two image axes, without groups, mask"
            f" or a __call__ of its own, but {layer!r} {what}; its convolutions are"
            f" {convolutions}."
        )


def _check_norms(named: Mapping[str, nnx.Module]) -> None:
    for name, module in named.items():
        if not isinstance(module, nnx.BatchNorm) and any(
            isinstance(value, nnx.BatchStat) for value in vars(module).values()
        ):
            raise ValueError(
                f"statistics='data' knows how a flax.nnx.BatchNorm normalises, but"
                f" {name!r}, a {type(module).__name__}, has batch statistics too; make"
                " it a subclass of flax.nnx.BatchNorm, or choose statistics='running'."
            )


def set_norms(
    network: nnx.Module, is_running: Callable[[str], bool]
) -> dict[str, nnx.BatchNorm]:
    """The batch norms of a network by name, from now on in the mode that is asked for:
    running statistics, or the batch's; whatever the network says in calling them."""

    def norm(
        running: bool, call: Any, x: jax.Array, *given: Any, **options: Any
    ) -> jax.Array:
        if given:
            given = (running, *given[1:])
        if "use_running_average" in options:
            options["use_running_average"] = running
        # Flax's own arithmetic needs it.
        with jax.numpy_dtype_promotion("standard"):
            result: jax.Array = call(x, *given, **options)
        return result

    norms = {
        name: module
        for name, module in modules(network).items()
        if isinstance(module, nnx.BatchNorm)
    }
    for name, module in norms.items():
        module.use_running_average = is_running(name)
        answer(module, partial(norm, module.use_running_average))
    return norms


def run(
    program: Program,
    variables: Any,
    images: jax.Array,
    shift: jax.Array | None = None,
    own: Own | None = None,
) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    """Outputs, with `shift` added to the layer's responses and `own` as what the batch
    norms in `program.norms` normalise by; the layer's inputs; the variables after
    it."""
    network = nnx.merge(program.graph, variables, copy=True)
    norms = set_norms(network, lambda _: program.statistics != "batch")
    inputs = []

    def respond(call: Any, x: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        inputs.append(x)
        responses: jax.Array = call(x, *arguments, **options)
        return responses if shift is None else responses + shift

    answer(modules(network)[program.layer], respond)
    if own is not None:
        for name in program.norms:
            answer(norms[name], partial(_standardise_each, norms[name], own))
    outputs = network(images)
    return outputs, (inputs[0], nnx.as_pure(nnx.state(network)))


def _standardise_each(
    norm: nnx.BatchNorm,
    own: Own,
    call: Any,
    x: jax.Array,
    *arguments: Any,
    **options: Any,
) -> jax.Array:
    """Normalise each image by its own copy of the statistics, which are those of the
    norm in value but have a gradient."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    mean, variance = norm.mean[...].reshape(shape), norm.var[...].reshape(shape)
    with jax.numpy_dtype_promotion("standard"):
        scale = jnp.sqrt((variance + norm.epsilon) / (own.variance + norm.epsilon))
        x = mean + (x - own.mean) * scale
    result: jax.Array = call(x, *arguments, **options)
    return result


def weights_of(program: Program, variables: Any) -> tuple[np.ndarray, Any]:
    """The layer's kernel, (d, K), and its biases, (K,) or None; in float64."""
    network = nnx.merge(program.graph, variables, copy=True)
    layer: Any = modules(network)[program.layer]
    kernel = np.asarray(layer.kernel[...], np.float64)
    return (
        kernel.reshape(-1, kernel.shape[-1]),
        np.asarray(layer.bias[...], np.float64) if layer.use_bias else None,
    )


def patches_of(program: Program, variables: Any, inputs: jax.Array) -> jax.Array:
    """The patches that the layer sees, (N, J, d), in the order of its kernel's first
    three axes: its responses to the d unit kernels, whatever its padding."""
    layer: Any = modules(nnx.merge(program.graph, variables, copy=True))[program.layer]
    *shape, _ = layer.kernel.shape
    size = math.prod(shape)
    units = jnp.eye(size, dtype=layer.kernel.dtype).reshape(*shape, size)
    layer.kernel, layer.use_bias = nnx.Param(units), False
    layer.precision = lax.Precision.HIGHEST
    return layer(inputs).reshape(inputs.shape[0], -1, size)


def _outline(program: Program, variables: Any, images: jax.Array) -> Outline:
    """Follow the network's calls."""
    order: list[str] = []
    seen: dict[str, Any] = {}
    norms: set[str] = set()

    def follow(name: str, call: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        order.append(name)
        result = call(x, *arguments, **options)
        if name == program.layer:
            seen["inputs"], seen["responses"] = x, result
        elif x is seen.get("responses"):
            seen[name] = x
        return result

    def calls(images: jax.Array) -> tuple[Any, Any, Any]:
        network = nnx.merge(program.graph, variables, copy=True)
        norms.update(set_norms(network, lambda _: program.statistics != "batch"))
        for name, module in modules(network).items():
            if name == program.layer or name in norms or has_weights(module):
                answer(module, partial(follow, name))
        outputs = network(images)
        if order.count(program.layer) != 1:
            raise ValueError(
                f"layer {program.layer!r} must be called once by the network, but is"
                f" called {order.count(program.layer)} times."
            )
        return outputs, seen["inputs"], seen["responses"]

    outputs, inputs, responses = jax.eval_shape(calls, images)
    if len(responses.shape) != 4 or responses.shape[0] != images.shape[0]:
        raise ValueError(
            f"layer {program.layer!r} must map images (N, H, W, C) to responses (N, H',"
            f" W', K), but {inputs.shape} became {responses.shape}."
        )
    _check_norm_calls(program, Counter(name for name in order if name in norms))
    where = order.index(program.layer)
    following = order[where + 1 :]
    before_next = list(takewhile(norms.__contains__, following))
    return Outline(
        inputs,
        responses,
        outputs,
        norms=tuple(name for name in dict.fromkeys(order) if name in norms & set(seen)),
        norms_before=not norms.isdisjoint(order[:where]),
        next_layer=next((name for name in following if name not in norms), None),
        other_norm=next((name for name in before_next if name not in seen), None),
    )


def _check_norm_calls(program: Program, calls: Mapping[str, int]) -> None:
    for name, count in calls.items():
        if program.statistics == "data" and count > 1:
            raise ValueError(
                f"the batch norm {name!r} is called {count} times, which"
                " statistics='data' cannot freeze at one mean and variance; give each"
                " call a batch norm of its own, or choose statistics='running'."
            )


def has_weights(module: nnx.Module) -> bool:
    """Whether a module has an array of two or more axes to train, of its own."""
    return any(
        isinstance(value, nnx.Param) and value.ndim >= 2
        for value in vars(module).values()
    )
