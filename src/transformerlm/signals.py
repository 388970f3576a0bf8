"""Stop signals: Ctrl-C, SIGTERM, a closed terminal and warnings of schedulers, acted on between two steps."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals of people and programs that want the process to end."""
WARNINGS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Signals that schedulers (Slurm, Grid Engine, LSF, OAR), and limits on processor time, send some time before
they end the process."""


class StopSignals:
    """Handler that remembers the first signal of STOPS or WARNINGS; a second of STOPS ends the process.

    Ending it at any moment does no harm, since files are committed atomically; raising KeyboardInterrupt
    would be less certain, since a library may turn it into another exception. Warnings may be repeated
    (SIGXCPU comes every second): they never end the process, and do not count as the first of STOPS.

    SIGHUP, which is sent when a terminal is closed, stays ignored if it is already (`nohup`). A warning is
    handled only where it would end the process: not if the host program has a handler for it. Outside the
    main thread, where Python delivers no signals, nothing is handled.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _handled():
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore(self._previous)
        self._previous.clear()

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal, as in shells; 0 if none was received."""
        return 128 + self.received if self.received else 0

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = self.received or number
        if number not in numbers(WARNINGS):
            self._restore(numbers(STOPS))
            end_at_interrupts()

    def _restore(self, some: Iterable[int]) -> None:
        for number in some:
            if number in self._previous:
                signal.signal(number, self._previous[number])


def numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of those of these signals that the system has (Windows has few)."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@contextlib.contextmanager
def warnings_ignored() -> Iterator[None]:
    """Context manager for the last moments of a process: ignores WARNINGS, where they would end it."""
    some = _unhandled_warnings() if threading.current_thread() is threading.main_thread() else []
    for number in some:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number in some:
            signal.signal(number, signal.SIG_DFL)


def end_at_interrupts() -> None:
    """Restore the default action of Ctrl-C, for a process that is about to end: it then works at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Yield a list that gets an item on each Ctrl-C, which raises KeyboardInterrupt as usual.

    With it, a Ctrl-C is recognised even if a library has turned the KeyboardInterrupt into another exception.
    """
    noted: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _handled() -> list[int]:
    hangup = [number for number in numbers(["SIGHUP"]) if signal.getsignal(number) is signal.SIG_IGN]
    return [number for number in numbers(STOPS) if number not in hangup] + _unhandled_warnings()


def _unhandled_warnings() -> list[int]:
    caught = _caught()
    return [
        number
        for number in numbers(WARNINGS)
        if signal.getsignal(number) is signal.SIG_DFL and not caught >> (number - 1) & 1
    ]


def _caught() -> int:
    """Return a bit for each signal that has a handler, whatever installed it (`faulthandler` is not Python).

    0 where the system does not tell, which only Linux does.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, flags=re.MULTILINE)
    return int(found[1], 16) if found else 0
