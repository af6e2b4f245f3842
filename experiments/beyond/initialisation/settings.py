"""What is trained: the settings, and the arms that they ask for."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments import frame
from experiments.frame import Preset

NAME = "initialisation"
# Without and with batch norm.
NETWORKS = {"plain": False, "norm": True}
KERNEL_SIZE = 3
HE = "He"
REGULARISED = "whitening, epsilon"
Filters = Literal["drawn", "components", "whitening", "time"]


@dataclass(frozen=True)
class Settings(frame.Settings):
    """First layers made from the closed form, against drawn ones (ours)."""

    preset: Preset | None = "cpu"
    """Where all other settings begin. smoke: photographs, tiny networks; cpu:
    4000 images of CIFAR-10 for 2 cores; paper: all of it, for an accelerator."""
    dataset: str = "cifar10"
    """photographs, cifar10, cifar100, fashion_mnist, a folder of class folders, or an
    .npz file; read into memory."""
    images: int = 4_000
    """Training images, evenly spaced."""
    features: tuple[int, ...] = (54, 16, 32)
    """Filters of each layer of SmallCNN. A first layer of 54 has each of the 27
    components of 3x3 patches of colour images with both signs."""
    batch_size: int = 32
    """Images a step."""
    steps: int = 300
    """Of every training."""
    records: tuple[int, ...] = (100, 150, 200, 250)
    """Steps at which the loss on all training images is recorded, beside the first and
    the last."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    rates: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08)
    """Learning rates, of which each arm gets the best on other seeds."""
    epsilons: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Of regularised whitening, in units of the variance of normalised pixels, of which
    the best on other seeds is taken."""
    times: tuple[float, ...] = (100.0, 1_000.0)
    """Learning rate times steps of the closed form, in units of 1 / that variance."""
    slowed: float = 0.1
    """Share of the learning rate that a slowed first layer has."""
    # Neither root of seeds was used in the pilot or anywhere else.
    seeds: int = 12
    """Networks of each arm; those of one number share all other weights and batches."""
    seed: int = 2917
    """Root of their random numbers."""
    rate_seeds: int = 2
    """Networks on which rates and epsilon are chosen."""
    rate_seed: int = 2918
    """Root of theirs."""
    store: Path | None = None
    """Folder of what was trained; <out>/runs by default."""
    fresh: bool = False
    """Train again what the store has."""


PRESETS = {
    "smoke": Settings(
        preset="smoke",
        dataset="photographs",
        images=128,
        features=(6, 4),
        batch_size=16,
        steps=6,
        records=(3,),
        rates=(0.01,),
        epsilons=(0.01,),
        times=(100.0,),
        seeds=2,
        rate_seeds=1,
    ),
    "cpu": Settings(),
    "paper": Settings(preset="paper", images=50_000, steps=3_000, records=(1_000,)),
}


class Arm(NamedTuple):
    """How the first layer begins, and how it learns.

    Attributes:
      filters: "drawn" from He's distribution as the network does it; "components" of
        the patches with equal weights; "whitening" of them; or the closed form at a
        "time".
      value: epsilon of the whitening, or the time; None: epsilon is chosen on other
        seeds.
      mixed: whether the filters are mixed by a random rotation, after which they have
        the same energy profile.
      learns: "all" of the layer; its "bias" alone; or all of it "slowly".
    """

    filters: Filters
    value: float | None = 0.0
    mixed: bool = False
    learns: Literal["all", "bias", "slowly"] = "all"


def arms(settings: Settings) -> dict[str, Arm]:
    """All arms by their names."""
    whitening = Arm("whitening")
    return {
        HE: Arm("drawn"),
        "He, frozen": Arm("drawn", learns="bias"),
        "whitening": whitening,
        "whitening, frozen": whitening._replace(learns="bias"),
        "whitening, slowed": whitening._replace(learns="slowly"),
        "whitening, mixed": whitening._replace(mixed=True),
        "components": Arm("components"),
        REGULARISED: Arm("whitening", None),
        **{time_name(time): Arm("time", time) for time in settings.times},
    }


def time_name(time: float) -> str:
    """The arm of the closed form at a time."""
    return f"t = {time:,g}"


def candidates(arm: Arm, settings: Settings) -> list[Arm]:
    """The arm with each epsilon that it may have."""
    if arm.value is not None:
        return [arm]
    return [arm._replace(value=epsilon) for epsilon in settings.epsilons]


def resolve(given: Settings) -> Settings:
    """The settings, checked, with the store beside the results unless it is named.

    Raises:
      ValueError: one that cannot work.
    """
    if given.preset not in (None, *frame.PRESET_NAMES):
        raise ValueError(
            f"--preset must be one of {', '.join(frame.PRESET_NAMES)}, got"
            f" {given.preset!r}."
        )
    least = {"images": 2, "batch_size": 1, "steps": 2, "seeds": 2, "rate_seeds": 1}
    frame.check_at_least(given, least)
    if given.batch_size > given.images:
        raise ValueError(
            f"--batch-size must be at most --images = {given.images}, got"
            f" {given.batch_size}."
        )
    if not given.features or min(given.features) < 1:
        raise ValueError(
            "--features must be the numbers of filters of one layer or more, none below"
            f" 1, got {given.features}."
        )
    for option, values in (
        ("rates", given.rates),
        ("epsilons", given.epsilons),
        ("times", given.times),
    ):
        increasing = all(0 < a < b for a, b in itertools.pairwise(values))
        if not values or not increasing or not 0 < values[0] <= values[-1] < np.inf:
            raise ValueError(
                f"--{option} must be positive numbers in increasing order, got"
                f" {values}."
            )
    records = (0, *given.records, given.steps)
    if any(a >= b for a, b in itertools.pairwise(records)):
        raise ValueError(
            f"--records must increase and lie between 0 and --steps = {given.steps},"
            f" got {given.records}."
        )
    if not 0 < given.slowed < 1:
        raise ValueError(
            f"--slowed must be greater than 0 and less than 1, got {given.slowed}."
        )
    if not 0 <= given.momentum < 1:
        raise ValueError(
            f"--momentum must be at least 0 and less than 1, got {given.momentum}."
        )
    if given.seed == given.rate_seed:
        raise ValueError(
            f"--seed and --rate-seed must differ, or rates are chosen on the networks"
            f" that are compared, got {given.seed} twice."
        )
    return replace(given, store=given.store or given.out / "runs")
