"""Time accounting of a run, across resumes: steps, waiting for data, validating, saving, sampling.

This module only measures time; budget.py uses the measurements.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformerlm.progress import duration as duration

IMPORTED = time.perf_counter()
"""When this module was imported: of a command, soon after its start."""

MAX_IMPORT_SECONDS = 60.0
"""Longest time from the start of a command to the import of this package that is believed."""
FIRST_STEPS = 3
"""Number of first steps of a process that are atypically slow: they fill caches, start threads, compile."""

KINDS = ("starting", "first steps", "steps", "data", "validating", "saving", "sampling")
STARTING, FIRST, STEPS, DATA, VALIDATING, SAVING, SAMPLING = KINDS


class Spent(NamedTuple):
    """Seconds that one kind of work took, and the number of times that it was done."""

    seconds: float = 0.0
    times: int = 0

    @property
    def mean(self) -> float | None:
        """Mean seconds per time; None if it was never done."""
        return self.seconds / self.times if self.times else None


class Lap(NamedTuple):
    """Number of steps and their seconds, between two moments."""

    steps: float
    seconds: float
    """Includes waiting for data, but not validating, saving and sampling."""
    data_seconds: float

    def __sub__(self, earlier: Lap) -> Lap:
        return Lap(*(now - before for now, before in zip(self, earlier, strict=True)))


class Clock:
    """Clock that divides all time among kinds of work: `spend` assigns the time since the last call to a
    kind.

    Args:
        now: returns seconds since any fixed moment.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._mark = now, now()
        self._spent = dict.fromkeys(KINDS, Spent())
        self._first_steps = 0

    def start(self, since: float | None = None) -> None:
        """Start the clock: time before `since` does not count; None: before now."""
        self._mark = self._now() if since is None else since

    def spend(self, kind: str, times: int = 1) -> None:
        """Assign the time since the last call to `kind`, which was done `times` times in it."""
        now, old = self._now(), self._spent[kind]
        self._spent[kind] = Spent(old.seconds + now - self._mark, old.times + times)
        self._mark = now

    def spend_on_step(self, times: int = 1) -> None:
        """Assign the time to a step, or with `times` 0 to a part of one."""
        is_first = self._first_steps < FIRST_STEPS
        self.spend(FIRST if is_first else STEPS, times)
        self._first_steps += times if is_first else 0

    def spend_on_data(self) -> None:
        """Assign the time to waiting for the data of a step."""
        self.spend(FIRST if self._first_steps < FIRST_STEPS else DATA, times=0)

    @property
    def elapsed(self) -> float:
        """Seconds of this run until now, including earlier processes."""
        return sum(spent.seconds for spent in self._spent.values()) + self._now() - self._mark

    @property
    def pace(self) -> float | None:
        """Mean seconds of a step, without the first ones; None if there are no others yet."""
        steps = self._spent[STEPS]
        return (steps.seconds + self._spent[DATA].seconds) / steps.times if steps.times else None

    def mean(self, kind: str) -> float | None:
        """Return the mean seconds of this kind of work; None if it was never done."""
        return self._spent[kind].mean

    def lap(self) -> Lap:
        """Return a lap of all steps so far; the difference of two is that of the steps between them."""
        first, steps, data = (self._spent[kind] for kind in (FIRST, STEPS, DATA))
        return Lap(first.times + steps.times, first.seconds + steps.seconds + data.seconds, data.seconds)

    def state(self) -> dict[str, list[float]]:
        """Return all seconds and counts, for a resumed run."""
        return {kind: list(spent) for kind, spent in self._spent.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self._spent |= {kind: Spent(float(s), int(times)) for kind, (s, times) in state.items()}


def process_start() -> float:
    """Return the moment at which this process was started, by `time.perf_counter`.

    Linux tells it to a hundredth of a second. Elsewhere it is the import of this package.
    """
    try:
        # The name of the program, in parentheses, may contain anything.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return IMPORTED
    start = min(IMPORTED, time.perf_counter() - age)
    # A container may have a clock of its own, by which the process began in the future or long ago.
    return start if IMPORTED - start < MAX_IMPORT_SECONDS else IMPORTED
