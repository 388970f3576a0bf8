"""Terminal: the Reporter of the commands; messages and progress bars go to stderr, stdout is for data."""

from __future__ import annotations

import os
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
        """Return a tqdm bar; on a pipe, in a log file or on a dumb terminal none is drawn."""
        from tqdm import tqdm

        is_dumb = os.environ.get("TERM") == "dumb"  # it cannot overwrite a line

        return tqdm(
            total=total,
            unit=unit,
            desc=description,
            unit_scale=unit in ("B", "token"),
            dynamic_ncols=True,
            disable=is_dumb or None,
            file=sys.stderr,
        )
