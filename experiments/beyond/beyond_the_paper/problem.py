"""What all networks of the experiment are trained on: mean patches, their moments, and
steps at which to look."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import linear_cnn
import theory
from experiments.beyond.beyond_the_paper.settings import Settings
from experiments.frame import inputs


@dataclass(frozen=True)
class Problem:
    """Images as their mean patches, (N, kh, kw, C) in float64, with labels (N,); the
    moments have no targets of their own yet."""

    patches: jax.Array
    labels: np.ndarray
    class_names: tuple[str, ...]
    moments: theory.MeanPatchMoments

    @property
    def rows(self) -> np.ndarray:
        """The mean patches, (N, d)."""
        return np.asarray(self.patches).reshape(len(self.patches), -1)

    def with_drawn_targets(self) -> theory.MeanPatchMoments:
        """Moments of targets that are drawn, mean 0 and variance 1."""
        return replace(
            self.moments, target_mean=jnp.zeros(()), target_covariance=jnp.ones(())
        )

    def with_targets(self, targets: np.ndarray) -> theory.MeanPatchMoments:
        """Moments of these targets, (N,) or (N, M)."""
        size = self.moments.kernel_shape[0]
        return theory.mean_patch_moments(self.patches, targets, size)

    def some(self, count: int) -> "Problem":
        """The same of so many images, evenly spaced."""
        count = min(count, len(self.labels))
        chosen = np.linspace(0, len(self.labels) - 1, count).round().astype(int)
        return of_patches(self.patches[chosen], self.labels[chosen], self.class_names)


def load(settings: Settings) -> Problem:
    """The images of the settings, their channels brought to mean 0 and variance 1.

    Raises:
      ValueError: there is no such label.
    """
    pixels, labels, names = inputs.load(settings)
    if settings.label >= len(names):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        raise ValueError(f"--label must be one of {known}; got {settings.label}.")
    images = linear_cnn.normalize_channels(pixels.astype(np.float64))
    patches = linear_cnn.mean_patch_images(images, settings.kernel_size)
    return of_patches(patches, labels, names)


def of_patches(
    patches: jax.Array, labels: np.ndarray, class_names: tuple[str, ...]
) -> Problem:
    """A problem of mean patches."""
    size = patches.shape[1]
    moments = theory.mean_patch_moments(patches, np.zeros(len(labels)), size)
    return Problem(patches, labels, class_names, moments)


def record_steps(steps: int, count: int = 25) -> np.ndarray:
    """0, 1, and on to the last step in a geometric series, about `count` of them."""
    series = np.geomspace(1, steps, count).round().astype(int)
    return np.unique([0, *series])


def network(
    settings: Settings, problem: Problem, init_std: float, **more: Any
) -> Callable[[jax.Array], nnx.Module]:
    """What makes a linear CNN for mean patches from a key."""

    def init(key: jax.Array) -> nnx.Module:
        return linear_cnn.LinearCNN(
            problem.patches.shape[-1],
            settings.filters,
            settings.kernel_size,
            init_std=init_std,
            dtype=jnp.float64,
            rngs=nnx.Rngs(key),
            **more,
        )

    return init


def ones(settings: Settings) -> np.ndarray:
    """The head of the paper."""
    return np.ones(settings.filters)
