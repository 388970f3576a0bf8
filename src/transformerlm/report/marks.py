"""Interruptions of a run: restarts, roll-backs, errors, spikes, skipped steps, values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transformerlm.logging import names
from transformerlm.logging.history import ERROR, ROLL_BACK, START
from transformerlm.report.metrics import Series
from transformerlm.report.run import Run

RESTART, ROLLED_BACK, SPIKE, SKIPPED, NONFINITE = "restart", "roll-back", "spike", "skipped", "not finite"
FAILURE = "error"


class Mark(NamedTuple):
    """Something that happened at a step."""

    kind: str
    step: int
    text: str
    """For a person."""


def marks(run: Run) -> list[Mark]:
    """Return what happened to a run, in the order of steps."""
    found = [*_from_history(run), *_counted(run, names.SPIKES, SPIKE, "spike")]
    found += _counted(run, names.SKIPPED_STEPS, SKIPPED, "step not taken")
    for name in (names.LOSS, names.GRAD_L2_NORM, names.VAL_LOSS):
        found += _not_finite(run.metrics[name], name)
    return sorted(found, key=lambda mark: mark.step)


def _from_history(run: Run) -> Iterator[Mark]:
    for number, record in enumerate(run.history):
        step, when = record["step"], str(record.get("time", ""))[:19].replace("T", " ")
        if record.get("event") == ROLL_BACK:
            origin = record.get("from_step")
            place = f" from step {origin:,}" if isinstance(origin, int) else ""
            yield Mark(ROLLED_BACK, step, f"went back to step {step:,}{place}")
        elif record.get("event") == ERROR:
            yield Mark(FAILURE, step, f"ended by an error after step {step:,}: {record.get('what')}")
        elif record.get("event") == START and number > 0:
            what = f"went on from step {step:,}" if step else "begun again"
            yield Mark(RESTART, step, f"{what} ({when} UTC)")


def _counted(run: Run, name: str, kind: str, what: str) -> Iterator[Mark]:
    """Yield a mark at each record whose count is above that of the record before."""
    series = run.metrics[name].finite
    for index in np.flatnonzero(np.diff(series.values, prepend=0.0) > 0):
        new = int(series.values[index] - (series.values[index - 1] if index else 0.0))
        first = int(series.steps[index - 1]) + 1 if index else 1
        last = int(series.steps[index])
        where = f"at step {last:,}" if first >= last else f"between steps {first:,} and {last:,}"
        words = what if new == 1 else what.replace("step", "steps", 1) if "step" in what else f"{what}s"
        yield Mark(kind, last, f"{new:,} {words} {where}")


def _not_finite(series: Series, name: str) -> Iterator[Mark]:
    for index in np.flatnonzero(~np.isfinite(series.values)):
        step, value = int(series.steps[index]), series.values[index]
        yield Mark(NONFINITE, step, f"{name} is {value} at step {step:,}")
