"""Stop signals: Ctrl-C, SIGTERM and a closed terminal are recorded, and acted on between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Self


class StopSignals:
    """Handler that remembers the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    Ending it at any moment does no harm, since files are committed atomically; raising KeyboardInterrupt
    would be less certain, since a library may turn it into another exception.

    SIGHUP, which is sent when a terminal is closed, stays ignored if it is already (`nohup`). Outside the
    main thread, where Python delivers no signals, nothing is handled.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _stop_signals():
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        self._previous.clear()

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal, as in shells; 0 if none was received."""
        return 128 + self.received if self.received else 0

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        self._restore()
        end_at_interrupts()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


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


def _stop_signals() -> list[int]:
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    # Windows has no SIGHUP.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
