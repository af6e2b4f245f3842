"""The convolutions of files: the first layer against the same by hand, the command, and
what the report says."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

import linear_cnn
import theory
from experiments import analyse, catalogue, report
from experiments.__main__ import commands
from experiments.analyse.layers import measured
from experiments.analyse.packing import packed, unpacked
from experiments.report.reading import read
from tests.linear_cnn.weight_files.writers import write_npz, write_safetensors

RANDOM = np.random.default_rng(7)
IMAGES = linear_cnn.photographs().images[::40]


def stored(*shapes):
    """Kernels in PyTorch's order, of filters that are smooth, unlike random ones."""
    return {
        f"layer{number}.weight": RANDOM.normal(size=shape)
        .cumsum(axis=2)
        .cumsum(axis=3)
        .astype(np.float32)
        for number, shape in enumerate(shapes, start=1)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    small = stored((8, 3, 5, 5), (8, 8, 3, 3), (8, 1, 3, 3))
    return [
        write_safetensors(folder / "small.safetensors", small),
        # Patches of 16x16 pixels of a transformer.
        write_npz(folder / "patches.npz", stored((12, 3, 16, 16))),
    ]


def run(*words):
    tyro.extras.subcommand_cli_from_dict(
        commands(words),
        args=list(words),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def test_the_first_layer_and_the_shapes_of_the_others(files):
    first, *others = analyse.analyse(files[0], IMAGES)
    layer = linear_cnn.load_first_layer(files[0])
    spectrum = theory.patch_spectrum(IMAGES, 5)
    profile = np.asarray(theory.energy_profile(layer.kernel, spectrum.components))
    profile = profile / np.sqrt((profile**2).mean())
    found = first.measured
    assert (first.name, first.shape) == ("layer1.weight", (5, 5, 3, 8))
    np.testing.assert_allclose(found.profile, profile, rtol=1e-10)
    for criterion, fit in (("correlation", found.fit), ("likelihood", found.likely)):
        expected = theory.fit_profile(profile, spectrum.variance, criterion=criterion)
        np.testing.assert_allclose(fit.time, expected.time, rtol=1e-6)
    np.testing.assert_allclose(found.distance, np.log(profile).std(), rtol=1e-10)
    assert [one.shape for one in others] == [(3, 3, 8, 8), (3, 3, 1, 8)]
    assert all("give the module" in one.problem for one in others)


def test_random_filters_are_within_what_random_filters_have_and_smooth_ones_not(files):
    moments = theory.patch_moments(IMAGES, 5)
    outside, ranks = [], []
    for _ in range(20):
        bank = RANDOM.normal(size=(5, 5, 3, 8))
        one = measured(bank, moments, RANDOM)
        outside.append(
            np.mean((one.profile < one.random_low) | (one.profile > one.random_high))
        )
        ranks.append((one.random_distance < one.distance).mean())
    # 5 % of 75 components in 20 banks: a standard error of .006, and of the quantiles.
    assert 0.025 < np.mean(outside) < 0.08
    assert 0.3 < np.mean(ranks) < 0.7  # of uniform ranks .5, standard error .065
    smooth = analyse.analyse(files[0], IMAGES)[0].measured
    assert smooth.distance > 2 * smooth.random_distance.max()


def test_what_has_too_few_components_for_a_fit_has_a_profile():
    """A single grey pixel; two channels."""
    for channels in (1, 2):
        grey = IMAGES[..., :channels]
        bank = RANDOM.normal(size=(1, 1, channels, 6))
        one = measured(bank, theory.patch_moments(grey, 1), RANDOM)
        assert one.fit is one.likely is None
        assert one.profile.shape == (channels,)
        layers = [analyse.Layer("a", bank.shape, "", one)]
        arrays = packed({"net": layers})
        [row] = analyse.summary(arrays)["results"]
        assert row["fit"] is None
        assert "no fit" in analyse.table(analyse.summary(arrays)).columns[""][0]


def test_the_command(files, tmp_path, capsys):
    out = ["--images", "60", "--out", str(tmp_path)]
    run("analyse", *map(str, files), *out)
    printed = capsys.readouterr().out
    assert "16x16x3x12" in printed
    assert "layer2.weight and 1 more  2 of 3x3" in printed
    folder = tmp_path / "analyse" / "photographs"
    names = {"analyse.png", "analyse.pdf", "arrays.npz", "config.json", "summary.json"}
    assert {file.name for file in folder.iterdir()} == names
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["network"] for row in summary["results"]] == ["small"] * 3 + ["patches"]
    assert summary["checks"] == []
    (folder / "analyse.png").unlink()
    run("analyse", "--redraw", "--out", str(tmp_path))
    assert (folder / "analyse.png").exists()
    assert capsys.readouterr().out == printed

    # The report shows it, with the command that made it, judges nothing, publishes
    # nothing, and misses it nowhere.
    [result] = read(tmp_path)
    assert (result.name, result.problem, len(result.figures)) == ("analyse", None, 1)
    assert shlex.split(result.command)[3:] == ["analyse", *map(str, files), *out]
    assert not result.judged
    docs = tmp_path / "docs"
    report.main(tmp_path, publish=docs)
    assert not list(docs.glob("results/analyse*"))
    page = (tmp_path / "report.html").read_text()
    assert "shown, not judged" in page
    assert "analyse is missing" not in capsys.readouterr().out


def test_layers_come_back_from_arrays(files):
    layers = analyse.analyse(files[0], IMAGES)
    [again] = unpacked(packed({"a": layers})).values()
    assert [one[:3] for one in again] == [one[:3] for one in layers]
    np.testing.assert_array_equal(again[0].measured.profile, layers[0].measured.profile)


def test_save(files, tmp_path):
    folder = analyse.save({"a": analyse.analyse(files[0], IMAGES)}, tmp_path / "new")
    names = {"analyse.png", "analyse.pdf", "arrays.npz", "summary.json"}
    assert {file.name for file in folder.iterdir()} == names
    nothing = [analyse.Layer("a", (3, 3, 1, 4), "it is dilated")]
    assert analyse.save({"nothing to draw": nothing}, tmp_path / "none").is_dir()


def test_it_is_a_tool_and_no_experiment():
    assert "analyse" in catalogue.text()
    assert "analyse" not in catalogue.CATALOGUE


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"head.weight": np.zeros((4, 4))}, "holds no convolution"),
        ({"a.weight": np.ones((4, 8, 3, 3))}, "no tensor .* 3 input channels"),
        ({"a.weight": np.zeros((4, 3, 5, 5))}, "weights are all 0"),
        ({"a.weight": np.ones((4, 3, 40, 40))}, "smaller than kernel_size 40x40"),
    ],
)
def test_files_that_cannot_be_analysed(tmp_path, tensors, message):
    path = write_npz(tmp_path / "a.npz", tensors)
    with pytest.raises(ValueError, match=message):
        analyse.analyse(path, IMAGES)


def test_settings_that_cannot_work(files):
    with pytest.raises(ValueError, match=r"needs a file of weights"):
        analyse.main(analyse.Settings())
    given = analyse.Settings(files=(Path(files[0]),))
    with pytest.raises(ValueError, match="--images must be at least 1"):
        analyse.resolve(replace(given, images=0))
