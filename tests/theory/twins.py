"""Slow, explicit twins of what `theory` computes: NumPy only, loops over images,
patches and steps."""

import numpy as np


def padding_pixels(length, size, stride, padding):
    """Pixels before and after one axis: as many locations as strides fit, the odd pixel
    after for "SAME"."""
    if padding.upper() == "VALID":
        return 0, 0
    locations = -(-length // stride)
    total = max((locations - 1) * stride + size - length, 0)
    return (
        (total // 2, total - total // 2)
        if padding.upper() == "SAME"
        else (total - total // 2, total // 2)
    )


def all_patches(images, kernel_size, stride=1, padding="VALID"):
    """Every patch of every image, (N, rows, columns, d), its entries in the order
    (kernel row, column, channel)."""
    kh, kw = np.broadcast_to(kernel_size, 2)
    down, right = np.broadcast_to(stride, 2)
    if isinstance(padding, str):
        vertical, horizontal = images.shape[1:3]
        padding = (
            padding_pixels(vertical, kh, down, padding),
            padding_pixels(horizontal, kw, right, padding),
        )
    elif isinstance(padding, int):
        padding = padding, padding
    (top, bottom), (left, right_side) = (np.broadcast_to(side, 2) for side in padding)
    result = []
    for image in np.asarray(images, np.float64):
        height, width, channels = image.shape
        framed = np.zeros((top + height + bottom, left + width + right_side, channels))
        framed[top : top + height, left : left + width] = image
        result.append(
            [
                [
                    [
                        framed[y + i, x + j, c]
                        for i in range(kh)
                        for j in range(kw)
                        for c in range(channels)
                    ]
                    for x in range(0, framed.shape[1] - kw + 1, right)
                ]
                for y in range(0, framed.shape[0] - kh + 1, down)
            ]
        )
    return np.array(result)


def patch_rows(images, kernel_size, stride=1, padding="VALID"):
    """Every patch as a row, (N*J, d)."""
    patches = all_patches(images, kernel_size, stride, padding)
    return patches.reshape(-1, patches.shape[-1])


def mean_and_covariance(rows):
    """Of rows (n, d), normalised by n; centred twice, so that rounding of a large mean
    does not matter."""
    mean = rows.mean(axis=0)
    rest = rows - mean
    shift = rest.mean(axis=0)
    rest = rest - shift
    return mean + shift, rest.T @ rest / len(rows)


def eigenvalue_error(variance, second):
    """Largest error of an eigenvalue in units of rounding of the largest one.

    It bounds the relative error of every eigenvalue, the smallest too, in units of eps
    times the condition number.
    """
    exact = np.linalg.eigvalsh(second)[::-1]
    return float(
        np.abs(np.asarray(variance) - exact).max() / (np.finfo(float).eps * exact[0])
    )


def entry_error(covariance, reference):
    """Largest error of an entry of a covariance in units of eps times the two standard
    deviations."""
    deviation = np.sqrt(np.diag(reference))
    scale = np.finfo(float).eps * np.maximum(
        np.outer(deviation, deviation), np.finfo(float).tiny
    )
    return float((np.abs(np.asarray(covariance) - reference) / scale).max())


def descend(patches, targets, head, kernel, learning_rate, steps):
    """Gradient descent on the mean over images of the squared error summed over
    outputs, step by step.

    Args:
      patches: (N, J, d), what the network sees.
      targets: (..., N, M); head: (K, M); kernel: (..., d, K).
    """
    count, locations, _ = patches.shape
    pooled = patches.sum(axis=1) / locations
    for _ in range(steps):
        error = pooled @ kernel @ head - targets
        # d/dW of sum_m error_m^2 is 2 pooled (a error)^T for each image.
        gradient = 2 / count * np.swapaxes(pooled, -1, -2) @ (error @ head.T)
        kernel = kernel - learning_rate * gradient
    return kernel


def profile(kernel, components):
    """(..., d, K), (d, p) -> (..., p)."""
    return np.sqrt(((components.T @ kernel) ** 2).mean(axis=-1))


def recompose(variance, components):
    """The symmetric matrix of these eigenvalues and eigenvectors."""
    return np.asarray(components) * np.asarray(variance) @ np.asarray(components).T


def relative_error(value, reference):
    """Largest deviation in units of the largest entry of the reference."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, (value.shape, reference.shape)
    return float(np.abs(value - reference).max() / np.abs(reference).max())
