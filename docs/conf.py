"""Sphinx configuration: MyST pages, an API reference from the docstrings, the key reference from the config.

uv run sphinx-build -W --keep-going -b html docs docs/_build
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import transformerlm  # noqa: E402
from transformerlm import config as configs  # noqa: E402
from transformerlm.schema.reference import key_reference_markdown  # noqa: E402

project = "transformerlm"
author = "the authors of transformerlm"
release = version = transformerlm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"transformerlm {release}"
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = False
highlight_language = "text"
html_math_renderer = "mathml"  # every browser shows it, and a page loads nothing from elsewhere
pygments_style, pygments_dark_style = "friendly", "monokai"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source", "Sources"]
default_role = "code"
# Names that several modules use inside (`Part`, `pairs`) need no link.
suppress_warnings = ["ref.python"]

CONFIG_CLASSES = (
    configs.TrainConfig,
    configs.MakeDataConfig,
    configs.TrainTokenizerConfig,
    configs.InferConfig,
    configs.EvalConfig,
    configs.ExportConfig,
    configs.ImportConfig,
    configs.StatusConfig,
    configs.ReportConfig,
    configs.SweepConfig,
    configs.InspectConfig,
    configs.ShowConfig,
    configs.VerifyConfig,
    configs.MergeConfig,
)
KERNEL_SOURCES = {"bpe", "bpe_layout", "generation", "generation_layout", "training", "primitives", "vectors"}
"""Modules of transformerlm.kernels that numba compiles: they have no public names."""
SOURCE_LINE = re.compile(r"^Source: ")


def key_reference() -> str:
    """Return the tables of every command's config as Markdown, each table once."""
    found: dict[str, str] = {}
    for config_class in CONFIG_CLASSES:
        for section in re.split(r"(?m)^(?=## )", key_reference_markdown(config_class)):
            heading, _, body = section.partition("\n")
            if name := re.search(r"\[(\w+)\]", heading):
                # A table that several commands share has the most keys in one of them.
                found[name[1]] = max(found.get(name[1], ""), body, key=len)
    return "\n\n".join(f"## [{table}]\n{body}" for table, body in found.items())


API_MARKER = re.compile(r"<!-- api: (.+?) -->")


def api(names: str) -> str:
    """Return autodoc directives for packages and modules: what `__all__` names, else every submodule."""
    lines = [line for name in names.split() for line in directives(name)]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def directives(name: str) -> Iterator[str]:
    """Yield the directives of one package or module."""
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if public is None and not hasattr(module, "__path__"):
        yield from (f".. automodule:: {name}", "")
        return
    yield from (f".. automodule:: {name}", "   :no-members:", "")
    if public is None:
        for submodule in pkgutil.iter_modules(module.__path__, f"{name}."):
            if name == "transformerlm.kernels" and submodule.name.split(".")[-1] in KERNEL_SOURCES:
                continue
            yield from (f".. rubric:: {submodule.name}", "", f".. automodule:: {submodule.name}", "")
        return
    for entry in public:
        kind = directive_of(getattr(module, entry))
        yield from (f".. {kind}:: {name}.{entry}", *(["   :no-value:"] if kind == "autodata" else []), "")


def directive_of(value: object) -> str:
    """Return the name of the autodoc directive that documents `value`."""
    if inspect.ismodule(value):
        return "automodule"
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, Exception) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def fill_markers(_app: Any, _docname: str, content: list[str]) -> None:
    """Replace the markers on a page by generated text: the tables of keys, an API reference."""
    text = content[0]
    if "<!-- keys -->" in text:
        text = text.replace("<!-- keys -->", key_reference())
    content[0] = API_MARKER.sub(lambda found: api(found[1]), text)


def visit_math(translator: Any, node: nodes.math) -> None:
    """Write a formula as MathML."""
    translator.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    formula = latex2mathml.tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def plain_docstring(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Make plain docstrings valid reStructuredText: literal code spans, indented code, no other markup."""
    out: list[str] = []
    in_code, section_indent = False, 0
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        before = lines[number - 1] if number else ""
        if line.strip() and indent <= section_indent and not re.match(r"\s*$", line):
            in_code = False
            section_indent = 4 if line.rstrip().endswith(":") and indent == 0 and " " not in line else 0
        if not in_code and line.strip() and indent >= section_indent + 4 and not before.strip():
            out += [f"{' ' * section_indent}::", ""]
            in_code = True
        out.append(line if in_code else SOURCE_LINE.sub("**Source:** ", escaped(line)))
    lines[:] = out


def escaped(line: str) -> str:
    """Escape what reStructuredText would read as markup, outside of code spans."""
    parts = re.split(r"(`[^`]+`)", line)
    for number, part in enumerate(parts):
        if part.startswith("`"):
            parts[number] = f"`{part}`"
            if number + 1 < len(parts) and re.match(r"\w", parts[number + 1]):
                parts[number] += "\\ "  # as in "`assert`s", where markup has to end before the letter
        else:
            parts[number] = re.sub(r"([*|`]|\\(?! )|_(?=\W|$))", r"\\\1", part)
    return "".join(parts)


def setup(app: Any) -> None:
    """Connect the handlers above."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("source-read", fill_markers)
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
