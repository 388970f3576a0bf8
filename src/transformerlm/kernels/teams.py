"""Teams of threads that run the kernels of generation, and wait for work without occupying a processor.

PyTorch's OpenMP threads poll for milliseconds after each piece of work unless the environment says otherwise
before PyTorch is imported, which a library cannot decide for its host program. Generation needs threads some
thousand times a second, so it has its own, which poll for some tens of microseconds and then sleep
(waiting.py). The source of what they run is team.py.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import signal

import numpy as np

from transformerlm.kernels import libraries
from transformerlm.kernels.library import Array, Kernel
from transformerlm.kernels.target import FUTEX

LIBRARY = libraries.THREAD
STATE_SIZE = 7
"""Numbers in a team's state (team.py)."""


class Team:
    """Threads that run kernels together with the thread that calls `run`; one call at a time."""

    def __init__(self, num_threads: int) -> None:
        kernels, self._state = LIBRARY.kernels(), np.zeros(STATE_SIZE, np.int64)
        self._run, self._call = kernels.run.run, kernels.run.frame(state=self._state)
        self._places = kernels.run.places("kernel", "frame", "size")
        self._num_threads = num_threads
        # The threads read their frames for as long as they live.
        self._frames = [kernels.work.frame(state=self._state, thread=n) for n in range(1, num_threads)]
        self._threads: list[ctypes.c_ulong] = []
        try:
            for frame in self._frames:
                self._threads.append(_start_thread(kernels.work.address, frame))
        except OSError:
            self.stop()
            raise

    def run(self, kernel: Kernel, *values: float) -> None:
        """Run a kernel with arguments as in `Kernel.run_on_threads`."""
        frame = kernel.packed(*values)
        self._call[self._places] = kernel.address, ctypes.addressof(frame), self._num_threads
        self._run(self._call.ctypes.data)

    def stop(self) -> None:
        """End the threads that were started, and wait until they have ended."""
        self._call[self._places] = 0, 0, 1 + len(self._threads)
        self._run(self._call.ctypes.data)
        for thread in self._threads:
            ctypes.CDLL(None).pthread_join(thread, None)

    @classmethod
    def idle(cls, num_threads: int) -> Team:
        """Return a team that is not in use, or a new one."""
        _watch_process()
        try:
            return _IDLE[num_threads].pop()
        except (KeyError, IndexError):
            return cls(num_threads)


_IDLE: dict[int, list[Team]] = {}
"""Number of threads -> teams that no call uses. Taking one and putting it back are atomic in Python."""


def run_on_team(kernel: Kernel, num_threads: int, *values: float) -> None:
    """Run a kernel on `num_threads` threads; see `Kernel.run_on_threads`."""
    if num_threads == 1 or FUTEX is None:
        kernel.run_on_threads(num_threads, *values)
        return
    team = Team.idle(num_threads)
    try:
        team.run(kernel, *values)
    finally:
        _IDLE.setdefault(num_threads, []).append(team)


def _start_thread(function: int, frame: Array) -> ctypes.c_ulong:
    """Start a thread that runs a function of machine code, and gets no signals; return its handle.

    Raises:
        OSError: the system allows no more threads.
    """
    start, thread = ctypes.CDLL(None).pthread_create, ctypes.c_ulong()
    start.argtypes = [ctypes.c_void_p] * 4
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        error = start(ctypes.addressof(thread), None, function, frame.ctypes.data)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if error:
        raise OSError(error, f"{os.strerror(error)}: no thread for the kernels")
    return thread


@functools.cache
def _watch_process() -> None:
    """Forget the teams in a forked child, which has none of their threads, and end them before Python ends,
    which frees the code that they run."""
    os.register_at_fork(after_in_child=_IDLE.clear)
    atexit.register(_stop_idle)


def _stop_idle() -> None:
    for teams in _IDLE.values():
        while teams:
            teams.pop().stop()
