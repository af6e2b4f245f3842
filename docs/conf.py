"""How the documentation is built: `make docs` writes it to build/docs.

Nothing here needs a network, at build or at view. A warning is an error.
"""

import inspect
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import sphinx.errors
from docutils import nodes
from docutils.parsers.rst import directives
from flax import nnx
from sphinx.domains.python._object import PyObject
from sphinx.util.docutils import SphinxDirective

import linear_cnn
import theory
from experiments import catalogue

HERE = Path(__file__).parent

# The tutorials run in a user's settings: float64 off unless they turn it on.
os.environ.pop("JAX_ENABLE_X64", None)
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a warning of the debugger's

project = "linear-cnn"
author = "The linear-cnn authors"
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# Parts of other pages: the table of results of results.md, and each result, whose name
# has a hyphen, of the page of its experiment.
exclude_patterns = ["results/table.md", "results/*-*.md"]
nitpicky = (
    False  # types of other packages have no pages here, and no network to look them up
)

# --- pages ---

html_theme = "sphinx_book_theme"
html_title = "linear-cnn"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["figures.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "navbar_persistent": [],  # the search has its place on the left
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}

# MathJax as one file without fonts of its own, from a package: it needs no network,
# and works from file:// too.
_mathjax = Path(find_spec("mathjax").submodule_search_locations[0])
html_static_path.append(str(_mathjax / "static/mathjax/es5/tex-svg.js"))
mathjax_path = "tex-svg.js"
mathjax_config_path = "_static/mathjax.js"

# --- Markdown and notebooks ---

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 4


def _unbroken(text: str) -> str:
    """Markdown in whose tables numbers keep on their line what belongs to them:
    spreads, bounds, ranges, exponents."""

    def row(line: str) -> str:
        line = re.sub(r" ± (?=[\d.])", "\u00a0±\u00a0", line)
        line = re.sub(r"(\\[<>]=?) (?=[-\d])", "\\1\u00a0", line)
        line = re.sub(r"(?<=\d) (to|of) (?=[-\d])", "\u00a0\\1\u00a0", line)
        return re.sub(r"(?<=\de-)(?=\d\d)", "\u2060", line)

    lines = text.split("\n")
    return "\n".join(row(line) if line.startswith("|") else line for line in lines)


def _run_times() -> str:
    """The experiments and their run times as a table of Markdown."""
    rows = [
        ["experiment", "what it shows", "figure", "smoke", "cpu", "paper"],
        ["---"] * 6,
    ]
    for name, one in catalogue.CATALOGUE.items():
        times = [one.time[preset] for preset in catalogue.PRESET_NAMES]
        rows.append([f"[{name}](../results/{name}.md)", one.shows, one.paper, *times])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _not_saved() -> str:
    """Which experiments have no saved results, as a sentence; "" where all have."""
    missing = [
        f"[{name}](results/{name}.md)"
        for name in catalogue.CATALOGUE
        if not list((HERE / "results").glob(f"{name}-*.json"))
    ]
    names = ", ".join(missing)
    return f"No results of this version are saved of {names}." if missing else ""


myst_substitutions = {
    "results_table": _unbroken((HERE / "results/table.md").read_text()),
    "not_saved": _not_saved(),
    "run_times": _run_times(),
}
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_ipywidgets_js = {}  # they would come from a network


class SavedResults(SphinxDirective):
    """All saved results of an experiment.

    What stands inside takes the place of those that are missing: of all, or with
    `:of:` of those on one data set.
    """

    required_arguments = 1
    option_spec: ClassVar = {"of": directives.unchanged_required}
    has_content = True

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        folder = HERE / "results"
        files = sorted(folder.glob(f"{name}-*.md"), key=self._place)
        parts = [_unbroken(file.read_text()) for file in files]
        wanted = f"{name}-{self.options['of']}" if "of" in self.options else None
        if not any(wanted in (None, file.stem) for file in files):
            parts.append("\n".join(self.content) or "No saved results yet.")
        return self.parse_text_to_nodes("\n".join(parts), allow_section_headings=True)

    @staticmethod
    def _place(file: Path) -> tuple[bool, str]:
        return not file.stem.endswith("-photographs"), file.stem


# --- reference ---

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autosummary_generate = False
default_role = "py:obj"
napoleon_attr_annotations = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

_SECTIONS = {
    number: nodes.make_id(f"{number}. {title}")
    for number, title in re.findall(
        r"^#+ ([\d.]+?)\.? (.+)$", (HERE / "derivations.md").read_text(), re.MULTILINE
    )
}


def _linked(text: str) -> str:
    """Mentions of the derivations as links, from the pages in reference/."""

    def link(match: re.Match[str]) -> str:
        section = _SECTIONS[match[1]]
        return f"`derivations, section {match[1]} <../derivations.html#{section}>`__"

    return re.sub(r"docs/derivations\.md, section (\d+(?:\.\d+)?)", link, text)


def _escaped(line: str) -> str:
    """A line of prose in which |a| and * stand for themselves; what is in backticks
    stays."""
    line = re.sub(r"(?<= )\.\.\.(?= )", "…", line)  # three dots would end a summary
    parts = re.split(r"((?::\w+:)?`[^`]*`(?:__)?)", line)
    return "".join(
        part if at % 2 else re.sub(r"(?<!\\)([|*])", r"\\\1", part)
        for at, part in enumerate(parts)
    )


def _table_of_bars(rows: list[str]) -> list[str]:
    """A table in Markdown's notation as reStructuredText."""
    cells = [
        [cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows
    ]
    lines = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in cells[:1] + cells[2:]:
        lines += [f"   {' ' if at else '*'} - {cell}" for at, cell in enumerate(row)]
    return [*lines, ""]


def _errors_apart(lines: list[str]) -> list[str]:
    """The lines of a docstring in which each exception of "Raises:" has its own."""
    result: list[str] = []
    raised: list[str] = []
    indent = None  # of the exceptions, below "Raises:"
    for line in [*lines, ""]:
        if line.strip() and indent is not None:
            raised.append(line.strip())
            continue
        if indent is not None:
            parts = re.split(r"(?<=[.;]) (?=[A-Z]\w+: )", " ".join(raised))
            result += [" " * indent + part for part in parts]
            raised, indent = [], None
        result.append(line)
        if line.strip() == "Raises:":
            indent = len(line) - len(line.lstrip()) + 2
    return result


def _docstring(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text with some reStructuredText in it; here they become all
    of it."""
    result: list[str] = []
    rows: list[str] = []
    verbatim = None  # indentation of the block that is kept as it is
    example = False
    text = _errors_apart(_linked("\n".join(lines)).split("\n"))
    for line in [*text, ""]:
        if line.startswith("Create new instance of "):  # of a NamedTuple's __new__
            continue
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("|") and line.rstrip().endswith("|"):
            rows.append(line)
            continue
        if rows:
            result += _table_of_bars(rows)
            rows = []
        if line.strip() and verbatim is not None and indent <= verbatim:
            verbatim = None
        example = bool(line.strip()) and (
            example or line.lstrip().startswith((">>>", "..."))
        )
        if line.lstrip().startswith(".. ") or line.rstrip().endswith("::"):
            verbatim = indent if verbatim is None else verbatim
        result.append(line if example or verbatim is not None else _escaped(line))
    lines[:] = result


def _named(default):
    """A default value that is shown as a user would write it."""
    if default is inspect.Parameter.empty:
        return default
    if inspect.isclass(default) or inspect.isfunction(default):
        return type("Named", (), {"__repr__": lambda _: default.__name__})()
    return default


def _signature(app, what, name, obj, options, signature, returns):
    """Networks show their own arguments, not those of their metaclass."""
    if what == "class" and issubclass(obj, nnx.Module):
        own = inspect.signature(obj.__init__)
        parameters = [
            parameter.replace(
                annotation=inspect.Parameter.empty, default=_named(parameter.default)
            )
            for key, parameter in own.parameters.items()
            if key != "self"
        ]
        return str(
            own.replace(
                parameters=parameters, return_annotation=inspect.Signature.empty
            )
        ), ""
    return None


def _all_documented(app, env) -> None:
    """Every public name has its place in the reference."""
    documented = set(env.get_domain("py").objects)
    public = {
        f"{package.__name__}.{name}"
        for package in (theory, linear_cnn)
        for name in package.__all__
    }
    missing = sorted(public - documented)
    if missing:
        raise sphinx.errors.ExtensionError(
            f"not in docs/reference: {', '.join(missing)}; add each to the page it"
            " belongs on."
        )


def setup(app) -> None:
    app.add_directive("saved-results", SavedResults)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect(
        "autodoc-process-docstring", _docstring, priority=400
    )  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("env-updated", _all_documented)
