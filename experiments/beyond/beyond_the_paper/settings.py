"""Settings of `beyond_the_paper`, and what is trained, in words."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from experiments import frame

NAME = "beyond_the_paper"
BAND = (0.05, 0.95)


class Kind(NamedTuple):
    """How a full-batch network is trained.

    Attributes:
      title: in words.
      momentum, nesterov, decoupled: as `theory.gradient_descent` has them.
      decay: c / alpha_1, weight decay over the curvature of the largest mode.
      schedule: of the learning rate.
      adam: by Adam, of which there is no closed form.
    """

    title: str
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    decoupled: bool = False
    schedule: Literal["constant", "cosine", "piecewise"] = "constant"
    adam: bool = False


KINDS = {
    "heavy_ball": Kind("momentum 0.9", momentum=0.9),
    "nesterov": Kind("Nesterov's momentum 0.9", momentum=0.9, nesterov=True),
    "strong_decay": Kind("weight decay, c = 1e-2", decay=1e-2),
    "decay": Kind("weight decay, c = 1e-3", decay=1e-3),
    "decay_momentum": Kind(
        "weight decay, c = 1e-4, momentum 0.9", momentum=0.9, decay=1e-4
    ),
    "decoupled": Kind(
        "decoupled weight decay, momentum 0.9", momentum=0.9, decay=1e-3, decoupled=True
    ),
    "cosine": Kind("cosine schedule, momentum 0.9", momentum=0.9, schedule="cosine"),
    "piecewise": Kind(
        "piecewise constant rate, momentum 0.9", momentum=0.9, schedule="piecewise"
    ),
    "adam": Kind("Adam", adam=True),
}
CLOSED = tuple(name for name, kind in KINDS.items() if not kind.adam)
# Their limit is that of (A + c I)^-1 b.
LIMITS = tuple(
    name for name, kind in KINDS.items() if kind.decay and not kind.decoupled
)


class Classes(NamedTuple):
    """Labels, and where the logits begin.

    Attributes:
      title: in words.
      random: ten random classes in the place of the images' own.
      logits: root mean square of the logits before training.
    """

    title: str
    random: bool
    logits: float


CLASSES = {
    "true": Classes("true labels", random=False, logits=0.01),
    "random": Classes("random labels", random=True, logits=0.01),
    "random_0.3": Classes("random labels, logits from 0.3", random=True, logits=0.3),
    "random_1": Classes("random labels, logits from 1", random=True, logits=1.0),
}


@dataclass(frozen=True)
class Settings(frame.Settings):
    """What the paper does not have: simulation over theory."""

    images: int | None = 10_000
    """Use at most so many images, evenly spaced."""
    label: int = 3
    """The class that targets of minibatches and of trained heads tell from all others,
    counted from 0."""
    filters: int = 16
    """Width of the convolution."""
    kernel_size: int = 3
    """Height and width of the filters."""
    rate: float = 0.9
    """Learning rate over half of the largest stable one."""
    steps: int = 10_000
    """Of full-batch training."""
    seeds: int = 256
    """Networks of each optimiser, with targets of their own."""
    singles: int = 4
    """Networks of each optimiser that are followed weight by weight."""
    adam_rate: float = 1e-4
    """Adam's learning rate."""
    batches: tuple[str, ...] = ("4,0.2", "16,0.2", "16,0.1", "16,0.05", "64,0.05")
    """Batch sizes, and learning rates over half of the largest stable one of full
    batches, as size,rate. The second is trained in epochs too."""
    batch_seeds: int = 128
    """Networks of each of them; they differ in their batches alone."""
    batch_time: float = 250.0
    """Rate times steps of each of them."""
    classified: int = 500
    """Images of the networks with cross-entropy."""
    class_steps: int = 1_000
    """Steps of these."""
    class_seeds: int = 4
    """Networks of each kind of labels."""
    scales: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    """Squared lengths of trained heads at the start, over that of what they learn."""
    head_seeds: int = 8
    """Networks of each of them."""
    seed: int = 0
    """Of every random number in the experiment."""


PRESETS = {
    "smoke": Settings(
        preset="smoke",
        images=256,
        filters=4,
        steps=200,
        seeds=16,
        singles=2,
        batches=("16,0.2", "16,0.1"),
        batch_seeds=16,
        batch_time=10.0,
        classified=100,
        class_steps=30,
        class_seeds=2,
        scales=(0.1, 10.0, 100.0),
        head_seeds=2,
    ),
    "cpu": Settings(preset="cpu"),
    "paper": Settings(
        preset="paper", dataset="cifar10", images=None, seeds=1024, batch_seeds=512
    ),
}


def resolve(given: Settings) -> Settings:
    """The settings, checked.

    Raises:
      ValueError: one that cannot work.
    """
    smallest = {
        "images": 32,
        "filters": 2,
        "kernel_size": 1,
        "steps": 10,
        "seeds": 4,
        "singles": 1,
        "batch_seeds": 4,
        "classified": 2,
        "class_steps": 3,
        "class_seeds": 1,
        "head_seeds": 1,
        "label": 0,
    }
    frame.check_at_least(given, smallest)
    if not 0 < given.rate <= 1:
        raise ValueError(
            "--rate must be above 0 and at most 1, so that the plain form has a limit"
            f" where momentum allows rates twice as large, got {given.rate}."
        )
    for name in ("adam_rate", "batch_time"):
        if not getattr(given, name) > 0:
            raise ValueError(
                f"--{name.replace('_', '-')} must be > 0, got {getattr(given, name)}."
            )
    if len(given.batches) < 2 or len(set(given.batches)) < len(given.batches):
        raise ValueError(
            f"--batches must be two or more, none twice, got {given.batches}."
        )
    noises = {size_and_rate(text)[1] / size_and_rate(text)[0] for text in given.batches}
    if len(noises) < 2:
        raise ValueError(
            "--batches must differ in rate over size, or there is no law to see, got"
            f" {given.batches}."
        )
    if len(given.scales) < 2 or not all(scale > 0 for scale in given.scales):
        raise ValueError(
            f"--scales must be two or more positive numbers, got {given.scales}."
        )
    if list(given.scales) != sorted(set(given.scales)):
        raise ValueError(f"--scales must increase, got {given.scales}.")
    return given


def size_and_rate(text: str) -> tuple[int, float]:
    """A batch size and a rate, of "16,0.1".

    Raises:
      ValueError: they are not.
    """
    size, _, rate = text.partition(",")
    try:
        found = int(size), float(rate)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or not 0 < found[1] < 2:
        raise ValueError(
            "--batches must be batch sizes and rates below 2, each as 16,0.1, got"
            f" {text!r}."
        )
    return found


def batch_steps(settings: Settings, text: str) -> int:
    """Steps of a run in minibatches: as many as make the same rate times steps."""
    return max(2, round(settings.batch_time / size_and_rate(text)[1]))


def options(kind: Kind, weight_decay: float) -> dict[str, Any]:
    """The optimiser, as `theory.gradient_descent` takes it."""
    return {
        "momentum": kind.momentum,
        "nesterov": kind.nesterov,
        "weight_decay": weight_decay,
        "decoupled": kind.decoupled,
    }
