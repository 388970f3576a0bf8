"""The page: numbers, charts and samples of runs, in one HTML file.

Everything that a page shows may come from anybody: the template escapes all text, the data is JSON in which
no tag can end, and the page's own policy forbids every request and any script but its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm import __version__
from transformerlm.report import figures
from transformerlm.report.charts import QUALITY, details_of, page_data, table
from transformerlm.report.marks import marks
from transformerlm.report.run import Run, read_run
from transformerlm.report.scatter import Panel
from transformerlm.report.text import visible
from transformerlm.storage.files import committed_file

if TYPE_CHECKING:
    import jinja2

MAX_MARKS = 60
"""Marks that are listed under the charts; all are drawn."""


@dataclass(frozen=True)
class Preface:
    """What the page of a sweep has above the curves of its runs."""

    title: str
    subtitle: str
    metric: str
    """What the results are."""
    verdicts: Sequence[str]
    """Sentences about the best trial."""
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str]]
    """Kind of point, and its meaning."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The table of all trials."""


def write_report(run_dirs: Sequence[Path], output: Path, preface: Preface | None = None) -> int:
    """Write the page of one or several runs; return its size in bytes.

    Args:
        preface: of a sweep that the runs belong to.

    Raises:
        ConfigError: a path is not a run's folder.
        OutputError: the disk is full.
        OSError: the page cannot be written for another reason.
    """
    content = report_html([read_run(path) for path in run_dirs], preface=preface).encode("utf-8", "replace")
    with committed_file(output) as file:
        file.write(content)
    return len(content)


def report_html(
    runs: Sequence[Run], *, live: Mapping[str, int] | None = None, preface: Preface | None = None
) -> str:
    """Return the page of one or several runs.

    Args:
        preface: see `write_report`.
        live: what of the metrics is on the page, where it asks the server that it came from for more.
    """
    style, script = part("page.css"), part("page.js")
    policy = [f"style-src '{policy_hash(style)}'", f"script-src '{policy_hash(script)}'"]
    policy = ["default-src 'none'", *policy, *(["connect-src 'self'"] if live else [])]
    return template("page.html").render(
        **content(runs, preface),
        data=embedded({**page_data(runs), "live": live}),
        policy="; ".join(policy),
        style=style,
        script=script,
    )


@functools.cache
def template(name: str) -> jinja2.Template:
    """Return a template of this package, compiled; it escapes all text and shows control characters."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not of the page's own parts
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(part(name))


def part(name: str) -> str:
    """Return a file of this package: a template, a style or a script."""
    return resources.files("transformerlm.report").joinpath(name).read_text("utf-8")


def policy_hash(text: str) -> str:
    """Return a style or script as a page's policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embedded(data: Any) -> str:
    """Return JSON that can stand in a <script>: ASCII, and without the characters of tags."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content(runs: Sequence[Run], preface: Preface | None = None) -> Mapping[str, Any]:
    """Return the texts and tables of the page, for the template."""
    own = [run_content(run) for run in runs]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return {
        "title": preface.title if preface else title,
        "preface": preface,
        "version": __version__,
        "runs": own,
        "runs_table": figures.runs_table(runs),
        "differences": figures.differing_settings(runs) if len(runs) > 1 else [],
        "quality": {"chart": QUALITY, "table": table(QUALITY, runs)},
        "details": [{"chart": chart, "table": table(chart, runs)} for chart in details_of(runs)],
        "max_marks": MAX_MARKS,
    }


def run_content(run: Run) -> dict[str, Any]:
    """Return the texts and tables of one run."""
    best = figures.best_bits(run)
    return {
        "name": run.name,
        "subtitle": figures.subtitle(run),
        "best": {"step": best[0], "bits": f"{best[1]:.3f}"} if best else None,
        "verdict": figures.verdict(run),
        "comparison": figures.comparison(run),
        "figures": figures.key_figures(run),
        "marks": marks(run),
        "writings": figures.time_line(run.samples),
        "data": figures.data_rows(run),
        "mixture": figures.mixture_rows(run),
        "longest_tokens": figures.longest_tokens(run),
        "environment": figures.environment_rows(run),
        "config": figures.config_tables(run),
        "cost": figures.cost(run),
        "started": figures.started(run),
        "command": figures.write_command(run),
    }
