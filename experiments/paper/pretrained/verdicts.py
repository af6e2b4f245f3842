"""What the profiles of `pretrained` say: correlations, fits, and the checks, which are
about the downloaded networks alone."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments import frame, trained
from experiments.frame import Arrays
from experiments.paper.pretrained.profiles import (
    BANKS,
    CHECKED,
    CONVENTIONS,
    Group,
    correlations,
    described,
    groups,
    kernels,
    numbers_of_filters,
)

PAPER = "one block of high correlations"
BETWEEN_FAMILIES = 0.75  # smallest mean correlation at unit norm
RANDOM = 0.2  # largest mean correlation with random filters, of either sign
# Of the formula, to the change of the first layer of networks trained on ImageNet.
PAPER_FIT = (0.90, 0.01)
FIT = ("correlation", "correlation_at_zero", "correlation_at_infinity")
Row = dict[str, Any]


def comparisons(matrix: np.ndarray, families: Sequence[str]) -> dict[str, list[float]]:
    """The mean correlation of each two families, and the correlation of each two
    networks of one family."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for one, other in itertools.combinations(range(len(families)), 2):
        # The networks of a family need not come in a row.
        first, second = sorted((families[one], families[other]))
        pairs.setdefault((first, second), []).append(float(matrix[one, other]))
    return {
        "between families": [
            float(np.mean(values))
            for (one, other), values in pairs.items()
            if one != other
        ],
        "within families": [
            value
            for (one, other), values in pairs.items()
            if one == other
            for value in values
        ],
    }


def of_downloaded(
    arrays: Arrays, key: str, convention: str
) -> dict[str, np.ndarray | list[float]]:
    """Correlations of the downloaded networks of a group: between and within families,
    and with random filters (networks, BANKS)."""
    matrix, random = correlations(arrays, key, convention)
    here = _downloaded(arrays, key)
    families = [described(arrays, key)[place]["family"] for place in here]
    found = comparisons(matrix[np.ix_(here, here)], families)
    return {**found, "with random filters": random[here]}


def _downloaded(arrays: Arrays, key: str) -> list[int]:
    members = described(arrays, key)
    return [place for place, network in enumerate(members) if not network["own"]]


def summary(arrays: Arrays) -> dict[str, Any]:
    """Correlations within and between families and with random filters; the fits; the
    same of the user's own networks; and the checks, of the others."""
    found = list(groups(arrays))
    return {
        "results": [
            row | {"basis": group.basis, "size": group.size}
            for group in found
            for row in _rows(arrays, group.key)
        ],
        "checks": [check for group in found for check in _checks(arrays, group)],
        "networks": json.loads(str(arrays["networks"])),
        "missing": json.loads(str(arrays["missing"])),
        "only_own": sorted(
            {group.size for group in found if not _downloaded(arrays, group.key)}
        ),
        "differs_from_paper": [
            (
                "the weights w(t), not their change: the initial weights are not known"
                " (paper's notebook alike)"
            ),
            (
                "the formula is fitted to w(t); to w(t) - w(0) on ImageNet the paper"
                f" has {PAPER_FIT[0]} ± {PAPER_FIT[1]}"
            ),
        ],
    }


def _checks(arrays: Arrays, group: Group) -> list[frame.Check]:
    """The verdicts on the downloaded networks of a group; none where there are none."""
    found = of_downloaded(arrays, group.key, CHECKED)
    where = f"{CONVENTIONS[CHECKED]}, {group.size}, basis of {group.basis}"
    between, random = found["between families"], found["with random filters"]
    checks = []
    if len(between):
        checks.append(
            frame.check(
                f"between families, {where}",
                np.mean(between),
                at_least=BETWEEN_FAMILIES,
                paper=PAPER,
            )
        )
    if len(random):
        checks.append(
            frame.check(
                f"with random filters, {where}",
                np.mean(random),
                at_least=-RANDOM,
                at_most=RANDOM,
            )
        )
    return checks


def _rows(arrays: Arrays, key: str) -> Iterator[Row]:
    """The rows of a group: of the downloaded networks, of random filters, and of each
    network of the user's own."""
    found = {name: of_downloaded(arrays, key, name) for name in CONVENTIONS}
    for comparison in found[CHECKED]:
        values = {name: found[name][comparison] for name in CONVENTIONS}
        if len(values[CHECKED]):
            yield {"comparison": comparison} | _spreads(values)
    members = described(arrays, key)
    for place in _downloaded(arrays, key):
        comparison = f"with the fitted formula, {members[place]['title']}"
        yield {"comparison": comparison} | _fit_row(arrays, key, place)
    for number in sorted(set(numbers_of_filters(arrays, key, CHECKED))):
        fits = frame.spread(arrays[f"{key}/random/{number}/fit"])
        yield {
            "comparison": "with the fitted formula, random filters",
            **dict.fromkeys(CONVENTIONS),
            CHECKED: fits,
            "random_filters": [number],
        }
    for place, network in enumerate(members):
        if network["own"]:
            yield from _own_rows(arrays, key, place, f"own: {network['title']}")


def _own_rows(arrays: Arrays, key: str, place: int, title: str) -> Iterator[Row]:
    """What a network of the user's own has in common with the others."""
    found = {name: correlations(arrays, key, name) for name in CONVENTIONS}
    others = _downloaded(arrays, key)
    if others:
        values = {name: found[name][0][place, others] for name in CONVENTIONS}
        yield {"comparison": f"{title}, with the downloaded networks"} | _spreads(
            values
        )
    values = {name: found[name][1][place] for name in CONVENTIONS}
    yield {"comparison": f"{title}, with random filters"} | _spreads(values)
    comparison = f"{title}, with the fitted formula"
    yield {"comparison": comparison} | _fit_row(arrays, key, place)


def _spreads(values: dict[str, Any]) -> Row:
    return {name: frame.spread(numbers) for name, numbers in values.items()}


def _fit_row(arrays: Arrays, key: str, place: int) -> Row:
    kernel = kernels(arrays, key)[place]
    numbers = [numbers_of_filters(arrays, key, name)[place] for name in CONVENTIONS]
    row: Row = {
        "filters": kernel.shape[-1],
        "dead": int(trained.dead(kernel).sum()),
        "random_filters": list(dict.fromkeys(numbers)),
    }
    for convention in CONVENTIONS:
        fit = {
            name: float(arrays[f"{key}/{convention}/fit/{name}"][place]) for name in FIT
        }
        row[convention] = frame.spread([fit["correlation"]]) | fit
    return row


def table(summary: dict[str, Any]) -> frame.Table:
    """The results in words."""
    rows = summary["results"]
    columns = {
        "correlation of profiles": [row["comparison"] for row in rows],
        "kernel": [row["size"] for row in rows],
        "basis": [row["basis"] for row in rows],
        **{
            title: [frame.number(row[name]) if row[name] else "" for row in rows]
            for name, title in CONVENTIONS.items()
        },
        "dead": [
            f"{row['dead']} of {row['filters']}" if "dead" in row else ""
            for row in rows
        ],
        "random": [", ".join(map(str, row.get("random_filters", ()))) for row in rows],
    }
    return frame.Table(columns, _note(summary))


def _note(summary: dict[str, Any]) -> str:
    note = (
        "± standard deviation over pairs of families (between), of networks (within),"
        f" over networks, and over {BANKS} random banks; dead: filters below"
        f" {trained.DEAD:.0%} of the largest norm; random: how many filters the random"
        " banks beside a network have, as many as it has itself that are not exactly 0;"
        " a second number is without the dead ones; the formula's time is chosen for"
        " each profile, also for random ones"
    )
    if any(network["own"] for network in summary["networks"]):
        note += ". Own networks are only shown: no verdict is about them"
    if summary["only_own"]:
        sizes = ", ".join(summary["only_own"])
        note += (
            f". No verdict on {sizes}: no downloaded network of this kernel size is"
            " there"
        )
    if summary["missing"]:
        note += (
            f". Not there: {', '.join(summary['missing'])}; `{trained.COMMAND}` gets"
            " them."
        )
    return note
