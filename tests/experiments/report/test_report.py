"""The report: one page that holds all it shows, with nothing of the user's taken for
HTML, whatever the results are."""

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments import frame, report
from experiments.catalogue import CATALOGUE
from experiments.frame import Check
from experiments.frame.checks import as_rows
from experiments.report import reading
from tests.experiments.report_results import NASTY, change_json, write_all

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The tags with their attributes, the text by the id of its section, and the
    unclosed tags of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.texts: dict[str | None, str] = {}
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.handle_data(" ")
        if tag not in VOID:
            inside = self.open[-1][1] if self.open else None
            self.open.append(
                (tag, dict(attributes)["id"] if tag == "section" else inside)
            )

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(tag == "style" for tag, _ in self.open):
            section = self.open[-1][1] if self.open else None
            self.texts[section] = self.texts.get(section, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def section(self, beginning: str) -> str:
        """The text of the one section whose id begins so, each space one."""
        (found,) = (
            text
            for name, text in self.texts.items()
            if name and name.startswith(beginning)
        )
        return " ".join(found.split())

    @property
    def top(self) -> str:
        return " ".join(self.texts[None].split())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_all(tmp_path / "results")


def page(out: Path) -> Page:
    report.main(out)
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_every_image_is_inlined_and_whole(out: Path) -> None:
    images = page(out).all("img")
    files = {file.read_bytes() for file in out.rglob("*.png")}
    assert len(images) == len(files) == 4
    for image in images:
        head, content = image["src"].split(",")
        assert head == "data:image/png;base64"
        content = base64.b64decode(content, validate=True)
        files.remove(content)
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            # 1500 pixels at 150 to the inch are 10 inches, 960 pixels of a screen.
            assert (picture.width, image["width"], image["height"]) == (
                1500,
                "960",
                "384",
            )
        assert len(image["alt"]) > 30
    assert len({image["alt"] for image in images}) == 4


def test_nothing_outside_is_needed_and_nothing_runs(out: Path) -> None:
    found = page(out)
    assert not {tag for tag, _ in found.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
    }
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), (
                    tag,
                    value[:80],
                )
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"url\(|@import", text)
    policy = [
        meta["content"]
        for meta in found.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy
    assert "default-src 'none'" in policy[0]


def test_links_resolve_and_ids_are_unique(out: Path) -> None:
    found = page(out)
    ids = Counter(
        attributes["id"] for _, attributes in found.tags if "id" in attributes
    )
    assert max(ids.values()) == 1
    links = [link["href"] for link in found.all("a")]
    assert len(links) == len(CATALOGUE)
    assert {link.removeprefix("#") for link in links} == set(ids)
    assert not found.open


def test_names_are_text(out: Path) -> None:
    """A data set named like an attack, and a class in the summary, are shown as they
    are."""
    found = page(out)
    assert NASTY in found.section("iterations-1")
    assert "true against <b>shuffled</b> labels" in found.section("random_labels-1")
    assert not found.all("b")
    markdown = (out / "report.md").read_text()
    assert "true against \\<b\\>shuffled\\</b\\> labels" in markdown
    lines = markdown.splitlines()
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert cells == {8}


def test_what_a_section_says(out: Path) -> None:
    found = page(out)
    text = found.section("random_labels-1")
    for expected in (
        "Fig. 3, Table 2",
        "python -m experiments random_labels --preset cpu --seeds 3 --out",
        "Left: the profiles of both labels.",
        "0.951 ± 0.012 0.9 ± 0.02",  # ours, paper, in the table
        # And in the checks.
        "true against <b>shuffled</b> labels ✓ met 0.951 0.9 ± 0.02 >= 0.9",
        "lowest training accuracy, VGG11 ✗ not met 0.821 >= 0.9",
        "Checks: 2 of 3 met",
        "0.821, 0.998 too low to be judged 0.511, 0.522",
        "width 0.25 (paper: 1)",
        "learning rate 0.01",
        "shuffled epochs 90",
        "Python 3.11.7; jax 0.10.2; x86_64, 2 x cpu, float64",
        "13 min",
    ):
        assert expected in text, expected
    assert "linear-cnn None" not in text
    assert "smoke" not in text
    theory = found.section("theory_vs_simulation-1")
    assert (
        "exact form, few moved: max 0.05; wrong formula eta / 2: 0.39 ✓ met 1.58e-12 <="
        " 1e-09" in theory
    )
    assert theory.index("Energy profile against component") < theory.index(
        "Left: single networks against the exact"
    )
    assert "1,000 13 11 4" in found.section("iterations-1")
    assert "random_labels 2 of 3 Fig. 3, Table 2 cifar10" in found.top
    assert "iterations shown, not judged Fig. 4" in found.top


def test_smoke_results_are_marked(out: Path) -> None:
    file = out / "random_labels" / "cifar10" / "config.json"
    text = file.read_text()
    file.write_text(text.replace('"preset": "cpu"', '"preset": "smoke"'))
    assert file.read_text() != text
    assert "its numbers mean nothing" in page(out).section("random_labels-1")
    assert "cifar10, smoke preset | true against" in (out / "report.md").read_text()


def test_missing_experiments_are_named_with_their_command(out: Path, capsys) -> None:
    text = page(out).section("missing")
    printed = capsys.readouterr().out
    absent = set(CATALOGUE) - {"random_labels", "iterations", "theory_vs_simulation"}
    for name in absent:
        assert f"python -m experiments {name} " in text
        assert f"{name} is missing: python -m experiments {name} " in printed
    assert "python -m experiments label_correlation --preset cpu --out" in text
    assert "python -m experiments formula_fit --preset cpu --out" in text
    assert "experiments iterations" not in text
    assert "python -m experiments all --preset cpu" in text


def test_nothing_is_missing_of_all(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("theory_vs_simulation", "iterations", "random_labels")
    monkeypatch.setattr(reading, "CATALOGUE", {name: CATALOGUE[name] for name in there})
    found = page(out)
    assert "missing" not in found.top
    assert "missing" not in found.texts


def test_empty_folder(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert all(f"experiments {name} " in found.section("missing") for name in CATALOGUE)
    assert (tmp_path / "report.md").read_text().count("\n") == 2


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"no results in --out .*none yet; .*python -m experiments all",
    ):
        report.main(tmp_path / "none")


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
def test_unfinished_results(out: Path, file: str) -> None:
    (out / "random_labels" / "cifar10" / file).unlink()
    found = page(out)
    text = found.section("random_labels-1")
    assert "unfinished: " in text
    assert f"{file} is missing" in text
    assert "python -m experiments random_labels --preset cpu" in text
    assert "random_labels unfinished" in found.top
    assert len(found.all("img")) == 3  # the others are shown
    assert f"{file} is missing" in (out / "report.md").read_text().replace("\\", "")


DAMAGE = {
    "summary.json": (
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"{}",
        b'{"checks": 3}',
        b'{"checks": [{}]}',
        b'{"checks": [{"check": "c", "value": "x", "bound": "> 1", "passed": true}]}',
        b'{"checks": [{"title": "c", "value": "x", "bound": "> 1", "passed": true}]}',
        b'{"checks": [{"title": "c", "value": 1, "bound": "> 1", "passed": "no"}]}',
        b'{"checks": [{"title": "c", "value": 1, "bound": 1, "passed": true}]}',
        b'{"checks": [{"title": "c", "value": 1, "of another version": 2}]}',
        b'{"checks": [], "results": [{"comparison": "c"}]}',
        b'{"checks": [], "results": 4}',
        b'{"checks": [], "runs": [{"run": "r"}]}',
        b'{"checks": [], "differs_from_paper": 7}',
    ),
    "config.json": (
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"settings": null}',
        b'{"settings": {}}',
        b'{"settings": {"dataset": "a"}}',
        b'{"settings": {"dataset": "a", "preset": "none"}, "environment": {}}',
    ),
}


@pytest.mark.parametrize(
    ("file", "content"),
    [(file, content) for file in DAMAGE for content in DAMAGE[file]],
)
def test_damaged_results(out: Path, file: str, content: bytes, capsys) -> None:
    folder = out / "random_labels" / "cifar10"
    (folder / file).write_bytes(content)
    found = page(out)
    assert "random_labels damaged" in found.top
    text = found.section("random_labels-1")
    assert f"damaged: {folder}" in text
    assert "python -m experiments random_labels" in text
    assert len(found.all("img")) == 3
    assert f"damaged: {folder}" in capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 4, 100, -300])
def test_a_damaged_figure(out: Path, length: int) -> None:
    file = out / "random_labels" / "cifar10" / "random_labels.png"
    file.write_bytes(file.read_bytes()[:length])
    found = page(out)
    text = found.section("random_labels-1")
    assert f"{file} is damaged" in text
    assert "--redraw" in text
    assert "Checks: 2 of 3 met" in text
    assert len(found.all("img")) == 3


def test_no_figure(out: Path) -> None:
    (out / "random_labels" / "cifar10" / "random_labels.png").unlink()
    assert "There is no figure; draw it: python -m experiments random_labels" in page(
        out
    ).section("random_labels-1")


def test_numbers_that_are_not_finite(out: Path) -> None:
    file = out / "random_labels" / "cifar10" / "summary.json"
    check = frame.check("all alike", float("nan"), at_least=0.9)
    change_json(file, checks=as_rows([check]))
    assert "all alike ✗ not met nan >= 0.9" in page(out).section("random_labels-1")


def test_results_of_an_older_version(out: Path) -> None:
    """Without a time, with a setting that is no more, and without one that has come."""
    file = out / "random_labels" / "cifar10" / "config.json"
    text = file.read_text().replace('"seed": 0,', '"former": 3,')
    file.write_text(re.sub(r',\s*"seconds": [\d.]+', "", text))
    section = page(out).section("random_labels-1")
    assert "former 3" in section
    assert "Computed in not recorded" not in section
    assert "Time not recorded" in section


def test_the_same_results_give_the_same_files(out: Path) -> None:
    report.main(out)
    first = [(out / name).read_bytes() for name in ("report.html", "report.md")]
    report.main(out)
    assert [(out / name).read_bytes() for name in ("report.html", "report.md")] == first


def test_markdown(out: Path) -> None:
    report.main(out)
    lines = [
        line.replace("\\", "") for line in (out / "report.md").read_text().splitlines()
    ]
    assert lines[:2] == [
        "| experiment | what | paper | ours | bound | verdict | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    title = "random_labels (Fig. 3, Table 2), cifar10"
    assert [line for line in lines if "random_labels" in line] == [
        (
            f"| {title} | true against <b>shuffled</b> labels | 0.9 ± 0.02 | 0.951 | >="
            " 0.9 | met |  |"
        ),
        (
            f"| {title} | shuffled labels against initial | 0.03 ± 0.22 | -0.0591 | >="
            " -0.41 and <= 0.47 | met |  |"
        ),
        f"| {title} | not judged | 0.66 ± 0.01 | 0.770 ± 0.012 |  |  |  |",
        (
            f"| {title} | lowest training accuracy, VGG11 |  | 0.821 | >= 0.9 | not met"
            " |  |"
        ),
    ]
    theory = "theory_vs_simulation (Theorems 4.2, 4.3), photographs"
    assert (
        f"| {theory} | Theorem 4.2 fails on raw images |  | 26.0 | > 0.1 | met |  |"
        in lines
    )


def lines_of(out: Path) -> list[str]:
    """The lines of the table about random_labels, without its name."""
    lines = (out / "report.md").read_text().replace("\\", "").splitlines()
    return [line.split(", cifar10 ")[1] for line in lines if "random_labels" in line]


def with_checks(out: Path, *checks: Check) -> Page:
    """The page with other checks of random_labels."""
    file = out / "random_labels" / "cifar10" / "summary.json"
    change_json(file, checks=as_rows(checks), results=[])
    return page(out)


def test_checks_of_one_group_share_a_line_of_the_table(out: Path) -> None:
    """Only with the same bound and the same word of the paper; on the page each has its
    own."""
    fits = {"paper": "still fits"}
    found = with_checks(
        out,
        frame.check("accuracy, one", 0.95, at_least=0.9),
        frame.check("fit, all classes", 0.91, at_least=0.9, **fits),
        frame.check("accuracy, two", 0.5, at_least=0.9),
        frame.check("accuracy, three", 0.97, at_least=0.9),
        frame.check("fit, some", 0.93, at_least=0.8, **fits),
        frame.check("fit, none", -0.12, at_least=0.8, **fits),
        frame.check("fit, other", 0.94, at_least=0.9),
        frame.check("lost, a", 0.1, at_least=0.9),
        frame.check("lost, b", 0.1, at_least=0.9),
        frame.check("another, a", 0.92, at_least=0.9, group="one of its own"),
        frame.check("another, b", 0.93, at_least=0.9, group="of its own"),
        frame.check("named otherwise", 0.94, at_least=0.9, group="of its own"),
        frame.check("seen, a", 0.2),
        frame.check("seen, b", 0.3),
    )
    section = found.section("random_labels-1")
    assert "accuracy, two ✗ not met 0.500" in section
    assert "fit, all classes ✓ met 0.910 still fits >= 0.9" in section
    assert lines_of(out) == [
        "| accuracy (3 cases) |  | 0.500 to 0.970 | >= 0.9 | 1 not met |  |",
        "| fit, all classes | still fits | 0.910 | >= 0.9 | met |  |",
        "| fit (2 cases) | still fits | -0.120 to 0.930 | >= 0.8 | 1 not met |  |",
        "| fit, other |  | 0.940 | >= 0.9 | met |  |",
        "| lost (2 cases) |  | 0.100 | >= 0.9 | not met |  |",
        "| another, a |  | 0.920 | >= 0.9 | met |  |",
        "| of its own (2 cases) |  | 0.930 to 0.940 | >= 0.9 | met |  |",
        "| seen (2 cases) |  | 0.200 to 0.300 |  |  |  |",
    ]


def test_what_was_not_reached(out: Path) -> None:
    """It is neither met nor not, and hides nothing that is not met."""
    short: dict[str, Any] = {"at_least": 0.9, "reached": False}
    found = with_checks(
        out,
        frame.check("flat", 0.1, **short),
        frame.check("fit, a", 0.95, at_least=0.9),
        frame.check("fit, b", 0.1, **short),
        frame.check("lost, a", 0.95, at_least=0.9),
        frame.check("lost, b", 0.1, at_least=0.9),
        frame.check("lost, c", 0.1, **short),
    )
    section = found.section("random_labels-1")
    assert "flat not reached 0.100 >= 0.9" in section
    assert "Checks: 2 of 3 met" in section
    assert "random_labels 2 of 3 " in found.top
    assert lines_of(out) == [
        "| flat |  | 0.100 | >= 0.9 | not reached |  |",
        "| fit (2 cases) |  | 0.100 to 0.950 | >= 0.9 | 1 not reached |  |",
        "| lost (3 cases) |  | 0.100 to 0.950 | >= 0.9 | 1 not met, 1 not reached |  |",
    ]


def test_numbers_beside_the_papers_are_not_counted(out: Path) -> None:
    found = with_checks(out, frame.check("seen", 0.2, paper="0.3", shown="0.2 to 0.4"))
    section = found.section("random_labels-1")
    assert "Checks check verdict ours paper bound seen 0.2 to 0.4 0.3 " in section
    assert "random_labels shown, not judged" in found.top
    assert lines_of(out) == ["| seen | 0.3 | 0.2 to 0.4 |  |  |  |"]


def test_what_to_know_before_a_verdict_is_believed(out: Path) -> None:
    """A bound of after the first result, and a caveat, on the page and in the
    table."""
    after = {"at_least": 0.9, "written": "after"}
    found = with_checks(
        out,
        frame.check("one", 0.95, at_least=0.9, caveat="few <networks>"),
        frame.check("two, a", 0.95, **after),
        frame.check("two, b", 0.96, **after, caveat="slow"),
        frame.check("three", 0.96, at_least=0.9, moved="far", wrong={"half": 0.1}),
        frame.check("seen", 0.96, written="after"),
    )
    section, known = (
        found.section("random_labels-1"),
        "bound written after the first result",
    )
    assert "one few <networks> ✓ met" in section
    assert f"two, a {known} ✓ met" in section
    assert f"two, b {known}; slow ✓ met" in section
    assert "three moved: far; wrong formula half: 0.1 ✓ met" in section
    assert "seen 0.960" in section
    notes = [line.split(" | ")[-1] for line in lines_of(out)]
    assert notes == ["few <networks> |", f"{known}; slow |", " |", " |"]


def test_the_missing_comes_after_the_results(out: Path) -> None:
    page(out)
    text = (out / "report.html").read_text()
    places = [match.start() for match in re.finditer(r"<section ", text)]
    assert len(places) == 4
    assert text.index('<section id="missing">') == places[-1]
    assert text.index(">random_labels</a>") < text.index(">formula_fit</a>")


def test_results_of_another_version_are_said_to_be(out: Path, capsys) -> None:
    """Checks that have other fields; the other results are shown."""
    file = out / "random_labels" / "cifar10" / "summary.json"
    row = {"check": "name", "measured": 0.5, "bound": 1e-9, "passed": True}
    change_json(file, checks=[row])
    found = page(out)
    text = found.section("random_labels-1")
    assert "its checks are damaged, or of another version of this library" in text
    assert "python -m experiments random_labels --preset cpu --seeds 3" in text
    assert "Theorem 4.2 fails on raw images ✓ met" in found.section("theory_vs")
    assert "of another version" in capsys.readouterr().out
    assert "not there" in lines_of(out)[0]
