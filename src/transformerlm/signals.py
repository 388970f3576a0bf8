"""Ctrl-C, SIGTERM and a closed terminal as wishes that are honoured at the end of a step, not within one."""

from __future__ import annotations

import signal
import threading
import types
from typing import Self


class StopSignals:
    """While entered, the first SIGINT, SIGTERM or SIGHUP is only remembered; a second one acts at once.

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

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells count; 0 where none came."""
        return 128 + self.received if self.received else 0

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _wishes() -> list[int]:
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    # Windows has none.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
