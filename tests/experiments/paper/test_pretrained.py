"""Networks that others have trained, measured against explicit numbers, and drawn."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linear_cnn
import theory
from experiments import frame, trained
from experiments.paper import pretrained
from experiments.paper.pretrained import profiles, verdicts
from tests.experiments.fakes import smooth_bank

pytestmark = pytest.mark.usefixtures("data_folder")
RANDOM = np.random.default_rng(8)


def settings(tmp_path: Path, **changes) -> pretrained.Settings:
    changed = {"images": 60, "out": tmp_path / "out", **changes}
    return replace(pretrained.PRESETS["smoke"], **changed)


def measured(**changes) -> dict[str, np.ndarray]:
    return pretrained.compute(pretrained.resolve(settings(Path(), **changes)))


def explicit_profile(
    bank: np.ndarray, components: np.ndarray, convention: str
) -> np.ndarray:
    filters_ = [bank[..., k].ravel() for k in range(bank.shape[-1])]
    largest = max(np.linalg.norm(w) for w in filters_)
    if convention == "alive":
        filters_ = [w for w in filters_ if np.linalg.norm(w) >= 0.01 * largest]
    if convention != "raw":
        filters_ = [w / np.linalg.norm(w) for w in filters_]
    return np.array(
        [np.sqrt(np.mean([(w @ u) ** 2 for w in filters_])) for u in components.T]
    )


def test_profiles_in_all_conventions(tmp_path, present):
    arrays = measured()
    images = linear_cnn.photographs().images
    chosen = np.linspace(0, len(images) - 1, 60).round().astype(int)
    images = linear_cnn.normalize_channels(linear_cnn.scale_pixels(images[chosen]))
    for size, titles in [(3, ["A1", "A2", "B", "C"]), (5, ["D"])]:
        spectrum = theory.patch_spectrum(images, size)
        key = f"0/{size}x{size}"
        np.testing.assert_allclose(
            arrays[f"{key}/variance"], spectrum.variance, rtol=1e-9
        )
        for convention, (place, title) in itertools.product(
            profiles.CONVENTIONS, enumerate(titles)
        ):
            profile = explicit_profile(
                present[title], np.asarray(spectrum.components), convention
            )
            np.testing.assert_allclose(
                arrays[f"{key}/{convention}"][place], profile, rtol=1e-6, atol=1e-9
            )
            fit = theory.fit_profile(profile, spectrum.variance).correlation
            np.testing.assert_allclose(
                arrays[f"{key}/{convention}/fit/correlation"][place], fit, rtol=1e-6
            )


def test_images_of_the_paper_have_its_normalization(tmp_path, present, monkeypatch):
    channels = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.4))
    monkeypatch.setitem(trained.PAPER_CHANNELS, "photographs", channels)
    images = linear_cnn.photographs().images
    chosen = np.linspace(0, len(images) - 1, 60).round().astype(int)
    images = linear_cnn.normalize_channels(
        linear_cnn.scale_pixels(images[chosen]), *channels
    )
    np.testing.assert_allclose(
        measured()["0/3x3/variance"],
        theory.patch_spectrum(images, 3).variance,
        rtol=1e-9,
    )


def test_random_banks_against_an_explicit_loop(tmp_path, present):
    """First what the downloaded networks need, 12 filters and 11 without the dead one;
    then the 7 of the user's own."""
    np.savez(tmp_path / "mine.npz", w=RANDOM.normal(size=(3, 3, 3, 7)))
    second = tmp_path / "images.npz"
    pixels = RANDOM.uniform(size=(40, 8, 8, 3)).astype(np.float32)
    np.savez(second, images=pixels, labels=np.arange(40) % 2)
    arrays = measured(seed=3, files=(tmp_path / "mine.npz",), second=str(second))
    images = linear_cnn.photographs().images
    chosen = np.linspace(0, len(images) - 1, 60).round().astype(int)
    bases = [linear_cnn.scale_pixels(images[chosen]), pixels]
    random = np.random.default_rng(3)
    order = [(b, s, k) for b in (0, 1) for s in (3, 5) for k in (11, 12)]
    order += [(0, 3, 7), (1, 3, 7)]
    for basis, size, count in order:
        spectrum = theory.patch_spectrum(
            linear_cnn.normalize_channels(bases[basis]), size
        )
        components = np.asarray(spectrum.components)
        found = arrays[f"{basis}/{size}x{size}/random/{count}"]
        assert found.shape == (200, 3 * size**2)
        for place in range(200):
            bank = random.normal(size=(size, size, 3, count))
            if place in (0, 1, 20, 199):
                expected = explicit_profile(bank, components, "unit")
                np.testing.assert_allclose(found[place], expected, rtol=1e-6)
        fits = theory.fit_profile(found, spectrum.variance).correlation
        np.testing.assert_allclose(
            arrays[f"{basis}/{size}x{size}/random/{count}/fit"], fits, rtol=1e-6
        )
    drawn = {key for key in arrays if "/random/" in key and not key.endswith("/fit")}
    assert drawn == {f"{b}/{s}x{s}/random/{k}" for b, s, k in order}


def test_random_banks_have_as_many_filters_as_the_network_beside_them(
    tmp_path, present
):
    """The squares of K unit vectors of d entries: their mean over the vectors has the
    variance 2 (d - 1) / (K d² (d + 2))."""
    bank = RANDOM.normal(size=(3, 3, 3, 40)).astype(np.float32)
    bank[..., :8] = 0
    bank[..., 8:11] *= 1e-4
    np.savez(tmp_path / "data" / "pretrained" / "B.npz", w=bank)
    arrays = measured()
    counts = {"raw": [12, 12, 32, 12], "unit": [12, 12, 32, 12]}
    counts["alive"] = [11, 11, 29, 11]
    for convention, expected in counts.items():
        found = profiles.numbers_of_filters(arrays, "0/3x3", convention)
        assert found == expected
    for count in (11, 12, 29, 32):
        squares = arrays[f"0/3x3/random/{count}"] ** 2
        np.testing.assert_allclose(squares.sum(axis=1), 1)
        variance = 2 * 26 / (count * 27**2 * 29)
        assert squares.var() == pytest.approx(variance, rel=0.08)
        assert squares.var() != pytest.approx(variance * count / 64, rel=0.08)


def test_correlations_against_an_explicit_loop(tmp_path, present):
    bank = RANDOM.normal(size=(3, 3, 3, 40)).astype(np.float32)
    bank[..., 0] *= 1e-4
    np.savez(tmp_path / "data" / "pretrained" / "B.npz", w=bank)
    arrays = measured()
    for convention, counts in [("unit", (12, 12, 40, 12)), ("alive", (11, 11, 39, 11))]:
        among, random = profiles.correlations(arrays, "0/3x3", convention)
        found = arrays[f"0/3x3/{convention}"]
        for i, count in enumerate(counts):
            for j in range(4):
                r = np.corrcoef(found[i], found[j])[0, 1]
                assert among[i, j] == pytest.approx(r)
            for place in range(200):
                other = arrays[f"0/3x3/random/{count}"][place]
                r = np.corrcoef(found[i], other)[0, 1]
                assert random[i, place] == pytest.approx(r, abs=1e-9)


def test_random_banks_follow_the_seed(tmp_path, present):
    first, again, other = (measured(seed=seed)["0/3x3/random/12"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_bank_in_three_conventions():
    bank = np.ones((2, 2, 3, 4)) * [0.011, 1, 0.009, 0]
    np.testing.assert_array_equal(profiles.scaled(bank, "raw"), bank)
    unit = np.full((2, 2, 3, 4), 12**-0.5)
    unit[..., 3] = 0
    np.testing.assert_allclose(profiles.scaled(bank, "unit"), unit)
    np.testing.assert_allclose(profiles.scaled(bank, "alive"), unit[..., :2])
    left = [profiles.filters_left(bank, name) for name in profiles.CONVENTIONS]
    assert left == [3, 3, 2]


def test_grey_images_give_no_basis(tmp_path, present):
    images = RANDOM.uniform(size=(40, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "grey.npz", images=images, labels=np.arange(40) % 2)
    with pytest.raises(
        ValueError,
        match=(
            r"images of .*grey\.npz have 1 channels, but the networks' filters have 3"
        ),
    ):
        measured(dataset=str(tmp_path / "grey.npz"))


def test_families_are_compared_wherever_their_networks_stand():
    matrix = np.arange(16.0).reshape(4, 4)
    found = verdicts.comparisons(matrix, ["B", "A", "B", "C"])
    assert sorted(found["between families"]) == [np.mean([1, 6]), np.mean([3, 11]), 7]
    assert found["within families"] == [2]


def test_rows_of_a_single_network_and_of_random_filters(tmp_path, present):
    bank = RANDOM.normal(size=(5, 5, 3, 7)).astype(np.float32)
    bank[..., :2] = 0
    np.savez(tmp_path / "data" / "pretrained" / "D.npz", w=bank)
    arrays = measured()
    summary = pretrained.summary(arrays)
    rows = [row for row in summary["results"] if row["size"] == "5x5"]
    assert [row["comparison"] for row in rows] == [
        "with random filters",
        "with the fitted formula, D",
        "with the fitted formula, random filters",
    ]
    assert (rows[1]["filters"], rows[1]["dead"]) == (7, 2)
    for name in ("correlation", "correlation_at_zero", "correlation_at_infinity"):
        assert rows[1]["alive"][name] == arrays[f"0/5x5/alive/fit/{name}"][0]
    assert rows[2]["unit"] == frame.spread(arrays["0/5x5/random/5/fit"])
    assert rows[2]["raw"] is rows[2]["alive"] is None
    table = pretrained.table(summary).columns
    assert table["dead"][-3:] == ["", "2 of 7", ""]
    assert table["random"][-3:] == ["", "5", "5"]
    assert "12, 11" in table["random"]
    assert table["kernel"][-3:] == ["5x5"] * 3
    assert table["unit norm"][-1] == frame.number(rows[2]["unit"])
    assert table["raw weights"][-1] == ""


def test_summary_against_explicit_numbers(tmp_path, present):
    arrays = measured()
    summary = pretrained.summary(arrays)
    families = ["A", "A", "B", "C"]
    filters = {"raw": 12, "unit": 12, "alive": 11}
    for convention in profiles.CONVENTIONS:
        found = arrays[f"0/3x3/{convention}"]
        r = {
            (i, j): np.corrcoef(found[i], found[j])[0, 1]
            for i, j in itertools.combinations(range(4), 2)
        }
        between = [(r[0, 2] + r[1, 2]) / 2, (r[0, 3] + r[1, 3]) / 2, r[2, 3]]
        banks = arrays[f"0/3x3/random/{filters[convention]}"]
        random = [np.corrcoef(p, q)[0, 1] for p in found for q in banks]
        rows = {
            row["comparison"]: row[convention]
            for row in summary["results"]
            if row["size"] == "3x3"
        }
        assert rows["between families"] == pytest.approx(
            {"mean": np.mean(between), "std": np.std(between, ddof=1), "count": 3}
        )
        assert rows["within families"] == {
            "mean": pytest.approx(r[0, 1]),
            "std": None,
            "count": 1,
        }
        assert rows["with random filters"] == pytest.approx(
            frame.spread(random), abs=1e-12
        )
        assert (
            rows["with the fitted formula, B"]["mean"]
            == arrays[f"0/3x3/{convention}/fit/correlation"][2]
        )
        if convention == "unit":
            check, control = summary["checks"][:2]
            assert check.value == pytest.approx(np.mean(between))
            assert check.bound == ">= 0.75"
            assert check.paper == "one block of high correlations"
            assert control.value == pytest.approx(np.mean(random), abs=1e-12)
            assert control.bound == ">= -0.2 and <= 0.2"
    assert families == [
        network["family"] for network in profiles.described(arrays, "0/3x3")
    ]
    assert len(summary["checks"]) == 3  # of 5x5 there is one network: only the control
    assert summary["missing"] == ["E"]
    assert {row["comparison"]: row.get("dead") for row in summary["results"]}[
        "with the fitted formula, C"
    ] == 1


def test_smooth_banks_agree_and_random_ones_do_not(tmp_path, present):
    summary = pretrained.summary(measured())
    assert [check.passed for check in summary["checks"]] == [True] * 3
    for title in present:  # the table stays, the banks are noise of different colours
        spectrum = np.exp(RANDOM.normal(size=(*present[title].shape[:3], 1)))
        noise = spectrum * RANDOM.normal(size=present[title].shape)
        np.savez(
            tmp_path / "data" / "pretrained" / f"{title}.npz",
            w=noise.astype(np.float32),
        )
    summary = pretrained.summary(measured())
    assert summary["checks"][0].passed is False


def test_files_and_redraw(tmp_path, present, capsys):
    folder = tmp_path / "out" / "pretrained" / "photographs"
    folder.mkdir(parents=True)
    for name in ("pretrained_7x7.png", "pretrained_7x7.pdf"):
        (folder / name).write_text("of a kernel size that is no longer there")
    pretrained.main(settings(tmp_path))
    printed = capsys.readouterr().out
    assert "not in" in printed
    assert "E; `python -m experiments data pretrained` gets them" in printed
    summary = json.loads(
        (folder / "summary.json").read_text(),
        parse_constant=lambda text: pytest.fail(text),
    )
    assert len(summary["checks"]) == 3
    assert {file.suffix for file in folder.iterdir()} == {
        ".json",
        ".npz",
        ".png",
        ".pdf",
    }
    names = {"pretrained", "pretrained_conventions", "pretrained_5x5"}
    assert {file.stem for file in folder.glob("*.p[nd]*")} == names
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    picture = (folder / "pretrained.png").read_bytes()
    (folder / "pretrained.png").unlink()
    for title in present:
        (tmp_path / "data" / "pretrained" / f"{title}.npz").unlink()
    pretrained.main(settings(tmp_path, redraw=True))
    assert (folder / "pretrained.png").read_bytes() == picture
    table = capsys.readouterr().out.splitlines()
    assert printed.splitlines()[-len(table) :] == table


def test_files_of_the_user(tmp_path, present):
    np.savez(
        tmp_path / "mine.npz",
        w=smooth_bank(7).transpose(3, 2, 0, 1),
        ema=smooth_bank(8).transpose(3, 2, 0, 1),
    )
    with pytest.raises(ValueError, match=r"mine\.npz: several tensors"):
        measured(files=(tmp_path / "mine.npz",))
    arrays = measured(
        files=(tmp_path / "mine.npz",),
        tensor=("w",),
        layout="OIHW",
        channel_order="BGR",
    )
    np.testing.assert_array_equal(arrays["5/kernel"], smooth_bank(7)[:, :, ::-1])
    mine = json.loads(str(arrays["networks"]))[5]
    assert (mine["title"], mine["family"], mine["tensor"], mine["channel_order"]) == (
        "mine",
        "mine",
        "w",
        "BGR",
    )
    assert len(arrays["0/3x3/members"]) == 5
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measured(files=(tmp_path / "nowhere",))


def test_names_of_tensors_in_single_files(tmp_path, present):
    one, two, three = (tmp_path / f"{name}.npz" for name in ("one", "a=b", "three"))
    np.savez(one, only=smooth_bank(6))
    np.savez(two, **{"w": smooth_bank(7), "x=y": smooth_bank(8)})
    np.savez(three, w=smooth_bank(9), v=smooth_bank(10))
    arrays = measured(files=(one, two), tensor=(f"{two}=x=y",))
    np.testing.assert_array_equal(arrays["5/kernel"], smooth_bank(6))
    np.testing.assert_array_equal(arrays["6/kernel"], smooth_bank(8))
    files = (one, two, three)
    names = trained.tensor_names(files, ("v", f"{one}=only", f"{two}=w"))
    assert names == ["only", "w", "v"]
    assert trained.tensor_names(files, ()) == [None] * 3
    for given, message in (
        (("none.npz=w",), r"--tensor 'none.npz=w': the path .* one of --files, .*one"),
        (("v", "w"), "--tensor 'w' is a second name"),
        ((f"{one}=a", f"{one}=b"), "=b' is a second name"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.resolve(settings(tmp_path, files=files, tensor=given))


def test_no_network(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError,
        match="no pretrained network; get them with `python -m experiments data pret",
    ):
        measured()


def test_damaged_networks_are_named(tmp_path, present):
    file = tmp_path / "data" / "pretrained" / "B.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"B\.npz is truncated"):
        measured()


def test_bad_settings(tmp_path):
    with pytest.raises(
        ValueError, match="--preset must be one of smoke, cpu, paper, got 'tiny'"
    ):
        measured(preset="tiny")
    with pytest.raises(ValueError, match="--images must be at least 1, got 0"):
        measured(images=0)
    with pytest.raises(ValueError, match="--second must be another data set"):
        measured(second="photographs")


def test_two_bases(tmp_path, present):
    np.savez(
        tmp_path / "mine.npz",
        images=RANDOM.uniform(size=(40, 8, 8, 3)).astype(np.float32),
        labels=np.arange(40) % 2,
    )
    arrays = measured(second=str(tmp_path / "mine.npz"))
    assert list(arrays["bases"]) == ["photographs", str(tmp_path / "mine.npz")]
    assert not np.allclose(arrays["0/3x3/unit"], arrays["1/3x3/unit"])
    assert [key for _, _, key in profiles.groups(arrays)] == [
        "0/3x3",
        "1/3x3",
        "0/5x5",
        "1/5x5",
    ]
