"""Time accounting of a run: steps, waiting for data, validating, saving. It goes on across resumes.

Here time is only measured. How a budget uses it is in budget.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

FIRST_STEPS = 3
"""Steps of a process that are not typical of its pace: they fill caches, start threads, compile."""

KINDS = ("starting", "first steps", "steps", "data", "validating", "saving")
STARTING, FIRST, STEPS, DATA, VALIDATING, SAVING = KINDS


class Spent(NamedTuple):
    """Seconds that one kind of work took, and how often it was done."""

    seconds: float = 0.0
    times: int = 0

    @property
    def mean(self) -> float | None:
        """Seconds of one; None where it was never done."""
        return self.seconds / self.times if self.times else None


class Lap(NamedTuple):
    """Steps and their seconds since an earlier moment."""

    steps: float
    seconds: float
    """Waiting for data included; validating and saving are not."""
    data_seconds: float

    def __sub__(self, earlier: Lap) -> Lap:
        return Lap(*(now - before for now, before in zip(self, earlier, strict=True)))


class Clock:
    """Divides all time among kinds of work: `spend` gives the time since the last call to the kind named.

    Args:
        now: seconds since any moment.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._mark = now, now()
        self._spent = dict.fromkeys(KINDS, Spent())
        self._first_steps = 0

    def start(self) -> None:
        """Begin to count: the time before is not this run's."""
        self._mark = self._now()

    def spend(self, kind: str, times: int = 1) -> None:
        """Give the time since the last call to `kind`, which was done `times` times in it."""
        now, old = self._now(), self._spent[kind]
        self._spent[kind] = Spent(old.seconds + now - self._mark, old.times + times)
        self._mark = now

    def spend_on_step(self, times: int = 1) -> None:
        """`spend` on a step, or with `times` 0 on a part of one."""
        is_first = self._first_steps < FIRST_STEPS
        self.spend(FIRST if is_first else STEPS, times)
        self._first_steps += times if is_first else 0

    def spend_on_data(self) -> None:
        """`spend` on waiting for the data of a step."""
        self.spend(FIRST if self._first_steps < FIRST_STEPS else DATA, times=0)

    @property
    def elapsed(self) -> float:
        """Seconds of this run until now, those of earlier processes included."""
        return sum(spent.seconds for spent in self._spent.values()) + self._now() - self._mark

    @property
    def pace(self) -> float | None:
        """Mean seconds of a step, over all but the first ones; None while there are only those."""
        steps = self._spent[STEPS]
        return (steps.seconds + self._spent[DATA].seconds) / steps.times if steps.times else None

    def mean(self, kind: str) -> float | None:
        """Mean seconds of this kind of work; None where it was never done."""
        return self._spent[kind].mean

    def lap(self) -> Lap:
        """All steps so far, the first ones too; subtract two laps for the steps between them."""
        first, steps, data = (self._spent[kind] for kind in (FIRST, STEPS, DATA))
        return Lap(first.times + steps.times, first.seconds + steps.seconds + data.seconds, data.seconds)

    def state(self) -> dict[str, list[float]]:
        """All seconds and counts, for a later process to go on from."""
        return {kind: list(spent) for kind, spent in self._spent.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._spent |= {kind: Spent(float(s), int(times)) for kind, (s, times) in state.items()}


def duration(seconds: float) -> str:
    """Format seconds for a person: `4s`, `12m05s`, `1h30m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
