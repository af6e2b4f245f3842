"""All results on one page, to look at, and their numbers in one table, for the README.

    python -m experiments report
    python -m experiments report --out /tmp/results
    python -m experiments report --publish docs

Reads what the experiments have left in <out>/<experiment>/<data set>/ and computes
nothing. Writes <out>/report.html, one file with its figures inside, which needs neither
a network nor JavaScript, and <out>/report.md. The same results give the same files.
Results that are missing, unfinished or damaged are named, with the command that makes
them.
"""

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from experiments import catalogue
from experiments.frame import disk
from experiments.report import documents
from experiments.report.reading import ALL, Result, missing, read
from linear_cnn._text import escaped


def main(out: Path = Path("results"), publish: Path | None = None) -> None:
    """All results on one page, <out>/report.html, and in one table, <out>/report.md.

    Args:
        out: Folder of the results.
        publish: Folder of the documentation, into whose results/ the summaries are
            copied too, and whose tables are made of them again.
    """
    if not out.is_dir():
        raise FileNotFoundError(
            f"there are no results in --out {out} yet; name the folder that has some,"
            f" or make them: {ALL} (hours; --preset smoke: minutes, to try)"
        )
    results = read(out)
    disk.write_text(out / "report.html", html(results, out))
    disk.write_text(out / "report.md", documents.markdown(results))
    for result in results:
        if result.problem:
            print(f"{result.name} ({result.data_set}): {result.problem}")
    for name, command in missing(results, out).items():
        print(f"{name} is missing: {command}")
    print(f"written to {out / 'report.html'} and {out / 'report.md'}")
    if publish is not None:
        written = documents.publish(out, publish)
        print(f"published in {publish}: {len(written)} files")


def html(results: Sequence[Result], out: Path) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # Paths and names of classes are whatever the user has.
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(
        results=results,
        missing=missing(results, out),
        catalogue=catalogue.entries(),
        all_command=ALL,
        zip=zip,
    )


def _printable(value: object) -> object:
    """What the page shows of a value, without control characters."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return escaped(value)
