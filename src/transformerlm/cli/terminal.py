"""The terminal as a Reporter: messages and progress bars on stderr, so that stdout stays data."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from transformerlm.logging import say
from transformerlm.progress import Bar


class Terminal:
    """Writes messages to stderr and draws bars with tqdm where stderr is a terminal."""

    def say(self, message: str) -> None:
        """One line, above any bar that is being drawn."""
        say(message)

    def bar(self, total: int | None, unit: str, description: str) -> AbstractContextManager[Bar]:
        """A tqdm bar; on a pipe or in a log file none is drawn."""
        from tqdm import tqdm

        # tqdm's thread that watches for slow bars would keep worker processes from being forked.
        tqdm.monitor_interval = 0
        return tqdm(
            total=total,
            unit=unit,
            desc=description,
            unit_scale=unit in ("B", "token"),
            dynamic_ncols=True,
            disable=None,
            file=sys.stderr,
        )
