"""The page of a sweep: the result against each key, all trials, the verdict, and the finalists' curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformerlm.config.space import Span
from transformerlm.report.page import Preface, write_report
from transformerlm.report.scatter import Point, legend, panels
from transformerlm.sweep import table
from transformerlm.sweep.job import Job
from transformerlm.sweep.result import SweepResult

MAX_CURVES = 6
"""Runs whose curves lie over each other where there are no finalists."""


def write_page(result: SweepResult) -> Path | None:
    """Write report.html in the folder of the sweep; return its path, or None if no run is complete.

    Raises:
        OutputError: the disk is full.
    """
    runs = [result.sweep.paths.run(job) for job in _shown(result)]
    if not runs:
        return None
    write_report(runs, result.sweep.paths.report, preface=preface(result))
    return result.sweep.paths.report


def preface(result: SweepResult) -> Preface:
    """Return what the page has above the curves."""
    config = result.sweep.config
    keys = [axis.key for axis in config.axes]
    points = [_point(result, job, keys) for job in result.sweep.begun() if job.is_search]
    log_keys = frozenset(axis.key for axis in config.axes if isinstance(axis, Span) and axis.scale == "log")
    return Preface(
        title=f"sweep {result.sweep.paths.sweep_dir.name}",
        subtitle=f"{config.sweep.method}, {table.counts(result)}",
        metric=table.UNITS[config.sweep.metric],
        verdicts=list(table.verdicts(result)),
        panels=panels(points, keys, log_keys),
        legend=list(legend(points)),
        head=table.head(result),
        rows=table.rows(result),
    )


def _shown(result: SweepResult) -> list[Job]:
    """Return the runs whose curves are shown: all of the finalists, or else the best of the search."""
    results = result.sweep.journal.results
    finals = [job for job in result.sweep.begun() if not job.is_search and not job.is_score]
    complete = [job for job in finals if job.name in results and results[job.name].value is not None]
    return complete or result.sweep.ranked()[:MAX_CURVES]


def _point(result: SweepResult, job: Job, keys: Sequence[str]) -> Point:
    found = result.sweep.journal.results.get(job.name)
    value = found.value if found else None
    label = (
        f"{job.name}: {value:.4f}" if value is not None else f"{job.name}: {found.outcome if found else ''}"
    )
    values = {
        key: one if isinstance(one, int | float) else table.value_text(one) for key, one in job.values.items()
    }
    return Point(values, value, _kind(result, job, value), f"{label} {table.settings_text(job.values, keys)}")


def _kind(result: SweepResult, job: Job, value: float | None) -> str:
    if value is None:
        return "bad"
    if job.part < 1.0:
        return "short"
    if result.best is not None and job.trial == result.best.trial:
        return "best"
    return "finalist" if any(job.trial == one.trial for one in result.finalists) else "complete"
