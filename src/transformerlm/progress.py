"""Reporter: the protocol through which long jobs show messages and progress bars; times in words.

Jobs know only the protocol. A command passes `transformerlm.cli.terminal.Terminal`; without a reporter, a
caller from Python gets no output (`SilentReporter`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, Self


class Bar(Protocol):
    """A progress bar."""

    def update(self, amount: int) -> object:
        """Advance by `amount` units."""

    def set_postfix_str(self, text: str) -> object:
        """Show `text` behind the bar."""


class Reporter(Protocol):
    """Receives the messages and the progress of a job."""

    def say(self, message: str) -> None:
        """Show one line."""

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """Return a bar over `total` units (None: unknown); units "B" and "token" are shown in k and M."""


class SilentReporter:
    """Reporter without output."""

    def say(self, message: str) -> None:
        """Ignore `message`."""

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """Return a bar that is not shown."""
        return _NoBar()


class _NoBar:
    def update(self, amount: int) -> None:
        pass

    def set_postfix_str(self, text: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def duration(seconds: float) -> str:
    """Format seconds for a person: `4s`, `12m05s`, `1h30m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number and a word: `1 cluster`, `2 clusters`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def readable(num_bytes: float) -> str:
    """Format bytes with three digits and a unit: `7.44 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
