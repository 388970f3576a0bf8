"""What the package's long jobs report to: a line of text now and then, and a bar that moves.

The jobs know only these two shapes; a command gives them stderr and tqdm, a test or a library
caller nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, Self


class Bar(Protocol):
    """A progress bar under way."""

    def update(self, amount: int) -> object:
        """Move on by `amount` units."""

    def set_postfix_str(self, text: str) -> object:
        """Show `text` behind the bar."""


class Reporter(Protocol):
    """Where a job tells a person what it does."""

    def say(self, message: str) -> None:
        """One line, for the person who started the job."""

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """A bar over `total` units (None: unknown); units "B" and "token" are shown in k and M."""


class SilentReporter:
    """A Reporter that tells nobody."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """A bar that is not shown."""
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
