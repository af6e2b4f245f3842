"""The second moment of what flows back, from location to location, if weights were
drawn anew on the way back.

A moment is S(x, x') = E[delta(x) delta(x')] over images, maps and weights, (h, w, h,
w). Going down through a layer it stays a moment of the same kind, whatever the labels
(ours; docs/derivations.md, section 22).
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import numpy as np
from jax import lax

Step = Callable[[np.ndarray], np.ndarray]
"""From the moment above a layer to that below it."""


def of_mean(height: int, width: int) -> np.ndarray:
    """The moment just below a mean over locations: all get the same."""
    return np.ones((height, width, height, width))


def whiteness(moment: np.ndarray) -> float:
    """As of `linear_cnn.BackpropagatedSignal`: 1 if locations are uncorrelated, their
    number if they are all the same."""
    height, width = moment.shape[:2]
    matrix = moment.reshape(height * width, -1)
    return float(matrix.sum() / np.trace(matrix))


def back(steps: Sequence[Step], moment: np.ndarray) -> np.ndarray:
    """Down through layers, which are given from below."""
    return reduce(lambda moment, step: step(moment), reversed(steps), moment)


def gate(mask: np.ndarray, window: int = 1) -> Step:
    """A ReLU, or one with the max pool after it.

    Args:
      mask: whether the signal passes, (N, h, w, C).
      window: of the pool.
    """
    return partial(_through_gate, mask, window)


def _through_gate(mask: np.ndarray, window: int, moment: np.ndarray) -> np.ndarray:
    count, height, width, channels = mask.shape
    rows = np.moveaxis(mask, 3, 1).reshape(count * channels, -1).astype(np.float32)
    # Whole numbers, exact in float32 up to 16 million rows.
    both = (rows.T @ rows).astype(np.float64) / len(rows)
    both = both.reshape(height, width, height, width)
    for axis in range(4):
        moment = moment.repeat(window, axis)
        left_over = both.shape[axis] - moment.shape[axis]  # by windows: no signal
        moment = np.pad(moment, [(0, left_over * (axis == i)) for i in range(4)])
    return moment * both


def convolution(
    kernel: np.ndarray, strides: tuple[int, int], size: tuple[int, int]
) -> Step:
    """A convolution with SAME padding.

    Args:
      kernel: (kh, kw, C, K).
      strides: down and right.
      size: of the maps below, (h, w).
    """
    power = float(np.mean(np.square(kernel, dtype=np.float64)) * kernel.shape[-1])
    pads = lax.padtype_to_pads(size, kernel.shape[:2], strides, "SAME")
    return partial(_through_convolution, power, kernel.shape[:2], strides, size, pads)


def _through_convolution(
    power: float,
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    size: tuple[int, int],
    pads: Sequence[tuple[int, int]],
    moment: np.ndarray,
) -> np.ndarray:
    padded = [low + n + high for n, (low, high) in zip(size, pads, strict=True)]
    spread = np.zeros(padded * 2)
    for weight in np.ndindex(*kernel_size):
        # Two locations correlate by what comes through the same weight.
        reached = tuple(
            slice(first, first + (count - 1) * stride + 1, stride)
            for first, count, stride in zip(
                weight, moment.shape[:2], strides, strict=True
            )
        )
        spread[reached * 2] += moment
    inside = tuple(slice(low, low + n) for n, (low, _) in zip(size, pads, strict=True))
    return power * spread[inside * 2]


def scale(factors: np.ndarray) -> Step:
    """Maps multiplied by numbers."""
    square = float(np.mean(np.square(factors, dtype=np.float64)))
    return lambda moment: square * moment


def block(residual: Sequence[Step], shortcut: Sequence[Step]) -> Step:
    """Two ways that are added, whose weights have nothing to do with each other."""
    return lambda moment: back(residual, moment) + back(shortcut, moment)
