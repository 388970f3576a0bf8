"""The result of a sweep as a table, for the terminal and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformerlm.progress import duration
from transformerlm.sweep.finals import Finalist
from transformerlm.sweep.job import Job
from transformerlm.sweep.journal import Result
from transformerlm.sweep.result import SweepResult

UNITS = {"val_bits_per_byte": "bits/byte", "val_loss": "loss"}
"""[sweep].metric -> heading of its column."""
MAX_ROWS = 20
"""Rows of the table on the terminal, the best; the page has all."""


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return for each key its name without the table, where that is clear."""
    counts = Counter(key.partition(".")[2] for key in keys)
    return {key: name if counts[name := key.partition(".")[2]] == 1 else key for key in keys}


def value_text(value: Any) -> str:
    """Return a value of a key in few characters."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_text(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the values of a trial in one line, in this order: `lr=0.001 num_layers=4`."""
    names = short_names(keys)
    return " ".join(f"{names[key]}={value_text(values[key])}" for key in keys)


def head(result: SweepResult) -> list[str]:
    """Return the names of the columns."""
    section, keys = result.sweep.config.sweep, [axis.key for axis in result.sweep.config.axes]
    finals = [f"finals, {section.seeds} seeds"] if result.finalists else []
    rung = ["rung"] if section.method == "halving" else []
    return ["trial", *rung, UNITS[section.metric], *finals, "time", *short_names(keys).values()]


def rows(result: SweepResult) -> list[list[str]]:
    """Return a row for each trial: the finalists, the complete ones, the best first, and then the others."""
    finalists = {one.trial: one for one in result.finalists}
    ranked = result.sweep.ranked()
    first = [job for trial in finalists for job in ranked if job.trial == trial]
    complete = {job.trial for job in ranked}
    others = [job for job in result.sweep.begun() if job.is_search and job.trial not in complete]
    ordered = [*first, *(job for job in ranked if job.trial not in finalists), *others]
    return [_row(result, job, finalists) for job in ordered]


def _row(result: SweepResult, job: Job, finalists: Mapping[int, Finalist]) -> list[str]:
    found = result.sweep.journal.results.get(job.name)
    rung = [] if job.rung is None else [str(job.rung)]
    finals = [_finals(finalists.get(job.trial))] if finalists else []
    values = [value_text(job.values[axis.key]) for axis in result.sweep.config.axes]
    return [
        f"{job.trial:04}",
        *rung,
        _value(found),
        *finals,
        duration(found.seconds) if found else "",
        *values,
    ]


def _value(found: Result | None) -> str:
    if found is None:
        return "not ended"
    return found.outcome if found.value is None else f"{found.value:.4f}"


def _finals(finalist: Finalist | None) -> str:
    if finalist is None:
        return ""
    value, error = finalist.bits_per_byte.value, finalist.bits_per_byte.standard_error
    return f"{value:.4f} ± {error:.4f}" if error == error else f"{value:.4f}"


def verdicts(result: SweepResult) -> Iterator[str]:
    """Yield a sentence for each finalist that the best one was compared with."""
    for one in result.comparisons:
        yield f"trial {one.best:04} against {one.other:04}: {one.verdict}"


def counts(result: SweepResult) -> str:
    """Return how many trials have ended how: `12 trials: 9 complete, 2 diverged, 1 refused`."""
    results = result.sweep.journal.results
    jobs = [job for job in result.sweep.begun() if job.is_search]
    found = Counter(results[job.name].outcome if job.name in results else "not ended" for job in jobs)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in found.most_common())
    num_trials = len({job.trial for job in jobs})
    runs = f"{len(jobs)} runs of " if len(jobs) > num_trials else ""
    return f"{runs}{num_trials} trial{'s' if num_trials != 1 else ''}: {parts}"


def lines(result: SweepResult) -> Iterator[str]:
    """Yield the table, the verdicts and the counts as lines of text."""
    every = rows(result)
    shown = [head(result), *every[:MAX_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(every) > MAX_ROWS:
        yield f"... and {len(every) - MAX_ROWS} more, in {result.sweep.paths.report}"
    yield counts(result)
    yield from verdicts(result)
