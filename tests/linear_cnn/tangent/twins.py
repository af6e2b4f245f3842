"""Jacobians of whole networks by their definition: one long derivative, all images at
once."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Own(nnx.Module):
    """A network of one's own: its norms are Flax's, of float32 statistics, and the
    padding of its first layer is unusual."""

    def __init__(self, *, classes=3, rngs):
        make = {"rngs": rngs, "param_dtype": jnp.result_type(float)}
        self.conv1 = nnx.Conv(2, 4, (3, 2), strides=(2, 1), padding="REFLECT", **make)
        self.norm = nnx.BatchNorm(4, epsilon=0.1, **make)
        self.body = nnx.Dict(
            conv=nnx.Conv(4, 3, (2, 2), padding="VALID", **make),
            norm=nnx.BatchNorm(3, use_scale=False, **make),
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(3, classes, **make)

    def __call__(self, images, *mode, **named_mode):
        x = self.norm(self.conv1(images), *mode)
        x = nnx.max_pool(nnx.relu(x), (2, 2), (1, 1))
        x = jnp.tanh(self.body["norm"](self.body["conv"](x), **named_mode))
        return self.head(self.dropout(x.mean(axis=(1, 2))))


class Stubborn(Own):
    """Says at every call that its norms take the batch's statistics, or that they do
    not."""

    def __init__(self, running, *, rngs):
        super().__init__(rngs=rngs)
        self.running = running

    def __call__(self, images):
        return super().__call__(images, self.running, use_running_average=self.running)


def norms(network):
    return [
        module
        for _, module in nnx.iter_modules(network)
        if isinstance(module, nnx.BatchNorm)
    ]


@nnx.jit
def run(network, images):
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms need it
        return network(images)


def prepared(network, images, statistics, own):
    """A copy in the mode that is to be differentiated, of all images or of a batch."""
    network = nnx.clone(network)
    for norm in norms(network):
        norm.mean = nnx.BatchStat(norm.mean[...].astype(jnp.result_type(float)))
        norm.var = nnx.BatchStat(norm.var[...].astype(jnp.result_type(float)))
    network.set_attributes(nnx.Dropout, rate=0.0, raise_if_not_found=False)
    if statistics == "batch":
        network.train()
    elif statistics == "running":
        network.eval()
    else:
        # Running statistics that are the images', in one pass over all; then the one
        # norm by its batch, which is all images.
        network.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)
        network.train()
        run(network, images)
        network.eval()
        if own is not None:
            own(network).use_running_average = False
    return network


def jacobian(network, images, *, layer=lambda network: network.conv1, bias=False):
    """Outputs (N, M), and their derivatives (N, M, K, d) by the layer's weights."""
    graph, variables = nnx.split(network)
    kernel = layer(network).kernel[...]
    offset = layer(network).bias[...] if bias else None

    def outputs(kernel, offset):
        copy = nnx.merge(graph, variables, copy=True)
        layer(copy).kernel = nnx.Param(kernel)
        if bias:
            layer(copy).bias = nnx.Param(offset)
        return copy(images)

    @jax.jit
    def both(kernel, offset):
        with jax.numpy_dtype_promotion("standard"):
            found = jax.jacrev(outputs, argnums=(0, 1) if bias else (0,))(
                kernel, offset
            )
            return outputs(kernel, offset), found

    values, (by_kernel, *by_bias) = both(kernel, offset)
    found = by_kernel.reshape(*by_kernel.shape[:2], -1, kernel.shape[-1])
    found = np.moveaxis(found, 2, 3)
    if bias:
        found = np.concatenate([found, by_bias[0][..., None]], axis=-1)
    return np.asarray(values), found


def derivatives(loss, outputs, targets):
    """Each image's first (N, M) and second (N, M, M) ones of the loss by its
    outputs."""
    size = outputs.shape[1]
    if loss == "mse":
        second = np.broadcast_to(2 * np.eye(size), (len(outputs), size, size))
        return 2 * (outputs - targets.reshape(outputs.shape)), second

    def one(outputs, label):
        return jnp.log(jnp.sum(jnp.exp(outputs))) - outputs[label]

    first, second = (
        jax.jit(jax.vmap(derivative(one)))(outputs, targets)
        for derivative in (jax.grad, jax.hessian)
    )
    return first, second


def moments(loss, outputs, jacobian, targets):
    """Curvature, drive, and the second moment of gradients, of images that do not see
    one another but through the statistics of all."""
    first, second = derivatives(loss, outputs, targets)
    gradients = np.einsum("nmkd,nm->nkd", jacobian, first)
    return (
        np.einsum("nmkd,nmo,nole->kdle", jacobian, second, jacobian) / len(outputs),
        gradients.mean(axis=0),
        np.einsum("nkd,nle->kdle", gradients, gradients) / len(outputs),
    )
