"""What flows back to the locations of the first layer, and whether it is white."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import ClosedJaxpr, DropVar, jaxpr_as_fun
from jax.typing import ArrayLike

from linear_cnn._checks import integer
from linear_cnn.tangent._arguments import checked_data, checked_labels
from linear_cnn.tangent._calls import answer, modules
from linear_cnn.tangent._labels import Labels, columns, derivatives
from linear_cnn.tangent._network import Program, set_norms, take_apart
from linear_cnn.tangent._statistics import at_statistics

_NEARLY_WHITE = 1.5


@dataclass(frozen=True, eq=False)
class BackpropagatedSignal:
    r"""Second moments of the derivative of single images' losses by K maps of h x w
    locations; NumPy arrays of float64.

    Attributes:
      at: the path of the module whose input the maps are.
      whiteness: :math:`J\, E[\bar\delta^2] / E[\delta^2]` with the mean
        :math:`\bar\delta` of a map over its J = h w locations: 1 if locations are
        uncorrelated, J if they are all the same.
      autocorrelation: over lags, (2 h - 1, 2 w - 1), lag 0 in the middle: the mean
        product of two locations at a lag, over pairs, divided by the mean square.
      energy: the mean square at each location, (h, w).
      border_energy: that of the outermost locations divided by that of all others; NaN
        where there are no others.
      filter_correlation: :math:`E[\delta_k \delta_l]` at the same location, divided by
        the roots of the mean squares, (K, K); 0 for maps that nothing reaches.
      count: N, the number of images.

    Examples:
      >>> import linear_cnn
      >>> import numpy as np
      >>> signal = linear_cnn.BackpropagatedSignal(
      ...     at="features.layers.2",
      ...     whiteness=1.0,
      ...     autocorrelation=np.array([[0.0, 1.0, 0.0]]),
      ...     energy=np.ones((1, 2)),
      ...     border_energy=float("nan"),
      ...     filter_correlation=np.eye(4),
      ...     count=10,
      ... )
      >>> float(signal.autocorrelation[0, 1])  # lag 0
      1.0
    """

    at: str
    whiteness: float
    autocorrelation: np.ndarray
    energy: np.ndarray
    border_energy: float
    filter_correlation: np.ndarray
    count: int


class _Sums(NamedTuple):
    power: Any
    """Of the maps padded to twice their size, (2 h, w + 1)."""
    energy: Any
    """(h, w)"""
    filters: Any
    """(K, K)"""


def backpropagated_signal(
    network: nnx.Module,
    images: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    loss: str,
    labels: str = "exact",
    samples: int = 10,
    key: jax.Array | None = None,
    layer: str | None = None,
    at: str | None = None,
    statistics: str = "data",
    statistics_images: int = 1000,
    batch_size: int = 50,
    progress: bool = False,
) -> BackpropagatedSignal:
    r"""What flows back to the locations of the first layer, from above its batch norm,
    activation and pool: :math:`\delta_{kj}`, the derivative of an image's loss by map k
    at location j.

    Where it is white over locations, and independent of the patches, the curvature of a
    filter follows from the images alone (`theory.filter_curvature`): the whiteness says
    whether that applies. VGG and ResNet at initialisation are about 1; a network that
    soon takes the mean over locations is far above. Ours; docs/derivations.md, sections
    12 and 22.

    Args:
      network, images, loss, layer, batch_size, progress: as in `tangent_moments`.
      targets: of the images; read only if labels = "given".
      labels: of which labels the moments are. "exact": all that the model gives, by
        their probabilities; :math:`E[\delta \delta^T] = E[J^T P J]` with the Jacobian J
        of the outputs by the maps. "sampled": drawn ones. "given": the targets.
      samples, key: of "sampled", as in `tangent_moments`.
      at: attribute path of the module whose input the maps are. By default the next one
        with weights (an array of two or more axes to train) that the network calls
        after the layer, so that all before it is passed. The layer itself stands for
        its own responses, which are also the default where no weights follow. What
        else reads the same maps, such as a shortcut, is counted.
      statistics, statistics_images: which batch norms are passed, as in
        `tangent_moments`; all frozen for "data" and "running".

    Raises:
      TypeError, ValueError: as `tangent_moments`; a module that is not called after the
        layer, or whose input has no locations.

    Warns:
      UserWarning: the whiteness is above 1.5.

    Examples:
      >>> import warnings
      >>> import jax
      >>> import linear_cnn
      >>> from flax import nnx
      >>> network = linear_cnn.SmallCNN(features=(4, 8), rngs=nnx.Rngs(0))
      >>> images = jax.random.normal(jax.random.key(0), (20, 16, 16, 3))
      >>> with warnings.catch_warnings():
      ...     warnings.simplefilter("ignore")  # that it is not white
      ...     signal = linear_cnn.backpropagated_signal(
      ...         network, images, loss="cross_entropy"
      ...     )
      >>> signal.at, signal.energy.shape  # after ReLU and a 2x2 pool
      ('features.layers.2', (8, 8))
      >>> signal.whiteness > 1.5
      True
    """
    chosen = checked_labels(loss, labels, samples)
    if targets is None and labels == "given":
        raise ValueError("labels='given' needs targets.")
    coupled = statistics == "batch"
    read = targets if labels == "given" else None
    data = checked_data(images, read, chosen, batch_size, coupled, key)
    statistics_images = integer("statistics_images", statistics_images, minimum=1)
    program, variables, plan = take_apart(
        network, layer, statistics, jnp.asarray(data.images[: data.size])
    )
    data = data.matched(loss, plan.outputs)
    at = at or plan.next_layer or program.layer
    shape = jax.eval_shape(
        lambda images: _record(program, at, variables, images)[0],
        jnp.asarray(data.images[: data.size]),
    ).shape
    if len(shape) != 4:
        raise ValueError(
            f"the input of {at!r} must be maps (N, h, w, K), but has shape {shape};"
            " name a module before the locations are lost by `at`, or the layer itself"
            " for its own responses."
        )
    _, variables, _ = at_statistics(program, variables, plan, data, statistics_images)
    _, height, width, filters = shape
    sums = _Sums(
        np.zeros((2 * height, width + 1)),
        np.zeros((height, width)),
        np.zeros((filters, filters)),
    )
    for batch in data.read(progress, "signal"):
        of_batch, variables = _batch_sums(
            program,
            chosen,
            at,
            variables,
            batch.images,
            batch.targets,
            jnp.arange(data.size) < batch.valid,
            batch.key,
        )
        sums = jax.tree.map(lambda a, b: a + np.asarray(b, np.float64), sums, of_batch)
    signal = _signal(at, sums, data.used, chosen.draws)
    if signal.whiteness > _NEARLY_WHITE:
        warnings.warn(
            f"the signal that flows back to {at!r} is not white over locations:"
            f" whiteness {signal.whiteness:.3g}, above {_NEARLY_WHITE}; the curvature"
            " of filters from images alone, which assumes 1, does not apply.",
            stacklevel=2,
        )
    return signal


def _signal(at: str, sums: _Sums, count: int, draws: int) -> BackpropagatedSignal:
    height, width = sums.energy.shape
    locations, total = height * width, sums.energy.sum()
    if not total > 0:
        raise ValueError(f"no signal flows back to {at!r}: its derivatives are all 0.")
    # Sums over pairs at a lag, lag 0 first, without those that only padding makes.
    products = np.fft.irfft2(sums.power, (2 * height, 2 * width))
    products = np.fft.fftshift(products)[1:, 1:]
    pairs = np.multiply.outer(
        *(length - np.abs(np.arange(1 - length, length)) for length in (height, width))
    )
    border = np.ones((height, width), bool)
    border[1:-1, 1:-1] = False
    inside = sums.energy[~border]
    squares = np.diag(sums.filters)
    scale = np.sqrt(np.where(squares > 0, squares, 1))
    return BackpropagatedSignal(
        at=at,
        whiteness=float(sums.power[0, 0] / total),
        autocorrelation=products / pairs / (total / locations),
        energy=sums.energy / (count * draws * len(squares)),
        border_energy=float(sums.energy[border].mean() / inside.mean())
        if inside.size
        else float("nan"),
        filter_correlation=sums.filters / np.multiply.outer(scale, scale),
        count=count,
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _batch_sums(
    program: Program,
    labels: Labels,
    at: str,
    variables: Any,
    images: jax.Array,
    targets: jax.Array,
    valid: jax.Array,
    key: jax.Array,
) -> tuple[_Sums, Any]:
    """Sums over the valid images of a batch and their labels, and the variables after
    it."""
    maps, rest = _rest(program, at, variables, images)
    outputs, pull_back, after = jax.vjp(rest, maps, has_aux=True)
    _, height, width, _ = maps.shape

    def sums(column: jax.Array) -> _Sums:
        (signal,) = pull_back(column)
        signal = jnp.where(valid[:, None, None, None], signal, 0)
        # At twice the size no two locations meet around the edges.
        waves = jnp.fft.rfft2(signal, (2 * height, 2 * width), axes=(1, 2))
        return _Sums(
            jnp.sum(jnp.abs(waves) ** 2, axis=(0, 3)),
            jnp.sum(signal**2, axis=(0, 3)),
            jnp.einsum("nhwk,nhwl->kl", signal, signal, precision="highest"),
        )

    if labels.kind == "given":
        starts = derivatives(labels.loss, outputs, targets)[None]
    else:
        starts = columns(labels, outputs, key, program.statistics == "batch")
    totals = lax.map(sums, starts)
    return jax.tree.map(lambda values: values.sum(axis=0), totals), after


def _record(
    program: Program, at: str, variables: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """The input of the module `at`, the outputs, and the variables after them."""
    network = nnx.merge(program.graph, variables, copy=True)
    set_norms(network, lambda _: program.statistics != "batch")
    named = modules(network)
    passed, maps = [], []

    def respond(call: Any, *arguments: Any, **options: Any) -> Any:
        responses = call(*arguments, **options)
        passed.append(responses)
        return responses

    def take(call: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        maps.extend([x] if passed else [])
        return call(x, *arguments, **options)

    answer(named[program.layer], respond)
    if at != program.layer and at in named:
        answer(named[at], take)
    outputs = network(images)
    found = passed if at == program.layer else maps
    if not found:
        raise ValueError(
            f"at must name a module that is called after {program.layer!r}, but"
            f" {at!r} is not; the modules are {list(filter(None, named))}."
        )
    return found[0], outputs, nnx.as_pure(nnx.state(network))


def _rest(
    program: Program, at: str, variables: Any, images: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, Any]]]:
    """The maps, and outputs (and the variables after them) as a function of them, by
    whatever ways these read them."""
    traced, shape = jax.make_jaxpr(
        lambda images: _record(program, at, variables, images), return_shape=True
    )(images)
    tree = jax.tree.structure(shape[1:])
    maps, *results = traced.jaxpr.outvars
    # The same steps, but the maps are given.
    steps = [
        step.replace(
            outvars=[DropVar(v.aval) if v is maps else v for v in step.outvars]
        )
        for step in traced.jaxpr.eqns
    ]
    after = ClosedJaxpr(
        traced.jaxpr.replace(
            invars=[*traced.jaxpr.invars, maps], outvars=results, eqns=steps
        ),
        traced.consts,
    )

    def rest(values: jax.Array) -> tuple[jax.Array, Any]:
        outputs, state = jax.tree.unflatten(tree, jaxpr_as_fun(after)(images, values))
        return outputs, state

    return jaxpr_as_fun(traced)(images)[0], rest
