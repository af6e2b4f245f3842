"""Banks of filters in three conventions, random ones beside them, and what the arrays
of `pretrained` hold of them."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import theory
from experiments import trained
from experiments.frame import Arrays

NAME = "pretrained"
BANKS = 200  # random ones
DRAWN = 20  # of them at once: banks of large filters fill the memory
CONVENTIONS = {
    "raw": "raw weights",
    "unit": "unit norm",
    "alive": "unit norm, no dead filters",
}
CHECKED = "unit"


class Group(NamedTuple):
    """Networks of one kernel size in one basis.

    Attributes:
      basis: whose patches give it.
      size: of the kernels, e.g. "3x3".
      key: what the names of their arrays begin with.
    """

    basis: str
    size: str
    key: str


def scaled(bank: np.ndarray, convention: str) -> np.ndarray:
    """A bank, (kh, kw, C, K), in one of CONVENTIONS."""
    if convention == "raw":
        return bank
    return unit_norm(bank if convention == "unit" else bank[..., ~trained.dead(bank)])


def unit_norm(bank: np.ndarray) -> np.ndarray:
    """Every filter of (..., kh, kw, C, K) scaled to unit norm; one that is exactly 0
    stays so."""
    norm = trained.norms(bank)[..., None, None, None, :]
    return np.divide(bank, norm, out=np.zeros_like(bank), where=norm > 0)


def filters_left(bank: np.ndarray, convention: str) -> int:
    """How many filters a bank, (kh, kw, C, K), really has in one of CONVENTIONS: those
    that are exactly 0 add nothing to a profile."""
    return int(np.count_nonzero(trained.norms(scaled(bank, convention))))


def random_profiles(
    random: np.random.Generator,
    shape: tuple[int, ...],
    components: np.ndarray,
) -> np.ndarray:
    """Profiles of random banks of filters at unit norm, (BANKS, d).

    Args:
      random: draws bank by bank.
      shape: of one bank, (kh, kw, C, K).
      components: as in `theory.energy_profile`.
    """
    return np.concatenate(
        [
            theory.energy_profile(
                unit_norm(random.normal(size=(DRAWN, *shape))), components
            )
            for _ in range(BANKS // DRAWN)
        ]
    )


def groups(arrays: Arrays) -> Iterator[Group]:
    """All groups; the size of most networks that were downloaded comes first, and among
    equals that of most networks."""
    sizes = dict.fromkeys(
        key.split("/")[1] for key in arrays if key.endswith("/members")
    )

    def often(size: str) -> tuple[int, int]:
        own = [network["own"] for network in described(arrays, f"0/{size}")]
        return own.count(False), len(own)

    for size, (number, basis) in itertools.product(
        sorted(sizes, key=often, reverse=True), enumerate(arrays["bases"])
    ):
        yield Group(str(basis), size, f"{number}/{size}")


def described(arrays: Arrays, key: str) -> list[dict[str, Any]]:
    """The networks of a group."""
    everything = json.loads(str(arrays["networks"]))
    return [everything[index] for index in arrays[f"{key}/members"]]


def kernels(arrays: Arrays, key: str) -> list[np.ndarray]:
    """The first layers of a group's networks, (kh, kw, C, K) each."""
    return [arrays[f"{index}/kernel"] for index in arrays[f"{key}/members"]]


def numbers_of_filters(arrays: Arrays, key: str, convention: str) -> list[int]:
    """How many filters each network of a group has in a convention, and the random
    banks beside it."""
    return [filters_left(kernel, convention) for kernel in kernels(arrays, key)]


def correlations(
    arrays: Arrays, key: str, convention: str
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the profiles of networks with each other, (M, M), and with random
    banks of as many filters, (M, BANKS)."""
    profiles = arrays[f"{key}/{convention}"]
    numbers = numbers_of_filters(arrays, key, convention)
    random = np.stack([arrays[f"{key}/random/{number}"] for number in numbers])
    among = theory.profile_correlation(profiles[:, None], profiles[None])
    beside = theory.profile_correlation(profiles[:, None], random)
    return np.asarray(among), np.asarray(beside)
