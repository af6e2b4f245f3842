"""Every comparison of `theory_vs_simulation`, from the saved arrays alone."""

import numpy as np

import theory
from experiments.frame import Arrays, Check, check
from experiments.paper.theory_vs_simulation.settings import ENSEMBLES, EXACT, QUANTILES

TOLERANCE = {"float64": 1e-9, "float32": 1e-2}


def judge(arrays: Arrays) -> list[Check]:
    """Every comparison, with how far the simulation moved, the bound, and what a wrong
    formula gives."""
    checks = [exact_check(arrays, name, title) for name, title in EXACT.items()]
    checks += [
        agreement_check(arrays, original, compressed)
        for original, compressed in (
            ("full", "compressed_full"),
            ("mean_patches", "compressed"),
        )
    ]
    checks.append(permutation_check(arrays))
    for name, title in ENSEMBLES.items():
        for kind in ("weights", "change"):
            checks += ensemble_checks(arrays, name, title, kind)
    checks += [
        theorem_check(arrays, "patches_drawn", True),
        theorem_check(arrays, "raw_drawn", False),
    ]
    checks.append(whitening_check(arrays))
    gap = np.abs(
        arrays["autocorrelation/shortcut"] - arrays["autocorrelation/measured"]
    ).max()
    filters = arrays["autocorrelation/filters"]
    checks.append(
        check(
            "autocorrelation from cross moments vs a real convolution",
            gap,
            at_most=1e-6,
            moved=f"C up to {np.abs(filters[-1] - filters[0]).max():.2g}",
        )
    )
    return checks


def exact_check(arrays: Arrays, name: str, title: str) -> Check:
    """Largest error of the exact form over all recorded steps, as a fraction of how far
    the weights moved."""
    simulated = arrays[f"{name}/simulated"]
    # The least of several networks.
    moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()

    wrong = {"eta / 2": "wrong_learning_rate", "Sigma / J for A": "wrong_second_moment"}

    def error(form: str) -> float:
        return float(np.abs(simulated - arrays[f"{name}/{form}"]).max() / moved)

    return check(
        f"exact form, {title}, {arrays[f'{name}/steps'][-1]:,} steps",
        error("predicted"),
        at_most=TOLERANCE[str(simulated.dtype)],
        moved=f"max |w - w(0)| = {moved:.2g}",
        wrong={
            label: error(form)
            for label, form in wrong.items()
            if f"{name}/{form}" in arrays
        },
    )


def agreement_check(arrays: Arrays, original: str, compressed: str) -> Check:
    """Trajectories of the same network on the original and on the compressed data."""
    simulated = arrays[f"{original}/simulated"]
    moved = np.abs(simulated - simulated[:, :1]).max(axis=(1, 2, 3, 4, 5)).min()
    return check(
        f"{EXACT[original]}, vs compressed",
        np.abs(simulated - arrays[f"{compressed}/simulated"]).max() / moved,
        at_most=1e-9,
        moved=f"max |w - w(0)| = {moved:.2g}",
    )


def permutation_check(arrays: Arrays) -> Check:
    """Mean energy over all orders of the labels against the shuffled law, relative to
    each step's largest."""
    energy = arrays["permutations/energy"][1:]

    def error(form: str) -> float:
        return float(
            (
                np.abs(arrays[f"permutations/{form}"][1:] ** 2 - energy).max(axis=1)
                / energy.max(axis=1)
            ).max()
        )

    return check(
        "shuffled law, mean over all 720 orders of 6 labels",
        error("expected"),
        at_most=1e-9,
        moved=f"rms profile up to {np.sqrt(energy.max()):.2g} from 0",
        wrong={"N for N - 1": error("wrong_count")},
    )


def simulated_profiles(arrays: Arrays, name: str, kind: str) -> np.ndarray:
    """Energy profile of each seed at each recorded step, (S, R, d)."""
    kernels = arrays[f"{name}/kernels"]
    if kind == "change":
        kernels = kernels - kernels[:, :1]
    return np.asarray(theory.energy_profile(kernels, arrays[f"{name}/components"]))


def ensemble_checks(arrays: Arrays, name: str, title: str, kind: str) -> list[Check]:
    """Mean energy in standard errors from the expected one, and the share of seeds
    inside the 90 % band."""
    profiles = simulated_profiles(arrays, name, kind)[:, 1:]
    energy, seeds = profiles**2, len(profiles)
    mean, error = energy.mean(axis=0), energy.std(axis=0, ddof=1) / np.sqrt(seeds)

    def deviation(form: str) -> float:
        return float(
            np.abs((mean - arrays[f"{name}/{form}_{kind}"][1:] ** 2) / error).max()
        )

    label = {"weights": "W", "change": "change of W"}[kind]
    moved = (
        f"rms change {np.sqrt(mean[-1].max()) / arrays[f'{name}/init_std']:.2g} x init"
    )
    rows = [
        check(
            f"expected profile, {title}, {label}: standard errors, worst of"
            f" {mean.size}",
            deviation("expected"),
            at_most=5.0,
            moved=moved,
            wrong={"eta / 2": deviation("wrong_learning_rate")},
        )
    ]
    low, high = arrays[f"{name}/quantiles_{kind}"][:, 1:]
    inside = ((profiles >= low) & (profiles <= high)).mean(axis=0)
    share = QUANTILES[1] - QUANTILES[0]
    binomial = np.sqrt(share * (1 - share) / seeds)
    # For other targets the band rests on a central limit theorem.
    if name.endswith("drawn"):
        rows.append(
            check(
                f"90 % band, {title}, {label}: binomial errors, worst of {inside.size}",
                np.abs(inside - share).max() / binomial,
                at_most=5.0,
                moved=f"{moved}, mean coverage {inside.mean():.3f}",
            )
        )
    return rows


def theorem_check(arrays: Arrays, name: str, holds: bool) -> Check:
    """Relative error of Theorem 4.2, no parameter fitted, beyond 3 standard errors of
    the simulated rms profile."""
    energy = simulated_profiles(arrays, name, "change")[:, 1:] ** 2
    mean, seeds = energy.mean(axis=0), len(energy)
    rms, error = (
        np.sqrt(mean),
        energy.std(axis=0, ddof=1) / np.sqrt(seeds) / (2 * np.sqrt(mean)),
    )

    def excess(form: str) -> float:
        profile = arrays[f"{name}/{form}"][1:]
        return float(((np.abs(rms - profile) - 3 * error) / profile).max())

    title = ENSEMBLES[name]
    if holds:
        wrong = {"eta / 2": excess("theorem_wrong_learning_rate")}
        return check(
            f"Theorem 4.2, {title}: relative error beyond 3 s.e.",
            excess("theorem"),
            at_most=0.1,
            moved=moved_text(rms),
            wrong=wrong,
        )
    ratio = arrays[f"{name}/decorrelation_ratio"]
    return check(
        f"Theorem 4.2 fails on {title} (decorrelation ratio {ratio.min():.2g} to"
        f" {ratio.max():.3g})",
        excess("theorem"),
        above=0.1,
        moved=moved_text(rms),
    )


def whitening_check(arrays: Arrays) -> Check:
    """Theorem 4.3: the profile is that of whitening, if the run is long enough for its
    slowest component."""
    variance = arrays["patches_drawn/variance"]
    flat = arrays["patches_drawn/theorem"][-1] * np.sqrt(variance)
    # A step shrinks what is left of a component by 1 - x.
    filters = arrays["patches_drawn/kernels"].shape[-1]
    x = (
        2
        * float(arrays["patches_drawn/learning_rate"])
        * filters
        / float(arrays["patches_drawn/patches_per_image"])
        * variance.min()
    )
    left = float((1 - x) ** int(arrays["patches_drawn/steps"][-1]))
    within = 0.1
    return check(
        "e_i lambda_i constant at the last step (theorem)",
        flat.max() / flat.min() - 1,
        at_most=within,
        reached=left <= within / (1 + within),
        caveat=f"{left:.0%} of the slowest component is left, more steps are needed"
        if left > within / (1 + within)
        else "",
    )


def moved_text(rms: np.ndarray) -> str:
    return f"rms profile {rms[0].max():.2g} -> {rms[-1].max():.2g}"
