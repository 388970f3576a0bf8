"""Ctrl-C, SIGTERM and a closed terminal as wishes that are honoured at the end of a step, not within one."""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Self


class StopSignals:
    """While entered, the first SIGINT, SIGTERM or SIGHUP is only remembered; a second one ends the process.

    At once, whatever it is doing: files are committed so that this does no harm, and a KeyboardInterrupt
    within a library may come out of it as something else.

    SIGHUP, which comes when a terminal is closed, stays ignored where it is (`nohup`). Outside the main
    thread, where Python delivers no signals, nothing is remembered.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _wishes():
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        self._previous.clear()

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells count; 0 where none came."""
        return 128 + self.received if self.received else 0

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        self._restore()
        end_at_interrupts()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def end_at_interrupts() -> None:
    """For a program that is about to end: from now on Ctrl-C need not wait for Python to heed it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt as ever; the list tells that it did, whatever has become of that."""
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


def _wishes() -> list[int]:
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    # Windows has none.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
