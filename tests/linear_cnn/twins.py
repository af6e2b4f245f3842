"""Slow, explicit twins of what `linear_cnn` computes fast, in NumPy and Python loops,
and the data they share."""

import jax
import jax.numpy as jnp
import numpy as np


def padding_pixels(padding, size, kernel, strides):
    """((top, bottom), (left, right)) by the definition of each kind of padding."""
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding in ("SAME", "SAME_LOWER"):
        pads = []
        for length, k, stride in zip(size, kernel, strides, strict=True):
            total = max((-(-length // stride) - 1) * stride + k - length, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if padding == "SAME" else (large, small))
        return tuple(pads)
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return tuple(
        (side, side) if isinstance(side, int) else tuple(side) for side in padding
    )


def patches_by_loop(images, kernel, strides=(1, 1), padding="VALID"):
    """All patches, (N, J, kh * kw * C), each flattened as (kh, kw, C)."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    (top, bottom), (left, right) = padding_pixels(
        padding, (height, width), kernel, strides
    )
    padded = np.zeros(
        (count, height + top + bottom, width + left + right, channels), images.dtype
    )
    padded[:, top : top + height, left : left + width] = images
    patches = [
        padded[:, i : i + kernel[0], j : j + kernel[1]].reshape(count, -1)
        for i in range(0, padded.shape[1] - kernel[0] + 1, strides[0])
        for j in range(0, padded.shape[2] - kernel[1] + 1, strides[1])
    ]
    return np.stack(patches, axis=1)


def linear_outputs(patches, kernel, head):
    """The linear CNN on explicit patches: every filter at every location, averaged,
    then read out, (N, M)."""
    filters = np.asarray(kernel).reshape(-1, kernel.shape[-1])
    head = np.asarray(head).reshape(filters.shape[1], -1)
    outputs = np.zeros((patches.shape[0], head.shape[1]), patches.dtype)
    for n, image in enumerate(patches):
        for k in range(filters.shape[1]):
            outputs[n] += head[k] * np.mean([patch @ filters[:, k] for patch in image])
    return outputs


def mse(outputs, targets):
    """Mean over images of the squared error summed over outputs."""
    return sum(
        float(((outputs[n] - targets[n]) ** 2).sum()) for n in range(len(outputs))
    ) / len(outputs)


def mse_gradient(patches, targets, kernel, head):
    """Gradient of `mse` in the kernel, image by image."""
    head = np.asarray(head).reshape(kernel.shape[-1], -1)
    outputs = linear_outputs(patches, kernel, head)
    gradient = np.zeros((patches.shape[-1], head.shape[0]), patches.dtype)
    for n, image in enumerate(patches):
        gradient += (
            2
            / len(patches)
            * np.outer(image.mean(axis=0), head @ (outputs[n] - targets[n]))
        )
    return gradient.reshape(kernel.shape)


def batch_indices(key, count, batch_size, step):
    """The images of one step: a new permutation every epoch, whose remainder is left
    out."""
    if batch_size is None:
        return np.arange(count)
    epoch, position = divmod(step, count // batch_size)
    _, order_key = jax.random.split(key)
    order = np.asarray(
        jax.random.permutation(jax.random.fold_in(order_key, epoch), count)
    )
    return order[position * batch_size : (position + 1) * batch_size]


def training_by_loop(
    kernel,
    patches,
    targets,
    head,
    *,
    optimizer,
    record_steps,
    key=None,
    batch_size=None,
):
    """Kernels and losses at the recorded steps, by a Python loop over explicit
    gradients."""
    kernel, targets = np.asarray(kernel), np.asarray(targets).reshape(len(patches), -1)
    moments = optimizer.init(jnp.asarray(kernel))
    kernels, losses = [], []
    for step in range(max(record_steps) + 1):
        if step in record_steps:
            kernels.append(kernel)
            losses.append(mse(linear_outputs(patches, kernel, head), targets))
        batch = batch_indices(key, len(patches), batch_size, step)
        gradient = mse_gradient(patches[batch], targets[batch], kernel, head)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimizer.update(
                jnp.asarray(gradient), moments, jnp.asarray(kernel)
            )
        kernel = kernel + np.asarray(updates)
    return np.stack(kernels), np.array(losses)
