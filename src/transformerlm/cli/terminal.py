"""Terminal: the Reporter of the commands; messages and progress bars go to stderr, stdout is for data."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from transformerlm.logging import say
from transformerlm.progress import Bar


class Terminal:
    """Reporter that writes messages to stderr and, if that is a terminal, draws bars with tqdm."""

    def say(self, message: str) -> None:
        """Write one line, above any bar that is being drawn."""
        say(message)

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """Return a tqdm bar; on a pipe or in a log file none is drawn."""
        from tqdm import tqdm

        return tqdm(
            total=total,
            unit=unit,
            desc=description,
            unit_scale=unit in ("B", "token"),
            dynamic_ncols=True,
            disable=None,
            file=sys.stderr,
        )
