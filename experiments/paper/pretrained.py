"""First layers of pretrained networks have much the same energy profile (paper, Fig.
10, 11 and demo notebook).

    python -m experiments data pretrained
    python -m experiments pretrained
    python -m experiments pretrained --files resnet18.safetensors my_network.npz

Compares the weights of the first layers of whatever networks of
`experiments.download.pretrained` are there, and of the files named, in fixed bases that
have nothing to do with their training: principal components of the patches of --dataset
and of --second. Networks are compared with others of the same kernel size, within and
between families, and with random filters; the formula of Theorem 4.2 is fitted to each.
Batch norm behind the first layer leaves the scale of a filter arbitrary, so that the
weights are looked at in three ways: as they are, with every filter scaled to unit norm,
and that without filters that were dead (norm below 1 % of the largest). The initial
weights are not known, hence not subtracted.

Takes half a minute. Writes <out>/pretrained/<dataset>/{config.json, arrays.npz,
summary.json}, and the figures pretrained and pretrained_others as .png and .pdf.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np

import linear_cnn
import theory
from experiments import frame, trained
from experiments.frame import Arrays, figures, inputs
from experiments.trained.elsewhere import COMMAND, DEAD, dead, norms, present

NAME = "pretrained"
PAPER = "one block of high correlations"
BETWEEN_FAMILIES = 0.75  # smallest mean correlation at unit norm
RANDOM = 0.2  # largest mean correlation with random filters, of either sign
BANKS, FILTERS = 200, 64  # random ones
CONVENTIONS = {
    "raw": "raw weights",
    "unit": "unit norm",
    "alive": "unit norm, no dead filters",
}
CHECKED = "unit"
# Of the formula, to the change of the first layer of networks trained on ImageNet.
PAPER_FIT = (0.90, 0.01)


@dataclass(frozen=True)
class Settings:
    """First layers of pretrained networks (paper, Fig. 10, 11, demo notebook)."""

    preset: frame.Preset = "cpu"
    """smoke: 200 photographs; cpu: 10,000 images; paper: 50,000. The networks are
    always the same."""
    dataset: str = "cifar10"
    """Whose patches give the basis: photographs, cifar10, cifar100, a folder of class
    folders, or an .npz file."""
    second: str = "photographs"
    """Another one, for a second basis; "" for none."""
    images: int = 10_000
    """Use only so many images of each, evenly spaced."""
    data_dir: Path | None = None
    """Where the data sets and networks lie; $LINEAR_CNN_DATA or a folder of the user's
    cache by default."""
    files: tuple[Path, ...] = ()
    """More networks: safetensors, .npz, PyTorch, ONNX, TensorFlow GraphDef, or
    model.json of TensorFlow.js."""
    tensor: str | None = None
    """Name of the first layer's kernel in these files, where it is not recognised."""
    layout: Literal["OIHW", "HWIO"] | None = None
    """Order of the kernel's axes in these files, where it is not recognised."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Of the input of the networks in these files."""
    seed: int = 0
    """Of the random filters."""
    out: Path = Path("results")
    """Folder for the results, in a subfolder of the experiment's and the data set's
    names."""
    redraw: bool = False
    """Only draw the figures and print the table again, from the saved arrays."""


PRESETS = {
    "smoke": Settings(preset="smoke", dataset="photographs", second="", images=200),
    "cpu": Settings(),
    "paper": Settings(preset="paper", images=50_000),
}


def main(settings: Settings) -> None:
    """Fig. 10, 11 of the paper: first layers of pretrained networks."""
    frame.run(NAME, resolve(settings), compute, summary, draw, table)


def resolve(settings: Settings) -> Settings:
    """The settings, after checking them."""
    if settings.preset not in PRESETS:
        raise ValueError(
            f"--preset must be one of {', '.join(PRESETS)}, got {settings.preset!r}."
        )
    frame.check_at_least(settings, {"images": 1})
    if settings.second == settings.dataset:
        raise ValueError(
            '--second must be another data set than --dataset, or "", got'
            f" {settings.second!r} for both."
        )
    return settings


def compute(settings: Settings) -> Arrays:
    """Kernels and profiles.

    Returns:
      "networks" and "missing" (JSON); "<n>/kernel" (kh, kw, 3, K) of network n; "bases"
      (B,) names; and for basis b and kernel size s "<b>/<s>/" with "members" (M,), the
      networks of this size; "variance" (d,); "random" (BANKS, d) and "random/fit"
      (BANKS,), profiles and the correlations of the formula with them; and for each of
      CONVENTIONS the profiles (M, d), and "<convention>/fit/" with the fields of
      `theory.ProfileFit`.
    """
    banks, described, missing = present(
        settings.data_dir,
        settings.files,
        settings.tensor,
        layout=settings.layout,
        channel_order=settings.channel_order,
    )
    if not banks:
        raise FileNotFoundError(
            f"there is no pretrained network; get them with `{COMMAND}`, or name files"
            " with --files."
        )
    arrays: Arrays = {
        "networks": np.array(json.dumps(described)),
        "missing": np.array(json.dumps(missing)),
    }
    arrays |= {f"{index}/kernel": bank for index, bank in enumerate(banks)}
    bases = [name for name in (settings.dataset, settings.second) if name]
    arrays["bases"] = np.array(bases)
    random = np.random.default_rng(settings.seed)
    for basis, dataset in enumerate(bases):
        pixels = inputs.load(dataset, settings.data_dir, settings.images).images
        if pixels.shape[-1] != 3:
            raise ValueError(
                f"images of {dataset} have {pixels.shape[-1]} channels, but the"
                " networks' filters have 3."
            )
        images = linear_cnn.normalize_channels(
            pixels, *trained.PAPER_CHANNELS.get(dataset, (None, None))
        )
        for size in sorted({bank.shape[:2] for bank in banks}):
            members = [
                index for index, bank in enumerate(banks) if bank.shape[:2] == size
            ]
            spectrum = theory.patch_spectrum(images, size)
            control = unit_norm(random.normal(size=(BANKS, *size, 3, FILTERS)))
            measured: dict[str, Any] = {
                "members": members,
                "variance": spectrum.variance,
                "random": theory.energy_profile(control, spectrum.components),
            }
            for convention in CONVENTIONS:
                profiles = np.stack(
                    [
                        np.asarray(
                            theory.energy_profile(
                                scaled(banks[index], convention), spectrum.components
                            )
                        )
                        for index in members
                    ]
                )
                fit = theory.fit_profile(profiles, spectrum.variance)
                measured |= {convention: profiles}
                measured |= {
                    f"{convention}/fit/{name}": value
                    for name, value in vars(fit).items()
                }
            measured["random/fit"] = theory.fit_profile(
                measured["random"], spectrum.variance
            ).correlation
            key = f"{basis}/{size[0]}x{size[1]}"
            arrays |= {
                f"{key}/{name}": np.asarray(value) for name, value in measured.items()
            }
    return arrays


def scaled(bank: np.ndarray, convention: str) -> np.ndarray:
    """A bank, (kh, kw, C, K), in one of CONVENTIONS."""
    if convention == "raw":
        return bank
    return unit_norm(bank if convention == "unit" else bank[..., ~dead(bank)])


def unit_norm(bank: np.ndarray) -> np.ndarray:
    """Every filter of (..., kh, kw, C, K) scaled to unit norm; one that is exactly 0
    stays so."""
    norm = norms(bank)[..., None, None, None, :]
    return np.divide(bank, norm, out=np.zeros_like(bank), where=norm > 0)


def groups(arrays: Arrays) -> Iterator[tuple[str, str, str]]:
    """Basis, kernel size and the beginning of their arrays' names; the size of most
    networks comes first."""
    sizes = dict.fromkeys(
        key.split("/")[1] for key in arrays if key.endswith("/members")
    )
    often = sorted(sizes, key=lambda size: -len(arrays[f"0/{size}/members"]))
    for size, (number, basis) in itertools.product(often, enumerate(arrays["bases"])):
        yield str(basis), size, f"{number}/{size}"


def described(arrays: Arrays, key: str) -> list[dict[str, Any]]:
    """The networks of a group."""
    everything = json.loads(str(arrays["networks"]))
    return [everything[index] for index in arrays[f"{key}/members"]]


def correlations(
    arrays: Arrays, key: str, convention: str
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the profiles of networks with each other, (M, M), and with random
    filters, (M, BANKS)."""
    profiles = arrays[f"{key}/{convention}"]
    among = theory.profile_correlation(profiles[:, None], profiles[None])
    return np.asarray(among), np.asarray(
        theory.profile_correlation(profiles[:, None], arrays[f"{key}/random"][None])
    )


def comparisons(matrix: np.ndarray, families: Sequence[str]) -> dict[str, list[float]]:
    """The mean correlation of each two families, and the correlation of each two
    networks of one family."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for one, other in itertools.combinations(range(len(families)), 2):
        # The networks of a family need not come in a row.
        first, second = sorted((families[one], families[other]))
        pairs.setdefault((first, second), []).append(float(matrix[one, other]))
    return {
        "between": [
            float(np.mean(values))
            for (one, other), values in pairs.items()
            if one != other
        ],
        "within": [
            value
            for (one, other), values in pairs.items()
            if one == other
            for value in values
        ],
    }


def summary(arrays: Arrays) -> dict[str, Any]:
    """Correlations within and between families and with random filters; the fits; and
    the checks."""
    results: list[dict[str, Any]] = []
    checks = []
    for basis, size, key in groups(arrays):
        members = described(arrays, key)
        families = [network["family"] for network in members]
        rows: dict[str, dict[str, Any]] = {}
        for convention in CONVENTIONS:
            matrix, random = correlations(arrays, key, convention)
            found = comparisons(matrix, families) | {
                "random": random.mean(axis=0).tolist()
            }
            for name, values in found.items():
                rows.setdefault(name, {})[convention] = (
                    frame.spread(values) if values else None
                )
            if convention == CHECKED:
                where = f"{CONVENTIONS[CHECKED]}, {size}, basis of {basis}"
                if found["between"]:
                    mean = float(np.mean(found["between"]))
                    checks.append(
                        frame.check(
                            f"between families, {where}",
                            mean,
                            at_least=BETWEEN_FAMILIES,
                            paper=PAPER,
                        )
                    )
                mean = float(random.mean())
                checks.append(
                    frame.check(
                        f"with random filters, {where}",
                        mean,
                        at_least=-RANDOM,
                        at_most=RANDOM,
                    )
                )
        titles = {
            "between": "between families",
            "within": "within families",
            "random": "with random filters",
        }
        common = {"basis": basis, "size": size, "paper": None}
        results += [
            {"comparison": titles[name], **common, **row}
            for name, row in rows.items()
            if any(row.values())
        ]
        results += [
            _fit_row(arrays, key, place, network) | common
            for place, network in enumerate(members)
        ]
        control = dict.fromkeys(CONVENTIONS) | {
            CHECKED: frame.spread(arrays[f"{key}/random/fit"])
        }
        results.append(
            {
                "comparison": "with the fitted formula, random filters",
                **common,
                **control,
            }
        )
    return {
        "results": results,
        "checks": checks,
        "networks": json.loads(str(arrays["networks"])),
        "missing": json.loads(str(arrays["missing"])),
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


def _fit_row(
    arrays: Arrays, key: str, place: int, network: dict[str, Any]
) -> dict[str, Any]:
    kernel = arrays[f"{arrays[f'{key}/members'][place]}/kernel"]
    row: dict[str, Any] = {
        "comparison": f"with the fitted formula, {network['title']}",
        "filters": kernel.shape[-1],
        "dead": int(dead(kernel).sum()),
    }
    for convention in CONVENTIONS:
        fit = {
            name: float(arrays[f"{key}/{convention}/fit/{name}"][place])
            for name in (
                "correlation",
                "correlation_at_zero",
                "correlation_at_infinity",
            )
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
    }
    note = (
        "± standard deviation over pairs of families (between), of networks (within),"
        f" and over {BANKS} random banks of {FILTERS} filters, there with their mean"
        f" over the networks; dead: filters below {DEAD:.0%} of the largest norm; the"
        " formula's time is chosen for each profile, also for random ones"
    )
    if summary["missing"]:
        note += f". Not there: {', '.join(summary['missing'])}; `{COMMAND}` gets them."
    return frame.Table(columns, note)


def draw(folder: Path, arrays: Arrays) -> None:
    """First figure: the size of most networks in the first basis, by convention.
    Second: the other groups, checked."""
    (basis, size, key), *others = groups(arrays)
    figure, axes = plt.subplots(
        2, len(CONVENTIONS), figsize=(13, 9), height_ratios=(2, 3), squeeze=False
    )
    for (convention, title), (top, bottom) in zip(
        CONVENTIONS.items(), axes.T, strict=True
    ):
        _profiles(top, arrays, key, convention)
        _matrix(bottom, arrays, key, convention)
        top.set_title(title)
    axes[0, 0].set_ylabel("energy profile, divided by its maximum")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.suptitle(
        f"First layers of pretrained networks, {size}: PCA basis of {_short(basis)}"
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figures.save(figure, folder, NAME)
    if not others:
        return
    figure = plt.figure(figsize=(11, 4.2 * len(others)))
    grid = figure.add_gridspec(len(others), 2)
    for row, (basis, size, key) in enumerate(others):
        several = len(arrays[f"{key}/members"]) > 1
        left = figure.add_subplot(grid[row, 0] if several else grid[row, :])
        _profiles(left, arrays, key, CHECKED)
        left.set(
            ylabel="energy profile / maximum",
            title=f"{size}, PCA basis of {_short(basis)}, {CONVENTIONS[CHECKED]}",
        )
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3}
        left.legend(fontsize=7, **(below if several else {"loc": "upper right"}))
        if several:
            _matrix(figure.add_subplot(grid[row, 1]), arrays, key, CHECKED)
    figures.save(figure, folder, f"{NAME}_others")


def _short(dataset: str) -> str:
    return {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(
        dataset, Path(dataset).name
    )


def _profiles(axis: Any, arrays: Arrays, key: str, convention: str) -> None:
    """A line for each network, its colour that of its family; random filters; for a
    single network the fit too."""
    profiles, random = arrays[f"{key}/{convention}"], arrays[f"{key}/random"]
    component = np.arange(1, profiles.shape[1] + 1)
    members = described(arrays, key)
    colours = dict(
        zip(
            dict.fromkeys(network["family"] for network in members),
            itertools.cycle(figures.COLOURS),
        )
    )
    styles: dict[str, Iterator[str]] = {
        family: itertools.cycle(("-", "--", ":", "-.")) for family in colours
    }
    for network, profile in zip(members, profiles, strict=True):
        family = network["family"]
        axis.plot(
            component,
            profile / profile.max(),
            color=colours[family],
            linestyle=next(styles[family]),
            label=network["title"],
        )
    if len(members) == 1:
        fit = arrays[f"{key}/{convention}/fit/profile"][0]
        found = float(arrays[f"{key}/{convention}/fit/correlation"][0])
        label = f"fitted formula (correlation {found:.2f})"
        axis.plot(
            component, fit / profiles[0].max(), color="black", linewidth=1, label=label
        )
    figures.band(
        axis,
        component,
        random / random.max(axis=1, keepdims=True),
        "grey",
        linestyle="--",
        label=f"random filters ({BANKS} banks, ± s.d.)",
    )
    axis.set_ylim(0, None)
    figures.component_axis(axis, len(component))
    if len(component) > 50:
        axis.set_xticks([1, *range(25, len(component) + 1, 25)])


def _matrix(axis: Any, arrays: Arrays, key: str, convention: str) -> None:
    """Correlations of all pairs, families side by side, and of each network with random
    filters (mean)."""
    matrix, random = correlations(arrays, key, convention)
    members = described(arrays, key)
    names = [network["title"] for network in members]
    shown = np.concatenate([matrix, random.mean(axis=1)[None]])
    axis.imshow(shown, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    for (row, column), value in np.ndenumerate(shown):
        axis.text(
            column,
            row,
            f"{value:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(value) > 0.6 else "black",
        )
    families = [network["family"] for network in members]
    ends = [
        place - 0.5
        for place in range(1, len(families))
        if families[place] != families[place - 1]
    ]
    for end in ends:
        axis.axhline(end, color="black", linewidth=0.8)
        axis.axvline(end, color="black", linewidth=0.8)
    axis.axhline(len(members) - 0.5, color="black", linewidth=2)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
    axis.set_yticks(range(len(names) + 1), [*names, "random (mean)"], fontsize=7)
    axis.grid(visible=False)
