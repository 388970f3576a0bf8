"""What transformerlm-sweep prints while it runs: a line for each run that ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformerlm.config import SweepConfig
from transformerlm.logging import names
from transformerlm.logging.base import Value
from transformerlm.logging.console import ConsoleLogger
from transformerlm.logging.screen import is_terminal, printable, width
from transformerlm.progress import duration

if TYPE_CHECKING:
    from transformerlm.sweep.job import Job
    from transformerlm.sweep.journal import Result
    from transformerlm.sweep.result import SweepResult


class JsonPrinter:
    """Prints a JSON object for each run, and one at the end."""

    def __init__(self, metric: str) -> None:
        self._metric, self._console = f"metrics.{metric}", ConsoleLogger()

    def trial(self, job: Job, result: Result) -> None:
        """Print a run that has ended."""
        self._console.log(self._record(job, result))

    def result(self, result: SweepResult) -> None:
        """Print which trial is the best, and how sure that is."""
        if result.best is None:
            return
        found = result.sweep.journal.results[result.best.name]
        verdicts = [f"{one.other:04}: {one.verdict}" for one in result.comparisons]
        record = self._record(result.best, found) | {names.SWEEP_VERDICT: "; ".join(verdicts)}
        self._console.log({names.SWEEP_BEST: True, **record})

    def _record(self, job: Job, result: Result) -> dict[str, Value]:
        values: dict[str, Value] = {
            names.SWEEP_TRIAL: job.trial,
            names.SWEEP_RUN: job.name,
            names.SWEEP_OUTCOME: result.outcome,
            names.SWEEP_SECONDS: result.seconds,
        }
        if result.value is not None:
            values[names.EVAL_BITS_PER_BYTE if job.is_score else self._metric] = result.value
        if result.reason:
            values[names.SWEEP_REASON] = result.reason
        return values | {f"params.{key}": _plain(value) for key, value in job.values.items()}


class PrettyPrinter:
    """Prints a line for each run, no wider than the window."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys, self._console = keys, ConsoleLogger()

    def trial(self, job: Job, result: Result) -> None:
        """Print a run that has ended; what its scoring has come to is in the table."""
        if job.is_score and result.value is not None:
            return
        from transformerlm.sweep.table import settings_text

        value = f"{result.value:.4f}" if result.value is not None else result.outcome
        spent = duration(result.seconds) if result.seconds else ""
        text = result.reason or settings_text(job.values, self._keys)
        line = f"{job.name:<14}  {value:>8}  {spent:>7}  {text}"
        columns = width(sys.stdout) - 1  # a line that fills the last column may wrap
        self._console.print(printable(line)[:columns].rstrip() + "\n")

    def result(self, result: SweepResult) -> None:
        """Print nothing: the table is a message."""


def printer(config: SweepConfig) -> JsonPrinter | PrettyPrinter:
    """Return a printer for people or for programs, by [logging].console_format and what stdout is."""
    form = config.logging.console_format
    is_pretty = is_terminal(sys.stdout) if form == "auto" else form == "pretty"
    if is_pretty:
        return PrettyPrinter([axis.key for axis in config.axes])
    return JsonPrinter(config.sweep.metric)


def _plain(value: object) -> Value:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
