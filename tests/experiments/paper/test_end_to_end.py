"""The experiments on trained networks at a small size: what they write and share, and
numbers against explicit ones.

All in one file, since all read the same results: so each network is trained once.
"""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import theory
from experiments import catalogue, frame, trained
from experiments.frame import disk
from experiments.paper import (
    consistency,
    data_size,
    decorrelation,
    energy_labels,
    formula_fit,
    frozen_first_layer,
    random_labels,
    spectral_scaling,
)
from experiments.paper.decorrelation.curves import CRITERIA, OURS, TIMES
from experiments.trained.data import load
from experiments.trained.store import identifier

EXPERIMENTS = {
    "formula_fit": formula_fit,
    "random_labels": random_labels,
    "energy_labels": energy_labels,
    "spectral_scaling": spectral_scaling,
}


# Of deep networks too, which take three times as long to compile as all others; and
# with runs of its own.
DEEP = {
    "consistency": consistency,
    "data_size": data_size,
    "decorrelation": decorrelation,
    "frozen_first_layer": frozen_first_layer,
}
NAMES = [*EXPERIMENTS, *(pytest.param(name, marks=pytest.mark.long) for name in DEEP)]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all these experiments with the smoke preset."""
    out = tmp_path_factory.mktemp("results")
    for module in EXPERIMENTS.values():
        module.main(replace(module.PRESETS["smoke"], out=out))
    return out


@pytest.fixture(scope="module")
def deep(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And of those of deep networks."""
    out = tmp_path_factory.mktemp("deep") / "results"
    shutil.copytree(others, out)
    for module in DEEP.values():
        module.main(replace(module.PRESETS["smoke"], out=out))
    return out


@pytest.fixture
def out(request: pytest.FixtureRequest) -> Path:
    long = request.node.get_closest_marker("long") is not None
    return request.getfixturevalue("deep" if long else "others")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_files(out: Path, name: str) -> None:
    folder = out / name / "photographs"
    figures = [*catalogue.CATALOGUE[name].captions] or [name]
    files = {f"{figure}{suffix}" for figure in figures for suffix in (".png", ".pdf")}
    files |= {"config.json", "arrays.npz", "summary.json"}
    assert {file.name for file in folder.iterdir()} == files
    for figure in figures:
        with Image.open(folder / f"{figure}.png") as picture:
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert settings["preset"] == "smoke"
    assert settings["images"] == 256
    summary = json.loads(
        (folder / "summary.json").read_text(),
        parse_constant=lambda text: pytest.fail(text),
    )
    own = {"slopes", "slopes_over_training", "closed_form_over_training"}
    assert summary.keys() - own == {"results", "checks", "runs", "differs_from_paper"}
    for row in summary["checks"]:
        assert set(row) == {field.name for field in fields(frame.Check)}
        assert row["caveat"] == "smoke run: means nothing"
    epochs = 2 if name == "frozen_first_layer" else 3
    assert f"epochs {epochs} (paper: 30)" in "\n".join(summary["differs_from_paper"])


def assert_shared(
    out: Path, runs: dict[tuple[str, str], list[tuple[str, str]]]
) -> None:
    for first, others in runs.items():
        for other in others:
            assert_same_run(out, first, other)


@pytest.mark.slow
def test_runs_are_shared(others: Path) -> None:
    """All classes and a pair; shuffled labels; each experiment's own."""
    # Two components' labels; unscaled and scaled patches.
    assert len(list((others / "runs").iterdir())) == 3 + 2 + 2
    shared = {
        ("formula_fit", "all"): [("random_labels", "true")],
        ("random_labels", "shuffled"): [("energy_labels", "shuffled")],
    }
    assert_shared(others, shared)


@pytest.mark.long
def test_runs_of_deep_networks_are_shared(deep: Path) -> None:
    """Another width and another network; frozen VGG11; VGG13 twice."""
    assert len(list((deep / "runs").iterdir())) == 3 + 2 + 2 + 2 + 3
    shared = {
        ("formula_fit", "all"): [("consistency", "base"), ("decorrelation", "base")],
        ("consistency", "other"): [
            ("frozen_first_layer", "learnt/11"),
            ("decorrelation", "other"),
        ],
    }
    assert_shared(deep, shared)


def assert_same_run(out: Path, *of: tuple[str, str]) -> None:
    """Of two experiments, each with its name for the run."""
    runs = []
    for experiment, name in of:
        arrays = disk.read_arrays(out / experiment / "photographs" / "arrays.npz")
        runs.append((arrays[f"{name}/conv1"], arrays[f"{name}/config"]))
    for mine, its in zip(*runs, strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.long
def test_a_frozen_first_layer_stays(out: Path) -> None:
    arrays = disk.read_arrays(out / "frozen_first_layer" / "photographs" / "arrays.npz")
    for depth in (11, 13):
        frozen, learnt = (
            arrays[f"{kind}/{depth}/conv1"] for kind in ("frozen", "learnt")
        )
        # From the same weights.
        np.testing.assert_array_equal(
            frozen, np.broadcast_to(learnt[:, :1], frozen.shape)
        )
        assert (learnt[:, -1] != learnt[:, 0]).any()
        np.testing.assert_array_equal(
            arrays[f"frozen/{depth}/loss"][:, 0], arrays[f"learnt/{depth}/loss"][:, 0]
        )


@pytest.mark.long
def test_autocorrelation_of_the_trained_layer_measured_by_convolution(
    out: Path,
) -> None:
    arrays = disk.read_arrays(out / "decorrelation" / "photographs" / "arrays.npz")
    settings = decorrelation.PRESETS["smoke"]
    data = load(trained.base_run(settings))
    pixels = data.images.astype(np.float64) * data.std + data.mean
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    own = data.images - data.images.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    kernel = arrays["base/conv1"].astype(np.float64)

    def along_components(profile):
        return (arrays["base/components"] * profile).reshape(3, 3, 3, 27)

    banks = {
        "change": kernel[1, -1] - kernel[1, 0],
        "weights": kernel[1, -1],
        "likelihood": along_components(arrays["base/likely/change/profile"][1, -1]),
        "correlation": along_components(arrays["base/fit/change/profile"][1, -1]),
        "whitening": along_components(1 / np.sqrt(arrays["base/variance"])),
        "random": along_components(1),
        "rgb": np.eye(3)[None, None],
    }
    for convention, images, center in (
        (OURS, data.images.astype(np.float64), True),
        ("pixels in [0, 1], mean kept", pixels, False),
        ("the mean of each image subtracted", own, True),
    ):
        if center:
            images = images - images.mean(axis=(0, 1, 2))
        for name, filters in banks.items():
            size = 33 - len(filters)
            windows = [
                images[:, i : i + size, j : j + size] @ filters[i, j]
                for i in range(len(filters))
                for j in range(len(filters))
            ]
            z = sum(windows)
            z = z - z.mean(axis=(0, 1, 2)) if center else z
            down, across = (
                np.mean(np.sum(a * b, axis=-1))
                for a, b in ((z[:, 5:], z[:, :-5]), (z[:, :, 5:], z[:, :, :-5]))
            )
            expected = (down + across) / 2 / np.mean(np.sum(z**2, axis=-1))
            found = arrays[f"{convention}/{name}"]
            assert found.shape == (
                {"rgb": 1, "whitening": 1, "random": 100}.get(name, 3),
                16,
            )
            np.testing.assert_allclose(found[:, 0], 1)
            if name == "random":  # such a bank responds as the patches do, up to chance
                np.testing.assert_allclose(found[:, 5].mean(), expected, atol=0.02)
                assert len(np.unique(found[:, 5])) == 100
            else:
                np.testing.assert_allclose(
                    found[1 if len(found) > 1 else 0, 5], expected, rtol=1e-3, atol=1e-4
                )


CURVES = ("change", "likelihood", "correlation")  # of every run


@pytest.mark.long
def test_the_closed_form_is_held_against_every_network(out: Path) -> None:
    arrays = disk.read_arrays(out / "decorrelation" / "photographs" / "arrays.npz")
    for curve in CURVES:
        last = arrays[f"base/curve/{curve}"][:, -1]
        np.testing.assert_array_equal(last, arrays[f"{OURS}/{curve}"])
    images = load(trained.base_run(decorrelation.PRESETS["smoke"])).images
    spectrum, moments = (
        theory.patch_spectrum(images, 3),
        theory.cross_moments(images, 3, range(16)),
    )
    profiles = (
        1 - np.exp(-np.outer(TIMES, spectrum.variance / spectrum.variance[0]))
    ) / np.sqrt(spectrum.variance)
    expected = theory.autocorrelation(
        theory.filters_with_profile(profiles, spectrum), moments
    )
    np.testing.assert_allclose(arrays["closed_form"], expected, rtol=0, atol=1e-6)
    for name in ("base_8", "other"):
        weights = arrays[f"{name}/conv1"].astype(np.float64)
        change = weights[:, 1:] - weights[:, :1]
        profile, filters = (
            theory.energy_profile(change, spectrum.components),
            {"change": change},
        )
        for criterion in CRITERIA:
            fit = theory.fit_profile(profile, spectrum.variance, criterion=criterion)
            filters[criterion] = theory.filters_with_profile(fit.profile, spectrum)
        for curve in CURVES:
            expected = theory.autocorrelation(filters[curve], moments)
            np.testing.assert_allclose(
                arrays[f"{name}/curve/{curve}"], expected, rtol=0, atol=1e-6
            )


@pytest.mark.slow
def test_the_formula_has_the_scaled_component(out: Path) -> None:
    """Against the spectrum of the images as they are after scaling."""
    arrays = disk.read_arrays(out / "spectral_scaling" / "photographs" / "arrays.npz")
    settings = spectral_scaling.PRESETS["smoke"]
    run = trained.base_run(
        settings,
        network="SmallCNN",
        first_strides=3,
        scaled_component=(5, 3.0),
        seeds=2,
        epochs=3,
    )
    images = load(run).images.astype(np.float64)
    patches = images.reshape(256, 10, 3, 10, 3, 3).swapaxes(2, 3).reshape(-1, 27)
    covariance = np.cov(patches, rowvar=False, ddof=0)
    basis, variance = arrays["unscaled/components"], arrays["unscaled/variance"]
    np.testing.assert_allclose(
        np.diag(basis.T @ covariance @ basis),
        arrays["5 x 3/scaled_variance"],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        arrays["5 x 3/scaled_variance"] / variance, np.where(np.arange(27) == 4, 9, 1)
    )
    for name, scaled in (
        ("unscaled", variance),
        ("5 x 3", arrays["5 x 3/scaled_variance"]),
    ):
        kernels = arrays[f"{name}/conv1"].astype(np.float64)
        projections = basis.T @ (kernels[:, -1] - kernels[:, 0]).reshape(2, 27, -1)
        profile = np.sqrt(np.mean(projections**2, axis=-1))
        np.testing.assert_allclose(arrays[f"{name}/profile"], profile, rtol=1e-6)
        fit = theory.fit_profile(profile, scaled)
        np.testing.assert_allclose(arrays[f"{name}/fit"], fit.correlation)
        np.testing.assert_allclose(arrays[f"{name}/formula"], fit.profile)
        np.testing.assert_allclose(
            arrays[f"{name}/fit_unscaled"],
            theory.fit_profile(profile, variance).correlation,
        )
    assert (arrays["5 x 3/fit_unscaled"] < arrays["5 x 3/fit"]).all()
    # Labels against the components of the patches as they are.
    coefficients = (patches - patches.mean(axis=0)) @ np.linalg.eigh(covariance)[1][
        :, ::-1
    ]
    one_hot = np.repeat(np.eye(6)[load(run).labels], 100, axis=0)
    expected = np.corrcoef(one_hot, coefficients, rowvar=False)[:6, 6:]
    np.testing.assert_allclose(
        np.abs(arrays["5 x 3/labels"]), np.abs(expected), atol=1e-4
    )


@pytest.mark.slow
def test_profiles_are_those_of_the_kernels(out: Path) -> None:
    """Projections on the principal components of all 3x3 patches of the training
    images, one by one."""
    settings = random_labels.PRESETS["smoke"]
    images = load(trained.base_run(settings)).images.astype(np.float64)
    patches = np.stack(
        [images[:, i : i + 30, j : j + 30] for i in range(3) for j in range(3)], axis=3
    )
    covariance = np.cov(patches.reshape(-1, 27), rowvar=False, ddof=0)
    variance, components = (part[..., ::-1] for part in np.linalg.eigh(covariance))
    arrays = disk.read_arrays(out / "random_labels" / "photographs" / "arrays.npz")
    np.testing.assert_allclose(arrays["true/variance"], variance, rtol=1e-6)
    kernels = arrays["true/conv1"].astype(np.float64).reshape(3, -1, 27, 12)
    for kind, filters in (("change", kernels - kernels[:, :1]), ("weights", kernels)):
        profile = np.sqrt(
            np.mean(np.einsum("srdk,dp->srpk", filters, components) ** 2, axis=-1)
        )
        np.testing.assert_allclose(
            arrays[f"true/{kind}"], profile, rtol=1e-4, atol=1e-12
        )
    assert arrays["true/conv1"].dtype == np.float32
    # The networks moved, and from the same initial filters with either labels.
    assert (arrays["true/change"][:, -1].max(axis=-1) > 1e-4).all()
    np.testing.assert_array_equal(
        arrays["true/conv1"][:, 0], arrays["shuffled/conv1"][:, 0]
    )
    assert (arrays["true/conv1"][:, -1] != arrays["shuffled/conv1"][:, -1]).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_trained_twice(
    out: Path, no_training: None, tmp_path: Path, capsys, name: str
) -> None:  # in this order: first those that train
    module = {**EXPERIMENTS, **DEEP}[name]
    settings = replace(module.PRESETS["smoke"], out=tmp_path, store=out / "runs")
    module.main(settings)
    printed = capsys.readouterr().out.splitlines()
    first, again = (folder / name / "photographs" for folder in (out, tmp_path))
    assert (first / "summary.json").read_bytes() == (
        again / "summary.json"
    ).read_bytes()
    assert (first / f"{name}.png").read_bytes() == (again / f"{name}.png").read_bytes()
    (again / f"{name}.png").unlink()
    module.main(replace(settings, store=tmp_path / "none", redraw=True))
    assert (first / f"{name}.png").read_bytes() == (again / f"{name}.png").read_bytes()
    table = capsys.readouterr().out.splitlines()
    assert printed[-len(table) :] == table
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_fresh_trains_again(out: Path, no_training: None, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(out / "runs")
    # As far as the first training: nothing else is thrown away.
    before = {place.name for place in (out / "runs").iterdir()}
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        random_labels.main(
            replace(random_labels.PRESETS["smoke"], out=tmp_path, fresh=True)
        )
    left = {
        place.name
        for place in (out / "runs").iterdir()
        if (place / "config.json").exists()
    }
    assert len(before - left) == 1
    config = disk.read_arrays(out / "random_labels" / "photographs" / "arrays.npz")[
        "true/config"
    ]
    assert before - left == {identifier(json.loads(str(config)))}
