"""Watch over the machine's load: waiting threads sleep soon while it has other work. Changes no result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch

from transformerlm.kernels.load import Reading, cores_of_others, read_load
from transformerlm.kernels.threads import SleepSoon
from transformerlm.runtime.load_policy import Crowding

SECONDS = 0.25
"""Time between two readings: short against a step of a large model, long against a tick of the system."""


class LoadWatch:
    """A thread that reads the load now and then while the object is entered; see `SleepSoon`.

    Other work can come within a step that would then take twenty times as long: a thread of its own sees it.
    Where PyTorch computes on one thread, none waits, and nothing is watched.
    """

    def __init__(self, read: Callable[[], Reading] = read_load) -> None:
        self._read, self._end, self._switch = read, threading.Event(), SleepSoon()
        self._newest, num_threads = read(), torch.get_num_threads()
        self._crowding, self._is_needed = Crowding(num_threads, self._newest.cores), num_threads > 1
        self._thread = threading.Thread(target=self._run, daemon=True, name="load-watch")

    def _run(self) -> None:
        while not self._end.wait(SECONDS):
            self.look()

    def look(self) -> None:
        """Read the load, and switch how threads wait if it has changed."""
        before, self._newest = self._newest, self._read()
        is_crowded = self._crowding.update(cores_of_others(before, self._newest))
        self._apply(is_crowded)

    def _apply(self, is_crowded: bool) -> None:
        if is_crowded:
            self._switch.turn_on()
        else:
            self._switch.turn_off()

    def __enter__(self) -> Self:
        if self._is_needed:
            # Until the first reading tells: sleeping soon is never far from the best, polling long may be.
            self._apply(self._crowding.is_crowded)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._is_needed:
            self._thread.join()
        self._switch.turn_off()
