"""Load of the machine: processor time of this process and of all others, on the processors it may use.

Imports no PyTorch. Source: the Linux kernel's documentation, proc(5), /proc/stat.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of /proc/stat that are no idle time: user, nice, system, interrupts, and what a hypervisor gave to
others ("stolen"). Time of guests is part of user time."""

MAX_OTHERS = 0.3
"""Processors that others may keep busy while something is measured that is kept."""
LOOK_SECONDS = 0.1
"""Duration of a look at the load: ten ticks of the system."""
MAX_ERROR = 0.02
"""Seconds by which the count of ticks of a processor may be wrong."""


@dataclass(frozen=True)
class Reading:
    """Processor time up to a moment, in seconds."""

    wall: float
    """The moment, by a clock that only goes forward."""
    own: float
    """Processor time of this process's threads, and of its children that have ended."""
    busy: float | None
    """Busy and stolen time of all processors that this process may use; None where that is not known."""
    cores: int
    """Number of these processors."""


def read_load(stat: Path = STAT) -> Reading:
    """Read the processor times up to now.

    Args:
        stat: file in place of /proc/stat, for tests.
    """
    times = os.times()
    own = time.process_time() + times.children_user + times.children_system
    busy, cores = _busy_seconds(stat)
    return Reading(time.perf_counter(), own, busy, cores)


def cores_of_others(before: Reading, after: Reading) -> float | None:
    """Return how many processors others kept busy between two readings; None where that is not known.

    Accurate to some hundredths of a second in all: /proc/stat counts ticks of a hundredth. Some sandboxes
    show a /proc/stat that stands still: this process's own time is missing in it.
    """
    wall, own = after.wall - before.wall, after.own - before.own
    if before.busy is None or after.busy is None or wall <= 0:
        return None
    busy = after.busy - before.busy
    return None if busy < own / 2 - MAX_ERROR * after.cores else max(0.0, busy - own) / wall


def is_quiet(since: Reading | None = None) -> bool:
    """Return True if other work keeps less than MAX_OTHERS processors busy; False where that is not known.

    Args:
        since: the beginning of the time that counts; None: now, and it takes LOOK_SECONDS.
    """
    if since is None:
        since = read_load()
        time.sleep(LOOK_SECONDS)
    others = cores_of_others(since, read_load())
    return others is not None and others < MAX_OTHERS


def _busy_seconds(stat: Path) -> tuple[float | None, int]:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        lines = stat.read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return None, os.cpu_count() or 1
    ticks, cores = 0, 0
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable:
            ticks, cores = ticks + sum(int(numbers[at]) for at in _BUSY if at < len(numbers)), cores + 1
    return (ticks / os.sysconf("SC_CLK_TCK"), cores) if cores else (None, len(usable) or 1)
