"""Waiting of PyTorch's CPU threads: how often a thread polls for work before it sleeps.

GNU's OpenMP, which PyTorch includes on Linux, reads GOMP_SPINCOUNT once, when PyTorch is imported. Beside
other work a thread must sleep soon: the one that it waits for may itself be waiting for its processor. On a
quiet machine polling saves the time of waking, which is long on virtual machines. OpenMP has a second, small
number of polls for the time in which it has more threads than there are processors (gomp/wait.h; GNU libgomp
manual, GOMP_SPINCOUNT), so that one number need not serve both: see `SleepSoon`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable

from transformerlm.kernels.measured import measured_once
from transformerlm.kernels.spin_probe import SPINS, Polls, measured_spins, openmp_path
from transformerlm.limits import available_cores

CHOICES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
"""Environment variables with which a user decides."""
MAX_LOSS_SECONDS = 5e-6
"""Time per piece of shared work that fewer polls may cost: some per cent of a usual piece."""

Measure = Callable[[int], dict[Polls, float] | None]
"""Function from a number of threads to the seconds per piece of shared work for each number of polls; None if
the machine was not quiet, or has no GNU OpenMP."""


def sleep_soon() -> None:
    """Make waiting threads sleep soon. Call it before PyTorch is imported; the user's own settings take
    precedence.

    By default GNU's OpenMP polls for milliseconds (benchmarking/README.md).
    """
    if not CHOICES & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS[0]


def wait_as_measured(measure: Measure = measured_spins) -> None:
    """Make waiting threads poll as long as pays on this machine while it is quiet; see `sleep_soon`.

    For a process that uses `SleepSoon` beside other work. It is measured once, in less than a second, if the
    machine is quiet, and kept. Nothing changes once PyTorch is imported.
    """
    if not CHOICES & os.environ.keys() and "torch" not in sys.modules:
        os.environ["GOMP_SPINCOUNT"] = best_spins(measure)


def best_spins(measure: Measure = measured_spins) -> Polls:
    """Return how many polls pay on this machine while it is quiet: the fewest that lose nothing."""
    num_threads = available_cores()
    if num_threads == 1 or openmp_path() is None:
        return SPINS[0]
    seconds = measured_once({"work": "waiting"}, SPINS, lambda: measure(num_threads))
    if seconds is None:
        return SPINS[0]
    best = min(seconds.values())
    return next(polls for polls in SPINS if seconds[polls] <= best + MAX_LOSS_SECONDS)


class SleepSoon:
    """Switch between the polls of GOMP_SPINCOUNT and the few for a machine that has other work too.

    OpenMP polls a hundred times while it has more threads than processors. So, to make waiting threads sleep
    soon, another thread starts a team as large as the machine, which then only sleeps; when that thread ends,
    its team does too. No result changes by it. Does nothing where OpenMP is not GNU's, or OMP_WAIT_POLICY is
    set.
    """

    def __init__(self) -> None:
        self._end: threading.Event | None = None

    @property
    def is_on(self) -> bool:
        """True while waiting threads sleep soon."""
        return self._end is not None

    def turn_on(self) -> None:
        """Let waiting threads sleep soon."""
        start = _start_of_openmp()
        if self.is_on or start is None or "OMP_WAIT_POLICY" in os.environ:
            return
        self._end, started = threading.Event(), threading.Event()
        arguments = start, available_cores() + 1, started, self._end
        threading.Thread(target=_hold_team, args=arguments, daemon=True, name="sleep-soon").start()
        started.wait()

    def turn_off(self) -> None:
        """Let waiting threads poll GOMP_SPINCOUNT times again."""
        if self._end is not None:
            self._end.set()
            self._end = None


def _hold_team(
    start: Callable[[int], None], num_threads: int, started: threading.Event, end: threading.Event
) -> None:
    start(num_threads)
    started.set()
    end.wait()


def _start_of_openmp() -> Callable[[int], None] | None:
    """Return a function that starts a team of the calling thread, which does nothing; None without GNU's."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        parallel, nothing = library.GOMP_parallel, library.omp_get_thread_num
    except AttributeError:
        return None
    function = ctypes.cast(nothing, ctypes.c_void_p)
    return lambda num_threads: parallel(function, None, ctypes.c_uint(num_threads), ctypes.c_uint(0))
