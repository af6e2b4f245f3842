"""What reaches the convolutions of a module while it runs: their inputs, and the
kernels that they are called with."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import get_opaque_trace_state

import theory
from linear_cnn.tangent._calls import answer, modules

MEMORY = 2**28  # bytes of inputs that are kept at once
BATCH = 50
_PAD = {"CIRCULAR": "wrap", "REFLECT": "reflect"}


class Reached(NamedTuple):
    """The convolutions of a module.

    Attributes:
      shapes: of all kernels by their names, in the order of the calls; those that are
        not called come last.
      problems: why some are not analysed.
      kernels: of the others, (kh, kw, C, K), as they were used.
      moments: of the patches that these saw, or the error that stands in their way.
    """

    shapes: dict[str, tuple[int, ...]]
    problems: dict[str, str]
    kernels: dict[str, np.ndarray]
    moments: dict[str, theory.PatchMoments | ValueError]


def reached(network: nnx.Module, images: np.ndarray, largest: int) -> Reached:
    """Run a copy of a module in inference mode and look at its convolutions; the module
    itself stays as it is.

    Args:
      images: (N, H, W, C).
      largest: the most components d = kh kw C that are analysed.
    """
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(network)))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise ValueError(
            "the network has shapes and no numbers, as of nnx.eval_shape; give one that"
            " was initialised or restored."
        )
    copy = nnx.clone(network)
    copy.eval()
    named = {
        name: module
        for name, module in modules(copy).items()
        if isinstance(module, nnx.Conv | nnx.ConvTranspose)
    }
    problems = {name: _problem(module, largest) for name, module in named.items()}
    wanted = [name for name, problem in problems.items() if not problem]
    graph, state = nnx.split(copy)
    run, variables = partial(_run, graph), nnx.as_pure(state)
    outline = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    followed, hidden = _followed(run, variables, wanted, outline)
    for name in wanted:
        if name in hidden:
            problems[name] = (
                "it is called inside of a transformation (jit, vmap, scan, remat),"
                " where nothing can listen"
            )
        elif name not in followed:
            problems[name] = "the network does not call it"
    order = [*followed, *(name for name in named if name not in followed)]
    shapes = {name: tuple(map(int, named[name].kernel.shape)) for name in order}
    kernels, moments = _measured(run, variables, named, followed, images)
    return Reached(shapes, {k: v for k, v in problems.items() if v}, kernels, moments)


def _problem(module: Any, largest: int) -> str:
    if isinstance(module, nnx.ConvTranspose):
        return "it is a transposed convolution"
    if len(module.kernel_size) != 2:
        axes = "one axis" if len(module.kernel_size) == 1 else "three axes"
        return f"it has {axes} of space, not two"
    if type(module).__call__ is not nnx.Conv.__call__:
        return f"{type(module).__name__} has a __call__ of its own"
    if module.kernel.ndim != 4:
        return "its kernel has axes of several layers (scan, vmap)"
    if module.feature_group_count != 1:
        return f"it has {module.feature_group_count} groups, each with its own channels"
    if {*np.ravel(module.kernel_dilation), *np.ravel(module.input_dilation)} - {
        1,
        None,
    }:
        return "it is dilated"
    components = int(np.prod(module.kernel.shape[:3]))
    if components > largest:
        return f"it has {components:,} components, more than {largest:,}"
    return ""


class _Heard(NamedTuple):
    """What a run has found out beside its results, while it was traced: the calls that
    were listened to, in their order, and those that could not be."""

    order: list[str]
    hidden: set[str]


def _run(
    graph: Any, names: list[str], heard: _Heard, variables: Any, images: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """First inputs and kernels of these convolutions while the network runs."""
    network: Any = nnx.merge(graph, variables, copy=True)
    inputs: dict[str, jax.Array] = {}
    kernels: dict[str, jax.Array] = {}
    outside = get_opaque_trace_state(convention="nnx")

    def listen(
        name: str, module: Any, call: Callable[..., Any], x: Any, *more: Any, **by: Any
    ) -> Any:
        if get_opaque_trace_state(convention="nnx") != outside:
            heard.hidden.add(name)  # nothing may leave a transformation on the side
        elif name not in inputs:
            heard.order.append(name)
            # Without a batch, or with several axes of one, as Flax takes them.
            inputs[name] = jnp.reshape(x, (-1, *x.shape[-3:]))
            kernel = module.kernel[...]
            kernels[name] = kernel if module.mask is None else kernel * module.mask
        return call(x, *more, **by)

    listening = modules(network)
    for name in names:
        answer(listening[name], partial(listen, name, listening[name]))
    # Flax's own arithmetic needs it.
    with jax.numpy_dtype_promotion("standard"):
        network(images)
    return inputs, kernels


def _followed(
    run: Callable[..., Any],
    variables: Any,
    names: list[str],
    images: jax.ShapeDtypeStruct,
) -> tuple[dict[str, jax.ShapeDtypeStruct], set[str]]:
    """Shapes of the inputs of one image, in the order of the calls, and the names of
    what is called where no listener can report it."""
    heard = _Heard([], set())
    try:
        inputs, _ = jax.eval_shape(partial(run, names, heard), variables, images)
    except Exception as error:
        # Anything can go wrong in a module of the user's.
        raise ValueError(
            f"the network fails on images of shape (N, {images.shape[1]},"
            f" {images.shape[2]}, {images.shape[3]}) and dtype {images.dtype}:"
            f" {type(error).__name__}: {error}"
        ) from error
    return {name: inputs[name] for name in heard.order}, heard.hidden - {*heard.order}


def _measured(
    run: Callable[..., Any],
    variables: Any,
    named: Mapping[str, Any],
    followed: Mapping[str, jax.ShapeDtypeStruct],
    images: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, theory.PatchMoments | ValueError]]:
    names = list(followed)
    kernels: dict[str, np.ndarray] = {}
    moments: dict[str, theory.PatchMoments | ValueError] = {}
    if not names:
        return kernels, moments
    called = jax.jit(partial(run, names, _Heard([], set())))
    for batch in _batches(images, followed):
        inputs, kernels_used = called(variables, batch)
        for name in names:
            kernels.setdefault(name, np.asarray(kernels_used[name], np.float64))
            earlier = moments.get(name)
            if isinstance(earlier, ValueError):
                continue
            try:
                found = _moments(named[name], inputs[name])
                moments[name] = found if earlier is None else earlier + found
            except ValueError as error:  # of this layer alone
                moments[name] = ValueError(f"of what reaches it: {error}")
    return kernels, moments


def _batches(
    images: np.ndarray, followed: Mapping[str, jax.ShapeDtypeStruct]
) -> Iterator[np.ndarray]:
    """Batches of one size, so that one program serves all; less than a batch may be
    left out."""
    each = sum(one.size * one.dtype.itemsize for one in followed.values())
    most = max(1, min(BATCH, MEMORY // max(each, 1)))
    count = -(-len(images) // most)
    size = len(images) // count
    for first in range(0, count * size, size):
        yield images[first : first + size]


def _moments(module: Any, inputs: jax.Array) -> theory.PatchMoments:
    kernel_size, padding = module.kernel_size, module.padding
    if padding in _PAD:
        pads = [(0, 0), *(((k - 1) // 2, k // 2) for k in kernel_size), (0, 0)]
        inputs, padding = jnp.pad(inputs, pads, mode=_PAD[padding]), "VALID"
    return theory.patch_moments(
        inputs, kernel_size, stride=module.strides or 1, padding=padding
    )
