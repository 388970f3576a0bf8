"""Decisions by the load of the machine: how threads wait for each other, and how many compute.

Pure: observations in, a decision out; no clock, no threads. load_watch.py and thread_adapter.py observe and
apply. While the machine is quiet, all threads compute and waiting ones poll long. As soon as it has other
work, waiting threads sleep soon: two threads that poll beside one busy process take twenty times as long as
one thread. Then fewer threads are tried for some steps, and kept if steps are clearly faster; after a while
another number is tried, the more rarely the longer that has not helped.
"""

from __future__ import annotations

from dataclasses import dataclass

CROWDED, QUIET = 0.3, 0.15
"""Processors that threads of this process and of others want at the same time: from the first on the machine
is crowded, up to the second it is quiet again."""
QUIET_WINDOWS = 3
"""Observations in a row by which a machine that was crowded must be quiet."""
CROWDED_WINDOWS = 3
"""Observations in a row of a crowded machine before another number of threads is tried."""
GAIN = 0.95
"""Time of a step relative to that before, up to which another number of threads is kept."""
FIRST_PAUSE, LAST_PAUSE = 8.0, 128.0
"""Seconds between two trials: twice as many after each one that did not help."""
MIN_PAUSE_WINDOWS = 50
"""Observations between two trials at least, so that trials cost no more than about a per cent."""


class Crowding:
    """Judgement if the machine has other work for the processors that this process wants, with hysteresis.

    Args:
        num_threads: threads that compute if the machine is quiet.
        num_cores: processors on which this process and others run.
    """

    def __init__(self, num_threads: int, num_cores: int) -> None:
        self._spare_cores = num_cores - num_threads
        self._quiet_windows = QUIET_WINDOWS - 1
        self.is_crowded = num_threads > 1
        """The newest decision; the first observation decides if that of the beginning stays."""

    def update(self, others: float | None) -> bool:
        """Return True if the machine is crowded.

        Args:
            others: processors that others keep busy; None, where that is not known, counts as quiet.
        """
        crowding = 0.0 if others is None else others - self._spare_cores
        self._quiet_windows = self._quiet_windows + 1 if crowding <= QUIET else 0
        if self.is_crowded:
            self.is_crowded = self._quiet_windows < QUIET_WINDOWS
        else:
            self.is_crowded = crowding > CROWDED
        return self.is_crowded


@dataclass(frozen=True)
class Observation:
    """Some steps in a row."""

    seconds_per_step: float
    wall: float
    """Seconds since the observation before."""
    others: float | None
    """Processors that other work kept busy; None where the system does not tell."""


class ThreadPolicy:
    """Choice of the number of threads after each observation.

    Args:
        max_threads: number of threads for a quiet machine.
        num_cores: processors on which this process and others run.
    """

    def __init__(self, max_threads: int, num_cores: int) -> None:
        self.max_threads, self.num_cores = max_threads, num_cores
        self.num_threads = max_threads
        """The present number."""
        self._crowding = Crowding(max_threads, num_cores)
        self._before: tuple[int, float] | None = None
        """During a trial: number of threads and seconds per step before it."""
        self._reset()

    def _reset(self) -> None:
        self._goes_down, self._crowded_windows, self._others = True, 0, 0.0
        self._pause, self._until_trial, self._before = FIRST_PAUSE, 0.0, None

    @property
    def is_trial(self) -> bool:
        """True while a number of threads is being tried."""
        return self._before is not None

    def decide(self, seen: Observation) -> int:
        """Return the number of threads until the next observation."""
        if not self._crowding.update(seen.others) or seen.others is None:
            self._reset()
            self.num_threads = self.max_threads
        elif self._before is not None:
            self._end_trial(seen)
        else:
            self._wait_for_trial(seen, seen.others)
        return self.num_threads

    def _wait_for_trial(self, seen: Observation, others: float) -> None:
        self._until_trial, self._crowded_windows = self._until_trial - seen.wall, self._crowded_windows + 1
        if abs(others - self._others) > max(0.5, self.num_cores / 8):  # other work has come or gone
            self._until_trial, self._pause, self._others = 0.0, FIRST_PAUSE, others
            self._crowded_windows = 1
        if self._until_trial <= 0 and self._crowded_windows >= CROWDED_WINDOWS and self.max_threads > 1:
            self._begin_trial(seen, round(self.num_cores - others))

    def _begin_trial(self, seen: Observation, num_free: int) -> None:
        now = self.num_threads
        self._goes_down = now > 1 and (self._goes_down or now == self.max_threads)
        fewer, more = max(1, min(now - 1, num_free)), min(self.max_threads, max(now + 1, num_free))
        self._before, self.num_threads = (now, seen.seconds_per_step), fewer if self._goes_down else more

    def _end_trial(self, seen: Observation) -> None:
        assert self._before is not None
        (number, seconds), self._before = self._before, None
        if seen.seconds_per_step <= GAIN * seconds:
            self._pause = FIRST_PAUSE
        else:
            self.num_threads, self._goes_down = number, not self._goes_down
            self._pause = min(2 * self._pause, LAST_PAUSE)
        self._until_trial = max(self._pause, MIN_PAUSE_WINDOWS * seen.wall)
