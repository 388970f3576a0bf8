"""The console logger: one JSON object per line on stdout, and nothing else there.

    transformerlm-train --config configs/train.toml | jq -r '."metrics.loss"'

The config is not printed (`--print-config` does that), artifacts are ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from transformerlm.logging.base import NullLogger, Value
from transformerlm.logging.jsonl import to_line
from transformerlm.logging.terminal import silence, warn, write

SIGNIFICANT_DIGITS = 6
"""Digits of a float on the console; metrics.jsonl keeps all."""


class ConsoleLogger(NullLogger):
    """Logger that writes records as JSON lines to `stream` (None: stdout), each flushed at once.

    If the reader goes away (`| head -1`), the logger falls silent and the program continues.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = sys.stdout if stream is None else stream

    def log(self, values: Mapping[str, Value], step: int | None = None) -> None:
        """Print a record."""
        self.print(to_line(values, step, SIGNIFICANT_DIGITS) + "\n")

    def print(self, text: str) -> None:
        """Write text and flush it."""
        # stdout is None in a process that was started without one (`>&-`).
        if self._stream is None or self._stream.closed:
            return
        try:
            write(self._stream, text)
        except OSError as error:
            self._fall_silent(self._stream, error)

    def _fall_silent(self, stream: TextIO, error: OSError) -> None:
        silence(stream)
        self._stream = None
        if not isinstance(error, BrokenPipeError):
            warn(f"metrics can no longer be printed ({error.strerror}); the program goes on")
